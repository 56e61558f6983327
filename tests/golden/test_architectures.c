/*
 * Every architecture against recorded logits (tests/data/arch, and the larger set of shared data):
 * tiny models of random weights, written by the model makers' own library, with the logits that it
 * computes in float32. Each folder and its GGUF twin runs on `ref`, on `cpu` in the exact mode and
 * on `cpu` as it is, all through the engine.
 *
 *   error      |difference| / |expected| over all prompt positions (Frobenius): at most 1e-4 on ref
 *              and exact. Fast: at most 3e-2 where no router can flip on a near tie
 *   agreement  the recorded greedy ids fed back: the same arg-max wherever the recorded margin
 *              between the two likeliest tokens is 1e-3 or more
 *
 * A model that does not open is listed with its reason: a failure for committed fixtures, a skip for
 * the rest. Arguments: names to run only these, --markdown for the table of docs/models.md.
 */
#include <dirent.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "engine_calls.h"
#include "fixture.h"
#include "format/checkpoint.h"
#include "format/safetensors.h"
#include "model/model.h"
#include "sluice.h"

#define TOKENS_MAX      96
#define NAMES_MAX       128
#define NAME_BYTES      64
#define EXACT_ERROR     1e-4
#define FAST_ERROR      3e-2
#define MARGIN          1e-3
#define COMMITTED       "tests/data/arch"
#define COMMITTED_LEAST 23 /* twelve folders, eleven of them with a twin */

enum { REF, EXACT, FAST, MODES };

static const struct {
    const char *name, *backend;
    bool exact;
} modes[MODES] = {{"ref", "ref", true}, {"exact", "cpu", true}, {"fast", "cpu", false}};

/* What the makers' library says. */
struct golden {
    int32_t ids[TOKENS_MAX]; /* the prompt, then the greedy continuation */
    float margins[TOKENS_MAX];
    uint32_t n_prompt, n_greedy, width;
    bool hidden;                /* values are the last hidden state, not logits */
    float *expected;            /* [n_prompt, width] */
    uint32_t first, n_compared; /* prompt positions to compare */
    bool tied;
};

/* Fixtures whose router has exact ties (scores that are 1 in float32), which the makers' library breaks
 * in an order that its sort happens to leave: compared up to the positions that see such a choice. */
static const struct {
    const char *name;
    uint32_t first, n;
} tied[] = {{"lfm2-moe", 3, 4}};

struct measure {
    double error;
    uint32_t agree, sure; /* greedy steps: same arg-max, recorded margin large enough */
};

struct result {
    char name[NAME_BYTES];
    const char *source;
    bool routed, tied;
    char refused[512]; /* why it did not open; empty: it did */
    char problem[512]; /* why it failed; empty: it did not */
    struct measure measures[MODES];
};

static struct result results[2 * NAMES_MAX];
static size_t n_results;
static bool markdown;
static const char *only[NAMES_MAX];
static size_t n_only;

/* ---- recorded values -------------------------------------------------------------------------- */

static const struct tensor *find(const struct safetensors *file, const char *name)
{
    for (size_t i = 0; i < safetensors_count(file); i++)
        if (str_eq_cstr(safetensors_at(file, i)->name, name))
            return safetensors_at(file, i);
    return NULL;
}

static void fill_golden(const struct safetensors *file, const char *path, struct golden *g)
{
    const struct tensor *ids = find(file, "input_ids"), *greedy = find(file, "greedy_ids");
    const struct tensor *margins = find(file, "greedy_margin"), *rows = find(file, "logits");
    *g = (struct golden){.hidden = rows == NULL};
    if (!rows)
        rows = find(file, "last_hidden_state");
    if (!ids || !rows || ids->type != TENSOR_I32 || rows->type != TENSOR_F32 ||
        ids->dims[0] > TOKENS_MAX / 2 || rows->dims[0] != ids->dims[0])
        fail_msg("%s has no usable input_ids and logits", path);
    g->n_prompt = (uint32_t)ids->dims[0];
    g->width = (uint32_t)rows->dims[1];
    memcpy(g->ids, ids->data, ids->bytes);
    g->expected = malloc(rows->bytes);
    assert_non_null(g->expected);
    memcpy(g->expected, rows->data, rows->bytes);
    if (!greedy || !margins)
        return;
    assert_true(greedy->type == TENSOR_I32 && greedy->dims[0] <= TOKENS_MAX / 2);
    assert_true(margins->type == TENSOR_F32 && margins->dims[0] == greedy->dims[0]);
    g->n_greedy = (uint32_t)greedy->dims[0];
    memcpy(g->ids + g->n_prompt, greedy->data, greedy->bytes);
    memcpy(g->margins, margins->data, margins->bytes);
}

