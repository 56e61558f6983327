/*
 * Hardware detection: consistency of what this machine reports, agreement with independent sources,
 * and the control-group rules on made-up system folders.
 */
#ifdef __linux__
#define _GNU_SOURCE /* sched_setaffinity */
#include <sched.h>
#endif
#include <dirent.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "fixture.h"
#include "hw/hardware.h"
#include "hw/sources.h"
#include "scratch.h"

static struct hardware detect(void)
{
    struct hardware hw;
    struct error err;
    assert_ok(hardware_detect(&hw, &err), &err);
    return hw;
}

static void test_consistency(void **state)
{
    (void)state;
    uint64_t before = clock_now_ns();
    struct hardware hw = detect();
    print_message("detected in %.1f ms\n", (double)(clock_now_ns() - before) * 1e-6);
    assert_true(hw.n_cores >= 1 && hw.n_threads >= hw.n_cores);
    assert_int_equal(hw.n_threads, sysconf(_SC_NPROCESSORS_ONLN));
    assert_in_range(hw.n_usable_threads, 1, hw.n_threads);
    assert_in_range(hw.n_usable_cores, 1, hw.n_cores);
    assert_true(hw.n_efficiency_cores <= hw.n_cores);
    assert_in_range(hardware_default_threads(&hw), 1, hw.n_usable_cores);
    assert_true(hw.memory_total >= (uint64_t)64 << 20);
    assert_true(hw.memory_available <= hw.memory_total);
    assert_true(hw.memory_limit < hw.memory_total);
    assert_true(hw.architecture[0] != 0);
    for (uint32_t i = 0; i < hw.n_gpus; i++)
        assert_true(hw.gpus[i].cuda_index < 0 || hw.cuda_driver);
}

#ifdef __linux__
/* The kernel's own list of usable features must agree with ours. */
static void test_against_cpuinfo(void **state)
{
    (void)state;
    static const struct {
        const char *flag;
        enum instruction_set set;
    } names[] = {
        {"sse4_2", ISA_SSE4_2},
        {"avx", ISA_AVX},
        {"avx2", ISA_AVX2},
        {"fma", ISA_FMA},
        {"f16c", ISA_F16C},
        {"avx_vnni", ISA_AVX_VNNI},
        {"avx512f", ISA_AVX512F},
        {"avx512bw", ISA_AVX512BW},
        {"avx512vl", ISA_AVX512VL},
        {"avx512dq", ISA_AVX512DQ},
        {"avx512vbmi", ISA_AVX512_VBMI},
        {"avx512_vnni", ISA_AVX512_VNNI},
        {"avx512_bf16", ISA_AVX512_BF16},
        {"avx512_fp16", ISA_AVX512_FP16},
        {"amx_tile", ISA_AMX_TILE},
        {"amx_int8", ISA_AMX_INT8},
        {"amx_bf16", ISA_AMX_BF16},
        {"asimd", ISA_NEON},
        {"asimdhp", ISA_FP16},
        {"asimddp", ISA_DOTPROD},
        {"i8mm", ISA_I8MM},
        {"sve", ISA_SVE},
    };
    struct hardware hw = detect();
    struct buf info = fixture_read("/proc/cpuinfo");
    char *line = strstr(info.data, "\nflags");
    if (!line)
        line = strstr(info.data, "\nFeatures");
    if (!line) {
        buf_release(&info);
        skip();
    }
    line[strcspn(line + 1, "\n") + 1] = ' ';
    line[strcspn(line + 1, "\n")] = ' ';
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        char word[32];
        snprintf(word, sizeof word, " %s ", names[i].flag);
        bool kernel = strstr(line, word) != NULL;
        if (kernel != hw.isa[names[i].set])
            fail_msg("%s: kernel says %d, we say %d", names[i].flag, kernel, hw.isa[names[i].set]);
    }
    buf_release(&info);
}

