/*
 * Files: reading within limits, and mapped files that are cut short while mapped. The latter must
 * read as zeros and be reported, never end the process; a fault that is not ours still must.
 */
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/file.h"
#include "fixture.h"

static size_t page;

/* A file of `n` bytes, byte i being i % 251 + 1 (never zero). */
static const char *write_pattern(const char *name, size_t n)
{
    const char *path = fixture_scratch_file(name);
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    for (size_t i = 0; i < n; i++)
        fputc((int)(i % 251 + 1), file);
    assert_int_equal(fclose(file), 0);
    return path;
}

static struct mapped_file *map(const char *path)
{
    struct mapped_file *file;
    struct error err = {0};
    assert_ok(mapped_file_open(path, &file, &err), &err);
    return file;
}

/* Through volatile, so that the load really happens. */
static uint8_t touch(const struct mapped_file *file, size_t at)
{
    return *(const volatile uint8_t *)(mapped_file_data(file) + at);
}

static void test_map(void **state)
{
    (void)state;
    struct mapped_file *file = map(write_pattern("whole", 10000));
    assert_int_equal(mapped_file_size(file), 10000);
    assert_int_equal((uintptr_t)mapped_file_data(file) % page, 0);
    for (size_t i = 0; i < 10000; i++)
        assert_int_equal(mapped_file_data(file)[i], i % 251 + 1);
    assert_false(mapped_file_damaged(file));
    mapped_file_close(file);
    mapped_file_close(NULL);
}

static void test_empty(void **state)
{
    (void)state;
    struct mapped_file *file = map(write_pattern("empty", 0));
    assert_int_equal(mapped_file_size(file), 0);
    assert_non_null(mapped_file_data(file));
    mapped_file_close(file);
}

static void test_find(void **state)
{
    (void)state;
    const char *path = write_pattern("found", 3 * page);
    struct mapped_file *file = map(path), *other = map(write_pattern("beside", page));
    const uint8_t *data = mapped_file_data(file);
    uint64_t offset = 1;
    assert_ptr_equal(mapped_file_find(data, 3 * page, &offset), file);
    assert_int_equal(offset, 0);
    assert_ptr_equal(mapped_file_find(data + 5000, 100, &offset), file);
    assert_int_equal(offset, 5000);
    assert_ptr_equal(mapped_file_find(mapped_file_data(other), 1, &offset), other);
    assert_null(mapped_file_find(data, 3 * page + 1, &offset)); /* reaches out of it */
    assert_null(mapped_file_find(data, UINT64_MAX, &offset));
    assert_null(mapped_file_find(&offset, 8, &offset));
    mapped_file_close(other);
    mapped_file_close(file);
}

/* Larger than a large page, so that it is put where one could be mapped. */
static void test_large(void **state)
{
    (void)state;
    size_t n = ((size_t)2 << 20) + 12345;
    struct mapped_file *file = map(write_pattern("large", n));
    mapped_file_expect_reading(file);
    assert_int_equal((uintptr_t)mapped_file_data(file) % ((size_t)2 << 20), 0);
    for (size_t i = 0; i < n; i += 997)
        assert_int_equal(touch(file, i), i % 251 + 1);
    mapped_file_close(file);
}