static void read_golden(const char *folder, struct golden *g)
{
    char path[1200];
    snprintf(path, sizeof path, "%s/reference.safetensors", folder);
    struct buf bytes = fixture_read(path);
    struct safetensors *file;
    struct error err = {0};
    assert_ok(safetensors_parse((const uint8_t *)bytes.data, bytes.len, path, &file, &err), &err);
    fill_golden(file, path, g);
    g->n_compared = g->n_prompt;
    const char *name = strrchr(folder, '/');
    for (size_t i = 0; name && i < sizeof tied / sizeof *tied; i++)
        if (strcmp(name + 1, tied[i].name) == 0) {
            g->first = tied[i].first;
            g->n_compared = tied[i].n;
            g->n_greedy = 0;
            g->tied = true;
        }
    safetensors_free(file);
    buf_release(&bytes);
}

/* ---- one model in one mode -------------------------------------------------------------------- */

/* Rows of all tokens, [n_tokens, width]; NULL after writing r->problem. */
static float *rows_of(sluice_engine *engine, const struct golden *g, const char *mode,
                      struct result *r)
{
    sluice_request *request;
    sluice_error error = {0};
    uint32_t n = g->n_prompt + g->n_greedy, got = 0;
    sluice_request_options options = {.tokens = g->ids,
                                      .n_tokens = n,
                                      .mode =
                                          g->hidden ? SLUICE_SCORE_HIDDEN : SLUICE_SCORE_LOGITS};
    if (sluice_submit(engine, &options, &request, &error) != SLUICE_OK) {
        snprintf(r->problem, sizeof r->problem, "%s: %s", mode, error.message);
        return NULL;
    }
    float *rows = calloc((size_t)n * g->width, sizeof *rows);
    assert_non_null(rows);
    sluice_event event;
    while (sluice_request_next(request, &event, -1)) {
        if (event.kind == SLUICE_EVENT_ERROR)
            snprintf(r->problem, sizeof r->problem, "%s: %s", mode, event.error.message);
        if (event.kind != SLUICE_EVENT_ROWS)
            continue;
        if (event.row_width != g->width || got + event.n_rows > n) {
            snprintf(r->problem, sizeof r->problem, "%s: rows of %u values, recorded are %u", mode,
                     event.row_width, g->width);
            break;
        }
        memcpy(rows + (size_t)got * g->width, event.rows,
               (size_t)event.n_rows * g->width * sizeof *rows);
        got += event.n_rows;
    }
    sluice_request_free(request);
    if (got != n && !r->problem[0])
        snprintf(r->problem, sizeof r->problem, "%s: %u of %u rows came", mode, got, n);
    if (!r->problem[0])
        return rows;
    free(rows);
    return NULL;
}

static struct measure compare(const struct golden *g, const float *rows)
{
    size_t at = (size_t)g->first * g->width, n = (size_t)g->n_compared * g->width;
    struct measure m = {.error = relative_error(rows + at, g->expected + at, n)};
    for (uint32_t i = 0; i < g->n_greedy; i++) {
        const float *row = rows + (size_t)(g->n_prompt + i - 1) * g->width;
        uint32_t best = 0;
        for (uint32_t k = 1; k < g->width; k++)
            best = row[k] > row[best] ? k : best;
        if (!((double)g->margins[i] >= MARGIN))
            continue;
        m.sure++;
        m.agree += best == (uint32_t)g->ids[g->n_prompt + i];
    }
    return m;
}

