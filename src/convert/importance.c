/* Sums by weight of the program while it runs, then means by name. */
#include "convert/importance.h"

#include <stdlib.h>
#include <string.h>

#include "base/arena.h"
#include "base/file.h"
#include "base/strmap.h"
#include "convert/perplexity.h"
#include "engine/observe.h"
#include "engine/public_error.h"

#define CONTEXT      512
#define LEAST_WEIGHT 1e-6 /* of a column, in means of all columns: none is worth nothing */

struct entry {
    uint32_t count, n_cols;
    double *sums;   /* owned, [count, n_cols] */
    uint64_t *rows; /* owned, [count] */
    float *means;   /* owned, [count, n_cols], at the end */
};

struct importance {
    struct entry *entries; /* owned, [n] */
    uint32_t n;
    int32_t *of_weight; /* owned, [weights of the program]: entry, or -1 */
    struct arena names; /* the engine's are gone with it */
    struct strmap by_name;
};

void importance_free(struct importance *m)
{
    if (!m)
        return;
    for (uint32_t i = 0; i < m->n; i++) {
        free(m->entries[i].sums);
        free(m->entries[i].rows);
        free(m->entries[i].means);
    }
    free(m->entries);
    free(m->of_weight);
    strmap_release(&m->by_name);
    arena_release(&m->names);
    free(m);
}

/* ---- watching ---------------------------------------------------------------------------------- */

static void take_row(void *context, int32_t weight, uint32_t part, const float *x)
{
    struct importance *m = context;
    if (m->of_weight[weight] < 0)
        return;
    struct entry *e = &m->entries[m->of_weight[weight]];
    double *sums = e->sums + (size_t)part * e->n_cols;
    for (uint32_t c = 0; c < e->n_cols; c++)
        sums[c] += (double)x[c] * (double)x[c];
    e->rows[part]++;
}

static enum status no_memory(struct error *err)
{
    return error_set(err, STATUS_MEMORY, "out of memory for column means");
}

/* Slices of one tensor (q, k and v in one matrix) share an entry: they have the same input. */
static enum status add_weight(struct importance *m, const struct program *program, uint32_t id,
                              struct error *err)
{
    const struct weight *w = &program->weights[id];
    const int64_t *known = strmap_get(&m->by_name, str_from(w->name));
    m->of_weight[id] = -1;
    if (w->role != WEIGHT_MATRIX && w->role != WEIGHT_TABLE)
        return STATUS_OK;
    if (known) {
        const struct entry *e = &m->entries[*known];
        if (e->count == w->count && e->n_cols == w->n_cols)
            m->of_weight[id] = (int32_t)*known;
        return STATUS_OK;
    }
    struct entry *e = &m->entries[m->n];
    *e = (struct entry){.count = w->count, .n_cols = w->n_cols};
    e->sums = calloc((size_t)w->count * w->n_cols, sizeof *e->sums);
    e->rows = calloc(w->count, sizeof *e->rows);
    m->of_weight[id] = (int32_t)m->n++;
    struct str name = arena_copy_str(&m->names, str_from(w->name));
    if (!e->sums || !e->rows || !name.data ||
        !strmap_add(&m->by_name, name, (int64_t)m->n - 1, NULL))
        return no_memory(err);
    return STATUS_OK;
}

static enum status plan(struct importance *m, const struct program *program, struct error *err)
{
    uint64_t bytes = 0;
    for (uint32_t i = 0; i < program->n_weights; i++)
        if (program->weights[i].role == WEIGHT_MATRIX || program->weights[i].role == WEIGHT_TABLE)
            bytes += (uint64_t)program->weights[i].count * program->weights[i].n_cols *
                     (sizeof(double) + sizeof(float));
    if (bytes > IMPORTANCE_BYTES_MAX)
        return error_set(err, STATUS_LIMIT, "column means of %llu bytes, the limit is %llu",
                         (unsigned long long)bytes, (unsigned long long)IMPORTANCE_BYTES_MAX);
    m->entries = calloc(program->n_weights + 1, sizeof *m->entries);
    m->of_weight = calloc(program->n_weights + 1, sizeof *m->of_weight);
    if (!m->entries || !m->of_weight)
        return no_memory(err);
    enum status status = STATUS_OK;
    for (uint32_t i = 0; i < program->n_weights && status == STATUS_OK; i++)
        status = add_weight(m, program, i, err);
    return status;
}

/* ---- means ------------------------------------------------------------------------------------- */

