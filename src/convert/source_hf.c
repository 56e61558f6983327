/*
 * A Hugging Face folder as a source: its tensors under their GGUF names, its config as metadata.
 *
 * Known are the decoders whose GGUF form differs from the folder's by names, stacked experts and the
 * order of rope rows only: llama, mistral, qwen2, qwen3, qwen3_moe. A tensor without a place, a rope
 * scaling or an option that GGUF cannot say for these is an error, never left out.
 *
 * GGUF files of llama store the rows of q and k so that rope pairs are neighbours, where the folder
 * has the halves of a head one after the other: `interleave` turns them round on reading.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "convert/source.h"
#include "convert/source_hf.h"

#define NAME_BYTES 256
#define TWO_PI     6.283185307179586

static const struct hf_family families[] = {
    {"llama", "llama", true},  {"mistral", "llama", true},       {"qwen2", "qwen2", false},
    {"qwen3", "qwen3", false}, {"qwen3_moe", "qwen3moe", false},
};

/* Below "model." and "model.layers.N."; suffixes (.weight, .bias) are kept. */
static const struct {
    const char *hf, *gguf;
} global_names[] = {{"embed_tokens", "token_embd"}, {"norm", "output_norm"}};
static const struct {
    const char *hf, *gguf;
} layer_names[] = {
    {"input_layernorm", "attn_norm"},    {"self_attn.q_proj", "attn_q"},
    {"self_attn.k_proj", "attn_k"},      {"self_attn.v_proj", "attn_v"},
    {"self_attn.o_proj", "attn_output"}, {"self_attn.q_norm", "attn_q_norm"},
    {"self_attn.k_norm", "attn_k_norm"}, {"post_attention_layernorm", "ffn_norm"},
    {"mlp.gate_proj", "ffn_gate"},       {"mlp.up_proj", "ffn_up"},
    {"mlp.down_proj", "ffn_down"},       {"mlp.gate", "ffn_gate_inp"},
};
static const struct {
    const char *hf, *gguf;
} expert_names[] = {
    {"gate_proj", "ffn_gate_exps"}, {"up_proj", "ffn_up_exps"}, {"down_proj", "ffn_down_exps"}};

/* ---- config ------------------------------------------------------------------------------------ */

static enum status read_u32(const json_t *config, const char *key, bool needed, uint32_t *out,
                            struct error *err)
{
    const json_t *value = json_object_get(config, key);
    if (!value || json_is_null(value))
        return needed ? error_set(err, STATUS_MODEL, "config.json: %s is missing", key) : STATUS_OK;
    json_int_t number = json_integer_value(value);
    if (!json_is_integer(value) || number < 0 || number > UINT32_MAX)
        return error_set(err, STATUS_MODEL, "config.json: %s is not a whole number in range", key);
    *out = (uint32_t)number;
    return STATUS_OK;
}

static enum status cannot(const char *what, struct error *err)
{
    return error_set(err, STATUS_UNSUPPORTED,
                     "config.json: %s, which quantize cannot write as GGUF yet; start from a GGUF "
                     "file of the model",
                     what);
}

static const json_t *rope_object(const json_t *config)
{
    const json_t *rope = json_object_get(config, "rope_parameters");
    return json_is_object(rope) ? rope : json_object_get(config, "rope_scaling");
}

static enum status read_rope(const json_t *config, struct hf_source *h, struct error *err)
{
    const json_t *rope = rope_object(config);
    const json_t *theta = json_object_get(rope, "rope_theta");
    if (!theta)
        theta = json_object_get(config, "rope_theta");
    h->rope_theta = json_is_number(theta) ? json_number_value(theta) : 10000.0;
    const char *kind = json_string_value(json_object_get(rope, "rope_type"));
    if (!kind)
        kind = json_string_value(json_object_get(rope, "type"));
    if (!kind || strcmp(kind, "default") == 0)
        return STATUS_OK;
    h->rope_factor = json_number_value(json_object_get(rope, "factor"));
    if (!(h->rope_factor > 0.0))
        return error_set(err, STATUS_MODEL, "config.json: rope scaling without a factor");
    if (strcmp(kind, "linear") == 0) {
        h->rope_kind = "linear";
        return STATUS_OK;
    }
    if (strcmp(kind, "llama3") != 0)
        return cannot("a rope scaling other than linear or llama3", err);
    h->llama3 = true;
    h->low_freq = json_number_value(json_object_get(rope, "low_freq_factor"));
    h->high_freq = json_number_value(json_object_get(rope, "high_freq_factor"));
    h->original = json_number_value(json_object_get(rope, "original_max_position_embeddings"));
    if (!(h->low_freq > 0.0 && h->high_freq > h->low_freq && h->original > 0.0))
        return error_set(err, STATUS_MODEL, "config.json: llama3 rope scaling is incomplete");
    return STATUS_OK;
}

