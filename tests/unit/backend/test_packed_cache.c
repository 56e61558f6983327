/*
 * The folder of packed weights: what was kept is found, what is damaged or not ours is not used, the
 * bound holds, and any number of writers leave one whole file. Matrices here are made-up numbers; that
 * a model answers the same from such a file is tests/kernel/test_kept.c.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "backend/cpu/packed_cache.h"
#include "backend/cpu/packed_folder.h"
#include "base/log.h"
#include "fixture.h"
#include "quant/tensor_type.h"
#include "scratch.h"

#define N_MATRICES 4
#define PLENTY     ((uint64_t)1 << 30)

static struct thread_pool *pool;

struct model {
    struct model *next;
    struct sidecar_matrix matrices[N_MATRICES];
    uint8_t *panels[N_MATRICES];
    struct packed_contents contents;
};

static struct model *models; /* of this test */

/* Some 3.5 MiB, so that pieces and chunks end inside matrices. It goes when the test ends. */
static struct model *make_model(uint64_t id)
{
    static const struct sidecar_matrix shapes[N_MATRICES] = {
        {.type = TENSOR_Q4_K, .count = 1, .n_rows = 1000, .n_cols = 2304},
        {.type = TENSOR_Q6_K, .count = 1, .n_rows = 17, .n_cols = 256},
        {.type = TENSOR_BF16, .count = 5, .n_rows = 100, .n_cols = 96},
        {.type = TENSOR_F16, .count = 1, .n_rows = 1600, .n_cols = 640},
    };
    struct model *m = calloc(1, sizeof *m);
    assert_non_null(m);
    m->next = models;
    models = m;
    memcpy(m->matrices, shapes, sizeof shapes);
    for (int i = 0; i < N_MATRICES; i++) {
        assert_true(sidecar_matrix_bytes(&m->matrices[i]));
        m->panels[i] = malloc(m->matrices[i].bytes);
        for (uint64_t k = 0; k < m->matrices[i].bytes; k++)
            m->panels[i][k] = (uint8_t)((k + 1) * (id * 2 + 3) * (uint64_t)(i + 7) >> 5);
    }
    m->contents = (struct packed_contents){.digest = {id, ~id}, .matrices = m->matrices};
    assert_true(sidecar_plan(m->matrices, N_MATRICES, &m->contents.layout));
    return m;
}

static struct packed_cache *open_cache(uint64_t most)
{
    struct packed_cache *cache;
    struct error err = {0};
    assert_ok(packed_cache_open(scratch_folder(), most, &cache, &err), &err);
    return cache;
}

static void keep(struct model *m, uint64_t most)
{
    struct packed_cache *cache = open_cache(most);
    packed_cache_keep(cache, &m->contents, (const uint8_t *const *)m->panels);
    packed_cache_close(cache);
}

static bool is_right(const struct model *m, const uint8_t *data)
{
    for (int i = 0; i < N_MATRICES; i++)
        if (memcmp(data + m->matrices[i].offset, m->panels[i], m->matrices[i].bytes) != 0)
            return false;
    return true;
}

static bool is_found(struct model *m)
{
    struct packed_cache *cache = open_cache(PLENTY);
    const uint8_t *data = packed_cache_find(cache, &m->contents, pool);
    assert_true(!data || is_right(m, data));
    packed_cache_close(cache);
    return data != NULL;
}

static const char *path_of(const struct model *m, const char *ending)
{
    static char path[2][4096 + PACKED_NAME_BYTES];
    static int which;
    char name[PACKED_NAME_BYTES];
    packed_name(&m->contents.digest, ending, name);
    which = !which;
    snprintf(path[which], sizeof path[which], "%s/%s", scratch_folder(), name);
    return path[which];
}

static bool exists(const char *path)
{
    return access(path, F_OK) == 0;
}

static void expect_removal(struct model *m)
{
    assert_false(is_found(m));
    assert_false(exists(path_of(m, ".sluice")));
}

static int end(void **state)
{
    for (struct model *m; (m = models) != NULL;) {
        models = m->next;
        for (int i = 0; i < N_MATRICES; i++)
            free(m->panels[i]);
        free(m);
    }
    return scratch_folder_end(state);
}

