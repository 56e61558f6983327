/*
 * GGUF files made to hurt: cut anywhere, counts and lengths of 2^63, products that wrap, types and
 * alignments nobody has. See hostile.h for what each must meet. Images are written here field by
 * field, so that every one differs from a valid file in one thing.
 */
#include "format/checkpoint.h"
#include "format/gguf.h"
#include "gguf_image.h"
#include "hostile.h"
#include "text/tokenizer/vocabulary.h"

#define HUGE_COUNT (UINT64_C(1) << 63)

static enum status parse(const uint8_t *data, uint64_t size, struct error *err)
{
    struct gguf *gguf;
    enum status status = gguf_parse(data, size, "image", &gguf, err);
    assert_true((status == STATUS_OK) == (gguf != NULL));
    gguf_free(gguf);
    return status;
}

static struct buf start(uint32_t version, uint64_t n_tensors, uint64_t n_values)
{
    struct buf out = {0};
    buf_append(&out, "GGUF", 4);
    put_u32(&out, version);
    put_u64(&out, n_tensors);
    put_u64(&out, n_values);
    return out;
}

/* Checks and releases. */
static void refuse(struct buf image, enum status status, const char *says)
{
    assert_false(image.failed);
    hostile_refused(parse, image.data, image.len, status, says);
    buf_release(&image);
}

static void accept(struct buf image)
{
    struct error err;
    struct hostile_result result = hostile_run(parse, image.data, image.len, &err);
    assert_ok(result.status, &err);
    buf_release(&image);
}

struct entry {
    const char *name;
    uint32_t n_dims;
    uint64_t dims[6];
    uint32_t type;
    uint64_t offset;
};

static void put_entry(struct buf *out, const struct entry *entry)
{
    put_str(out, str_from(entry->name));
    put_u32(out, entry->n_dims);
    for (uint32_t i = 0; i < entry->n_dims && i < 6; i++)
        put_u64(out, entry->dims[i]);
    put_u32(out, entry->type);
    put_u64(out, entry->offset);
}

/* The data section: alignment to 32 and `bytes` zeros. */
static void put_data(struct buf *out, size_t bytes)
{
    while (out->len % 32)
        buf_append_char(out, 0);
    for (size_t i = 0; i < bytes; i++)
        buf_append_char(out, 0);
}

static struct buf one_tensor(struct entry entry, size_t data_bytes)
{
    struct buf out = start(3, 1, 0);
    put_entry(&out, &entry);
    put_data(&out, data_bytes);
    return out;
}

static void test_header(void **state)
{
    (void)state;
    refuse((struct buf){0}, STATUS_MODEL, "magic");
    struct buf image = start(3, 0, 0);
    memcpy(image.data, "GGML", 4);
    refuse(image, STATUS_MODEL, "not a GGUF file");
    image = start(3, 0, 0);
    memcpy(image.data, "FUGG", 4);
    refuse(image, STATUS_MODEL, "not a GGUF file");
    refuse(start(0, 0, 0), STATUS_UNSUPPORTED, "version 0");
    refuse(start(1, 0, 0), STATUS_UNSUPPORTED, "version 1");
    refuse(start(4, 0, 0), STATUS_UNSUPPORTED, "version 4");
    refuse(start(UINT32_MAX, 0, 0), STATUS_UNSUPPORTED, "version 4294967295");
    refuse(start(2u << 24, 0, 0), STATUS_UNSUPPORTED, "big-endian");
    refuse(start(3u << 24, 0, 0), STATUS_UNSUPPORTED, "big-endian");
    accept(start(2, 0, 0));
    accept(start(3, 0, 0));
}

