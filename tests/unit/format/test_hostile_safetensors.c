/*
 * safetensors files made to hurt: cut anywhere, header lengths of 2^63, shapes that wrap, ranges that
 * lie. See hostile.h for what each must meet.
 */
#include "format/checkpoint.h"
#include "format/safetensors.h"
#include "hostile.h"

static enum status parse(const uint8_t *data, uint64_t size, struct error *err)
{
    struct safetensors *file;
    enum status status = safetensors_parse(data, size, "image", &file, err);
    assert_true((status == STATUS_OK) == (file != NULL));
    safetensors_free(file);
    return status;
}

static void put_length(struct buf *out, uint64_t length)
{
    for (int i = 0; i < 8; i++)
        buf_append_char(out, (char)(length >> 8 * i));
}

/* Length, header padded with spaces to a multiple of eight, `data_bytes` zeros. */
static struct buf image_of(struct str header, size_t data_bytes)
{
    struct buf out = {0};
    put_length(&out, (header.len + 7) / 8 * 8);
    buf_append_str(&out, header);
    while (out.len % 8)
        buf_append_char(&out, ' ');
    assert_true(buf_reserve(&out, data_bytes));
    memset(out.data + out.len, 0, data_bytes + 1);
    out.len += data_bytes;
    return out;
}

static void refuse(const char *header, enum status status, const char *says)
{
    struct buf image = image_of(str_from(header), 64);
    hostile_refused(parse, image.data, image.len, status, says);
    buf_release(&image);
}

static void accept(const char *header)
{
    struct error err;
    struct buf image = image_of(str_from(header), 64);
    struct hostile_result result = hostile_run(parse, image.data, image.len, &err);
    assert_ok(result.status, &err);
    buf_release(&image);
}

/* One tensor "t" whose fields are given as JSON text. */
static const char *one(const char *dtype, const char *shape, const char *offsets)
{
    static char text[512];
    snprintf(text, sizeof text, "{\"t\":{\"dtype\":%s,\"shape\":%s,\"data_offsets\":%s}}", dtype,
             shape, offsets);
    return text;
}

static void test_lengths(void **state)
{
    (void)state;
    hostile_refused(parse, NULL, 0, STATUS_MODEL, "0 bytes");
    const uint64_t lengths[] = {UINT64_C(1) << 63, UINT64_MAX, UINT64_MAX - 7, 25, 1u << 30};
    for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
        struct buf image = {0};
        put_length(&image, lengths[i]);
        buf_append_cstr(&image, "{}                      ");
        hostile_refused(parse, image.data, image.len, STATUS_MODEL, "header length");
        buf_release(&image);
    }
    struct buf image = image_of(STR_LIT("{}"), 34u << 20);
    image.data[3] = 2; /* 32 MiB and 8 bytes */
    hostile_refused(parse, image.data, image.len, STATUS_LIMIT, "header length 33554440");
    buf_release(&image);
    accept("{}");
    accept(" \n{ } ");
}

static void test_json(void **state)
{
    (void)state;
    refuse("", STATUS_MODEL, "expected '{'");
    refuse("[]", STATUS_MODEL, "expected '{'");
    refuse("null", STATUS_MODEL, "expected '{'");
    refuse("{", STATUS_MODEL, "expected a tensor's name");
    refuse("{,}", STATUS_MODEL, "expected a tensor's name");
    refuse("{}}", STATUS_MODEL, "nothing but spaces");
    refuse("{} {}", STATUS_MODEL, "nothing but spaces");
    refuse("{t:1}", STATUS_MODEL, "expected a tensor's name");
    refuse("{\"t\"}", STATUS_MODEL, "header entry at byte 9");
    refuse("{\"t\":", STATUS_MODEL, "header entry at byte 9");
    refuse("{\"t\":\"unending}", STATUS_MODEL, "header entry at byte 9");
    refuse("{\"t\\", STATUS_MODEL, "header entry at byte 9");
    refuse("{\"t\":{}", STATUS_MODEL, "no dtype");
    refuse("{\"t\":{\"a\":1,\"a\":2}}", STATUS_MODEL, "duplicate");
    refuse("{\"\xff\":{}}", STATUS_MODEL, "header entry at byte 9");
    refuse("{\"__metadata__\":{\"a\":\"b\"},}", STATUS_MODEL, "expected a tensor's name");
    refuse("{\"__metadata__\":{\"a\":\"b\"}", STATUS_MODEL, "expected ',' or '}'");
    accept("{\"__metadata__\":{\"format\":\"pt\",\"x\":\"}{\\\"][\"}}");
}

