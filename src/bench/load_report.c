/* What a run says: summaries, and their forms for terminals, Markdown, browsers and programs. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "bench/load.h"

/* ---- summary ---------------------------------------------------------------------------------- */

static int compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

double load_quantile(const double *sorted, size_t n, double q)
{
    if (n == 0)
        return NAN;
    double place = q * (double)(n - 1);
    size_t i = (size_t)place;
    if (i + 1 >= n)
        return sorted[n - 1];
    return sorted[i] + (place - (double)i) * (sorted[i + 1] - sorted[i]);
}

/* Tokens of the answer: by usage, or else by events. */
static uint32_t tokens_of(const struct load_sample *sample)
{
    return sample->has_usage ? sample->output_tokens : sample->n_events;
}

static double first_of(const struct load_sample *sample)
{
    return (double)(sample->first_ns - sample->start_ns) * 1e-9;
}

/* Rate of one answer after its first token; 0 where it has none to speak of: too short, or most of
 * its tokens had no event, so that nobody saw when they came. */
static double rate_of(const struct load_sample *sample)
{
    uint32_t n = tokens_of(sample);
    if (n < 3 || 2 * sample->n_events < n || sample->end_ns <= sample->first_ns)
        return 0.0;
    return (n - 1) / ((double)(sample->end_ns - sample->first_ns) * 1e-9);
}

/* The end token is in the usage but has no event; elsewhere text held back may come after the last
 * token. More than that is told. */
static bool disagrees(const struct load_sample *sample)
{
    if (!sample->has_usage)
        return false;
    int64_t difference = (int64_t)sample->output_tokens - sample->n_events;
    return difference < -1 || difference > 1;
}

static void add_sample(const struct load_sample *sample, struct load_summary *out, double *firsts,
                       size_t *n_firsts, double *rates, size_t *n_rates)
{
    out->requests++;
    if (sample->error[0]) {
        out->errors++;
        return;
    }
    out->without_usage += !sample->has_usage;
    out->disagreements += disagrees(sample);
    out->prompt_tokens += sample->prompt_tokens;
    out->cached_tokens += sample->cached_tokens;
    out->output_tokens += tokens_of(sample);
    out->events += sample->n_events;
    if (sample->history_tokens) {
        uint32_t again = sample->history_tokens > sample->cached_tokens
                             ? sample->history_tokens - sample->cached_tokens
                             : 0;
        out->later_turns++;
        out->history_tokens += sample->history_tokens;
        out->recomputed_tokens += again;
        out->recomputed_most = again > out->recomputed_most ? again : out->recomputed_most;
    }
    if (sample->first_ns)
        firsts[(*n_firsts)++] = first_of(sample);
    double rate = rate_of(sample);
    if (rate > 0)
        rates[(*n_rates)++] = rate;
}

void load_summarize(const struct load_level *level, struct load_summary *out)
{
    size_t n_firsts = 0, n_rates = 0;
    double *firsts = calloc(level->n_samples + 1, sizeof *firsts);
    double *rates = calloc(level->n_samples + 1, sizeof *rates);
    double *gaps = calloc((size_t)level->n_gaps + 1, sizeof *gaps);
    *out = (struct load_summary){.total_rate = NAN};
    if (firsts && rates && gaps) {
        for (uint32_t i = 0; i < level->n_samples; i++)
            add_sample(&level->samples[i], out, firsts, &n_firsts, rates, &n_rates);
        memcpy(gaps, level->gaps ? level->gaps : gaps, level->n_gaps * sizeof *gaps);
        qsort(firsts, n_firsts, sizeof *firsts, compare);
        qsort(rates, n_rates, sizeof *rates, compare);
        qsort(gaps, level->n_gaps, sizeof *gaps, compare);
        if (level->seconds > 0 && out->errors < out->requests)
            out->total_rate = (double)out->output_tokens / level->seconds;
        out->user_rate = load_quantile(rates, n_rates, 0.5);
        out->first_p50 = load_quantile(firsts, n_firsts, 0.5);
        out->first_p95 = load_quantile(firsts, n_firsts, 0.95);
        out->first_p99 = load_quantile(firsts, n_firsts, 0.99);
        out->gap_p50 = load_quantile(gaps, level->n_gaps, 0.5);
        out->gap_p99 = load_quantile(gaps, level->n_gaps, 0.99);
        out->cached_share =
            out->prompt_tokens ? (double)out->cached_tokens / (double)out->prompt_tokens : NAN;
    }
    free(firsts);
    free(rates);
    free(gaps);
}

