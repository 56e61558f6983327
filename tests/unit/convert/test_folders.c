/*
 * Hugging Face folders as GGUF files: every architecture's fixture computes the same from both, and
 * where shared data has the file that llama.cpp's converter made of the folder, ours has its tensors,
 * value for value, and its metadata.
 */
#include <dirent.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "convert/quantize.h"
#include "engine_calls.h"
#include "fixture.h"
#include "format/checkpoint.h"
#include "format/gguf.h"
#include "format/vocabulary.h"
#include "model_folder.h"
#include "sluice.h"
#include "text/tokenizer/tokenizer.h"

#define NAMES_MAX 128

static const char *output(void)
{
    static char path[1200];
    snprintf(path, sizeof path, "%s/folder.gguf", fixture_scratch());
    return path;
}

static enum status convert(const char *input, const char *type, struct error *err)
{
    unlink(output());
    const struct quantize_options options = {
        .input = input, .output = output(), .type = type, .n_threads = 2};
    return quantize_model(&options, NULL, err);
}

/* ---- the same results -------------------------------------------------------------------------- */

static sluice_engine *open_engine(const char *path)
{
    return must_open(&(sluice_engine_options){
        .model = path, .backend = "ref", .max_sequences = 1, .exact = true, .n_context = 64});
}

static struct buf rows_of(const char *path, bool hidden)
{
    static const int32_t ids[] = {5, 17, 200, 33, 41, 7,  90, 100, 250, 11,
                                  3, 64, 12,  13, 5,  17, 2,  9,   77,  130};
    sluice_engine *engine = open_engine(path);
    const sluice_request_options ask = {.tokens = ids,
                                        .n_tokens = sizeof ids / sizeof *ids,
                                        .mode = hidden ? SLUICE_SCORE_HIDDEN : SLUICE_SCORE_LOGITS};
    struct buf rows = must_score(engine, &ask);
    sluice_engine_close(engine);
    return rows;
}

/* Of all rows; releases both. */
static double error_of(struct buf *got, struct buf *expected)
{
    size_t n = expected->len / sizeof(float);
    assert_int_equal(got->len, expected->len);
    assert_true(n > 1000);
    double error = relative_error((const float *)(const void *)got->data,
                                  (const float *)(const void *)expected->data, n);
    buf_release(got);
    buf_release(expected);
    return error;
}

static bool gives_logits(const char *path)
{
    sluice_engine *engine = open_engine(path);
    sluice_model_info info;
    sluice_engine_info(engine, &info);
    sluice_engine_close(engine);
    return info.has_logits;
}

/* F16 is exact on the fixtures' few-valued weights, but for what is folded into them. */
static void compare_results(const char *input, const char *name, const char *type, double most)
{
    struct error err = {0};
    bool hidden = !gives_logits(input);
    if (convert(input, type, &err) != STATUS_OK)
        fail_msg("%s: %s", name, err.message);
    struct buf before = rows_of(input, hidden), after = rows_of(output(), hidden);
    double error = error_of(&after, &before);
    print_message("%-16s %s %.1e\n", name, type, error);
    if (!(error <= most))
        fail_msg("%s as %s: results differ by %.2e, at most %.0e", name, type, error, most);
}

/* ---- as llama.cpp's converter has it ----------------------------------------------------------- */

static struct checkpoint *open_path(const char *path)
{
    struct checkpoint *c;
    struct error err = {0};
    assert_ok(checkpoint_open(path, &c, &err), &err);
    return c;
}

static uint64_t count(const struct tensor *t)
{
    uint64_t n = 1;
    for (uint32_t i = 0; i < t->n_dims; i++)
        n *= t->dims[i];
    return n;
}

static void compare_tensor(const struct tensor *expected, const struct tensor *got,
                           const char *name)
{
    uint64_t n = count(expected);
    if (!got)
        fail_msg("%s: no tensor %.*s", name, STR_ARG(expected->name));
    if (got->n_dims != expected->n_dims || memcmp(got->dims, expected->dims, sizeof got->dims) != 0)
        fail_msg("%s: %.*s has another shape", name, STR_ARG(expected->name));
    float *a = malloc(n * sizeof *a), *b = malloc(n * sizeof *b);
    assert_true(a && b);
    tensor_type_info(expected->type)->decode(expected->data, a, n);
    tensor_type_info(got->type)->decode(got->data, b, n);
    for (uint64_t i = 0; i < n; i++)
        if (!(fabsf(a[i] - b[i]) <= 1e-6f * fabsf(a[i])))
            fail_msg("%s: %.*s[%llu] is %g, expected %g", name, STR_ARG(expected->name),
                     (unsigned long long)i, (double)b[i], (double)a[i]);
    free(a);
    free(b);
}

