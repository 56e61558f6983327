/*
 * Models in several files: split GGUF and sharded safetensors hold the tensors of the whole, however
 * they are named; parts that are missing, mixed up or contradict each other are refused.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "fixture.h"
#include "format/checkpoint.h"
#include "format/gguf_writer.h"
#include "safetensors_file.h"
#include "scratch.h"

#define PARTS 3

static struct checkpoint *open_path(const char *path)
{
    struct checkpoint *c;
    struct error err = {0};
    assert_ok(checkpoint_open(path, &c, &err), &err);
    return c;
}

static void refuse(const char *path, enum status status, const char *says)
{
    struct checkpoint *c;
    struct error err = {0};
    enum status got = checkpoint_open(path, &c, &err);
    assert_null(c);
    if (got != status || !strstr(err.message, says))
        fail_msg("%s: expected %s and \"%s\", got %s: %s", path, status_name(status), says,
                 status_name(got), err.message);
}

static void same_tensors(const struct checkpoint *a, const struct checkpoint *b)
{
    assert_int_equal(checkpoint_tensor_count(a), checkpoint_tensor_count(b));
    for (size_t i = 0; i < checkpoint_tensor_count(a); i++) {
        const struct tensor *t = checkpoint_tensor_at(a, i);
        char name[1100] = {0};
        memcpy(name, t->name.data, t->name.len);
        const struct tensor *u = checkpoint_tensor(b, name);
        assert_non_null(u);
        assert_int_equal(t->type, u->type);
        assert_int_equal(t->bytes, u->bytes);
        assert_memory_equal(t->dims, u->dims, sizeof t->dims);
        assert_memory_equal(t->data, u->data, t->bytes);
    }
}

/* ---- GGUF -------------------------------------------------------------------------------------- */

struct split {
    uint32_t count, number, total;
    size_t first, end; /* tensors of the whole */
};

static void write_part(const char *path, const struct checkpoint *whole, const struct split *s)
{
    struct gguf_writer *w;
    struct error err = {0};
    assert_ok(gguf_writer_open(path, &w, &err), &err);
    const struct gguf *gguf = checkpoint_gguf(whole);
    for (size_t i = 0; s->number == 0 && i < gguf_value_count(gguf); i++)
        gguf_writer_copy(w, gguf_value_at(gguf, i));
    gguf_writer_u32(w, "split.count", s->count);
    gguf_writer_u32(w, "split.no", s->number);
    gguf_writer_u32(w, "split.tensors.count", s->total);
    for (size_t i = s->first; i < s->end; i++) {
        const struct tensor *t = checkpoint_tensor_at(whole, i);
        gguf_writer_tensor(w, t->name, t->type, t->n_dims, t->dims);
    }
    assert_ok(gguf_writer_begin(w, &err), &err);
    for (size_t i = s->first; i < s->end; i++) {
        const struct tensor *t = checkpoint_tensor_at(whole, i);
        assert_ok(gguf_writer_write(w, i - s->first, 0, t->data, t->bytes, &err), &err);
    }
    assert_ok(gguf_writer_finish(w, &err), &err);
    gguf_writer_free(w);
}

static const char *part_path(int part)
{
    char name[64];
    snprintf(name, sizeof name, "model-%05d-of-%05d.gguf", part, PARTS);
    return fixture_scratch_file(name);
}

/* The fixture in three parts of uneven size, the second with one tensor. */
static struct checkpoint *split_fixture(void)
{
    struct checkpoint *whole = open_path(fixture_path("tests/data/arch/gguf/llama.gguf"));
    uint32_t n = (uint32_t)checkpoint_tensor_count(whole);
    const size_t cuts[PARTS + 1] = {0, 12, 13, n};
    for (uint32_t i = 0; i < PARTS; i++)
        write_part(part_path((int)i + 1), whole,
                   &(struct split){PARTS, i, n, cuts[i], cuts[i + 1]});
    return whole;
}