static void judge(struct result *r, int mode)
{
    const struct measure *m = &r->measures[mode];
    bool free_to_flip = mode == FAST && r->routed;
    double most = mode == FAST ? FAST_ERROR : EXACT_ERROR;
    if (r->problem[0] || (free_to_flip && isfinite(m->error)))
        return;
    if (!(m->error <= most))
        snprintf(r->problem, sizeof r->problem, "%s: error %.2e, at most %.0e", modes[mode].name,
                 m->error, most);
    else if (m->agree != m->sure && mode != FAST)
        snprintf(r->problem, sizeof r->problem, "%s: %u of %u arg-max agree", modes[mode].name,
                 m->agree, m->sure);
}

static void run_mode(const char *path, const struct golden *g, int mode, struct result *r)
{
    r->tied = g->tied;
    sluice_engine *engine;
    sluice_error error = {0};
    sluice_engine_options options = {.model = path,
                                     .backend = modes[mode].backend,
                                     .exact = modes[mode].exact,
                                     .n_context = g->n_prompt + g->n_greedy,
                                     .max_sequences = 1};
    if (sluice_engine_open(&options, &engine, &error) != SLUICE_OK) {
        snprintf(r->problem, sizeof r->problem, "%s: %s", modes[mode].name, error.message);
        return;
    }
    float *rows = rows_of(engine, g, modes[mode].name, r);
    if (rows)
        r->measures[mode] = compare(g, rows);
    free(rows);
    sluice_engine_close(engine);
    judge(r, mode);
}

/* ---- one model -------------------------------------------------------------------------------- */

static bool has_router(const struct program *program)
{
    for (uint32_t i = 0; i < program->n_ops; i++)
        if (program->ops[i].kind == OP_ROUTE)
            return true;
    return false;
}

/* The message without the path it begins with. */
static void keep_reason(struct result *r, const char *path, const char *message)
{
    size_t n = strlen(path);
    if (strncmp(message, path, n) == 0 && message[n] == ':')
        message += n + 1 + (message[n + 1] == ' ');
    const char *list = strstr(message, " (known: "); /* of all architectures: long, and no reason */
    snprintf(r->refused, sizeof r->refused, "%.*s",
             (int)(list ? (size_t)(list - message) : strlen(message)), message);
}

static void run_model(const char *name, const char *source, const char *path,
                      const struct golden *g)
{
    assert_true(n_results < sizeof results / sizeof *results);
    struct result *r = &results[n_results++];
    struct model *model;
    struct error err = {0};
    *r = (struct result){.source = source};
    snprintf(r->name, sizeof r->name, "%s", name);
    if (model_open(path, &model, &err) != STATUS_OK) {
        keep_reason(r, path, err.message);
        return;
    }
    r->routed = has_router(model_program(model));
    model_close(model);
    for (int mode = 0; mode < MODES && !r->problem[0]; mode++)
        run_mode(path, g, mode, r);
}

static void run_name(const char *root, const char *name)
{
    char path[1200];
    struct golden golden;
    snprintf(path, sizeof path, "%s/hf/%s", root, name);
    read_golden(path, &golden);
    run_model(name, "hf", path, &golden);
    snprintf(path, sizeof path, "%s/gguf/%s.gguf", root, name);
    if (file_exists(path))
        run_model(name, "gguf", path, &golden);
    free(golden.expected);
}

/* ---- the sets --------------------------------------------------------------------------------- */

static int by_name(const void *a, const void *b)
{
    return strcmp(a, b);
}

static size_t list_names(const char *root, char names[NAMES_MAX][NAME_BYTES])
{
    char path[1200];
    size_t n = 0;
    snprintf(path, sizeof path, "%s/hf", root);
    DIR *folder = opendir(path);
    assert_non_null(folder);
    for (struct dirent *entry; (entry = readdir(folder));) {
        bool wanted = n_only == 0;
        for (size_t i = 0; i < n_only; i++)
            wanted |= strcmp(only[i], entry->d_name) == 0;
        if (wanted && entry->d_name[0] != '.' && strlen(entry->d_name) < NAME_BYTES &&
            n < NAMES_MAX)
            snprintf(names[n++], NAME_BYTES, "%s", entry->d_name);
    }
    closedir(folder);
    qsort(names, n, NAME_BYTES, by_name);
    return n;
}