/* What the GGUF form has no key for. */
static enum status check_options(const json_t *config, const struct hf_source *h, struct error *err)
{
    const char *act = json_string_value(json_object_get(config, "hidden_act"));
    const char *model_class =
        json_string_value(json_array_get(json_object_get(config, "architectures"), 0));
    if (act && strcmp(act, "silu") != 0)
        return cannot("another activation than silu", err);
    if (json_is_true(json_object_get(config, "use_sliding_window")))
        return cannot("use_sliding_window is true", err);
    if (h->n_experts && !json_is_true(json_object_get(config, "norm_topk_prob")))
        return cannot("norm_topk_prob is not true", err);
    if (model_class && str_ends(str_from(model_class), STR_LIT("Model")))
        return cannot("an embedding model", err);
    return STATUS_OK;
}

static enum status read_config(struct hf_source *h, const json_t *config, struct error *err)
{
    const struct {
        const char *key;
        bool needed;
        uint32_t *out;
    } numbers[] = {
        {"num_hidden_layers", true, &h->n_layers},
        {"hidden_size", true, &h->width},
        {"intermediate_size", true, &h->n_ff},
        {"num_attention_heads", true, &h->n_heads},
        {"num_key_value_heads", false, &h->n_kv_heads},
        {"head_dim", false, &h->head_dim},
        {"max_position_embeddings", false, &h->n_context},
        {"num_experts", false, &h->n_experts},
        {"num_experts_per_tok", false, &h->n_experts_used},
        {"moe_intermediate_size", false, &h->expert_ff},
        {"sliding_window", false, &h->window},
    };
    enum status status = STATUS_OK;
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers && status == STATUS_OK; i++)
        status = read_u32(config, numbers[i].key, numbers[i].needed, numbers[i].out, err);
    if (status == STATUS_OK && h->n_experts == 0)
        status = read_u32(config, "num_local_experts", false, &h->n_experts, err);
    if (status != STATUS_OK)
        return status;
    if (h->n_layers == 0 || h->n_layers > 1024 || h->n_heads == 0 || h->width == 0 ||
        h->n_experts > 16384)
        return error_set(err, STATUS_MODEL, "config.json: a model of %u layers, %u heads, width %u",
                         h->n_layers, h->n_heads, h->width);
    h->n_kv_heads = h->n_kv_heads ? h->n_kv_heads : h->n_heads;
    h->head_dim = h->head_dim ? h->head_dim : h->width / h->n_heads;
    h->n_context = h->n_context ? h->n_context : 2048;
    if (strcmp(h->family->gguf, "llama") != 0)
        h->window = 0; /* qwen's configs name one that use_sliding_window switches off */
    const json_t *eps = json_object_get(config, "rms_norm_eps");
    h->norm_eps = json_is_number(eps) ? json_number_value(eps) : 1e-6;
    status = read_rope(config, h, err);
    return status == STATUS_OK ? check_options(config, h, err) : status;
}

/* ---- tensors ----------------------------------------------------------------------------------- */

/* "NAME.weight" or "NAME.bias" of a table entry: its GGUF name with the suffix, into out. */
static bool translate(struct str name, const char *hf, const char *prefix, const char *gguf,
                      char out[NAME_BYTES])
{
    size_t n = strlen(hf);
    if (!str_starts(name, str_from(hf)) || name.len <= n || name.data[n] != '.')
        return false;
    struct str suffix = {name.data + n, name.len - n};
    if (!str_eq_cstr(suffix, ".weight") && !str_eq_cstr(suffix, ".bias"))
        return false;
    snprintf(out, NAME_BYTES, "%s%s%.*s", prefix, gguf, STR_ARG(suffix));
    return true;
}

/* A number and a dot at the start of *name, taken off. */
static bool take_number(struct str *name, uint32_t *out)
{
    size_t i = 0;
    *out = 0;
    while (i < name->len && i < 6 && name->data[i] >= '0' && name->data[i] <= '9')
        *out = 10 * *out + (uint32_t)(name->data[i++] - '0');
    if (i == 0 || i >= name->len || name->data[i] != '.')
        return false;
    *name = (struct str){name->data + i + 1, name->len - i - 1};
    return true;
}

static bool take_prefix(struct str *name, const char *prefix)
{
    if (!str_starts(*name, str_from(prefix)))
        return false;
    *name = (struct str){name->data + strlen(prefix), name->len - strlen(prefix)};
    return true;
}