static void test_counts(void **state)
{
    (void)state;
    const uint64_t counts[] = {1, 2, 1u << 20, UINT64_C(1) << 32, HUGE_COUNT, UINT64_MAX};
    for (size_t i = 0; i < sizeof counts / sizeof *counts; i++) {
        refuse(start(3, counts[i], 0), STATUS_MODEL, "tensor count");
        refuse(start(3, 0, counts[i]), STATUS_MODEL, "metadata count");
        refuse(start(3, counts[i], counts[i]), STATUS_MODEL, "metadata count");
    }
    /* A file large enough for the count is refused by the limit. */
    struct buf image = start(3, 0, 1u << 15);
    put_data(&image, 1u << 20);
    refuse(image, STATUS_LIMIT, "metadata count 32768 at byte 16");
    image = start(3, 1u << 15, 0);
    put_data(&image, 1u << 20);
    refuse(image, STATUS_LIMIT, "tensor count 32768 at byte 8");
}

static void test_lengths(void **state)
{
    (void)state;
    const uint64_t lengths[] = {HUGE_COUNT, UINT64_MAX, UINT64_MAX - 7, 1000};
    for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
        struct buf image = start(3, 0, 1); /* of a key */
        put_u64(&image, lengths[i]);
        put_u64(&image, 0);
        refuse(image, STATUS_MODEL, "of a metadata key at byte 24 exceeds the file");
        image = start(3, 0, 1); /* of a string */
        put_key(&image, "k", GGUF_STRING);
        put_u64(&image, lengths[i]);
        refuse(image, STATUS_MODEL, "of a metadata string at byte 37 exceeds the file");
        image = start(3, 0, 1); /* of the second string in an array */
        put_array(&image, "k", GGUF_STRING, 2);
        put_str(&image, STR_LIT("one"));
        put_u64(&image, lengths[i]);
        refuse(image, STATUS_MODEL, "of a string of array k at byte 60 exceeds the file");
        image = start(3, 1, 0); /* of a tensor's name */
        put_u64(&image, lengths[i]);
        put_data(&image, 32);
        refuse(image, STATUS_MODEL, "of a tensor name at byte 24 exceeds the file");
    }
}

static void test_names(void **state)
{
    (void)state;
    char name[1026];
    memset(name, 'n', sizeof name - 1);
    name[1025] = 0;
    const char *bad[] = {"", "tab\t", "esc\x1b[31m", "caf\xc3\xa9", "\x7f", name};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct buf image = start(3, 0, 1);
        put_key(&image, bad[i], GGUF_U64);
        put_u64(&image, 1);
        refuse(image, STATUS_MODEL, "a metadata key at byte 24");
        refuse(one_tensor((struct entry){bad[i], 1, {8}, TENSOR_F32, 0}, 32), STATUS_MODEL,
               "a tensor name at byte 24");
    }
    name[1024] = 0;
    accept(one_tensor((struct entry){name, 1, {8}, TENSOR_F32, 0}, 32));
}

static void test_value_types(void **state)
{
    (void)state;
    const uint32_t types[] = {13, 14, 255, 0x80000000u, UINT32_MAX};
    for (size_t i = 0; i < sizeof types / sizeof *types; i++) {
        struct buf image = start(3, 0, 1);
        put_key(&image, "k", (enum gguf_type)types[i]);
        put_u64(&image, 0);
        refuse(image, STATUS_MODEL, "key k at byte 33 has unknown type");
        image = start(3, 0, 1);
        put_array(&image, "k", (enum gguf_type)types[i], 1);
        put_u64(&image, 0);
        refuse(image, STATUS_MODEL, "unknown item type");
    }
}

static void test_arrays(void **state)
{
    (void)state;
    for (int type = GGUF_U8; type <= GGUF_F64; type++) {
        const uint64_t counts[] = {HUGE_COUNT, UINT64_MAX, UINT64_C(1) << 61, UINT64_C(1) << 62,
                                   1000};
        for (size_t i = 0; i < sizeof counts / sizeof *counts; i++) {
            struct buf image = start(3, 0, 1);
            put_array(&image, "k", (enum gguf_type)type, counts[i]);
            put_u64(&image, 0);
            refuse(image, STATUS_MODEL, type == GGUF_ARRAY ? "array of arrays" : "item count");
        }
    }
    struct buf image = start(3, 0, 1); /* nested, and otherwise right */
    put_array(&image, "k", GGUF_ARRAY, 1);
    put_u32(&image, GGUF_U8);
    put_u64(&image, 1);
    buf_append_char(&image, 0);
    refuse(image, STATUS_MODEL, "key k at byte 37 is an array of arrays");
    image = start(3, 0, 1); /* a tower of headers, as for a recursive parser */
    put_array(&image, "k", GGUF_ARRAY, 1);
    for (int i = 0; i < 100000; i++) {
        put_u32(&image, GGUF_ARRAY);
        put_u64(&image, 1);
    }
    refuse(image, STATUS_MODEL, "array of arrays");
}

