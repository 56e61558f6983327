/*
 * The head of a file of packed weights, against everything that can be wrong in one: what the parser
 * lets pass must lie inside the file. Wrong fields are written under a right sum, since a wrong sum
 * would hide what the parser makes of them.
 */
#include <stdlib.h>
#include <string.h>

#include "backend/cpu/sidecar.h"
#include "fixture.h"
#include "quant/tensor_type.h"

#define N_MATRICES 3
#define HEADER     128
#define ENTRY      40

/* Where the fields lie: sidecar.c's struct header. */
enum {
    AT_SUM = 8,
    AT_VERSION = 16,
    AT_ORDER = 20,
    AT_DIGEST = 24,
    AT_FILE_BYTES = 40,
    AT_DATA_OFFSET = 48,
    AT_DATA_BYTES = 56,
    AT_CHUNKS = 64,
    AT_MATRICES = 72,
};

struct image {
    uint8_t *bytes; /* exactly `size`, so that a sanitizer sees any read past it */
    uint64_t size, head;
    struct sidecar_matrix matrices[N_MATRICES];
    struct sidecar_layout layout;
};

static struct image make_image(void)
{
    struct image image = {.matrices = {
                              {.type = TENSOR_Q4_K, .count = 1, .n_rows = 40, .n_cols = 512},
                              {.type = TENSOR_Q8_0, .count = 3, .n_rows = 16, .n_cols = 96},
                              {.type = TENSOR_BF16, .count = 1, .n_rows = 1000, .n_cols = 640},
                          }};
    for (int i = 0; i < N_MATRICES; i++)
        assert_true(sidecar_matrix_bytes(&image.matrices[i]));
    assert_true(sidecar_plan(image.matrices, N_MATRICES, &image.layout));
    image.size = image.layout.file_bytes;
    image.head = HEADER + N_MATRICES * ENTRY + image.layout.n_chunks * 8;
    image.bytes = malloc(image.size);
    uint64_t *sums = calloc(image.layout.n_chunks, sizeof *sums);
    assert_true(image.bytes && sums);
    uint8_t *data = image.bytes + image.layout.data_offset;
    for (uint64_t i = 0; i < image.layout.data_bytes; i++)
        data[i] = (uint8_t)(i * 31 >> 3);
    for (uint64_t c = 0; c < image.layout.n_chunks; c++) {
        uint64_t left = image.layout.data_bytes - c * SIDECAR_CHUNK;
        sums[c] =
            sidecar_sum(data + c * SIDECAR_CHUNK, left < SIDECAR_CHUNK ? left : SIDECAR_CHUNK);
    }
    struct sidecar_digest digest = {1, 2};
    sidecar_write_head(&digest, &image.layout, image.matrices, sums, image.bytes);
    free(sums);
    return image;
}

static enum status parse(const struct image *image, struct error *err)
{
    struct sidecar sidecar;
    *err = (struct error){.status = STATUS_OK};
    enum status status = sidecar_parse(image->bytes, image->size, &sidecar, err);
    if (status == STATUS_OK) {
        assert_ptr_equal(sidecar.data, image->bytes + sidecar.layout.data_offset);
        assert_int_equal(sidecar.layout.data_offset + sidecar.layout.data_bytes, image->size);
    } else {
        assert_int_equal(status, STATUS_INTEGRITY);
        assert_true(err->message[0] && !sidecar.data);
    }
    return status;
}

static void test_round_trip(void **state)
{
    (void)state;
    struct image image = make_image();
    struct sidecar sidecar;
    struct error err = {0};
    assert_ok(sidecar_parse(image.bytes, image.size, &sidecar, &err), &err);
    assert_true(sidecar.digest.low == 1 && sidecar.digest.high == 2);
    assert_int_equal(sidecar.layout.n_matrices, N_MATRICES);
    assert_true(sidecar.layout.n_chunks >= 2); /* or the loop below says little */
    assert_int_equal(sidecar.layout.data_offset % SIDECAR_DATA_ALIGN, 0);
    for (uint32_t i = 0; i < N_MATRICES; i++) {
        struct sidecar_matrix m = sidecar_matrix_at(&sidecar, i);
        assert_memory_equal(&m, &image.matrices[i], sizeof m);
        assert_int_equal(m.offset % SIDECAR_ALIGNMENT, 0);
    }
    /* 40 rows are 3 panels of 16; 144 bytes hold 256 columns. */
    assert_int_equal(image.matrices[0].bytes, 3 * 16 * 2 * 144);
    for (uint64_t c = 0; c < sidecar.layout.n_chunks; c++)
        assert_true(sidecar_check_chunk(&sidecar, c));
    for (uint64_t at = 0; at < image.layout.data_bytes; at += 9973) {
        image.bytes[image.layout.data_offset + at] ^= 0x10;
        for (uint64_t c = 0; c < sidecar.layout.n_chunks; c++)
            assert_int_equal(sidecar_check_chunk(&sidecar, c), c != at / SIDECAR_CHUNK);
        image.bytes[image.layout.data_offset + at] ^= 0x10;
    }
    free(image.bytes);
}

