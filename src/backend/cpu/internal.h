/*
 * Inside the CPU backend: its state, and one function per operation.
 *
 * Every thread of the pool walks the whole list of operations and calls each function with its own
 * `struct worker`; the function does that thread's share. The walk puts a barrier after each
 * operation, so a function needs one of its own only where its threads read each other's results.
 * A share is computed from (index, count) alone: no queue, no lock, and the same split every time.
 * Products with matrices, nearly all of a step, are the exception: threads take their own shares in
 * pieces, and who is done goes on with those of others (worker_take), since on a shared machine a
 * step is otherwise as slow as the processor that is disturbed most. Who computes changes no bit.
 */
#ifndef SLUICE_BACKEND_CPU_INTERNAL_H
#define SLUICE_BACKEND_CPU_INTERNAL_H

#include <stdatomic.h>

#include "backend/cpu/cpu.h"
#include "backend/cpu/float_kernels.h"
#include "backend/cpu/kernels.h"
#include "backend/cpu/tile_attention.h"
#include "backend/observe.h"
#include "base/threads.h"

struct kept;

struct placed_weight {
    const struct weight *weight;        /* the program's */
    const struct weight_kernel *kernel; /* on the rows of the file; NULL where packed */
    uint64_t row_bytes;                 /* in the file */
    /* Packed matrices: [count] parts of whole panels. NULL otherwise. */
    const struct packed_kernel *packed;
    const struct packed_kernel *prompt; /* for prompt rows, where they have their own; else NULL */
    const struct packed_layout *layout;
    const uint8_t *panels;
    uint64_t panel_bytes, part_bytes;
    float *values; /* owned; the only row as floats (vectors, constants); NULL if there are more */
    struct placed_weight *next; /* all of the backend's */
};

/* The ROWS_OUTPUT buffers of one step; two sets, so that a step's results outlive the next. */
struct result_bank {
    uint64_t ticket; /* 0: never used */
    uint32_t n_outputs, n_logits;
    uint64_t unread_bytes; /* of experts that no row chose */
    float *words;          /* owned, [output_row_words * max_outputs] */
};

#define RESULT_BANKS BACKEND_IN_FLIGHT

/* Rotation factors of one step's rows: layers that turn alike share a table. */
struct rope_table {
    const struct op_rope_kv *op; /* the first operation that uses it: frequencies, sections, ... */
    float *turns;                /* owned, [max_rows][2][rope_dims / 2]: cosines, then sines */
};

#define CLASSES (CLASS_GENERATED + 1)

/* Rows of a step, ascending. */
struct row_list {
    const uint32_t *numbers; /* NULL: 0, 1, 2, ... */
    uint32_t n;
};

static inline uint32_t list_row(const struct row_list *list, uint32_t i)
{
    return list->numbers ? list->numbers[i] : i;
}

/* What load() computed for one operation. */
struct op_plan {
    /* Sets of forms, bit 1 << act_form, of rows of each numeric class (matrix.c). */
    uint32_t quantise[CLASSES];    /* the operation's input is quantised to these at its start */
    uint32_t gives[CLASSES];       /* its output is quantised to these as it is written */
    uint32_t second;               /* of these its input lies in the second bank, in all classes */
    uint32_t gives_second;         /* these it gives into the second bank */
    bool prompt_kernels;           /* prompt rows meet matrices by kernels of their own */
    bool runs_on;                  /* the next operation needs no barrier after this one */
    const struct rope_table *rope; /* OP_ROPE_KV that turns; else NULL */
    float *taps;                   /* OP_CONV: owned, weights as [taps, width]; else NULL */
};

static inline uint32_t any_form(const uint32_t forms[CLASSES])
{
    return forms[CLASS_PROMPT] | forms[CLASS_GENERATED];
}

#define TAKE_PHASES 2 /* times that an operation may share its work out in pieces */

