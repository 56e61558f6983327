/*
 * Sampling flags: one table for every command that samples, so that a flag is spelled, explained
 * and checked the same everywhere. What they mean to the sampler: include/sluice.h.
 */
#ifndef SLUICE_CLI_SAMPLING_H
#define SLUICE_CLI_SAMPLING_H

#include "cli/cli.h"

/* For a command's table: an OPTION_TABLE entry. */
extern const struct option sampling_options[];
#define SAMPLING_OPTIONS                                                                           \
    {                                                                                              \
        "", NULL, NULL, "Sampling:", OPTION_TABLE, (void *)sampling_options, NULL                  \
    }

/* The sampling that the flags name: in `set` is only what was given. Lives as long as the program.
 * Errors: a value out of its range, naming the flag. */
enum status sampling_given(sluice_sampling *sampling, struct error *err);
/* Before that: what the temperature is where no flag says it. */
void sampling_prefer_temperature(float temperature);
/* After that: gives one of the flags that are numbers ("top-p") another value, under the same checks, and
 * writes what all of them name now. On error nothing changes. */
enum status sampling_set(const char *name, const char *text, sluice_sampling *sampling,
                         struct error *err);

#endif