/* GGUF's name; *expert is the expert's number, or UINT32_MAX. False: unknown. */
static bool gguf_name(struct str name, uint32_t *expert, char out[NAME_BYTES])
{
    uint32_t layer;
    char prefix[32];
    *expert = UINT32_MAX;
    if (translate(name, "lm_head", "", "output", out))
        return true;
    if (!take_prefix(&name, "model."))
        return false;
    for (size_t i = 0; i < sizeof global_names / sizeof *global_names; i++)
        if (translate(name, global_names[i].hf, "", global_names[i].gguf, out))
            return true;
    if (!take_prefix(&name, "layers.") || !take_number(&name, &layer))
        return false;
    snprintf(prefix, sizeof prefix, "blk.%u.", layer);
    for (size_t i = 0; i < sizeof layer_names / sizeof *layer_names; i++)
        if (translate(name, layer_names[i].hf, prefix, layer_names[i].gguf, out))
            return true;
    if (!take_prefix(&name, "mlp.experts.") || !take_number(&name, expert))
        return false;
    for (size_t i = 0; i < sizeof expert_names / sizeof *expert_names; i++)
        if (translate(name, expert_names[i].hf, prefix, expert_names[i].gguf, out))
            return true;
    return false;
}

static enum status no_memory(struct error *err)
{
    return error_set(err, STATUS_MEMORY, "out of memory for the folder's tensors");
}

static enum status fill(struct source *s, const struct hf_source *h, struct source_tensor *out,
                        const struct tensor *t, const char *name, struct error *err)
{
    bool q = str_find(str_from(name), STR_LIT(".attn_q."), 0) != SIZE_MAX;
    bool k = str_find(str_from(name), STR_LIT(".attn_k."), 0) != SIZE_MAX;
    const void **parts = arena_alloc(&s->arena, 1, sizeof *parts);
    char *copy = arena_copy_cstr(&s->arena, name);
    if (!parts || !copy)
        return no_memory(err);
    parts[0] = t->data;
    *out = (struct source_tensor){.name = str_from(copy),
                                  .n_dims = t->n_dims,
                                  .n_rows = 1,
                                  .row_values = t->n_dims ? t->dims[t->n_dims - 1] : 1,
                                  .type = t->type,
                                  .parts = parts,
                                  .n_parts = 1};
    memcpy(out->dims, t->dims, sizeof out->dims);
    for (uint32_t d = 0; d + 1 < t->n_dims; d++)
        out->n_rows *= t->dims[d];
    if (!h->family->interleaved || !(q || k))
        return STATUS_OK;
    if (t->n_dims == 1) { /* a bias: its values are the rows */
        out->n_rows = t->dims[0];
        out->row_values = 1;
    }
    out->interleave = h->head_dim;
    if (h->head_dim % 2 || out->n_rows % h->head_dim)
        return error_set(err, STATUS_MODEL, "tensor %.*s has no whole heads of %u rows",
                         STR_ARG(t->name), h->head_dim);
    return STATUS_OK;
}

/* All experts of one role and layer; called at expert 0. */
static enum status fill_experts(struct source *s, const struct hf_source *h,
                                struct source_tensor *out, const struct tensor *first,
                                const char *name, struct error *err)
{
    const void **parts = arena_alloc(&s->arena, h->n_experts ? h->n_experts : 1, sizeof *parts);
    size_t at = str_find(first->name, STR_LIT(".experts.0."), 0) + 9;
    enum status status = fill(s, h, out, first, name, err);
    if (status == STATUS_OK && h->n_experts == 0)
        status = error_set(err, STATUS_MODEL, "config.json: num_experts is missing");
    if (status != STATUS_OK || !parts)
        return status == STATUS_OK ? no_memory(err) : status;
    for (uint32_t e = 0; e < h->n_experts; e++) {
        char full[1100];
        snprintf(full, sizeof full, "%.*s%u%.*s", (int)at, first->name.data, e,
                 (int)(first->name.len - at - 1), first->name.data + at + 1);
        const struct tensor *t = checkpoint_tensor(s->checkpoint, full);
        if (!t || t->type != first->type || t->n_dims != 2 || first->n_dims != 2 ||
            memcmp(t->dims, first->dims, sizeof t->dims) != 0)
            return error_set(err, STATUS_MODEL, "tensor %s is missing or unlike expert 0's", full);
        parts[e] = t->data;
    }
    out->n_dims = 3;
    out->dims[2] = out->dims[1];
    out->dims[1] = out->dims[0];
    out->dims[0] = h->n_experts;
    out->n_rows *= h->n_experts;
    out->parts = parts;
    out->n_parts = h->n_experts;
    return STATUS_OK;
}

