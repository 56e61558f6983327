/*
 * Rope frequencies: the angles per position of the pairs, computed once per model.
 *
 * freq_i = theta^(-2i/d) (Su et al., "RoFormer", 2021). Scaling kinds stretch that to longer texts;
 * d pairs, original context L, factor s:
 *
 *   linear    all divided by s
 *   dynamic   changes nothing within the positions the model was made for, which is all we run; with
 *             "alpha" (Hunyuan) theta is multiplied by alpha^(d/(d-2)) for good
 *   llama3    long waves divided by s, with a blend in between (Llama 3.1 release notes)
 *   yarn      pairs that turn fewer than beta_slow times within L divided by s, those that turn more
 *             than beta_fast times kept, a linear ramp over the pairs between; rotated values are
 *             multiplied by a magnitude that grows with ln s (Peng et al., "YaRN", 2023)
 *   longrope  a divisor per pair, one list for texts within L and one for longer ones, and a
 *             magnitude sqrt(1 + ln s / ln L) (Ding et al., "LongRoPE", 2024). One program serves all
 *             lengths, so a model made for more than L positions always uses the long list
 *
 * GGUF stores the outcome of llama3 as divisors in the tensor rope_freqs, longrope's lists in
 * rope_factors_short and rope_factors_long, the rest as metadata. A frequency constant's magnitude is
 * kept beside it in the build (build_rope_magnitude).
 */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "format/gguf.h"
#include "model/build.h"

#define TWO_PI 6.283185307179586

enum scaling_kind { SCALE_NONE, SCALE_LINEAR, SCALE_DYNAMIC, SCALE_LLAMA3, SCALE_YARN, SCALE_LONG };

struct scaling {
    enum scaling_kind kind;
    double factor, original_context;
    double alpha;                             /* dynamic; 0: none */
    double low_freq_factor, high_freq_factor; /* llama3 */
    double beta_fast, beta_slow;              /* yarn */
    double mscale, mscale_all;                /* yarn; 0: not given */
    bool truncate;                            /* yarn: the ramp's ends are whole pairs */
    double magnitude;                         /* given outright; 0: by the kind's formula */
};

static const struct {
    const char *name;
    enum scaling_kind kind;
} kinds[] = {
    {"default", SCALE_NONE},    {"none", SCALE_NONE}, {"linear", SCALE_LINEAR},
    {"llama3", SCALE_LLAMA3},   {"yarn", SCALE_YARN}, {"longrope", SCALE_LONG},
    {"dynamic", SCALE_DYNAMIC}, {"su", SCALE_LONG},
};

/* ---- reading ---------------------------------------------------------------------------------- */

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

static enum scaling_kind kind_named(struct build *b, struct str name)
{
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
        if (str_eq_cstr(name, kinds[i].name))
            return kinds[i].kind;
    if (name.len)
        program_fail(b->program, STATUS_UNSUPPORTED,
                     "rope scaling \"%.*s\" is not supported yet (known: linear, dynamic, llama3, "
                     "yarn, longrope)",
                     STR_ARG(name));
    return SCALE_NONE;
}

static double hf_original_context(struct build *b, const json_t *scaling)
{
    double top = number(b, b->config, "original_max_position_embeddings", (double)b->h.n_context);
    return number(b, scaling, "original_max_position_embeddings", top);
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
    *theta = number(b, b->config, "rope_theta", number(b, b->config, "rotary_emb_base", *theta));
    *theta = number(b, parameters, "rope_theta", *theta);
    const json_t *kind = json_object_get(scaling, "rope_type");
    if (!kind)
        kind = json_object_get(scaling, "type");
    struct scaling s = {
        .kind = kind_named(b, str_from(json_string_value(kind))),
        .factor = number(b, scaling, "factor", 1.0),
        .original_context = hf_original_context(b, scaling),
        .alpha = number(b, scaling, "alpha", 0.0),
        .low_freq_factor = number(b, scaling, "low_freq_factor", 1.0),
        .high_freq_factor = number(b, scaling, "high_freq_factor", 4.0),
        .beta_fast = number(b, scaling, "beta_fast", 32.0),
        .beta_slow = number(b, scaling, "beta_slow", 1.0),
        .mscale = number(b, scaling, "mscale", 0.0),
        .mscale_all = number(b, scaling, "mscale_all_dim", 0.0),
        .truncate = !json_is_false(json_object_get(scaling, "truncate")),
        .magnitude = number(b, scaling, "attention_factor", 0.0),
    };
    if (s.kind == SCALE_LONG)
        s.factor = (double)b->h.n_context / s.original_context;
    return s;
}

