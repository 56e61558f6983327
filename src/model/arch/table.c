/* The table of architectures: one line each. docs/adding-an-architecture.md walks through it. */
#include "model/build.h"

/* clang-format off */
#define ARCHITECTURES(X) \
    X(llama) \
    X(mixtral) \
    X(qwen2) \
    X(qwen3) \
    X(qwen3_moe) \
    X(qwen2_moe) \
    X(qwen3_next) \
    X(qwen3_5) \
    X(gpt_oss) \
    X(gemma) \
    X(gemma2) \
    X(gemma3) \
    X(gemma3n) \
    X(gemma4) \
    X(lfm2) \
    X(deepseek) \
    X(glm4) \
    X(glm4_moe) \
    X(granite) \
    X(granite_moe) \
    X(granite_hybrid) \
    X(phi3) \
    X(phi) \
    X(olmo2) \
    X(olmoe) \
    X(smollm3) \
    X(cohere) \
    X(exaone4) \
    X(minimax_m2) \
    X(ernie4_5) \
    X(ernie4_5_moe) \
    X(hunyuan) \
    X(seed_oss) \
    X(dots1) \
    X(apertus) \
    X(arcee) \
    X(helium) \
    X(nemotron) \
    X(nemotron_h) \
    X(falcon_h1) \
    X(jamba) \
    X(mamba2) \
    X(stablelm) \
    X(starcoder2) \
    X(bitnet) \
    X(gpt2) \
    X(gpt_neox) \
    X(bert) \
    X(xlm_roberta) \
    X(nomic_bert) \
    X(modernbert)
/* clang-format on */

#define DECLARE(name) extern const struct architecture arch_##name;
ARCHITECTURES(DECLARE)

#define ENTRY(name) &arch_##name,
const struct architecture *const architectures[] = {ARCHITECTURES(ENTRY) NULL};

const struct architecture *architecture_find(struct str name, bool gguf)
{
    for (size_t i = 0; architectures[i]; i++) {
        const char *const *names = gguf ? architectures[i]->gguf : architectures[i]->hf;
        for (size_t j = 0; names[j]; j++)
            if (str_eq_cstr(name, names[j]))
                return architectures[i];
    }
    return NULL;
}
