/*
 * How families of folders lay out tensors otherwise than GGUF does: one function for each way, named in
 * the table of hf_families.c. A function makes recipes (source.h); it checks the shape that it relies on.
 *
 * Value heads of qwen3.5: folders have them by key head, GGUF as "tiles": wanted head t * K + g is
 * stored head g * (V / K) + t, of V value and K key heads.
 */
#include <stdio.h>
#include <string.h>

#include "convert/hf.h"

static void bad_shape(struct hf_source *h, const struct tensor *t, const char *wanted)
{
    hf_fail(h, STATUS_MODEL, "tensor %.*s is not %s", STR_ARG(t->name), wanted);
}

/* Dimensions without those of size 1, at least one. */
static uint32_t squeezed(const struct tensor *t, uint64_t dims[TENSOR_DIMS_MAX])
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < TENSOR_DIMS_MAX; i++)
        dims[i] = 1;
    for (uint32_t i = 0; i < t->n_dims; i++)
        if (t->dims[i] != 1)
            dims[n++] = t->dims[i];
    return n ? n : 1;
}

static uint64_t row_bytes(const struct tensor *t, uint64_t n)
{
    uint64_t bytes = 0;
    tensor_type_bytes(t->type, n, &bytes);
    return bytes;
}

/* Each value is a row: what is done to rows of a matrix is then done to items of its bias. */
static void items_as_rows(struct source_tensor *out)
{
    if (out->n_dims != 1)
        return;
    out->n_rows = out->dims[0];
    out->row_values = 1;
}

static uint32_t *new_rows(struct hf_source *h, struct source_tensor *out)
{
    uint64_t n = out->n_rows / out->n_parts;
    if (n > UINT32_MAX)
        hf_fail(h, STATUS_LIMIT, "tensor %.*s has too many rows", STR_ARG(out->name));
    uint32_t *rows = n <= UINT32_MAX ? hf_memory(h, n, sizeof *rows) : NULL;
    out->rows = rows;
    return rows;
}

/* `count` equal parts, `bytes` apart, from `first` on. */
static void set_parts(struct hf_source *h, struct source_tensor *out, const struct tensor *t,
                      uint64_t count, uint64_t first, uint64_t bytes)
{
    if (count > UINT32_MAX)
        hf_fail(h, STATUS_LIMIT, "tensor %.*s has too many parts", STR_ARG(t->name));
    const void **parts = count <= UINT32_MAX ? hf_memory(h, count, sizeof *parts) : NULL;
    if (!parts)
        return;
    for (uint64_t i = 0; i < count; i++)
        parts[i] = (const uint8_t *)t->data + first + i * bytes;
    out->parts = parts;
    out->n_parts = (uint32_t)count;
}

/* ---- small ones -------------------------------------------------------------------------------- */

void hf_drop(struct hf_source *h, const struct hf_tensor *from, const char *gguf)
{
    (void)h;
    (void)from;
    (void)gguf; /* metadata says it */
}

/* Without an ending, as GGUF files of falcon-h1 have one of their norms. */
void hf_bare(struct hf_source *h, const struct hf_tensor *from, const char *gguf)
{
    char name[64];
    snprintf(name, sizeof name, "blk.%d.%s", from->place.layer, gguf);
    hf_add_named(h, from->tensor, name, from->tensor->n_dims, from->tensor->dims);
}

void hf_plus_one(struct hf_source *h, const struct hf_tensor *from, const char *gguf)
{
    struct source_tensor *out = hf_keep(h, from, gguf);
    if (out && !from->place.bias)
        out->add = 1.0f;
}

void hf_squeeze(struct hf_source *h, const struct hf_tensor *from, const char *gguf)
{
    uint64_t dims[TENSOR_DIMS_MAX];
    uint32_t n = squeezed(from->tensor, dims);
    hf_add(h, from, gguf, n, dims);
}

