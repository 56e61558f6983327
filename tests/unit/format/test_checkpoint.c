/*
 * Opening models: every committed fixture, in both kinds, holds what it should and the kinds agree;
 * what is no model, or one sluice cannot open yet, is refused by a sentence that says so.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "format/checkpoint.h"
#include "format/gguf.h"
#include "gguf_image.h"
#include "scratch.h"

struct fixture {
    const char *name, *arch;             /* arch NULL: no GGUF twin */
    const char *embedding, *gate, *norm; /* HF names; NULL: not the same tensor in GGUF */
    size_t hf_tensors, gguf_tensors;
};

#define GATE "model.layers.0.mlp.gate_proj.weight"
#define NORM "model.layers.0.input_layernorm.weight"

static const struct fixture fixtures[] = {
    {"llama", "llama", "model.embed_tokens.weight", GATE, NORM, 30, 30},
    {"llama3-rope", "llama", "model.embed_tokens.weight", GATE, NORM, 29, 30},
    {"llama-bias", "llama", "model.embed_tokens.weight", GATE, NORM, 51, 51},
    {"mistral-swa", NULL, "model.embed_tokens.weight", GATE, NORM, 30, 0},
    {"qwen2", "qwen2", "model.embed_tokens.weight", GATE, NORM, 39, 39},
    {"qwen3", "qwen3", "model.embed_tokens.weight", GATE, NORM, 35, 35},
    {"mixtral", "llama", "model.embed_tokens.weight", NULL, NORM, 96, 33},
    {"qwen3-moe", "qwen3moe", "model.embed_tokens.weight", NULL, NORM, 102, 39},
    {"gemma3", "gemma3", "model.embed_tokens.weight", GATE, NULL, 80, 80},
    {"lfm2", "lfm2", "model.embed_tokens.weight", "model.layers.0.feed_forward.w1.weight",
     "model.layers.0.operator_norm.weight", 37, 37},
    {"qwen3-embed", "qwen3", "embed_tokens.weight", "layers.0.mlp.gate_proj.weight",
     "layers.0.input_layernorm.weight", 35, 35},
};
#define N_FIXTURES (sizeof fixtures / sizeof *fixtures)

static struct checkpoint *open_path(const char *path)
{
    struct checkpoint *checkpoint;
    struct error err = {0};
    assert_ok(checkpoint_open(path, &checkpoint, &err), &err);
    assert_string_equal(checkpoint_path(checkpoint), path);
    assert_false(checkpoint_damaged(checkpoint));
    return checkpoint;
}

static struct checkpoint *open_hf(const char *name)
{
    char relative[256];
    snprintf(relative, sizeof relative, "tests/data/arch/hf/%s", name);
    return open_path(fixture_path(relative));
}

static struct checkpoint *open_gguf(const char *name)
{
    char relative[256];
    snprintf(relative, sizeof relative, "tests/data/arch/gguf/%s.gguf", name);
    return open_path(fixture_path(relative));
}

static const struct tensor *expect(const struct checkpoint *c, const char *name, uint64_t rows,
                                   uint64_t columns)
{
    const struct tensor *t = checkpoint_tensor(c, name);
    if (!t)
        fail_msg("%s: no tensor %s", checkpoint_path(c), name);
    assert_true(str_eq_cstr(t->name, name));
    assert_int_equal(t->n_dims, columns ? 2 : 1);
    assert_int_equal(t->dims[0], rows);
    assert_int_equal(t->dims[1], columns ? columns : 1);
    return t;
}

static float *decode(const struct tensor *t, size_t *n)
{
    *n = (size_t)(t->dims[0] * t->dims[1] * t->dims[2] * t->dims[3]);
    float *values = malloc(*n * sizeof *values);
    assert_non_null(values);
    tensor_type_info(t->type)->decode(t->data, values, *n);
    return values;
}

/* All names are found, at their own place; data is aligned and readable to its last byte. */
static void check_directory(const struct checkpoint *c, size_t count)
{
    uint64_t sum = 0;
    assert_int_equal(checkpoint_tensor_count(c), count);
    for (size_t i = 0; i < count; i++) {
        const struct tensor *t = checkpoint_tensor_at(c, i);
        char name[1100] = {0};
        memcpy(name, t->name.data, t->name.len);
        assert_ptr_equal(checkpoint_tensor(c, name), t);
        const struct tensor_type_info *info = tensor_type_info(t->type);
        if (info->block_elements == 1)
            assert_int_equal((uintptr_t)t->data % info->block_bytes, 0);
        sum += ((const uint8_t *)t->data)[0] + ((const uint8_t *)t->data)[t->bytes - 1];
    }
    assert_true(sum > 0);
    assert_null(checkpoint_tensor(c, "no.such.tensor"));
    assert_null(checkpoint_tensor(c, ""));
}