static void test_floods(void **state)
{
    (void)state;
    const size_t n = 8u << 20;
    const struct {
        const char *head, *unit;
        enum status status;
    } floods[] = {
        {"", "[", STATUS_MODEL},
        {"", "{", STATUS_MODEL},
        {"", " ", STATUS_MODEL},
        {"{\"t\":", "[", STATUS_LIMIT},
        {"{\"t\":[", "{},", STATUS_LIMIT},
        {"{\"t\":{\"shape\":[", "0,", STATUS_LIMIT},
        {"{\"t", "t", STATUS_LIMIT},
        {"{\"__metadata__\":[", "{},", STATUS_MODEL},
        {"{\"__metadata__\":", "[", STATUS_MODEL},
        {"{", "\"t\":{},", STATUS_MODEL},
    };
    for (size_t i = 0; i < sizeof floods / sizeof *floods; i++) {
        struct buf text = {0};
        buf_append_cstr(&text, floods[i].head);
        while (text.len < n)
            buf_append_cstr(&text, floods[i].unit);
        struct buf image = image_of(buf_str(&text), 0);
        hostile_refused(parse, image.data, image.len, floods[i].status, "");
        buf_release(&image);
        buf_release(&text);
    }
    refuse("{\"t\":{\"shape\":[[[[1]]]]}}", STATUS_LIMIT, "nested deeper");
}

/* As many tensors as allowed and one more, all valid: the most that a failing parse holds. */
static void test_many_tensors(void **state)
{
    (void)state;
    struct buf text = {0};
    for (unsigned i = 0; i <= 1u << 15; i++)
        buf_printf(&text, "%c\"t%u\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0]}",
                   i ? ',' : '{', i);
    buf_append_char(&text, '}');
    struct buf image = image_of(buf_str(&text), 0);
    struct error err = {0};
    uint64_t begin = hostile_clock();
    hostile_allocated = 0;
    assert_int_equal(parse((const uint8_t *)image.data, image.len, &err), STATUS_LIMIT);
    print_message("%u tensors: %llu us, %zu bytes requested in all\n", 1u << 15,
                  (unsigned long long)(hostile_clock() - begin) / 1000, hostile_allocated);
    assert_non_null(strstr(err.message, "more than 32768 tensors"));
    buf_release(&image);
    buf_release(&text);
}

static void test_names(void **state)
{
    (void)state;
    refuse("{\"\":{}}", STATUS_MODEL, "the tensor name at byte 9 (0 bytes)");
    refuse("{\"a\\u001b[31m\":{}}", STATUS_MODEL, "printable ASCII");
    refuse("{\"a\\u0000b\":{}}", STATUS_MODEL, "header entry at byte 9");
    refuse("{\"caf\xc3\xa9\":{}}", STATUS_MODEL, "printable ASCII");
    struct buf text = {0};
    buf_append_cstr(&text, "{\"");
    for (int i = 0; i < 1025; i++)
        buf_append_char(&text, 'n');
    buf_append_cstr(&text, "\":{}}");
    refuse(text.data, STATUS_MODEL, "(1025 bytes)");
    buf_release(&text);
    refuse("{\"t\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]},"
           "\"t\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[1,2]}}",
           STATUS_MODEL, "tensor t at byte 61 appears twice");
    refuse("{\"ab\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]},"
           "\"a\\u0062\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[1,2]}}",
           STATUS_MODEL, "tensor ab at byte 62 appears twice");
}

static void test_dtypes(void **state)
{
    (void)state;
    refuse("{\"t\":{}}", STATUS_MODEL, "tensor t has no dtype");
    refuse("{\"t\":[]}", STATUS_MODEL, "tensor t has no dtype");
    refuse("{\"t\":1}", STATUS_MODEL, "tensor t has no dtype");
    refuse(one("32", "[1]", "[0,4]"), STATUS_MODEL, "tensor t has no dtype");
    refuse(one("\"F31\"", "[1]", "[0,4]"), STATUS_UNSUPPORTED, "unknown dtype F31");
    refuse(one("\"f32\"", "[1]", "[0,4]"), STATUS_UNSUPPORTED, "unknown dtype f32");
    refuse(one("\"\\u001b\"", "[1]", "[0,4]"), STATUS_UNSUPPORTED, "(unprintable)");
    static const struct {
        const char *name;
        unsigned bytes;
    } known[] = {{"F64", 8}, {"F32", 4}, {"F16", 2}, {"BF16", 2}, {"F8_E4M3", 1}, {"F8_E5M2", 1},
                 {"I64", 8}, {"I32", 4}, {"I16", 2}, {"I8", 1},   {"U8", 1},      {"BOOL", 1}};
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        char dtype[16], offsets[16];
        snprintf(dtype, sizeof dtype, "\"%s\"", known[i].name);
        snprintf(offsets, sizeof offsets, "[0,%u]", 3 * known[i].bytes);
        accept(one(dtype, "[3,1]", offsets));
        snprintf(offsets, sizeof offsets, "[0,%u]", 3 * known[i].bytes + 1);
        refuse(one(dtype, "[3,1]", offsets), STATUS_MODEL, "shape and type take");
    }
}

