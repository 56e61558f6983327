/*
 * The table of families: how a folder of each becomes a GGUF file.
 *
 * GGUF's names of architectures, keys and tensors are those that llama.cpp writes and reads; where its
 * architecture implies a value that a config may set otherwise, the config must agree (HF_MUST, checks).
 * What all families have (sizes, heads, epsilon, rope, experts) is written by hf_metadata.c.
 */
#include <string.h>

#include "convert/hf_special.h"

#define END                                                                                        \
    {                                                                                              \
        0                                                                                          \
    }
#define RULES  (const struct hf_rule[])
#define VALUES (const struct hf_value[])

/* ---- rules and values that families share ------------------------------------------------------ */

#define MAMBA2_RULES                                                                               \
    {"ssm_a", NULL, hf_decay_column}, {"ssm_d", NULL, hf_column},                                  \
    {                                                                                              \
        "ssm_norm", NULL, hf_group_norm                                                            \
    }
#define SSM_VALUES                                                                                 \
    {"ssm.conv_kernel", HF_NEED, "mamba_d_conv|conv_kernel", 0},                                   \
    {                                                                                              \
        "ssm.state_size", HF_NEED, "mamba_d_state|ssm_state_size|state_size", 0                    \
    }
#define MAMBA2_VALUES                                                                              \
    SSM_VALUES, {"ssm.time_step_rank", HF_NEED, "mamba_n_heads|mamba_num_heads|num_heads", 0},     \
    {                                                                                              \
        "ssm.group_count", HF_U32, "mamba_n_groups|n_groups", 1                                    \
    }
#define DELTA_VALUES                                                                               \
    {"ssm.conv_kernel", HF_NEED, "linear_conv_kernel_dim", 0},                                     \
        {"ssm.state_size", HF_NEED, "linear_key_head_dim", 0},                                     \
        {"ssm.group_count", HF_NEED, "linear_num_key_heads", 0},                                   \
        {"ssm.time_step_rank", HF_NEED, "linear_num_value_heads", 0},                              \
        {"full_attention_interval", HF_U32, "full_attention_interval", 4},                         \
        {"expert_shared_feed_forward_length", HF_U32, "shared_expert_intermediate_size", -1},      \
    {                                                                                              \
        "", HF_MUST, "norm_topk_prob", 1                                                           \
    }
#define GRANITE_VALUES                                                                             \
    {"attention.scale", HF_F32, "attention_multiplier", -1},                                       \
        {"embedding_scale", HF_F32, "embedding_multiplier", -1},                                   \
        {"residual_scale", HF_F32, "residual_multiplier", -1},                                     \
    {                                                                                              \
        "logit_scale", HF_F32, "logits_scaling", -1                                                \
    }
#define SHARED_EXPERT_VALUES                                                                       \
    {"expert_shared_count", HF_U32, "n_shared_experts", 0},                                        \
        {"leading_dense_block_count", HF_U32, "first_k_dense_replace", 0},                         \
    {                                                                                              \
        "expert_weights_scale", HF_F32, "routed_scaling_factor", 1                                 \
    }
#define SIGMOID_VALUES                                                                             \
    {"expert_gating_func", HF_IS_U32, NULL, 2},                                                    \
    {                                                                                              \
        "expert_weights_norm", HF_BOOL, "norm_topk_prob", 1                                        \
    }
#define ENCODER_VALUES                                                                             \
    {"attention.causal", HF_IS_BOOL, NULL, 0},                                                     \
    {                                                                                              \
        "tokenizer.ggml.token_type_count", HF_U32, "type_vocab_size", 1                            \
    }
#define WINDOW                                                                                     \
    {                                                                                              \
        "attention.sliding_window", HF_U32, "sliding_window", -1                                   \
    }
#define DELTA_RULES                                                                                \
    {"ffn_norm", "post_attention_norm", hf_plus_one}, {"attn_qkv", NULL, hf_value_heads},          \
        {"attn_gate", NULL, hf_value_heads}, {"ssm_alpha", NULL, hf_value_heads},                  \
        {"ssm_beta", NULL, hf_value_heads}, {"ssm_a", NULL, hf_value_heads},                       \
        {"ssm_dt", NULL, hf_value_heads}, {"ssm_conv1d", NULL, hf_value_heads},                    \
    {                                                                                              \
        "ssm_out", NULL, hf_value_heads                                                            \
    }