/* ---- tables ----------------------------------------------------------------------------------- */

static void write_ms(struct buf *out, double seconds, const char *before)
{
    if (isnan(seconds))
        buf_printf(out, "%s%7s", before, "-");
    else
        buf_printf(out, seconds < 0.1 ? "%s%7.1f" : "%s%7.0f", before, seconds * 1e3);
}

void load_write_row(const struct load_level *level, const char *separator, const char *end,
                    struct buf *out)
{
    struct load_summary s;
    load_summarize(level, &s);
    char who[32];
    snprintf(who, sizeof who, level->rate > 0 ? "%g%s" : "%.0f%s",
             level->rate > 0 ? level->rate : level->users, level->cold ? "+" : "");
    buf_printf(out, "%5s%s%8u", who, separator, s.requests);
    buf_printf(out, isnan(s.total_rate) ? "%s%10s" : "%s", separator, "-");
    if (!isnan(s.total_rate))
        buf_printf(out, "%10.1f", s.total_rate);
    if (isnan(s.user_rate))
        buf_printf(out, "%s%8s", separator, "-");
    else
        buf_printf(out, "%s%8.1f", separator, s.user_rate);
    write_ms(out, s.first_p50, separator);
    write_ms(out, s.first_p95, separator);
    write_ms(out, s.first_p99, separator);
    write_ms(out, s.gap_p50, separator);
    write_ms(out, s.gap_p99, separator);
    if (isnan(s.cached_share))
        buf_printf(out, "%s%6s", separator, "-");
    else
        buf_printf(out, "%s%5.1f%%", separator, s.cached_share * 100.0);
    buf_printf(out, "%s%6u%s\n", separator, s.errors, end);
}

/* "8 users", "1 user", "2.5 requests/s" */
static void name_level(const struct load_level *level, char *out, size_t size)
{
    if (level->rate > 0)
        snprintf(out, size, "%g requests/s", level->rate);
    else
        snprintf(out, size, "%u user%s", level->users, level->users == 1 ? "" : "s");
}

/* A level beside cold prompts against the same one without. */
static void write_disturbance(const struct load_level *alone, const struct load_level *level,
                              uint32_t tokens, const char *indent, struct buf *out)
{
    struct load_summary a, b;
    load_summarize(alone, &a);
    load_summarize(level, &b);
    buf_printf(out,
               "%s%u+: beside cold prompts of %u tokens (%u answered): first token p95 %.2f times, "
               "gap p99 %.2f times, gap p50 %.2f times that without\n",
               indent, level->users, tokens, level->n_cold, b.first_p95 / a.first_p95,
               b.gap_p99 / a.gap_p99, b.gap_p50 / a.gap_p50);
}