static void test_split(void **state)
{
    (void)state;
    struct checkpoint *whole = split_fixture();
    for (int i = 1; i <= PARTS; i++) {
        struct checkpoint *c = open_path(part_path(i));
        struct str arch;
        same_tensors(whole, c);
        assert_true(gguf_get_str(checkpoint_gguf(c), "general.architecture", &arch));
        assert_true(str_eq_cstr(arch, "llama"));
        assert_false(checkpoint_damaged(c));
        checkpoint_close(c);
    }
    struct checkpoint *c = open_path(part_path(1));
    assert_int_equal(truncate(part_path(3), 0), 0); /* damage in any part is seen */
    uint64_t sum = 0;
    for (size_t i = 0; i < checkpoint_tensor_count(c); i++)
        sum += *(const volatile uint8_t *)checkpoint_tensor_at(c, i)->data;
    assert_true(sum > 0 && checkpoint_damaged(c));
    checkpoint_close(c);
    checkpoint_close(whole);
}

static void test_split_refused(void **state)
{
    (void)state;
    struct checkpoint *whole = split_fixture();
    uint32_t n = (uint32_t)checkpoint_tensor_count(whole);
    const char *second = part_path(2), *any = part_path(1);
    unlink(second);
    refuse(any, STATUS_DISK, "model-00002-of-00003.gguf: no such file");
    write_part(second, whole, &(struct split){PARTS, 2, n, 12, 13});
    refuse(any, STATUS_MODEL, "split.no is 2 in part 2");
    write_part(second, whole, &(struct split){4, 1, n, 12, 13});
    refuse(any, STATUS_MODEL, "split.count is 4");
    refuse(second, STATUS_MODEL, "split.count is 4, which its name contradicts");
    write_part(second, whole, &(struct split){PARTS, 1, n, 11, 13});
    refuse(any, STATUS_MODEL, "is in two of its files");
    write_part(second, whole, &(struct split){PARTS, 1, n, 12, 12});
    refuse(any, STATUS_MODEL, "split.tensors.count");
    write_part(fixture_scratch_file("odd.gguf"), whole, &(struct split){PARTS, 1, n, 12, 13});
    refuse(fixture_scratch_file("odd.gguf"), STATUS_MODEL, "not named like one");
    write_part(fixture_scratch_file("m-00001-of-00600.gguf"), whole,
               &(struct split){600, 0, n, 0, 1});
    refuse(fixture_scratch_file("m-00001-of-00600.gguf"), STATUS_LIMIT, "600 parts");
    write_part(fixture_scratch_file("m-00000-of-00003.gguf"), whole,
               &(struct split){3, 0, n, 0, 1});
    refuse(fixture_scratch_file("m-00000-of-00003.gguf"), STATUS_MODEL, "contradicts");
    write_part(fixture_scratch_file("whole.gguf"), whole, &(struct split){1, 0, n, 0, n});
    struct checkpoint *c =
        open_path(fixture_scratch_file("whole.gguf")); /* a split into one is whole */
    same_tensors(whole, c);
    checkpoint_close(c);
    checkpoint_close(whole);
}

/* ---- safetensors ------------------------------------------------------------------------------- */

/* Tensors [first, end) as one file, and their lines of the index. */
static void write_shard(const char *name, const struct checkpoint *whole, size_t first, size_t end,
                        struct buf *map)
{
    struct safetensors_file f = {0};
    for (size_t i = first; i < end; i++) {
        const struct tensor *t = checkpoint_tensor_at(whole, i);
        char tensor[128];
        snprintf(tensor, sizeof tensor, "%.*s", STR_ARG(t->name));
        safetensors_file_add(&f, tensor, tensor_type_name(t->type), t->n_dims, t->dims, t->data,
                             t->bytes);
        buf_printf(map, "%s\"%s\":\"%s\"", map->len ? "," : "", tensor, name);
    }
    safetensors_file_put(&f, fixture_scratch_file(name));
}

static void write_index(const struct buf *map)
{
    struct buf text = {0};
    buf_printf(&text, "{\"metadata\":{\"total_size\":1},\"weight_map\":{%.*s}}",
               STR_ARG(buf_str(map)));
    scratch_write_text(fixture_scratch_file("model.safetensors.index.json"), text.data);
    buf_release(&text);
}

