/*
 * Reading config.json for a conversion. The architecture files read the same config through build.h;
 * here it is read again by the names alone, because a conversion wants the values as they stand, not
 * what a program makes of them.
 */
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "convert/hf.h"

#define LAYERS_MAX  1024
#define EXPERTS_MAX (1u << 14)

void hf_fail(struct hf_source *h, enum status status, const char *format, ...)
{
    char text[ERROR_MESSAGE_MAX];
    va_list arguments;
    if (h->problem.status != STATUS_OK)
        return;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    error_set(&h->problem, status, "%s", text);
}

void hf_cannot(struct hf_source *h, const char *format, ...)
{
    char text[256];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    hf_fail(h, STATUS_UNSUPPORTED,
            "config.json: %s, which a GGUF file of \"%s\" cannot say: run the folder as it is, or "
            "start from a GGUF file of the model",
            text, h->family->gguf);
}

/* The word of a list that begins at *list; false at its end. */
static bool next_word(const char **list, char word[96])
{
    size_t n = strcspn(*list, "|");
    if (n == 0)
        return false;
    snprintf(word, 96, "%.*s", (int)n, *list);
    *list += n + ((*list)[n] == '|');
    return true;
}

bool hf_listed(const char *list, const char *word)
{
    char one[96];
    while (next_word(&list, one))
        if (strcmp(one, word) == 0)
            return true;
    return false;
}

static const json_t *find(const struct hf_source *h, const char *keys, char key[96])
{
    while (next_word(&keys, key)) {
        const json_t *value = json_object_get(h->config, key);
        if (value && !json_is_null(value))
            return value;
    }
    return NULL;
}

const json_t *hf_find(const struct hf_source *h, const char *keys)
{
    char key[96];
    return find(h, keys, key);
}

static uint32_t to_u32(struct hf_source *h, const char *key, const json_t *value)
{
    double number = json_is_boolean(value) ? json_is_true(value) : json_number_value(value);
    if (!(json_is_number(value) || json_is_boolean(value)) || !(number >= 0.0) ||
        number > UINT32_MAX || floor(number) != number) {
        hf_fail(h, STATUS_MODEL, "config.json: %s is not a whole number in range", key);
        return 0;
    }
    return (uint32_t)number;
}

uint32_t hf_item(struct hf_source *h, const char *keys, uint32_t index, uint32_t fallback)
{
    char key[96];
    const json_t *value = find(h, keys, key);
    if (json_is_array(value))
        value = json_array_get(value, index);
    else if (!value)
        return fallback;
    if (!value)
        hf_fail(h, STATUS_MODEL, "config.json: %s has no item %u", key, index);
    return value ? to_u32(h, key, value) : fallback;
}

uint32_t hf_u32(struct hf_source *h, const char *keys, uint32_t fallback)
{
    return hf_item(h, keys, 0, fallback);
}

uint32_t hf_need(struct hf_source *h, const char *keys)
{
    char key[96];
    const char *first = keys;
    if (!hf_find(h, keys) && next_word(&first, key))
        hf_fail(h, STATUS_MODEL, "config.json: %s is missing", key);
    return hf_u32(h, keys, 0);
}

double hf_f64(struct hf_source *h, const char *keys, double fallback)
{
    char key[96];
    const json_t *value = find(h, keys, key);
    if (!value)
        return fallback;
    if (!json_is_number(value) || !isfinite(json_number_value(value))) {
        hf_fail(h, STATUS_MODEL, "config.json: %s is not a number", key);
        return fallback;
    }
    return json_number_value(value);
}

bool hf_bool(struct hf_source *h, const char *keys, bool fallback)
{
    char key[96];
    const json_t *value = find(h, keys, key);
    if (value && !json_is_boolean(value))
        hf_fail(h, STATUS_MODEL, "config.json: %s is neither true nor false", key);
    return value ? json_is_true(value) : fallback;
}

const char *hf_text(const struct hf_source *h, const char *keys)
{
    return json_string_value(hf_find(h, keys));
}