static struct scaling read_gguf(struct build *b, double *theta)
{
    struct str kind = {"", 0};
    char *key = arena_printf(&b->arena, "%s.rope.scaling.type", b->gguf_prefix);
    if (key)
        gguf_get_str(checkpoint_gguf(b->checkpoint), key, &kind);
    *theta = build_f64(b, "rope.freq_base", NULL, *theta);
    struct scaling s = {
        .kind = kind_named(b, kind),
        .factor = build_f64(b, "rope.scaling.factor", NULL, 1.0),
        .original_context =
            build_f64(b, "rope.scaling.original_context_length", NULL, (double)b->h.n_context),
        .beta_fast = build_f64(b, "rope.scaling.yarn_beta_fast", NULL, 32.0),
        .beta_slow = build_f64(b, "rope.scaling.yarn_beta_slow", NULL, 1.0),
        .truncate = !b->yarn_exact,
    };
    double attention = build_f64(b, "rope.scaling.attn_factor", NULL, 0.0);
    /* A tenth of mscale_all_dim; the models that have it scale scores instead of rotated values. */
    if (build_has(b, "rope.scaling.yarn_log_multiplier", NULL))
        s.mscale = s.mscale_all = 1.0;
    if (build_find(b, -1, "rope_factors_long", "weight")) {
        s.kind = SCALE_LONG;
        s.factor = (double)b->h.n_context / s.original_context;
        s.magnitude = attention;
    } else if (s.kind == SCALE_YARN && attention > 0.0) {
        s.magnitude = attention * (1.0 + 0.1 * log(s.factor > 1.0 ? s.factor : 1.0));
    }
    return s;
}

/* ---- divisors that the checkpoint lists ------------------------------------------------------- */

/* GGUF: float32, one a pair; NULL if there is no such tensor. */
static const float *stored_divisors(struct build *b, const char *role)
{
    const struct tensor *t = b->gguf ? build_find(b, -1, role, "weight") : NULL;
    if (!t)
        return NULL;
    uint32_t pairs = b->h.rope_dims / 2;
    if (t->type != TENSOR_F32 || t->n_dims != 1 || t->dims[0] != pairs) {
        program_fail(b->program, STATUS_MODEL, "tensor %s.weight is not %u floats", role, pairs);
        return NULL;
    }
    const float *divisors = t->data;
    for (uint32_t i = 0; i < pairs; i++)
        if (!(divisors[i] > 0.0f)) {
            program_fail(b->program, STATUS_MODEL, "%s.weight[%u] is not positive", role, i);
            return NULL;
        }
    return divisors;
}

static const float *listed_divisors(struct build *b, const char *key)
{
    const json_t *scaling = json_object_get(b->config, "rope_parameters");
    const json_t *list = json_object_get(scaling, key);
    if (!list)
        list = json_object_get(json_object_get(b->config, "rope_scaling"), key);
    uint32_t pairs = b->h.rope_dims / 2;
    float *divisors = arena_alloc(&b->arena, pairs, sizeof *divisors);
    if (!divisors || json_array_size(list) != pairs) {
        program_fail(b->program, divisors ? STATUS_MODEL : STATUS_MEMORY,
                     "config.json: rope %s is not a list of %u numbers", key, pairs);
        return NULL;
    }
    for (uint32_t i = 0; i < pairs; i++) {
        divisors[i] = (float)json_number_value(json_array_get(list, i));
        if (!(divisors[i] > 0.0f)) {
            program_fail(b->program, STATUS_MODEL, "config.json: rope %s[%u] is not positive", key,
                         i);
            return NULL;
        }
    }
    return divisors;
}