/* A of a recurrence. */
void hf_decay(struct hf_source *h, const struct hf_tensor *from, const char *gguf)
{
    struct source_tensor *out = hf_keep(h, from, gguf);
    if (out)
        out->map = MAP_NEGATIVE_EXP;
}

static struct source_tensor *as_column(struct source_tensor *out)
{
    if (!out || out->n_dims != 1)
        return out;
    items_as_rows(out);
    out->n_dims = 2;
    out->dims[1] = 1;
    return out;
}

/* Mamba 2's numbers of a head are columns. */
void hf_column(struct hf_source *h, const struct hf_tensor *from, const char *gguf)
{
    as_column(hf_keep(h, from, gguf));
}

void hf_decay_column(struct hf_source *h, const struct hf_tensor *from, const char *gguf)
{
    struct source_tensor *out = as_column(hf_keep(h, from, gguf));
    if (out)
        out->map = MAP_NEGATIVE_EXP;
}

/* [inner] -> [groups, inner / groups] */
void hf_group_norm(struct hf_source *h, const struct hf_tensor *from, const char *gguf)
{
    uint32_t groups = hf_u32(h, "mamba_n_groups|n_groups", 1);
    const struct tensor *t = from->tensor;
    if (t->n_dims != 1 || groups == 0 || t->dims[0] % groups) {
        bad_shape(h, t, "a vector of whole groups");
        return;
    }
    hf_add(h, from, gguf, 2, (uint64_t[TENSOR_DIMS_MAX]){groups, t->dims[0] / groups, 1, 1});
}

/* [in, out] -> [out, in] */
void hf_turn(struct hf_source *h, const struct hf_tensor *from, const char *gguf)
{
    const struct tensor *t = from->tensor;
    if (from->place.bias) {
        hf_keep(h, from, gguf);
        return;
    }
    if (t->n_dims != 2) {
        bad_shape(h, t, "a matrix");
        return;
    }
    struct source_tensor *out =
        hf_add(h, from, gguf, 2, (uint64_t[TENSOR_DIMS_MAX]){t->dims[1], t->dims[0], 1, 1});
    if (out)
        out->turned = t->dims[1];
}

/* RoBERTa's first positions are for padding. */
void hf_positions(struct hf_source *h, const struct hf_tensor *from, const char *gguf)
{
    const struct tensor *t = from->tensor;
    uint32_t skipped = hf_u32(h, "pad_token_id", 1);
    if (t->n_dims != 2 || skipped >= t->dims[0] || skipped + 1 >= t->dims[0]) {
        bad_shape(h, t, "a table of positions, with some behind pad_token_id");
        return;
    }
    skipped++;
    struct source_tensor *out = hf_add(
        h, from, gguf, 2, (uint64_t[TENSOR_DIMS_MAX]){t->dims[0] - skipped, t->dims[1], 1, 1});
    if (out)
        set_parts(h, out, t, 1, skipped * row_bytes(t, t->dims[1]), 0);
}

/* ---- rope pairs -------------------------------------------------------------------------------- */

void hf_pairs(struct hf_source *h, const struct hf_tensor *from, const char *gguf)
{
    struct source_tensor *out = hf_keep(h, from, gguf);
    uint32_t head = h->head_dim, half = head / 2;
    if (!out)
        return;
    items_as_rows(out);
    if (head == 0 || head % 2 || out->n_rows % head) {
        hf_fail(h, STATUS_MODEL, "tensor %.*s has no whole heads of %u rows",
                STR_ARG(from->tensor->name), head);
        return;
    }
    uint32_t *rows = new_rows(h, out);
    for (uint32_t r = 0; rows && r < out->n_rows; r++)
        rows[r] = r / head * head + r % head % 2 * half + r % head / 2;
}