/* Four million empty strings are walked; one more than the limit is refused unwalked. */
static void test_string_limit(void **state)
{
    (void)state;
    const size_t limit = 1u << 22;
    struct buf image = start(3, 0, 2);
    put_array(&image, "k", GGUF_STRING, limit);
    size_t head = image.len;
    assert_true(buf_reserve(&image, 8 * limit + 64));
    memset(image.data + head, 0, 8 * limit);
    image.len += 8 * limit;
    size_t second = image.len;
    put_array(&image, "l", GGUF_STRING, 1);
    put_u64(&image, 0);
    struct error err = {0};
    uint64_t begin = hostile_clock();
    assert_int_equal(parse((const uint8_t *)image.data, image.len, &err), STATUS_LIMIT);
    uint64_t ns = hostile_clock() - begin;
    print_message("a walk over %zu strings: %llu us\n", limit, (unsigned long long)ns / 1000);
    assert_true(ns <= HOSTILE_NS_MAX);
    assert_non_null(strstr(err.message, "array l"));
    image.data[second + 17] = 0; /* the same without that string */
    assert_ok(parse((const uint8_t *)image.data, image.len, &err), &err);
    buf_release(&image);
}

static void test_duplicates(void **state)
{
    (void)state;
    struct buf image = start(3, 0, 2);
    put_text(&image, "same", "a");
    put_text(&image, "same", "b");
    refuse(image, STATUS_MODEL, "metadata key same at byte 49 appears twice");
    image = start(3, 2, 0);
    put_entry(&image, &(struct entry){"same", 1, {8}, TENSOR_F32, 0});
    put_entry(&image, &(struct entry){"same", 1, {8}, TENSOR_F32, 32});
    put_data(&image, 64);
    refuse(image, STATUS_MODEL, "tensor same at byte 60 appears twice");
}

static void test_dims(void **state)
{
    (void)state;
    const uint64_t half = UINT64_C(1) << 32;
    const struct entry overflow[] = {
        {"t", 1, {0}, TENSOR_F32, 0},
        {"t", 1, {HUGE_COUNT}, TENSOR_U8, 0},
        {"t", 1, {UINT64_MAX}, TENSOR_F32, 0},
        {"t", 2, {half, half}, TENSOR_F32, 0},
        {"t", 2, {half, half + 1}, TENSOR_F32, 0},
        {"t", 4, {half, half, half, half}, TENSOR_F32, 0},
        {"t", 3, {8, UINT64_C(1) << 61, 8}, TENSOR_Q8_0, 0},
        {"t", 2, {UINT64_C(0x8000000000000001), 2}, TENSOR_F32, 0},
    };
    for (size_t i = 0; i < sizeof overflow / sizeof *overflow; i++)
        refuse(one_tensor(overflow[i], 64), STATUS_MODEL, "of tensor t at byte");
    refuse(one_tensor((struct entry){"t", 2, {UINT64_C(1) << 31, UINT64_C(1) << 31}, TENSOR_F32, 0},
                      64),
           STATUS_MODEL, "the size of tensor t at byte 24 overflows");
    refuse(one_tensor((struct entry){"t", 1, {17}, TENSOR_F32, 0}, 64), STATUS_MODEL,
           "exceeds the file");
    refuse(one_tensor((struct entry){"t", 5, {1, 1, 1, 1, 16}, TENSOR_F32, 0}, 64),
           STATUS_UNSUPPORTED, "5 dimensions");
    refuse(one_tensor((struct entry){"t", 0x80000000u, {1, 1, 1, 1, 1, 1}, TENSOR_F32, 0}, 64),
           STATUS_UNSUPPORTED, "2147483648 dimensions");
    refuse(one_tensor((struct entry){"t", 1, {31}, TENSOR_Q8_0, 0}, 64), STATUS_MODEL,
           "blocks of 32");
    refuse(one_tensor((struct entry){"t", 2, {16, 16}, TENSOR_Q4_K, 0}, 256), STATUS_MODEL,
           "blocks of 256"); /* a block's worth, but not in a row */
    accept(one_tensor((struct entry){"t", 1, {16}, TENSOR_F32, 0}, 64));
    accept(one_tensor((struct entry){"scalar", 0, {0}, TENSOR_F32, 0}, 4));
}

