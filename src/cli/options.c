/*
 * Options: a table drives parsing and help, so that the two cannot disagree. Written here because
 * getopt knows neither hints for misspelt options nor several spellings of one option.
 */
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "cli/cli.h"

#define HELP_COLUMN 30
#define HELP_WIDTH  66

static bool alias_matches(const char *aliases, const char *name, size_t length)
{
    while (aliases && *aliases) {
        const char *end = strchr(aliases, ' ');
        size_t n = end ? (size_t)(end - aliases) : strlen(aliases);
        if (n == length && memcmp(aliases, name, n) == 0)
            return true;
        aliases = end ? end + 1 : NULL;
    }
    return false;
}

static const struct option *find_option(const struct option *options, const char *name,
                                        size_t length)
{
    for (const struct option *o = options; o && o->name; o++) {
        if (o->kind == OPTION_TABLE) {
            const struct option *found = find_option(o->target, name, length);
            if (found)
                return found;
            continue;
        }
        if ((strlen(o->name) == length && memcmp(o->name, name, length) == 0) ||
            alias_matches(o->aliases, name, length))
            return o;
    }
    return NULL;
}

struct nearest {
    size_t distance;
    char name[64];
};

size_t options_distance(const char *a, size_t n, const char *b)
{
    size_t m = strlen(b), row[64];
    if (m >= 64 || n >= 64)
        return 64;
    for (size_t j = 0; j <= m; j++)
        row[j] = j;
    for (size_t i = 1; i <= n; i++) {
        size_t diagonal = row[0];
        row[0] = i;
        for (size_t j = 1; j <= m; j++) {
            size_t replace = diagonal + (a[i - 1] != b[j - 1]);
            size_t other = (row[j] < row[j - 1] ? row[j] : row[j - 1]) + 1;
            diagonal = row[j];
            row[j] = replace < other ? replace : other;
        }
    }
    return row[m];
}

static void consider(const char *name, size_t length, const char *candidate, size_t candidate_len,
                     struct nearest *nearest)
{
    char copy[64];
    if (candidate_len >= sizeof copy)
        return;
    memcpy(copy, candidate, candidate_len);
    copy[candidate_len] = 0;
    size_t d = options_distance(name, length, copy);
    /* --ctx for --ctx-size: a beginning is nearer than its distance tells. */
    if (length >= 4 && candidate_len > length && memcmp(copy, name, length) == 0)
        d = 1;
    if (d < nearest->distance) {
        nearest->distance = d;
        snprintf(nearest->name, sizeof nearest->name, "%s", copy);
    }
}

/* Among names and other spellings. */
static void find_nearest(const struct option *options, const char *name, size_t length,
                         struct nearest *nearest)
{
    for (const struct option *o = options; o && o->name; o++) {
        if (o->kind == OPTION_TABLE) {
            find_nearest(o->target, name, length, nearest);
            continue;
        }
        consider(name, length, o->name, strlen(o->name), nearest);
        for (const char *alias = o->aliases; alias && *alias;) {
            size_t n = strcspn(alias, " ");
            if (n > 2)
                consider(name, length, alias, n, nearest);
            alias += n + (alias[n] == ' ');
        }
    }
}

/* Flags that people bring from other programs: what to do here instead. NULL: none of them. */
static const char *elsewhere(const char *name, size_t length)
{
    static const char *const known[][2] = {
        {"-ngl --gpu-layers --n-gpu-layers -ncmoe --n-cpu-moe --cpu-experts",
         "a model runs as a whole on one backend here: choose it with --backend"},
        {"-fa --flash-attn -cb --cont-batching --no-mmap --mlock --jinja",
         "leave it out: there is nothing to choose here"},
    };
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (alias_matches(known[i][0], name, length))
            return known[i][1];
    return NULL;
}

