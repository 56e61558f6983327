/*
 * Models whose packed weights are kept: the first start packs and writes, the second maps, and both
 * answer with the bits of one without a cache. A model that changed is not answered from the file of
 * what it was.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "backend/backend.h"
#include "backend/cpu/kernels.h"
#include "base/file.h"
#include "base/log.h"
#include "engine_calls.h"
#include "fixture.h"
#include "model/model.h"
#include "scratch.h"
#include "sluice.h"

#define N_TOKENS 37

/* A row of /proc/self/maps is a file of the folder. */
static bool is_mapped(void)
{
    char line[4600];
    bool found = false;
    FILE *maps = fopen("/proc/self/maps", "r");
    while (maps && fgets(line, sizeof line, maps))
        found |= strstr(line, scratch_folder()) && strstr(line, ".sluice");
    if (maps)
        fclose(maps);
    return found;
}

static int count_files(void)
{
    int n = 0;
    DIR *dir = opendir(scratch_folder());
    for (struct dirent *entry; dir && (entry = readdir(dir)) != NULL;)
        n += strstr(entry->d_name, ".sluice") != NULL;
    if (dir)
        closedir(dir);
    return n;
}

/* Logits (or hidden states) of a few tokens, all rows. *mapped: weights came from a file. */
static struct buf evaluate(const char *model, const char *cache, bool exact, bool *mapped)
{
    sluice_engine *engine = must_open(&(sluice_engine_options){
        .model = model, .backend = "cpu", .n_threads = 2, .exact = exact, .packed_cache = cache});
    *mapped = is_mapped();
    int32_t tokens[N_TOKENS];
    for (int i = 0; i < N_TOKENS; i++)
        tokens[i] = 3 + i * 7 % 100;
    sluice_request_options request_options = {
        .tokens = tokens, .n_tokens = N_TOKENS, .mode = SLUICE_SCORE_HIDDEN};
    sluice_model_info info;
    sluice_engine_info(engine, &info);
    if (info.has_logits)
        request_options.mode = SLUICE_SCORE_LOGITS;
    struct buf rows = must_score(engine, &request_options);
    sluice_engine_close(engine);
    return rows;
}

static bool same_bits(struct buf *a, struct buf *b)
{
    bool same = a->len == b->len && memcmp(a->data, b->data, a->len) == 0;
    buf_release(b);
    return same;
}

static void check_model(const char *model)
{
    bool mapped;
    struct buf expected = evaluate(model, NULL, false, &mapped);
    assert_false(mapped);
    int before = count_files();
    for (int start = 0; start < 3; start++) {
        struct buf rows = evaluate(model, scratch_folder(), false, &mapped);
        if (!same_bits(&expected, &rows) || mapped != (start > 0))
            fail_msg("%s: start %d %s a file", model, start, mapped ? "maps" : "does not map");
        assert_int_equal(count_files(), before + 1);
    }
    buf_release(&expected);
}

/* Plain and sparse, of quantised and of float types, folders, and weights that are made at load. */
static void test_same_bits(void **state)
{
    (void)state;
    static const char *const models[] = {
        "models/pebble/pebble-q8_0.gguf",    "models/pebble/pebble-bf16.gguf",
        "tests/data/arch/gguf/mixtral.gguf", "tests/data/arch/gguf/qwen3-moe.gguf",
        "tests/data/arch/gguf/lfm2.gguf",    "tests/data/arch/gguf/qwen3-embed.gguf",
        "tests/data/arch/hf/mixtral",        "tests/data/arch/hf/llama",
    };
    for (size_t i = 0; i < sizeof models / sizeof *models; i++)
        check_model(fixture_path(models[i]));
}

/* Nothing is packed in exact mode, so nothing is kept. */
static void test_exact(void **state)
{
    (void)state;
    bool mapped;
    const char *model = fixture_path("tests/data/arch/gguf/llama.gguf");
    struct buf expected = evaluate(model, NULL, true, &mapped);
    struct buf rows = evaluate(model, scratch_folder(), true, &mapped);
    assert_true(same_bits(&expected, &rows) && !mapped);
    assert_int_equal(count_files(), 0);
    buf_release(&expected);
}