/* [head][q, k, v] -> [q, k, v][head] */
void hf_qkv_by_head(struct hf_source *h, const struct hf_tensor *from, const char *gguf)
{
    struct source_tensor *out = hf_keep(h, from, gguf);
    uint32_t head = h->head_dim, heads = h->n_heads;
    if (!out)
        return;
    items_as_rows(out);
    if (out->n_rows != 3 * (uint64_t)heads * head) {
        bad_shape(h, from->tensor, "q, k and v of every head");
        return;
    }
    uint32_t *rows = new_rows(h, out);
    for (uint32_t r = 0; rows && r < out->n_rows; r++) {
        uint32_t part = r / (heads * head), in_part = r % (heads * head);
        rows[r] = (in_part / head * 3 + part) * head + in_part % head;
    }
}

/* ---- experts ----------------------------------------------------------------------------------- */

/* One half of [..., 2 n, in], gate first, under the name of its role. */
static void half(struct hf_source *h, const struct hf_tensor *from, const char *role, bool second)
{
    const struct tensor *t = from->tensor;
    uint64_t dims[TENSOR_DIMS_MAX];
    memcpy(dims, t->dims, sizeof dims);
    uint64_t n = dims[t->n_dims - 2] /= 2, bytes = n * row_bytes(t, dims[t->n_dims - 1]);
    struct source_tensor *out = hf_add(h, from, role, t->n_dims, dims);
    if (out)
        set_parts(h, out, t, t->n_dims == 3 ? t->dims[0] : 1, second ? bytes : 0, 2 * bytes);
}

static void halves(struct hf_source *h, const struct hf_tensor *from, const char *gate,
                   const char *up)
{
    const struct tensor *t = from->tensor;
    if (from->place.bias || t->n_dims < 2 || t->n_dims > 3 || t->dims[t->n_dims - 2] % 2) {
        bad_shape(h, t, "gate and up, one after the other");
        return;
    }
    half(h, from, gate, false);
    half(h, from, up, true);
}

void hf_halves(struct hf_source *h, const struct hf_tensor *from, const char *gguf)
{
    (void)gguf;
    halves(h, from, "ffn_gate_exps", "ffn_up_exps");
}

/* Granite's shared expert, which is the FFN where there are no others. */
void hf_shared_halves(struct hf_source *h, const struct hf_tensor *from, const char *gguf)
{
    (void)gguf;
    if (h->n_experts)
        halves(h, from, "ffn_gate_shexp", "ffn_up_shexp");
    else
        halves(h, from, "ffn_gate", "ffn_up");
}

void hf_shared_down(struct hf_source *h, const struct hf_tensor *from, const char *gguf)
{
    hf_keep(h, from, h->n_experts ? "ffn_down_shexp" : gguf);
}

/* gpt-oss: every second output is the gate's. Of plain types the inputs lie along the rows
 * [n, in, 2 ff], of block types the outputs [n, 2 ff, in]; biases [n, 2 ff]. */
static void alternate(struct hf_source *h, const struct hf_tensor *from, const char *role,
                      uint32_t first)
{
    const struct tensor *t = from->tensor;
    bool bias = from->place.bias;
    bool turned = !bias && tensor_type_info(t->type)->block_elements == 1;
    uint64_t n = t->dims[0], ff = t->dims[bias ? 1 : turned ? 2 : 1] / 2;
    uint64_t in = bias ? 1 : t->dims[turned ? 1 : 2];
    uint64_t part = t->bytes / n;
    struct source_tensor *out =
        hf_add(h, from, role, bias ? 2 : 3, (uint64_t[TENSOR_DIMS_MAX]){n, ff, in, 1});
    if (!out)
        return;
    out->n_rows = n * ff;
    out->row_values = in;
    out->turned = turned ? 2 * ff : 0;
    set_parts(h, out, t, n, 0, part);
    uint32_t *rows = new_rows(h, out);
    for (uint32_t r = 0; rows && r < ff; r++)
        rows[r] = 2 * r + first;
}

