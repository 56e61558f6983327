/*
 * sluice-cuda-test: the CUDA backend on a real GPU, against the reference backend and against the
 * committed references. One program with everything inside, so that it runs on a bare GPU machine:
 *
 *     build-cuda/sluice-cuda-test [ROOT] [--backend cuda|cpu|ref] [--skip-operations]
 *
 * ROOT is the checkout (default "."). Another backend may stand in, to test the tests without a GPU.
 * Ends with "N passed, N failed, N skipped"; skipped are operations that the backend has no kernel
 * for and refuses by name. Exit 0 if nothing failed, 1 if something did, 77 without a device.
 */
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "backend/cpu/cpu.h"
#include "backend/cuda/cuda.h"
#include "backend/ref/ref.h"
#include "op_cases.h"
#include "suite.h"

#define EXIT_NO_DEVICE 77

bool suite_check(struct suite *suite, bool holds, const char *format, ...)
{
    suite->passed += holds;
    suite->failed += !holds;
    if (holds)
        return true;
    va_list args;
    va_start(args, format);
    printf("  FAILED ");
    vprintf(format, args);
    printf("\n");
    va_end(args);
    return false;
}

static void operations(struct suite *suite)
{
    struct op_cases_config config = op_cases_exact(suite->api, &ref_backend_api);
    struct op_cases_result total = op_cases_run(&config);
    config = op_cases_fast(suite->api, &ref_backend_api, TENSOR_F16, 0x1p-24);
    op_cases_add(&total, op_cases_run(&config));
    config = op_cases_fast(suite->api, &ref_backend_api, TENSOR_BF16, 0x1p-24);
    op_cases_add(&total, op_cases_run(&config));
    op_cases_finish("operations", total);
    suite->passed += total.passed;
    suite->failed += total.failed;
    suite->skipped += total.unsupported; /* refused by name when the program was loaded */
}

static const struct backend_api *backend_named(const char *name)
{
    const struct backend_api *const all[] = {&cuda_backend_api, &cpu_backend_api, &ref_backend_api};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        if (strcmp(all[i]->name, name) == 0)
            return all[i];
    return NULL;
}

/* Prints what will be tested; false (with the reason) where there is no such device. */
static bool introduce(const struct backend_api *api)
{
    struct backend *backend;
    struct error err;
    struct backend_config config = {.exact = true, .batch_invariant = true};
    if (api->open(&config, &backend, &err) != STATUS_OK) {
        printf("skipped: %s\n", err.message);
        return false;
    }
    struct backend_info info;
    api->info(backend, &info);
    printf("backend %s on %s, %.1f of %.1f GiB free\n", api->name, info.description,
           (double)info.memory_free / 0x1p30, (double)info.memory_total / 0x1p30);
    api->close(backend);
    return true;
}

int main(int argc, char **argv)
{
    struct suite suite = {.root = ".", .api = &cuda_backend_api};
    bool skip_operations = false;
    setvbuf(stdout, NULL, _IOLBF, 0);
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--backend") == 0 && i + 1 < argc)
            suite.api = backend_named(argv[++i]);
        else if (strcmp(argv[i], "--skip-operations") == 0)
            skip_operations = true;
        else
            suite.root = argv[i];
    }
    if (!suite.api) {
        printf("usage: sluice-cuda-test [ROOT] [--backend cuda|cpu|ref] [--skip-operations]\n");
        return 2;
    }
    if (!introduce(suite.api))
        return EXIT_NO_DEVICE;
    suite_contract(&suite);
    if (!skip_operations)
        operations(&suite);
    suite_fixtures(&suite);
    suite_draws(&suite);
    suite_pebble(&suite);
    printf("%u passed, %u failed, %u skipped\n", suite.passed, suite.failed, suite.skipped);
    return suite.failed || !suite.passed;
}