struct loaded_program {
    const struct program *program;
    struct placed_weight *const *placed;
    struct step_limits limits;
    float *step_words;        /* owned, [step_row_words * max_rows] */
    float *scores;            /* owned, [max_rows, experts]: router logits; NULL without routers */
    struct op_plan *plans;    /* owned, one per operation */
    struct rope_table *ropes; /* owned, n_ropes */
    uint32_t n_ropes;
    uint64_t *op_ns; /* owned, one per operation: time spent, while profiling */
    _Atomic uint32_t *
        taken; /* owned, [n_threads, n_ops, TAKE_PHASES]: units gone of a thread's share; per step */
    bool profiling;
    const struct op_observer *observer; /* NULL: nobody watches */
    /* Quantised rows of the operation at hand (matrix.c), in two banks. Read by all threads until the
     * walk's barrier after the last operation that uses them. */
    uint8_t *acts[2][ACT_FORMS]; /* owned, act_bytes each; NULL where unused */
    uint64_t act_bytes[2][ACT_FORMS];
    /* The rows of the step at hand by numeric class, where an operation has kernels for prompts. */
    struct row_list by_class[CLASSES];
    uint32_t *row_numbers; /* owned, [max_rows]: of both lists; NULL: there are no such kernels */
    /* Panels written of a chunk of rows and a block of columns, of an operation that gives its output
     * quantised: who writes the last one quantises. All 0 between operations. */
    _Atomic uint32_t *written; /* owned, [chunks, blocks] of the largest; NULL: none gives */
    struct result_bank banks[RESULT_BANKS];
    uint64_t n_steps;
    struct loaded_program *next;
};

/* Draws of one sample step. */
struct sample_bank {
    uint64_t ticket; /* 0: never used */
    uint32_t n;
    struct sample_result *results; /* owned, [max_rows] */
};

struct cpu_backend {
    struct backend base; /* first: the handle */
    struct backend_config config;
    struct thread_pool *pool;
    uint32_t n_threads;
    struct placed_weight *weights;
    struct packed_chunk *chunks; /* memory of packed matrices */
    struct kept *kept;           /* owned; the file instead, or to be; NULL: neither */
    act_quantise *quantise;
    struct loaded_program *programs;
    bool allocated;
    struct layout layout;
    const struct float_kernels *floats;
    const struct kv_format *kv;         /* NULL until allocated */
    const struct tile_attention *tiles; /* for prompt rows, where it takes the heads; NULL: none */
    float *parts; /* owned, [part_words]: attention of few tiles, block by block */
    size_t part_words;
    void *pages_memory; /* owned; `pages` lies within, aligned */
    uint8_t *pages;     /* [n_pages, page_bytes] */
    /* [n_slots, slot_pages], owned: as the step that computes sees them, and as the last submitted
     * one will, which is what submit() checks against. */
    uint32_t *tables, *next_tables;
    int32_t *history; /* owned, [n_slots, history_capacity] */
    uint32_t history_capacity;
    struct sample_limits sampling;
    struct sample_bank samples[RESULT_BANKS];
    uint64_t n_sample_steps;
    uint8_t *draw_scratch;     /* owned, [n_threads, draw_scratch_bytes] */
    size_t draw_scratch_bytes; /* for one row of logits */
    size_t scratch_words;      /* per thread, the most that a loaded program needs */
    float *scratch;            /* owned, [n_threads, scratch_words] */
    uint64_t last_ticket;
    struct cpu_queue *queue;                  /* NULL: submit() computes before it returns */
    struct loaded_program *last_step_program; /* what sample() draws from */
};

/* One forward pass in progress; shared by all threads, read-only while they run. */
struct cpu_run {
    struct cpu_backend *backend;
    struct loaded_program *program;
    const struct step *step;
    struct result_bank *bank;          /* that this step fills */
    const struct sample_bank *sampled; /* of the step before; NULL before the first */
};

/* Draws in progress. */
struct cpu_draw {
    struct cpu_backend *backend;
    const struct sample_step *step;
    const float *logits; /* [n_logits, stride] */
    size_t stride;
    struct sample_bank *bank;
};

/* What a ticket stands for: a forward pass, or draws (draw.step is not NULL). */
struct cpu_job {
    uint64_t ticket;
    struct cpu_run run;
    struct cpu_draw draw;
};

struct worker {
    const struct cpu_run *run;
    uint32_t index, count; /* this thread, of how many */
    float *scratch;        /* this thread's own, scratch_words */
    struct thread_pool *pool;
    uint32_t op; /* at hand */
};

