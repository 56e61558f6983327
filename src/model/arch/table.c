/* The table of architectures: one line each. docs/adding-an-architecture.md walks through it. */
#include "model/build.h"

extern const struct architecture arch_llama, arch_mixtral, arch_qwen2, arch_qwen3, arch_qwen3_moe,
    arch_gemma3, arch_lfm2;

const struct architecture *const architectures[] = {
    &arch_llama,     &arch_mixtral, &arch_qwen2, &arch_qwen3,
    &arch_qwen3_moe, &arch_gemma3,  &arch_lfm2,  NULL,
};
