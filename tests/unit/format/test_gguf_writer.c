/* The GGUF writer: what it writes, the reader reads; what it does not finish, nobody sees. */
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "fixture.h"
#include "format/checkpoint.h"
#include "format/gguf_writer.h"

static char *scratch_file(const char *name)
{
    static char path[1200];
    snprintf(path, sizeof path, "%s/%s", fixture_scratch(), name);
    return path;
}

static struct gguf_writer *start(const char *path)
{
    struct gguf_writer *w = NULL;
    struct error err = {0};
    assert_ok(gguf_writer_open(path, &w, &err), &err);
    return w;
}

static void put_metadata(struct gguf_writer *w)
{
    gguf_writer_str(w, "general.architecture", STR_LIT("test"));
    gguf_writer_u32(w, "a.number", 4000000000u);
    gguf_writer_f32(w, "a.float", 0.25f);
    gguf_writer_bool(w, "a.flag", true);
    gguf_writer_array(w, "a.texts", GGUF_STRING, 3);
    gguf_writer_item_str(w, STR_LIT("one"));
    gguf_writer_item_str(w, STR_LIT(""));
    gguf_writer_item_str(w, STR_LIT("three"));
    gguf_writer_array(w, "a.floats", GGUF_F32, 2);
    gguf_writer_item_f32(w, 1.5f);
    gguf_writer_item_f32(w, -2.0f);
}

static void check_metadata(const struct gguf *g)
{
    uint64_t number;
    double real;
    bool flag = false;
    struct str text;
    assert_true(gguf_get_u64(g, "a.number", &number) && number == 4000000000u);
    assert_true(gguf_get_f64(g, "a.float", &real) && real == 0.25);
    assert_true(gguf_get_bool(g, "a.flag", &flag) && flag);
    struct gguf_string_cursor cursor = {0};
    const char *expected[] = {"one", "", "three"};
    for (int i = 0; i < 3; i++) {
        assert_true(gguf_next_string(gguf_find(g, "a.texts"), &cursor, &text));
        assert_true(str_eq_cstr(text, expected[i]));
    }
    assert_true(gguf_item_f64(gguf_find(g, "a.floats"), 1, &real) && real == -2.0);
}

/* Tensors of uneven sizes, written back to front and in parts. */
static void test_round_trip(void **state)
{
    (void)state;
    const char *path = scratch_file("written.gguf");
    struct error err = {0};
    struct gguf_writer *w = start(path);
    put_metadata(w);
    const uint64_t dims[] = {2, 3, 5}, row[] = {7};
    size_t cube = gguf_writer_tensor(w, STR_LIT("cube.weight"), TENSOR_F16, 3, dims);
    size_t line = gguf_writer_tensor(w, STR_LIT("line.weight"), TENSOR_F32, 1, row);
    assert_int_equal(gguf_writer_tensor_bytes(w, cube), 60);
    assert_ok(gguf_writer_begin(w, &err), &err);
    uint8_t bytes[60];
    for (int i = 0; i < 60; i++)
        bytes[i] = (uint8_t)(3 * i);
    assert_ok(gguf_writer_write(w, line, 0, bytes, 28, &err), &err);
    assert_ok(gguf_writer_write(w, cube, 20, bytes + 20, 40, &err), &err);
    assert_false(file_exists(path));
    assert_int_equal(gguf_writer_finish(w, &err), STATUS_INTERNAL); /* 20 bytes are missing */
    assert_ok(gguf_writer_write(w, cube, 0, bytes, 20, &err), &err);
    assert_int_equal(gguf_writer_write(w, cube, 41, bytes, 20, &err), STATUS_INTERNAL);
    assert_ok(gguf_writer_finish(w, &err), &err);
    uint64_t size = gguf_writer_file_bytes(w);
    gguf_writer_free(w);

    struct checkpoint *c;
    assert_ok(checkpoint_open(path, &c, &err), &err);
    check_metadata(checkpoint_gguf(c));
    const struct tensor *t = checkpoint_tensor(c, "cube.weight");
    assert_non_null(t);
    assert_int_equal(t->n_dims, 3);
    assert_memory_equal(t->dims, dims, sizeof dims);
    assert_memory_equal(t->data, bytes, 60);
    t = checkpoint_tensor(c, "line.weight");
    assert_true(t && t->type == TENSOR_F32 && t->bytes == 28);
    assert_memory_equal(t->data, bytes, 28);
    checkpoint_close(c);
    struct buf whole = fixture_read(path);
    assert_int_equal(whole.len, size);
    buf_release(&whole);
}

