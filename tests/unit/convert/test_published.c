/*
 * Folders as makers and mlx-lm publish them: gpt-oss with MXFP4 experts in blocks and scales, the same
 * model as mlx-lm writes it (gate and up apart), and stacks of experts under the name switch_mlp. Each is
 * written here from one set of random weights, and must compute what the plain folder does: of gpt-oss, the
 * one with inputs along the rows that golden/test_architectures compares with the makers' own logits. So
 * must the GGUF files that quantize makes of them.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "convert/quantize.h"
#include "engine_calls.h"
#include "fixture.h"
#include "format/checkpoint.h"
#include "random.h"
#include "safetensors_file.h"
#include "sluice.h"

enum { LAYERS = 2, WIDTH = 64, HEADS = 4, KV = 2, HEAD = 32, FF = 96, EXPERTS = 4, VOCAB = 160 };

/* ---- writing a folder -------------------------------------------------------------------------- */

struct folder {
    char path[1100];
    struct safetensors_file file;
};

static void begin(struct folder *f, const char *name)
{
    *f = (struct folder){.path = ""};
    snprintf(f->path, sizeof f->path, "%s/%s", fixture_scratch(), name);
    mkdir(f->path, 0755);
}

static uint64_t draws = 1;

/* F32 values between -scale and scale, the same for the same name whichever folder asks. */
static float *values_of(const char *name, size_t n, float scale)
{
    float *values = malloc(n * sizeof *values);
    assert_non_null(values);
    draws = 7;
    for (const char *c = name; *c; c++)
        draws = draws * 31 + (uint64_t)*c;
    for (size_t i = 0; i < n; i++)
        values[i] = scale * ((float)(random_u32(&draws) % 2001) / 1000.0f - 1.0f);
    return values;
}

static void add_random(struct folder *f, const char *name, unsigned n_dims, const uint64_t *dims,
                       float scale)
{
    size_t n = 1;
    for (unsigned i = 0; i < n_dims; i++)
        n *= (size_t)dims[i];
    float *values = values_of(name, n, scale);
    safetensors_file_add(&f->file, name, "F32", n_dims, dims, values, n * sizeof *values);
    free(values);
}

#define DIMS(...)                                                                                  \
    (const uint64_t[])                                                                             \
    {                                                                                              \
        __VA_ARGS__                                                                                \
    }

/* ---- gpt-oss ----------------------------------------------------------------------------------- */

#define CONFIG(more)                                                                               \
    "{\"model_type\": \"gpt_oss\", \"architectures\": [\"GptOssForCausalLM\"], "                   \
    "\"num_hidden_layers\": 2,"                                                                    \
    "\"hidden_size\": 64, \"num_attention_heads\": 4, \"num_key_value_heads\": 2, \"head_dim\": "  \
    "32, "                                                                                         \
    "\"intermediate_size\": 96, \"num_local_experts\": 4, \"num_experts_per_tok\": 2, "            \
    "\"sliding_window\": 8, \"vocab_size\": 160, \"max_position_embeddings\": 256, "               \
    "\"rms_norm_eps\": 1e-5, \"tie_word_embeddings\": false, \"layer_types\": "                    \
    "[\"sliding_attention\", "                                                                     \
    "\"full_attention\"], \"rope_theta\": 150000, \"rope_scaling\": {\"rope_type\": \"yarn\", "    \
    "\"factor\": 32.0, \"beta_fast\": 32.0, \"beta_slow\": 1.0, \"truncate\": false, "             \
    "\"original_max_position_embeddings\": 4096}" more "}"

static void layer_name(char out[128], int layer, const char *part)
{
    snprintf(out, 128, "model.layers.%d.%s", layer, part);
}