#define SMALL_GEMMA_VALUES                                                                         \
    {"attention.sliding_window", HF_NEED, "sliding_window", 0},                                    \
        {"attention.shared_kv_layers", HF_U32, "num_kv_shared_layers", 0},                         \
        {"embedding_length_per_layer_input", HF_U32, "hidden_size_per_layer_input", 0},            \
    {                                                                                              \
        "final_logit_softcapping", HF_F32, "final_logit_softcapping", 0                            \
    }

/* ---- the table --------------------------------------------------------------------------------- */

static const struct hf_family families[] = {
    {.hf = "llama|mistral", .gguf = "llama", .traits = HF_PAIRS, .values = VALUES{WINDOW, END}},
    {.hf = "mixtral", .gguf = "llama", .traits = HF_PAIRS, .values = VALUES{WINDOW, END}},
    {.hf = "qwen2", .gguf = "qwen2", .check = hf_check_no_window},
    {.hf = "qwen3", .gguf = "qwen3", .check = hf_check_no_window},
    {.hf = "qwen3_moe",
     .gguf = "qwen3moe",
     .values = VALUES{{"", HF_MUST, "norm_topk_prob", 1}, END},
     .check = hf_check_no_window},
    {.hf = "qwen2_moe",
     .gguf = "qwen2moe",
     .values = VALUES{{"expert_shared_feed_forward_length", HF_U32,
                       "shared_expert_intermediate_size", -1},
                      {"", HF_MUST, "norm_topk_prob", 0},
                      END},
     .check = hf_check_no_window},
    {.hf = "qwen3_next",
     .gguf = "qwen3next",
     .traits = HF_PLUS_ONE,
     .theta = 1e7,
     .rules = RULES{{"ffn_norm", "post_attention_norm", hf_plus_one},
                    {"ssm_in", NULL, hf_qkvz},
                    {"ssm_a", NULL, hf_decay},
                    END},
     .values = VALUES{DELTA_VALUES, END},
     .more = hf_write_delta},
    {.hf = "qwen3_5|qwen3_5_text",
     .gguf = "qwen35",
     .traits = HF_PLUS_ONE,
     .theta = 1e7,
     .rules = RULES{DELTA_RULES, END},
     .values = VALUES{DELTA_VALUES, END},
     .more = hf_write_qwen3_5},
    {.hf = "qwen3_5_moe|qwen3_5_moe_text",
     .gguf = "qwen35moe",
     .traits = HF_PLUS_ONE,
     .theta = 1e7,
     .rules = RULES{DELTA_RULES, END},
     .values = VALUES{DELTA_VALUES, END},
     .more = hf_write_qwen3_5},
    {.hf = "gpt_oss",
     .gguf = "gpt-oss",
     .theta = 150000,
     .rules = RULES{{"ffn_gate_up_exps", NULL, hf_alternating},
                    {"ffn_down_exps", NULL, hf_down_columns},
                    END},
     .values = VALUES{{"attention.sliding_window", HF_NEED, "sliding_window", 0},
                      {"expert_feed_forward_length", HF_NEED, "intermediate_size", 0},
                      {"", HF_MUST, "swiglu_limit", 7},
                      END},
     .check = hf_check_gpt_oss},
    {.hf = "gemma", .gguf = "gemma", .traits = HF_PLUS_ONE, .acts = "gelu_pytorch_tanh|gelu"},
    {.hf = "gemma2",
     .gguf = "gemma2",
     .traits = HF_PLUS_ONE,
     .acts = "gelu_pytorch_tanh|gelu",
     .values = VALUES{{"attention.sliding_window", HF_NEED, "sliding_window", 0},
                      {"attn_logit_softcapping", HF_F32, "attn_logit_softcapping", -1},
                      {"final_logit_softcapping", HF_F32, "final_logit_softcapping", -1},
                      END},
     .check = hf_check_gemma2},
    {.hf = "gemma3|gemma3_text",
     .gguf = "gemma3",
     .traits = HF_PLUS_ONE,
     .acts = "gelu_pytorch_tanh",
     .theta = 1e6,
     .values = VALUES{{"attention.sliding_window", HF_NEED, "sliding_window", 0},
                      {"final_logit_softcapping", HF_F32, "final_logit_softcapping", -1},
                      END},
     .check = hf_check_gemma3},
    {.hf = "gemma3n|gemma3n_text",
     .gguf = "gemma3n",
     .acts = "gelu_pytorch_tanh",
     .theta = 1e6,
     .rules = RULES{{"altup_proj", NULL, hf_stack}, {"altup_unembd_proj", NULL, hf_stack}, END},
     .values = VALUES{SMALL_GEMMA_VALUES,
                      {"altup.active_idx", HF_U32, "altup_active_idx", 0},
                      {"altup.num_inputs", HF_U32, "altup_num_inputs", 4},
                      END},
     .more = hf_write_gemma3n},
    {.hf = "gemma4|gemma4_text",
     .gguf = "gemma4",
     .traits = HF_OWN_HEADS | HF_OWN_FFN,
     .acts = "gelu_pytorch_tanh",
     .theta = 1e6,
     .values = VALUES{SMALL_GEMMA_VALUES, END},
     .check = hf_check_gemma4,
     .more = hf_write_gemma4,
     .extra = hf_gemma4_rope},
    {.hf = "lfm2",
     .gguf = "lfm2",
     .traits = HF_KV_BY_LAYER,
     .theta = 1e6,
     .epsilon = 1e-5,
     .values = VALUES{{"shortconv.l_cache", HF_NEED, "conv_L_cache", 0}, END}},
    {.hf = "lfm2_moe",
     .gguf = "lfm2moe",
     .traits = HF_KV_BY_LAYER,
     .theta = 1e6,
     .epsilon = 1e-5,
     .values = VALUES{{"shortconv.l_cache", HF_NEED, "conv_L_cache", 0},
                      {"leading_dense_block_count", HF_U32, "num_dense_layers", 0},
                      {"expert_weights_scale", HF_F32, "routed_scaling_factor", 1},
                      SIGMOID_VALUES,
                      END}},
    {.hf = "deepseek_v2|deepseek_v3",
     .gguf = "deepseek2",
     .traits = HF_OWN_HEADS,
     .rules = RULES{{"attn_kv_b", NULL, hf_latent}, END},
     .values = VALUES{SHARED_EXPERT_VALUES,
                      {"attention.q_lora_rank", HF_U32, "q_lora_rank", -1},
                      {"attention.kv_lora_rank", HF_NEED, "kv_lora_rank", 0},
                      {"attention.value_length_mla", HF_NEED, "v_head_dim", 0},
                      {"rope.dimension_count", HF_NEED, "qk_rope_head_dim", 0},
                      {"attention.head_count_kv", HF_IS_U32, NULL, 1},
                      {"expert_group_used_count", HF_U32, "topk_group", 1},
                      END},
     .check = hf_check_deepseek,
     .more = hf_write_latent},
    {.hf = "glm4", .gguf = "glm4"},
    {.hf = "glm4_moe",
     .gguf = "glm4moe",
     .rules = RULES{{"ffn_norm", "post_attention_norm", NULL}, END},
     .values = VALUES{SHARED_EXPERT_VALUES, SIGMOID_VALUES, END}},
    {.hf = "granite", .gguf = "granite", .traits = HF_PAIRS, .values = VALUES{GRANITE_VALUES, END}},
    {.hf = "granitemoe",
     .gguf = "granitemoe",
     .traits = HF_PAIRS,
     .values = VALUES{GRANITE_VALUES, END}},
    {.hf = "granitemoehybrid",
     .gguf = "granitehybrid",
     .traits = HF_PAIRS | HF_KV_BY_LAYER,
     .rules = RULES{MAMBA2_RULES,
                    {"ffn_up", NULL, hf_shared_halves},
                    {"ffn_down", NULL, hf_shared_down},
                    END},
     .values = VALUES{GRANITE_VALUES,
                      MAMBA2_VALUES,
                      {"expert_shared_feed_forward_length", HF_U32, "shared_intermediate_size", -1},
                      END},
     .check = hf_check_granite_hybrid,
     .more = hf_write_granite_hybrid},
    {.hf = "phi3",
     .gguf = "phi3",
     .values = VALUES{{"attention.sliding_window", HF_U32, "sliding_window", 0}, END},
     .more = hf_write_longrope},
    {.hf = "phi",
     .gguf = "phi2",
     .traits = HF_LAYER_NORM,
     .acts = "gelu_new|gelu_pytorch_tanh|gelu_fast",
     .values = VALUES{{"", HF_MUST, "qk_layernorm", 0}, END}},
    {.hf = "olmo2|olmo3", .gguf = "olmo2", .values = VALUES{WINDOW, END}, .more = hf_write_four},
    {.hf = "olmoe", .gguf = "olmoe", .values = VALUES{{"", HF_MUST, "norm_topk_prob", 0}, END}},
    {.hf = "smollm3", .gguf = "smollm3", .traits = HF_PAIRS, .check = hf_check_smollm3},
    {.hf = "cohere",
     .gguf = "command-r",
     .traits = HF_LAYER_NORM,
     .values = VALUES{{"logit_scale", HF_F32, "logit_scale", 1},
                      {"rope.scaling.type", HF_IS_TEXT, "none", 0},
                      {"", HF_MUST, "use_qk_norm", 0},
                      END}},
    {.hf = "cohere2",
     .gguf = "cohere2",
     .traits = HF_LAYER_NORM,
     .values = VALUES{{"logit_scale", HF_F32, "logit_scale", 1}, WINDOW, END},
     .check = hf_check_cohere},
    {.hf = "exaone4", .gguf = "exaone4", .values = VALUES{WINDOW, END}, .more = hf_write_four},
    {.hf = "minimax_m2",
     .gguf = "minimax-m2",
     .values = VALUES{{"expert_feed_forward_length", HF_NEED, "intermediate_size", 0},
                      SIGMOID_VALUES,
                      END}},
    {.hf = "ernie4_5", .gguf = "ernie4_5"},
    {.hf = "ernie4_5_moe",
     .gguf = "ernie4_5-moe",
     .values = VALUES{{"interleave_moe_layer_step", HF_U32, "moe_layer_interval", 1},
                      {"leading_dense_block_count", HF_U32, "moe_layer_start_index", 0},
                      {"expert_shared_count", HF_U32, "moe_num_shared_experts", 0},
                      END},
     .more = hf_write_ernie_moe},
    {.hf = "hunyuan_v1_dense", .gguf = "hunyuan-dense"},
    {.hf = "seed_oss",
     .gguf = "seed_oss",
     .rules = RULES{{"ffn_norm", "post_attention_norm", NULL}, END}},
    {.hf = "dots1", .gguf = "dots1", .values = VALUES{SHARED_EXPERT_VALUES, SIGMOID_VALUES, END}},
    {.hf = "apertus",
     .gguf = "apertus",
     .acts = "xielu",
     .rules = RULES{{"xielu_beta", NULL, hf_drop},
                    {"xielu_eps", NULL, hf_drop},
                    {"xielu_alpha_p", NULL, hf_drop},
                    {"xielu_alpha_n", NULL, hf_drop},
                    END},
     .check = hf_check_xielu,
     .more = hf_write_xielu},
    {.hf = "arcee", .gguf = "arcee", .traits = HF_PAIRS, .acts = "relu2"},
    {.hf = "nemotron", .gguf = "nemotron", .traits = HF_LAYER_NORM | HF_PLUS_ONE, .acts = "relu2"},
    {.hf = "nemotron_h",
     .gguf = "nemotron_h",
     .traits = HF_NO_ROPE | HF_KV_BY_LAYER | HF_OWN_FFN | HF_LAYER_NORM,
     .acts = "relu2",
     .epsilon = 1e-5,
     .rules = RULES{MAMBA2_RULES, END},
     .values = VALUES{MAMBA2_VALUES, END},
     .check = hf_check_mamba,
     .more = hf_write_nemotron_h},
    {.hf = "falcon_h1",
     .gguf = "falcon-h1",
     .theta = 1e11,
     .rules = RULES{MAMBA2_RULES,
                    {"ffn_norm", NULL, hf_bare},
                    {"attn_q", NULL, hf_falcon},
                    {"attn_k", NULL, hf_falcon},
                    {"attn_v", NULL, hf_falcon},
                    {"attn_output", NULL, hf_falcon},
                    {"ffn_gate", NULL, hf_falcon},
                    {"ffn_down", NULL, hf_falcon},
                    {"ssm_in", NULL, hf_falcon},
                    {"ssm_out", NULL, hf_falcon},
                    {"output", NULL, hf_falcon},
                    {"token_embd", NULL, hf_falcon},
                    END},
     .values = VALUES{MAMBA2_VALUES, END},
     .check = hf_check_falcon,
     .more = hf_write_inner},
    {.hf = "jamba",
     .gguf = "jamba",
     .traits = HF_NO_ROPE | HF_KV_BY_LAYER,
     .rules = RULES{{"ssm_a", NULL, hf_decay}, END},
     .values = VALUES{SSM_VALUES, {"ssm.time_step_rank", HF_NEED, "mamba_dt_rank", 0}, END},
     .more = hf_write_jamba},
    {.hf = "mamba2",
     .gguf = "mamba2",
     .traits = HF_NO_ROPE,
     .epsilon = 1e-5,
     .rules = RULES{MAMBA2_RULES, END},
     .values = VALUES{MAMBA2_VALUES, END},
     .check = hf_check_mamba,
     .more = hf_write_inner},
    {.hf = "stablelm",
     .gguf = "stablelm",
     .traits = HF_LAYER_NORM,
     .values = VALUES{{"use_parallel_residual", HF_BOOL, "use_parallel_residual", 0},
                      {"", HF_MUST, "qk_layernorm", 0},
                      END}},
    {.hf = "starcoder2",
     .gguf = "starcoder2",
     .traits = HF_LAYER_NORM,
     .acts = "gelu_pytorch_tanh|gelu_new",
     .values = VALUES{WINDOW, END}},
    {.hf = "gpt2",
     .gguf = "gpt2",
     .traits = HF_LAYER_NORM | HF_NO_ROPE,
     .acts = "gelu_new|gelu_pytorch_tanh",
     .rules = RULES{{"attn_qkv", NULL, hf_turn},
                    {"attn_output", NULL, hf_turn},
                    {"ffn_up", NULL, hf_turn},
                    {"ffn_down", NULL, hf_turn},
                    END}},
    {.hf = "gpt_neox",
     .gguf = "gptneox",
     .traits = HF_LAYER_NORM,
     .acts = "gelu",
     .rules = RULES{{"attn_qkv", NULL, hf_qkv_by_head}, END},
     .values = VALUES{{"use_parallel_residual", HF_BOOL, "use_parallel_residual", 1}, END}},
    {.hf = "bert",
     .gguf = "bert",
     .traits = HF_LAYER_NORM | HF_NO_ROPE | HF_ENCODER,
     .acts = "gelu",
     .values = VALUES{ENCODER_VALUES, END},
     .check = hf_check_bert},
    {.hf = "xlm-roberta|roberta",
     .gguf = "bert",
     .traits = HF_LAYER_NORM | HF_NO_ROPE | HF_ENCODER,
     .acts = "gelu",
     .rules = RULES{{"position_embd", NULL, hf_positions}, END},
     .values = VALUES{ENCODER_VALUES, END},
     .check = hf_check_roberta},
    {.hf = "nomic_bert",
     .gguf = "nomic-bert",
     .traits = HF_LAYER_NORM | HF_ENCODER,
     .theta = 1000,
     .values = VALUES{ENCODER_VALUES, END}},
    {.hf = "modernbert",
     .gguf = "modern-bert",
     .traits = HF_LAYER_NORM | HF_ENCODER,
     .acts = "gelu",
     .theta = 160000,
     .values = VALUES{{"attention.causal", HF_IS_BOOL, NULL, 0},
                      {"attention.sliding_window", HF_NEED, "local_attention", 0},
                      END},
     .check = hf_check_modernbert},
    {.hf = "helium", .why = "GGUF has no architecture for it"},
    {.hf = "bitnet",
     .why = "GGUF's \"bitnet\" is an earlier generation, with a SiLU gate where this one has a "
            "squared ReLU"},
};
#define N_FAMILIES (sizeof families / sizeof *families)

const struct hf_family *hf_family_find(const char *model_type)
{
    for (size_t i = 0; i < N_FAMILIES; i++)
        if (hf_listed(families[i].hf, model_type))
            return &families[i];
    return NULL;
}
