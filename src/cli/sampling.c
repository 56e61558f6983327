/* The table of sampling flags. A flag that was not given leaves its field to the model's own
 * generation_config, or to the built-in value that the help names. */
#include "cli/sampling.h"

#include <stdio.h>

#define BREAKERS_MAX 16

static sluice_sampling values;
static const char *breakers[BREAKERS_MAX];
static size_t n_breakers;
static struct option_list breaker_list = {breakers, BREAKERS_MAX, &n_breakers};
static struct given {
    bool temperature, top_k, top_p, min_p, repeat, repeat_n, presence, frequency, seed, typical,
        sigma, xtc, xtc_threshold, dry, dry_base, dry_length, dry_n, mirostat, tau, eta;
} given;

const struct option sampling_options[] = {
    {"--temp", "--temperature", "T", "randomness: 0 always takes the likeliest token", OPTION_FLOAT,
     &values.temperature, &given.temperature},
    {"--top-k", NULL, "K", "choose among the K likeliest, 0: all", OPTION_I32, &values.top_k,
     &given.top_k},
    {"--top-p", NULL, "P", "choose among the likeliest that sum to P, 1: all", OPTION_FLOAT,
     &values.top_p, &given.top_p},
    {"--min-p", NULL, "P", "drop what is less likely than P times the likeliest", OPTION_FLOAT,
     &values.min_p, &given.min_p},
    {"--seed", "-s", "S", "same seed, same text (another one each time)", OPTION_U64, &values.seed,
     &given.seed},
    {"--repeat-penalty", NULL, "R", "make recent tokens less likely, 1: off (1)", OPTION_FLOAT,
     &values.repeat_penalty, &given.repeat},
    {"--repeat-last-n", NULL, "N", "how many tokens are recent, -1: all (64)", OPTION_I32,
     &values.repeat_last_n, &given.repeat_n},
    {"--presence-penalty", NULL, "P", "make generated tokens less likely, once (0)", OPTION_FLOAT,
     &values.presence_penalty, &given.presence},
    {"--frequency-penalty", NULL, "P", "the same, for each time one was generated (0)",
     OPTION_FLOAT, &values.frequency_penalty, &given.frequency},
    {"--typical-p", "--typical", "P", "prefer tokens of expected surprise, 1: off (1)",
     OPTION_FLOAT, &values.typical_p, &given.typical},
    {"--top-n-sigma", NULL, "N", "keep logits within N deviations of the best, 0: off (0)",
     OPTION_FLOAT, &values.top_n_sigma, &given.sigma},
    {"--xtc-probability", NULL, "P", "how often to exclude the top choices, 0: off (0)",
     OPTION_FLOAT, &values.xtc_probability, &given.xtc},
    {"--xtc-threshold", NULL, "P", "what counts as a top choice (0.1)", OPTION_FLOAT,
     &values.xtc_threshold, &given.xtc_threshold},
    {"--dry-multiplier", NULL, "M", "strength against repeated passages, 0: off (0)", OPTION_FLOAT,
     &values.dry_multiplier, &given.dry},
    {"--dry-base", NULL, "B", "growth of that strength per repeated token (1.75)", OPTION_FLOAT,
     &values.dry_base, &given.dry_base},
    {"--dry-allowed-length", NULL, "N", "tokens in a row that may repeat freely (2)", OPTION_I32,
     &values.dry_allowed_length, &given.dry_length},
    {"--dry-penalty-last-n", NULL, "N", "how far back DRY looks, -1: everything (-1)", OPTION_I32,
     &values.dry_last_n, &given.dry_n},
    {"--dry-sequence-breaker", NULL, "TEXT",
     "a text that no passage reaches across, repeatable (newline : \" *)", OPTION_LIST,
     &breaker_list, NULL},
    {"--mirostat", NULL, "V", "hold the surprise steady: 1 or 2, 0: off (0)", OPTION_I32,
     &values.mirostat, &given.mirostat},
    {"--mirostat-tau", "--mirostat-ent", "T", "the surprise that mirostat holds, in bits (5)",
     OPTION_FLOAT, &values.mirostat_tau, &given.tau},
    {"--mirostat-eta", "--mirostat-lr", "E", "how fast mirostat adapts (0.1)", OPTION_FLOAT,
     &values.mirostat_eta, &given.eta},
    {"--samplers", NULL, "LIST", "which cuts, in which order, e.g. 'top_k;top_p;temperature'",
     OPTION_TEXT, &values.order, NULL},
    OPTIONS_END,
};

static bool within(double value, double least, double most)
{
    return value >= least && value <= most;
}

