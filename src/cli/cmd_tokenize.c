/* sluice tokenize and detokenize: the tokenizer alone, as JSON lists of ids. */
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/file.h"
#include "cli/cli.h"
#include "format/checkpoint.h"
#include "format/vocabulary.h"
#include "text/tokenizer/tokenizer.h"

#define TEXT_BYTES_MAX ((size_t)256 << 20)
#define TIME_ROUNDS    5

static const char *file_option;
static bool no_bos, no_parse_special, skip_special, time_option;

static const struct option tokenize_options[] = {
    {"--file", "-f", "F", "read the text from a file instead of standard input", OPTION_TEXT,
     &file_option, NULL},
    {"--no-bos", NULL, NULL, "no begin or end token, whatever the model's metadata says",
     OPTION_FLAG, &no_bos, NULL},
    {"--no-parse-special", NULL, NULL, "special tokens written in the text are plain text",
     OPTION_FLAG, &no_parse_special, NULL},
    {"--time", NULL, NULL, "print how fast the text is encoded instead of the ids", OPTION_FLAG,
     &time_option, NULL},
    OPTIONS_END,
};

static const struct option detokenize_options[] = {
    {"--skip-special", NULL, NULL, "leave control tokens out of the text", OPTION_FLAG,
     &skip_special, NULL},
    OPTIONS_END,
};

/* MODEL: a GGUF file (with or without weights), a model folder, or a tokenizer.json or .model. */
static enum status open_tokenizer(const char *path, struct tokenizer **out, struct error *err)
{
    struct vocabulary vocabulary;
    struct checkpoint *checkpoint = NULL;
    enum status status;
    if (str_ends(str_from(path), STR_LIT(".json")) && !file_is_directory(path)) {
        status = vocabulary_from_tokenizer_json(path, &vocabulary, err);
    } else if (str_ends(str_from(path), STR_LIT(".model")) && !file_is_directory(path)) {
        status = vocabulary_from_tokenizer_model(path, NULL, &vocabulary, err);
    } else {
        status = checkpoint_open(path, &checkpoint, err);
        if (status == STATUS_OK)
            status = vocabulary_from_checkpoint(checkpoint, &vocabulary, err);
    }
    if (status == STATUS_OK) {
        status = tokenizer_create(&vocabulary, out, err);
        vocabulary_release(&vocabulary);
    }
    checkpoint_close(checkpoint);
    return status;
}

static enum status need_model(const struct arguments *arguments, size_t count,
                              const struct command *command, struct error *err)
{
    if (arguments->count < count)
        return error_set(err, STATUS_USAGE, "missing argument: usage: sluice %s", command->usage);
    return STATUS_OK;
}

/* The best of several rounds, on one core. */
static enum status time_encoding(const struct tokenizer *tokenizer, struct str text,
                                 const struct tokenizer_options *options, struct token_list *ids,
                                 struct error *err)
{
    double best = 0;
    for (int round = 0; round < TIME_ROUNDS; round++) {
        ids->count = 0;
        uint64_t start = clock_now_ns();
        enum status status = tokenizer_encode(tokenizer, text, NULL, 0, options, ids, err);
        double seconds = (double)(clock_now_ns() - start) * 1e-9;
        if (status != STATUS_OK)
            return status;
        if (round == 0 || seconds < best)
            best = seconds;
    }
    printf("%zu bytes, %zu tokens, %.2f ms, %.1f MB/s (best of %d)\n", text.len, ids->count,
           best * 1e3, best > 0 ? (double)text.len / best / 1e6 : 0.0, TIME_ROUNDS);
    return STATUS_OK;
}

static enum status run_tokenize(const struct arguments *arguments, struct error *err)
{
    enum status status = need_model(arguments, 1, &command_tokenize, err);
    struct tokenizer *tokenizer = NULL;
    struct buf text = {0};
    struct token_list ids = {0};
    if (status == STATUS_OK)
        status = open_tokenizer(arguments->items[0], &tokenizer, err);
    if (status == STATUS_OK)
        status = file_option ? file_read_all(file_option, TEXT_BYTES_MAX, &text, err)
                             : read_stdin(&text, err);
    if (status == STATUS_OK) {
        struct tokenizer_options options = {
            .specials = no_parse_special ? TOKENIZER_SPECIALS_NONE : TOKENIZER_SPECIALS_ALL,
            .add_bos = !no_bos && tokenizer_adds_bos(tokenizer),
            .add_eos = !no_bos && tokenizer_adds_eos(tokenizer),
        };
        status = time_option
                     ? time_encoding(tokenizer, buf_str(&text), &options, &ids, err)
                     : tokenizer_encode(tokenizer, buf_str(&text), NULL, 0, &options, &ids, err);
    }
    if (status == STATUS_OK && !time_option) {
        putchar('[');
        for (size_t i = 0; i < ids.count; i++)
            printf("%s%d", i ? ", " : "", ids.ids[i]);
        printf("]\n");
    }
    token_list_release(&ids);
    buf_release(&text);
    tokenizer_free(tokenizer);
    return status;
}

static enum status run_detokenize(const struct arguments *arguments, struct error *err)
{
    enum status status = need_model(arguments, 2, &command_detokenize, err);
    struct tokenizer *tokenizer = NULL;
    struct buf text = {0};
    int32_t *ids = NULL;
    size_t count = 0;
    if (status == STATUS_OK)
        status = parse_ids(arguments->items[1], &ids, &count, err);
    if (status == STATUS_OK)
        status = open_tokenizer(arguments->items[0], &tokenizer, err);
    if (status == STATUS_OK)
        status = tokenizer_decode(tokenizer, ids, count, skip_special, &text, err);
    if (status == STATUS_OK)
        fwrite(text.data ? text.data : "", 1, text.len, stdout);
    buf_release(&text);
    free(ids);
    tokenizer_free(tokenizer);
    return status;
}

const struct command command_tokenize = {
    .name = "tokenize",
    .synopsis = "text to token ids",
    .usage = "tokenize MODEL [--file F] [--no-bos] [--no-parse-special] [--time]",
    .about = "Reads text from standard input (or a file) and prints its token ids as a JSON list.\n"
             "MODEL: a GGUF file (a vocabulary-only one will do), a model folder, or a\n"
             "tokenizer.json or tokenizer.model.\n\n"
             "  printf 'Hello world' | sluice tokenize model.gguf",
    .options = tokenize_options,
    .run = run_tokenize,
    .max_arguments = 1,
};

const struct command command_detokenize = {
    .name = "detokenize",
    .synopsis = "token ids to text",
    .usage = "detokenize MODEL IDS [--skip-special]",
    .about = "Prints the text of token ids, without a line end of its own.\n\n"
             "  sluice detokenize model.gguf 1,2,3",
    .options = detokenize_options,
    .run = run_detokenize,
    .max_arguments = 2,
};