static void test_tensor_types(void **state)
{
    (void)state;
    const uint32_t types[] = {4, 5, 31, 36, 41, 63, TENSOR_U8, TENSOR_F8_E4M3, 77, UINT32_MAX};
    for (size_t i = 0; i < sizeof types / sizeof *types; i++) {
        char says[64];
        snprintf(says, sizeof says, "tensor odd at byte 24 has unknown type %u", types[i]);
        refuse(one_tensor((struct entry){"odd", 1, {256}, types[i], 0}, 1024), STATUS_UNSUPPORTED,
               says);
    }
}

static void test_offsets(void **state)
{
    (void)state;
    const uint64_t unaligned[] = {1, 16, 33, UINT64_MAX};
    for (size_t i = 0; i < sizeof unaligned / sizeof *unaligned; i++)
        refuse(one_tensor((struct entry){"t", 1, {8}, TENSOR_F32, unaligned[i]}, 64), STATUS_MODEL,
               "no multiple of 32");
    const uint64_t outside[] = {
        64, 1u << 20, HUGE_COUNT, UINT64_MAX - 31, UINT64_MAX - 63, UINT64_MAX - 95};
    for (size_t i = 0; i < sizeof outside / sizeof *outside; i++)
        refuse(one_tensor((struct entry){"t", 1, {8}, TENSOR_F32, outside[i]}, 64), STATUS_MODEL,
               "tensor t (offset");
    accept(one_tensor((struct entry){"t", 1, {8}, TENSOR_F32, 32}, 64));
}

static struct buf aligned(enum gguf_type type, uint64_t alignment)
{
    struct buf out = start(3, 1, 1);
    put_key(&out, "general.alignment", type);
    if (type == GGUF_U64)
        put_u64(&out, alignment);
    else
        put_u32(&out, (uint32_t)alignment);
    put_entry(&out, &(struct entry){"t", 1, {8}, TENSOR_F32, 0});
    put_data(&out, 4096);
    return out;
}

static void test_alignment(void **state)
{
    (void)state;
    const uint64_t bad[] = {0, 1, 4, 12, 13, 24, 31, 33, 1u << 21, 1u << 31, UINT32_MAX};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        refuse(aligned(GGUF_U32, bad[i]), STATUS_MODEL, "general.alignment at byte 53 is");
        refuse(aligned(GGUF_U64, bad[i]), STATUS_MODEL, "general.alignment at byte 53 is");
    }
    refuse(aligned(GGUF_U64, HUGE_COUNT), STATUS_MODEL, "general.alignment");
    refuse(aligned(GGUF_I32, (uint32_t)-8), STATUS_MODEL, "no positive integer");
    refuse(aligned(GGUF_F32, 0x42000000), STATUS_MODEL, "no positive integer"); /* 32.0 */
    struct buf image = start(3, 0, 1);
    put_text(&image, "general.alignment", "32");
    refuse(image, STATUS_MODEL, "no positive integer");
    accept(aligned(GGUF_U32, 8));
    accept(aligned(GGUF_U32, 1024));
    accept(aligned(GGUF_U64, 64));
}