static void add_attention(struct folder *f, int l)
{
    static const struct {
        const char *part;
        uint64_t rows, cols;
    } matrices[] = {{"self_attn.q_proj", HEADS * HEAD, WIDTH},
                    {"self_attn.k_proj", KV * HEAD, WIDTH},
                    {"self_attn.v_proj", KV * HEAD, WIDTH},
                    {"self_attn.o_proj", WIDTH, HEADS * HEAD},
                    {"mlp.router", EXPERTS, WIDTH}};
    static const char *const norms[] = {"input_layernorm.weight",
                                        "post_attention_layernorm.weight"};
    char part[96], name[128];
    for (size_t i = 0; i < sizeof matrices / sizeof *matrices; i++) {
        snprintf(part, sizeof part, "%s.weight", matrices[i].part);
        layer_name(name, l, part);
        add_random(f, name, 2, DIMS(matrices[i].rows, matrices[i].cols), 0.2f);
        snprintf(part, sizeof part, "%s.bias", matrices[i].part);
        layer_name(name, l, part);
        add_random(f, name, 1, DIMS(matrices[i].rows), 0.3f);
    }
    for (size_t i = 0; i < 2; i++) {
        layer_name(name, l, norms[i]);
        add_random(f, name, 1, DIMS(WIDTH), 1.0f);
    }
    layer_name(name, l, "self_attn.sinks");
    add_random(f, name, 1, DIMS(HEADS), 1.0f);
}

static void add_rest(struct folder *f)
{
    add_random(f, "model.embed_tokens.weight", 2, DIMS(VOCAB, WIDTH), 1.0f);
    add_random(f, "lm_head.weight", 2, DIMS(VOCAB, WIDTH), 0.3f);
    add_random(f, "model.norm.weight", 1, DIMS(WIDTH), 1.0f);
}

/* Experts in MXFP4, outputs along the rows: code i of a block of 32 is the low nibble of byte i / 2 for
 * even i, else the high one; the scale is 2^(byte - 127). */
struct mxfp4 {
    size_t rows, cols; /* of all experts together */
    uint8_t *codes, *scales;
    float *values; /* what they mean */
};

static struct mxfp4 random_mxfp4(const char *name, size_t rows, size_t cols)
{
    static const float levels[8] = {0.0f, 0.5f, 1.0f, 1.5f, 2.0f, 3.0f, 4.0f, 6.0f};
    struct mxfp4 m = {rows, cols, malloc(rows * cols / 2), malloc(rows * cols / 32),
                      malloc(rows * cols * sizeof(float))};
    assert_true(m.codes && m.scales && m.values);
    float *noise = values_of(name, rows * cols, 1.0f);
    for (size_t i = 0; i < rows * cols; i++) {
        uint8_t code = (uint8_t)((random_u32(&draws) & 7) | (noise[i] < 0.0f ? 8 : 0));
        if (i % 32 == 0)
            m.scales[i / 32] = (uint8_t)(122 + random_u32(&draws) % 3);
        m.codes[i / 2] = (uint8_t)(i % 2 ? m.codes[i / 2] | code << 4 : code);
        m.values[i] =
            (code & 8 ? -1.0f : 1.0f) * levels[code & 7] * ldexpf(1.0f, m.scales[i / 32] - 127);
    }
    free(noise);
    return m;
}

static void free_mxfp4(struct mxfp4 *m)
{
    free(m->codes);
    free(m->scales);
    free(m->values);
}

/* [experts, rows, cols] -> [experts, cols, rows]: the plain form. */
static void add_turned(struct folder *f, const char *name, const struct mxfp4 *m)
{
    size_t rows = m->rows / EXPERTS, cols = m->cols;
    float *turned = malloc(m->rows * cols * sizeof *turned);
    assert_non_null(turned);
    for (size_t e = 0; e < EXPERTS; e++)
        for (size_t r = 0; r < rows; r++)
            for (size_t c = 0; c < cols; c++)
                turned[(e * cols + c) * rows + r] = m->values[(e * rows + r) * cols + c];
    safetensors_file_add(&f->file, name, "F32", 3, DIMS(EXPERTS, cols, rows), turned,
                         m->rows * cols * sizeof *turned);
    free(turned);
}