static const char *copy_model(const char *from, const char *name)
{
    const char *to = fixture_scratch_file(name);
    struct buf bytes = fixture_read(from);
    scratch_write(to, bytes.data, bytes.len);
    buf_release(&bytes);
    return to;
}

/* The clock that stamps files goes in steps. */
static void let_settle(void)
{
    usleep(120000);
}

/* In place, to the same size, with the old modification time put back. */
static void test_changed_model(void **state)
{
    (void)state;
    bool mapped, settled;
    struct mapped_file *map;
    const char *model = copy_model(fixture_path("models/pebble/pebble-q8_0.gguf"), "changing.gguf");
    let_settle();
    assert_int_equal(mapped_file_open(model, &map, NULL), STATUS_OK);
    struct file_identity before = mapped_file_identity(map, &settled);
    mapped_file_close(map);
    check_model(model);
    int fd = open(model, O_RDWR);
    assert_true(fd >= 0);
    /* Some scales and integers in the middle of the weights. */
    off_t middle = (off_t)before.size / 2;
    for (off_t at = middle; at < middle + 340; at += 34)
        assert_int_equal(pwrite(fd, "\x00\x2c\x11\x22", 4, at), 4);
    const struct timespec then = {.tv_sec = (time_t)(before.modified_ns / 1000000000),
                                  .tv_nsec = (long)(before.modified_ns % 1000000000)};
    const struct timespec times[2] = {then, then};
    assert_int_equal(futimens(fd, times), 0);
    close(fd);
    let_settle();
    struct buf expected = evaluate(model, NULL, false, &mapped);
    struct buf rows = evaluate(model, scratch_folder(), false, &mapped);
    assert_false(mapped);
    assert_true(same_bits(&expected, &rows));
    rows = evaluate(model, scratch_folder(), false, &mapped);
    assert_true(mapped);
    assert_true(same_bits(&expected, &rows));
    assert_int_equal(count_files(), 2);
    buf_release(&expected);
}

/* A file that just came to be cannot be told from what it may be next. Where the machine is busy it
 * may be old before it is opened: then another one is tried. */
static void test_young_model(void **state)
{
    (void)state;
    bool mapped, refused = false;
    const char *source = fixture_path("tests/data/arch/gguf/llama.gguf");
    for (int i = 0; i < 50 && !refused; i++) {
        int before = count_files();
        struct buf rows =
            evaluate(copy_model(source, "young.gguf"), scratch_folder(), false, &mapped);
        refused = count_files() == before;
        buf_release(&rows);
    }
    assert_true(refused);
}

/* One file by other names, and after its change time moved. */
static void test_other_name(void **state)
{
    (void)state;
    bool mapped;
    const char *source = fixture_path("tests/data/arch/gguf/llama.gguf");
    const char *model = copy_model(source, "named.gguf");
    struct buf expected = evaluate(source, NULL, false, &mapped);
    struct buf rows;
    let_settle();
    check_model(model);
    char moved[4096];
    snprintf(moved, sizeof moved, "%s", fixture_scratch_file("moved.gguf"));
    assert_int_equal(link(model, moved), 0);
    let_settle();
    rows = evaluate(moved, scratch_folder(), false, &mapped); /* linking moved it */
    assert_true(same_bits(&expected, &rows) && !mapped);
    rows = evaluate(model, scratch_folder(), false, &mapped);
    assert_true(same_bits(&expected, &rows) && mapped);
    unlink(moved);
    buf_release(&expected);
}

