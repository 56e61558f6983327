/*
 * Backends run programs: the one interface between the engine and any hardware.
 *
 * Life: open -> place every weight -> load each program -> allocate (pages, tables, history) ->
 * submit / sample / wait / read ... -> close. After allocate() a step allocates nothing.
 *
 * Tickets. submit() and sample() enqueue work and return increasing tickets; work executes and
 * completes in ticket order; at most BACKEND_IN_FLIGHT steps may be outstanding (a step counts with
 * its sample step). The step buffers stay the caller's and must not change until the ticket
 * completes. A backend may finish before it returns (the CPU ones may); callers must not rely on
 * either. A device error fails that ticket and all later ones with STATUS_DEVICE.
 *
 * forward and sample are two submissions, because a grammar mask depends on the last token and must
 * delay only the sampling. Sampled tokens stay on the device: slices with INPUT_SAMPLED in the next
 * step read them there.
 *
 * Same answer alone or in a crowd: a row's result depends on its own history and numeric class only
 * (docs/architecture.md). Weights, pages and results live on the backend; nothing here gathers K/V.
 *
 * Thread rule: one thread (the engine's) calls everything but open/close/describe of a backend.
 * Handles are opaque; a backend owns what it returns until close().
 */
#ifndef SLUICE_BACKEND_BACKEND_H
#define SLUICE_BACKEND_BACKEND_H

#include <stdbool.h>
#include <stdint.h>

#include "backend/sample_step.h"
#include "base/status.h"
#include "base/str.h"
#include "program/layout.h"
#include "program/program.h"
#include "program/step.h"

