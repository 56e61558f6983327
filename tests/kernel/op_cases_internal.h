/*
 * What the files of op_cases share: the runner that counts, the scripts, and one case on two backends.
 * Internal to tests/kernel.
 */
#ifndef SLUICE_TESTS_OP_CASES_INTERNAL_H
#define SLUICE_TESTS_OP_CASES_INTERNAL_H

#include "op_cases.h"
#include "op_kit.h"

#define VOCABULARY 97

struct runner {
    const struct op_cases_config *config;
    struct op_cases_result total, op;
    const char *op_name;
    double op_error,
        op_share; /* largest row error of the operation, as it is and by its tolerance */
    uint64_t seed;
};

struct expected {
    double steps, reads;
    uint32_t longest_sum;
};

/* Cases between these two count for the operation `name`. */
void begin_op(struct runner *r, const char *name);
void end_op(struct runner *r);
/* kit_init() with a seed of its own. */
void start(struct runner *r, struct kit *kit);
/* n rows of one sequence at once: for operations that do not look along it. */
struct script rows_script(struct runner *r, uint32_t n);
/* Prompts cut at odd places, decoding together, two slices of one sequence in a step, a slot that is
 * taken over by another sequence. */
struct script mixed_script(struct runner *r, uint32_t page_tokens);
/* Smallest multiple of the type's block that is at least n. */
uint32_t whole_blocks(enum tensor_type type, uint32_t n);
/* Runs a finished kit on both backends; frees it. */
void run_case(struct runner *r, struct kit *kit, const struct script *script,
              struct expected expected, const char *name);

/* Types that models have, and the rest of what quant/ decodes, which gets fewer shapes. */
#define N_WEIGHT_TYPES 7
#define N_RARE_TYPES   24
extern const enum tensor_type weight_types[N_WEIGHT_TYPES];
extern const enum tensor_type rare_types[N_RARE_TYPES];

/* op_cases_rows.c */
void embed_cases(struct runner *r);
void norm_cases(struct runner *r);
void pair_cases(struct runner *r);
void row_cases(struct runner *r);
void linear_cases(struct runner *r);
void gated_cases(struct runner *r);
void logits_cases(struct runner *r);
/* op_cases_experts.c */
void moe_cases(struct runner *r);
void route_tie_case(struct runner *r);
/* op_cases_sequence.c */
void sequence_cases(struct runner *r);
void conv_cases(struct runner *r);
void model_cases(struct runner *r);
/* op_cases_recurrent.c: recurrences, matrices of heads, latent attention, narrow factors. */
void op_cases_recurrent(struct runner *r);

#endif