/* A folder that cannot be used costs a warning, not the start. */
static void test_no_folder(void **state)
{
    (void)state;
    bool mapped;
    const char *model = fixture_path("tests/data/arch/gguf/llama.gguf");
    struct buf expected = evaluate(model, NULL, false, &mapped);
    struct buf rows = evaluate(model, "/dev/null", false, &mapped);
    assert_true(same_bits(&expected, &rows) && !mapped);
    rows = evaluate(model, fixture_scratch_file("no/such/folder"), false, &mapped);
    assert_true(same_bits(&expected, &rows) && !mapped);
    buf_release(&expected);
}

/* A damaged file is packed around, and written again. */
static void test_damaged(void **state)
{
    (void)state;
    bool mapped;
    char path[5000] = "";
    const char *model = fixture_path("models/pebble/pebble-q8_0.gguf");
    check_model(model);
    DIR *dir = opendir(scratch_folder());
    for (struct dirent *entry; dir && (entry = readdir(dir)) != NULL;)
        if (strstr(entry->d_name, ".sluice"))
            snprintf(path, sizeof path, "%s/%s", scratch_folder(), entry->d_name);
    closedir(dir);
    struct stat info;
    uint8_t byte;
    int fd = open(path, O_RDWR);
    assert_true(fd >= 0 && fstat(fd, &info) == 0 && pread(fd, &byte, 1, info.st_size / 2) == 1);
    byte ^= 1;
    assert_int_equal(pwrite(fd, &byte, 1, info.st_size / 2), 1);
    close(fd);
    struct buf expected = evaluate(model, NULL, false, &mapped);
    struct buf rows = evaluate(model, scratch_folder(), false, &mapped);
    assert_true(same_bits(&expected, &rows) && !mapped);
    rows = evaluate(model, scratch_folder(), false, &mapped);
    assert_true(same_bits(&expected, &rows) && mapped);
    buf_release(&expected);
}

/* Cut short after its digest was taken: the zeros that are packed then must not outlive this. */
static void test_cut_while_packing(void **state)
{
    (void)state;
#if SANITIZED_THREADS
    print_message(
        "the thread sanitizer takes pages that replace lost ones for writes of one's own\n");
    skip();
#endif
    const char *path = copy_model(fixture_path("models/pebble/pebble-q8_0.gguf"), "cut.gguf");
    const struct backend_api *api;
    struct backend *backend;
    struct model *model;
    struct error err = {0};
    struct backend_config config = {.n_threads = 2, .packed_cache = scratch_folder()};
    for (int whole = 0; whole < 2; whole++) {
        let_settle();
        assert_ok(model_open(path, &model, &err), &err);
        assert_ok(backend_find("cpu", &api, NULL, &err), &err);
        assert_ok(api->open(&config, &backend, &err), &err);
        const struct program *program = model_program(model);
        struct placed_weight *placed;
        assert_ok(api->place(backend, program, 0, &placed, &err), &err);
        if (!whole)
            assert_int_equal(truncate(path, 100000), 0);
        for (uint32_t i = 1; i < program->n_weights; i++)
            assert_ok(api->place(backend, program, i, &placed, &err), &err);
        assert_int_equal(model_damaged(model), !whole);
        api->close(backend);
        model_close(model);
        assert_int_equal(count_files(), whole);
        copy_model(fixture_path("models/pebble/pebble-q8_0.gguf"), "cut.gguf");
    }
}

int main(void)
{
    log_set_level(LOG_ERROR);
    if (!kernel_for_packed(TENSOR_Q8_0)) {
        print_message("skipped: nothing is packed on this processor, so nothing is kept\n");
        return 0;
    }
    if (!file_exists("/proc/self/maps")) {
        print_message("skipped: no /proc/self/maps tells what is mapped here\n");
        return 0;
    }
    const struct CMUnitTest tests[] = {
        scratch_folder_test(test_same_bits),     scratch_folder_test(test_exact),
        scratch_folder_test(test_changed_model), scratch_folder_test(test_young_model),
        scratch_folder_test(test_other_name),    scratch_folder_test(test_no_folder),
        scratch_folder_test(test_damaged),       scratch_folder_test(test_cut_while_packing),
    };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    fixture_remove_folder(fixture_scratch());
    return failed;
}
