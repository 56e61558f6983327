/*
 * The command line: what every command shares. One file per command; main.c holds the table.
 *
 * A command is a table of options, a text that teaches, and a function. Commands print their results
 * on stdout, everything else (progress, statistics, errors) on stderr; colour and progress appear
 * only on a terminal. The exit code comes from the status (status_exit_code).
 */
#ifndef SLUICE_CLI_CLI_H
#define SLUICE_CLI_CLI_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "base/status.h"
#include "base/str.h"
#include "sluice.h"

enum option_kind {
    OPTION_FLAG,  /* bool */
    OPTION_TEXT,  /* const char * */
    OPTION_U32,   /* uint32_t */
    OPTION_I32,   /* int32_t */
    OPTION_U64,   /* uint64_t */
    OPTION_FLOAT, /* float */
    OPTION_BYTES, /* uint64_t; 512M, 2G, ... */
    OPTION_LIST,  /* struct option_list; may be repeated */
    OPTION_TABLE, /* another table of options; `help` is its heading */
};

struct option_list {
    const char **items; /* [capacity] */
    size_t capacity, *count;
};

struct option {
    const char *name;    /* "--temp" */
    const char *aliases; /* "-t --threads", space-separated, or NULL */
    const char *value;   /* "N" in the help; NULL for flags */
    const char *help;
    enum option_kind kind;
    void *target;
    bool *given; /* set when the option appeared; may be NULL */
};

/* Options that several commands have in the same words; `target` is the command's own. */
#define OPTION_OF_MODEL(target)                                                                    \
    {                                                                                              \
        "--model", "-m", "MODEL", "the model, instead of as an argument", OPTION_TEXT, target,     \
            NULL                                                                                   \
    }
#define OPTION_OF_BACKEND(target)                                                                  \
    {                                                                                              \
        "--backend", NULL, "B", "what computes: auto, cpu, cuda or ref (auto)", OPTION_TEXT,       \
            target, NULL                                                                           \
    }
#define OPTION_OF_THREADS(target)                                                                  \
    {                                                                                              \
        "--threads", "-t", "N", "CPU threads (one per performance core)", OPTION_U32, target, NULL \
    }
#define OPTION_OF_EXACT(target)                                                                    \
    {                                                                                              \
        "--exact", NULL, NULL, "slower and exact: float32 activations, accumulation and KV",       \
            OPTION_FLAG, target, NULL                                                              \
    }
#define OPTION_OF_KV_MEMORY(target)                                                                \
    {                                                                                              \
        "--kv-memory", NULL, "SIZE", "memory for the KV cache, e.g. 2G (what is free)",            \
            OPTION_BYTES, target, NULL                                                             \
    }
#define OPTION_OF_KV_TYPE(target)                                                                  \
    {                                                                                              \
        "--kv-type", "--kv --cache-type-k", "T",                                                   \
            "elements of the KV cache: f32, f16, bf16, q8_0, f8_e4m3", OPTION_TEXT, target, NULL   \
    }
#define OPTION_OF_CHAT_TEMPLATE(target)                                                            \
    {                                                                                              \
        "--chat-template", NULL, "F",                                                              \
            "a Jinja file (or 'harmony') instead of the model's own template", OPTION_TEXT,        \
            target, NULL                                                                           \
    }

/* Two options: the folder, and its size. */
#define OPTIONS_OF_PACKED_CACHE(folder, size)                                                      \
    {"--packed-cache",                                                                             \
     NULL,                                                                                         \
     "DIR",                                                                                        \
     "keep the CPU's packed weights here: the next start maps them",                               \
     OPTION_TEXT,                                                                                  \
     folder,                                                                                       \
     NULL},                                                                                        \
    {                                                                                              \
        "--packed-cache-size", NULL, "SIZE", "most that its files take together (32G)",            \
            OPTION_BYTES, size, NULL                                                               \
    }

#define OPTIONS_END                                                                                \
    {                                                                                              \
        NULL, NULL, NULL, NULL, OPTION_FLAG, NULL, NULL                                            \
    }
#define ARGUMENTS_MAX 8

struct arguments {
    const char *items[ARGUMENTS_MAX];
    size_t count;
};

struct command {
    const char *name;
    const char *synopsis; /* one line for the list */
    const char *usage;    /* "run [MODEL] [PROMPT] [options]" */
    const char *about;    /* paragraphs and examples for --help */
    /* Options and their targets, for parsing and for help. */
    const struct option *options;
    enum status (*run)(const struct arguments *arguments, struct error *err);
    size_t max_arguments;
};

extern const struct command command_run, command_show, command_hardware, command_tokenize,
    command_detokenize, command_logits, command_render, command_bench;
extern const struct command command_synth, command_quantize, command_perplexity;
extern const struct command command_serve;

/* Parses argv[0..argc) against the options. STATUS_USAGE with a hint at the nearest option. */
enum status options_parse(const struct command *command, int argc, char **argv,
                          struct arguments *arguments, bool *help, struct error *err);
/* Sets one number of a table, by name ("--temp"), as if it had been on the command line. STATUS_USAGE for
 * other names, and for options that are no number. */
enum status options_set(const struct option *table, const char *name, const char *text,
                        struct error *err);
/* Edits from a[n] to b; 64 for what is too long to be a name. */
size_t options_distance(const char *a, size_t n, const char *b);
void options_print_help(const struct command *command, FILE *out);

/* ---- terminal (terminal.c) -------------------------------------------------------------------- */

bool terminal_is(FILE *stream);
/* Escape sequences, empty strings off a terminal or under NO_COLOR. */
const char *terminal_dim(FILE *stream);
const char *terminal_bold(FILE *stream);
const char *terminal_reset(FILE *stream);
/* A progress bar on stderr, drawn at most ten times a second; nothing off a terminal. Signature of
 * sluice_engine_options.progress. Finished (fraction 1) erases the line. */
void terminal_progress(void *context, double fraction, const char *what);

/* ---- shared by commands (common.c) ------------------------------------------------------------ */

/* A failed call of the public API as our own kind of error, with flags where the engine says fields. */
enum status status_from_public(const sluice_error *error, struct error *err);
/* Path of the bundled demo model: beside the program's folder (build tree or installation). */
enum status demo_model_path(char *out, size_t size, struct error *err);
/* --chat-template: a Jinja file, or the name of a template that is built in ("harmony"). NULL reads
 * nothing. */
enum status read_chat_template(const char *name, struct buf *out, struct error *err);
/* stdin to its end, at most 64 MiB. */
enum status read_stdin(struct buf *out, struct error *err);
/* "1,2,3" or "[1, 2, 3]". *ids is malloc'ed. */
enum status parse_ids(const char *text, int32_t **ids, size_t *count, struct error *err);

#endif