static void add_published(struct folder *f, const char *name, const struct mxfp4 *m)
{
    char full[160];
    snprintf(full, sizeof full, "%s_blocks", name);
    safetensors_file_add(&f->file, full, "U8", 4,
                         DIMS(EXPERTS, m->rows / EXPERTS, m->cols / 32, 16), m->codes,
                         m->rows * m->cols / 2);
    snprintf(full, sizeof full, "%s_scales", name);
    safetensors_file_add(&f->file, full, "U8", 3, DIMS(EXPERTS, m->rows / EXPERTS, m->cols / 32),
                         m->scales, m->rows * m->cols / 32);
}

/* Every `step`-th row from `first` on, as mlx-lm packs it: eight codes in a word. */
static void add_mlx(struct folder *f, const char *name, const struct mxfp4 *m, size_t first,
                    size_t step)
{
    char full[160];
    size_t rows = m->rows / step, code = m->cols / 2, scale = m->cols / 32;
    uint8_t *codes = malloc(rows * code), *scales = malloc(rows * scale);
    assert_true(codes && scales);
    for (size_t r = 0; r < rows; r++) {
        memcpy(codes + r * code, m->codes + (r * step + first) * code, code);
        memcpy(scales + r * scale, m->scales + (r * step + first) * scale, scale);
    }
    snprintf(full, sizeof full, "%s.weight", name);
    safetensors_file_add(&f->file, full, "U32", 3, DIMS(EXPERTS, rows / EXPERTS, m->cols / 8),
                         codes, rows * code);
    snprintf(full, sizeof full, "%s.scales", name);
    safetensors_file_add(&f->file, full, "U8", 3, DIMS(EXPERTS, rows / EXPERTS, scale), scales,
                         rows * scale);
    free(codes);
    free(scales);
}

enum form { PLAIN, PUBLISHED, MLX };

static void add_biases(struct folder *f, int l, enum form form)
{
    char name[128], other[128];
    layer_name(name, l, "mlp.experts.gate_up_proj_bias");
    float *both = values_of(name, EXPERTS * 2 * FF, 0.3f);
    if (form == MLX) {
        float half[EXPERTS * FF];
        for (int h = 0; h < 2; h++) {
            for (int i = 0; i < EXPERTS * FF; i++)
                half[i] = both[2 * i + h];
            layer_name(other, l, h ? "mlp.experts.up_proj.bias" : "mlp.experts.gate_proj.bias");
            safetensors_file_add(&f->file, other, "F32", 2, DIMS(EXPERTS, FF), half, sizeof half);
        }
    } else {
        safetensors_file_add(&f->file, name, "F32", 2, DIMS(EXPERTS, 2 * FF), both,
                             EXPERTS * 2 * FF * sizeof *both);
    }
    free(both);
    layer_name(name, l, "mlp.experts.down_proj_bias");
    float *down = values_of(name, EXPERTS * WIDTH, 0.3f);
    layer_name(other, l, "mlp.experts.down_proj.bias");
    safetensors_file_add(&f->file, form == MLX ? other : name, "F32", 2, DIMS(EXPERTS, WIDTH), down,
                         EXPERTS * WIDTH * sizeof *down);
    free(down);
}

static void add_experts(struct folder *f, int l, enum form form)
{
    char both[128], down[128], name[128];
    layer_name(both, l, "mlp.experts.gate_up_proj");
    layer_name(down, l, "mlp.experts.down_proj");
    struct mxfp4 up = random_mxfp4(both, EXPERTS * 2 * FF, WIDTH);
    struct mxfp4 out = random_mxfp4(down, EXPERTS * WIDTH, FF);
    if (form == PLAIN) {
        add_turned(f, both, &up);
        add_turned(f, down, &out);
    } else if (form == PUBLISHED) {
        add_published(f, both, &up);
        add_published(f, down, &out);
    } else {
        layer_name(name, l, "mlp.experts.gate_proj");
        add_mlx(f, name, &up, 0, 2);
        layer_name(name, l, "mlp.experts.up_proj");
        add_mlx(f, name, &up, 1, 2);
        add_mlx(f, down, &out, 0, 1);
    }
    free_mxfp4(&up);
    free_mxfp4(&out);
    add_biases(f, l, form);
}