static const float *find_divisors(struct build *b, struct scaling *s)
{
    bool beyond = (double)b->h.n_context > s->original_context;
    if (s->kind == SCALE_LONG)
        return b->gguf ? stored_divisors(b, beyond ? "rope_factors_long" : "rope_factors_short")
                       : listed_divisors(b, beyond ? "long_factor" : "short_factor");
    const float *divisors = stored_divisors(b, "rope_freqs");
    if (s->kind == SCALE_LLAMA3 && b->gguf && !divisors)
        program_fail(b->program, STATUS_MODEL, "llama3 rope scaling without tensor rope_freqs");
    if (divisors)
        s->kind = SCALE_NONE;
    return divisors;
}

/* ---- formulas --------------------------------------------------------------------------------- */

static double llama3_frequency(const struct scaling *s, double freq)
{
    double wave = TWO_PI / freq;
    if (wave < s->original_context / s->high_freq_factor)
        return freq;
    if (wave > s->original_context / s->low_freq_factor)
        return freq / s->factor;
    double blend = (s->original_context / wave - s->low_freq_factor) /
                   (s->high_freq_factor - s->low_freq_factor);
    return (1.0 - blend) * freq / s->factor + blend * freq;
}

/* The pair, as a real number, that turns so often within the original context. */
static double pair_of_turns(const struct scaling *s, double turns, double theta, double dims)
{
    return dims * log(s->original_context / (turns * TWO_PI)) / (2.0 * log(theta));
}

static double yarn_frequency(const struct scaling *s, double freq, double theta, uint32_t dims,
                             uint32_t pair)
{
    double low = pair_of_turns(s, s->beta_fast, theta, dims);
    double high = pair_of_turns(s, s->beta_slow, theta, dims);
    if (s->truncate) {
        low = floor(low);
        high = ceil(high);
    }
    low = low > 0.0 ? low : 0.0;
    high = high < dims - 1.0 ? high : dims - 1.0;
    if (high == low)
        high += 0.001;
    double ramp = (pair - low) / (high - low);
    ramp = ramp < 0.0 ? 0.0 : ramp > 1.0 ? 1.0 : ramp;
    return freq / s->factor * ramp + freq * (1.0 - ramp);
}

static double scale_frequency(const struct scaling *s, double freq, double theta, uint32_t dims,
                              uint32_t pair)
{
    switch (s->kind) {
    case SCALE_LINEAR:
        return freq / s->factor;
    case SCALE_LLAMA3:
        return llama3_frequency(s, freq);
    case SCALE_YARN:
        return yarn_frequency(s, freq, theta, dims, pair);
    case SCALE_NONE:
    case SCALE_DYNAMIC:
    case SCALE_LONG:
        break;
    }
    return freq;
}

static double yarn_mscale(double factor, double mscale)
{
    return factor > 1.0 ? 0.1 * mscale * log(factor) + 1.0 : 1.0;
}

static double magnitude_of(const struct scaling *s)
{
    if (s->magnitude > 0.0)
        return s->magnitude;
    if (s->kind == SCALE_YARN)
        return s->mscale > 0.0 && s->mscale_all > 0.0
                   ? yarn_mscale(s->factor, s->mscale) / yarn_mscale(s->factor, s->mscale_all)
                   : yarn_mscale(s->factor, 1.0);
    if (s->kind == SCALE_LONG && s->factor > 1.0)
        return sqrt(1.0 + log(s->factor) / log(s->original_context));
    return 1.0;
}

/* ---- constants -------------------------------------------------------------------------------- */

static bool check_scaling(struct build *b, double theta, const struct scaling *s)
{
    uint32_t dims = b->h.rope_dims;
    const char *what = NULL;
    double value = 0.0;
    if (dims < 2 || dims % 2 || dims > b->h.head_dim) {
        program_fail(b->program, STATUS_MODEL,
                     "rope turns %u of the %u columns of a head: expected an even number of them",
                     dims, b->h.head_dim);
        return false;
    }
    if (!(theta > 1.0))
        what = "base (rope_theta)", value = theta;
    else if (!(s->factor > 0.0))
        what = "scaling factor", value = s->factor;
    else if (!(s->original_context >= 1.0))
        what = "original context", value = s->original_context;
    else if (s->kind == SCALE_LLAMA3 && !(s->high_freq_factor > s->low_freq_factor))
        what = "high_freq_factor (it must exceed low_freq_factor)", value = s->high_freq_factor;
    else if (s->kind == SCALE_YARN && !(s->beta_slow > 0.0 && s->beta_fast >= s->beta_slow))
        what = "beta_fast (it must not be below beta_slow, both above 0)", value = s->beta_fast;
    if (what)
        program_fail(b->program, STATUS_MODEL, "rope %s is %g, out of range", what, value);
    return !what;
}