/* Any write shows, also where the time of modification is put back. */
static void test_identity(void **state)
{
    (void)state;
    bool settled;
    uint64_t begin = clock_now_ns();
    const char *path = write_pattern("identity", 5000);
    struct mapped_file *file = map(path);
    bool young = clock_now_ns() - begin < 40000000; /* unless this machine is that busy */
    struct file_identity first = mapped_file_identity(file, &settled), second;
    assert_false(young && settled);
    assert_int_equal(first.size, 5000);
    mapped_file_close(file);
    nanosleep(&(struct timespec){.tv_nsec = 120000000}, NULL);
    file = map(path);
    second = mapped_file_identity(file, &settled);
    assert_true(settled);
    assert_memory_equal(&first, &second, sizeof first);
    mapped_file_close(file);

    int fd = open(path, O_RDWR);
    assert_true(fd >= 0 && pwrite(fd, "x", 1, 100) == 1);
    const struct timespec before = {.tv_sec = (time_t)(first.modified_ns / 1000000000),
                                    .tv_nsec = (long)(first.modified_ns % 1000000000)};
    const struct timespec times[2] = {before, before};
    assert_int_equal(futimens(fd, times), 0);
    close(fd);
    file = map(path);
    second = mapped_file_identity(file, &settled);
    assert_true(second.modified_ns == first.modified_ns && second.inode == first.inode);
    assert_true(second.changed_ns > first.changed_ns);
    mapped_file_close(file);
}

static void test_open_errors(void **state)
{
    (void)state;
    struct mapped_file *file;
    struct error err = {0};
    assert_int_equal(mapped_file_open(fixture_scratch_file("absent"), &file, &err), STATUS_DISK);
    assert_null(file);
    assert_non_null(strstr(err.message, "absent"));
    assert_int_equal(mapped_file_open(fixture_scratch(), &file, &err), STATUS_DISK);
    assert_non_null(strstr(err.message, "not a regular file"));
    assert_int_equal(mapped_file_open("/dev/zero", &file, &err), STATUS_DISK);
}

static void test_truncated_under_us(void **state)
{
    (void)state;
    struct mapped_file *other = map(write_pattern("other", 3 * page));
    const char *path = write_pattern("cut", 8 * page);
    struct mapped_file *file = map(path);
    assert_int_equal(touch(file, 7 * page), 7 * page % 251 + 1);
    assert_int_equal(truncate(path, (off_t)(2 * page)), 0);
    assert_false(mapped_file_damaged(file)); /* nobody has looked yet */
    assert_int_equal(touch(file, page), page % 251 + 1);
    assert_false(mapped_file_damaged(file)); /* that page is still there */
    for (size_t i = 2; i < 8; i++)
        assert_int_equal(touch(file, i * page + 17), 0);
    assert_true(mapped_file_damaged(file));
    assert_int_equal(touch(file, page), page % 251 + 1);
    assert_int_equal(touch(other, 2 * page), 2 * page % 251 + 1);
    assert_false(mapped_file_damaged(other));
    mapped_file_close(file);
    mapped_file_close(other);

    file = map(write_pattern("again", page)); /* the slot is reused */
    assert_false(mapped_file_damaged(file));
    mapped_file_close(file);
}

/* Truncated to nothing, and read in bulk by the C library. */
static void test_truncated_to_nothing(void **state)
{
    (void)state;
    size_t n = 4 * page + 123;
    const char *path = write_pattern("gone", n);
    struct mapped_file *file = map(path);
    assert_int_equal(truncate(path, 0), 0);
    uint8_t *copy = malloc(n);
    memset(copy, 0xff, n);
    memcpy(copy, mapped_file_data(file), n);
    for (size_t i = 0; i < n; i++)
        assert_int_equal(copy[i], 0);
    assert_true(mapped_file_damaged(file));
    free(copy);
    mapped_file_close(file);
}

/* A lost page of somebody else's mapping is somebody else's fault: the process ends as without us. */
static void test_foreign_fault(void **state)
{
    (void)state;
    struct mapped_file *ours = map(write_pattern("ours", page));
    const char *path = write_pattern("foreign", 2 * page);
    pid_t child = fork();
    if (child == 0) {
        signal(SIGBUS, SIG_DFL); /* instead of the test library's, which catches it */
        struct mapped_file *again = NULL;
        if (mapped_file_open(path, &again, NULL) != STATUS_OK) /* puts ours in front again */
            _exit(2);
        int fd = open(path, O_RDWR);
        volatile uint8_t *data = mmap(NULL, 2 * page, PROT_READ, MAP_PRIVATE, fd, 0);
        if (ftruncate(fd, 0) != 0)
            _exit(3);
        _exit(data[page] == 0 ? 0 : 4);
    }
    int status = 0;
    assert_true(child > 0 && waitpid(child, &status, 0) == child);
    assert_true(WIFSIGNALED(status));
    assert_int_equal(WTERMSIG(status), SIGBUS);
    mapped_file_close(ours);
}