void hf_alternating(struct hf_source *h, const struct hf_tensor *from, const char *gguf)
{
    const struct tensor *t = from->tensor;
    (void)gguf;
    bool turned = tensor_type_info(t->type)->block_elements == 1;
    if (t->n_dims != (from->place.bias ? 2u : 3u) || t->dims[0] == 0 ||
        t->dims[from->place.bias || !turned ? 1 : 2] % 2) {
        bad_shape(h, t, "gate and up of all experts");
        return;
    }
    alternate(h, from, "ffn_gate_exps", 0);
    alternate(h, from, "ffn_up_exps", 1);
}

void hf_down_columns(struct hf_source *h, const struct hf_tensor *from, const char *gguf)
{
    const struct tensor *t = from->tensor;
    if (from->place.bias || t->n_dims != 3 || t->dims[0] == 0 ||
        tensor_type_info(t->type)->block_elements > 1) {
        hf_keep(h, from, gguf);
        return;
    }
    struct source_tensor *out = hf_add(
        h, from, gguf, 3, (uint64_t[TENSOR_DIMS_MAX]){t->dims[0], t->dims[2], t->dims[1], 1});
    if (!out)
        return;
    out->turned = t->dims[2];
    set_parts(h, out, t, t->dims[0], 0, t->bytes / t->dims[0]);
}

/* ---- latent attention -------------------------------------------------------------------------- */

/* [heads * (nope + value), rank] -> k_b [heads, rank, nope], v_b [heads, value, rank] */
void hf_latent(struct hf_source *h, const struct hf_tensor *from, const char *gguf)
{
    const struct tensor *t = from->tensor;
    uint64_t nope = hf_need(h, "qk_nope_head_dim"), value = hf_need(h, "v_head_dim");
    uint64_t heads = h->n_heads, rank = t->n_dims == 2 ? t->dims[1] : 0;
    (void)gguf;
    if (t->n_dims != 2 || nope == 0 || value == 0 || t->dims[0] != heads * (nope + value)) {
        bad_shape(h, t, "keys and values of every head");
        return;
    }
    uint64_t row = row_bytes(t, rank);
    struct source_tensor *k =
        hf_add(h, from, "attn_k_b", 3, (uint64_t[TENSOR_DIMS_MAX]){heads, rank, nope, 1});
    if (!k)
        return;
    k->turned = rank;
    set_parts(h, k, t, heads, 0, (nope + value) * row);
    struct source_tensor *v =
        hf_add(h, from, "attn_v_b", 3, (uint64_t[TENSOR_DIMS_MAX]){heads, value, rank, 1});
    if (v)
        set_parts(h, v, t, heads, nope * row, (nope + value) * row);
}

/* ---- stacks of numbered tensors ---------------------------------------------------------------- */

/* NAME.0, NAME.1, ... as one; called at each, works at 0. */
void hf_stack(struct hf_source *h, const struct hf_tensor *from, const char *gguf)
{
    const struct tensor *first = from->tensor;
    const void *parts[64];
    uint32_t n = 0;
    if (from->place.expert != 0)
        return;
    size_t digit = str_find(first->name, STR_LIT(".0"), 0);
    for (; n < 64 && digit != SIZE_MAX; n++) {
        char name[1100];
        snprintf(name, sizeof name, "%.*s.%u%.*s", (int)digit, first->name.data, n,
                 (int)(first->name.len - digit - 2), first->name.data + digit + 2);
        const struct tensor *t = checkpoint_tensor(h->source->checkpoint, name);
        if (!t)
            break;
        if (t->type != first->type || t->n_dims != 2 ||
            memcmp(t->dims, first->dims, sizeof t->dims) != 0) {
            bad_shape(h, t, "like the first of its kind");
            return;
        }
        parts[n] = t->data;
    }
    struct source_tensor *out =
        hf_add(h, from, gguf, 3, (uint64_t[TENSOR_DIMS_MAX]){n, first->dims[0], first->dims[1], 1});
    const void **copy = hf_memory(h, n, sizeof *copy);
    if (!out || !copy)
        return;
    memcpy(copy, parts, n * sizeof *parts);
    out->parts = copy;
    out->n_parts = n;
}

