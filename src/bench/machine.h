/*
 * A model on a backend, ready to be stepped by hand. Private to bench.
 *
 * Every slot has room for its whole context from the start: all table entries are written once, by
 * the first step, and all pages are filled with random keys and values, so that a sequence can
 * generate at any position without a prompt before it. Steps are alike each time: the generated row
 * stands always at the same position and overwrites what it appended before.
 */
#ifndef SLUICE_BENCH_MACHINE_H
#define SLUICE_BENCH_MACHINE_H

#include "backend/backend.h"
#include "bench/bench.h"
#include "bench/work.h"
#include "model/model.h"

struct machine {
    const struct bench_config *config;
    struct model *model;
    const struct program *program;
    const struct backend_api *api;
    struct backend *backend;
    struct placed_weight **placed;
    struct loaded_program *loaded;
    struct layout layout;
    struct step_limits limits;
    struct sample_limits sampling;
    struct step *step;
    struct sample_step *sample_step;
    uint64_t *op_ns; /* [n_ops] */
    uint32_t n_slots;
    uint64_t step_number;
    uint32_t state; /* of recurrent groups: the state slot that was written last */
    bool tables_written;
    uint64_t random;
};

/* machine_close() also after an error. */
enum status machine_open(struct machine *machine, const struct bench_config *config,
                         struct error *err);
void machine_close(struct machine *machine);

/* Rows [first, first + n) of a prompt in slot 0; its last row is an output if `last`. Returns when
 * done. */
enum status machine_prompt(struct machine *machine, uint32_t first, uint32_t n, bool last,
                           struct error *err);
/* One generated row in each of the first n slots, at position `context`, and their draws; beside them
 * as many rows of a prompt from that position on, in the last slot, none of them an output. */
enum status machine_generate(struct machine *machine, uint32_t n, uint32_t beside,
                             struct error *err);

#endif