/* The table of mappings is finite; running out is an error and closing gives room back. */
static void test_many_maps(void **state)
{
    (void)state;
    enum { MOST = 5000 };
    static struct mapped_file *files[MOST];
    const char *path = write_pattern("many", 10);
    struct error err = {0};
    size_t n = 0;
    while (n < MOST && mapped_file_open(path, &files[n], &err) == STATUS_OK)
        n++;
    assert_in_range(n, 256, MOST - 1);
    assert_int_equal(err.status, STATUS_LIMIT);
    mapped_file_close(files[--n]);
    files[n] = map(path);
    assert_int_equal(touch(files[n], 3), 4);
    for (size_t i = 0; i <= n; i++)
        mapped_file_close(files[i]);
}

static void test_read_all(void **state)
{
    (void)state;
    const char *path = write_pattern("read", 70000);
    struct error err = {0};
    struct buf text = {0};
    buf_append_cstr(&text, "before");
    assert_ok(file_read_all(path, 70000, &text, &err), &err);
    assert_int_equal(text.len, 70006);
    assert_memory_equal(text.data, "before\1\2\3", 9);
    assert_int_equal(text.data[text.len], 0);
    buf_clear(&text);
    assert_int_equal(file_read_all(path, 69999, &text, &err), STATUS_LIMIT);
    assert_int_equal(file_read_all(fixture_scratch_file("absent"), 10, &text, &err), STATUS_DISK);
    buf_release(&text);
    assert_true(file_exists(path) && !file_is_directory(path));
    assert_true(file_exists(fixture_scratch()) && file_is_directory(fixture_scratch()));
    assert_false(file_exists(fixture_scratch_file("absent")));
}

static void test_read_fd(void **state)
{
    (void)state;
    int ends[2];
    struct error err = {0};
    struct buf text = {0};
    assert_int_equal(pipe(ends), 0);
    assert_int_equal(write(ends[1], "a\0b", 3), 3);
    close(ends[1]);
    assert_ok(file_read_fd(ends[0], "stdin", 100, &text, &err), &err);
    close(ends[0]);
    assert_int_equal(text.len, 3);
    assert_memory_equal(text.data, "a\0b", 4);
    assert_int_equal(file_read_fd(-1, "stdin", 100, &text, &err), STATUS_DISK);
    assert_non_null(strstr(err.message, "stdin"));
    buf_release(&text);
}

static int remove_scratch(void **state)
{
    (void)state;
    static const char *names[] = {"whole", "empty",  "other",   "cut",     "again",
                                  "gone",  "ours",   "foreign", "many",    "read",
                                  "found", "beside", "large",   "identity"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        unlink(fixture_scratch_file(names[i]));
    return rmdir(fixture_scratch());
}

int main(void)
{
    page = (size_t)sysconf(_SC_PAGESIZE);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_map),
        cmocka_unit_test(test_empty),
        cmocka_unit_test(test_find),
        cmocka_unit_test(test_large),
        cmocka_unit_test(test_identity),
        cmocka_unit_test(test_open_errors),
        cmocka_unit_test(test_truncated_under_us),
        cmocka_unit_test(test_truncated_to_nothing),
        cmocka_unit_test(test_foreign_fault),
        cmocka_unit_test(test_many_maps),
        cmocka_unit_test(test_read_all),
        cmocka_unit_test(test_read_fd),
    };
    return cmocka_run_group_tests(tests, NULL, remove_scratch);
}