static void test_split(void **state)
{
    (void)state;
    struct buf image = start(3, 0, 1);
    put_key(&image, "split.count", GGUF_U32);
    put_u32(&image, 3);
    accept(image); /* whoever opens the model asks for the other parts */
    image = start(3, 0, 1);
    put_key(&image, "split.count", GGUF_U32);
    put_u32(&image, 1);
    accept(image);
}

/* As many keys and tensors as allowed, all valid but the last: the most that a failing parse holds. */
static void test_full_tables(void **state)
{
    (void)state;
    const uint32_t n = 1u << 14;
    char name[32];
    struct buf image = start(3, 0, n);
    for (uint32_t i = 0; i < n; i++) {
        snprintf(name, sizeof name, "key%u", i < n - 1 ? i : 0);
        put_key(&image, name, GGUF_U64);
        put_u64(&image, i);
    }
    refuse(image, STATUS_MODEL, "metadata key key0");
    image = start(3, n, 0);
    for (uint32_t i = 0; i < n; i++) {
        snprintf(name, sizeof name, "tensor%u", i);
        put_entry(&image,
                  &(struct entry){name, 1, {8}, TENSOR_F32, i < n - 1 ? 32 * (uint64_t)i : 7});
    }
    put_data(&image, 32 * (size_t)n);
    refuse(image, STATUS_MODEL, "no multiple of 32");
    print_message("%u tensors: %zu bytes allocated\n", n, hostile_allocated);
#ifdef SLUICE_WRAPS_MALLOC
    assert_true(hostile_allocated > n * sizeof(struct tensor)); /* the counter counts */
#endif
}

/* Where the last tensor's data ends: a file cut behind it has lost padding only. */
static size_t data_end(const struct buf *file)
{
    struct error err = {0};
    struct gguf *gguf;
    size_t end = 0;
    assert_ok(gguf_parse((const uint8_t *)file->data, file->len, "image", &gguf, &err), &err);
    for (size_t i = 0; i < gguf_tensor_count(gguf); i++) {
        const struct tensor *t = gguf_tensor_at(gguf, i);
        size_t stop = (size_t)((const char *)t->data - file->data) + (size_t)t->bytes;
        end = stop > end ? stop : end;
    }
    gguf_free(gguf);
    return end;
}

static size_t data_start(const struct buf *file)
{
    struct error err = {0};
    struct gguf *gguf;
    size_t begin = file->len;
    assert_ok(gguf_parse((const uint8_t *)file->data, file->len, "image", &gguf, &err), &err);
    for (size_t i = 0; i < gguf_tensor_count(gguf); i++) {
        size_t at = (size_t)((const char *)gguf_tensor_at(gguf, i)->data - file->data);
        begin = at < begin ? at : begin;
    }
    gguf_free(gguf);
    return begin;
}

/* Every `step` bytes: in the header from a block of exactly that size, then in place. There all cuts
 * take the same way through the parser, so a sanitizer's slow build tries every 16th of them. */
static void cut(const char *path, size_t step)
{
#if SANITIZED
    const size_t data_step = 16 * step;
#else
    const size_t data_step = step;
#endif
    struct buf file = fixture_read(fixture_path(path));
    size_t header = data_start(&file), end = data_end(&file), cuts = 0;
    uint64_t slowest = 0, most = 0;
    for (size_t size = 0; size < end; size += size < header ? step : data_step, cuts++) {
        struct error err;
        struct hostile_result result;
        if (size <= header) {
            result = hostile_run(parse, file.data, size, &err);
        } else {
            hostile_allocated = 0;
            uint64_t begin = hostile_clock();
            result.status = parse((const uint8_t *)file.data, size, &err);
            result.ns = hostile_clock() - begin;
            result.allocated = hostile_allocated;
        }
        if (result.status != STATUS_MODEL || !err.message[0])
            fail_msg("%s cut at %zu: %s", path, size, status_name(result.status));
        slowest = result.ns > slowest ? result.ns : slowest;
        most = result.allocated > most ? result.allocated : most;
    }
    print_message("%s: %zu cuts, slowest %llu us, most allocated %llu bytes\n", path, cuts,
                  (unsigned long long)slowest / 1000, (unsigned long long)most);
    assert_true(slowest <= HOSTILE_NS_MAX && most <= HOSTILE_BYTES_MAX);
    buf_release(&file);
}

