/* A folder's hyperparameters as GGUF metadata: what all families have, then the family's own. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "convert/hf.h"
#include "format/gguf_writer.h"
#include "model/pooling.h"

struct keys {
    struct gguf_writer *w;
    const char *prefix;
    char key[160];
};

static const char *key(struct keys *k, const char *name)
{
    snprintf(k->key, sizeof k->key, "%s.%s", k->prefix, name);
    return k->key;
}

static void put_u32(struct keys *k, const char *name, uint32_t value)
{
    gguf_writer_u32(k->w, key(k, name), value);
}

static void put_f32(struct keys *k, const char *name, double value)
{
    gguf_writer_f32(k->w, key(k, name), (float)value);
}

/* ---- rope -------------------------------------------------------------------------------------- */

static void write_yarn(const struct hf_source *h, struct keys *k)
{
    const struct hf_rope *r = &h->rope;
    double grown = 1.0 + 0.1 * log(r->factor > 1.0 ? r->factor : 1.0);
    put_u32(k, "rope.scaling.original_context_length", (uint32_t)r->original);
    put_f32(k, "rope.scaling.yarn_beta_fast", r->beta_fast);
    put_f32(k, "rope.scaling.yarn_beta_slow", r->beta_slow);
    if (r->attention > 0.0) /* GGUF's factor is on top of the formula's */
        put_f32(k, "rope.scaling.attn_factor", r->attention / grown);
}

/* The base of layers with a window, where the config has one. */
static void write_local_base(const struct hf_source *h, struct keys *k)
{
    const json_t *local = json_object_get(hf_find(h, "rope_parameters"), "sliding_attention");
    const json_t *base = json_object_get(local, "rope_theta");
    if (!base)
        base = hf_find(h, "rope_local_base_freq|local_rope_theta");
    if (json_is_number(base))
        put_f32(k, "rope.freq_base_swa", json_number_value(base));
}

static void write_rope(const struct hf_source *h, struct keys *k)
{
    const struct hf_rope *r = &h->rope;
    put_f32(k, "rope.freq_base", r->theta);
    write_local_base(h, k);
    if (!(h->family->traits & HF_OWN_HEADS))
        put_u32(k, "rope.dimension_count", r->dims);
    if (!r->kind || strcmp(r->kind, "llama3") == 0)
        return; /* llama3: a tensor says it */
    gguf_writer_str(k->w, key(k, "rope.scaling.type"), str_from(r->kind));
    if (strcmp(r->kind, "longrope") != 0)
        put_f32(k, "rope.scaling.factor", r->factor);
    if (strcmp(r->kind, "yarn") == 0)
        write_yarn(h, k);
}

/* ---- sizes ------------------------------------------------------------------------------------- */

static void write_kv_by_layer(const struct hf_source *h, struct keys *k)
{
    gguf_writer_array(k->w, key(k, "attention.head_count_kv"), GGUF_I32, h->n_layers);
    for (uint32_t i = 0; i < h->n_layers; i++) {
        char name[64];
        snprintf(name, sizeof name, "blk.%u.attn_k.weight", i);
        gguf_writer_item_u32(k->w, hf_has(h, name) ? h->n_kv_heads : 0);
    }
}

static void write_heads(const struct hf_source *h, struct keys *k)
{
    put_u32(k, "attention.head_count", h->n_heads);
    if (h->n_heads == 0 || (h->family->traits & HF_OWN_HEADS))
        return;
    if (h->family->traits & HF_KV_BY_LAYER)
        write_kv_by_layer(h, k);
    else
        put_u32(k, "attention.head_count_kv", h->n_kv_heads);
    put_u32(k, "attention.key_length", h->head_dim);
    put_u32(k, "attention.value_length", h->head_dim);
}

/* One number, or one for each layer. lfm2's configs give the width before it is rounded. */
static void write_ffn(struct hf_source *h, struct keys *k)
{
    const json_t *list = hf_find(h, "intermediate_size");
    const struct source *s = h->source;
    uint32_t width = h->n_ff;
    if (json_is_array(list)) {
        gguf_writer_array(k->w, key(k, "feed_forward_length"), GGUF_I32, h->n_layers);
        for (uint32_t i = 0; i < h->n_layers; i++)
            gguf_writer_item_u32(k->w, hf_item(h, "intermediate_size", i, 0));
        return;
    }
    for (size_t i = 0; i < s->n_tensors && strcmp(k->prefix, "lfm2") == 0; i++)
        if (str_eq_cstr(s->tensors[i].name, "blk.0.ffn_gate.weight"))
            width = (uint32_t)s->tensors[i].dims[0];
    if (width == 0 && h->n_heads && (h->family->traits & HF_LAYER_NORM))
        width = 4 * h->width; /* gpt2's configs leave it out */
    put_u32(k, "feed_forward_length", width);
}

