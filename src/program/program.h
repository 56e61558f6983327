/*
 * A program: a model's forward pass as a static list of coarse operations.
 *
 * Built once per model by an architecture file (src/model/arch), the same for every backend, and
 * free of batch size: every operation works on "rows", and how many rows there are is known only
 * from the step (program/step.h). An architecture never appears again after this list exists; no
 * backend and no engine code asks which model it runs.
 *
 *   buffers    named activations, [rows, width] of 32-bit words (float32 unless said otherwise);
 *              a backend may hold them in a narrower type in its fast mode. A buffer has one row
 *              per row of the step, or one row per wanted output.
 *   weights    named matrices [count, n_rows, n_cols] in their file's element type, borrowed from
 *              the checkpoint's mapping, or small float32 constants owned by the program.
 *   groups     what a sequence keeps between steps, by layers that share a shape: paged K/V or
 *              recurrent state (geometry in program/layout.h).
 *   operations in order; each reads and writes views (column ranges) of buffers.
 *
 * Life: program_create -> buffers, weights, emit_* -> program_finish (checks every shape, plans
 * buffer memory) -> immutable, any thread -> program_free. Builder calls never fail loudly: the
 * first error is kept and program_finish returns it, so that an architecture file reads straight
 * through. Passes (fusion, placement, sharding) are functions from a program to a program and come
 * with the issues that need them; `device` on each operation is where placement will write.
 */
#ifndef SLUICE_PROGRAM_PROGRAM_H
#define SLUICE_PROGRAM_PROGRAM_H

#include <stdbool.h>
#include <stdint.h>

#include "base/status.h"
#include "base/str.h"
#include "quant/tensor_type.h"