/* Any byte of header, table or sums. */
static void test_flipped(void **state)
{
    (void)state;
    struct image image = make_image();
    struct error err;
    for (uint64_t at = 0; at < image.head; at++)
        for (int bit = 0; bit < 8; bit++) {
            image.bytes[at] ^= (uint8_t)(1 << bit);
            assert_int_equal(parse(&image, &err), STATUS_INTEGRITY);
            image.bytes[at] ^= (uint8_t)(1 << bit);
        }
    assert_int_equal(parse(&image, &err), STATUS_OK);
    free(image.bytes);
}

static void test_cut(void **state)
{
    (void)state;
    struct image whole = make_image();
    struct error err;
    for (uint64_t size = 0; size < whole.size; size += size < 400 ? 1 : 99991) {
        struct image image = whole;
        image.size = size;
        image.bytes = malloc(size ? size : 1);
        memcpy(image.bytes, whole.bytes, size);
        assert_int_equal(parse(&image, &err), STATUS_INTEGRITY);
        free(image.bytes);
    }
    struct image longer = whole;
    longer.size++;
    longer.bytes = calloc(1, longer.size);
    memcpy(longer.bytes, whole.bytes, whole.size);
    assert_int_equal(parse(&longer, &err), STATUS_INTEGRITY);
    free(longer.bytes);
    free(whole.bytes);
}

/* A field of another value under a right sum; `part` is in the message. */
static void expect(uint64_t at, const void *value, size_t bytes, const char *part)
{
    struct image image = make_image();
    struct error err;
    memcpy(image.bytes + at, value, bytes);
    sidecar_seal(image.bytes, image.head);
    if (parse(&image, &err) == STATUS_OK || !strstr(err.message, part))
        fail_msg("field at %llu: \"%s\" lacks \"%s\"", (unsigned long long)at, err.message, part);
    free(image.bytes);
}

static void test_fields(void **state)
{
    (void)state;
    const uint32_t version = SIDECAR_VERSION + 1, order = 0x04030201u;
    expect(0, "GGUF", 4, "does not begin");
    expect(AT_VERSION, &version, sizeof version, "version");
    expect(AT_ORDER, &order, sizeof order, "byte order");
    static const uint64_t numbers[] = {
        0,         1,          127,       4096,       1 << 20,
        1u << 31,  UINT32_MAX, INT64_MAX, UINT64_MAX, UINT64_MAX - 127,
        1ull << 40};
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) {
        expect(AT_FILE_BYTES, &numbers[i], 8, "contradict");
        expect(AT_DATA_OFFSET, &numbers[i], 8, "contradict");
        expect(AT_DATA_BYTES, &numbers[i], 8, "contradict");
        expect(AT_CHUNKS, &numbers[i], 8, "contradict");
    }
    for (uint32_t n = 1u << 19; n; n <<= 1)
        expect(AT_MATRICES, &n, 4, "contradict");
}

/* Entry i of the table is {offset, bytes, type, count, n_rows, n_cols}. */
static void test_table(void **state)
{
    (void)state;
    struct image image = make_image();
    const uint64_t last = HEADER + (N_MATRICES - 1) * ENTRY, second = HEADER + ENTRY;
    static const uint64_t steps[] = {
        1, 64, 128, 1 << 20, 1ull << 40, INT64_MAX, UINT64_MAX / 128 * 128};
    for (size_t i = 0; i < sizeof steps / sizeof *steps; i++) {
        uint64_t offset = image.matrices[N_MATRICES - 1].offset + steps[i];
        expect(last, &offset, 8, "outside the data");
    }
    uint64_t overlapping = image.matrices[0].bytes - 128;
    expect(second, &overlapping, 8, "overlap");
    uint64_t more = image.matrices[0].bytes + 128;
    expect(HEADER + 8, &more, 8, "are no");
    static const uint32_t types[] = {TENSOR_Q8_K, TENSOR_TYPE_END, 1000, UINT32_MAX};
    for (size_t i = 0; i < sizeof types / sizeof *types; i++)
        expect(second + 16, &types[i], 4, "are no");
    static const uint32_t counts[] = {0, 40, 1u << 16, UINT32_MAX};
    for (size_t i = 0; i < sizeof counts / sizeof *counts; i++)
        for (int field = 0; field < 3; field++)
            expect(second + 20 + 4 * (uint64_t)field, &counts[i], 4, "are no");
    free(image.bytes);
}

static void test_plan_limits(void **state)
{
    (void)state;
    struct sidecar_layout layout;
    struct sidecar_matrix big = {
        .type = TENSOR_F32, .count = UINT32_MAX, .n_rows = UINT32_MAX, .n_cols = UINT32_MAX};
    assert_false(sidecar_matrix_bytes(&big));
    struct sidecar_matrix odd = {.type = TENSOR_Q4_K, .count = 1, .n_rows = 16, .n_cols = 255};
    assert_false(sidecar_matrix_bytes(&odd));
    struct sidecar_matrix two[2] = {{.bytes = UINT64_MAX - 100}, {.bytes = 1}};
    assert_false(sidecar_plan(two, 2, &layout));
    assert_false(sidecar_plan(two, 1, &layout));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_round_trip), cmocka_unit_test(test_flipped),
        cmocka_unit_test(test_cut),        cmocka_unit_test(test_fields),
        cmocka_unit_test(test_table),      cmocka_unit_test(test_plan_limits),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