static void test_affinity(void **state)
{
    (void)state;
    cpu_set_t all, one;
    assert_int_equal(sched_getaffinity(0, sizeof all, &all), 0);
    int first = 0;
    while (!CPU_ISSET(first, &all))
        first++;
    CPU_ZERO(&one);
    CPU_SET(first, &one);
    assert_int_equal(sched_setaffinity(0, sizeof one, &one), 0);
    struct hardware hw = detect();
    assert_int_equal(sched_setaffinity(0, sizeof all, &all), 0);
    assert_int_equal(hw.n_usable_threads, 1);
    assert_int_equal(hw.n_usable_cores, 1);
    assert_int_equal(hardware_default_threads(&hw), 1);
    struct hardware again = detect();
    assert_int_equal(again.n_usable_threads, CPU_COUNT(&all));
}
#endif

static void put_file(const char *root, const char *path, const char *text)
{
    char full[1024];
    snprintf(full, sizeof full, "%s/%s", root, path);
    for (char *slash = full + strlen(root) + 1; (slash = strchr(slash, '/')); slash++) {
        *slash = 0;
        mkdir(full, 0777);
        *slash = '/';
    }
    scratch_write_text(full, text);
}

/* A folder with 1000 MiB of memory, 800 of them available. */
static const char *system_folder(const char *name, const char *groups)
{
    static char root[512];
    snprintf(root, sizeof root, "%s/%s", fixture_scratch(), name);
    mkdir(root, 0777);
    put_file(root, "proc/meminfo",
             "MemTotal:        1024000 kB\nMemFree:  1 kB\nMemAvailable:   819200 kB\n");
    put_file(root, "proc/self/cgroup", groups);
    return root;
}

#define MIB(n) ((uint64_t)(n) << 20)

static void test_cgroup_v2(void **state)
{
    (void)state;
    const char *root = system_folder("v2", "0::/outer/inner\n");
    struct hardware hw = {0};
    hardware_read_limits(&hw, root);
    assert_true(hw.memory_total == MIB(1000) && hw.memory_available == MIB(800));
    assert_true(hw.memory_limit == 0 && hw.cpu_quota == 0);

    put_file(root, "sys/fs/cgroup/outer/inner/memory.max", "max\n");
    put_file(root, "sys/fs/cgroup/outer/inner/cpu.max", "max 100000\n");
    put_file(root, "sys/fs/cgroup/outer/memory.max", "524288000\n"); /* 500 MiB, in the parent */
    put_file(root, "sys/fs/cgroup/outer/memory.current", "209715200\n");
    put_file(root, "sys/fs/cgroup/outer/memory.stat", "anon 5\ninactive_file 104857600\nx 1\n");
    put_file(root, "sys/fs/cgroup/outer/cpu.max", "250000 100000\n");
    hw = (struct hardware){0};
    hardware_read_limits(&hw, root);
    assert_true(hw.memory_limit == MIB(500));
    assert_true(hw.memory_available == MIB(400)); /* 500 - (200 - 100 of droppable cache) */
    assert_true(hw.cpu_quota == 2.5);

    /* Inside a container the path is not there, and the root is the own group. */
    root = system_folder("v2-container", "0::/no/such/group\n");
    put_file(root, "sys/fs/cgroup/memory.max", "104857600\n");
    put_file(root, "sys/fs/cgroup/memory.current", "204857600\n");
    put_file(root, "sys/fs/cgroup/cpu.max", "50000 100000\n");
    hw = (struct hardware){.n_usable_cores = 4};
    hardware_read_limits(&hw, root);
    assert_true(hw.memory_limit == MIB(100) && hw.memory_available == 0);
    assert_true(hw.cpu_quota == 0.5);
    assert_int_equal(hardware_default_threads(&hw), 1);
}

static void test_cgroup_v1(void **state)
{
    (void)state;
    const char *root =
        system_folder("v1", "5:cpu,cpuacct:/job\n4:memory:/job/1\n3:cpuset:/\nnonsense\n::\n");
    put_file(root, "sys/fs/cgroup/memory/job/memory.limit_in_bytes", "9223372036854771712\n");
    put_file(root, "sys/fs/cgroup/memory/job/1/memory.limit_in_bytes", "314572800\n");
    put_file(root, "sys/fs/cgroup/memory/job/1/memory.usage_in_bytes", "104857600\n");
    put_file(root, "sys/fs/cgroup/memory/job/1/memory.stat",
             "inactive_file 1\ntotal_inactive_file 52428800\n");
    put_file(root, "sys/fs/cgroup/cpu/job/cpu.cfs_quota_us", "300000\n");
    put_file(root, "sys/fs/cgroup/cpu/job/cpu.cfs_period_us", "100000\n");
    put_file(root, "sys/fs/cgroup/cpu/cpu.cfs_quota_us", "-1\n");
    put_file(root, "sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000\n");
    struct hardware hw = {.n_usable_cores = 4};
    hardware_read_limits(&hw, root);
    assert_true(hw.memory_limit == MIB(300) && hw.memory_available == MIB(250));
    assert_true(hw.cpu_quota == 3);
    assert_int_equal(hardware_default_threads(&hw), 3);
}

