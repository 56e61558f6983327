/* The report, for people and as JSON. */
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>

#include "bench/bench.h"

static double total_operations(const struct bench_work *work)
{
    double sum = 0;
    for (int kind = 0; kind < ARITHMETICS; kind++)
        sum += work->operations[kind];
    return sum;
}

/* "62 %", or "-" where the limit is unknown. */
static const char *percent(double limit_seconds, double seconds, char out[16])
{
    if (limit_seconds > 0 && seconds > 0)
        snprintf(out, 16, "%.0f %%", 100.0 * limit_seconds / seconds);
    else
        snprintf(out, 16, "-");
    return out;
}

/* What is resident, as a multiple of weights, keys and values; 0 where that is not told. */
static double resident_fraction(const struct bench_report *r)
{
    uint64_t needed = r->weight_bytes + r->pool_bytes;
    return needed ? (double)(r->resident.own + r->resident.mapped) / (double)needed : 0;
}

static void print_header(const struct bench_report *r, struct buf *out)
{
    buf_printf(out, "%-10s %s (%s), %.2f billion parameters, %.2f GB of weights\n", "Model",
               r->model, r->architecture, (double)r->n_parameters * 1e-9,
               (double)r->weight_bytes * 1e-9);
    buf_printf(out, "%-10s %s: %s; keys and values %s; loaded in %.2f s\n", "Backend", r->backend,
               r->device, r->kv_type, r->load_seconds);
    if (r->resident.own)
        buf_printf(out,
                   "%-10s %.2f GB resident once loaded (%.2f of them mapped files; %.2f at the "
                   "most): %.2f times the weights and %.2f GB of keys and values\n",
                   "Memory", (double)(r->resident.own + r->resident.mapped) * 1e-9,
                   (double)r->resident.mapped * 1e-9, (double)r->resident.most * 1e-9,
                   resident_fraction(r), (double)r->pool_bytes * 1e-9);
    if (!r->on_processor) {
        buf_printf(out, "%-10s not known for this backend\n", "Limits");
        return;
    }
    buf_printf(out, "%-10s %s, %u threads: memory read at %.1f GB/s\n", "Limits",
               r->hardware.cpu_model, r->n_threads, r->bandwidth * 1e-9);
    for (uint32_t i = 0; i < r->peaks.count; i++) {
        const struct arithmetic_peak *p = &r->peaks.items[i];
        buf_printf(out, "%-10s %-5s %8.3f TOPS  %s\n", "", arithmetic_name(p->kind),
                   p->operations_per_second * 1e-12, p->name);
    }
}

/* "16", or "16+40" with rows of a prompt beside. */
static void print_size(const struct bench_result *result, char *out, size_t n)
{
    if (result->beside)
        snprintf(out, n, "%u+%u", result->size, result->beside);
    else
        snprintf(out, n, "%u", result->size);
}

static void print_result(const struct bench_report *r, const struct bench_result *result,
                         struct buf *out)
{
    char a[16], b[16], c[16], size[24];
    const struct bench_work *work = &result->work;
    double bytes = bench_byte_seconds(r, work), arithmetic = bench_arithmetic_seconds(r, work);
    print_size(result, size, sizeof size);
    buf_printf(out, "%-8s %7s %9.2f %10.2f %8.2f %6s %8.3f %6s %8s\n",
               result->decode ? "decode" : "prefill", size, result->tokens_per_second,
               result->seconds * 1e3, work->bytes / result->seconds * 1e-9,
               percent(bytes, result->seconds, a), total_operations(work) / result->seconds * 1e-12,
               percent(arithmetic, result->seconds, b),
               percent(bench_limit_seconds(r, work), result->seconds, c));
}

static void print_profile(const struct bench_report *r, const struct bench_result *result,
                          struct buf *out)
{
    double sum = 0;
    char size[24];
    print_size(result, size, sizeof size);
    for (uint32_t i = 0; i < result->n_parts; i++)
        sum += result->parts[i].seconds;
    buf_printf(out, "\nProfile of %s %s: %.2f ms in operations\n",
               result->decode ? "decode" : "prefill", size, sum * 1e3);
    buf_printf(out, "  %-34s %5s %10s %6s %8s %8s %9s\n", "operation", "count", "ms", "share",
               "GB/s", "TOPS", "of limit");
    for (uint32_t i = 0; i < result->n_parts; i++) {
        const struct bench_part *part = &result->parts[i];
        char c[16];
        double seconds = part->seconds > 0 ? part->seconds : 1e-9;
        buf_printf(out, "  %-34s %5u %10.3f %5.1f%% %8.2f %8.3f %9s\n", part->name, part->count,
                   part->seconds * 1e3, sum > 0 ? 100.0 * part->seconds / sum : 0.0,
                   part->work.bytes / seconds * 1e-9,
                   total_operations(&part->work) / seconds * 1e-12,
                   percent(bench_limit_seconds(r, &part->work), seconds, c));
    }
}

static void print_energy(const struct bench_result *result, struct buf *out)
{
    char size[24];
    print_size(result, size, sizeof size);
    buf_printf(out, "%s %s: %.3f J per token\n", result->decode ? "decode" : "prefill", size,
               result->joules_per_token);
}