static enum status add_rope(struct source *s, const struct hf_source *h, struct error *err)
{
    uint32_t pairs = h->head_dim / 2;
    float *divisors = arena_alloc(&s->arena, pairs ? pairs : 1, sizeof *divisors);
    const void **parts = arena_alloc(&s->arena, 1, sizeof *parts);
    if (!divisors || !parts)
        return no_memory(err);
    for (uint32_t i = 0; i < pairs; i++) {
        double wave = TWO_PI * pow(h->rope_theta, 2.0 * i / h->head_dim);
        double blend = (h->original / wave - h->low_freq) / (h->high_freq - h->low_freq);
        double divisor = h->rope_factor;
        if (blend >= 1.0)
            divisor = 1.0;
        else if (blend > 0.0)
            divisor = 1.0 / ((1.0 - blend) / h->rope_factor + blend);
        divisors[i] = (float)divisor;
    }
    parts[0] = divisors;
    s->tensors[s->n_tensors++] = (struct source_tensor){.name = STR_LIT("rope_freqs.weight"),
                                                        .n_dims = 1,
                                                        .dims = {pairs, 1, 1, 1},
                                                        .n_rows = 1,
                                                        .row_values = pairs,
                                                        .type = TENSOR_F32,
                                                        .parts = parts,
                                                        .n_parts = 1};
    return STATUS_OK;
}

static bool unneeded(struct str name, bool tied, bool has_embedding)
{
    return str_ends(name, STR_LIT("rotary_emb.inv_freq")) ||
           (tied && has_embedding && str_eq_cstr(name, "lm_head.weight"));
}

static enum status add_tensors(struct source *s, const struct hf_source *h, struct error *err)
{
    size_t n = checkpoint_tensor_count(s->checkpoint);
    bool tied =
        json_is_true(json_object_get(checkpoint_config(s->checkpoint), "tie_word_embeddings"));
    bool embedding = checkpoint_tensor(s->checkpoint, "model.embed_tokens.weight") != NULL;
    s->model.tied = tied || !checkpoint_tensor(s->checkpoint, "lm_head.weight");
    s->tensors = arena_alloc(&s->arena, n + 1, sizeof *s->tensors);
    if (!s->tensors)
        return no_memory(err);
    enum status status = h->llama3 ? add_rope(s, h, err) : STATUS_OK;
    for (size_t i = 0; i < n && status == STATUS_OK; i++) {
        const struct tensor *t = checkpoint_tensor_at(s->checkpoint, i);
        char name[NAME_BYTES];
        uint32_t expert;
        if (unneeded(t->name, tied, embedding))
            continue;
        if (!gguf_name(t->name, &expert, name))
            return error_set(err, STATUS_UNSUPPORTED,
                             "tensor %.*s has no place in a GGUF file of %s that quantize knows",
                             STR_ARG(t->name), h->family->gguf);
        if (tied && !embedding && strcmp(name, "output.weight") == 0)
            snprintf(name, sizeof name, "token_embd.weight");
        if (expert != UINT32_MAX && expert != 0)
            continue; /* with expert 0 */
        struct source_tensor *out = &s->tensors[s->n_tensors++];
        status =
            expert == 0 ? fill_experts(s, h, out, t, name, err) : fill(s, h, out, t, name, err);
    }
    return status;
}

/* ---- all --------------------------------------------------------------------------------------- */

enum status source_from_hf(struct source *s, struct error *err)
{
    const json_t *config = checkpoint_config(s->checkpoint);
    const char *type = json_string_value(json_object_get(config, "model_type"));
    struct hf_source *h = arena_alloc(&s->arena, 1, sizeof *h);
    if (!h)
        return no_memory(err);
    for (size_t i = 0; type && i < sizeof families / sizeof *families; i++)
        if (strcmp(families[i].hf, type) == 0)
            h->family = &families[i];
    if (!h->family)
        return error_set(err, STATUS_UNSUPPORTED,
                         "%s: model_type \"%.64s\" cannot be quantized from a folder (llama, "
                         "mistral, qwen2, qwen3 and qwen3_moe can): start from a GGUF file of it",
                         checkpoint_path(s->checkpoint), type ? type : "");
    enum status status = read_config(h, config, err);
    if (status == STATUS_OK)
        status = add_tensors(s, h, err);
    if (status != STATUS_OK)
        return error_prefix(err, "%s", checkpoint_path(s->checkpoint));
    s->model.n_layers = h->n_layers;
    s->model.n_experts = h->n_experts;
    s->model.heads_per_kv = h->n_heads / h->n_kv_heads;
    s->hf = h;
    s->metadata = hf_metadata;
    return STATUS_OK;
}