/* Of an expert that no token chose, the means of all. */
static void mean_of(const struct entry *e, uint32_t part, float *out)
{
    double total = 0.0;
    uint32_t first = e->rows[part] ? part : 0, end = e->rows[part] ? part + 1 : e->count;
    uint64_t rows = 0;
    for (uint32_t p = first; p < end; p++)
        rows += e->rows[p];
    for (uint32_t c = 0; c < e->n_cols; c++) {
        double sum = 0.0;
        for (uint32_t p = first; p < end; p++)
            sum += e->sums[(size_t)p * e->n_cols + c];
        total += sum;
        out[c] = (float)(sum / (double)rows);
    }
    float least = (float)(LEAST_WEIGHT * total / (double)rows / e->n_cols);
    for (uint32_t c = 0; c < e->n_cols; c++)
        out[c] = out[c] > least ? out[c] : least;
}

static enum status finish(struct importance *m, struct error *err)
{
    for (uint32_t i = 0; i < m->n; i++) {
        struct entry *e = &m->entries[i];
        uint64_t rows = 0;
        for (uint32_t p = 0; p < e->count; p++)
            rows += e->rows[p];
        if (rows == 0)
            continue; /* an embedding that is looked up only */
        e->means = malloc((size_t)e->count * e->n_cols * sizeof *e->means);
        if (!e->means)
            return no_memory(err);
        for (uint32_t p = 0; p < e->count; p++)
            mean_of(e, p, e->means + (size_t)p * e->n_cols);
        free(e->sums);
        e->sums = NULL;
    }
    return STATUS_OK;
}

const float *importance_of(const struct importance *m, struct str tensor, uint64_t part,
                           uint64_t n_cols, uint32_t *count)
{
    const int64_t *index = strmap_get(&m->by_name, tensor);
    const struct entry *e = index ? &m->entries[*index] : NULL;
    *count = e ? e->count : 1;
    return e && e->means && e->n_cols == n_cols && part < e->count ? e->means + part * e->n_cols
                                                                   : NULL;
}

/* ---- the run ----------------------------------------------------------------------------------- */

static void relay_progress(void *context, double fraction, const char *what)
{
    const struct importance_options *o = context;
    (void)what;
    if (o->progress)
        o->progress(o->progress_context, fraction, "calibrating");
}

static enum status open_engine(const struct importance_options *o, sluice_engine **out,
                               struct error *err)
{
    sluice_error error = {0};
    const sluice_engine_options options = {.model = o->model,
                                           .backend = o->backend ? o->backend : "cpu",
                                           .n_context = CONTEXT,
                                           .max_sequences = 1,
                                           .exact = o->exact,
                                           .n_threads = o->n_threads};
    if (sluice_engine_open(&options, out, &error) == SLUICE_OK)
        return STATUS_OK;
    return error_from_public(&error, err);
}

static enum status run(struct importance *m, sluice_engine *engine, struct str text,
                       const struct importance_options *o, struct importance_report *report,
                       struct error *err)
{
    const struct op_observer observer = {.context = m, .row = take_row};
    const struct perplexity_options options = {.engine = engine,
                                               .text = text,
                                               .context = CONTEXT,
                                               .stride = CONTEXT - 2,
                                               .most_tokens = IMPORTANCE_TOKENS,
                                               .progress = relay_progress,
                                               .progress_context = (void *)(uintptr_t)o};
    struct perplexity_report found;
    enum status status = plan(m, engine_program(engine), err);
    if (status == STATUS_OK)
        status = engine_observe(engine, &observer, err);
    if (status == STATUS_OK)
        status = perplexity_measure(&options, &found, NULL, err);
    if (status != STATUS_OK)
        return status;
    if (found.n_tokens < IMPORTANCE_LEAST)
        return error_set(
            err, STATUS_USAGE,
            "%llu tokens, calibration needs %d at least: give some pages of the kind of "
            "text that the model will see",
            (unsigned long long)found.n_tokens, IMPORTANCE_LEAST);
    *report = (struct importance_report){found.n_tokens, found.perplexity};
    return finish(m, err);
}

enum status importance_measure(const struct importance_options *o, struct importance **out,
                               struct importance_report *report, struct error *err)
{
    struct buf text = {0};
    sluice_engine *engine = NULL;
    *out = NULL;
    struct importance *m = calloc(1, sizeof *m);
    if (m)
        arena_init(&m->names, 0);
    enum status status = m ? file_read_all(o->text, IMPORTANCE_TEXT_MAX, &text, err)
                           : error_set(err, STATUS_MEMORY, "out of memory");
    if (status == STATUS_OK)
        status = open_engine(o, &engine, err);
    if (status == STATUS_OK) {
        status = run(m, engine, buf_str(&text), o, report, err);
        if (status != STATUS_OK)
            error_prefix(err, "calibrating with %s", o->text);
    }
    sluice_engine_close(engine);
    buf_release(&text);
    if (status != STATUS_OK)
        importance_free(m);
    else
        *out = m;
    return status;
}
