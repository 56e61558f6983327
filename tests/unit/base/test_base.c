/* The small things everything stands on: errors, checked sizes, strings, arena, map, JSON. */
#include <stdlib.h>
#include <string.h>

#include "base/arena.h"
#include "base/checked.h"
#include "base/json.h"
#include "base/status.h"
#include "base/str.h"
#include "base/strmap.h"
#include "fixture.h"

static void test_errors(void **state)
{
    (void)state;
    struct error err = {0};
    assert_int_equal(error_set(&err, STATUS_MODEL, "%s: bad %d", "file", 7), STATUS_MODEL);
    assert_string_equal(err.message, "file: bad 7");
    assert_int_equal(error_prefix(&err, "while %s", "opening"), STATUS_MODEL);
    assert_string_equal(err.message, "while opening: file: bad 7");
    assert_int_equal(error_set(NULL, STATUS_DISK, "nobody listens"), STATUS_DISK);

    char big[2 * ERROR_MESSAGE_MAX];
    memset(big, 'x', sizeof big - 1);
    big[sizeof big - 1] = 0;
    error_set(&err, STATUS_LIMIT, "%s", big);
    assert_int_equal(strlen(err.message), ERROR_MESSAGE_MAX - 1);
    error_prefix(&err, "p");
    assert_int_equal(strlen(err.message), ERROR_MESSAGE_MAX - 1);
    assert_memory_equal(err.message, "p: x", 4);
    error_prefix(&err, "%s", big);
    assert_int_equal(strlen(err.message), ERROR_MESSAGE_MAX - 1);
    assert_int_equal(err.status, STATUS_LIMIT);

    static const int codes[] = {
        [STATUS_OK] = 0,          [STATUS_USAGE] = 2,     [STATUS_MODEL] = 3,
        [STATUS_UNSUPPORTED] = 3, [STATUS_NETWORK] = 4,   [STATUS_INTEGRITY] = 5,
        [STATUS_DISK] = 6,        [STATUS_MEMORY] = 7,    [STATUS_DEVICE] = 7,
        [STATUS_LIMIT] = 2,       [STATUS_CANCELLED] = 1, [STATUS_INTERNAL] = 1,
        [STATUS_CONTEXT] = 2,     [STATUS_BUSY] = 1,      [STATUS_KEY_BUSY] = 1};
    for (int i = 0; i <= STATUS_KEY_BUSY; i++) {
        assert_int_equal(status_exit_code((enum status)i), codes[i]);
        assert_true(strlen(status_name((enum status)i)) > 1);
    }
}

static void test_checked(void **state)
{
    (void)state;
    uint64_t u;
    size_t z;
    assert_true(checked_add_u64(UINT64_MAX - 1, 1, &u) && u == UINT64_MAX);
    assert_false(checked_add_u64(UINT64_MAX, 1, &u));
    assert_true(checked_mul_u64(UINT64_C(1) << 32, UINT32_MAX, &u));
    assert_false(checked_mul_u64(UINT64_C(1) << 32, UINT64_C(1) << 32, &u));
    assert_true(checked_mul_u64(0, UINT64_MAX, &u) && u == 0);
    assert_false(checked_add_size(SIZE_MAX, 1, &z));
    assert_false(checked_mul_size(SIZE_MAX / 2 + 1, 2, &z));
    assert_true(checked_round_up_u64(0, 32, &u) && u == 0);
    assert_true(checked_round_up_u64(32, 32, &u) && u == 32);
    assert_true(checked_round_up_u64(33, 32, &u) && u == 64);
    assert_true(checked_round_up_u64(10, 7, &u) && u == 14);
    assert_false(checked_round_up_u64(UINT64_MAX, 32, &u));
}

static void test_str(void **state)
{
    (void)state;
    struct str s = STR_LIT("abcabd");
    assert_true(str_eq(s, str_from("abcabd")) && !str_eq(s, STR_LIT("abcab")));
    assert_true(str_eq((struct str){NULL, 0}, STR_LIT("")));
    assert_true(str_eq_cstr(STR_LIT(""), ""));
    assert_int_equal(str_from(NULL).len, 0);
    assert_true(str_starts(s, STR_LIT("abc")) && !str_starts(s, STR_LIT("abcabdx")));
    assert_true(str_ends(s, STR_LIT("abd")) && !str_ends(s, STR_LIT("abc")));
    assert_true(str_starts(s, STR_LIT("")) && str_ends(s, STR_LIT("")));
    assert_int_equal(str_find(s, STR_LIT("ab"), 0), 0);
    assert_int_equal(str_find(s, STR_LIT("ab"), 1), 3);
    assert_int_equal(str_find(s, STR_LIT("abd"), 0), 3);
    assert_int_equal(str_find(s, STR_LIT("ab"), 4), SIZE_MAX);
    assert_int_equal(str_find(s, STR_LIT("d"), 6), SIZE_MAX);
    assert_int_equal(str_find(s, STR_LIT(""), 6), 6);
    assert_int_equal(str_find(s, STR_LIT(""), 7), SIZE_MAX);
    assert_int_equal(str_find(STR_LIT("a\0b"), STR_LIT("\0b"), 0), 1);
}