/* What the table alone would hide: errors, and counts that do not fit. */
void load_write_notes(const struct load_report *report, const char *indent, struct buf *out)
{
    for (uint32_t i = 0; i < report->n_levels; i++) {
        const struct load_level *level = &report->levels[i];
        struct load_summary s;
        char who[40];
        load_summarize(level, &s);
        name_level(level, who, sizeof who);
        if (level->cold && i > 0)
            write_disturbance(&report->levels[i - 1], level, report->config.cold_tokens, indent,
                              out);
        if (s.later_turns)
            buf_printf(out,
                       "%s%s: %u turns resent %llu tokens of their conversations, %llu were "
                       "computed again: %.1f a turn, at most %u\n",
                       indent, who, s.later_turns, (unsigned long long)s.history_tokens,
                       (unsigned long long)s.recomputed_tokens,
                       (double)s.recomputed_tokens / s.later_turns, s.recomputed_most);
        if (s.disagreements)
            buf_printf(
                out,
                "%s%s: usage and stream events disagree for %u of %u answers (%llu "
                "tokens by usage, %llu events); the rates use usage (a token without text may "
                "have no event, one that ends a thought or a call two)\n",
                indent, who, s.disagreements, s.requests, (unsigned long long)s.output_tokens,
                (unsigned long long)s.events);
        if (s.without_usage)
            buf_printf(out, "%s%s: %u answers had no usage; their events were counted\n", indent,
                       who, s.without_usage);
        for (uint32_t j = 0; j < level->n_samples; j++)
            if (level->samples[j].error[0]) {
                buf_printf(out, "%s%s, first error: %s\n", indent, who, level->samples[j].error);
                break;
            }
    }
}

void load_write_title(const struct load_report *report, struct buf *out)
{
    const struct load_config *config = &report->config;
    buf_printf(
        out, "%s %s%s, scenario %s, answers of up to %u tokens, %s loop", report->model,
        config->url ? "at " : "", report->target,
        config->scenario == LOAD_TRACE ? config->trace : load_scenario_name(config->scenario),
        config->max_tokens ? config->max_tokens : 64, config->rates[0] > 0 ? "open" : "closed");
    if (config->seed)
        buf_printf(out, ", seed %llu", (unsigned long long)config->seed);
}

void load_print(const struct load_report *report, struct buf *out)
{
    load_write_title(report, out);
    buf_append_cstr(out,
                    "\n\n                 tokens/s           first token, ms          gap, ms\n");
    buf_append_cstr(out, report->config.rates[0] > 0 ? "req/s" : "users");
    buf_append_cstr(out, " requests      total each(p50)    p50     p95     p99     p50     p99 "
                         "cached errors\n");
    for (uint32_t i = 0; i < report->n_levels; i++)
        load_write_row(&report->levels[i], " ", "", out);
    load_write_notes(report, "", out);
}

void load_print_markdown(const struct load_report *report, struct buf *out)
{
    load_write_title(report, out);
    buf_printf(out, "\n\n| %s", report->config.rates[0] > 0 ? "requests/s" : "users");
    buf_append_cstr(out, " | requests | total t/s | each t/s (p50) | TTFT p50, ms | TTFT "
                         "p95 | TTFT p99 | gap p50, ms | gap p99 | cached | errors |\n"
                         "| --: | --: | --: | --: | --: | --: | --: | --: | --: | --: | --: |\n");
    for (uint32_t i = 0; i < report->n_levels; i++) {
        buf_append_cstr(out, "| ");
        load_write_row(&report->levels[i], " | ", " |", out);
    }
    buf_append_char(out, '\n');
    load_write_notes(report, "- ", out);
}

/* ---- JSON ------------------------------------------------------------------------------------- */

static json_t *number(double value)
{
    return isfinite(value) ? json_real(value) : json_null();
}