static void test_hf_fixtures(void **state)
{
    (void)state;
    for (size_t i = 0; i < N_FIXTURES; i++) {
        const struct fixture *f = &fixtures[i];
        struct checkpoint *c = open_hf(f->name);
        assert_int_equal(checkpoint_kind(c), CHECKPOINT_HF);
        assert_null(checkpoint_gguf(c));
        check_directory(c, f->hf_tensors);
        const json_t *config = checkpoint_config(c);
        assert_int_equal(json_integer_value(json_object_get(config, "vocab_size")), 320);
        assert_int_equal(json_integer_value(json_object_get(config, "hidden_size")), 64);
        assert_int_equal(expect(c, f->embedding, 320, 64)->type, TENSOR_BF16);
        if (f->gate)
            expect(c, f->gate, 128, 64);
        assert_true((checkpoint_generation_config(c) != NULL) ==
                    (strcmp(f->name, "qwen3-embed") != 0));
        assert_null(checkpoint_tokenizer_config(c)); /* no tokenizer: opens all the same */
        assert_non_null(strstr(checkpoint_file(c, "config.json"), "/config.json"));
        assert_null(checkpoint_file(c, "tokenizer.json"));
        checkpoint_close(c);
    }
    checkpoint_close(NULL);
}

static void compare(const struct tensor *a, const struct tensor *b)
{
    size_t n, m;
    float *x = decode(a, &n), *y = decode(b, &m);
    assert_int_equal(n, m);
    assert_memory_equal(x, y, n * sizeof *x);
    free(x);
    free(y);
}

static void test_gguf_twins(void **state)
{
    (void)state;
    for (size_t i = 0; i < N_FIXTURES; i++) {
        const struct fixture *f = &fixtures[i];
        if (!f->arch)
            continue;
        struct checkpoint *hf = open_hf(f->name), *c = open_gguf(f->name);
        struct str arch;
        assert_int_equal(checkpoint_kind(c), CHECKPOINT_GGUF);
        assert_null(checkpoint_config(c));
        assert_null(checkpoint_generation_config(c));
        assert_null(checkpoint_tokenizer_config(c));
        assert_null(checkpoint_file(c, "config.json"));
        check_directory(c, f->gguf_tensors);
        assert_true(gguf_get_str(checkpoint_gguf(c), "general.architecture", &arch));
        assert_true(str_eq_cstr(arch, f->arch));
        compare(expect(c, "token_embd.weight", 320, 64), checkpoint_tensor(hf, f->embedding));
        if (f->gate)
            compare(expect(c, "blk.0.ffn_gate.weight", 128, 64), checkpoint_tensor(hf, f->gate));
        if (f->norm)
            compare(expect(c, "blk.0.attn_norm.weight", 64, 0), checkpoint_tensor(hf, f->norm));
        checkpoint_close(hf);
        checkpoint_close(c);
    }
}

/* Three dimensions: GGUF stacks the experts that HF keeps apart, outermost first after turning. */
static void test_experts(void **state)
{
    (void)state;
    struct checkpoint *hf = open_hf("mixtral"), *c = open_gguf("mixtral");
    const struct tensor *stacked = checkpoint_tensor(c, "blk.1.ffn_down_exps.weight");
    assert_non_null(stacked);
    assert_int_equal(stacked->n_dims, 3);
    uint64_t experts = stacked->dims[0], each = stacked->bytes / experts;
    assert_true(experts >= 2);
    for (uint64_t e = 0; e < experts; e++) {
        char name[128];
        snprintf(name, sizeof name, "model.layers.1.block_sparse_moe.experts.%d.w2.weight", (int)e);
        const struct tensor *one = expect(hf, name, stacked->dims[1], stacked->dims[2]);
        assert_int_equal(one->type, stacked->type);
        assert_int_equal(one->bytes, each);
        assert_memory_equal(one->data, (const char *)stacked->data + e * each, each);
    }
    checkpoint_close(hf);
    checkpoint_close(c);
}

static void test_pebble(void **state)
{
    (void)state;
    struct checkpoint *exact = open_path(fixture_path("models/pebble/pebble-bf16.gguf"));
    struct checkpoint *small = open_path(fixture_path("models/pebble/pebble-q8_0.gguf"));
    check_directory(exact, 90);
    check_directory(small, 90);
    const struct tensor *a = expect(exact, "token_embd.weight", 4096, 256);
    const struct tensor *b = expect(small, "token_embd.weight", 4096, 256);
    assert_int_equal(a->type, TENSOR_BF16);
    assert_int_equal(b->type, TENSOR_Q8_0);
    size_t n, m;
    float *x = decode(a, &n), *y = decode(b, &m);
    assert_int_equal(n, m);
    for (size_t i = 0; i < n; i += 32) {
        float most = 0;
        for (size_t j = i; j < i + 32; j++)
            most = fmaxf(most, fabsf(x[j]));
        for (size_t j = i; j < i + 32; j++) /* half a step, and the scale's own rounding */
            assert_true(fabsf(x[j] - y[j]) <= most / 127 * 0.5f + most * 0.0006f);
    }
    free(x);
    free(y);
    checkpoint_close(exact);
    checkpoint_close(small);
}

