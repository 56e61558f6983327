/*
 * The host's side of sampling: validation with errors a user can act on, and the wrapper around the
 * shared algorithm in sample_core.h.
 */
#include "sample/sample.h"

#include <string.h>

#include "base/checked.h"

void sampling_defaults(struct sampling *out)
{
    *out = (struct sampling){
        .temperature = 0.8f,
        .top_k = 40,
        .top_p = 0.95f,
        .min_p = 0.05f,
        .repeat_penalty = 1.0f,
        .repeat_last_n = 64,
        .dry_base = 1.75f,
        .dry_allowed_length = 2,
        .dry_last_n = -1,
        .typical_p = 1.0f,
        .xtc_threshold = 0.1f,
        .mirostat_tau = 5.0f,
        .mirostat_eta = 0.1f,
        .order = SAMPLING_ORDER_DEFAULT,
    };
}

static enum status out_of_range(struct error *err, const char *name, double value,
                                const char *allowed)
{
    return error_set(err, STATUS_USAGE, "%s is %g; it must be %s", name, value, allowed);
}

static enum status validate_biases(const struct sampling *s, uint32_t n_vocab, struct error *err)
{
    if (s->n_biases > SAMPLING_BIASES_MAX)
        return error_set(err, STATUS_USAGE, "logit_bias has %u entries; at most %d are allowed",
                         s->n_biases, SAMPLING_BIASES_MAX);
    for (uint32_t i = 0; i < s->n_biases; i++) {
        if (s->bias_ids[i] < 0 || (uint32_t)s->bias_ids[i] >= n_vocab)
            return error_set(err, STATUS_USAGE,
                             "logit_bias names token %d; the vocabulary has ids 0 to %u",
                             s->bias_ids[i], n_vocab - 1);
        float value = s->bias_values[i];
        if (value != value || value == INFINITY)
            return error_set(err, STATUS_USAGE,
                             "logit_bias of token %d is %g; it must be a finite number, or "
                             "-infinity to ban the token",
                             s->bias_ids[i], (double)value);
    }
    return STATUS_OK;
}

/* Parameters of DRY, the further cuts and mirostat. */
static enum status validate_extras(const struct sampling *s, struct error *err)
{
    if (!(s->dry_multiplier >= 0 && s->dry_multiplier <= 1000))
        return out_of_range(err, "dry_multiplier", s->dry_multiplier, "between 0 (off) and 1000");
    if (!(s->dry_base >= 1 && s->dry_base <= 1000))
        return out_of_range(err, "dry_base", s->dry_base, "between 1 and 1000");
    if (s->dry_allowed_length < 1)
        return out_of_range(err, "dry_allowed_length", s->dry_allowed_length, "at least 1");
    if (s->dry_last_n < -1)
        return out_of_range(err, "dry_penalty_last_n", s->dry_last_n,
                            "-1 (whole context), 0 (off) or a number of tokens");
    if (!(s->top_n_sigma >= 0 && s->top_n_sigma <= FLT_MAX))
        return out_of_range(err, "top_n_sigma", s->top_n_sigma, "a finite number, 0 turns it off");
    if (!(s->typical_p > 0 && s->typical_p <= 1))
        return out_of_range(err, "typical_p", s->typical_p, "above 0 and at most 1");
    if (!(s->xtc_probability >= 0 && s->xtc_probability <= 1))
        return out_of_range(err, "xtc_probability", s->xtc_probability, "between 0 and 1");
    if (!(s->xtc_threshold >= 0 && s->xtc_threshold <= 1))
        return out_of_range(err, "xtc_threshold", s->xtc_threshold, "between 0 and 1");
    if (s->mirostat < 0 || s->mirostat > 2)
        return out_of_range(err, "mirostat", s->mirostat, "0 (off), 1 or 2");
    if (!(s->mirostat_tau > 0 && s->mirostat_tau <= 100))
        return out_of_range(err, "mirostat_tau", s->mirostat_tau, "above 0 and at most 100");
    if (!(s->mirostat_eta >= 0 && s->mirostat_eta <= 1))
        return out_of_range(err, "mirostat_eta", s->mirostat_eta, "between 0 and 1");
    return STATUS_OK;
}

enum status sampling_validate(const struct sampling *s, uint32_t n_vocab, struct error *err)
{
    if (n_vocab == 0 || n_vocab > INT32_MAX)
        return error_set(err, STATUS_USAGE, "cannot sample from a vocabulary of %u tokens",
                         n_vocab);
    /* Written so that NaN fails each test. */
    if (!(s->temperature >= 0 && s->temperature <= FLT_MAX))
        return out_of_range(err, "temperature", s->temperature, "a finite number of at least 0");
    if (s->top_k < 0)
        return out_of_range(err, "top_k", s->top_k, "at least 0 (0 turns it off)");
    if (!(s->top_p > 0 && s->top_p <= 1))
        return out_of_range(err, "top_p", s->top_p, "above 0 and at most 1");
    if (!(s->min_p >= 0 && s->min_p <= 1))
        return out_of_range(err, "min_p", s->min_p, "between 0 and 1");
    if (!(s->repeat_penalty > 0 && s->repeat_penalty <= FLT_MAX))
        return out_of_range(err, "repeat_penalty", s->repeat_penalty,
                            "a finite number above 0 (1 turns it off)");
    if (s->repeat_last_n < -1)
        return out_of_range(err, "repeat_last_n", s->repeat_last_n,
                            "-1 (whole context), 0 (off) or a number of tokens");
    if (!(s->presence_penalty >= -2 && s->presence_penalty <= 2))
        return out_of_range(err, "presence_penalty", s->presence_penalty, "between -2 and 2");
    if (!(s->frequency_penalty >= -2 && s->frequency_penalty <= 2))
        return out_of_range(err, "frequency_penalty", s->frequency_penalty, "between -2 and 2");
    if (s->n_top_logprobs > SAMPLING_TOP_MAX)
        return out_of_range(err, "top_logprobs", s->n_top_logprobs, "between 0 and 20");
    if (s->n_top_logprobs && !s->logprobs)
        return error_set(err, STATUS_USAGE, "top_logprobs needs logprobs to be on");
    enum status status = validate_extras(s, err);
    return status == STATUS_OK ? validate_biases(s, n_vocab, err) : status;
}