/* Waits for all threads; what they wrote before is visible after. */
static inline void worker_barrier(const struct worker *w)
{
    thread_pool_barrier(w->pool);
}

/* Part [begin, end) of n items for this thread: contiguous, sizes differ by at most one. */
struct share {
    uint64_t begin, end;
};

static inline struct share share_of(uint32_t index, uint32_t count, uint64_t n)
{
    uint64_t each = n / count, rest = n % count;
    uint64_t begin = index * each + (index < rest ? index : rest);
    return (struct share){begin, begin + each + (index < rest)};
}

static inline struct share worker_share(const struct worker *w, uint64_t n)
{
    return share_of(w->index, w->count, n);
}

/* The same n items, taken in pieces of at most `most`: this thread's share front to back, then what
 * is left of the others'. One of these per operation, phase and thread: helped = 0 at first. */
struct taking {
    uint64_t n;
    uint32_t most, phase, helped; /* helped: threads whose shares are gone, from this one on */
};

#define PIECE_BYTES (32 << 10) /* of weights times rows: a piece of work, some microseconds */

/* taking.most for units that read so many bytes of weights times rows. */
static inline uint32_t piece_units(uint64_t unit_bytes)
{
    return unit_bytes && unit_bytes < PIECE_BYTES ? (uint32_t)(PIECE_BYTES / unit_bytes) : 1;
}

static inline bool worker_take(const struct worker *w, struct taking *t, struct share *out)
{
    const struct loaded_program *p = w->run->program;
    for (; t->helped < w->count; t->helped++) {
        uint32_t who = (w->index + t->helped) % w->count;
        struct share whole = share_of(who, w->count, t->n);
        size_t counter = ((size_t)who * p->program->n_ops + w->op) * TAKE_PHASES + t->phase;
        uint64_t begin = whole.begin + atomic_fetch_add_explicit(&p->taken[counter], t->most,
                                                                 memory_order_relaxed);
        if (begin < whole.end) {
            *out = (struct share){begin, whole.end - begin < t->most ? whole.end : begin + t->most};
            return true;
        }
    }
    return false;
}

/* First word of `row` in a view. */
float *run_row(const struct cpu_run *run, struct view view, uint32_t row);
/* Rows an operation works on: those of the step, or its outputs. */
uint32_t run_rows(const struct cpu_run *run, struct view view);
/* [n] floats of a vector or constant; NULL for NO_WEIGHT. */
const float *run_vector(const struct cpu_run *run, int32_t weight);
/* Page `index` of a slot's table row of a group. submit() made sure that it exists. */
uint8_t *run_page(const struct cpu_run *run, uint32_t slot, uint32_t group, uint32_t index);

float activate(enum activation act, float x);
/* act(gate) * up, or what ACT_CLAMPED_SWIGLU makes of both. */
float activate_gate(enum activation act, float gate, float up);
/* The same for n values; by the vector kernels unless exact. */
void activate_gates(const struct cpu_run *run, enum activation act, const float *gate,
                    const float *up, uint32_t n, float *out);

/* Rows [first, first + n) of matrix `part` of a weight that is not packed, for a kernel. */
struct kernel_rows matrix_rows(const struct placed_weight *placed, uint32_t part, uint32_t first,
                               uint32_t n);

/* matrix.c: products with packed and other matrices. Row r of the input is x + r / split * stride +
 * r % split * n_cols. */
struct matrix_input {
    const float *x;
    size_t stride; /* words */
    uint32_t n, n_cols, split;
    uint32_t second; /* op_plan.second */
};
struct matrix_input matrix_input(const struct cpu_run *run, struct view in, uint32_t n);
/* This thread's share of quantising these rows; the caller waits for the others. */
void matrix_quantise(const struct worker *w, const struct matrix_input *in, enum act_form form,
                     const struct row_list *rows);
/* What op_plan.quantise says, and the barrier. */
void matrix_quantise_planned(const struct worker *w, const struct matrix_input *in,
                             const struct op_plan *plan);
/* What op_plan.gives says, of blocks [block, block + n) of a row that has been written. */
void matrix_give(const struct cpu_run *run, const struct op_plan *plan, struct view out,
                 uint32_t row, uint32_t block, uint32_t n);