/* Keys that are about the file, its tokenizer (the folders have none), or need not be equal. */
static bool is_other(struct str key, const char *name)
{
    static const char *const starts[] = {"general.", "tokenizer.", "split."};
    static const struct {
        const char *name, *key;
    } known[] = {
        /* The fixture's config leaves it out; the converter wrote its library's default. */
        {"deepseek-v2", "deepseek2.attention.q_lora_rank"},
        {"modernbert", "modern-bert.hidden_activation"}, /* implied */
        {"modernbert", "modern-bert.rope.scaling.type"}, /* "none" */
        {"nemotron", "nemotron.rope.scaling.type"},
        {"cohere2", "cohere2.rope.scaling.type"},
    };
    for (size_t i = 0; i < sizeof starts / sizeof *starts; i++)
        if (str_starts(key, str_from(starts[i])))
            return true;
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (strcmp(name, known[i].name) == 0 && str_eq_cstr(key, known[i].key))
            return true;
    return false;
}

static void compare_value(const struct gguf_value *expected, const struct gguf_value *got,
                          const char *name)
{
    if (!got)
        fail_msg("%s: no key %.*s", name, STR_ARG(expected->key));
    bool text = expected->type == GGUF_STRING;
    if (text != (got->type == GGUF_STRING))
        fail_msg("%s: %.*s is of another kind", name, STR_ARG(expected->key));
    for (uint64_t i = 0; !text && i < expected->count; i++) {
        double a, b;
        if (!gguf_item_f64(expected, i, &a) ||
            !gguf_item_f64(got, got->type == GGUF_ARRAY ? i : 0, &b))
            fail_msg("%s: %.*s[%llu] is not there", name, STR_ARG(expected->key),
                     (unsigned long long)i);
        if (fabs(a - b) > 1e-6 * fabs(a))
            fail_msg("%s: %.*s[%llu] is %g, expected %g", name, STR_ARG(expected->key),
                     (unsigned long long)i, b, a);
    }
    if (text && (got->bytes != expected->bytes ||
                 memcmp(got->data, expected->data, (size_t)got->bytes) != 0))
        fail_msg("%s: %.*s is another text", name, STR_ARG(expected->key));
}

static void compare_twin(const char *path, const char *name)
{
    struct checkpoint *twin = open_path(path), *ours = open_path(output());
    for (size_t i = 0; i < checkpoint_tensor_count(twin); i++) {
        const struct tensor *t = checkpoint_tensor_at(twin, i);
        char full[200];
        snprintf(full, sizeof full, "%.*s", STR_ARG(t->name));
        compare_tensor(t, checkpoint_tensor(ours, full), name);
    }
    if (checkpoint_tensor_count(ours) != checkpoint_tensor_count(twin))
        fail_msg("%s: %zu tensors, expected %zu", name, checkpoint_tensor_count(ours),
                 checkpoint_tensor_count(twin));
    const struct gguf *a = checkpoint_gguf(twin), *b = checkpoint_gguf(ours);
    for (size_t i = 0; i < gguf_value_count(a); i++) {
        const struct gguf_value *value = gguf_value_at(a, i);
        char key[200];
        snprintf(key, sizeof key, "%.*s", STR_ARG(value->key));
        if (!is_other(value->key, name))
            compare_value(value, gguf_find(b, key), name);
    }
    checkpoint_close(twin);
    checkpoint_close(ours);
}

/* ---- the sets ---------------------------------------------------------------------------------- */

/* Families that GGUF has no architecture for. */
static bool is_refused(const char *name)
{
    return strcmp(name, "helium") == 0 || strcmp(name, "bitnet") == 0;
}

static void run_name(const char *root, const char *name)
{
    char input[1200], twin[1200];
    struct error err = {0};
    snprintf(input, sizeof input, "%s/hf/%s", root, name);
    snprintf(twin, sizeof twin, "%s/gguf/%s.gguf", root, name);
    if (is_refused(name)) {
        assert_int_equal(convert(input, "f16", &err), STATUS_UNSUPPORTED);
        if (!strstr(err.message, "cannot be written as GGUF") || !strstr(err.message, name))
            fail_msg("%s: %s", name, err.message);
        return;
    }
    compare_results(input, name, "f16", 2e-5);
    compare_results(input, name, "f32", 2e-5);
    if (file_exists(twin))
        compare_twin(twin, name);
}