#ifdef __cplusplus
extern "C" {
#endif

#define BACKEND_IN_FLIGHT        2
#define BACKEND_TOP_LOGPROBS_MAX 20
#define BACKEND_ABI              5 /* raised with any change a plugin can see */

struct backend;
struct op_observer;
struct placed_weight;  /* a weight in the layout this hardware likes */
struct loaded_program; /* a program with chosen kernels and planned memory */

/* Whether submit() may return before the step is computed. */
enum backend_ahead {
    BACKEND_AHEAD_AUTO, /* the backend's choice */
    BACKEND_AHEAD_ALWAYS,
    BACKEND_AHEAD_NEVER,
};

struct backend_config {
    uint32_t n_threads; /* 0: one per usable core */
    int32_t device;     /* index among the devices of this kind */
    bool exact;         /* float32 activations, accumulation and K/V */
    bool batch_invariant;
    enum backend_ahead ahead; /* accelerators always compute by themselves */
    /* Folder in which weights stay packed from one start to the next, read during open() only, and
     * bytes of all its files (0: 32 GiB); NULL: none. Backends that pack nothing on the host ignore it. */
    const char *packed_cache;
    uint64_t packed_cache_bytes;
};

/* What a device offers, for placement and page pool sizing. */
struct backend_info {
    char description[128];              /* "NVIDIA H200", "2 threads, AVX-512" */
    uint64_t memory_total, memory_free; /* bytes the pool may come from */
    enum tensor_type kv_type;           /* preferred K/V element type in the configured mode */
    /* submit() returns before the step is computed: plan the next one meanwhile. */
    bool asynchronous;
    /* Prompt rows have the bits of generated ones, with the weights placed so far. */
    bool one_class;
    /* Prompt rows are computed so many at once: fewer take as long. 0: 1. */
    uint32_t prompt_rows_together;
};

enum result_kind {
    RESULT_LOGITS, /* float32 [n_vocab] per logits output */
    RESULT_HIDDEN, /* float32 [width] per output */
};

struct token_logprob {
    int32_t token;
    float logprob;
};

struct sample_result {
    int32_t token;
    int32_t failed;    /* non-zero: the row had no finite logit; token is then -1 */
    float logprob;     /* of token, under the raw logits; valid if asked for */
    float mirostat_mu; /* for the sequence's next draw; see sampling_row */
    uint32_t n_top;
    struct token_logprob top[BACKEND_TOP_LOGPROBS_MAX]; /* by falling logprob */
};

/* sample_step.c: what a draw says, as the result that backends hand out. */
struct sample_result sample_result_of(const struct sampling_draw *draw);

struct backend_api {
    uint32_t abi;     /* BACKEND_ABI */
    const char *name; /* "ref", "cpu", "cuda" */
    const char *summary;

    /* STATUS_DEVICE with a reason when the hardware or driver is absent. */
    enum status (*open)(const struct backend_config *config, struct backend **out,
                        struct error *err);
    void (*close)(struct backend *backend); /* waits for work in flight; NULL allowed */
    void (*info)(struct backend *backend, struct backend_info *out);

    /* Packs or copies one weight, or keeps a view of the mapped bytes (which then must outlive the
     * backend). Calls for different weights may be interleaved with nothing else. */
    enum status (*place)(struct backend *backend, const struct program *program, uint32_t weight,
                         struct placed_weight **out, struct error *err);
    /* placed: one per weight of the program, in order. program and placed outlive the result. */
    enum status (*load)(struct backend *backend, const struct program *program,
                        struct placed_weight *const *placed, const struct step_limits *limits,
                        struct loaded_program **out, struct error *err);
    /* Page pool and tables of this geometry (n_pages set), token history of history_capacity
     * positions a slot, room for sample steps of these limits. Once, after all programs loaded. */
    enum status (*allocate)(struct backend *backend, const struct layout *layout,
                            uint32_t history_capacity, const struct sample_limits *sampling,
                            struct error *err);

    enum status (*submit)(struct backend *backend, struct loaded_program *program,
                          const struct step *step, uint64_t *ticket, struct error *err);
    /* Draws from the logits of the last submitted step. */
    enum status (*sample)(struct backend *backend, struct loaded_program *program,
                          const struct sample_step *step, uint64_t *ticket, struct error *err);
    /* Blocks until the ticket has completed; returns its error if it failed. */
    enum status (*wait)(struct backend *backend, uint64_t ticket, struct error *err);

    /* Results of a completed ticket; valid until BACKEND_IN_FLIGHT further steps are submitted.
     * out: [n, n_vocab] or [n, width]. */
    enum status (*read_rows)(struct backend *backend, struct loaded_program *program,
                             enum result_kind kind, uint64_t ticket, uint32_t first, uint32_t n,
                             float *out, struct error *err);
    /* [n] results of a completed sample ticket. */
    enum status (*read_samples)(struct backend *backend, uint64_t ticket, uint32_t n,
                                struct sample_result *out, struct error *err);
    /* Bytes of weights that the step of a completed submit() ticket had no need to read: experts that
     * no row chose. Valid as long as its results. NULL: cannot tell. */
    uint64_t (*unread_bytes)(struct backend *backend, struct loaded_program *program,
                             uint64_t ticket);
    /* Whole pages to and from host memory (swap, migration, tests). Ordered after all tickets. */
    enum status (*read_page)(struct backend *backend, uint32_t page, void *bytes,
                             struct error *err);
    enum status (*write_page)(struct backend *backend, uint32_t page, const void *bytes,
                              struct error *err);

    /* Name of the kernel chosen for an operation, appended to out. */
    void (*describe)(struct backend *backend, struct loaded_program *program, uint32_t op,
                     struct buf *out);

    /* Appends lines "what  kernel": which kernels serve which element types on this machine, for
     * `sluice hardware`. Needs no open backend. NULL: not told. */
    void (*describe_kernels)(struct buf *out);
    /* Time per operation. on: keeps it from now, starting at 0; off: stops. ns (may be NULL)
     * receives what each operation [n_ops] took since it was switched on, over all steps. Ordered
     * after all tickets. NULL in a backend that cannot tell. */
    enum status (*profile)(struct backend *backend, struct loaded_program *program, bool on,
                           uint64_t *ns, struct error *err);
    /* Tells the observer (which must outlive its use) of every step's rows from now on; NULL: stops.
     * Ordered after all tickets. NULL in a backend that cannot. */
    enum status (*observe)(struct backend *backend, struct loaded_program *program,
                           const struct op_observer *observer, struct error *err);
};

/* Every concrete backend starts with this. */
struct backend {
    const struct backend_api *api;
};

/* Registry (the only code that names implementations). name: "auto", "ref", "cpu", "cuda".
 * auto takes an accelerator whose plugin and driver are present, else the CPU; *why (may be NULL)
 * receives one sentence on what was chosen. An unknown name lists the known ones. */
enum status backend_find(const char *name, const struct backend_api **out, struct buf *why,
                         struct error *err);
/* The i-th backend compiled in or loadable, for listings; NULL past the end. */
const struct backend_api *backend_at(uint32_t index);

#ifdef __cplusplus
}
#endif
#endif
