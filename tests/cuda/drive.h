/*
 * Driving a backend by hand: a program on a backend, a few sequences in slots, and steps built slice
 * by slice. What the engine does, without its scheduling: a test says exactly what shares a step.
 *
 * Every slot owns fixed pages, scattered backwards over the pool. Steps and sample steps alternate
 * between two buffers, so two may be in flight. One thread.
 */
#ifndef SLUICE_TESTS_CUDA_DRIVE_H
#define SLUICE_TESTS_CUDA_DRIVE_H

#include <stdbool.h>
#include <stdint.h>

#include "backend/backend.h"

#define DRIVE_SLOTS   16
#define DRIVE_BIASES  256
#define DRIVE_MASKS   16
#define DRIVE_HISTORY 2048

struct drive {
    const struct backend_api *api;
    const struct program *program; /* borrowed */
    struct backend *backend;
    struct loaded_program *loaded;
    struct placed_weight **placed;
    struct layout layout;
    struct step_limits limits;
    struct sample_limits sampling;
    void *memory[4];           /* two steps, two sample steps */
    struct step *step;         /* being built */
    struct sample_step *draws; /* being built */
    uint64_t n_steps, n_draws;
    bool mapped[DRIVE_SLOTS];   /* its table rows were written */
    uint8_t state[DRIVE_SLOTS]; /* state slot that holds the current state */
    bool moved[DRIVE_SLOTS];    /* has a slice in the step being built */
};

struct drive_config {
    const struct backend_api *api;
    struct backend_config backend;
    enum tensor_type kv_type; /* TENSOR_TYPE_END: what the backend prefers */
    uint32_t max_rows, max_context;
};

/* drive_close() also after an error. */
enum status drive_open(struct drive *drive, const struct drive_config *config,
                       const struct program *program, struct error *err);
void drive_close(struct drive *drive);

/* Starts the next step. */
void drive_begin(struct drive *drive);
/* Adds a slice; tokens NULL: drawn tokens of the last sample step from row `sampled` on. Outputs of
 * all its rows with logits (all), or of the last one only. */
enum status drive_add(struct drive *drive, uint32_t slot, uint32_t first, uint32_t n,
                      const int32_t *tokens, uint32_t sampled, bool all, struct error *err);
enum status drive_submit(struct drive *drive, uint64_t *ticket, struct error *err);
/* Waits, then reads n rows of logits. */
enum status drive_logits(struct drive *drive, uint64_t ticket, uint32_t first, uint32_t n,
                         float *out, struct error *err);

/* Starts the next sample step. Rows are added to drive->draws. */
void drive_begin_draws(struct drive *drive);
enum status drive_draw(struct drive *drive, uint64_t *ticket, struct error *err);

/* One sequence alone in slot 0, from its start, in chunks of chunks[0], chunks[1], ... rows (the
 * last one repeats); out: [n, n_vocab]. */
enum status drive_alone(struct drive *drive, const int32_t *tokens, uint32_t n,
                        const uint32_t *chunks, uint32_t n_chunks, float *out, struct error *err);

#endif