/* ---- the order of the cuts -------------------------------------------------------------------- */

static uint32_t stage_of(const char *name, size_t length)
{
    static const char *const names[SAMPLING_STAGES] = {
        [STAGE_TOP_N_SIGMA] = "top_n_sigma",
        [STAGE_TOP_K] = "top_k",
        [STAGE_TYPICAL_P] = "typical_p",
        [STAGE_TOP_P] = "top_p",
        [STAGE_MIN_P] = "min_p",
        [STAGE_XTC] = "xtc",
        [STAGE_TEMPERATURE] = "temperature",
    };
    for (uint32_t i = 1; i < SAMPLING_STAGES; i++)
        if (strlen(names[i]) == length && memcmp(names[i], name, length) == 0)
            return i;
    return STAGE_END;
}

enum status sampling_order_parse(const char *text, uint32_t *order, struct error *err)
{
    uint32_t seen = 0, count = 0;
    *order = 0;
    for (const char *at = text; *at;) {
        size_t length = strcspn(at, ";,");
        uint32_t stage = stage_of(at, length);
        if (stage == STAGE_END)
            return error_set(err, STATUS_USAGE,
                             "samplers: '%.*s' is none of top_n_sigma, top_k, typical_p, top_p, "
                             "min_p, xtc, temperature",
                             (int)(length < 40 ? length : 40), at);
        if (seen >> stage & 1)
            return error_set(err, STATUS_USAGE, "samplers: %.*s stands twice", (int)length, at);
        seen |= 1u << stage;
        *order |= stage << 4 * count++;
        at += length;
        at += *at != 0;
    }
    if (!(seen >> STAGE_TEMPERATURE & 1))
        *order |= (uint32_t)STAGE_TEMPERATURE << 4 * count;
    return STATUS_OK;
}

bool sampling_reads_history(const struct sampling *s)
{
    return s->repeat_penalty != 1.0f || s->presence_penalty != 0.0f ||
           s->frequency_penalty != 0.0f || (s->dry_multiplier > 0 && s->dry_last_n != 0);
}

struct sampling_row sampling_row_from(const struct sampling *s, uint32_t n_prompt)
{
    return (struct sampling_row){
        .seed = s->seed,
        .temperature = s->temperature,
        .top_k = s->top_k,
        .top_p = s->top_p,
        .min_p = s->min_p,
        .repeat_penalty = s->repeat_penalty,
        .presence_penalty = s->presence_penalty,
        .frequency_penalty = s->frequency_penalty,
        .repeat_last_n = s->repeat_last_n,
        .n_prompt = n_prompt,
        .want_logprob = s->logprobs,
        .n_top_logprobs = s->n_top_logprobs,
        .n_biases = s->n_biases,
        .order = s->order,
        .typical_p = s->typical_p,
        .top_n_sigma = s->top_n_sigma,
        .xtc_probability = s->xtc_probability,
        .xtc_threshold = s->xtc_threshold,
        .dry_multiplier = s->dry_multiplier,
        .dry_base = s->dry_base,
        .dry_allowed_length = s->dry_allowed_length,
        .dry_last_n = s->dry_last_n,
        .mirostat = s->mirostat,
        .mirostat_tau = s->mirostat_tau,
        .mirostat_eta = s->mirostat_eta,
        .mirostat_mu = 2.0f * s->mirostat_tau,
    };
}

size_t sampling_scratch_bytes(uint32_t n_vocab)
{
    size_t bytes;
    return checked_mul_size(n_vocab, sizeof(float) + sizeof(int32_t), &bytes) ? bytes : 0;
}

void sampling_use_scratch(struct sampling_input *in, void *scratch)
{
    in->work = scratch;
    in->ids = (int32_t *)((char *)scratch + sizeof(float) * in->n_vocab);
}

enum status sampling_failure_status(int32_t failed, struct error *err)
{
    switch (failed) {
    case SAMPLING_DRAWN:
        return STATUS_OK;
    case SAMPLING_NO_LOGIT:
        return error_set(err, STATUS_MODEL,
                         "the model gave no usable logit (all are NaN or -infinity); the weights "
                         "may be damaged or overflow in this numeric mode");
    case SAMPLING_ALL_MASKED:
        return error_set(err, STATUS_LIMIT,
                         "no token is allowed here: the grammar mask and logit_bias exclude all");
    default:
        return error_set(err, STATUS_INTERNAL, "unknown sampling failure %d", failed);
    }
}

enum status sampling_draw(const struct sampling *s, uint32_t n_prompt,
                          const struct sampling_input *in, struct sampling_draw *out,
                          struct error *err)
{
    struct sampling_row row = sampling_row_from(s, n_prompt);
    struct sampling_input own = *in;
    own.bias_ids = s->bias_ids;
    own.bias_values = s->bias_values;
    sampling_draw_row(&row, &own, out);
    return sampling_failure_status(out->failed, err);
}