/* Copying every value of a file gives the same metadata. */
static void test_copy(void **state)
{
    (void)state;
    struct error err = {0};
    char first[1200], second[1200];
    snprintf(first, sizeof first, "%s", scratch_file("copied-from.gguf"));
    snprintf(second, sizeof second, "%s", scratch_file("copied-to.gguf"));
    struct gguf_writer *w = start(first);
    put_metadata(w);
    assert_ok(gguf_writer_begin(w, &err), &err);
    assert_ok(gguf_writer_finish(w, &err), &err);
    gguf_writer_free(w);
    struct checkpoint *c;
    assert_ok(checkpoint_open(first, &c, &err), &err);
    w = start(second);
    for (size_t i = 0; i < gguf_value_count(checkpoint_gguf(c)); i++)
        gguf_writer_copy(w, gguf_value_at(checkpoint_gguf(c), i));
    assert_ok(gguf_writer_begin(w, &err), &err);
    assert_ok(gguf_writer_finish(w, &err), &err);
    gguf_writer_free(w);
    checkpoint_close(c);
    struct buf a = fixture_read(first), b = fixture_read(second);
    assert_int_equal(a.len, b.len);
    assert_memory_equal(a.data, b.data, a.len);
    buf_release(&a);
    buf_release(&b);
}

static void test_abandoned(void **state)
{
    (void)state;
    struct error err = {0};
    const char *path = scratch_file("abandoned.gguf");
    char part[1300];
    snprintf(part, sizeof part, "%s.part", path);
    struct gguf_writer *w = start(path);
    const uint64_t dims[] = {4};
    gguf_writer_tensor(w, STR_LIT("x"), TENSOR_F32, 1, dims);
    assert_ok(gguf_writer_begin(w, &err), &err);
    assert_true(file_exists(part));
    gguf_writer_free(w);
    assert_false(file_exists(part));
    assert_false(file_exists(path));
    gguf_writer_free(NULL);
}

static void test_refusals(void **state)
{
    (void)state;
    struct error err = {0};
    struct gguf_writer *w = NULL;
    assert_int_equal(gguf_writer_open("/nonexistent/x.gguf", &w, &err), STATUS_DISK);
    assert_null(w);
    assert_non_null(strstr(err.message, "/nonexistent/x.gguf"));
    const uint64_t odd[] = {33}, huge[] = {1u << 31, 1u << 31, 1u << 31},
                   large[] = {1u << 31, 1u << 24};
    w = start(scratch_file("refused.gguf"));
    gguf_writer_tensor(w, STR_LIT("odd.rows"), TENSOR_Q8_0, 1, odd);
    assert_int_equal(gguf_writer_begin(w, &err), STATUS_INTERNAL);
    assert_non_null(strstr(err.message, "odd.rows"));
    gguf_writer_free(w);
    w = start(scratch_file("refused.gguf"));
    gguf_writer_tensor(w, STR_LIT("too.large"), TENSOR_F32, 3, huge);
    assert_int_equal(gguf_writer_begin(w, &err), STATUS_INTERNAL);
    gguf_writer_free(w);
    w = start(scratch_file("refused.gguf")); /* 144 PB */
    gguf_writer_tensor(w, STR_LIT("no.room"), TENSOR_F32, 2, large);
    assert_int_equal(gguf_writer_begin(w, &err), STATUS_DISK);
    gguf_writer_free(w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_round_trip),
        cmocka_unit_test(test_copy),
        cmocka_unit_test(test_abandoned),
        cmocka_unit_test(test_refusals),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