static void print_result(const struct result *r)
{
    const struct measure *m = r->measures;
    const char *bar = markdown ? "| " : "", *end = markdown ? " |" : "",
               *in = markdown ? " | " : " ";
    printf("%s%-15s%s%-4s%s", bar, r->name, in, r->source, in);
    if (r->refused[0] || r->problem[0]) {
        printf("%s%s%s\n",
               r->refused[0] ? "refused: " : "FAILED: ", r->refused[0] ? r->refused : r->problem,
               markdown ? " | | | |" : "");
        return;
    }
    printf("%.1e%s%.1e%s%.1e%s%s", m[REF].error, in, m[EXACT].error, in, m[FAST].error,
           r->routed ? " (experts)" : "", in);
    if (m[EXACT].sure)
        printf("%u/%u%s\n", m[EXACT].agree, m[EXACT].sure, end);
    else
        printf("%s%s\n", r->tied ? "before ties only" : "hidden state", end);
}

static void print_head(void)
{
    if (markdown)
        printf("| architecture | files | ref | cpu exact | cpu fast | arg-max |\n"
               "| --- | --- | --- | --- | --- | --- |\n");
    else
        printf("%-15s %-4s %-7s %-7s %-7s agreement\n", "architecture", "file", "ref", "exact",
               "fast");
}

/* Runs and prints the models of a set, but those that another one has (NULL: all); counts what did
 * not open and what failed. */
static void run_set(const char *root, const char *other, uint32_t *n, uint32_t *refused,
                    uint32_t *failed)
{
    static char names[NAMES_MAX][NAME_BYTES];
    size_t count = list_names(root, names);
    *n = *refused = *failed = 0;
    for (size_t i = 0; i < count; i++) {
        char path[1200];
        size_t first = n_results;
        snprintf(path, sizeof path, "%s/hf/%s", other ? other : "", names[i]);
        if (other && file_is_directory(path))
            continue;
        run_name(root, names[i]);
        for (size_t k = first; k < n_results; k++) {
            print_result(&results[k]);
            (*n)++;
            *refused += results[k].refused[0] != 0;
            *failed += results[k].problem[0] != 0;
        }
    }
    if (!markdown)
        printf("%u models: %u refused, %u failed\n", *n, *refused, *failed);
}

static void test_committed(void **state)
{
    (void)state;
    uint32_t n, refused, failed;
    print_head();
    run_set(fixture_path(COMMITTED), NULL, &n, &refused, &failed);
    assert_true(n_only || n >= COMMITTED_LEAST);
    assert_int_equal(refused, 0);
    assert_int_equal(failed, 0);
}

static void test_shared(void **state)
{
    (void)state;
    char root[1024], committed[1024];
    const char *found = fixture_shared("data/arch");
    if (!found)
        skip();
    snprintf(root, sizeof root, "%s", found);
    snprintf(committed, sizeof committed, "%s", fixture_path(COMMITTED));
    uint32_t n, refused, failed;
    print_head();
    run_set(root, committed, &n, &refused, &failed);
    if (refused)
        printf("SKIPPED: %u of %u models of the shared set use what sluice does not know yet\n",
               refused, n);
    assert_int_equal(failed, 0);
}

/* The table of docs/models.md: the shared set, and what is committed alone. */
static int print_page(void)
{
    char shared[1024], committed[1024];
    uint32_t n, refused = 0, failed = 0, more_refused, more_failed;
    const char *found = fixture_shared("data/arch");
    snprintf(shared, sizeof shared, "%s", found ? found : "");
    snprintf(committed, sizeof committed, "%s", fixture_path(COMMITTED));
    print_head();
    if (found)
        run_set(shared, NULL, &n, &refused, &failed);
    run_set(committed, found ? shared : NULL, &n, &more_refused, &more_failed);
    return refused || failed || more_refused || more_failed;
}

int main(int argc, char **argv)
{
    for (int i = 1; i < argc; i++)
        if (strcmp(argv[i], "--markdown") == 0)
            markdown = true;
        else if (n_only < NAMES_MAX)
            only[n_only++] = argv[i];
    if (markdown)
        return print_page();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_committed),
        cmocka_unit_test(test_shared),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
