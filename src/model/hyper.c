/*
 * Hyperparameters: one reading function per kind of value, over GGUF metadata and config.json alike.
 * GGUF lists may stand where a number is expected when layers differ; so may HF's.
 */
#include <math.h>
#include <string.h>

#include "format/gguf.h"
#include "model/build.h"

static const struct gguf_value *gguf_value(struct build *b, const char *key)
{
    if (!b->gguf || !key)
        return NULL;
    char *full = arena_printf(&b->arena, "%s.%s", b->gguf_prefix, key);
    return full ? gguf_find(checkpoint_gguf(b->checkpoint), full) : NULL;
}

/* What GPT-2's generation of configs calls the same things. */
static const struct {
    const char *key, *old;
} old_keys[] = {
    {"num_hidden_layers", "n_layer"},           {"hidden_size", "n_embd"},
    {"num_attention_heads", "n_head"},          {"intermediate_size", "n_inner"},
    {"max_position_embeddings", "n_positions"},
};

static const json_t *hf_value(struct build *b, const char *key)
{
    const json_t *value = b->gguf || !key ? NULL : json_object_get(b->config, key);
    for (size_t i = 0; !b->gguf && key && !value && i < sizeof old_keys / sizeof *old_keys; i++)
        if (strcmp(key, old_keys[i].key) == 0)
            value = json_object_get(b->config, old_keys[i].old);
    return json_is_null(value) ? NULL : value;
}

static const char *key_name(const struct build *b, const char *gguf_key, const char *hf_key)
{
    const char *key = b->gguf ? gguf_key : hf_key;
    return key ? key : "(no key)";
}

bool build_has(struct build *b, const char *gguf_key, const char *hf_key)
{
    return b->gguf ? gguf_value(b, gguf_key) != NULL : hf_value(b, hf_key) != NULL;
}

/* index < 0: the value must be a scalar (a one-item list passes). */
static bool read_number(struct build *b, const char *gguf_key, const char *hf_key, int64_t index,
                        double *out)
{
    if (b->gguf) {
        const struct gguf_value *value = gguf_value(b, gguf_key);
        if (!value)
            return false;
        uint64_t at = value->type == GGUF_ARRAY && index >= 0 ? (uint64_t)index : 0;
        if (gguf_item_f64(value, at, out))
            return true;
        program_fail(b->program, STATUS_MODEL, "%s.%s: not a number (or too few items)",
                     b->gguf_prefix, gguf_key);
        return false;
    }
    const json_t *value = hf_value(b, hf_key);
    if (!value)
        return false;
    if (json_is_array(value))
        value = json_array_get(value, index >= 0 ? (size_t)index : 0);
    if (json_is_boolean(value)) {
        *out = json_is_true(value);
        return true;
    }
    if (json_is_number(value)) {
        *out = json_number_value(value);
        return true;
    }
    program_fail(b->program, STATUS_MODEL, "config.json: %s is not a number", hf_key);
    return false;
}

static uint32_t to_u32(struct build *b, const char *name, double value)
{
    if (value >= 0.0 && value <= 4294967295.0 && floor(value) == value)
        return (uint32_t)value;
    program_fail(b->program, STATUS_MODEL, "%s: %g is not a whole number in range", name, value);
    return 0;
}

uint32_t build_u32(struct build *b, const char *gguf_key, const char *hf_key, uint32_t fallback)
{
    return build_item_u32(b, gguf_key, hf_key, 0, fallback);
}

uint32_t build_need_u32(struct build *b, const char *gguf_key, const char *hf_key)
{
    if (!build_has(b, gguf_key, hf_key)) {
        program_fail(b->program, STATUS_MODEL, "hyperparameter %s%s%s is missing",
                     b->gguf ? b->gguf_prefix : "config.json:", b->gguf ? "." : " ",
                     key_name(b, gguf_key, hf_key));
        return 1;
    }
    return build_u32(b, gguf_key, hf_key, 0);
}

uint32_t build_item_u32(struct build *b, const char *gguf_key, const char *hf_key, uint32_t index,
                        uint32_t fallback)
{
    double value;
    if (!read_number(b, gguf_key, hf_key, index, &value))
        return fallback;
    return to_u32(b, key_name(b, gguf_key, hf_key), value);
}

double build_f64(struct build *b, const char *gguf_key, const char *hf_key, double fallback)
{
    double value;
    if (!read_number(b, gguf_key, hf_key, -1, &value))
        return fallback;
    if (!isfinite(value)) {
        program_fail(b->program, STATUS_MODEL, "%s is not finite", key_name(b, gguf_key, hf_key));
        return fallback;
    }
    return value;
}

double build_item_f64(struct build *b, const char *gguf_key, const char *hf_key, uint32_t index,
                      double fallback)
{
    double value;
    return read_number(b, gguf_key, hf_key, index, &value) ? value : fallback;
}