static void write_hyper(struct hf_source *h, struct keys *k)
{
    unsigned traits = h->family->traits;
    put_u32(k, "block_count", h->n_layers);
    put_u32(k, "context_length", h->n_context);
    put_u32(k, "embedding_length", h->width);
    if (!(traits & HF_OWN_FFN))
        write_ffn(h, k);
    write_heads(h, k);
    put_f32(k, "attention.layer_norm_rms_epsilon", h->norm_eps);
    if (traits & HF_LAYER_NORM)
        put_f32(k, "attention.layer_norm_epsilon", h->norm_eps);
    if (!(traits & HF_NO_ROPE))
        write_rope(h, k);
    if (h->n_vocab)
        put_u32(k, "vocab_size", h->n_vocab);
    if (!h->n_experts)
        return;
    put_u32(k, "expert_count", h->n_experts);
    put_u32(k, "expert_used_count", h->n_experts_used);
    if (h->expert_ff)
        put_u32(k, "expert_feed_forward_length", h->expert_ff);
}

static void write_value(struct hf_source *h, struct keys *k, const struct hf_value *v)
{
    bool there = v->hf && v->kind != HF_IS_TEXT && hf_find(h, v->hf);
    const char *name = key(k, v->key);
    if (strncmp(v->key, "tokenizer.", 10) == 0)
        name = v->key;
    if ((v->kind == HF_U32 || v->kind == HF_F32 || v->kind == HF_BOOL) && !there && v->number < 0)
        return;
    switch (v->kind) {
    case HF_U32:
        gguf_writer_u32(k->w, name, there ? hf_u32(h, v->hf, 0) : (uint32_t)v->number);
        break;
    case HF_NEED:
        gguf_writer_u32(k->w, name, hf_need(h, v->hf));
        break;
    case HF_F32:
        gguf_writer_f32(k->w, name, (float)hf_f64(h, v->hf, v->number));
        break;
    case HF_BOOL:
        gguf_writer_bool(k->w, name, hf_bool(h, v->hf, v->number != 0.0));
        break;
    case HF_IS_U32:
        gguf_writer_u32(k->w, name, (uint32_t)v->number);
        break;
    case HF_IS_BOOL:
        gguf_writer_bool(k->w, name, v->number != 0.0);
        break;
    case HF_IS_TEXT:
        gguf_writer_str(k->w, name, str_from(v->hf));
        break;
    case HF_MUST:
        break; /* checked when the folder was opened */
    }
}

/* ---- general ----------------------------------------------------------------------------------- */

static void write_general(const struct source *s, struct gguf_writer *w)
{
    static const struct {
        const char *hf, *gguf;
    } sampling[] = {{"temperature", "general.sampling.temp"},
                    {"top_p", "general.sampling.top_p"},
                    {"min_p", "general.sampling.min_p"},
                    {"repetition_penalty", "general.sampling.penalty_repeat"}};
    const json_t *defaults = checkpoint_generation_config(s->checkpoint);
    struct str path = str_from(checkpoint_path(s->checkpoint));
    while (path.len > 1 && path.data[path.len - 1] == '/')
        path.len--;
    size_t start = path.len;
    while (start > 0 && path.data[start - 1] != '/')
        start--;
    gguf_writer_str(w, "general.architecture", str_from(s->hf->family->gguf));
    gguf_writer_str(w, "general.name", (struct str){path.data + start, path.len - start});
    for (size_t i = 0; i < sizeof sampling / sizeof *sampling; i++) {
        const json_t *value = json_object_get(defaults, sampling[i].hf);
        if (json_is_number(value))
            gguf_writer_f32(w, sampling[i].gguf, (float)json_number_value(value));
    }
    json_int_t top_k = json_integer_value(json_object_get(defaults, "top_k"));
    if (top_k > 0 && top_k <= INT32_MAX)
        gguf_writer_u32(w, "general.sampling.top_k", (uint32_t)top_k);
}

/* How the makers of an embedding model pool, where they say. */
static enum status write_pooling(const struct source *s, struct keys *k, struct error *err)
{
    static const uint32_t numbers[] = {[MODEL_POOLING_NONE] = 0,
                                       [MODEL_POOLING_MEAN] = 1,
                                       [MODEL_POOLING_FIRST] = 2,
                                       [MODEL_POOLING_LAST] = 3};
    enum model_pooling pooling;
    enum status status = pooling_read(s->checkpoint, str_from(k->prefix),
                                      (s->hf->family->traits & HF_ENCODER) != 0, &pooling, err);
    if (status == STATUS_OK && pooling != MODEL_POOLING_NONE)
        put_u32(k, "pooling_type", numbers[pooling]);
    return status;
}

enum status hf_metadata(const struct source *s, struct gguf_writer *w, struct error *err)
{
    struct hf_source *h = s->hf;
    struct keys k = {.w = w, .prefix = h->family->gguf};
    write_general(s, w);
    write_hyper(h, &k);
    for (const struct hf_value *v = h->family->values; v && v->key; v++)
        write_value(h, &k, v);
    if (h->family->more)
        h->family->more(h, w);
    if (h->problem.status != STATUS_OK)
        return error_set(err, h->problem.status, "%s: %s", checkpoint_path(s->checkpoint),
                         h->problem.message);
    enum status status = write_pooling(s, &k, err);
    return status == STATUS_OK ? hf_write_vocabulary(s, w, err) : status;
}
