/*
 * Rotary position embedding: frequencies of the pairs, computed once per model.
 *
 * freq_i = theta^(-2i/d) (Su et al., "RoFormer", 2021). Scaling kinds change the frequencies only:
 * linear divides all by a factor; llama3 (Llama 3.1 release notes; the "llama3" rope_type of
 * Hugging Face's rope utilities) divides those with long waves and blends in between. GGUF stores
 * the outcome of llama3 as divisors in the tensor rope_freqs.
 */
#include <math.h>
#include <string.h>

#include "format/gguf.h"
#include "model/build.h"

#define TWO_PI 6.283185307179586

struct scaling {
    enum { SCALE_NONE, SCALE_LINEAR, SCALE_LLAMA3 } kind;
    double factor, low_freq_factor, high_freq_factor, original_context;
};

static double number(struct build *b, const json_t *object, const char *key, double fallback)
{
    const json_t *value = json_object_get(object, key);
    if (!value || json_is_null(value))
        return fallback;
    if (json_is_number(value) && isfinite(json_number_value(value)))
        return json_number_value(value);
    program_fail(b->program, STATUS_MODEL, "config.json: rope %s is not a number", key);
    return fallback;
}

static struct scaling scaling_of_kind(struct build *b, struct str kind)
{
    struct scaling s = {.kind = SCALE_NONE, .factor = 1.0};
    if (str_eq_cstr(kind, "linear"))
        s.kind = SCALE_LINEAR;
    else if (str_eq_cstr(kind, "llama3"))
        s.kind = SCALE_LLAMA3;
    else if (kind.len && !str_eq_cstr(kind, "default") && !str_eq_cstr(kind, "none"))
        program_fail(b->program, STATUS_UNSUPPORTED,
                     "rope scaling \"%.*s\" is not supported yet (known: linear, llama3)",
                     STR_ARG(kind));
    return s;
}

/* HF: the old dialect has rope_theta and rope_scaling, the new one rope_parameters, which may be
 * one object or one per layer type. */
static struct scaling read_hf(struct build *b, const char *layer_type, double *theta)
{
    const json_t *parameters = json_object_get(b->config, "rope_parameters");
    const json_t *nested = layer_type ? json_object_get(parameters, layer_type) : NULL;
    if (nested)
        parameters = nested;
    const json_t *scaling = parameters ? parameters : json_object_get(b->config, "rope_scaling");
    *theta = number(b, b->config, "rope_theta", *theta);
    *theta = number(b, parameters, "rope_theta", *theta);
    const json_t *kind = json_object_get(scaling, "rope_type");
    if (!kind)
        kind = json_object_get(scaling, "type");
    struct scaling s = scaling_of_kind(b, str_from(json_string_value(kind)));
    s.factor = number(b, scaling, "factor", 1.0);
    s.low_freq_factor = number(b, scaling, "low_freq_factor", 1.0);
    s.high_freq_factor = number(b, scaling, "high_freq_factor", 4.0);
    s.original_context =
        number(b, scaling, "original_max_position_embeddings", (double)b->h.n_context);
    return s;
}

static struct scaling read_gguf(struct build *b, double *theta)
{
    struct str kind = {"", 0};
    char *key = arena_printf(&b->arena, "%s.rope.scaling.type", b->gguf_prefix);
    if (key)
        gguf_get_str(checkpoint_gguf(b->checkpoint), key, &kind);
    *theta = build_f64(b, "rope.freq_base", NULL, *theta);
    struct scaling s = scaling_of_kind(b, kind);
    s.factor = build_f64(b, "rope.scaling.factor", NULL, 1.0);
    return s;
}

static double scale_frequency(const struct scaling *s, double freq)
{
    if (s->kind == SCALE_LINEAR)
        return freq / s->factor;
    if (s->kind != SCALE_LLAMA3)
        return freq;
    double wave = TWO_PI / freq;
    if (wave < s->original_context / s->high_freq_factor)
        return freq;
    if (wave > s->original_context / s->low_freq_factor)
        return freq / s->factor;
    double blend = (s->original_context / wave - s->low_freq_factor) /
                   (s->high_freq_factor - s->low_freq_factor);
    return (1.0 - blend) * freq / s->factor + blend * freq;
}

static int32_t add_constant(struct build *b, const char *name, double theta,
                            const struct scaling *s, const float *divisors)
{
    uint32_t pairs = b->h.rope_dims / 2;
    if (pairs == 0 || b->h.rope_dims % 2 || b->h.rope_dims > b->h.head_dim || !(theta > 0.0) ||
        !(s->factor > 0.0)) {
        program_fail(b->program, STATUS_MODEL, "rope over %u of %u columns, theta %g, factor %g",
                     b->h.rope_dims, b->h.head_dim, theta, s->factor);
        return NO_WEIGHT;
    }
    float *freqs = arena_alloc(&b->arena, pairs, sizeof *freqs);
    if (!freqs) {
        program_fail(b->program, STATUS_MEMORY, "out of memory for rope frequencies");
        return NO_WEIGHT;
    }
    for (uint32_t i = 0; i < pairs; i++) {
        double freq = scale_frequency(s, pow(theta, -2.0 * i / b->h.rope_dims));
        freqs[i] = (float)(divisors ? freq / (double)divisors[i] : freq);
    }
    return program_constant(b->program, name, freqs, pairs);
}

int32_t build_rope_plain(struct build *b, const char *name, double theta)
{
    struct scaling none = {.kind = SCALE_NONE, .factor = 1.0};
    return add_constant(b, name, theta, &none, NULL);
}

/* GGUF's rope_freqs: float32 divisors, one a pair. */
static const float *stored_divisors(struct build *b)
{
    const struct tensor *t = b->gguf ? build_find(b, -1, "rope_freqs", "weight") : NULL;
    if (!t)
        return NULL;
    uint32_t pairs = b->h.rope_dims / 2;
    if (t->type != TENSOR_F32 || t->n_dims != 1 || t->dims[0] != pairs) {
        program_fail(b->program, STATUS_MODEL, "tensor rope_freqs.weight is not %u floats", pairs);
        return NULL;
    }
    const float *divisors = t->data;
    for (uint32_t i = 0; i < pairs; i++)
        if (!(divisors[i] > 0.0f)) {
            program_fail(b->program, STATUS_MODEL, "rope_freqs.weight[%u] is not positive", i);
            return NULL;
        }
    return divisors;
}

int32_t build_rope(struct build *b, const char *layer_type, double default_theta)
{
    double theta = default_theta;
    struct scaling s = b->gguf ? read_gguf(b, &theta) : read_hf(b, layer_type, &theta);
    const float *divisors = stored_divisors(b);
    if (s.kind == SCALE_LLAMA3 && b->gguf && !divisors) {
        program_fail(b->program, STATUS_MODEL, "llama3 rope scaling without tensor rope_freqs");
        return NO_WEIGHT;
    }
    if (divisors)
        s.kind = SCALE_NONE;
    return add_constant(b, layer_type ? layer_type : "rope", theta, &s, divisors);
}
