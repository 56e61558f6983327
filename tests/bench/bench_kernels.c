/*
 * bench_kernels [--set NAME] [--type NAME] [--threads N] [--rows N] [--cols N] [--mb N] [--prompts 1]
 *
 * Packed matrix kernels one by one, beside the limits measured in the same run: read bandwidth of
 * the memory for one row of activations, and the multiply rate of the instruction set for many; and
 * beside their scalar twin. Weights are random; a matrix set of --mb MiB (default 256) does not fit
 * caches, so a pass over it reads memory; one of 0.25 does, which shows what instructions alone
 * allow. GOP: two operations per weight and activation row. --prompts: only kernels of prompt rows.
 */
#define _GNU_SOURCE /* MADV_HUGEPAGE */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "backend/cpu/kernels.h"
#include "base/clock.h"
#include "base/threads.h"
#include "hw/hardware.h"
#include "random_blocks.h"

struct limits {
    double read_bandwidth, int8_rate;
};

struct bench {
    const struct kernel_set *set;
    const struct packed_kernel *kernel;
    dots_two *two; /* both NULL: one panel after the other */
    dots_many *many;
    uint32_t n_threads, n_cols, n_x;
    uint64_t n_panels, panel_bytes;
    uint8_t *panels;
    uint8_t *acts; /* [block][row] */
    float *floats; /* [n_x, n_cols] */
    uint32_t passes;
    struct thread_pool *pool;
};

static void *memory(size_t bytes)
{
    void *p = aligned_alloc(1 << 21, (bytes + (1 << 21) - 1) >> 21 << 21);
    if (!p) {
        fprintf(stderr, "out of memory\n");
        exit(1);
    }
#ifdef MADV_HUGEPAGE
    (void)madvise(p, bytes, MADV_HUGEPAGE);
#endif
    return p;
}

/* n panels from p on. */
static void group_dots(const struct bench *b, size_t p, uint32_t n, const struct act_rows *rows)
{
    float sums[KERNEL_PANELS][KERNEL_X * PANEL_ROWS] __attribute__((aligned(64)));
    const uint8_t *panels[KERNEL_PANELS];
    float *out[KERNEL_PANELS];
    for (uint32_t i = 0; i < n; i++) {
        panels[i] = b->panels + (p + i) * b->panel_bytes;
        out[i] = sums[i];
    }
    if (b->many) {
        b->many(panels, n, b->n_cols, rows, out);
        return;
    }
    uint32_t pace = b->two ? 2 : 1;
    for (uint32_t i = 0; i < n; i += pace)
        if (b->two && i + 1 < n)
            b->two(panels + i, b->n_cols, rows, out + i);
        else
            b->kernel->dots(panels[i], b->n_cols, rows, out[i]);
}

/* The order of linear.c: a group of panels stays in the L2 cache while all rows pass. */
static void pass(void *context, uint32_t index, uint32_t n_threads)
{
    struct bench *b = context;
    size_t begin, end, size = act_block_bytes(b->kernel->form);
    uint32_t together = b->many ? KERNEL_PANELS : b->n_x > KERNEL_X ? 4 : b->two ? 2 : 1;
    thread_range(b->n_panels, index, n_threads, together, &begin, &end);
    struct act_rows rows = {.block_stride = b->n_x * size};
    for (uint32_t pass_number = 0; pass_number < b->passes; pass_number++)
        for (size_t p = begin; p < end; p += together)
            for (uint32_t first = 0; first < b->n_x; first += KERNEL_X) {
                rows.n = b->n_x - first < KERNEL_X ? b->n_x - first : KERNEL_X;
                for (uint32_t m = 0; m < rows.n; m++)
                    rows.x[m] = size ? b->acts + (first + m) * size
                                     : (uint8_t *)(b->floats + (size_t)(first + m) * b->n_cols);
                group_dots(b, p, (uint32_t)(end - p < together ? end - p : together), &rows);
            }
}

static void prepare(struct bench *b, uint64_t bytes, uint32_t most_rows)
{
    uint64_t seed = 1, row_bytes;
    tensor_type_bytes(b->kernel->type, b->n_cols, &row_bytes);
    const struct packed_layout *layout = packed_layout(b->kernel->type);
    b->panel_bytes = packed_panel_bytes(layout, b->n_cols);
    b->n_panels = bytes / b->panel_bytes;
    b->panels = memory(b->n_panels * b->panel_bytes);
    uint8_t *rows = memory(row_bytes * PANEL_ROWS);
    random_blocks(b->kernel->type, rows, row_bytes * PANEL_ROWS, &seed);
    packed_write(layout, rows, row_bytes, PANEL_ROWS, b->n_cols, b->panels);
    for (uint64_t p = 1; p < b->n_panels; p++)
        memcpy(b->panels + p * b->panel_bytes, b->panels, b->panel_bytes);
    free(rows);
    b->acts = memory(most_rows * act_blocks(b->n_cols) * act_block_bytes(b->kernel->form) + 64);
    b->floats = memory((size_t)most_rows * b->n_cols * sizeof(float));
    for (size_t i = 0; i < (size_t)most_rows * b->n_cols; i++)
        b->floats[i] = random_normal(&seed);
}

static void quantise(struct bench *b)
{
    size_t size = act_block_bytes(b->kernel->form);
    for (uint32_t m = 0; m < b->n_x && size; m++)
        for (uint32_t k = 0; k < act_blocks(b->n_cols); k++) {
            uint32_t left = b->n_cols - k * ACT_COLUMNS;
            b->set->quantise(b->kernel->form, b->floats + (size_t)m * b->n_cols + k * ACT_COLUMNS,
                             left < ACT_COLUMNS ? left : ACT_COLUMNS,
                             b->acts + (k * b->n_x + m) * size);
        }
}