bool hf_is_local(const struct hf_source *h, uint32_t layer, bool fallback)
{
    const char *type = json_string_value(json_array_get(hf_find(h, "layer_types"), layer));
    return type ? strcmp(type, "sliding_attention") == 0 : fallback;
}

/* ---- rope -------------------------------------------------------------------------------------- */

static double rope_number(struct hf_source *h, const json_t *rope, const char *key, double fallback)
{
    const json_t *value = json_object_get(rope, key);
    if (!value || json_is_null(value))
        return fallback;
    if (json_is_number(value) && isfinite(json_number_value(value)))
        return json_number_value(value);
    hf_fail(h, STATUS_MODEL, "config.json: rope %s is not a number", key);
    return fallback;
}

/* The part of a head that turns, under any of its names. */
static uint32_t rope_dims(struct hf_source *h, const json_t *rope)
{
    double part = hf_f64(h, "partial_rotary_factor|rotary_pct", 1.0);
    if (!hf_find(h, "rope_parameters") && h->head_dim)
        part = hf_f64(h, "rotary_dim", part * h->head_dim) / h->head_dim;
    part = rope_number(h, rope, "partial_rotary_factor", part);
    if (!(part > 0.0 && part <= 1.0))
        hf_fail(h, STATUS_MODEL,
                "config.json: partial_rotary_factor is %g, expected above 0, up to 1", part);
    return part > 0.0 && part <= 1.0 ? (uint32_t)(h->head_dim * part) : h->head_dim;
}

/* Kinds that hf_metadata.c and source_hf.c can write. */
static const char *scaling_kind(struct hf_source *h, const json_t *rope)
{
    static const char *const known[] = {"linear", "llama3", "yarn", "longrope", "dynamic"};
    const json_t *kind = json_object_get(rope, "rope_type");
    const char *name = json_string_value(kind ? kind : json_object_get(rope, "type"));
    if (!name || hf_listed("default|none|proportional", name))
        return NULL;
    if (strcmp(name, "su") == 0)
        return "longrope";
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (strcmp(name, known[i]) == 0)
            return known[i];
    hf_cannot(h, "the rope scaling is \"%.40s\"", name);
    return NULL;
}

static void check_rope(struct hf_source *h)
{
    const struct hf_rope *r = &h->rope;
    bool llama3 = r->kind && strcmp(r->kind, "llama3") == 0;
    if (!(r->theta > 1.0))
        hf_fail(h, STATUS_MODEL, "config.json: rope_theta is %g, expected above 1", r->theta);
    else if (r->kind && !(r->factor > 0.0 && r->original >= 1.0))
        hf_fail(h, STATUS_MODEL, "config.json: rope scaling factor %g from a context of %g",
                r->factor, r->original);
    else if (llama3 && !(r->low_freq > 0.0 && r->high_freq > r->low_freq))
        hf_fail(h, STATUS_MODEL, "config.json: rope low_freq_factor %g, high_freq_factor %g",
                r->low_freq, r->high_freq);
}

static void read_rope(struct hf_source *h)
{
    const json_t *parameters = hf_find(h, "rope_parameters");
    const json_t *full = json_object_get(parameters, "full_attention");
    const json_t *rope = full ? full : parameters ? parameters : hf_find(h, "rope_scaling");
    struct hf_rope *r = &h->rope;
    double theta = hf_f64(h, "rope_theta|rotary_emb_base|global_rope_theta",
                          h->family->theta > 0.0 ? h->family->theta : 10000.0);
    *r = (struct hf_rope){
        .theta = rope_number(h, rope, "rope_theta", theta),
        .dims = rope_dims(h, rope),
        .kind = scaling_kind(h, rope),
        .factor = rope_number(h, rope, "factor", 1.0),
        .original = rope_number(h, rope, "original_max_position_embeddings",
                                hf_f64(h, "original_max_position_embeddings", h->n_context)),
        .low_freq = rope_number(h, rope, "low_freq_factor", 1.0),
        .high_freq = rope_number(h, rope, "high_freq_factor", 4.0),
        .beta_fast = rope_number(h, rope, "beta_fast", 32.0),
        .beta_slow = rope_number(h, rope, "beta_slow", 1.0),
        .mscale = rope_number(h, rope, "mscale", 0.0),
        .mscale_all = rope_number(h, rope, "mscale_all_dim", 0.0),
        .attention = rope_number(h, rope, "attention_factor", 0.0),
        .truncate = !json_is_false(json_object_get(rope, "truncate")),
    };
    double alpha = rope_number(h, rope, "alpha", 0.0);
    if (r->kind && strcmp(r->kind, "dynamic") == 0) {
        /* Nothing within the positions that the model was made for, but for Hunyuan's "alpha". */
        if (alpha > 0.0 && r->dims > 2)
            r->theta *= pow(alpha, r->dims / (r->dims - 2.0));
        r->kind = NULL;
    }
    check_rope(h);
}

