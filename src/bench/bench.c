/* Measuring: repetitions, their median, and the limits between them. */
#include "bench/bench.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "bench/machine.h"

#define REPETITIONS_LEAST 3
#define REPETITIONS_MOST  1000

struct run {
    const struct bench_config *config;
    struct bench_report *report;
    struct machine machine;
    uint64_t times[REPETITIONS_MOST];
};

static void progress(const struct run *run, double fraction, const char *what)
{
    if (run->config->progress)
        run->config->progress(run->config->progress_context, fraction, what);
}

/* ---- limits ------------------------------------------------------------------------------------ */

/* Other programs only ever lower a figure, so the best of all measurements is the limit. */
static void measure_bandwidth(struct run *run)
{
    double bandwidth;
    struct bench_report *report = run->report;
    if (report->on_processor &&
        hardware_measure_bandwidth(&report->hardware, report->n_threads, &bandwidth, NULL) ==
            STATUS_OK &&
        bandwidth > report->bandwidth)
        report->bandwidth = bandwidth;
}

static enum status measure_limits(struct run *run, struct error *err)
{
    struct bench_report *report = run->report;
    if (!report->on_processor)
        return STATUS_OK;
    progress(run, 0.0, "measuring limits");
    measure_bandwidth(run);
    return hardware_measure_arithmetic(&report->hardware, report->n_threads, &report->peaks, err);
}

double bench_byte_seconds(const struct bench_report *report, const struct bench_work *work)
{
    return report->bandwidth > 0 ? work->bytes / report->bandwidth : 0;
}

double bench_arithmetic_seconds(const struct bench_report *report, const struct bench_work *work)
{
    double seconds = 0;
    double f32 = arithmetic_best(&report->peaks, ARITHMETIC_F32);
    for (int kind = 0; kind < ARITHMETICS; kind++) {
        double peak = arithmetic_best(&report->peaks, (enum arithmetic)kind);
        peak = peak > f32 ? peak : f32;
        if (peak > 0)
            seconds += work->operations[kind] / peak;
    }
    return seconds;
}

double bench_limit_seconds(const struct bench_report *report, const struct bench_work *work)
{
    double bytes = bench_byte_seconds(report, work);
    double arithmetic = bench_arithmetic_seconds(report, work);
    return bytes > arithmetic ? bytes : arithmetic;
}

/* ---- repetitions ------------------------------------------------------------------------------- */

static enum status repeat_once(struct run *run, const struct bench_result *result,
                               struct error *err)
{
    struct machine *m = &run->machine;
    if (result->decode)
        return machine_generate(m, result->size, result->beside, err);
    enum status status = STATUS_OK;
    uint32_t chunk = run->config->step_rows;
    for (uint32_t at = 0; at < result->size && status == STATUS_OK; at += chunk) {
        uint32_t n = result->size - at < chunk ? result->size - at : chunk;
        status = machine_prompt(m, at, n, at + n == result->size, err);
    }
    return status;
}