static void test_shards(void **state)
{
    (void)state;
    struct checkpoint *whole = open_path(fixture_path("tests/data/arch/hf/llama"));
    size_t n = checkpoint_tensor_count(whole);
    struct buf map = {0};
    scratch_write_text(fixture_scratch_file("config.json"), "{\"model_type\":\"llama\"}");
    write_shard("model-00001-of-00002.safetensors", whole, 0, 7, &map);
    write_shard("model-00002-of-00002.safetensors", whole, 7, n, &map);
    write_index(&map);
    const char *ways[] = {fixture_scratch(), fixture_scratch_file("config.json"),
                          fixture_scratch_file("model.safetensors.index.json"),
                          fixture_scratch_file("model-00002-of-00002.safetensors")};
    for (size_t i = 0; i < 4; i++) {
        struct checkpoint *c = open_path(ways[i]);
        assert_int_equal(checkpoint_kind(c), CHECKPOINT_HF);
        same_tensors(whole, c);
        checkpoint_close(c);
    }
    struct buf more = {0};
    buf_printf(&more, "%.*s,\"extra.weight\":\"model-00002-of-00002.safetensors\"",
               STR_ARG(buf_str(&map)));
    write_index(&more);
    refuse(fixture_scratch(), STATUS_MODEL, "tensor extra.weight is not in model-00002");
    write_index(&map);
    write_shard("model-00002-of-00002.safetensors", whole, 6, n, &more);
    refuse(fixture_scratch(), STATUS_MODEL, "is in two of its files");
    unlink(fixture_scratch_file("model-00002-of-00002.safetensors"));
    refuse(fixture_scratch(), STATUS_DISK, "model-00002-of-00002.safetensors: no such file");
    unlink(fixture_scratch_file("model-00001-of-00002.safetensors"));
    buf_release(&map);
    buf_release(&more);
    checkpoint_close(whole);
}

static void test_index_refused(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        enum status status;
        const char *says;
    } cases[] = {
        {"", STATUS_MODEL, "index.json"},
        {"[]", STATUS_MODEL, "weight_map"},
        {"{}", STATUS_MODEL, "weight_map"},
        {"{\"weight_map\":[\"a\"]}", STATUS_MODEL, "weight_map"},
        {"{\"weight_map\":{}}", STATUS_MODEL, "weight_map"},
        {"{\"weight_map\":{\"a\":1}}", STATUS_MODEL, "tensor a no plain file name"},
        {"{\"weight_map\":{\"a\":\"\"}}", STATUS_MODEL, "no plain file name"},
        {"{\"weight_map\":{\"a\":\"../model.safetensors\"}}", STATUS_MODEL, "no plain file name"},
        {"{\"weight_map\":{\"a\":\"/etc/passwd\"}}", STATUS_MODEL, "no plain file name"},
        {"{\"weight_map\":{\"a\":\"..\"}}", STATUS_MODEL, "no plain file name"},
        {"{\"weight_map\":{\"a\":\"absent.safetensors\"}}", STATUS_DISK, "absent.safetensors"},
        {"{\"weight_map\":{\"a\":\"config.json\"}}", STATUS_MODEL, "config.json"},
    };
    scratch_write_text(fixture_scratch_file("config.json"), "{\"model_type\":\"llama\"}");
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        scratch_write_text(fixture_scratch_file("model.safetensors.index.json"), cases[i].text);
        refuse(fixture_scratch(), cases[i].status, cases[i].says);
    }
    struct buf many = {0};
    buf_append_cstr(&many, "{\"weight_map\":{");
    for (int i = 0; i < 600; i++) { /* the first is no safetensors file: refused at once */
        char name[32];
        snprintf(name, sizeof name, "s%d", i);
        buf_printf(&many, "%s\"t%d\":\"%s\"", i ? "," : "", i, name);
        scratch_write_text(fixture_scratch_file(name), "{}");
    }
    buf_append_cstr(&many, "}}");
    scratch_write_text(fixture_scratch_file("model.safetensors.index.json"), many.data);
    refuse(fixture_scratch(), STATUS_MODEL, "not a safetensors file");
    buf_release(&many);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_split),
        cmocka_unit_test(test_split_refused),
        cmocka_unit_test(test_shards),
        cmocka_unit_test(test_index_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