/* ---- falcon-h1 --------------------------------------------------------------------------------- */

static float multiplier(struct hf_source *h, const char *key, int item)
{
    const json_t *value = hf_find(h, key);
    if (item >= 0)
        value = json_array_get(value, (size_t)item);
    return json_is_number(value) ? (float)json_number_value(value) : 1.0f;
}

/* What the family multiplies results by, as factors of a matrix' rows. */
static float falcon_factor(struct hf_source *h, const char *role)
{
    float in = multiplier(h, "attention_in_multiplier", -1);
    if (strcmp(role, "attn_q") == 0 || strcmp(role, "attn_v") == 0)
        return in;
    if (strcmp(role, "attn_k") == 0)
        return in * multiplier(h, "key_multiplier", -1);
    if (strcmp(role, "attn_output") == 0)
        return multiplier(h, "attention_out_multiplier", -1);
    if (strcmp(role, "ffn_gate") == 0)
        return multiplier(h, "mlp_multipliers", 0);
    if (strcmp(role, "ffn_down") == 0)
        return multiplier(h, "mlp_multipliers", 1);
    if (strcmp(role, "ssm_in") == 0)
        return multiplier(h, "ssm_in_multiplier", -1);
    if (strcmp(role, "ssm_out") == 0)
        return multiplier(h, "ssm_out_multiplier", -1);
    if (strcmp(role, "output") == 0)
        return multiplier(h, "lm_head_multiplier", -1);
    return multiplier(h, "embedding_multiplier", -1); /* token_embd */
}

/* Of the input projection's rows: z, x, B, C, dt. */
static uint32_t falcon_part(struct hf_source *h, uint64_t row)
{
    uint64_t inner = (uint64_t)hf_u32(h, "mamba_n_heads", 0) * hf_u32(h, "mamba_d_head", 0);
    uint64_t group = (uint64_t)hf_u32(h, "mamba_n_groups", 1) * hf_u32(h, "mamba_d_state", 0);
    const uint64_t ends[] = {inner, 2 * inner, 2 * inner + group, 2 * inner + 2 * group};
    uint32_t part = 0;
    while (part < 4 && row >= ends[part])
        part++;
    return part;
}

void hf_falcon(struct hf_source *h, const struct hf_tensor *from, const char *gguf)
{
    struct source_tensor *out = hf_keep(h, from, gguf);
    bool by_part = strcmp(from->place.role, "ssm_in") == 0, plain = true;
    if (!out)
        return;
    items_as_rows(out);
    float *scales = hf_memory(h, out->n_rows, sizeof *scales);
    for (uint64_t r = 0; scales && r < out->n_rows; r++) {
        scales[r] = falcon_factor(h, from->place.role);
        if (by_part)
            scales[r] *= multiplier(h, "ssm_multipliers", (int)falcon_part(h, r));
        plain &= scales[r] == 1.0f;
    }
    out->scales = plain ? NULL : scales;
}

/* ---- gated delta nets -------------------------------------------------------------------------- */

struct delta_sizes {
    uint32_t keys, values, k_dim, v_dim; /* heads, and columns of one */
};

static struct delta_sizes delta_sizes(struct hf_source *h)
{
    struct delta_sizes s = {.keys = hf_need(h, "linear_num_key_heads"),
                            .values = hf_need(h, "linear_num_value_heads"),
                            .k_dim = hf_need(h, "linear_key_head_dim"),
                            .v_dim = hf_need(h, "linear_value_head_dim")};
    if (s.keys == 0 || s.values == 0 || s.values % s.keys || s.keys > 1u << 12 ||
        s.values > 1u << 12 || s.k_dim > 1u << 12 || s.v_dim > 1u << 12) {
        hf_fail(h, STATUS_MODEL,
                "config.json: linear_num_value_heads %u over linear_num_key_heads %u", s.values,
                s.keys);
        s = (struct delta_sizes){1, 1, 0, 0};
    }
    return s;
}