static void test_cgroup_hostile_path(void **state)
{
    (void)state;
    static char groups[4096];
    memset(groups, 'a', sizeof groups - 1);
    memcpy(groups, "0::/", 4);
    const char *root = system_folder("hostile", groups);
    put_file(root, "sys/fs/cgroup/memory.max", "104857600\n");
    struct hardware hw = {0};
    hardware_read_limits(&hw, root);
    assert_true(hw.memory_limit == MIB(100));
    root = system_folder("hostile", "0::/../../../x\n");
    hw = (struct hardware){0};
    hardware_read_limits(&hw, root);
    assert_true(hw.memory_limit == MIB(100));
    hw = (struct hardware){0};
    hardware_read_limits(&hw, "/no/such/folder");
    assert_true(hw.memory_total == 0 && hw.memory_limit == 0);
}

static void test_default_threads(void **state)
{
    (void)state;
    struct hardware hw = {.n_usable_cores = 12, .n_usable_efficiency_cores = 4};
    assert_int_equal(hardware_default_threads(&hw), 8);
    hw.cpu_quota = 3.9;
    assert_int_equal(hardware_default_threads(&hw), 3);
    hw = (struct hardware){.n_usable_cores = 2, .n_usable_efficiency_cores = 2};
    assert_int_equal(hardware_default_threads(&hw), 2);
    hw = (struct hardware){0};
    assert_int_equal(hardware_default_threads(&hw), 1);
}

static void test_no_cuda_library(void **state)
{
    (void)state;
    struct hardware hw = {0};
    hardware_read_cuda(&hw, "libno-such-library.so.1");
    hardware_read_cuda(&hw, "libc.so.6"); /* a library, but not that one */
    assert_true(!hw.cuda_driver && hw.n_gpus == 0 && hw.cuda_problem[0] == 0);
}

static void test_reports(void **state)
{
    (void)state;
    struct hardware hw = {
        .cpu_model = "Example 9000",
        .architecture = "x86_64",
        .n_packages = 1,
        .n_cores = 12,
        .n_threads = 16,
        .n_numa_nodes = 1,
        .n_efficiency_cores = 4,
        .n_usable_threads = 8,
        .n_usable_cores = 6,
        .cpu_quota = 2.5,
        .l1d_bytes = 48 << 10,
        .l2_bytes = 2 << 20,
        .l3_bytes = (uint64_t)32 << 20,
        .n_l3 = 2,
        .memory_total = (uint64_t)24 << 30,
        .memory_available = (uint64_t)3 << 29,
        .n_gpus = 2,
        .gpus = {{.name = "Example GPU",
                  .pci_bus = 0x1b,
                  .vendor_id = 0x10de,
                  .memory_bytes = (uint64_t)80 << 30,
                  .compute_major = 9,
                  .n_multiprocessors = 132},
                 {.name = "\xff\xfe", .cuda_index = -1}},
        .cuda_driver = true,
        .cuda_version = 12040,
    };
    hw.isa[ISA_AVX2] = hw.isa[ISA_FMA] = true;
    struct buf text = {0};
    hardware_describe(&hw, &text);
    assert_string_equal(
        text.data,
        "cpu      Example 9000 (x86_64)\n"
        "cores    12 cores (4 of them efficiency cores), 16 threads, 1 package; this process may "
        "use 8 threads on 6 cores; limited to the time of 2.5 processors\n"
        "caches   L1d 48 KiB, L2 2 MiB, L3 32 MiB (2 of them)\n"
        "vectors  avx2 fma\n"
        "memory   24 GiB, 1.5 GiB available\n"
        "gpu      Example GPU, 80 GiB, CUDA device 0, compute capability 9.0, 132 "
        "multiprocessors, PCI 0000:1b:00\n"
        "gpu      \xff\xfe, no CUDA driver for it, PCI 0000:00:00\n");
    buf_release(&text);

    json_t *json = hardware_to_json(&hw);
    json_t *cpu = json_object_get(json, "cpu"), *gpus = json_object_get(json, "gpus");
    assert_int_equal(json_integer_value(json_object_get(cpu, "cores")), 12);
    assert_int_equal(json_array_size(json_object_get(cpu, "instruction_sets")), 2);
    assert_null(json_object_get(cpu, "vendor"));
    assert_int_equal(json_array_size(gpus), 2);
    assert_string_equal(
        json_string_value(json_object_get(json_array_get(gpus, 0), "compute_capability")), "9.0");
    assert_null(json_object_get(json_array_get(gpus, 1), "name")); /* not UTF-8 */
    assert_int_equal(
        json_integer_value(json_object_get(json_object_get(json, "memory"), "available_bytes")),
        (uint64_t)3 << 29);
    char *dumped = json_dumps(json, JSON_COMPACT);
    assert_non_null(dumped);
    free(dumped);
    json_decref(json);
    for (int i = 0; i < INSTRUCTION_SETS; i++)
        assert_non_null(instruction_set_name((enum instruction_set)i));
}