static enum status unknown_option(const struct command *command, const char *name, size_t length,
                                  struct error *err)
{
    const char *instead = elsewhere(name, length);
    if (instead)
        return error_set(err, STATUS_USAGE, "%.*s: %s", (int)length, name, instead);
    struct nearest nearest = {.distance = 4};
    find_nearest(command->options, name, length, &nearest);
    if (nearest.name[0])
        return error_set(err, STATUS_USAGE, "unknown option %.*s: did you mean %s?", (int)length,
                         name, nearest.name);
    return error_set(err, STATUS_USAGE, "unknown option %.*s: 'sluice %s --help' lists them",
                     (int)length, name, command->name);
}

static enum status bad_value(const struct option *option, const char *text, const char *expected,
                             struct error *err)
{
    return error_set(err, STATUS_USAGE, "%s %s: expected %s", option->name, text, expected);
}

static enum status parse_unsigned(const struct option *option, const char *text, uint64_t most,
                                  uint64_t *out, struct error *err)
{
    char *end;
    errno = 0;
    unsigned long long value = strtoull(text, &end, 10);
    if (!*text || *text == '-' || *end || errno || value > most)
        return bad_value(option, text, "a whole number", err);
    *out = value;
    return STATUS_OK;
}

static enum status parse_bytes(const struct option *option, const char *text, uint64_t *out,
                               struct error *err)
{
    char *end;
    errno = 0;
    double value = strtod(text, &end);
    static const char units[] = "KMGT";
    const char *unit = *end ? strchr(units, *end >= 'a' ? *end - 32 : *end) : NULL;
    if (unit && *unit) {
        for (const char *u = units; u <= unit; u++)
            value *= 1024.0;
        end++;
        if (*end == 'i')
            end++;
        if (*end == 'B' || *end == 'b')
            end++;
    }
    if (end == text || *end || errno || !(value >= 0.0) || value > 9e18)
        return bad_value(option, text, "a size such as 512M or 2G", err);
    *out = (uint64_t)value;
    return STATUS_OK;
}

static enum status store(const struct option *option, const char *text, struct error *err)
{
    uint64_t number = 0;
    char *end;
    enum status status = STATUS_OK;
    switch (option->kind) {
    case OPTION_FLAG:
        *(bool *)option->target = true;
        break;
    case OPTION_TEXT:
        *(const char **)option->target = text;
        break;
    case OPTION_U32:
        status = parse_unsigned(option, text, UINT32_MAX, &number, err);
        *(uint32_t *)option->target = (uint32_t)number;
        break;
    case OPTION_U64:
        status = parse_unsigned(option, text, UINT64_MAX, &number, err);
        *(uint64_t *)option->target = number;
        break;
    case OPTION_I32: {
        errno = 0;
        long value = strtol(text, &end, 10);
        if (!*text || *end || errno || value < INT32_MIN || value > INT32_MAX)
            return bad_value(option, text, "a whole number", err);
        *(int32_t *)option->target = (int32_t)value;
        break;
    }
    case OPTION_FLOAT: {
        double value = strtod(text, &end);
        if (!*text || *end || !isfinite(value))
            return bad_value(option, text, "a number", err);
        *(float *)option->target = (float)value;
        break;
    }
    case OPTION_LIST: {
        struct option_list *list = option->target;
        if (*list->count == list->capacity)
            return error_set(err, STATUS_USAGE, "%s: at most %zu of them", option->name,
                             list->capacity);
        list->items[(*list->count)++] = text;
        break;
    }
    case OPTION_BYTES:
        status = parse_bytes(option, text, (uint64_t *)option->target, err);
        break;
    case OPTION_TABLE:
        break;
    }
    return status;
}

enum status options_set(const struct option *table, const char *name, const char *text,
                        struct error *err)
{
    const struct option *option = find_option(table, name, strlen(name));
    if (!option || (option->kind != OPTION_FLOAT && option->kind != OPTION_I32 &&
                    option->kind != OPTION_U32 && option->kind != OPTION_U64))
        return error_set(err, STATUS_USAGE, "%s cannot be set", name);
    enum status status = store(option, text, err);
    if (status == STATUS_OK && option->given)
        *option->given = true;
    return status;
}