static int by_time(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

static enum status profile(struct run *run, bool on, struct error *err)
{
    struct machine *m = &run->machine;
    if (!run->config->profile)
        return STATUS_OK;
    if (!m->api->profile)
        return error_set(err, STATUS_UNSUPPORTED, "the %s backend keeps no profile", m->api->name);
    return m->api->profile(m->backend, m->loaded, on, on ? NULL : m->op_ns, err);
}

static enum status repeat(struct run *run, struct bench_result *result, struct error *err)
{
    uint32_t n = 0;
    double energy_before, energy_after, tokens = 0;
    enum status status = repeat_once(run, result, err); /* caches and pages get warm */
    if (status == STATUS_OK)
        status = profile(run, true, err);
    bool energy = hardware_energy(&energy_before);
    uint64_t begin = clock_now_ns(), now = begin;
    while (status == STATUS_OK && n < REPETITIONS_MOST &&
           (n < REPETITIONS_LEAST || (double)(now - begin) * 1e-9 < run->config->seconds)) {
        uint64_t from = now;
        status = repeat_once(run, result, err);
        now = clock_now_ns();
        run->times[n++] = now - from;
        tokens += result->size;
    }
    if (status == STATUS_OK)
        status = profile(run, false, err);
    if (status != STATUS_OK)
        return status;
    if (energy && hardware_energy(&energy_after) && energy_after > energy_before)
        result->joules_per_token = (energy_after - energy_before) / tokens;
    qsort(run->times, n, sizeof *run->times, by_time);
    result->repetitions = n;
    result->seconds = (double)run->times[n / 2] * 1e-9;
    result->tokens_per_second = result->size / result->seconds;
    return STATUS_OK;
}

/* ---- profile ----------------------------------------------------------------------------------- */

/* "linear attn.q" from the kind and "blk.3.attn.q": layers share a name. */
static void part_name(const struct op *op, char out[BENCH_LABEL_BYTES])
{
    size_t n = (size_t)snprintf(out, BENCH_LABEL_BYTES, "%s", op_kind_name(op->kind));
    for (const char *at = op->label; *at;) {
        size_t length = strcspn(at, ".");
        bool number = length > 0 && strspn(at, "0123456789") == length;
        bool block = length == 3 && strncmp(at, "blk", 3) == 0;
        if (!number && !block && n + length + 2 < BENCH_LABEL_BYTES) {
            out[n] = n > strlen(op_kind_name(op->kind)) ? '.' : ' ';
            memcpy(out + n + 1, at, length);
            n += length + 1;
            out[n] = 0;
        }
        at += length + (at[length] == '.');
    }
}

static struct bench_part *find_part(struct bench_result *result, const struct op *op)
{
    char name[BENCH_LABEL_BYTES];
    part_name(op, name);
    for (uint32_t i = 0; i < result->n_parts; i++)
        if (strcmp(result->parts[i].name, name) == 0)
            return &result->parts[i];
    if (result->n_parts == BENCH_PARTS_MAX) /* the last part takes what has no place */
        return &result->parts[BENCH_PARTS_MAX - 1];
    struct bench_part *part = &result->parts[result->n_parts++];
    *part = (struct bench_part){.count = 0};
    memcpy(part->name, name, sizeof part->name);
    return part;
}

static int by_seconds(const void *a, const void *b)
{
    double x = ((const struct bench_part *)a)->seconds, y = ((const struct bench_part *)b)->seconds;
    return (x < y) - (x > y);
}

/* The steps of one repetition, for counting. */
static struct bench_step step_at(const struct run *run, const struct bench_result *result,
                                 uint32_t at)
{
    if (result->decode)
        return (struct bench_step){.n_slices = result->size,
                                   .first_position = run->config->context,
                                   .rows_per_slice = 1,
                                   .beside = result->beside,
                                   .n_outputs = result->size};
    uint32_t left = result->size - at, chunk = run->config->step_rows;
    return (struct bench_step){.n_slices = 1,
                               .first_position = at,
                               .rows_per_slice = left < chunk ? left : chunk,
                               .n_outputs = left <= chunk};
}

static void count_work(struct run *run, struct bench_result *result)
{
    const struct machine *m = &run->machine;
    uint32_t advance = result->decode ? result->size : run->config->step_rows;
    for (uint32_t at = 0; at < result->size; at += advance) {
        struct bench_step step = step_at(run, result, at);
        struct bench_work work = bench_step_work(m->program, &m->layout, &step, run->config->exact);
        bench_work_add(&result->work, &work);
    }
    if (!run->config->profile)
        return;
    for (uint32_t i = 0; i < m->program->n_ops; i++) {
        const struct op *op = &m->program->ops[i];
        struct bench_part *part = find_part(result, op);
        part->count++;
        part->seconds += (double)m->op_ns[i] * 1e-9 / result->repetitions;
        for (uint32_t at = 0; at < result->size; at += advance) {
            struct bench_step step = step_at(run, result, at);
            struct bench_work work =
                bench_op_work(m->program, &m->layout, &step, op, run->config->exact);
            bench_work_add(&part->work, &work);
        }
    }
    qsort(result->parts, result->n_parts, sizeof *result->parts, by_seconds);
}

/* ---- everything -------------------------------------------------------------------------------- */

static uint32_t count_results(const struct bench_config *config)
{
    return config->n_prefill + config->n_decode * (1 + config->n_beside);
}

static enum status measure(struct run *run, bool decode, uint32_t size, uint32_t beside,
                           struct error *err)
{
    struct bench_report *report = run->report;
    struct bench_result *result = &report->results[report->n_results];
    char what[64];
    *result = (struct bench_result){.decode = decode, .size = size, .beside = beside};
    snprintf(what, sizeof what, "%s %u", decode ? "decode" : "prefill", size);
    progress(run, (double)report->n_results / count_results(run->config), what);
    enum status status = repeat(run, result, err);
    if (status != STATUS_OK)
        return status;
    count_work(run, result);
    report->n_results++;
    measure_bandwidth(run);
    return STATUS_OK;
}

/* Steps of n generating sequences, alone and beside rows of a prompt. */
static enum status measure_decode(struct run *run, uint32_t n, struct error *err)
{
    enum status status = measure(run, true, n, 0, err);
    for (uint32_t i = 0; i < run->config->n_beside && status == STATUS_OK; i++)
        status = measure(run, true, n, run->config->beside[i], err);
    return status;
}

static void describe(struct run *run, double load_seconds)
{
    struct bench_report *report = run->report;
    struct machine *m = &run->machine;
    struct backend_info info;
    m->api->info(m->backend, &info);
    snprintf(report->model, sizeof report->model, "%s", model_name(m->model));
    snprintf(report->architecture, sizeof report->architecture, "%s", model_architecture(m->model));
    snprintf(report->backend, sizeof report->backend, "%s", m->api->name);
    snprintf(report->device, sizeof report->device, "%s", info.description);
    report->kv_type = tensor_type_name(m->layout.kv_type);
    report->n_parameters = model_parameters(m->model);
    report->weight_bytes = program_weight_bytes(m->program);
    report->context = run->config->context;
    report->load_seconds = load_seconds;
    report->on_processor = strcmp(m->api->name, "cpu") == 0 || strcmp(m->api->name, "ref") == 0;
    report->pool_bytes = (uint64_t)m->layout.n_pages * m->layout.page_bytes;
    if (!report->on_processor || !hardware_resident(&report->resident))
        report->resident = (struct resident_memory){0};
    report->n_threads = run->config->n_threads ? run->config->n_threads
                                               : hardware_default_threads(&report->hardware);
}

enum status bench_run(const struct bench_config *config, struct bench_report *out,
                      struct error *err)
{
    *out = (struct bench_report){.n_results = 0};
    struct run *run = calloc(1, sizeof *run);
    if (!run)
        return error_set(err, STATUS_MEMORY, "out of memory for a benchmark");
    run->config = config;
    run->report = out;
    enum status status = hardware_detect(&out->hardware, err);
    uint64_t begin = clock_now_ns();
    if (status == STATUS_OK) {
        status = machine_open(&run->machine, config, err);
        if (status == STATUS_OK) {
            describe(run, (double)(clock_now_ns() - begin) * 1e-9);
            status = measure_limits(run, err);
        }
        for (uint32_t i = 0; i < config->n_prefill && status == STATUS_OK; i++)
            status = measure(run, false, config->prefill[i], 0, err);
        for (uint32_t i = 0; i < config->n_decode && status == STATUS_OK; i++)
            status = measure_decode(run, config->decode[i], err);
        machine_close(&run->machine);
    }
    progress(run, 1.0, "");
    free(run);
    return status;
}

enum status bench_parse_sizes(const char *option, const char *text, uint32_t sizes[BENCH_SIZES_MAX],
                              uint32_t *count, struct error *err)
{
    *count = 0;
    for (const char *at = text; *at;) {
        char *end;
        errno = 0;
        unsigned long value = strtoul(at, &end, 10);
        bool digit = *at >= '0' && *at <= '9';
        if (!digit || errno || value < 1 || value > (1u << 20) || (*end && *end != ','))
            return error_set(err, STATUS_USAGE,
                             "%s %s: expected numbers from 1 to 1048576 with commas between them",
                             option, text);
        if (*count == BENCH_SIZES_MAX)
            return error_set(err, STATUS_USAGE, "%s: at most %d numbers", option, BENCH_SIZES_MAX);
        sizes[(*count)++] = (uint32_t)value;
        at = end + (*end == ',');
    }
    return STATUS_OK;
}