static void put_line(const char *name, const char *text)
{
    scratch_write_text(fixture_scratch_file(name), text);
}

/* Copies a committed file into the scratch folder. */
static void put_copy(const char *name, const char *relative)
{
    struct buf data = fixture_read(fixture_path(relative));
    scratch_write(fixture_scratch_file(name), data.data, data.len);
    buf_release(&data);
}

static int clean(void **state)
{
    (void)state;
    static const char *names[] = {"config.json",
                                  "model.safetensors",
                                  "model.safetensors.index.json",
                                  "model-00001-of-00002.safetensors",
                                  "pytorch_model.bin",
                                  "generation_config.json",
                                  "other.safetensors",
                                  "notes.txt",
                                  "model.gguf",
                                  "unnamed"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        unlink(fixture_scratch_file(names[i]));
    return 0;
}

static int remove_scratch(void **state)
{
    clean(state);
    return rmdir(fixture_scratch());
}

static void refuse(const char *path, enum status status, const char *says)
{
    struct checkpoint *checkpoint;
    struct error err = {0};
    enum status got = checkpoint_open(path, &checkpoint, &err);
    assert_null(checkpoint);
    if (got != status || !strstr(err.message, says))
        fail_msg("%s: expected %s and \"%s\", got %s: %s", path, status_name(status), says,
                 status_name(got), err.message);
}

static void test_refused(void **state)
{
    (void)state;
    char longest[5000];
    memset(longest, 'x', sizeof longest - 1);
    longest[sizeof longest - 1] = 0;
    refuse(longest, STATUS_USAGE, "longer than");
    refuse(fixture_scratch_file("absent"), STATUS_DISK, "absent: no such file or folder");
    refuse("", STATUS_DISK, "no such file or folder");
    refuse(fixture_scratch(), STATUS_DISK, "no config.json in this folder");
    put_line("notes.txt", "not a model\n");
    refuse(fixture_scratch_file("notes.txt"), STATUS_UNSUPPORTED, "neither a GGUF file nor");
    put_line("model.gguf", "not a model\n");
    refuse(fixture_scratch_file("model.gguf"), STATUS_MODEL, "not a GGUF file");
    put_line("model.gguf", "");
    refuse(fixture_scratch_file("model.gguf"), STATUS_MODEL, "magic");
    put_line("config.json", "{\"model_type\": ");
    refuse(fixture_scratch(), STATUS_MODEL, "config.json: invalid JSON");
    put_line("config.json", "[1]");
    refuse(fixture_scratch(), STATUS_MODEL, "config.json: not a JSON object");
    put_line("config.json", "{}");
    refuse(fixture_scratch(), STATUS_DISK, "no model.safetensors");
    put_line("model.safetensors", "");
    refuse(fixture_scratch(), STATUS_MODEL, "model.safetensors: not a safetensors file");
    refuse(fixture_scratch_file("config.json"), STATUS_MODEL,
           "model.safetensors: not a safetensors file");
}

static void test_pickles(void **state)
{
    (void)state;
    put_line("config.json", "{}");
    put_line("pytorch_model.bin", "\x80\x02");
    refuse(fixture_scratch(), STATUS_UNSUPPORTED, "pytorch_model.bin: weights in a pickle file");
    refuse(fixture_scratch_file("pytorch_model.bin"), STATUS_UNSUPPORTED, "save_pretrained");
}

/* Any way of naming it opens the same model; a .safetensors file that is named is the weights. */
static void test_ways_to_name(void **state)
{
    (void)state;
    put_copy("config.json", "tests/data/arch/hf/llama/config.json");
    put_copy("model.safetensors", "tests/data/arch/hf/llama/model.safetensors");
    put_copy("other.safetensors", "tests/data/arch/hf/qwen2/model.safetensors");
    put_copy("unnamed", "tests/data/arch/gguf/qwen3.gguf");
    char slash[1200], here[4096];
    snprintf(slash, sizeof slash, "%s/", fixture_scratch());
    const struct {
        const char *path;
        size_t tensors;
    } ways[] = {{fixture_scratch(), 30},
                {slash, 30},
                {fixture_scratch_file("config.json"), 30},
                {fixture_scratch_file("model.safetensors"), 30},
                {fixture_scratch_file("other.safetensors"), 39},
                {fixture_scratch_file("unnamed"), 35}};
    for (size_t i = 0; i < sizeof ways / sizeof *ways; i++) {
        struct checkpoint *c = open_path(ways[i].path);
        assert_int_equal(checkpoint_tensor_count(c), ways[i].tensors);
        checkpoint_close(c);
    }
    assert_non_null(getcwd(here, sizeof here));
    assert_int_equal(chdir(fixture_scratch()), 0);
    const char *relative[] = {".", "config.json", "./model.safetensors", "model.safetensors"};
    for (size_t i = 0; i < 4; i++) {
        struct checkpoint *c = open_path(relative[i]);
        assert_int_equal(checkpoint_tensor_count(c), 30);
        checkpoint_close(c);
    }
    assert_int_equal(chdir(here), 0);
}

static void test_python_floats(void **state)
{
    (void)state;
    put_line("config.json",
             "{\"time_step_limit\": [0.0, Infinity], \"low\": -Infinity, \"nan\": NaN,"
             " \"s\": \"Infinity \\\" NaN\", \"huge\": 1000000000000000000000000000000}");
    put_line("generation_config.json", "{\"penalty\": Infinity}");
    put_copy("model.safetensors", "tests/data/arch/hf/llama/model.safetensors");
    struct checkpoint *c = open_path(fixture_scratch());
    const json_t *config = checkpoint_config(c);
    const json_t *limit = json_object_get(config, "time_step_limit");
    assert_true(json_real_value(json_array_get(limit, 1)) == 1e308);
    assert_true(json_real_value(json_object_get(config, "low")) == -1e308);
    assert_true(json_real_value(json_object_get(config, "nan")) == 0.0);
    assert_string_equal(json_string_value(json_object_get(config, "s")), "Infinity \" NaN");
    assert_true(json_real_value(json_object_get(config, "huge")) == 1e30);
    assert_true(json_real_value(json_object_get(checkpoint_generation_config(c), "penalty")) ==
                1e308);
    checkpoint_close(c);
}

/* Cut short while open: nobody dies, lost bytes are zeros, the damage is known. */
static void test_truncated_while_open(void **state)
{
    (void)state;
    put_copy("model.gguf", "models/pebble/pebble-q8_0.gguf");
    struct checkpoint *c = open_path(fixture_scratch_file("model.gguf"));
    assert_int_equal(truncate(fixture_scratch_file("model.gguf"), 4096), 0);
    size_t lost = 0;
    for (size_t i = 0; i < checkpoint_tensor_count(c); i++) {
        const struct tensor *t = checkpoint_tensor_at(c, i);
        lost += ((const volatile uint8_t *)t->data)[t->bytes - 1] == 0;
    }
    assert_int_equal(lost, 90);
    assert_true(checkpoint_damaged(c));
    const struct gguf_value *tokens = gguf_find(checkpoint_gguf(c), "tokenizer.ggml.tokens");
    struct gguf_string_cursor cursor = {0};
    struct str text;
    size_t n = 0;
    while (tokens && gguf_next_string(tokens, &cursor, &text))
        n += text.len + 1;
    assert_true(n <= 10u << 20);
    checkpoint_close(c);
}

static void test_shared(void **state)
{
    (void)state;
    static const char *others[] = {"falcon-h1", "granite-hybrid", "mamba2", "nemotron-h",
                                   "gpt-oss",   "deepseek-v3",    "bert"};
    if (!fixture_shared("data/arch/hf"))
        skip();
    for (size_t i = 0; i < sizeof others / sizeof *others; i++) {
        char relative[256];
        struct checkpoint *c;
        struct error err = {0};
        snprintf(relative, sizeof relative, "data/arch/hf/%s", others[i]);
        assert_ok(checkpoint_open(fixture_shared(relative), &c, &err), &err);
        check_directory(c, checkpoint_tensor_count(c));
        checkpoint_close(c);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_hf_fixtures),
        cmocka_unit_test(test_gguf_twins),
        cmocka_unit_test(test_experts),
        cmocka_unit_test(test_pebble),
        cmocka_unit_test_setup_teardown(test_refused, clean, clean),
        cmocka_unit_test_setup_teardown(test_pickles, clean, clean),
        cmocka_unit_test_setup_teardown(test_ways_to_name, clean, clean),
        cmocka_unit_test_setup_teardown(test_python_floats, clean, clean),
        cmocka_unit_test_setup_teardown(test_truncated_while_open, clean, clean),
        cmocka_unit_test(test_shared),
    };
    return cmocka_run_group_tests(tests, NULL, remove_scratch);
}
