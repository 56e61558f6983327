/*
 * What op_cases and the identity test are made of: random programs, scripted sequences, and a runner
 * that plays a script on any backend and keeps every row's result.
 *
 * A script says which positions of which sequences run in which step; the runner lays out pages (in
 * shuffled order), table writes and state slots for the backend's own geometry, so one script runs
 * with any K/V type. The content of a position depends on (sequence, position) only, never on slot,
 * chunking or company: results of different scripts can be compared position by position.
 * Plain C; failures are returned as values.
 */
#ifndef SLUICE_TESTS_OP_KIT_H
#define SLUICE_TESTS_OP_KIT_H

#include <stdbool.h>
#include <stdint.h>

#include "backend/backend.h"
#include "base/arena.h"

#define KIT_SLICES_MAX 2048
#define KIT_SLOTS_MAX  40

/* ---- random programs -------------------------------------------------------------------------- */

struct kit {
    struct arena arena; /* owns weight bytes */
    uint64_t random;    /* state of the generator */
    struct program *program;
    uint32_t width; /* of the rows that enter */
    bool failed;    /* out of memory, or program_finish() failed (then error says why) */
    struct error error;
};

/* A program with n_vocab tokens of `width` columns; kit_free() releases program and weights. */
void kit_init(struct kit *kit, uint64_t seed, uint32_t n_vocab);
void kit_free(struct kit *kit);

uint64_t kit_random(struct kit *kit);
float kit_uniform(struct kit *kit); /* [-1, 1) */

/* Random values of about `size`, stored as `type` (any type that quant/ decodes). */
int32_t kit_matrix(struct kit *kit, const char *name, enum tensor_type type, uint32_t count,
                   uint32_t n_rows, uint32_t n_cols, float size);
int32_t kit_table(struct kit *kit, enum tensor_type type, uint32_t width);
/* Values around `middle`. */
int32_t kit_vector(struct kit *kit, const char *name, enum tensor_type type, uint32_t n,
                   float middle, float size);
/* Rope frequencies base^(-i / n), n of them. */
int32_t kit_freqs(struct kit *kit, uint32_t n, float base);

struct view kit_buffer(struct kit *kit, const char *name, uint32_t width);
/* Emits OP_EMBED from a fresh random F32 table; returns the rows. */
struct view kit_embed(struct kit *kit, uint32_t width);
/* Embedded rows that turn and attend to each other, by one layer of these heads; returns what comes out. */
struct kit_heads {
    uint32_t n, kv, dim;
    uint32_t window; /* 0: none */
    float scale;
};
struct view kit_attention(struct kit *kit, const struct kit_heads *heads);
/* Emits OP_SELECT of `rows` into the hidden output. */
struct view kit_select(struct kit *kit, struct view rows);
/* program_finish(). */
bool kit_finish(struct kit *kit);

/* ---- scripts ---------------------------------------------------------------------------------- */

struct script_slice {
    uint32_t step; /* slices are listed in step order */
    uint32_t sequence;
    uint32_t slot;
    uint32_t first, n; /* positions */
    uint8_t input;     /* enum slice_input; INPUT_SAMPLED is not scripted */
    uint8_t mask;
    uint8_t numeric_class;
};

struct script {
    struct script_slice slices[KIT_SLICES_MAX];
    uint32_t n_slices;
    uint32_t target_tokens; /* asked of a page */
    uint64_t seed;          /* content and page order */
};

void script_init(struct script *script, uint64_t seed, uint32_t target_tokens);
/* A token slice under the causal mask. */
void script_add(struct script *script, uint32_t step, uint32_t sequence, uint32_t slot,
                uint32_t first, uint32_t n);
struct script_slice *script_last(struct script *script);
int32_t script_token(const struct script *script, uint32_t sequence, uint32_t position,
                     uint32_t n_vocab);

/* ---- running ---------------------------------------------------------------------------------- */

struct run_row {
    uint32_t sequence, position;
    float *hidden; /* [width of the hidden output] */
    float *logits; /* [n_vocab], or NULL where none were asked for */
};

struct run_result {
    struct arena arena;
    struct run_row *rows; /* in the order of the script */
    uint32_t n_rows;
    uint32_t hidden_width, n_vocab;
    char kernels[256]; /* describe() of the program's operations, separated by "; " */
};

/* Opens the backend, plays the script, closes it. Every row is an output; where the program has
 * logits, rows whose position is not 1 modulo 3 want them. run_result_free() also after an error. */
enum status kit_run(const struct kit *kit, const struct script *script,
                    const struct backend_api *api, const struct backend_config *config,
                    enum tensor_type kv_type, struct run_result *out, struct error *err);
void run_result_free(struct run_result *result);

#endif
