/* The shapes: hyperparameters as the models' own config.json files give them. */
#include "convert/synth_shapes.h"

#include <string.h>

#include "convert/synth.h"

/* ---- families ---------------------------------------------------------------------------------- */

static const struct synth_special llama3_specials[] = {
    {0, "<|begin_of_text|>", false},
    {1, "<|end_of_text|>", false},
    {4, "<|finetune_right_pad_id|>", false},
    {6, "<|start_header_id|>", false},
    {7, "<|end_header_id|>", false},
    {8, "<|eom_id|>", false},
    {9, "<|eot_id|>", false},
    {10, "<|python_tag|>", false},
};

static const struct synth_family llama3 = {
    .pre = "llama-bpe",
    .specials = llama3_specials,
    .n_specials = sizeof llama3_specials / sizeof *llama3_specials,
    .bos = 0,
    .eos = 9,
    .eot = 9,
    .pad = 4,
    .add_bos = true,
    .chat_template =
        "{{ bos_token }}{% for message in messages %}<|start_header_id|>{{ message.role }}"
        "<|end_header_id|>\n\n{{ message.content | trim }}<|eot_id|>{% endfor %}"
        "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif "
        "%}",
};

static const struct synth_special qwen_specials[] = {
    {0, "<|endoftext|>", false},    {1, "<|im_start|>", false}, {2, "<|im_end|>", false},
    {14, "<tool_call>", true},      {15, "</tool_call>", true}, {22, "<tool_response>", true},
    {23, "</tool_response>", true}, {24, "<think>", true},      {25, "</think>", true},
};

static const struct synth_family qwen = {
    .pre = "qwen2",
    .specials = qwen_specials,
    .n_specials = sizeof qwen_specials / sizeof *qwen_specials,
    .bos = 0,
    .eos = 2,
    .eot = 2,
    .pad = 0,
    .chat_template = "{% for message in messages %}<|im_start|>{{ message.role }}\n"
                     "{{ message.content }}<|im_end|>\n{% endfor %}"
                     "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
};

static const struct synth_special harmony_specials[] = {
    {0, "<|startoftext|>", false},  {1, "<|endoftext|>", false}, {4, "<|return|>", false},
    {5, "<|constrain|>", false},    {7, "<|channel|>", false},   {8, "<|start|>", false},
    {9, "<|end|>", false},          {10, "<|message|>", false},  {14, "<|call|>", false},
    {20, "<|endofprompt|>", false},
};

static const struct synth_family harmony = {
    .pre = "gpt-4o",
    .specials = harmony_specials,
    .n_specials = sizeof harmony_specials / sizeof *harmony_specials,
    .bos = 0,
    .eos = 4,
    .eot = 4,
    .pad = 1,
    .chat_template =
        "{% for message in messages %}<|start|>{{ message.role }}<|message|>{{ message.content }}"
        "<|end|>{% endfor %}{% if add_generation_prompt %}<|start|>assistant{% endif %}",
};

/* ---- shapes ------------------------------------------------------------------------------------ */

#define LLAMA3(factor)                                                                             \
    .architecture = "llama", .family = &llama3, .n_vocab = 128256, .first_special = 128000,        \
    .n_context = 131072, .rope_theta = 500000.0, .rope_factor = factor, .norm_eps = 1e-5f
#define QWEN3(name)                                                                                \
    .architecture = name, .family = &qwen, .n_vocab = 151936, .first_special = 151643,             \
    .n_context = 40960, .rope_theta = 1000000.0, .norm_eps = 1e-6f, .head_norms = true
#define GPT_OSS                                                                                    \
    .architecture = "gpt-oss", .family = &harmony, .n_context = 131072, .rope_theta = 150000.0,    \
    .norm_eps = 1e-5f
#define HEADS(query, key, dim) .n_heads = query, .n_kv_heads = key, .head_dim = dim
#define EXPERTS(all, used, ff) .n_experts = all, .n_experts_used = used, .expert_ff = ff