static enum status check(struct error *err)
{
    const struct {
        const char *flag, *expected;
        bool given, ok;
    } rules[] = {
        {"--temp", "0 or more", given.temperature, values.temperature >= 0},
        {"--top-k", "0 or more", given.top_k, values.top_k >= 0},
        {"--top-p", "0 to 1", given.top_p, within((double)values.top_p, 0, 1)},
        {"--min-p", "0 to 1", given.min_p, within((double)values.min_p, 0, 1)},
        {"--repeat-penalty", "above 0", given.repeat, values.repeat_penalty > 0},
        {"--repeat-last-n", "-1 or more", given.repeat_n, values.repeat_last_n >= -1},
        {"--typical-p", "0 to 1", given.typical, within((double)values.typical_p, 0, 1)},
        {"--xtc-probability", "0 to 1", given.xtc, within((double)values.xtc_probability, 0, 1)},
        {"--xtc-threshold", "0 to 1", given.xtc_threshold,
         within((double)values.xtc_threshold, 0, 1)},
        {"--mirostat", "0, 1 or 2", given.mirostat, values.mirostat >= 0 && values.mirostat <= 2},
    };
    for (size_t i = 0; i < sizeof rules / sizeof *rules; i++) {
        if (rules[i].given && !rules[i].ok)
            return error_set(err, STATUS_USAGE, "%s: expected %s", rules[i].flag,
                             rules[i].expected);
    }
    /* A part of a sampler that is off does nothing: better said than silent. */
    const struct {
        const char *flag, *needs;
        bool given, on;
    } parts[] = {
        {"--xtc-threshold", "--xtc-probability", given.xtc_threshold, given.xtc},
        {"--dry-base", "--dry-multiplier", given.dry_base, given.dry},
        {"--dry-allowed-length", "--dry-multiplier", given.dry_length, given.dry},
        {"--dry-penalty-last-n", "--dry-multiplier", given.dry_n, given.dry},
        {"--dry-sequence-breaker", "--dry-multiplier", n_breakers > 0, given.dry},
        {"--mirostat-tau", "--mirostat", given.tau, given.mirostat},
        {"--mirostat-eta", "--mirostat", given.eta, given.mirostat},
    };
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
        if (parts[i].given && !parts[i].on)
            return error_set(err, STATUS_USAGE, "%s does nothing without %s", parts[i].flag,
                             parts[i].needs);
    }
    return STATUS_OK;
}

enum status sampling_given(sluice_sampling *sampling, struct error *err)
{
    const struct {
        bool given;
        uint32_t bit;
    } bits[] = {
        {given.temperature, SLUICE_SET_TEMPERATURE},
        {given.top_k, SLUICE_SET_TOP_K},
        {given.top_p, SLUICE_SET_TOP_P},
        {given.min_p, SLUICE_SET_MIN_P},
        {given.seed, SLUICE_SET_SEED},
        {given.repeat, SLUICE_SET_REPEAT_PENALTY},
        {given.repeat_n, SLUICE_SET_REPEAT_LAST_N},
        {given.presence, SLUICE_SET_PRESENCE_PENALTY},
        {given.frequency, SLUICE_SET_FREQUENCY_PENALTY},
        {given.typical, SLUICE_SET_TYPICAL_P},
        {given.sigma, SLUICE_SET_TOP_N_SIGMA},
        {given.xtc, SLUICE_SET_XTC},
        {given.dry, SLUICE_SET_DRY},
        {given.mirostat, SLUICE_SET_MIROSTAT},
    };
    enum status status = check(err);
    *sampling = values;
    for (size_t i = 0; i < sizeof bits / sizeof *bits; i++)
        sampling->set |= bits[i].given ? bits[i].bit : 0;
    if (given.xtc && !given.xtc_threshold)
        sampling->xtc_threshold = 0.1f;
    if (n_breakers) {
        sampling->dry_breakers = breakers;
        sampling->n_dry_breakers = n_breakers;
    }
    return status;
}

void sampling_prefer_temperature(float temperature)
{
    if (given.temperature)
        return;
    given.temperature = true;
    values.temperature = temperature;
}

enum status sampling_set(const char *name, const char *text, sluice_sampling *sampling,
                         struct error *err)
{
    char flag[64];
    sluice_sampling values_before = values, changed;
    struct given given_before = given;
    snprintf(flag, sizeof flag, "--%s", name);
    enum status status = options_set(sampling_options, flag, text, err);
    if (status == STATUS_OK)
        status = sampling_given(&changed, err);
    if (status == STATUS_OK) {
        *sampling = changed;
    } else {
        values = values_before;
        given = given_before;
    }
    return status;
}