/* ---- what every family has --------------------------------------------------------------------- */

static void read_sizes(struct hf_source *h)
{
    const json_t *blocks = hf_find(h, "layers_block_type");
    h->n_layers = json_is_array(blocks) && !hf_find(h, "num_hidden_layers|n_layer")
                      ? (uint32_t)json_array_size(blocks)
                      : hf_need(h, "num_hidden_layers|n_layer");
    h->width = hf_need(h, "hidden_size|n_embd");
    h->n_ff = hf_u32(h, "intermediate_size|n_inner", 0);
    h->n_heads = hf_u32(h, "num_attention_heads|n_head", 0);
    h->n_kv_heads = hf_u32(h, "num_key_value_heads", h->n_heads);
    h->n_context = hf_u32(h, "max_position_embeddings|n_positions", h->n_heads ? 2048 : 1u << 20);
    if (h->n_layers < 1 || h->n_layers > LAYERS_MAX)
        hf_fail(h, STATUS_MODEL, "config.json: num_hidden_layers is %u, expected 1 to %d",
                h->n_layers, LAYERS_MAX);
    else if (h->width < 1 || h->width > 1u << 20)
        hf_fail(h, STATUS_MODEL, "config.json: hidden_size is %u, expected 1 to %u", h->width,
                1u << 20);
    else if (h->n_heads > 1u << 16 || h->n_kv_heads > h->n_heads)
        hf_fail(h, STATUS_MODEL,
                "config.json: num_attention_heads is %u, num_key_value_heads %u, out of range",
                h->n_heads, h->n_kv_heads);
    h->head_dim = hf_u32(h, "head_dim|attention_head_dim", h->n_heads ? h->width / h->n_heads : 0);
    if (h->head_dim > 1u << 16) {
        hf_fail(h, STATUS_MODEL, "config.json: head_dim is %u, the most is %u", h->head_dim,
                1u << 16);
        h->head_dim = 0;
    }
}

static void read_experts(struct hf_source *h)
{
    static const char counts[] = "num_experts|num_local_experts|n_routed_experts|moe_num_experts";
    h->n_experts = hf_u32(h, counts, 0);
    h->n_experts_used = hf_u32(h, "num_experts_per_tok|moe_k|top_k_experts", 0);
    h->expert_ff = hf_u32(h, "moe_intermediate_size", 0);
    if (h->n_experts > EXPERTS_MAX || h->n_experts_used > h->n_experts + EXPERTS_MAX) {
        hf_fail(h, STATUS_MODEL, "config.json: %u experts, %u for a token, out of range",
                h->n_experts, h->n_experts_used);
        h->n_experts = 0;
    }
}

void hf_read(struct hf_source *h)
{
    static const char epsilons[] =
        "rms_norm_eps|layer_norm_eps|layer_norm_epsilon|norm_eps|layernorm_epsilon|norm_epsilon";
    read_sizes(h);
    read_experts(h);
    h->norm_eps = hf_f64(h, epsilons, h->family->epsilon > 0.0 ? h->family->epsilon : 1e-6);
    h->n_vocab = hf_u32(h, "vocab_size", 0);
    if (!(h->norm_eps >= 0.0 && h->norm_eps < 1.0))
        hf_fail(h, STATUS_MODEL, "config.json: the norm's epsilon is %g, expected 0 to 1",
                h->norm_eps);
    if (!(h->family->traits & HF_NO_ROPE))
        read_rope(h);
}