bool build_bool(struct build *b, const char *gguf_key, const char *hf_key, bool fallback)
{
    double value;
    return read_number(b, gguf_key, hf_key, -1, &value) ? value != 0.0 : fallback;
}

struct str build_hf_str(struct build *b, const char *key, int64_t index)
{
    const json_t *value = hf_value(b, key);
    if (json_is_array(value) && index >= 0)
        value = json_array_get(value, (size_t)index);
    if (!json_is_string(value))
        return (struct str){"", 0};
    return (struct str){json_string_value(value), json_string_length(value)};
}

static enum activation read_activation(struct build *b)
{
    /* GGUF leaves the activation to the architecture, whose file overrides SiLU if need be. */
    static const char *const keys[] = {"hidden_act", "hidden_activation", "activation_function"};
    struct str name = {"", 0};
    for (size_t i = 0; name.len == 0 && i < sizeof keys / sizeof *keys; i++)
        name = build_hf_str(b, keys[i], -1);
    if (name.len == 0 || str_eq_cstr(name, "silu") || str_eq_cstr(name, "swish") ||
        str_eq_cstr(name, "swiglu"))
        return ACT_SILU;
    if (str_eq_cstr(name, "gelu"))
        return ACT_GELU;
    if (str_eq_cstr(name, "gelu_pytorch_tanh") || str_eq_cstr(name, "gelu_new"))
        return ACT_GELU_TANH;
    if (str_eq_cstr(name, "gelu_fast"))
        return ACT_GELU_TANH;
    if (str_eq_cstr(name, "relu"))
        return ACT_RELU;
    if (str_eq_cstr(name, "relu2"))
        return ACT_RELU2;
    if (str_eq_cstr(name, "xielu"))
        return ACT_XIELU;
    program_fail(b->program, STATUS_UNSUPPORTED, "config.json: hidden_act \"%.*s\" is not known",
                 STR_ARG(name));
    return ACT_NONE;
}

bool build_is_local(struct build *b, uint32_t layer, uint32_t pattern)
{
    struct str type = build_hf_str(b, "layer_types", layer);
    if (type.len)
        return str_eq_cstr(type, "sliding_attention");
    const struct gguf_value *listed = gguf_value(b, "attention.sliding_window_pattern");
    if (listed && listed->type == GGUF_ARRAY)
        return build_item_u32(b, "attention.sliding_window_pattern", NULL, layer, 0) != 0;
    struct str letters = build_hf_str(b, "sliding_window_pattern", -1);
    if (letters.len) /* "LLLG" */
        return letters.data[layer % letters.len] == 'L';
    pattern = build_u32(b, "attention.sliding_window_pattern", "sliding_window_pattern", pattern);
    return pattern == 0 || (layer + 1) % pattern != 0;
}

static void out_of_range(struct build *b, const char *key, double value, double least, double most)
{
    program_fail(b->program, STATUS_MODEL, "%s%s%s is %.10g, expected %.10g to %.10g",
                 b->gguf ? b->gguf_prefix : "config.json:", b->gguf ? "." : " ", key, value, least,
                 most);
}

/* Whatever a family calls it; LayerNorm families have 1e-5 where the others have 1e-6. */
static double read_eps(struct build *b)
{
    static const char *const hf[] = {"rms_norm_eps", "layer_norm_eps",    "layer_norm_epsilon",
                                     "norm_eps",     "layernorm_epsilon", "norm_epsilon"};
    static const char *const gguf[] = {"attention.layer_norm_rms_epsilon",
                                       "attention.layer_norm_epsilon"};
    size_t n = b->gguf ? sizeof gguf / sizeof *gguf : sizeof hf / sizeof *hf;
    for (size_t i = 0; i < n; i++) {
        const char *key = b->gguf ? gguf[i] : hf[i];
        if (!build_has(b, key, key))
            continue;
        double eps = build_f64(b, key, key, 0.0);
        if (eps >= 0.0 && eps < 1.0)
            return eps;
        out_of_range(b, key, eps, 0.0, 1.0);
        break;
    }
    return 1e-6;
}

/* A value out of range becomes the least, so that nothing is sized by it before the error is seen. */
static void need(struct build *b, const char *gguf_key, const char *hf_key, uint32_t *value,
                 uint32_t least, uint32_t most)
{
    if (*value >= least && *value <= most)
        return;
    out_of_range(b, key_name(b, gguf_key, hf_key), *value, least, most);
    *value = least;
}