static void test_shapes(void **state)
{
    (void)state;
    refuse(one("\"U8\"", "4", "[0,4]"), STATUS_MODEL, "shape of tensor t is no list");
    refuse(one("\"U8\"", "{\"0\":4}", "[0,4]"), STATUS_MODEL, "shape of tensor t is no list");
    refuse(one("\"U8\"", "[1,1,1,1,4]", "[0,4]"), STATUS_UNSUPPORTED, "has 5 dimensions");
    const char *bad[] = {"[-4]",
                         "[4.0]",
                         "[\"4\"]",
                         "[null]",
                         "[9223372036854775808]",
                         "[4294967296,4294967296]",
                         "[4294967296,4294967297]",
                         "[65536,65536,65536,65536]",
                         "[4611686018427387904,4611686018427387904,0]",
                         "[0,9223372036854775807,9223372036854775807]"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        refuse(one("\"U8\"", bad[i], "[0,0]"), STATUS_MODEL, "shape of tensor t: size");
    refuse(one("\"F64\"", "[2305843009213693952,2]", "[0,0]"), STATUS_MODEL,
           "the size of tensor t overflows");
    accept(one("\"F32\"", "[]", "[0,4]"));
    accept(one("\"F32\"", "[3,0,5]", "[8,8]"));
}

static void test_ranges(void **state)
{
    (void)state;
    const char *not_two[] = {"null",    "[]",        "[0]",       "[0,4,8]",
                             "[0,4.0]", "[\"0\",4]", "{\"0\":0}", "[0,9223372036854775808]"};
    for (size_t i = 0; i < sizeof not_two / sizeof *not_two; i++)
        refuse(one("\"F32\"", "[1]", not_two[i]), STATUS_MODEL, "no list of two integers");
    const char *outside[] = {"[4,0]",
                             "[-4,0]",
                             "[64,68]",
                             "[61,65]",
                             "[9223372036854775804,9223372036854775807]",
                             "[-9223372036854775808,9223372036854775807]"};
    for (size_t i = 0; i < sizeof outside / sizeof *outside; i++)
        refuse(one("\"F32\"", "[1]", outside[i]), STATUS_MODEL, "not within the 64 bytes");
    refuse(one("\"F32\"", "[1]", "[0,8]"), STATUS_MODEL, "span 8 bytes");
    refuse(one("\"F32\"", "[1]", "[2,6]"), STATUS_UNSUPPORTED, "no multiple of its element's 4");
    accept(one("\"F32\"", "[1]", "[60,64]"));
    refuse("{\"a\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[2,6]},"
           "\"b\":{\"dtype\":\"U8\",\"shape\":[3],\"data_offsets\":[0,3]}}",
           STATUS_MODEL, "tensors b and a overlap");
    accept("{\"a\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[3,7]},"
           "\"b\":{\"dtype\":\"U8\",\"shape\":[3],\"data_offsets\":[0,3]}}");
}

static void test_cut(void **state)
{
    (void)state;
    struct buf file = fixture_read(fixture_path("tests/data/arch/hf/llama/model.safetensors"));
    size_t header = 0, cuts = 0;
    for (int i = 0; i < 8; i++)
        header |= (size_t)(uint8_t)file.data[i] << 8 * i;
    header += 8;
    for (size_t size = 0; size <= header; size++, cuts++)
        hostile_refused(parse, file.data, size, STATUS_MODEL, "");
    for (size_t size = header; size < file.len; size += 97, cuts++) {
        struct error err = {0};
        assert_int_equal(parse((const uint8_t *)file.data, size, &err), STATUS_MODEL);
    }
    /* The header cut inside, with its length told to match. */
    for (size_t size = 8; size < header; size++, cuts++) {
        struct buf image = image_of((struct str){file.data + 8, size - 8}, file.len - header);
        struct error err;
        struct hostile_result result = hostile_run(parse, image.data, image.len, &err);
        bool only_padding = file.data[size] == ' ';
        assert_true(result.status == (only_padding ? STATUS_OK : STATUS_MODEL));
        buf_release(&image);
    }
    print_message("%zu cuts\n", cuts);
    buf_release(&file);
}

/* Every byte of a header, turned over: any result, but never a crash, a stall or a flood. */
static void test_flipped_bytes(void **state)
{
    (void)state;
    struct buf file = fixture_read(fixture_path("tests/data/arch/hf/llama/model.safetensors"));
    unsigned refused = 0;
    for (size_t i = 0; i < 3096; i++) {
        struct error err = {0};
        file.data[i] ^= 1;
        hostile_allocated = 0;
        refused += parse((const uint8_t *)file.data, file.len, &err) != STATUS_OK;
        assert_true(hostile_allocated <= HOSTILE_BYTES_MAX);
        file.data[i] ^= 1;
    }
    assert_true(refused > 1000);
    buf_release(&file);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_lengths), cmocka_unit_test(test_json),
        cmocka_unit_test(test_floods),  cmocka_unit_test(test_many_tensors),
        cmocka_unit_test(test_names),   cmocka_unit_test(test_dtypes),
        cmocka_unit_test(test_shapes),  cmocka_unit_test(test_ranges),
        cmocka_unit_test(test_cut),     cmocka_unit_test(test_flipped_bytes),
    };
    hostile_count_json();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