static int32_t add_constant(struct build *b, const char *name, double theta,
                            const struct scaling *s, const float *divisors)
{
    if (!check_scaling(b, theta, s))
        return NO_WEIGHT;
    uint32_t dims = b->h.rope_dims;
    float *freqs = arena_alloc(&b->arena, dims / 2, sizeof *freqs);
    if (!freqs || b->n_ropes == MODEL_ROPES_MAX) {
        program_fail(b->program, STATUS_MEMORY, "out of memory for rope frequencies");
        return NO_WEIGHT;
    }
    if (s->kind == SCALE_DYNAMIC && s->alpha > 0.0 && dims > 2)
        theta *= pow(s->alpha, dims / (dims - 2.0));
    for (uint32_t i = 0; i < dims / 2; i++) {
        double freq = scale_frequency(s, pow(theta, -2.0 * i / dims), theta, dims, i);
        freqs[i] = (float)(divisors ? freq / (double)divisors[i] : freq);
    }
    int32_t id = program_constant(b->program, name, freqs, dims / 2);
    b->ropes[b->n_ropes++] = (struct rope){id, (float)magnitude_of(s)};
    return id;
}

int32_t build_rope_plain(struct build *b, const char *name, double theta)
{
    struct scaling none = {.kind = SCALE_NONE, .factor = 1.0, .original_context = 1.0};
    return add_constant(b, name, theta, &none, NULL);
}

int32_t build_rope(struct build *b, const char *layer_type, double default_theta)
{
    double theta = default_theta;
    struct scaling s = b->gguf ? read_gguf(b, &theta) : read_hf(b, layer_type, &theta);
    if (!check_scaling(b, theta, &s))
        return NO_WEIGHT;
    const float *divisors = find_divisors(b, &s);
    return add_constant(b, layer_type ? layer_type : "rope", theta, &s, divisors);
}

int32_t build_rope_local(struct build *b, double default_theta)
{
    const json_t *parameters = json_object_get(b->config, "rope_parameters");
    if (!b->gguf && json_object_get(parameters, "sliding_attention"))
        return build_rope(b, "sliding_attention", default_theta);
    return build_rope_plain(
        b, "sliding_attention",
        build_f64(b, "rope.freq_base_swa", "rope_local_base_freq", default_theta));
}

float build_rope_magnitude(const struct build *b, int32_t freqs)
{
    for (uint32_t i = 0; i < b->n_ropes; i++)
        if (b->ropes[i].freqs == freqs)
            return b->ropes[i].magnitude;
    return 1.0f;
}

uint32_t build_rope_dims(struct build *b, uint32_t head_dim)
{
    const json_t *parameters = json_object_get(b->config, "rope_parameters");
    const json_t *full = json_object_get(parameters, "full_attention");
    double part =
        number(b, b->config, "partial_rotary_factor", number(b, b->config, "rotary_pct", 1.0));
    if (!parameters) /* the old dialect of some counts columns */
        part = number(b, b->config, "rotary_dim", part * head_dim) / head_dim;
    part = number(b, parameters, "partial_rotary_factor", part);
    part = number(b, full, "partial_rotary_factor", part);
    if (!(part > 0.0 && part <= 1.0)) {
        program_fail(b->program, STATUS_MODEL,
                     "config.json: partial_rotary_factor is %g, expected above 0, up to 1", part);
        return head_dim;
    }
    return (uint32_t)(head_dim * part);
}

float build_yarn_mscale(struct build *b)
{
    double theta = 1.0;
    struct scaling s = b->gguf ? read_gguf(b, &theta) : read_hf(b, NULL, &theta);
    double all =
        b->gguf ? 10.0 * build_f64(b, "rope.scaling.yarn_log_multiplier", NULL, 0.0) : s.mscale_all;
    if (s.kind != SCALE_YARN || !(s.factor > 1.0))
        return 1.0f;
    return (float)(0.1 * all * log(s.factor) + 1.0);
}