static void read_layers(struct build *b)
{
    struct hyper *h = &b->h;
    for (uint32_t i = 0; i < h->n_layers; i++) {
        struct layer *layer = &h->layers[i];
        layer->kind = LAYER_ATTENTION;
        layer->freqs = NO_WEIGHT;
        layer->n_heads = build_item_u32(b, "attention.head_count", "num_attention_heads", i, 0);
        need(b, "attention.head_count", "num_attention_heads", &layer->n_heads, 0, 1u << 16);
        layer->n_kv_heads =
            build_item_u32(b, "attention.head_count_kv", "num_key_value_heads", i, layer->n_heads);
        if (layer->n_kv_heads > layer->n_heads ||
            (layer->n_kv_heads && layer->n_heads % layer->n_kv_heads))
            program_fail(
                b->program, STATUS_MODEL, "layer %u: %u heads (%s) over %u key/value heads (%s)", i,
                layer->n_heads, key_name(b, "attention.head_count", "num_attention_heads"),
                layer->n_kv_heads, key_name(b, "attention.head_count_kv", "num_key_value_heads"));
    }
}

/* The first of several keys that the config has. */
static const char *present(struct build *b, const char *const *keys)
{
    for (; !b->gguf && keys[0] && keys[1] && !build_has(b, NULL, *keys);)
        keys++;
    return *keys;
}

uint32_t build_first_u32(struct build *b, const char *gguf_key, const char *const *hf_keys)
{
    if (b->gguf)
        return build_u32(b, gguf_key, NULL, 0);
    uint32_t value = 0;
    for (; *hf_keys && value == 0; hf_keys++)
        value = build_u32(b, NULL, *hf_keys, 0);
    return value;
}

void build_hyper(struct build *b)
{
    static const char *const expert_counts[] = {"num_experts", "num_local_experts",
                                                "n_routed_experts", "moe_num_experts", NULL};
    static const char *const used_counts[] = {"num_experts_per_tok", "moe_k", "top_k_experts",
                                              NULL};
    struct hyper *h = &b->h;
    const json_t *blocks = json_object_get(b->config, "layers_block_type");
    bool listed = json_is_array(blocks) && !build_has(b, NULL, "num_hidden_layers");
    h->n_layers = listed ? (uint32_t)json_array_size(blocks)
                         : build_need_u32(b, "block_count", "num_hidden_layers");
    /* GGUF counts layers that only guess further tokens. */
    uint32_t guessing = build_u32(b, "nextn_predict_layers", NULL, 0);
    h->n_layers -= guessing < h->n_layers ? guessing : 0;
    h->width = build_need_u32(b, "embedding_length", "hidden_size");
    h->n_ff = build_item_u32(b, "feed_forward_length", "intermediate_size", 0, 0);
    h->n_context = build_u32(b, "context_length", "max_position_embeddings", 2048);
    h->norm_eps = (float)read_eps(b);
    h->norm = NORM_RMS;
    h->residual_scale = 1.0f;
    h->n_experts = build_first_u32(b, "expert_count", expert_counts);
    h->n_experts_used = build_first_u32(b, "expert_used_count", used_counts);
    h->expert_ff = build_u32(b, "expert_feed_forward_length", "moe_intermediate_size", h->n_ff);
    h->act = read_activation(b);
    need(b, "block_count", listed ? "layers_block_type" : "num_hidden_layers", &h->n_layers, 1,
         MODEL_LAYERS_MAX);
    need(b, "embedding_length", "hidden_size", &h->width, 1, 1u << 20);
    need(b, "feed_forward_length", "intermediate_size", &h->n_ff, 0, 1u << 24);
    need(b, "expert_feed_forward_length", "moe_intermediate_size", &h->expert_ff, 0, 1u << 24);
    need(b, "context_length", "max_position_embeddings", &h->n_context, 1, 1u << 28);
    need(b, "expert_count", present(b, expert_counts), &h->n_experts, 0, 1u << 14);
    need(b, "expert_used_count", present(b, used_counts), &h->n_experts_used, h->n_experts ? 1 : 0,
         h->n_experts ? h->n_experts : UINT32_MAX);
    read_layers(b);
    uint32_t heads = h->n_layers && h->layers[0].n_heads ? h->layers[0].n_heads : 1;
    h->head_dim = build_u32(b, "attention.key_length", "head_dim", h->width / heads);
    h->v_head_dim = build_u32(b, "attention.value_length", "head_dim", h->head_dim);
    h->rope_dims = b->gguf ? build_u32(b, "rope.dimension_count", NULL, h->head_dim)
                           : build_rope_dims(b, h->head_dim);
    need(b, "attention.key_length", "head_dim", &h->head_dim, 1, 1u << 16);
    need(b, "attention.value_length", "head_dim", &h->v_head_dim, 1, 1u << 16);
    const struct tensor *table = build_find(b, -1, "token_embd", "weight");
    if (!table || table->n_dims != 2 || table->dims[0] > INT32_MAX || table->dims[0] == 0)
        program_fail(b->program, STATUS_MODEL, "the token embedding is missing or no matrix");
    else
        h->n_vocab = (uint32_t)table->dims[0];
    b->program->n_vocab = h->n_vocab;
    b->program->n_context = h->n_context;
}
