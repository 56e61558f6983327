/* sluice tokenize and detokenize: the tokenizer alone, as JSON lists of ids. */
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "cli/cli.h"
#include "format/checkpoint.h"
#include "format/vocabulary.h"
#include "text/tokenizer/tokenizer.h"

#define TEXT_BYTES_MAX ((size_t)256 << 20)

static const char *file_option;
static bool no_bos, no_parse_special, skip_special;

static const struct option tokenize_options[] = {
    {"--file", "-f", "F", "read the text from a file instead of standard input", OPTION_TEXT,
     &file_option, NULL},
    {"--no-bos", NULL, NULL, "no begin or end token, whatever the model's metadata says",
     OPTION_FLAG, &no_bos, NULL},
    {"--no-parse-special", NULL, NULL, "special tokens written in the text are plain text",
     OPTION_FLAG, &no_parse_special, NULL},
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
        status = tokenizer_encode(tokenizer, buf_str(&text), NULL, 0, &options, &ids, err);
    }
    if (status == STATUS_OK) {
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
    .usage = "tokenize MODEL [--file F] [--no-bos] [--no-parse-special]",
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