static json_t *sample_json(const struct load_level *level, const struct load_sample *sample,
                           uint64_t origin)
{
    json_t *gaps = json_array(), *made = json_object();
    for (uint32_t i = 0; i < sample->n_gaps; i++)
        json_array_append_new(gaps, json_real(level->gaps[sample->first_gap + i]));
    json_object_set_new(made, "user", json_integer(sample->user));
    json_object_set_new(made, "turn", json_integer(sample->turn));
    json_object_set_new(made, "start", json_real((double)(sample->start_ns - origin) * 1e-9));
    json_object_set_new(made, "first_token",
                        sample->first_ns ? json_real(first_of(sample)) : json_null());
    json_object_set_new(made, "seconds",
                        json_real((double)(sample->end_ns - sample->start_ns) * 1e-9));
    json_object_set_new(made, "events", json_integer(sample->n_events));
    if (sample->has_usage) {
        json_object_set_new(made, "prompt_tokens", json_integer(sample->prompt_tokens));
        json_object_set_new(made, "cached_tokens", json_integer(sample->cached_tokens));
        json_object_set_new(made, "output_tokens", json_integer(sample->output_tokens));
    }
    json_object_set_new(made, "gaps", gaps);
    if (sample->error[0])
        json_object_set_new(made, "error", json_string(sample->error));
    return made;
}

static json_t *level_json(const struct load_level *level)
{
    struct load_summary s;
    load_summarize(level, &s);
    json_t *made = json_object(), *samples = json_array();
    const struct {
        const char *name;
        double value;
    } numbers[] = {
        {"users", level->rate > 0 ? NAN : level->users},
        {"requests_per_second", level->rate > 0 ? level->rate : NAN},
        {"requests", s.requests},
        {"errors", s.errors},
        {"seconds", level->seconds},
        {"total_tokens_per_second", s.total_rate},
        {"user_tokens_per_second_p50", s.user_rate},
        {"first_token_p50", s.first_p50},
        {"first_token_p95", s.first_p95},
        {"first_token_p99", s.first_p99},
        {"gap_p50", s.gap_p50},
        {"gap_p99", s.gap_p99},
        {"cached_share", s.cached_share},
        {"prompt_tokens", (double)s.prompt_tokens},
        {"cached_tokens", (double)s.cached_tokens},
        {"output_tokens", (double)s.output_tokens},
        {"events", (double)s.events},
        {"cold", level->cold},
        {"cold_answered", level->n_cold},
        {"later_turns", s.later_turns},
        {"history_tokens", (double)s.history_tokens},
        {"recomputed_tokens", (double)s.recomputed_tokens},
        {"recomputed_most", s.recomputed_most},
        {"disagreements", s.disagreements},
        {"without_usage", s.without_usage},
    };
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++)
        json_object_set_new(made, numbers[i].name, number(numbers[i].value));
    uint64_t origin = level->n_samples ? level->samples[0].start_ns : 0;
    for (uint32_t i = 0; i < level->n_samples; i++)
        if (level->samples[i].start_ns < origin)
            origin = level->samples[i].start_ns;
    for (uint32_t i = 0; i < level->n_samples; i++)
        json_array_append_new(samples, sample_json(level, &level->samples[i], origin));
    json_object_set_new(made, "samples", samples);
    return made;
}

enum status load_print_json(const struct load_report *report, struct buf *out, struct error *err)
{
    json_t *root = json_object(), *levels = json_array();
    const struct load_config *config = &report->config;
    json_object_set_new(root, "model", json_string(report->model));
    json_object_set_new(root, "target", json_string(report->target));
    json_object_set_new(root, "scenario", json_string(load_scenario_name(config->scenario)));
    json_object_set_new(root, "loop", json_string(config->rates[0] > 0 ? "open" : "closed"));
    json_object_set_new(root, "seed", json_integer((json_int_t)config->seed));
    json_object_set_new(root, "max_tokens",
                        json_integer(config->max_tokens ? config->max_tokens : 64));
    json_object_set_new(root, "tokens_per_word", json_real(report->tokens_per_word));
    for (uint32_t i = 0; i < report->n_levels; i++)
        json_array_append_new(levels, level_json(&report->levels[i]));
    json_object_set_new(root, "levels", levels);
    char *text = json_dumps(root, JSON_INDENT(1));
    json_decref(root);
    if (!text)
        return error_set(err, STATUS_MEMORY, "out of memory for the JSON");
    buf_append_cstr(out, text);
    buf_append_char(out, '\n');
    free(text);
    return STATUS_OK;
}