/* Seconds of one pass with n_x rows over at most `panels` panels. */
static double measure(struct bench *b, uint32_t n_x, uint64_t panels)
{
    struct bench part = *b;
    part.n_x = n_x;
    part.n_panels = panels < b->n_panels ? panels : b->n_panels;
    part.passes = part.n_panels < 1024 && n_x <= 32 ? (uint32_t)(1024 / part.n_panels) : 1;
    quantise(&part);
    thread_pool_run(b->pool, pass, &part);
    double best = 1e30;
    for (int i = 0; i < 10; i++) {
        uint64_t start = clock_now_ns();
        thread_pool_run(b->pool, pass, &part);
        double seconds = (double)(clock_now_ns() - start) * 1e-9;
        best = seconds < best ? seconds : best;
    }
    return best / (double)part.n_panels / part.passes;
}

static double twin_seconds(const struct bench *b)
{
    struct bench twin = *b;
    twin.kernel = kernel_twin(b->kernel);
    twin.set = &kernel_set_scalar;
    twin.two = NULL;
    twin.many = NULL;
    return twin.kernel ? measure(&twin, 1, 8 * b->n_threads) : 0;
}

static void run(struct bench *b, uint64_t bytes, uint32_t most_rows, const struct limits *limits)
{
    prepare(b, bytes, most_rows);
    double panel_ops = 2.0 * PANEL_ROWS * b->n_cols;
    double one = measure(b, 1, b->n_panels);
    double rate = (double)b->panel_bytes / one;
    printf("%-20s %6.1f GB/s %4.0f%%  x%-5.0f", b->kernel->name, rate * 1e-9,
           100 * rate / limits->read_bandwidth, twin_seconds(b) / one);
    const uint32_t batches[] = {4, 8, 16, 32, most_rows};
    for (size_t i = 0; i < sizeof batches / sizeof *batches; i++) {
        uint64_t panels = (batches[i] > 32 ? 16 : 128) * b->n_threads;
        double ops = panel_ops * batches[i] / measure(b, batches[i], panels);
        printf(" %6.0f %3.0f%%", ops * 1e-9, 100 * ops / limits->int8_rate);
    }
    printf("\n");
    fflush(stdout);
    free(b->panels);
    free(b->acts);
    free(b->floats);
}

static const char *option(int argc, char **argv, const char *name, const char *otherwise)
{
    for (int i = 1; i + 1 < argc; i++)
        if (strcmp(argv[i], name) == 0)
            return argv[i + 1];
    return otherwise;
}

int main(int argc, char **argv)
{
    struct hardware hw;
    struct error err = {0};
    if (hardware_detect(&hw, &err) != STATUS_OK)
        return 1;
    const char *set_name = option(argc, argv, "--set", NULL);
    const char *type = option(argc, argv, "--type", NULL);
    uint32_t threads = (uint32_t)atoi(option(argc, argv, "--threads", "0"));
    bool prompts = atoi(option(argc, argv, "--prompts", "0")) != 0;
    uint32_t most = (uint32_t)atoi(option(argc, argv, "--rows", "512"));
    uint64_t bytes = (uint64_t)(atof(option(argc, argv, "--mb", "256")) * (1 << 20));
    struct bench b = {.n_threads = threads ? threads : hardware_default_threads(&hw)};
    b.n_cols = (uint32_t)atoi(option(argc, argv, "--cols", "2048"));
    if (thread_pool_create(b.n_threads, NULL, &b.pool, &err) != STATUS_OK)
        return 1;
    struct limits limits;
    struct arithmetic_peaks peaks;
    if (hardware_measure_bandwidth(&hw, b.n_threads, &limits.read_bandwidth, &err) != STATUS_OK ||
        hardware_measure_arithmetic(&hw, b.n_threads, &peaks, &err) != STATUS_OK) {
        fprintf(stderr, "bench_kernels: %s\n", err.message);
        return 1;
    }
    limits.int8_rate = arithmetic_best(&peaks, ARITHMETIC_INT8);
    printf("%s, %u threads: read %.1f GB/s\n", hw.cpu_model, b.n_threads,
           limits.read_bandwidth * 1e-9);
    for (uint32_t i = 0; i < peaks.count; i++)
        printf("  %s, %s: %.0f GOPS\n", peaks.items[i].name, arithmetic_name(peaks.items[i].kind),
               peaks.items[i].operations_per_second * 1e-9);
    printf("%-20s %-11s %-5s %-6s", "kernel", "1 row", "", "twin");
    printf(" %10s %10s %10s %10s %6u GOPS\n", "4", "8", "16", "32", most);
    for (uint32_t s = 0; kernel_set_at(s); s++) {
        b.set = kernel_set_at(s);
        if ((b.set->usable && !b.set->usable()) || (set_name && strcmp(b.set->name, set_name)))
            continue;
        const struct packed_kernel *kernels = prompts ? b.set->prompt : b.set->packed;
        for (uint32_t k = 0; k < (prompts ? b.set->n_prompt : b.set->n_packed); k++) {
            b.kernel = &kernels[k];
            b.two = kernel_for_two(b.kernel);
            b.many = kernel_for_many(b.kernel);
            if (type && strcmp(type, tensor_type_name(b.kernel->type)))
                continue;
            run(&b, bytes, most, &limits);
        }
    }
    thread_pool_free(b.pool);
    return 0;
}
