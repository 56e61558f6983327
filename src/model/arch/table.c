/* The table of architectures: one line each. docs/adding-an-architecture.md walks through it. */
#include "model/build.h"

extern const struct architecture arch_llama, arch_mixtral, arch_qwen2, arch_qwen3, arch_qwen3_moe,
    arch_gemma3, arch_lfm2, arch_gpt_oss, arch_qwen2_moe, arch_olmoe, arch_glm4_moe, arch_dots1,
    arch_ernie4_5_moe, arch_minimax_m2;

const struct architecture *const architectures[] = {
    &arch_llama,    &arch_mixtral, &arch_qwen2,        &arch_qwen3,      &arch_qwen3_moe,
    &arch_gemma3,   &arch_lfm2,    &arch_gpt_oss,      &arch_qwen2_moe,  &arch_olmoe,
    &arch_glm4_moe, &arch_dots1,   &arch_ernie4_5_moe, &arch_minimax_m2, NULL,
};