/* The kernel that multiplies a packed matrix with rows of a class; only operations with
 * op_plan.prompt_kernels tell classes apart, all others take CLASS_GENERATED's. NULL: not packed. */
static inline const struct packed_kernel *matrix_kernel(const struct placed_weight *placed,
                                                        enum numeric_class row_class)
{
    return row_class == CLASS_PROMPT && placed->prompt ? placed->prompt : placed->packed;
}
/* The form in which that kernel takes rows. */
static inline enum act_form matrix_form(const struct placed_weight *placed,
                                        enum numeric_class row_class)
{
    const struct packed_kernel *kernel = matrix_kernel(placed, row_class);
    return kernel ? kernel->form : ACT_FLOAT;
}
/* Rows rows[m] / divide, m < n, of the input in a form. */
void matrix_rows_of(const struct cpu_run *run, const struct matrix_input *in, enum act_form form,
                    const uint32_t *rows, uint32_t divide, uint32_t n, struct act_rows *out);
/* The panel of a packed matrix that has output `column`, a multiple of KERNEL_ROWS. */
const uint8_t *matrix_panel(const struct placed_weight *placed, uint32_t part, uint32_t column);
/* out[m * KERNEL_ROWS + c] = row `column + c` of matrix `part` . rows[m], of that class's form;
 * column: a multiple of KERNEL_ROWS; out: aligned to 64 bytes. */
void matrix_dots(const struct placed_weight *placed, enum numeric_class row_class, uint32_t part,
                 uint32_t column, const struct act_rows *rows, float *out);
/* Row `row` of matrix 0 as floats. */
void matrix_read_row(const struct placed_weight *placed, uint32_t row, float *out);
const char *matrix_kernel_name(const struct placed_weight *placed);
/* Weights that fast mode packs, and after placing them: what each operation must quantise. False:
 * sizes overflow. */
bool cpu_packs(const struct program *program, uint32_t weight);
bool plan_inputs(struct loaded_program *p);
/* Sorts the step's rows by class; before its walk, by one thread. */
void matrix_sort_rows(const struct cpu_run *run);
/* Entries of loaded_program.written; after plan_inputs(). */
uint64_t plan_written(const struct loaded_program *p);
/* walk.c: which operations run on without a barrier; after plan_inputs(). */
void plan_barriers(struct loaded_program *p);

/* pack.c: sets placed->panels, from a file that keeps them or by packing with all threads. */
enum status cpu_pack(struct cpu_backend *backend, const struct program *program, uint32_t weight,
                     struct placed_weight *placed, struct error *err);
void cpu_release_packed(struct cpu_backend *backend);

/* kept.c: packed weights in files. Does nothing unless the configuration names a folder; what goes
 * wrong is logged. */
void kept_open(struct cpu_backend *backend);
void kept_close(struct cpu_backend *backend); /* waits for what is being written */
/* Panels of a weight that packed_kernel_for() has a kernel for; NULL: to be packed, and then told of. */
const uint8_t *kept_find(struct cpu_backend *backend, const struct program *program,
                         uint32_t weight);
void kept_add(struct cpu_backend *backend, const struct program *program, uint32_t weight,
              const uint8_t *panels);
/* The file was cut short while in use. */
bool kept_damaged(const struct cpu_backend *backend);

void cpu_embed(const struct worker *w, const struct op_embed *op);
void cpu_position(const struct worker *w, const struct op_position *op);
void cpu_norm(const struct worker *w, const struct op_norm *op, const struct op_plan *plan);
void cpu_linear(const struct worker *w, const struct op_linear *op, const struct op_plan *plan);
/* This thread's share of a rotation table, before the first operation. */
void cpu_rope_turns(const struct worker *w, const struct rope_table *table);
/* table: NULL where nothing turns. */
void cpu_rope_kv(const struct worker *w, const struct op_rope_kv *op,
                 const struct rope_table *table);
