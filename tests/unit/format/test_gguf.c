/* Reading what a valid GGUF file says: every metadata type in both versions, and tensors. */
#include <stdlib.h>
#include <string.h>

#include "format/checkpoint.h"
#include "format/gguf.h"
#include "gguf_image.h"

static void put_bits(struct buf *out, const char *key, enum gguf_type type, const void *value,
                     size_t n)
{
    put_key(out, key, type);
    buf_append(out, value, n);
}

/* One key of every type, then a tensor [3, 2, 4] (outermost first) of F32 0..23. */
static struct buf everything(uint32_t version)
{
    struct buf out = gguf_start(18);
    out.data[4] = (char)version;
    out.data[8] = 1; /* one tensor */
    put_bits(&out, "u8", GGUF_U8, "\xff", 1);
    put_bits(&out, "i8", GGUF_I8, "\xff", 1);
    put_bits(&out, "u16", GGUF_U16, "\xfe\xff", 2);
    put_bits(&out, "i16", GGUF_I16, "\xfe\xff", 2);
    put_bits(&out, "u32", GGUF_U32, "\xfd\xff\xff\xff", 4);
    put_bits(&out, "i32", GGUF_I32, "\xfd\xff\xff\xff", 4);
    put_bits(&out, "u64", GGUF_U64, "\xfc\xff\xff\xff\xff\xff\xff\xff", 8);
    put_bits(&out, "i64", GGUF_I64, "\xfc\xff\xff\xff\xff\xff\xff\xff", 8);
    float f = 1e-6f;
    double d = 0.1;
    put_bits(&out, "f32", GGUF_F32, &f, 4);
    put_bits(&out, "f64", GGUF_F64, &d, 8);
    put_bits(&out, "yes", GGUF_BOOL, "\1", 1);
    put_bits(&out, "no", GGUF_BOOL, "\0", 1);
    put_text(&out, "text", "h\xc3\xa9llo");
    put_text(&out, "empty", "");
    put_array(&out, "strings", GGUF_STRING, 3);
    put_str(&out, STR_LIT("a"));
    put_str(&out, STR_LIT(""));
    put_str(&out, STR_LIT("c\0d"));
    put_array(&out, "shorts", GGUF_I16, 3);
    buf_append(&out, "\x01\x00\xff\xff\x00\x80", 6);
    put_array(&out, "floats", GGUF_F32, 1);
    buf_append(&out, &f, 4);
    put_array(&out, "nothing", GGUF_STRING, 0);
    put_str(&out, STR_LIT("weights"));
    put_u32(&out, 3);
    put_u64(&out, 4);
    put_u64(&out, 2);
    put_u64(&out, 3);
    put_u32(&out, TENSOR_F32);
    put_u64(&out, 0);
    while (out.len % 32)
        buf_append_char(&out, 0);
    for (int i = 0; i < 24; i++) {
        float value = (float)i;
        buf_append(&out, &value, 4);
    }
    return out;
}

static struct gguf *open_image(const struct buf *image)
{
    struct gguf *gguf;
    struct error err = {0};
    assert_ok(gguf_parse((const uint8_t *)image->data, image->len, "image", &gguf, &err), &err);
    return gguf;
}

static void test_numbers(void **state)
{
    (void)state;
    struct buf image = everything(3);
    struct gguf *gguf = open_image(&image);
    static const struct {
        const char *key;
        bool is_u64, is_i64;
        uint64_t u;
        int64_t i;
        double d;
    } expected[] = {
        {"u8", true, true, 255, 255, 255},
        {"i8", false, true, 0, -1, -1},
        {"u16", true, true, 65534, 65534, 65534},
        {"i16", false, true, 0, -2, -2},
        {"u32", true, true, 4294967293, 4294967293, 4294967293.0},
        {"i32", false, true, 0, -3, -3},
        {"u64", true, false, UINT64_MAX - 3, 0, 18446744073709551616.0},
        {"i64", false, true, 0, -4, -4},
        {"f32", false, false, 0, 0, (double)1e-6f},
        {"f64", false, false, 0, 0, 0.1},
        {"yes", true, true, 1, 1, 1},
        {"no", true, true, 0, 0, 0},
    };
    for (size_t k = 0; k < sizeof expected / sizeof *expected; k++) {
        uint64_t u = 0;
        int64_t i = 0;
        double d = 0;
        assert_true(gguf_get_u64(gguf, expected[k].key, &u) == expected[k].is_u64);
        assert_true(gguf_get_i64(gguf, expected[k].key, &i) == expected[k].is_i64);
        assert_true(gguf_get_f64(gguf, expected[k].key, &d));
        assert_true(u == expected[k].u && i == expected[k].i && d == expected[k].d);
    }
    bool b = false;
    assert_true(gguf_get_bool(gguf, "yes", &b) && b);
    assert_true(gguf_get_bool(gguf, "no", &b) && !b);
    assert_false(gguf_get_bool(gguf, "u8", &b));
    gguf_free(gguf);
    buf_release(&image);
}