static uint32_t run_set(const char *root)
{
    char path[1200], names[NAMES_MAX][64];
    uint32_t n = 0;
    snprintf(path, sizeof path, "%s/hf", root);
    DIR *folder = opendir(path);
    assert_non_null(folder);
    for (struct dirent *entry; (entry = readdir(folder)) && n < NAMES_MAX;)
        if (entry->d_name[0] != '.')
            snprintf(names[n++], sizeof names[0], "%.63s", entry->d_name);
    closedir(folder);
    for (uint32_t i = 0; i < n; i++)
        run_name(root, names[i]);
    print_message("%u folders\n", n);
    return n;
}

static void test_committed(void **state)
{
    (void)state;
    char root[1100];
    snprintf(root, sizeof root, "%s", fixture_path("tests/data/arch"));
    assert_true(run_set(root) >= 12);
}

static void test_shared(void **state)
{
    (void)state;
    char root[1100];
    if (!fixture_shared("data/arch"))
        skip();
    snprintf(root, sizeof root, "%s", fixture_shared("data/arch"));
    assert_int_equal(run_set(root), 60);
}

/* ---- options ----------------------------------------------------------------------------------- */

/* Configs with options that their fixtures leave out, over the same weights. */
static void test_variants(void **state)
{
    (void)state;
    static const struct {
        const char *fixture, *changes;
    } cases[] = {
        {"llama",
         "{\"rope_parameters\": {\"rope_type\": \"linear\", \"factor\": 3, \"rope_theta\": 5000}}"},
        {"llama",
         "{\"rope_parameters\": null, \"rope_theta\": 1000, \"rope_scaling\": {\"type\": \"yarn\", "
         "\"factor\": 4, \"original_max_position_embeddings\": 32}}"},
        {"qwen3",
         "{\"rope_parameters\": {\"rope_type\": \"yarn\", \"factor\": 8, \"attention_factor\": "
         "0.7, \"original_max_position_embeddings\": 16, \"beta_fast\": 20}}"},
        {"qwen3", "{\"rope_parameters\": {\"rope_type\": \"dynamic\", \"factor\": 8}}"},
        {"gemma3", "{\"final_logit_softcapping\": 2.5, \"sliding_window\": 5}"},
        {"mistral-swa", "{\"sliding_window\": null}"},
        {"lfm2", "{\"intermediate_size\": 190, \"norm_eps\": 0.01}"},
        {"bert", "{\"layer_norm_eps\": 0.01}"},
        {"qwen3-moe", "{\"num_experts_per_tok\": 3}"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        compare_results(model_folder(cases[i].fixture, cases[i].changes), cases[i].fixture, "f32",
                        2e-5);
}

static void test_shared_variants(void **state)
{
    (void)state;
    static const struct {
        const char *fixture, *changes;
    } cases[] = {
        {"falcon-h1", "{\"attention_in_multiplier\": 0.7, \"attention_out_multiplier\": 1.3, "
                      "\"key_multiplier\": 1.5, "
                      "\"embedding_multiplier\": 2.5, \"lm_head_multiplier\": 0.3, "
                      "\"mlp_multipliers\": [0.8, 1.2], "
                      "\"ssm_in_multiplier\": 1.1, \"ssm_out_multiplier\": 0.9, "
                      "\"ssm_multipliers\": [0.5, 0.75, 1.25, 1.5, 0.6]}"},
        {"hunyuan",
         "{\"rope_parameters\": {\"rope_type\": \"dynamic\", \"alpha\": 50, \"factor\": 1}}"},
        {"deepseek-v2", "{\"rope_parameters\": {\"rope_type\": \"yarn\", \"factor\": 40, "
                        "\"original_max_position_embeddings\": 32, \"mscale\": 0.7, "
                        "\"mscale_all_dim\": 0.7}}"},
        {"deepseek-v3", "{\"routed_scaling_factor\": 1.5, \"norm_topk_prob\": false}"},
        {"gemma3n", "{\"activation_sparsity_pattern\": [0.9, 0.8, 0.0, 0.0, 0.0], "
                    "\"num_kv_shared_layers\": 0}"},
        {"granite-hybrid", "{\"residual_multiplier\": 0.3, \"position_embedding_type\": \"nope\"}"},
        {"granite", "{\"attention_multiplier\": 0.05, \"logits_scaling\": 3}"},
        {"minimax-m2", "{\"rotary_dim\": null, \"rope_parameters\": {\"rope_theta\": 10000, "
                       "\"partial_rotary_factor\": 0.25}}"},
        {"phi3", "{\"original_max_position_embeddings\": 32, \"rope_parameters\": {\"rope_type\": "
                 "\"longrope\", \"rope_theta\": 10000, \"original_max_position_embeddings\": 32, "
                 "\"long_factor\": [1,1,1,1,2,2,2,2,3,3,3,3,4,4,4,4], "
                 "\"short_factor\": [1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1]}}"},
        {"xlm-roberta", "{\"pad_token_id\": 4}"},
    };
    if (!fixture_shared("data/arch/hf"))
        skip();
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char path[1200];
        snprintf(path, sizeof path, "%s/%s", fixture_shared("data/arch/hf"), cases[i].fixture);
        compare_results(model_folder(path, cases[i].changes), cases[i].fixture, "f32", 2e-5);
    }
}

/* What a GGUF file cannot say, or what makes no model, is an error that names it. */
static void test_refused(void **state)
{
    (void)state;
    static const struct {
        const char *fixture, *changes;
        enum status status;
        const char *says;
    } cases[] = {
        {"llama", "{\"model_type\": null}", STATUS_MODEL, "model_type is missing"},
        {"llama", "{\"num_hidden_layers\": null}", STATUS_MODEL, "num_hidden_layers is missing"},
        {"llama", "{\"num_hidden_layers\": 0}", STATUS_MODEL, "num_hidden_layers is 0"},
        {"llama", "{\"num_hidden_layers\": 2000000000}", STATUS_MODEL,
         "num_hidden_layers is 2000000000"},
        {"llama", "{\"num_hidden_layers\": -3}", STATUS_MODEL, "num_hidden_layers is not a whole"},
        {"llama", "{\"num_hidden_layers\": \"3\"}", STATUS_MODEL,
         "num_hidden_layers is not a whole"},
        {"llama", "{\"hidden_size\": null}", STATUS_MODEL, "hidden_size is missing"},
        {"llama", "{\"hidden_size\": 1e18}", STATUS_MODEL, "hidden_size is not a whole"},
        {"llama", "{\"num_key_value_heads\": 900}", STATUS_MODEL, "num_key_value_heads 900"},
        {"llama", "{\"head_dim\": 1000000}", STATUS_MODEL, "head_dim is 1000000"},
        {"llama", "{\"head_dim\": 7}", STATUS_MODEL, "no whole heads of 7 rows"},
        {"llama", "{\"rms_norm_eps\": \"x\"}", STATUS_MODEL, "rms_norm_eps is not a number"},
        {"llama", "{\"rms_norm_eps\": 4}", STATUS_MODEL, "epsilon is 4"},
        {"llama", "{\"hidden_act\": \"gelu\"}", STATUS_UNSUPPORTED, "the activation is \"gelu\""},
        {"llama", "{\"rope_parameters\": {\"rope_type\": \"new\", \"factor\": 2}}",
         STATUS_UNSUPPORTED, "rope scaling is \"new\""},
        {"llama", "{\"rope_parameters\": {\"rope_type\": \"linear\", \"factor\": -2}}",
         STATUS_MODEL, "rope scaling factor -2"},
        {"llama", "{\"rope_parameters\": {\"rope_theta\": 0}}", STATUS_MODEL, "rope_theta is 0"},
        {"llama3-rope",
         "{\"rope_parameters\": {\"rope_type\": \"llama3\", \"factor\": 8, "
         "\"low_freq_factor\": 4, \"high_freq_factor\": 1}}",
         STATUS_MODEL, "low_freq_factor 4"},
        {"llama", "{\"partial_rotary_factor\": 3}", STATUS_MODEL, "partial_rotary_factor is 3"},
        {"qwen2", "{\"use_sliding_window\": true}", STATUS_UNSUPPORTED,
         "use_sliding_window is true"},
        {"qwen3-moe", "{\"norm_topk_prob\": false}", STATUS_UNSUPPORTED,
         "norm_topk_prob is 0, not 1"},
        {"qwen3-moe", "{\"num_experts\": 9}", STATUS_MODEL, "experts.8."},
        {"qwen3-moe", "{\"num_experts\": 4000000}", STATUS_MODEL, "4000000 experts"},
        {"gemma3", "{\"sliding_window\": null}", STATUS_MODEL, "sliding_window is missing"},
        {"gemma3", "{\"query_pre_attn_scalar\": 17}", STATUS_UNSUPPORTED, "query_pre_attn_scalar"},
        {"lfm2", "{\"conv_L_cache\": null}", STATUS_MODEL, "conv_L_cache is missing"},
        {"bert", "{\"position_embedding_type\": \"relative_key\"}", STATUS_UNSUPPORTED,
         "relative_key"},
        {"llama", "{\"model_type\": \"mamba2\"}", STATUS_UNSUPPORTED,
         "has no place in a GGUF file of mamba2"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct error err = {0};
        enum status status = convert(model_folder(cases[i].fixture, cases[i].changes), "f32", &err);
        if (status != cases[i].status || !strstr(err.message, cases[i].says))
            fail_msg("%s %s: %s: %s", cases[i].fixture, cases[i].changes, status_name(status),
                     err.message);
        assert_false(file_exists(output()));
    }
}

/* ---- tokenizers -------------------------------------------------------------------------------- */

static struct token_list encode(const struct vocabulary *v, const char *text)
{
    struct tokenizer *t;
    struct token_list ids = {0};
    struct error err = {0};
    const struct tokenizer_options options = {.add_bos = true, .specials = TOKENIZER_SPECIALS_ALL};
    assert_ok(tokenizer_create(v, &t, &err), &err);
    assert_ok(tokenizer_encode(t, str_from(text), NULL, 0, &options, &ids, &err), &err);
    tokenizer_free(t);
    return ids;
}

/* A folder's tokenizer encodes the same from the GGUF file: every kind and pattern that GGUF has. */
static void test_tokenizers(void **state)
{
    (void)state;
    static const char *const names[] = {"llama3",       "qwen3", "deepseek_v3",     "gpt4o",
                                        "mistral_nemo", "mpt",   "bert_base_cased", "gte"};
    static const char *const texts[] = {"Hello, World! It's 12345 o'clock; she'll go.",
                                        "  d\u00e9j\u00e0 vu \u4f60\u597d\n\n\tint x = 0x1F;",
                                        "THE quick (brown) f\u00d6x"};
    if (!fixture_shared("data/tokenizers/hf"))
        skip();
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        char path[1300], file[1300];
        struct vocabulary before, after;
        struct checkpoint *c;
        struct error err = {0};
        snprintf(path, sizeof path, "%s/%s/tokenizer.json", fixture_shared("data/tokenizers/hf"),
                 names[i]);
        const char *folder = model_folder("llama", "{}");
        snprintf(file, sizeof file, "%s/tokenizer.json", folder);
        assert_int_equal(symlink(path, file), 0);
        if (convert(folder, "f16", &err) != STATUS_OK)
            fail_msg("%s: %s", names[i], err.message);
        c = open_path(folder);
        assert_ok(vocabulary_from_checkpoint(c, &before, &err), &err);
        checkpoint_close(c);
        c = open_path(output());
        assert_ok(vocabulary_from_gguf(checkpoint_gguf(c), &after, &err), &err);
        for (size_t t = 0; t < sizeof texts / sizeof *texts; t++) {
            struct token_list a = encode(&before, texts[t]), b = encode(&after, texts[t]);
            if (a.count != b.count || memcmp(a.ids, b.ids, a.count * sizeof *a.ids) != 0)
                fail_msg("%s: text %zu: %zu tokens, were %zu", names[i], t, b.count, a.count);
            assert_true(a.count > 5);
            token_list_release(&a);
            token_list_release(&b);
        }
        vocabulary_release(&before);
        vocabulary_release(&after);
        checkpoint_close(c);
    }
}

int main(int argc, char **argv)
{
    if (argc > 1) { /* names: only these, of the shared set */
        char root[1100];
        snprintf(root, sizeof root, "%s", fixture_shared("data/arch"));
        for (int i = 1; i < argc; i++)
            run_name(root, argv[i]);
        return 0;
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_committed),       cmocka_unit_test(test_variants),
        cmocka_unit_test(test_refused),         cmocka_unit_test(test_shared),
        cmocka_unit_test(test_shared_variants), cmocka_unit_test(test_tokenizers),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
