/* The shapes that synth knows, and their vocabularies. Internal to convert/. */
#ifndef SLUICE_CONVERT_SYNTH_SHAPES_H
#define SLUICE_CONVERT_SYNTH_SHAPES_H

#include <stdbool.h>
#include <stdint.h>

struct gguf_writer;

struct synth_special {
    uint32_t id; /* from the first special token */
    const char *text;
    bool plain; /* an added token that is ordinary text (<think>), not a control token */
};

/* How a family of models writes its vocabulary and chat. */
struct synth_family {
    const char *pre; /* tokenizer.ggml.pre */
    const struct synth_special *specials;
    uint32_t n_specials;
    int32_t bos, eos, eot, pad; /* from the first special token; -1: none */
    bool add_bos;
    const char *chat_template;
};

struct synth_shape {
    const char *name, *about;
    const char *architecture; /* general.architecture */
    const struct synth_family *family;
    uint32_t n_layers, width, n_heads, n_kv_heads, head_dim, n_ff;
    uint32_t n_experts, n_experts_used, expert_ff; /* 0: dense */
    uint32_t n_vocab, first_special;               /* ids below first_special are plain tokens */
    uint32_t n_context;
    double rope_theta;
    double rope_factor; /* of llama3 scaling; 0: none */
    float norm_eps;
    bool tied, head_norms;
    uint32_t
        window; /* gpt-oss: of every second layer; such a shape has biases, sinks and YaRN too */
};

/* NULL if unknown. */
const struct synth_shape *synth_shape_find(const char *name);

/* Writes tokenizer.* for n_vocab tokens. */
void synth_vocabulary(struct gguf_writer *writer, const struct synth_shape *shape);

#endif