/* [key head][q, k, v's, z's] -> "attn_qkv" [q][k][v] and "attn_gate" [z], value heads in order. */
void hf_qkvz(struct hf_source *h, const struct hf_tensor *from, const char *gguf)
{
    const struct tensor *t = from->tensor;
    struct delta_sizes s = delta_sizes(h);
    uint32_t each = s.values / s.keys * s.v_dim, group = 2 * s.k_dim + 2 * each;
    uint32_t keys = s.keys * s.k_dim, values = s.values * s.v_dim;
    (void)gguf;
    if (t->n_dims != 2 || t->dims[0] != (uint64_t)s.keys * group) {
        bad_shape(h, t, "q, k, v and z of every key head");
        return;
    }
    struct source_tensor *qkv =
        hf_add(h, from, "attn_qkv", 2,
               (uint64_t[TENSOR_DIMS_MAX]){2 * (uint64_t)keys + values, t->dims[1], 1, 1});
    uint32_t *rows = qkv ? new_rows(h, qkv) : NULL;
    if (!rows)
        return;
    for (uint32_t r = 0; r < keys; r++) {
        rows[r] = r / s.k_dim * group + r % s.k_dim;
        rows[keys + r] = rows[r] + s.k_dim;
    }
    for (uint32_t r = 0; r < values; r++)
        rows[2 * keys + r] = r / each * group + 2 * s.k_dim + r % each;
    struct source_tensor *z =
        hf_add(h, from, "attn_gate", 2, (uint64_t[TENSOR_DIMS_MAX]){values, t->dims[1], 1, 1});
    uint32_t *gate = z ? new_rows(h, z) : NULL;
    for (uint32_t r = 0; gate && r < values; r++)
        gate[r] = rows[2 * keys + r] + each;
}

/* Where value `at` of the tiled order is stored; heads of `width`. */
static uint32_t untiled(const struct delta_sizes *s, uint32_t width, uint32_t at)
{
    uint32_t head = at / width, key = head % s->keys, tile = head / s->keys;
    return (key * (s->values / s->keys) + tile) * width + at % width;
}

/* Rows, behind those of q and k where there are any, or columns of "ssm_out". */
void hf_value_heads(struct hf_source *h, const struct hf_tensor *from, const char *gguf)
{
    uint64_t dims[TENSOR_DIMS_MAX];
    struct delta_sizes s = delta_sizes(h);
    const char *role = from->place.role;
    uint32_t n = squeezed(from->tensor, dims);
    struct source_tensor *out = hf_add(h, from, gguf, n, dims);
    if (!out)
        return;
    bool columns = strcmp(role, "ssm_out") == 0;
    bool keys = strcmp(role, "attn_qkv") == 0 || strcmp(role, "ssm_conv1d") == 0;
    bool single = hf_listed("ssm_a|ssm_dt|ssm_alpha|ssm_beta", role);
    uint32_t width = single ? 1 : s.v_dim, before = keys ? 2 * s.keys * s.k_dim : 0;
    out->map = strcmp(role, "ssm_a") == 0 ? MAP_NEGATIVE_EXP : MAP_NONE;
    items_as_rows(out);
    uint64_t total = columns ? out->row_values : out->n_rows;
    if (total != before + (uint64_t)s.values * width) {
        bad_shape(h, from->tensor, "of as many value heads as config.json says");
        return;
    }
    if (s.values == s.keys)
        return;
    uint32_t *order = hf_memory(h, total, sizeof *order);
    for (uint32_t i = 0; order && i < total; i++)
        order[i] = i < before ? i : before + untiled(&s, width, i - before);
    if (columns)
        out->columns = order;
    else
        out->rows = order;
}