enum status options_parse(const struct command *command, int argc, char **argv,
                          struct arguments *arguments, bool *help, struct error *err)
{
    *arguments = (struct arguments){.count = 0};
    *help = false;
    bool options_ended = false;
    for (int i = 0; i < argc; i++) {
        const char *text = argv[i];
        if (options_ended || text[0] != '-' || text[1] == 0) {
            if (arguments->count >= command->max_arguments)
                return error_set(err, STATUS_USAGE, "unexpected argument '%s': usage: sluice %s",
                                 text, command->usage);
            arguments->items[arguments->count++] = text;
            continue;
        }
        if (strcmp(text, "--") == 0) {
            options_ended = true;
            continue;
        }
        if (strcmp(text, "--help") == 0 || strcmp(text, "-h") == 0) {
            *help = true;
            return STATUS_OK;
        }
        const char *equals = strncmp(text, "--", 2) == 0 ? strchr(text, '=') : NULL;
        size_t length = equals ? (size_t)(equals - text) : strlen(text);
        const struct option *option = find_option(command->options, text, length);
        if (!option)
            return unknown_option(command, text, length, err);
        const char *value = equals ? equals + 1 : NULL;
        if (option->kind == OPTION_FLAG && value)
            return error_set(err, STATUS_USAGE, "%s takes no value", option->name);
        if (option->kind != OPTION_FLAG && !value) {
            if (i + 1 == argc)
                return error_set(err, STATUS_USAGE, "%s needs a value: %s %s", option->name,
                                 option->name, option->value);
            value = argv[++i];
        }
        enum status status = store(option, value, err);
        if (status != STATUS_OK)
            return status;
        if (option->given)
            *option->given = true;
    }
    return STATUS_OK;
}

/* The help of an option, its further lines below the first. */
static void print_wrapped(const char *help, FILE *out)
{
    size_t length;
    for (; (length = strlen(help)) > HELP_WIDTH; help += length + 1) {
        length = HELP_WIDTH;
        while (length > 1 && help[length] != ' ')
            length--;
        fprintf(out, "%.*s\n  %*s ", (int)length, help, HELP_COLUMN, "");
    }
    fprintf(out, "%s\n", help);
}

static void print_options(const struct option *options, FILE *out)
{
    for (const struct option *o = options; o->name; o++) {
        if (o->kind == OPTION_TABLE)
            continue;
        char left[128];
        int n = snprintf(left, sizeof left, "%s", o->name);
        for (const char *alias = o->aliases; alias && *alias && n < (int)sizeof left;) {
            size_t length = strcspn(alias, " ");
            n += snprintf(left + n, sizeof left - (size_t)n, ", %.*s", (int)length, alias);
            alias += length + (alias[length] == ' ');
        }
        if (o->value && n < (int)sizeof left)
            snprintf(left + n, sizeof left - (size_t)n, " %s", o->value);
        /* What is too long for the column has its help in the next line. */
        if (strlen(left) > HELP_COLUMN)
            fprintf(out, "  %s\n  %*s ", left, HELP_COLUMN, "");
        else
            fprintf(out, "  %-*s ", HELP_COLUMN, left);
        print_wrapped(o->help, out);
    }
    for (const struct option *o = options; o->name; o++) {
        if (o->kind == OPTION_TABLE) {
            fprintf(out, "\n%s\n", o->help);
            print_options(o->target, out);
        }
    }
}

void options_print_help(const struct command *command, FILE *out)
{
    fprintf(out, "sluice %s\n\n%s\n", command->usage, command->about);
    if (!command->options || !command->options->name)
        return;
    fprintf(out, "\nOptions (in parentheses: where none is given):\n");
    print_options(command->options, out);
}