void cpu_attention(const struct worker *w, const struct op_attention *op);
void cpu_gated(const struct worker *w, const struct op_gated *op, const struct op_plan *plan);
void cpu_route(const struct worker *w, const struct op_route *op);
/* Experts read the first bank, and have one class. */
void cpu_experts(const struct worker *w, const struct op_experts *op, const struct op_plan *plan);
#define CONV_TAPS_MAX 64
/* taps: weights as [taps, width]; at most CONV_TAPS_MAX of them. */
void cpu_conv(const struct worker *w, const struct op_conv *op, const float *taps);
void cpu_ssm(const struct worker *w, const struct op_ssm *op);
void cpu_delta(const struct worker *w, const struct op_delta *op);
void cpu_heads(const struct worker *w, const struct op_heads *op);
/* cpu_attention() of a latent group. */
void cpu_latent_attention(const struct worker *w, const struct op_attention *op);
void cpu_activation(const struct worker *w, const struct op_activate *op);
void cpu_mix(const struct worker *w, const struct op_mix *op);
void cpu_match(const struct worker *w, const struct op_match *op);
void cpu_add(const struct worker *w, const struct op_add *op);
void cpu_mul(const struct worker *w, const struct op_mul *op);
void cpu_select(const struct worker *w, const struct op_select *op);
void cpu_logits(const struct worker *w, const struct op_logits *op, const struct op_plan *plan);

/* Words of thread scratch that an operation needs. */
size_t experts_scratch_words(const struct program *program, const struct op_experts *op,
                             const struct step_limits *limits);
size_t attention_scratch_words(const struct cpu_backend *backend, const struct program *program,
                               const struct op_attention *op);
/* Whether prompt rows have products in bfloat16, by backend->tiles; once pages are laid out. */
bool attention_of_prompts(const struct cpu_backend *backend, const struct program *program,
                          const struct op_attention *op);
/* Words of parts that one row of a sequence of `context` positions needs. */
size_t attention_part_words(const struct program *program, const struct op_attention *op,
                            uint32_t context);
size_t latent_scratch_words(const struct program *program, const struct op_attention *op);
size_t delta_scratch_words(const struct op_delta *op);
size_t heads_scratch_words(const struct op_heads *op);

/* Runs the program's operations on the step with all threads. */
void cpu_walk(const struct cpu_run *run);
/* A checked job, by all threads. */
void cpu_run_step(const struct cpu_run *run); /* tables, copies and the walk */
void cpu_run_draws(const struct cpu_draw *draw);

/* queue.c: submitted jobs run in order, on the caller's thread or on one of the backend's own. */
enum status cpu_queue_create(struct cpu_backend *backend, struct error *err);
void cpu_queue_free(struct cpu_backend *backend); /* waits for what was submitted */
void cpu_enqueue(struct cpu_backend *backend, const struct cpu_job *job);
void cpu_finish(struct cpu_backend *backend, uint64_t ticket); /* waits until it has completed */

/* load.c: weights and programs. */
/* The kernel that a weight is packed for; NULL: it stays as it is in the file. */
const struct packed_kernel *packed_kernel_for(const struct cpu_backend *backend,
                                              const struct program *program, uint32_t weight);
enum status cpu_place(struct backend *backend, const struct program *program, uint32_t weight,
                      struct placed_weight **out, struct error *err);
enum status cpu_load(struct backend *backend, const struct program *program,
                     struct placed_weight *const *placed, const struct step_limits *limits,
                     struct loaded_program **out, struct error *err);
void cpu_describe(struct backend *backend, struct loaded_program *program, uint32_t op,
                  struct buf *out);
/* Frees all weights and programs of the backend. */
void cpu_unload(struct cpu_backend *backend);
/* Zeroed and aligned to a cache line, of at least one byte; NULL on overflow or out of memory.
 * Released by free(). */
void *cpu_memory(uint64_t count, uint64_t size);

/* sample.c: banks for sample steps of these limits; draws; frees. */
enum status cpu_sample_allocate(struct cpu_backend *backend, const struct sample_limits *limits,
                                struct error *err);
enum status cpu_sample(struct backend *backend, struct loaded_program *program,
                       const struct sample_step *step, uint64_t *ticket, struct error *err);
enum status cpu_read_samples(struct backend *backend, uint64_t ticket, uint32_t n,
                             struct sample_result *out, struct error *err);
void cpu_sample_release(struct cpu_backend *backend);

#endif
