/* What a folder's config says, and writing it as GGUF metadata. Internal to convert/. */
#ifndef SLUICE_CONVERT_SOURCE_HF_H
#define SLUICE_CONVERT_SOURCE_HF_H

#include <stdbool.h>
#include <stdint.h>

#include "convert/source.h"

struct hf_family {
    const char *hf, *gguf; /* model_type, general.architecture */
    bool interleaved;      /* q and k rows are stored as rope pairs in GGUF */
};

struct hf_source {
    const struct hf_family *family;
    uint32_t n_layers, width, n_ff, n_heads, n_kv_heads, head_dim, n_context;
    uint32_t n_experts, n_experts_used, expert_ff, window;
    double norm_eps, rope_theta;
    const char *rope_kind; /* NULL: none that GGUF names */
    bool llama3;           /* scaled by the tensor rope_freqs instead */
    double rope_factor, low_freq, high_freq, original;
};

/* Hyperparameters, sampling defaults, tokenizer and chat template. */
enum status hf_metadata(const struct source *source, struct gguf_writer *writer, struct error *err);

#endif