static void test_cut_fixture(void **state)
{
    (void)state;
    struct buf file = fixture_read(fixture_path("tests/data/arch/gguf/llama.gguf"));
    size_t header = data_start(&file);
    for (size_t size = 0; size <= header; size++)
        hostile_refused(parse, file.data, size, STATUS_MODEL, "");
    print_message("%zu cuts of the header\n", header + 1);
    buf_release(&file);
    cut("tests/data/arch/gguf/lfm2.gguf", 31);
}

static void test_cut_pebble(void **state)
{
    (void)state;
    cut("models/pebble/pebble-q8_0.gguf", 97);
}

/* Every byte of a header, turned over: any result, but never a crash, a stall or a flood. */
static void test_flipped_bytes(void **state)
{
    (void)state;
    struct buf file = fixture_read(fixture_path("tests/data/arch/gguf/llama.gguf"));
    size_t header = data_start(&file);
    unsigned refused = 0;
    for (size_t i = 0; i < header; i++) {
        struct error err = {0};
        file.data[i] = (char)~file.data[i];
        hostile_allocated = 0;
        uint64_t begin = hostile_clock();
        refused += parse((const uint8_t *)file.data, file.len, &err) != STATUS_OK;
        assert_true(hostile_clock() - begin <= HOSTILE_NS_MAX);
        assert_true(hostile_allocated <= HOSTILE_BYTES_MAX);
        file.data[i] = (char)~file.data[i];
    }
    assert_true(refused > 1000);
    buf_release(&file);
}

/* Token types that nobody defined are the vocabulary reader's affair: the file parses. */
static void test_token_types(void **state)
{
    (void)state;
    struct buf file = fixture_read(fixture_path("models/pebble/pebble-q8_0.gguf"));
    struct error err = {0};
    struct gguf *gguf;
    assert_ok(gguf_parse((const uint8_t *)file.data, file.len, "image", &gguf, &err), &err);
    const struct gguf_value *types = gguf_find(gguf, "tokenizer.ggml.token_type");
    assert_non_null(types);
    assert_int_equal(types->item_type, GGUF_I32);
    char *item = file.data + (size_t)((const char *)types->data - file.data) + 4 * 17;
    gguf_free(gguf);
    const int32_t bad[] = {99, -1, INT32_MAX, INT32_MIN, 7};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct vocabulary vocabulary;
        memcpy(item, &bad[i], 4);
        assert_ok(gguf_parse((const uint8_t *)file.data, file.len, "image", &gguf, &err), &err);
        assert_int_equal(vocabulary_from_gguf(gguf, &vocabulary, &err), STATUS_MODEL);
        assert_non_null(strstr(err.message, "token_type"));
        gguf_free(gguf);
    }
    buf_release(&file);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_header),        cmocka_unit_test(test_counts),
        cmocka_unit_test(test_lengths),       cmocka_unit_test(test_names),
        cmocka_unit_test(test_value_types),   cmocka_unit_test(test_arrays),
        cmocka_unit_test(test_string_limit),  cmocka_unit_test(test_duplicates),
        cmocka_unit_test(test_dims),          cmocka_unit_test(test_tensor_types),
        cmocka_unit_test(test_offsets),       cmocka_unit_test(test_alignment),
        cmocka_unit_test(test_split),         cmocka_unit_test(test_full_tables),
        cmocka_unit_test(test_cut_fixture),   cmocka_unit_test(test_cut_pebble),
        cmocka_unit_test(test_flipped_bytes), cmocka_unit_test(test_token_types),
    };
    hostile_count_json();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