static void test_buf(void **state)
{
    (void)state;
    struct buf b = {0};
    assert_int_equal(buf_str(&b).len, 0);
    assert_non_null(buf_str(&b).data);
    buf_clear(&b);
    for (int i = 0; i < 1000; i++)
        buf_printf(&b, "%d,", i);
    buf_append_char(&b, '!');
    buf_append_cstr(&b, "end");
    buf_append_str(&b, STR_LIT("\0x"));
    buf_append(&b, NULL, 0);
    assert_int_equal(b.len, 3890 + 6);
    assert_memory_equal(b.data + b.len - 6, "!end\0x", 7);
    assert_false(b.failed);
    buf_clear(&b);
    assert_int_equal(b.len, 0);
    assert_int_equal(b.data[0], 0);
    assert_false(buf_reserve(&b, SIZE_MAX));
    assert_true(b.failed);
    buf_append_cstr(&b, "dropped");
    assert_int_equal(b.len, 0);
    buf_clear(&b); /* gives it another try */
    buf_append_cstr(&b, "kept");
    assert_string_equal(b.data, "kept");
    buf_release(&b);
    assert_null(b.data);
}

static void test_arena(void **state)
{
    (void)state;
    struct arena arena = {0};
    uint8_t *last = NULL;
    for (size_t i = 0; i < 3000; i++) {
        uint8_t *bytes = arena_alloc(&arena, i, 3);
        assert_non_null(bytes);
        assert_int_equal((uintptr_t)bytes % 16, 0);
        assert_ptr_not_equal(bytes, last);
        for (size_t j = 0; j < 3 * i; j++)
            assert_int_equal(bytes[j], 0);
        memset(bytes, 0xff, 3 * i);
        last = bytes;
    }
    assert_non_null(arena_alloc(&arena, 5, 1 << 20)); /* larger than any block */
    assert_null(arena_alloc(&arena, SIZE_MAX, 2));
    assert_null(arena_alloc(&arena, SIZE_MAX, 1));
    struct str copy = arena_copy_str(&arena, STR_LIT("a\0b"));
    assert_int_equal(copy.len, 3);
    assert_memory_equal(copy.data, "a\0b", 4);
    assert_string_equal(arena_copy_cstr(&arena, "text"), "text");
    assert_string_equal(arena_printf(&arena, "%s-%d", "layer", 12), "layer-12");
    assert_string_equal(arena_copy_str(&arena, (struct str){0}).data, "");
    arena_release(&arena);
    assert_int_equal(arena.used, 0);
}

static void test_arena_limit(void **state)
{
    (void)state;
    struct arena arena;
    arena_init(&arena, 1000);
    assert_null(arena_alloc(&arena, 1001, 1));
    assert_non_null(arena_alloc(&arena, 900, 1));
    assert_null(arena_alloc(&arena, 200, 1));
    assert_non_null(arena_alloc(&arena, 64, 1));
    assert_true(arena.used <= 1000);
    arena_release(&arena);
    assert_non_null(arena_alloc(&arena, 900, 1)); /* the limit stays, the count starts again */
    assert_null(arena_alloc(&arena, 900, 1));
    arena_release(&arena);
}

static void test_strmap(void **state)
{
    (void)state;
    enum { N = 20000 };
    struct strmap map = {0};
    struct arena arena = {0};
    bool existed;
    assert_null(strmap_get(&map, STR_LIT("none")));
    for (int i = 0; i < N; i++) {
        struct str key = str_from(arena_printf(&arena, "key %d", i * 7919));
        assert_true(strmap_add(&map, key, i, &existed));
        assert_false(existed);
    }
    assert_int_equal(map.count, N);
    for (int i = 0; i < N; i++) {
        struct str key = str_from(arena_printf(&arena, "key %d", i * 7919));
        const int64_t *value = strmap_get(&map, key);
        assert_non_null(value);
        assert_int_equal(*value, i);
    }
    assert_null(strmap_get(&map, STR_LIT("key 1")));
    assert_true(strmap_add(&map, STR_LIT("key 0"), 55, &existed) && existed);
    assert_int_equal(*strmap_get(&map, STR_LIT("key 0")), 0);
    assert_true(strmap_put(&map, STR_LIT("key 0"), 56, &existed) && existed);
    assert_int_equal(*strmap_get(&map, STR_LIT("key 0")), 56);
    assert_true(strmap_put(&map, (struct str){0}, -1, NULL)); /* the empty key is a key */
    assert_int_equal(*strmap_get(&map, STR_LIT("")), -1);
    assert_true(strmap_put(&map, STR_LIT("a\0b"), 3, &existed) && !existed);
    assert_null(strmap_get(&map, STR_LIT("a\0c")));
    assert_int_equal(map.count, N + 2);
    assert_false(strmap_reserve(&map, SIZE_MAX / 2));
    strmap_release(&map);
    assert_null(strmap_get(&map, STR_LIT("key 0")));
    arena_release(&arena);
}