static void test_real_report(void **state)
{
    (void)state;
    struct hardware hw = detect();
    struct buf text = {0};
    hardware_describe(&hw, &text);
    print_message("%s", text.data);
    assert_false(text.failed);
    buf_release(&text);
}

static void test_bandwidth(void **state)
{
    (void)state;
    struct hardware hw = detect();
    struct error err = {0};
    double rate = 0;
    uint32_t n = hardware_default_threads(&hw);
    n = n > 4 ? 4 : n;
    uint64_t before = clock_now_ns();
    enum status status = hardware_measure_bandwidth(&hw, n, &rate, &err);
    double took = (double)(clock_now_ns() - before) * 1e-6;
    if (status == STATUS_MEMORY) {
        print_message("%s\n", err.message);
        skip();
    }
    assert_ok(status, &err);
    print_message("%.1f GB/s with %u threads, measured in %.0f ms\n", rate * 1e-9, n, took);
    assert_true(rate > 1e8 && rate < 2e12);

    hw.memory_available = MIB(200);
    hw.l3_bytes = MIB(30);
    hw.n_l3 = 1;
    assert_int_equal(hardware_measure_bandwidth(&hw, 1, &rate, &err), STATUS_MEMORY);
    assert_non_null(strstr(err.message, "64 MiB"));
    assert_int_equal(hardware_measure_bandwidth(&hw, 0, &rate, &err), STATUS_USAGE);
}

/* The only file in the cache folder; fails if there are none or several. */
static void cache_file(const char *folder, char *out, size_t size)
{
    DIR *dir = opendir(folder);
    assert_non_null(dir);
    int n = 0;
    for (struct dirent *entry; (entry = readdir(dir));)
        if (entry->d_name[0] != '.') {
            snprintf(out, size, "%s/%s", folder, entry->d_name);
            n++;
        }
    closedir(dir);
    assert_int_equal(n, 1);
}