static void write_gpt_oss(struct folder *f, enum form form)
{
    static const char *const configs[] = {
        CONFIG(""), CONFIG(", \"quantization_config\": {\"quant_method\": \"mxfp4\"}"),
        CONFIG(", \"quantization\": {\"group_size\": 32, \"bits\": 4, \"mode\": \"mxfp4\"}")};
    static const char *const names[] = {"plain", "published", "mlx"};
    begin(f, names[form]);
    add_rest(f);
    for (int l = 0; l < LAYERS; l++) {
        add_attention(f, l);
        add_experts(f, l, form);
    }
    safetensors_file_write(&f->file, f->path, configs[form]);
}

/* ---- results ----------------------------------------------------------------------------------- */

static struct buf rows_of(const char *path)
{
    static const int32_t ids[] = {5, 17, 120, 33, 41, 7, 90, 100, 150, 11, 3, 64, 12, 13, 5, 17};
    sluice_engine *engine = must_open(&(sluice_engine_options){
        .model = path, .backend = "ref", .max_sequences = 1, .exact = true, .n_context = 64});
    const sluice_request_options ask = {
        .tokens = ids, .n_tokens = sizeof ids / sizeof *ids, .mode = SLUICE_SCORE_LOGITS};
    struct buf rows = must_score(engine, &ask);
    sluice_engine_close(engine);
    return rows;
}

static void same(const char *a, const char *b, double most)
{
    struct buf x = rows_of(a), y = rows_of(b);
    const float *first = (const float *)(const void *)x.data;
    size_t n = x.len / sizeof *first;
    double size = 0.0;
    assert_int_equal(x.len, y.len);
    assert_true(n > 1000);
    for (size_t i = 0; i < n; i++)
        size += (double)first[i] * (double)first[i];
    double error = relative_error((const float *)(const void *)y.data, first, n);
    buf_release(&x);
    buf_release(&y);
    if (!(error <= most) || !(size > 1.0))
        fail_msg("%s and %s differ by %.2e", a, b, error);
}

static const char *convert(const char *input, const char *type)
{
    static char output[1200];
    struct error err = {0};
    snprintf(output, sizeof output, "%s/converted.gguf", fixture_scratch());
    const struct quantize_options options = {
        .input = input, .output = output, .type = type, .n_threads = 2};
    assert_ok(quantize_model(&options, NULL, &err), &err);
    return output;
}

static void test_gpt_oss(void **state)
{
    (void)state;
    struct folder forms[3];
    for (int form = PLAIN; form <= MLX; form++)
        write_gpt_oss(&forms[form], (enum form)form);
    for (int form = PLAIN; form <= MLX; form++) {
        same(forms[PLAIN].path, forms[form].path, 1e-6);
        same(forms[PLAIN].path, convert(forms[form].path, "f32"), 1e-6);
    }
    /* The experts stay what they are, byte for byte. */
    struct checkpoint *c;
    struct error err = {0};
    assert_ok(checkpoint_open(convert(forms[PUBLISHED].path, "mxfp4_moe"), &c, &err), &err);
    const struct tensor *t = checkpoint_tensor(c, "blk.1.ffn_up_exps.weight");
    assert_non_null(t);
    assert_int_equal(t->type, TENSOR_MXFP4);
    struct mxfp4 up =
        random_mxfp4("model.layers.1.mlp.experts.gate_up_proj", EXPERTS * 2 * FF, WIDTH);
    float *values = malloc(EXPERTS * FF * WIDTH * sizeof *values);
    assert_non_null(values);
    tensor_type_info(TENSOR_MXFP4)->decode(t->data, values, EXPERTS * FF * WIDTH);
    for (size_t i = 0; i < EXPERTS * FF * WIDTH; i++)
        assert_true(values[i] == up.values[(2 * (i / WIDTH) + 1) * WIDTH + i % WIDTH]);
    free(values);
    free_mxfp4(&up);
    checkpoint_close(c);
}