void bench_print(const struct bench_report *r, struct buf *out)
{
    print_header(r, out);
    buf_printf(out, "\n%-8s %7s %9s %10s %8s %6s %8s %6s %8s\n", "", "size", "tokens/s", "ms",
               "GB/s", "", "TOPS", "", "of limit");
    for (uint32_t i = 0; i < r->n_results; i++)
        print_result(r, &r->results[i], out);
    bool decodes = false, beside = false, energy = false;
    for (uint32_t i = 0; i < r->n_results; i++) {
        decodes |= r->results[i].decode;
        beside |= r->results[i].beside > 0;
        energy |= r->results[i].joules_per_token > 0;
    }
    if (decodes)
        buf_printf(out, "Decoding after %u positions; size: sequences that generate together%s.\n",
                   r->context, beside ? " + rows of a prompt (not counted as tokens)" : "");
    for (uint32_t i = 0; energy && i < r->n_results; i++)
        print_energy(&r->results[i], out);
    for (uint32_t i = 0; i < r->n_results; i++)
        if (r->results[i].n_parts)
            print_profile(r, &r->results[i], out);
}

/* ---- JSON -------------------------------------------------------------------------------------- */

static void put_real(json_t *object, const char *key, double value)
{
    json_object_set_new(object, key, json_real(value));
}

static void put_work(json_t *object, const struct bench_report *r, const struct bench_work *work,
                     double seconds)
{
    put_real(object, "bytes", work->bytes);
    put_real(object, "operations", total_operations(work));
    if (seconds <= 0)
        return;
    put_real(object, "gigabytes_per_second", work->bytes / seconds * 1e-9);
    put_real(object, "tera_operations_per_second", total_operations(work) / seconds * 1e-12);
    if (!r->on_processor)
        return;
    put_real(object, "bandwidth_fraction", bench_byte_seconds(r, work) / seconds);
    put_real(object, "arithmetic_fraction", bench_arithmetic_seconds(r, work) / seconds);
    put_real(object, "limit_fraction", bench_limit_seconds(r, work) / seconds);
}

static json_t *result_to_json(const struct bench_report *r, const struct bench_result *result)
{
    json_t *object = json_object();
    json_object_set_new(object, "kind", json_string(result->decode ? "decode" : "prefill"));
    json_object_set_new(object, "size", json_integer(result->size));
    put_real(object, "tokens_per_second", result->tokens_per_second);
    put_real(object, "seconds", result->seconds);
    json_object_set_new(object, "repetitions", json_integer(result->repetitions));
    if (result->decode)
        json_object_set_new(object, "prompt_rows_beside", json_integer(result->beside));
    if (result->decode)
        json_object_set_new(object, "context", json_integer(r->context));
    put_work(object, r, &result->work, result->seconds);
    if (result->joules_per_token > 0)
        put_real(object, "joules_per_token", result->joules_per_token);
    if (result->n_parts) {
        json_t *parts = json_array();
        for (uint32_t i = 0; i < result->n_parts; i++) {
            const struct bench_part *p = &result->parts[i];
            json_t *part = json_object();
            json_object_set_new(part, "operation", json_string(p->name));
            json_object_set_new(part, "count", json_integer(p->count));
            put_real(part, "seconds", p->seconds);
            put_work(part, r, &p->work, p->seconds);
            json_array_append_new(parts, part);
        }
        json_object_set_new(object, "profile", parts);
    }
    return object;
}

static json_t *memory_to_json(const struct bench_report *r)
{
    json_t *memory = json_object();
    json_object_set_new(memory, "own_bytes", json_integer((json_int_t)r->resident.own));
    json_object_set_new(memory, "mapped_bytes", json_integer((json_int_t)r->resident.mapped));
    json_object_set_new(memory, "most_bytes", json_integer((json_int_t)r->resident.most));
    json_object_set_new(memory, "pool_bytes", json_integer((json_int_t)r->pool_bytes));
    put_real(memory, "resident_fraction", resident_fraction(r));
    return memory;
}

static json_t *limits_to_json(const struct bench_report *r)
{
    json_t *limits = json_object(), *peaks = json_array();
    put_real(limits, "read_bytes_per_second", r->bandwidth);
    for (uint32_t i = 0; i < r->peaks.count; i++) {
        const struct arithmetic_peak *p = &r->peaks.items[i];
        json_t *peak = json_object();
        json_object_set_new(peak, "name", json_string(p->name));
        json_object_set_new(peak, "kind", json_string(arithmetic_name(p->kind)));
        put_real(peak, "operations_per_second", p->operations_per_second);
        json_array_append_new(peaks, peak);
    }
    json_object_set_new(limits, "arithmetic", peaks);
    return limits;
}

enum status bench_print_json(const struct bench_report *r, struct buf *out, struct error *err)
{
    json_t *root = json_object(), *model = json_object(), *results = json_array();
    json_object_set_new(model, "name", json_string(r->model));
    json_object_set_new(model, "architecture", json_string(r->architecture));
    json_object_set_new(model, "parameters", json_integer((json_int_t)r->n_parameters));
    json_object_set_new(model, "weight_bytes", json_integer((json_int_t)r->weight_bytes));
    json_object_set_new(root, "model", model);
    json_object_set_new(root, "backend", json_string(r->backend));
    json_object_set_new(root, "device", json_string(r->device));
    json_object_set_new(root, "kv_type", json_string(r->kv_type));
    json_object_set_new(root, "load_seconds", json_real(r->load_seconds));
    if (r->resident.own)
        json_object_set_new(root, "memory", memory_to_json(r));
    json_object_set_new(root, "cpu", json_string(r->hardware.cpu_model));
    if (r->on_processor) {
        json_object_set_new(root, "threads", json_integer(r->n_threads));
        json_object_set_new(root, "limits", limits_to_json(r));
    }
    for (uint32_t i = 0; i < r->n_results; i++)
        json_array_append_new(results, result_to_json(r, &r->results[i]));
    json_object_set_new(root, "results", results);
    char *text = json_dumps(root, JSON_INDENT(2));
    json_decref(root);
    if (!text)
        return error_set(err, STATUS_MEMORY, "out of memory while printing");
    buf_append_cstr(out, text);
    buf_append_char(out, '\n');
    free(text);
    return STATUS_OK;
}
