/* The part of `sluice bench` that puts users on a server or on the engine. */
#ifndef SLUICE_CLI_BENCH_LOAD_H
#define SLUICE_CLI_BENCH_LOAD_H

#include "cli/cli.h"

struct bench_load_flags {
    const char *url, *users, *rate, *scenario, *trace, *api_key, *model_name, *html;
    uint32_t requests, prompt_tokens, max_tokens, n_context, n_threads, cold;
    float think;
    bool given, has_think, as_json, as_markdown; /* given: one of the flags above was */
    uint64_t seed, packed_cache_size;            /* seed 0: another one each time */
    const char *backend, *kv_type, *packed_cache;
    bool exact;
};

/* True where the flags ask for users instead of kernels. */
bool bench_load_wanted(const struct bench_load_flags *flags);
/* model: for the engine in this process, without a URL. */
enum status bench_load_run(const struct bench_load_flags *flags, const char *model,
                           struct error *err);

#endif