/* ---- the ordinary way ------------------------------------------------------------------------- */

static void test_kept_and_found(void **state)
{
    (void)state;
    struct model *a = make_model(1), *b = make_model(2);
    struct stat info;
    assert_false(is_found(a));
    keep(a, PLENTY);
    assert_true(is_found(a));
    assert_false(is_found(b));
    keep(b, PLENTY);
    assert_true(is_found(a) && is_found(b));
    assert_int_equal(stat(scratch_folder(), &info), 0);
    assert_int_equal(info.st_mode & 0777, 0700);
    assert_int_equal(stat(path_of(a, ".sluice"), &info), 0);
    assert_int_equal(info.st_mode & 0777, 0600);
    assert_int_equal(info.st_size, a->contents.layout.file_bytes);
    assert_false(exists(path_of(a, ".tmp")));
}

static void test_no_folder(void **state)
{
    (void)state;
    struct packed_cache *cache;
    struct error err = {0};
    char path[5000];
    snprintf(path, sizeof path, "%s/no/such", scratch_folder());
    assert_int_equal(packed_cache_open(path, PLENTY, &cache, &err), STATUS_DISK);
    assert_true(cache == NULL && strstr(err.message, "/no/such"));
    assert_int_equal(packed_cache_open("/dev/null", PLENTY, &cache, &err), STATUS_DISK);
    packed_cache_close(NULL);
}

/* ---- damage ------------------------------------------------------------------------------------ */

static void flip(const char *path, off_t at)
{
    uint8_t byte;
    int fd = open(path, O_RDWR);
    assert_true(fd >= 0 && pread(fd, &byte, 1, at) == 1);
    byte ^= 0x40;
    assert_int_equal(pwrite(fd, &byte, 1, at), 1);
    close(fd);
}

static void test_damaged_files_go(void **state)
{
    (void)state;
    struct model *m = make_model(3);
    const struct sidecar_layout *layout = &m->contents.layout;
    const uint64_t places[] = {0,
                               9,
                               17,
                               30,
                               45,
                               75,
                               130,
                               150,
                               300,
                               layout->data_offset,
                               layout->data_offset + m->matrices[0].bytes / 2,
                               layout->data_offset + m->matrices[3].offset,
                               layout->file_bytes - 1};
    for (size_t i = 0; i < sizeof places / sizeof *places; i++) {
        keep(m, PLENTY);
        assert_true(is_found(m));
        flip(path_of(m, ".sluice"), (off_t)places[i]);
        expect_removal(m);
    }
    const uint64_t sizes[] = {0,
                              1,
                              127,
                              128,
                              layout->data_offset,
                              layout->file_bytes - 4096,
                              layout->file_bytes - 1,
                              layout->file_bytes + 1};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        keep(m, PLENTY);
        assert_int_equal(truncate(path_of(m, ".sluice"), (off_t)sizes[i]), 0);
        expect_removal(m);
    }
}

/* A whole file under another digest's name; and of the digest, but with other shapes. */
static void test_wrong_contents(void **state)
{
    (void)state;
    struct model *a = make_model(4), *b = make_model(5);
    keep(a, PLENTY);
    assert_int_equal(rename(path_of(a, ".sluice"), path_of(b, ".sluice")), 0);
    expect_removal(b);
    keep(a, PLENTY);
    b->contents.digest = a->contents.digest;
    b->matrices[1].n_rows = 18; /* as many panels */
    expect_removal(b);          /* a's file, by that digest */
}

static void test_cut_while_mapped(void **state)
{
    (void)state;
    struct model *m = make_model(6);
    keep(m, PLENTY);
    struct packed_cache *cache = open_cache(PLENTY);
    const uint8_t *data = packed_cache_find(cache, &m->contents, pool);
    assert_non_null(data);
    assert_false(packed_cache_damaged(cache));
    assert_int_equal(truncate(path_of(m, ".sluice"), 4096), 0);
    assert_false(is_right(m, data)); /* zeros, and no signal */
    assert_true(packed_cache_damaged(cache));
    packed_cache_close(cache);
}

