/*
 * Inside the reference backend: its state, and one function per operation.
 */
#ifndef SLUICE_BACKEND_REF_INTERNAL_H
#define SLUICE_BACKEND_REF_INTERNAL_H

#include "backend/ref/ref.h"

struct placed_weight {
    const struct weight *weight; /* the program's */
    const struct tensor_type_info *type;
    uint64_t row_bytes;
    struct placed_weight *next; /* all of the backend's */
};

/* Results of one step, kept while BACKEND_IN_FLIGHT further steps are submitted. */
struct ref_results {
    uint64_t ticket;
    uint32_t n_outputs, n_logits;
    float *hidden; /* [max_outputs, width] */
    float *logits; /* [max_outputs, n_vocab] */
};

#define REF_RESULTS (BACKEND_IN_FLIGHT + 1)

struct loaded_program {
    const struct program *program;
    struct placed_weight *const *placed;
    struct step_limits limits;
    float *step_words;   /* [step_row_words * max_rows] */
    float *output_words; /* [output_row_words * max_outputs] */
    float *row;          /* scratch: weight rows, and the scores of the longest context */
    struct ref_results results[REF_RESULTS];
    uint64_t n_steps;
    const struct op_observer *observer; /* NULL: nobody watches */
    struct loaded_program *next;
};

struct ref_backend {
    struct backend base; /* first: the handle */
    struct backend_config config;
    struct placed_weight *weights;
    struct loaded_program *programs;
    struct layout layout;
    uint8_t *pages;   /* [n_pages, page_bytes] */
    uint32_t *tables; /* [n_slots, slot_pages] */
    int32_t *history; /* [n_slots, history_capacity] */
    uint32_t history_capacity;
    uint32_t max_positions; /* of a sequence, by the page tables */
    struct sample_limits sampling;
    void *sample_scratch;
    struct sample_result *samples; /* [BACKEND_IN_FLIGHT + 1][max_rows] */
    uint64_t sample_tickets[REF_RESULTS];
    uint64_t n_sample_steps;
    uint64_t last_ticket;
};

/* One forward pass in progress. */
struct ref_run {
    struct ref_backend *backend;
    struct loaded_program *program;
    const struct step *step;
};

/* First word of `row` in a view. */
float *ref_row(const struct ref_run *run, struct view view, uint32_t row);
/* Rows an operation works on: those of the step, or its outputs. */
uint32_t ref_rows(const struct ref_run *run, struct view view);
/* Decodes one row of matrix `part` of a weight. */
void ref_weight_row(const struct ref_run *run, int32_t weight, uint32_t part, uint32_t row,
                    float *out);
/* out[n_cols]: a vector or constant. */
void ref_vector(const struct ref_run *run, int32_t weight, float *out);
float ref_activate(enum activation act, float x);
/* act(gate) * up, or what ACT_CLAMPED_SWIGLU makes of both. */
float ref_gate(enum activation act, float gate, float up);
/* Page that holds position p of a slot in a K/V group. */
uint8_t *ref_page(const struct ref_run *run, uint32_t slot, uint32_t group, uint32_t index);
int32_t ref_row_token(const struct ref_run *run, uint32_t row);

void ref_embed(const struct ref_run *run, const struct op_embed *op);
void ref_position(const struct ref_run *run, const struct op_position *op);
void ref_norm(const struct ref_run *run, const struct op_norm *op);
void ref_linear(const struct ref_run *run, const struct op_linear *op);
void ref_rope_kv(const struct ref_run *run, const struct op_rope_kv *op);
void ref_attention(const struct ref_run *run, const struct op_attention *op);
void ref_gated(const struct ref_run *run, const struct op_gated *op);
void ref_route(const struct ref_run *run, const struct op_route *op);
void ref_experts(const struct ref_run *run, const struct op_experts *op);
void ref_conv(const struct ref_run *run, const struct op_conv *op);
void ref_ssm(const struct ref_run *run, const struct op_ssm *op);
void ref_delta(const struct ref_run *run, const struct op_delta *op);
void ref_heads(const struct ref_run *run, const struct op_heads *op);
void ref_activation(const struct ref_run *run, const struct op_activate *op);
void ref_mix(const struct ref_run *run, const struct op_mix *op);
void ref_match(const struct ref_run *run, const struct op_match *op);
void ref_add(const struct ref_run *run, const struct op_add *op);
void ref_mul(const struct ref_run *run, const struct op_mul *op);
void ref_select(const struct ref_run *run, const struct op_select *op);
void ref_logits(const struct ref_run *run, const struct op_logits *op);

#endif
