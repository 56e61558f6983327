/*
 * Inside the CUDA backend: its state on the host.
 *
 * Tickets are events on one stream, kept in a ring of CUDA_TICKETS: a ticket that leaves the ring is
 * known to be complete. The first CUDA error is kept; from its ticket on everything fails with it,
 * since the CUDA context does not recover from most of them.
 *
 * Staging. A step is copied by the caller's thread into pinned memory and from there by the stream,
 * so that submit() returns at once. There are BACKEND_IN_FLIGHT staging areas; one is reused only
 * after the ticket that used it completed.
 */
#ifndef SLUICE_BACKEND_CUDA_INTERNAL_H
#define SLUICE_BACKEND_CUDA_INTERNAL_H

#include "backend/cuda/cuda.h"
#include "backend/cuda/device.h"

#define CUDA_TICKETS 16
#define CUDA_BANKS   BACKEND_IN_FLIGHT

struct placed_weight {
    struct device_weight device; /* data: owned device memory */
    struct placed_weight *next;
};

/* Pinned host memory that the stream copies from; free once `ticket` completed. */
struct staging {
    void *bytes; /* owned */
    uint64_t ticket;
};

/* The ROWS_OUTPUT buffers of one step; two sets, so that a step's results outlive the next. */
struct result_bank {
    uint64_t ticket; /* 0: never used */
    uint32_t n_outputs, n_logits;
    float *words; /* owned device memory, [output_row_words * max_outputs] */
};

struct loaded_program {
    const struct program *program;
    struct device_weight *weights; /* owned, one per weight of the program */
    struct step_limits limits;
    struct staging staging[BACKEND_IN_FLIGHT];
    struct step *step; /* owned device memory: every step of the program lies here */
    float *step_words; /* owned device memory, [step_row_words * max_rows] */
    struct result_bank banks[CUDA_BANKS];
    uint64_t n_steps;
    struct loaded_program *next;
};

/* Draws of one sample step. */
struct sample_bank {
    uint64_t ticket; /* 0: never used */
    uint32_t n;
    struct sample_result *device; /* owned device memory, [max_rows] */
    struct sample_result *host;   /* owned pinned copy, filled by the time the ticket completes */
};

struct cuda_sampler {
    struct sample_limits limits;
    size_t step_bytes;
    struct staging staging[BACKEND_IN_FLIGHT];
    struct sample_step *step; /* owned device memory */
    struct sample_bank banks[CUDA_BANKS];
    uint8_t *scratch; /* owned device memory, [n_scratch][n_vocab * 8] */
    uint32_t n_scratch;
    uint64_t n_steps;
};

struct cuda_backend {
    struct backend base; /* first: the handle */
    struct backend_config config;
    struct cudaDeviceProp properties;
    cudaStream_t stream;   /* all work, in ticket order */
    cudaStream_t transfer; /* results and pages, without waiting for later tickets */
    cudaEvent_t events[CUDA_TICKETS];
    uint64_t last_ticket, completed;
    uint64_t failed_from; /* 0: nothing failed; else this ticket and all later ones did */
    char failure[ERROR_MESSAGE_MAX];
    struct placed_weight *weights;
    struct loaded_program *programs, *last_program; /* last_program: of the last step */
    struct staging upload;                          /* for place(); until allocate() */
    bool allocated;
    struct layout layout;
    uint32_t *tables;                /* host copy, to check steps against */
    struct device_pool pool;         /* device addresses */
    struct device_pool *device_pool; /* the same in device memory */
    int32_t *history;                /* device, [n_slots, history_capacity] */
    uint32_t history_capacity;
    struct cuda_sampler sampler;
};

#define UPLOAD_BYTES ((size_t)8 << 20)

/* ---- cuda.c: errors, tickets, memory ------------------------------------------------------------ */

/* Makes the device current for the calling thread; fails if the backend has failed before. */
enum status cuda_enter(struct cuda_backend *backend, struct error *err);
/* STATUS_OK for cudaSuccess. Otherwise STATUS_MEMORY (out of memory while allocating) or
 * STATUS_DEVICE, saying what was tried. Does not poison the backend. */
enum status cuda_status(cudaError_t error, const char *what, struct error *err);
/* For failures of submitted work: from the next ticket on, everything fails. */
enum status cuda_fail(struct cuda_backend *backend, uint64_t ticket, cudaError_t error,
                      const char *what, struct error *err);
/* Ends a submission: records the event of a new ticket. */
enum status cuda_end_ticket(struct cuda_backend *backend, uint64_t *ticket, struct error *err);
enum status cuda_wait(struct backend *base, uint64_t ticket, struct error *err);
/* Waits until a staging area may be written again. */
enum status cuda_staging_wait(struct cuda_backend *backend, struct staging *staging,
                              struct error *err);

/* Zeroed device memory, at least one byte; pinned host memory. `what` is for the message. */
enum status cuda_device_memory(struct cuda_backend *backend, uint64_t count, uint64_t size,
                               const char *what, void **out, struct error *err);
enum status cuda_pinned_memory(uint64_t bytes, const char *what, void **out, struct error *err);

/* ---- load.c ------------------------------------------------------------------------------------- */

enum status cuda_place(struct backend *base, const struct program *program, uint32_t weight,
                       struct placed_weight **out, struct error *err);
enum status cuda_load(struct backend *base, const struct program *program,
                      struct placed_weight *const *placed, const struct step_limits *limits,
                      struct loaded_program **out, struct error *err);
enum status cuda_allocate(struct backend *base, const struct layout *layout,
                          uint32_t history_capacity, const struct sample_limits *sampling,
                          struct error *err);
void cuda_describe(struct backend *base, struct loaded_program *program, uint32_t op,
                   struct buf *out);
/* Frees everything that place(), load() and allocate() made. */
void cuda_unload(struct cuda_backend *backend);

/* ---- run.c, check.c, draw.c --------------------------------------------------------------------- */

enum status cuda_submit(struct backend *base, struct loaded_program *program,
                        const struct step *step, uint64_t *ticket, struct error *err);
/* Refuses a step that would make a kernel leave its buffers or pages; applies its table writes to
 * the host's copy. */
enum status cuda_check_step(struct cuda_backend *backend, const struct loaded_program *program,
                            const struct step *step, struct error *err);
enum status cuda_sample(struct backend *base, struct loaded_program *program,
                        const struct sample_step *step, uint64_t *ticket, struct error *err);
enum status cuda_read_samples(struct backend *base, uint64_t ticket, uint32_t n,
                              struct sample_result *out, struct error *err);
enum status cuda_check_draws(const struct cuda_backend *backend,
                             const struct loaded_program *program, const struct sample_step *step,
                             uint32_t n_logits, struct error *err);
/* The draws that INPUT_SAMPLED refers to; NULL before the first. */
const struct sample_bank *cuda_last_draws(const struct cuda_backend *backend);

#endif