/* Not used, and not removed either. */
static void test_not_ours(void **state)
{
    (void)state;
    struct model *m = make_model(7);
    keep(m, PLENTY);
    const char *path = path_of(m, ".sluice"), *away = path_of(m, ".away");
    assert_int_equal(chmod(path, 0622), 0);
    assert_false(is_found(m));
    assert_int_equal(chmod(path, 0600), 0);
    assert_true(is_found(m));
    assert_int_equal(rename(path, away), 0);
    assert_int_equal(symlink(away, path), 0);
    assert_false(is_found(m));
    assert_int_equal(unlink(path), 0);
    assert_int_equal(mkfifo(path, 0600), 0);
    assert_false(is_found(m)); /* and does not wait for a writer */
    assert_true(exists(path));
    if (geteuid() == 0) {
        assert_int_equal(unlink(path), 0);
        assert_int_equal(rename(away, path), 0);
        assert_int_equal(chown(path, 12345, (gid_t)-1), 0);
        assert_false(is_found(m));
        assert_true(exists(path));
    }
}

/* ---- room -------------------------------------------------------------------------------------- */

static void set_age(const struct model *m, time_t seconds)
{
    struct timespec times[2] = {{.tv_sec = 1700000000 - seconds}, {.tv_sec = 1700000000 - seconds}};
    assert_int_equal(utimensat(AT_FDCWD, path_of(m, ".sluice"), times, 0), 0);
}

static void test_bound(void **state)
{
    (void)state;
    struct model *m[4];
    for (uint64_t i = 0; i < 4; i++)
        m[i] = make_model(10 + i);
    uint64_t bytes = m[0]->contents.layout.file_bytes;
    keep(m[0], bytes - 1); /* larger than all there is */
    assert_false(is_found(m[0]));
    for (int i = 0; i < 2; i++)
        keep(m[i], 2 * bytes);
    set_age(m[0], 10);
    set_age(m[1], 20);
    keep(m[2], 2 * bytes); /* m[1] was used least recently */
    assert_false(exists(path_of(m[1], ".sluice")));
    assert_true(is_found(m[0]) && is_found(m[2]));
    set_age(m[0], 20);
    set_age(m[2], 10);
    assert_true(is_found(m[0])); /* used now: m[2] is next */
    keep(m[3], 2 * bytes);
    assert_false(exists(path_of(m[2], ".sluice")));
    assert_true(is_found(m[0]) && is_found(m[3]));
}

static void test_in_use_stays(void **state)
{
    (void)state;
    struct model *a = make_model(20), *b = make_model(21);
    uint64_t bytes = a->contents.layout.file_bytes;
    keep(a, bytes);
    struct packed_cache *user = open_cache(bytes);
    const uint8_t *data = packed_cache_find(user, &a->contents, pool);
    assert_non_null(data);
    keep(b, bytes);
    assert_false(exists(path_of(b, ".sluice")));
    assert_true(exists(path_of(a, ".sluice")) && is_right(a, data));
    packed_cache_close(user);
    keep(b, bytes);
    assert_true(is_found(b));
    assert_false(is_found(a));
}

/* What a crash left goes; what is not ours stays, and does not count. */
static void test_leftovers(void **state)
{
    (void)state;
    struct model *a = make_model(22), *b = make_model(23);
    char other[5000], similar[5000];
    keep(a, PLENTY);
    snprintf(other, sizeof other, "%s/notes.sluice", scratch_folder());
    snprintf(similar, sizeof similar, "%s/packed-0123.sluice", scratch_folder());
    scratch_write_text(other, "mine");
    scratch_write_text(similar, "mine too");
    scratch_write_text(path_of(a, ".tmp"), "half");
    scratch_write_text(path_of(b, ".tmp"), "half");
    keep(b, 2 * a->contents.layout.file_bytes);
    assert_true(is_found(a) && is_found(b));
    assert_false(exists(path_of(a, ".tmp")) || exists(path_of(b, ".tmp")));
    assert_true(exists(other) && exists(similar));
}

/* ---- writers ----------------------------------------------------------------------------------- */