/* ---- stacks of mlx-lm -------------------------------------------------------------------------- */

/* A committed fixture with its single experts as stacks of the name that mlx-lm gives them. */
static void write_stacks(struct folder *f, const char *fixture, const char *experts)
{
    static const char *const parts[][2] = {
        {"gate_proj", "w1"}, {"down_proj", "w2"}, {"up_proj", "w3"}};
    char path[1200];
    struct checkpoint *c;
    struct error err = {0};
    snprintf(path, sizeof path, "%s", fixture_path(fixture));
    assert_ok(checkpoint_open(path, &c, &err), &err);
    begin(f, strrchr(fixture, '/') + 1);
    for (size_t i = 0; i < checkpoint_tensor_count(c); i++) {
        const struct tensor *t = checkpoint_tensor_at(c, i);
        char name[300];
        snprintf(name, sizeof name, "%.*s", STR_ARG(t->name));
        char *at = strstr(name, experts);
        if (!at) {
            safetensors_file_add(&f->file, name, "BF16", t->n_dims, t->dims, t->data,
                                 (size_t)t->bytes);
            continue;
        }
        if (strncmp(at + strlen(experts), "0.", 2) != 0)
            continue;
        struct buf all = {0};
        const char *part = at + strlen(experts) + 2;
        char full[400], stack[400];
        const struct tensor *one;
        for (unsigned e = 0;; e++) {
            snprintf(full, sizeof full, "%.*s%s%u.%s", (int)(at - name), name, experts, e, part);
            if (!(one = checkpoint_tensor(c, full)))
                break;
            buf_append(&all, one->data, (size_t)one->bytes);
        }
        const char *word = NULL;
        for (size_t p = 0; p < 3; p++)
            if (strncmp(part, parts[p][0], strlen(parts[p][0])) == 0 ||
                strncmp(part, parts[p][1], strlen(parts[p][1])) == 0)
                word = parts[p][0];
        assert_non_null(word);
        snprintf(stack, sizeof stack, "%.*s%.*sswitch_mlp.%s.weight", (int)(at - name), name,
                 (int)(strlen(experts) - strlen("experts.")), experts, word);
        safetensors_file_add(&f->file, stack, "BF16", 3,
                             DIMS(all.len / t->bytes, t->dims[0], t->dims[1]), all.data, all.len);
        buf_release(&all);
    }
    checkpoint_close(c);
    snprintf(path, sizeof path, "%s/config.json", fixture_path(fixture));
    struct buf config = fixture_read(path);
    buf_append_char(&config, 0);
    safetensors_file_write(&f->file, f->path, config.data);
    buf_release(&config);
}

static void test_switch_mlp(void **state)
{
    (void)state;
    static const struct {
        const char *fixture, *experts;
    } cases[] = {{"tests/data/arch/hf/qwen3-moe", "mlp.experts."},
                 {"tests/data/arch/hf/mixtral", "block_sparse_moe.experts."}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct folder f;
        char plain[1200];
        write_stacks(&f, cases[i].fixture, cases[i].experts);
        snprintf(plain, sizeof plain, "%s", fixture_path(cases[i].fixture));
        same(plain, f.path, 0.0);
        same(plain, convert(f.path, "f16"), 1e-6);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_gpt_oss),
        cmocka_unit_test(test_switch_mlp),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