static void test_strings_and_arrays(void **state)
{
    (void)state;
    struct buf image = everything(2);
    struct gguf *gguf = open_image(&image);
    struct str text;
    uint64_t u;
    int64_t i;
    double d;
    assert_int_equal(gguf_version(gguf), 2);
    assert_int_equal(gguf_value_count(gguf), 18);
    assert_true(str_eq_cstr(gguf_value_at(gguf, 12)->key, "text"));
    assert_true(gguf_get_str(gguf, "text", &text) && str_eq_cstr(text, "h\xc3\xa9llo"));
    assert_true(gguf_get_str(gguf, "empty", &text) && text.len == 0);
    assert_false(gguf_get_str(gguf, "u8", &text));
    assert_false(gguf_get_str(gguf, "strings", &text));
    assert_false(gguf_get_u64(gguf, "text", &u) || gguf_get_f64(gguf, "shorts", &d));
    assert_false(gguf_get_u64(gguf, "absent", &u) || gguf_get_str(gguf, "absent", &text));
    assert_null(gguf_find(gguf, "absent"));

    const struct gguf_value *strings = gguf_find(gguf, "strings");
    struct gguf_string_cursor cursor = {0};
    assert_true(strings->type == GGUF_ARRAY && strings->item_type == GGUF_STRING);
    assert_int_equal(strings->count, 3);
    assert_true(gguf_next_string(strings, &cursor, &text) && str_eq_cstr(text, "a"));
    assert_true(gguf_next_string(strings, &cursor, &text) && text.len == 0);
    assert_true(gguf_next_string(strings, &cursor, &text) && str_eq(text, STR_LIT("c\0d")));
    assert_false(gguf_next_string(strings, &cursor, &text));
    assert_int_equal(cursor.offset, strings->bytes);
    assert_false(gguf_item_i64(strings, 0, &i) || gguf_item_f64(strings, 0, &d));
    cursor = (struct gguf_string_cursor){0};
    assert_false(gguf_next_string(gguf_find(gguf, "nothing"), &cursor, &text));
    assert_false(gguf_next_string(gguf_find(gguf, "shorts"), &cursor, &text));

    const struct gguf_value *shorts = gguf_find(gguf, "shorts");
    const int64_t expected[] = {1, -1, -32768};
    for (uint64_t k = 0; k < 3; k++) {
        assert_true(gguf_item_i64(shorts, k, &i) && i == expected[k]);
        assert_true(gguf_item_f64(shorts, k, &d) && d == (double)expected[k]);
    }
    assert_false(gguf_item_i64(shorts, 3, &i) || gguf_item_f64(shorts, UINT64_MAX, &d));
    assert_true(gguf_item_f64(gguf_find(gguf, "floats"), 0, &d) && d == (double)1e-6f);
    assert_false(gguf_item_i64(gguf_find(gguf, "floats"), 0, &i));
    gguf_free(gguf);
    buf_release(&image);
}

static void test_tensor(void **state)
{
    (void)state;
    struct buf image = everything(3);
    struct gguf *gguf = open_image(&image);
    assert_int_equal(gguf_tensor_count(gguf), 1);
    const struct tensor *t = gguf_tensor_at(gguf, 0);
    assert_true(str_eq_cstr(t->name, "weights"));
    assert_int_equal(t->type, TENSOR_F32);
    assert_int_equal(t->n_dims, 3);
    assert_true(t->dims[0] == 3 && t->dims[1] == 2 && t->dims[2] == 4 && t->dims[3] == 1);
    assert_int_equal(t->bytes, 96);
    for (int i = 0; i < 24; i++) {
        float value;
        memcpy(&value, (const char *)t->data + 4 * i, 4);
        assert_true(value == (float)i);
    }
    gguf_free(gguf);
    gguf_free(NULL);
    buf_release(&image);
}

/* The file is overwritten while open: strings are cut short, never read out of bounds. */
static void test_changed_under_us(void **state)
{
    (void)state;
    struct buf image = everything(3);
    struct gguf *gguf = open_image(&image);
    const struct gguf_value *strings = gguf_find(gguf, "strings");
    const struct gguf_value *text_value = gguf_find(gguf, "text");
    memset(image.data + ((const char *)strings->data - image.data), 0xff, 8);
    memset(image.data + ((const char *)text_value->data - image.data), 0x7f, 8);
    struct gguf_string_cursor cursor = {0};
    struct str text;
    assert_false(gguf_next_string(strings, &cursor, &text));
    assert_false(gguf_get_str(gguf, "text", &text));
    gguf_free(gguf);
    buf_release(&image);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_numbers),
        cmocka_unit_test(test_strings_and_arrays),
        cmocka_unit_test(test_tensor),
        cmocka_unit_test(test_changed_under_us),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
