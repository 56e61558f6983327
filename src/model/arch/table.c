/* The table of architectures: one line each. docs/adding-an-architecture.md walks through it. */
#include "model/build.h"

extern const struct architecture arch_llama, arch_mixtral, arch_qwen2, arch_qwen3, arch_qwen3_moe,
    arch_gemma3, arch_lfm2, arch_gpt_oss, arch_qwen2_moe, arch_olmoe, arch_glm4_moe, arch_dots1,
    arch_ernie4_5_moe, arch_minimax_m2, arch_arcee, arch_seed_oss, arch_ernie4_5, arch_helium,
    arch_granite, arch_smollm3, arch_hunyuan, arch_glm4, arch_bitnet, arch_apertus, arch_phi3,
    arch_olmo2, arch_exaone4, arch_cohere, arch_gpt_neox, arch_phi, arch_stablelm, arch_starcoder2,
    arch_nemotron, arch_gpt2, arch_gemma2, arch_deepseek, arch_granite_moe, arch_granite_hybrid,
    arch_jamba, arch_mamba2, arch_nemotron_h, arch_falcon_h1, arch_qwen3_next, arch_qwen3_5;

const struct architecture *const architectures[] = {
    &arch_llama,      &arch_mixtral,     &arch_qwen2,          &arch_qwen3,      &arch_qwen3_moe,
    &arch_gemma3,     &arch_lfm2,        &arch_gpt_oss,        &arch_qwen2_moe,  &arch_olmoe,
    &arch_glm4_moe,   &arch_dots1,       &arch_ernie4_5_moe,   &arch_minimax_m2, &arch_arcee,
    &arch_seed_oss,   &arch_ernie4_5,    &arch_helium,         &arch_granite,    &arch_smollm3,
    &arch_hunyuan,    &arch_glm4,        &arch_bitnet,         &arch_apertus,    &arch_phi3,
    &arch_olmo2,      &arch_exaone4,     &arch_cohere,         &arch_gpt_neox,   &arch_phi,
    &arch_stablelm,   &arch_starcoder2,  &arch_nemotron,       &arch_gpt2,       &arch_gemma2,
    &arch_deepseek,   &arch_granite_moe, &arch_granite_hybrid, &arch_jamba,      &arch_mamba2,
    &arch_nemotron_h, &arch_falcon_h1,   &arch_qwen3_next,     &arch_qwen3_5,    NULL,
};