#ifdef __cplusplus
extern "C" {
#endif

#define NO_WEIGHT          (-1)
#define NO_BUFFER          (-1)
#define PROGRAM_GROUPS_MAX 16
#define ROUTE_GROUPS_MAX   256 /* groups of experts */

enum buffer_rows {
    ROWS_STEP,   /* one row per row of the step */
    ROWS_OUTPUT, /* one row per wanted output, in the order of the step's output list */
};

struct buffer {
    const char *name;
    uint32_t width; /* words per row */
    enum buffer_rows rows;
    /* Plan: the buffer is [n, width] starting at word `offset * n`, n = the capacity of its kind of
     * rows; buffers that are never alive together share offsets. */
    uint64_t offset;
};

/* Columns [column, column + width) of a buffer. buffer NO_BUFFER: absent. */
struct view {
    int32_t buffer;
    uint32_t column;
    uint32_t width;
};

enum weight_role {
    WEIGHT_MATRIX,   /* y = W x; n_rows = outputs, n_cols = inputs */
    WEIGHT_TABLE,    /* rows are looked up by token id; may also serve as a matrix (tied) */
    WEIGHT_VECTOR,   /* n_rows = 1: norm weights, biases */
    WEIGHT_CONSTANT, /* float32, computed at load, owned by the program */
};

struct weight {
    const char *name;
    enum weight_role role;
    enum tensor_type type;
    uint32_t count;  /* matrices in the stack: number of experts, otherwise 1 */
    uint32_t n_rows; /* of one matrix */
    uint32_t n_cols;
    /* [count] first byte of each matrix; its rows are contiguous, tensor_type_bytes(type, n_cols)
     * apart. Borrowed from the checkpoint, or owned by the program for constants. */
    const void *const *parts;
};

enum group_kind {
    GROUP_KV,        /* K and V per token and layer */
    GROUP_RECURRENT, /* a fixed-size state per layer and sequence */
    /* One latent vector per token and layer for all heads, in K/V's page layout with one head: V
     * holds the latent (v_head_dim), K the rotated part that scores only (k_head_dim). A query head
     * is [k_head_dim | v_head_dim]: its score is the dot product with both, its value the latent. */
    GROUP_LATENT,
};

struct state_group {
    const char *name;
    enum group_kind kind;
    uint32_t n_layers;
    uint32_t window; /* GROUP_KV, GROUP_LATENT: only the last `window` positions are read; 0: all */
    /* GROUP_KV, GROUP_LATENT: heads x head_dim elements per token and layer. */
    uint32_t n_kv_heads;
    uint32_t k_head_dim, v_head_dim;
    /* GROUP_RECURRENT: float32 values per layer. */
    uint32_t state_floats;
};

enum activation {
    ACT_NONE,
    ACT_SILU,      /* x / (1 + exp(-x)) */
    ACT_GELU,      /* x/2 (1 + erf(x / sqrt 2)) */
    ACT_GELU_TANH, /* x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))) */
    ACT_RELU,
    ACT_RELU2,   /* max(x, 0)^2 */
    ACT_SIGMOID, /* 1 / (1 + exp(-x)) */
    ACT_TANH,
    /* OP_GATED and OP_EXPERTS only, of gate g and up u together: with g = min(g, 7) and
     * u = min(max(u, -7), 7), (u + 1) g sigmoid(1.702 g) */
    ACT_CLAMPED_SWIGLU,
    /* OP_ACTIVATE only, parameters (p, n, b, e): p x^2 + b x for x > 0, else
     * n (exp(min(x, e)) - 1 - x) + b x (Huang and Schlag, "Deriving activation functions from
     * integration", 2024: xIELU) */
    ACT_XIELU,
};

enum norm_kind {
    NORM_RMS,    /* x / sqrt(mean(x^2) + eps) */
    NORM_LAYER,  /* (x - mean) / sqrt(var + eps) */
    NORM_NONE,   /* x: weight and bias only */
    NORM_CUTOFF, /* max(x - mean - eps sqrt(var), 0): what stands out by eps deviations */
};

enum rope_style {
    ROPE_NONE,
    ROPE_HALVES, /* pairs (i, i + dims/2), as Hugging Face stores heads */
    ROPE_PAIRS,  /* pairs (2i, 2i + 1), as llama-family GGUF files store heads */
};

enum route_score { ROUTE_SOFTMAX, ROUTE_SIGMOID };

enum op_kind {
    OP_EMBED,     /* out = table[token] * scale, or the step's embedding rows */
    OP_POSITION,  /* out = in + table[position + offset] + bias: learned positions */
    OP_NORM,      /* out = norm over each `group` columns of in */
    OP_LINEAR,    /* out = residual + act(W in + bias) * scale */
    OP_ROPE_KV,   /* rotate q and k in place, append k and v to the sequence's pages */
    OP_ATTENTION, /* out = paged attention of q over the sequence's pages */
    OP_GATED,     /* out = act(W_gate in + b) * (W_up in + b) */
    OP_ROUTE,     /* choose k experts per row */
    OP_EXPERTS,   /* out = residual + sum over chosen experts of weight * gated FFN */
    OP_CONV,      /* causal depthwise convolution over the sequence, with recurrent state */
    OP_SSM,       /* state space recurrence (Mamba 1 and 2) over the sequence */
    OP_DELTA,     /* gated delta rule over the sequence */
    OP_HEADS,     /* a small matrix of its own for each head, or a copy of columns of each head */
    OP_ACTIVATE,  /* out = act(in), for activations with parameters */
    OP_MIX,       /* out streams = residual + coefficients of the row * in streams */
    OP_MATCH,     /* out = in, scaled to the length of another vector */
    OP_ADD,       /* out = a + b * scale */
    OP_MUL,       /* out = act(a) * b */
    OP_SELECT,    /* rows of the step -> wanted output rows */
    OP_LOGITS,    /* out = softcap(W in * scale), for outputs that want logits */
};

/* A table with fewer rows than the vocabulary: row 0 for tokens past its end. */
struct op_embed {
    struct view out;
    int32_t table;
    float scale;
};

/* table [rows, width] or NO_WEIGHT, with a row for every position of the program's context from
 * `offset` on; bias [width] or NO_WEIGHT. The position is the row's in its sequence. skip >= 0 (only
 * in bidirectional programs): tokens of that id are not counted and stand at -1 (RoBERTa's padding). */
struct op_position {
    struct view in, out;
    int32_t table, bias;
    uint32_t offset;
    int32_t skip;
};

/* `group` columns are normalised together (the whole width, or one head); weight [group] is shared
 * by all groups of a row, or [width]. */
struct op_norm {
    struct view in, out;
    enum norm_kind kind;
    uint32_t group;
    int32_t weight, bias;
    float weight_offset; /* added to each weight: 1 for Gemma's (1 + w) as stored by HF */
    float eps;
};

struct op_linear {
    struct view in, out, residual; /* residual may be the same view as out */
    int32_t weight, bias;
    enum activation act;
    float scale;
};

/* q [n_heads * k_head_dim], k [n_kv_heads * k_head_dim], v [n_kv_heads * v_head_dim] of the group;
 * GROUP_LATENT: q [n_heads * (k_head_dim + v_head_dim)], whose latent part does not turn. Angle of
 * pair i at position p: p * freqs[i]; values are multiplied by `magnitude` (YaRN). Only the first
 * rope_dims columns of a head turn. k and v absent: only q turns, nothing is appended. */
struct op_rope_kv {
    struct view q, k, v;
    uint32_t n_heads;
    uint32_t group, layer; /* state group, and the layer's index within it */
    enum rope_style style;
    uint32_t rope_dims;
    int32_t freqs; /* constant [rope_dims / 2] */
    float magnitude;
    uint32_t sections[4]; /* pairs per position axis (vision rope); all 0: axis 0 only */
};

/* Row at position p attends to positions (p - window, p] (window 0: [0, p]) under the slice's mask;
 * in a span that sees itself in both directions also to those after it, at most `ahead` (0: all).
 * score = scale * q.k, softcap c: c * tanh(score / c); sinks: constant or vector [n_heads], an extra
 * logit per head that takes weight but adds no value. */
struct op_attention {
    struct view q, out; /* q as in op_rope_kv, [n_heads * v_head_dim] */
    uint32_t n_heads;
    uint32_t group, layer;
    uint32_t window, ahead;
    float scale, softcap;
    int32_t sinks;
};

struct op_gated {
    struct view in, out;
    int32_t gate, up, gate_bias, up_bias;
    enum activation act;
};

/* out: 2k words per row: k int32 expert ids by falling score (ties: lower id), k float32 weights.
 * Router arithmetic is float32 in every mode. score_bias is added for choosing only.
 * n_groups > 1: experts stand in groups of n_experts / n_groups, and only those of the k_groups best
 * groups can be chosen (ties: lower group); a group is as good as the sum of its group_best (1 or 2)
 * best experts, biased. */
struct op_route {
    struct view in, out;
    int32_t weight, bias, score_bias;
    enum route_score score;
    uint32_t n_experts, k;
    bool normalise; /* chosen weights are divided by max(their sum, least_sum) + added_sum */
    float least_sum, added_sum;
    float scale;
    uint32_t n_groups, k_groups, group_best;
};

/* hidden: scratch, k * ff words per row. Stacks of n_experts matrices [ff, in], [ff, in], [out, ff];
 * biases are vectors of all experts' in a row: [n_experts * ff], [n_experts * ff], [n_experts * out].
 * The k contributions, each with its bias times its weight, are added in the order of the route. */
struct op_experts {
    struct view in, route, hidden, out, residual;
    int32_t gate, up, down;
    int32_t gate_bias, up_bias, down_bias;
    enum activation act;
    uint32_t k;
};

/* weight [width, taps]: out[t] = act(bias + sum_j weight[j] * in[t - taps + 1 + j]); inputs before
 * the sequence's start are 0. State: the last taps - 1 inputs, [taps - 1, width], oldest first. */
struct op_conv {
    struct view in, out;
    int32_t weight, bias;
    uint32_t taps;
    uint32_t group, layer;
    enum activation act;
};

/* Per head h of n_heads, with head_dim columns each, and group g = h / (n_heads / n_groups):
 *     t = clamp(softplus(dt[h] + dt_bias[h]), dt_min, dt_max)
 *     S[n][p] = exp(t a[h or h, n]) S[n][p] + t b[g][n] x[h][p]
 *     out[h][p] = sum_n c[g][n] S[n][p] + d[h] x[h][p]
 * a: [n_heads] (Mamba 2) or [n_heads * n_state] (Mamba 1, whose heads are channels: head_dim 1).
 * State, float32: S as [n_heads][n_state][head_dim]; 0 before the sequence's start. Rows go one by
 * one in order, so that the bits do not depend on how a prompt is cut. */
struct op_ssm {
    struct view x, dt, b, c, out; /* [n_heads * head_dim], [n_heads], [n_groups * n_state] twice */
    int32_t a, d, dt_bias;        /* dt_bias NO_WEIGHT: 0 */
    uint32_t n_heads, head_dim, n_groups, n_state;
    float dt_min, dt_max;
    uint32_t group, layer;
};

/* Per value head h of n_heads, with key head g = h / (n_heads / n_key_heads), or where `tiled` (as
 * GGUF files order value heads) g = h % n_key_heads; q and k are scaled to length 1 first, as
 * x / sqrt(sum(x^2) + 1e-6), and q by 1 / sqrt(k_dim):
 *     S[i][j] = exp(a[h] softplus(decay[h] + dt_bias[h])) S[i][j]
 *     u[j] = sigmoid(beta[h]) (v[h][j] - sum_i k[g][i] S[i][j])
 *     S[i][j] += k[g][i] u[j]                 out[h][j] = sum_i q[g][i] S[i][j]
 * State, float32: S as [n_heads][k_dim][v_dim]; 0 before the sequence's start. Rows go one by one. */
struct op_delta {
    struct view q, k, v, decay, beta, out; /* [n_key_heads * k_dim] twice, [n_heads * v_dim], ... */
    int32_t a, dt_bias;                    /* [n_heads] each */
    uint32_t n_heads, n_key_heads, k_dim, v_dim;
    bool tiled;
    uint32_t group, layer;
};

/* Head h of n_heads takes columns [in_column, + in_width) of its in.width / n_heads columns to columns
 * [out_column, + out_width) of its out.width / n_heads. weight: a stack of n_heads matrices
 * [out_width, in_width], or [in_width, out_width] where `transposed` (out = W^T in); NO_WEIGHT: a
 * copy, in_width = out_width. The other columns of out stay as they are. */
struct op_heads {
    struct view in, out;
    int32_t weight;
    bool transposed;
    uint32_t n_heads;
    uint32_t in_column, in_width, out_column, out_width;
};

struct op_activate {
    struct view in, out;
    enum activation act;
    float parameters[4];
};

/* in [n_in * width], out and residual [n_out * width], coefs [n_out * n_in]:
 * out[j] = residual[j] + sum_i coefs[j][i] in[i]. out may be residual, not in. */
struct op_mix {
    struct view in, coefs, residual, out;
    uint32_t n_in, n_out;
};

/* out = in * sqrt(mean(like^2)) / sqrt(max(mean(in^2), least)) */
struct op_match {
    struct view in, like, out;
    float least;
};

struct op_add {
    struct view a, b, out;
    float scale;
};

/* a may be narrower than b: then each of its columns scales b.width / a.width columns in a row. */
struct op_mul {
    struct view a, b, out;
    enum activation act;
};

struct op_select {
    struct view in, out; /* ROWS_STEP -> ROWS_OUTPUT */
};

struct op_logits {
    struct view in, out; /* both ROWS_OUTPUT */
    int32_t weight, bias;
    float scale, softcap; /* softcap 0: none */
};

struct op {
    enum op_kind kind;
    uint16_t device;   /* 0 until a placement pass writes it */
    const char *label; /* "blk.3.attn.q", for printing and profiles */
    union {
        struct op_embed embed;
        struct op_position position;
        struct op_norm norm;
        struct op_linear linear;
        struct op_rope_kv rope_kv;
        struct op_attention attention;
        struct op_gated gated;
        struct op_route route;
        struct op_experts experts;
        struct op_conv conv;
        struct op_ssm ssm;
        struct op_delta delta;
        struct op_heads heads;
        struct op_activate activate;
        struct op_mix mix;
        struct op_match match;
        struct op_add add;
        struct op_mul mul;
        struct op_select select;
        struct op_logits logits;
    } u;
};

struct program {
    const char *name; /* "text" */
    struct buffer *buffers;
    uint32_t n_buffers;
    struct weight *weights;
    uint32_t n_weights;
    struct op *ops;
    uint32_t n_ops;
    struct state_group groups[PROGRAM_GROUPS_MAX];
    uint32_t n_groups;
    uint32_t n_vocab;       /* embedding rows = valid token ids */
    uint32_t n_context;     /* positions the model was made for */
    uint32_t n_axes;        /* position axes: 1, or 3 for vision rope */
    uint32_t row_alignment; /* chunks of a prompt end on multiples of this (1: anywhere) */
    /* Rows of a sequence see each other both ways (encoders): each is one slice under MASK_SPAN, and
     * row_alignment is n_context, so that nothing cuts it and no part of it is ever reused. */
    bool bidirectional;
    int32_t hidden; /* ROWS_OUTPUT buffer with the final normed state */
    int32_t logits; /* ROWS_OUTPUT buffer [n_vocab], or NO_BUFFER (embedding models) */
    /* Plan: words per row over all buffers of that kind of rows, before overlap is multiplied out. */
    uint64_t step_row_words, output_row_words;
    struct program_store *store; /* owned memory of everything above */
};

/* NULL when out of memory. */
struct program *program_create(const char *name);
void program_free(struct program *program); /* NULL allowed */

/* Builder. Ids are indexes into the arrays above; on error they are still safe to pass on. */
int32_t program_buffer(struct program *program, const char *name, uint32_t width,
                       enum buffer_rows rows);
/* The whole width of a buffer, and a part of a view. */
struct view program_view(const struct program *program, int32_t buffer);
struct view view_columns(struct view view, uint32_t column, uint32_t width);
#define VIEW_NONE ((struct view){NO_BUFFER, 0, 0})

/* Copies the descriptor and its parts array; the bytes stay borrowed. */
int32_t program_weight(struct program *program, const struct weight *weight);
/* Zeroed memory that lives as long as the program, for weights made at load; NULL: out of memory,
 * which is recorded. */
void *program_memory(struct program *program, size_t bytes);
/* Copies n floats. */
int32_t program_constant(struct program *program, const char *name, const float *values,
                         uint32_t n);
uint32_t program_group(struct program *program, const struct state_group *group);
/* Copies the operation; label is formatted. */
void program_emit(struct program *program, const struct op *op, const char *label, ...)
    __attribute__((format(printf, 3, 4)));
/* Keeps the first error; architecture files use it for what they cannot express. */
void program_fail(struct program *program, enum status status, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
/* Checks shapes and operands of every operation, plans buffers. After this: read-only. */
enum status program_finish(struct program *program, struct error *err);

/* The listing of `sluice show --program`. `kernel` (may be NULL) names what will run an op. */
void program_print(const struct program *program, struct buf *out,
                   void (*kernel)(void *context, uint32_t op, struct buf *out), void *context);
const char *op_kind_name(enum op_kind kind);
uint64_t weight_bytes(const struct weight *weight);
/* Total bytes of all distinct weights. */
uint64_t program_weight_bytes(const struct program *program);

#ifdef __cplusplus
}
#endif
#endif