/* The caches of one process: four keep the same, four something else each. */
static void test_many_writers(void **state)
{
    (void)state;
    enum { N = 8 };
    struct model *m[N];
    struct packed_cache *caches[N];
    for (uint64_t i = 0; i < N; i++) {
        m[i] = make_model(i < N / 2 ? 30 : 30 + i);
        caches[i] = open_cache(PLENTY);
    }
    for (int i = 0; i < N; i++)
        packed_cache_keep(caches[i], &m[i]->contents, (const uint8_t *const *)m[i]->panels);
    /* Who closes while another holds the lock gives up: wait until all that can be there is. */
    for (int i = 0; i < N; i++)
        for (int tries = 0; tries < 3000 && !exists(path_of(m[i], ".sluice")); tries++)
            usleep(10000);
    for (int i = 0; i < N; i++) {
        packed_cache_close(caches[i]);
        assert_true(is_found(m[i]));
        assert_false(exists(path_of(m[i], ".tmp")));
    }
}

static void test_two_processes(void **state)
{
    (void)state;
    enum { N = 4 };
    struct model *m = make_model(50);
    pid_t children[N];
    thread_pool_free(pool); /* a process of one thread is what may be doubled */
    pool = NULL;
    for (int i = 0; i < N; i++) {
        children[i] = fork();
        assert_true(children[i] >= 0);
        if (children[i] == 0) {
            struct packed_cache *cache;
            if (packed_cache_open(scratch_folder(), PLENTY, &cache, NULL) != STATUS_OK)
                _exit(1);
            packed_cache_keep(cache, &m->contents, (const uint8_t *const *)m->panels);
            packed_cache_close(cache);
            _exit(0);
        }
    }
    for (int i = 0; i < N; i++) {
        int status;
        assert_int_equal(waitpid(children[i], &status, 0), children[i]);
        assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    }
    assert_int_equal(thread_pool_create(2, NULL, &pool, NULL), STATUS_OK);
    assert_true(is_found(m)); /* the one that had the lock wrote */
    assert_false(exists(path_of(m, ".tmp")));
}

/* Somebody else writes all the time: closing does not wait for the lock. */
static void test_lock_taken(void **state)
{
    (void)state;
    struct model *m = make_model(60);
    char path[5000];
    assert_int_equal(mkdir(scratch_folder(), 0700), 0);
    snprintf(path, sizeof path, "%s/lock", scratch_folder());
    int fd = open(path, O_RDWR | O_CREAT, 0600);
    assert_true(fd >= 0 && flock(fd, LOCK_EX) == 0);
    keep(m, PLENTY);
    assert_false(is_found(m));
    close(fd);
    keep(m, PLENTY);
    assert_true(is_found(m));
}

/* A file that somebody locks for good is not waited for. */
static void test_file_locked(void **state)
{
    (void)state;
    struct model *m = make_model(61);
    keep(m, PLENTY);
    int fd = open(path_of(m, ".sluice"), O_RDONLY);
    assert_true(fd >= 0 && flock(fd, LOCK_EX) == 0);
    assert_false(is_found(m));
    close(fd);
    assert_true(is_found(m));
}

static int start(void **state)
{
    (void)state;
    log_set_level(LOG_ERROR); /* warnings are what is provoked here */
    return thread_pool_create(2, NULL, &pool, NULL) == STATUS_OK ? 0 : -1;
}

static int stop(void **state)
{
    (void)state;
    thread_pool_free(pool);
    fixture_remove_folder(fixture_scratch());
    return 0;
}

#define WITH_FOLDER(test) cmocka_unit_test_setup_teardown(test, scratch_folder_begin, end)

int main(void)
{
    const struct CMUnitTest tests[] = {
        WITH_FOLDER(test_kept_and_found),
        WITH_FOLDER(test_no_folder),
        WITH_FOLDER(test_damaged_files_go),
        WITH_FOLDER(test_wrong_contents),
        WITH_FOLDER(test_cut_while_mapped),
        WITH_FOLDER(test_not_ours),
        WITH_FOLDER(test_bound),
        WITH_FOLDER(test_in_use_stays),
        WITH_FOLDER(test_leftovers),
        WITH_FOLDER(test_many_writers),
        WITH_FOLDER(test_two_processes),
        WITH_FOLDER(test_lock_taken),
        WITH_FOLDER(test_file_locked),
    };
    return cmocka_run_group_tests(tests, start, stop);
}