static enum status parse(const char *text, json_t **out, struct error *err)
{
    return json_parse(str_from(text), 4, "doc", out, err);
}

static void refuse(const char *text, enum status expected, const char *says)
{
    json_t *value = NULL;
    struct error err = {0};
    assert_int_equal(parse(text, &value, &err), expected);
    assert_null(value);
    assert_non_null(strstr(err.message, "doc"));
    if (!strstr(err.message, says))
        fail_msg("\"%s\" does not say \"%s\"", err.message, says);
}

static void test_json(void **state)
{
    (void)state;
    json_t *value;
    struct error err = {0};
    assert_ok(parse("{\"a\": [1, 2.5, \"[[[[[\\\"[[\", null]}", &value, &err), &err);
    assert_int_equal(json_array_size(json_object_get(value, "a")), 4);
    json_decref(value);
    assert_ok(parse("17", &value, &err), &err);
    assert_int_equal(json_integer_value(value), 17);
    json_decref(value);
    assert_ok(parse("[[[[1]]], [[[]]]]", &value, &err), &err);
    json_decref(value);
    refuse("[[[[[1]]]]]", STATUS_LIMIT, "4 levels");
    refuse("{\"a\": 1, \"a\": 2}", STATUS_MODEL, "duplicate");
    refuse("{\"a\": 1,\n\"b\" 2}", STATUS_MODEL, "line 2");
    refuse("", STATUS_MODEL, "line");
    refuse("[1] x", STATUS_MODEL, "line 1");
    refuse("[\"\xff\"]", STATUS_MODEL, "line 1");
    refuse("[NaN]", STATUS_MODEL, "line 1");
    refuse("[1e999]", STATUS_MODEL, "line 1");
    refuse("]]]]", STATUS_MODEL, "line 1");
}

static void test_json_large_integers(void **state)
{
    (void)state;
    json_t *value;
    struct error err = {0};
    const char *text = "{\"no\": 1000000000000000000000000000000, \"s\": \"99999999999999999999\","
                       " \"most\": 9223372036854775807, \"next\": 9223372036854775808,"
                       " \"f\": 0.99999999999999999999, \"n\": -1000000000000000000000}";
    assert_ok(parse(text, &value, &err), &err);
    assert_true(json_real_value(json_object_get(value, "no")) == 1e30);
    assert_string_equal(json_string_value(json_object_get(value, "s")), "99999999999999999999");
    assert_true(json_integer_value(json_object_get(value, "most")) == INT64_MAX);
    assert_true(json_real_value(json_object_get(value, "next")) == 9223372036854775808.0);
    assert_true(json_real_value(json_object_get(value, "f")) == 1.0);
    assert_true(json_real_value(json_object_get(value, "n")) == -1e21);
    json_decref(value);
}

/* A long document of one bracket costs one pass, not a deep recursion. */
static void test_json_deep(void **state)
{
    (void)state;
    struct buf text = {0};
    json_t *value;
    struct error err = {0};
    for (int i = 0; i < 1000000; i++)
        buf_append_char(&text, '[');
    assert_int_equal(json_parse(buf_str(&text), 64, "deep", &value, &err), STATUS_LIMIT);
    buf_release(&text);
    assert_int_equal(json_parse_file(fixture_path("tests/data/absent.json"), 10, 64, &value, &err),
                     STATUS_DISK);
    assert_non_null(strstr(err.message, "absent.json"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_errors),
        cmocka_unit_test(test_checked),
        cmocka_unit_test(test_str),
        cmocka_unit_test(test_buf),
        cmocka_unit_test(test_arena),
        cmocka_unit_test(test_arena_limit),
        cmocka_unit_test(test_strmap),
        cmocka_unit_test(test_json),
        cmocka_unit_test(test_json_large_integers),
        cmocka_unit_test(test_json_deep),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