static const struct synth_shape shapes[] = {
    {"llama-1b", "Llama 3.2 1B", LLAMA3(32.0), .n_layers = 16, .width = 2048, HEADS(32, 8, 64),
     .n_ff = 8192, .tied = true},
    {"llama-3b", "Llama 3.2 3B", LLAMA3(32.0), .n_layers = 28, .width = 3072, HEADS(24, 8, 128),
     .n_ff = 8192, .tied = true},
    {"llama-8b", "Llama 3.1 8B", LLAMA3(8.0), .n_layers = 32, .width = 4096, HEADS(32, 8, 128),
     .n_ff = 14336},
    {"llama-70b", "Llama 3.3 70B", LLAMA3(8.0), .n_layers = 80, .width = 8192, HEADS(64, 8, 128),
     .n_ff = 28672},
    {"qwen3-0.6b", "Qwen3 0.6B", QWEN3("qwen3"), .n_layers = 28, .width = 1024, HEADS(16, 8, 128),
     .n_ff = 3072, .tied = true},
    {"qwen3-1.7b", "Qwen3 1.7B", QWEN3("qwen3"), .n_layers = 28, .width = 2048, HEADS(16, 8, 128),
     .n_ff = 6144, .tied = true},
    {"qwen3-4b", "Qwen3 4B", QWEN3("qwen3"), .n_layers = 36, .width = 2560, HEADS(32, 8, 128),
     .n_ff = 9728, .tied = true},
    {"qwen3-8b", "Qwen3 8B", QWEN3("qwen3"), .n_layers = 36, .width = 4096, HEADS(32, 8, 128),
     .n_ff = 12288},
    {"qwen3-30b-a3b", "Qwen3 30B-A3B: 128 experts, 8 used", QWEN3("qwen3moe"), .n_layers = 48,
     .width = 2048, HEADS(32, 4, 128), .n_ff = 6144, EXPERTS(128, 8, 768)},
    {"gpt-oss-20b", "gpt-oss 20B: 32 experts, 4 used (type mxfp4_moe)", GPT_OSS, .n_layers = 24,
     .width = 2880, HEADS(64, 8, 64), .n_ff = 2880, EXPERTS(32, 4, 2880), .n_vocab = 201088,
     .first_special = 199998, .window = 128},
    /* Not models of anybody: small ones of both kinds for tests. */
    {"moe-small", "0.4B of experts: 32, 4 used, of which 0.1B work", QWEN3("qwen3moe"),
     .n_layers = 8, .width = 1024, HEADS(16, 4, 64), .n_ff = 2048, EXPERTS(32, 4, 512),
     .tied = true},
    {"tiny", "two layers, 256 wide", .architecture = "llama", .family = &llama3, .n_vocab = 2304,
     .first_special = 2048, .n_context = 4096, .rope_theta = 10000.0, .norm_eps = 1e-5f,
     .n_layers = 2, .width = 256, HEADS(4, 2, 64), .n_ff = 768, .tied = true},
    {"tiny-moe", "two layers of 8 experts, 256 wide", .architecture = "qwen3moe", .family = &qwen,
     .n_vocab = 2304, .first_special = 2048, .n_context = 4096, .rope_theta = 10000.0,
     .norm_eps = 1e-6f, .head_norms = true, .n_layers = 2, .width = 256, HEADS(4, 2, 64),
     .n_ff = 512, EXPERTS(8, 2, 256)},
    {"tiny-oss", "two layers in gpt-oss's form, 256 wide", GPT_OSS, .n_layers = 2, .width = 256,
     HEADS(4, 2, 64), .n_ff = 256, EXPERTS(8, 2, 256), .n_vocab = 2304, .first_special = 2048,
     .window = 16},
};
#define N_SHAPES (sizeof shapes / sizeof *shapes)

const struct synth_shape *synth_shape_find(const char *name)
{
    for (size_t i = 0; i < N_SHAPES; i++)
        if (strcmp(shapes[i].name, name) == 0)
            return &shapes[i];
    return NULL;
}

const char *synth_shape_name(uint32_t index)
{
    return index < N_SHAPES ? shapes[index].name : NULL;
}

const char *synth_shape_about(uint32_t index)
{
    return index < N_SHAPES ? shapes[index].about : NULL;
}