static void test_bandwidth_is_remembered(void **state)
{
    (void)state;
    struct hardware hw = detect();
    struct error err = {0};
    double rate = 0, again = 0;
    char folder[1024], path[1400];
    setenv("XDG_CACHE_HOME", fixture_scratch(), 1);
    snprintf(folder, sizeof folder, "%s/sluice", fixture_scratch());
    enum status status = hardware_bandwidth(&hw, 1, false, &rate, &err);
    if (status == STATUS_MEMORY)
        skip();
    assert_ok(status, &err);
    cache_file(folder, path, sizeof path);
    assert_ok(hardware_bandwidth(&hw, 1, false, &again, &err), &err);
    assert_true(fabs(again - rate) < 1e-5 * rate);

    scratch_write_text(path, "{\"bytes_per_second\": 1.25e9}");
    assert_ok(hardware_bandwidth(&hw, 1, false, &again, &err), &err);
    assert_true(again == 1.25e9);
    static const char *const spoilt[] = {"",
                                         "{",
                                         "[]",
                                         "{\"bytes_per_second\": \"fast\"}",
                                         "{\"bytes_per_second\": 1e300}",
                                         "{\"bytes_per_second\": -5}"};
    for (size_t i = 0; i < sizeof spoilt / sizeof *spoilt; i++) {
        scratch_write_text(path, spoilt[i]);
        assert_ok(hardware_bandwidth(&hw, 1, false, &again, &err), &err);
        assert_true(again > 1e8 && again < 2e12);
    }
    scratch_write_text(path, "{\"bytes_per_second\": 1.25e9}");
    assert_ok(hardware_bandwidth(&hw, 1, true, &again, &err), &err);
    assert_true(again != 1.25e9);

    scratch_write_text(path, "{\"bytes_per_second\": 1.25e9}");
    hw.memory_total++; /* another machine */
    assert_ok(hardware_bandwidth(&hw, 1, false, &again, &err), &err);
    assert_true(again != 1.25e9);
    setenv("XDG_CACHE_HOME", "/nowhere/to/write", 1);
    assert_ok(hardware_bandwidth(&hw, 1, false, &again, &err), &err);
}

static void test_arithmetic(void **state)
{
    (void)state;
    struct hardware hw = detect();
    struct arithmetic_peaks peaks;
    struct error err = {0};
    assert_ok(hardware_measure_arithmetic(&hw, 1, &peaks, &err), &err);
    assert_true(peaks.count > 0);
    for (uint32_t i = 0; i < peaks.count; i++) {
        const struct arithmetic_peak *p = &peaks.items[i];
        print_message("%-5s %8.3f TOPS  %s\n", arithmetic_name(p->kind),
                      p->operations_per_second * 1e-12, p->name);
        assert_true(p->operations_per_second > 1e8 && p->operations_per_second < 1e15);
        assert_true(arithmetic_best(&peaks, p->kind) >= p->operations_per_second);
    }
    assert_true(arithmetic_best(&peaks, ARITHMETIC_F32) > 0);
    if (!hw.isa[ISA_AMX_BF16] && !hw.isa[ISA_AVX512_BF16])
        assert_true(arithmetic_best(&peaks, ARITHMETIC_BF16) == 0);
    memset(hw.isa, 0, sizeof hw.isa); /* nothing is run that the processor does not have */
    assert_ok(hardware_measure_arithmetic(&hw, 1, &peaks, &err), &err);
    assert_int_equal(peaks.count, 1);
    double joules;
    if (hardware_energy(&joules))
        assert_true(joules >= 0);
}

#ifdef __linux__
static void test_resident_memory(void **state)
{
    (void)state;
    enum { BYTES = 64 << 20 };
    struct resident_memory before, after;
    if (!hardware_resident(&before))
        skip();
    char *memory = malloc(BYTES);
    assert_non_null(memory);
    memset(memory, 1, BYTES);
    assert_true(hardware_resident(&after));
    assert_int_equal(memory[BYTES - 1], 1);
    free(memory);
    assert_true(after.own >= before.own + BYTES - (8 << 20));
    assert_true(after.most >= after.own);
}
#endif

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_consistency),
#ifdef __linux__
        cmocka_unit_test(test_resident_memory),
        cmocka_unit_test(test_against_cpuinfo),
        cmocka_unit_test(test_affinity),
#endif
        cmocka_unit_test(test_cgroup_v2),
        cmocka_unit_test(test_cgroup_v1),
        cmocka_unit_test(test_cgroup_hostile_path),
        cmocka_unit_test(test_default_threads),
        cmocka_unit_test(test_no_cuda_library),
        cmocka_unit_test(test_reports),
        cmocka_unit_test(test_real_report),
        cmocka_unit_test(test_bandwidth),
        cmocka_unit_test(test_bandwidth_is_remembered),
        cmocka_unit_test(test_arithmetic),
    };
    return cmocka_run_group_tests_name("hw", tests, NULL, NULL);
}
