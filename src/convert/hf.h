/*
 * A Hugging Face folder on its way to GGUF: what its config says, the table of families, and how
 * tensors and metadata are made. Internal to convert/.
 *
 *   hf_config.c    reading config.json          hf_families.c    the table
 *   source_hf.c    tensors: names and recipes   hf_metadata.c    hyperparameters
 *   hf_layout.c    how families lay rows out    hf_vocabulary.c  tokenizer, chat template
 *   hf_special.c   what single families check and write
 *
 * Errors of reading stick, as in the program builder: the first is kept in `problem`.
 */
#ifndef SLUICE_CONVERT_HF_H
#define SLUICE_CONVERT_HF_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "convert/source.h"
#include "model/names.h"

enum hf_traits {
    HF_PAIRS = 1,        /* GGUF wants the rows of q and k as neighbouring rope pairs */
    HF_NO_ROPE = 2,      /* positions are learned, or there are none */
    HF_LAYER_NORM = 4,   /* GGUF's key of epsilon */
    HF_PLUS_ONE = 8,     /* norm weights mean 1 + w, which GGUF has added; not the mixers' own */
    HF_ENCODER = 16,     /* wanted for its hidden states: heads are passed over */
    HF_KV_BY_LAYER = 32, /* layers without attention: key/value heads as a list with zeros */
    HF_OWN_HEADS = 64,   /* widths of heads, and heads of keys, are the family's own to write */
    HF_OWN_FFN = 128,    /* ... the FFN's width */
};

/* A metadata value beside the common ones. */
enum hf_kind {
    HF_U32,     /* of `hf`, where it is there; else `number` unless that is negative */
    HF_NEED,    /* of `hf`, which must be there */
    HF_F32,     /* as HF_U32 */
    HF_BOOL,    /* as HF_U32 */
    HF_IS_U32,  /* `number` */
    HF_IS_BOOL, /* `number` */
    HF_IS_TEXT, /* `hf` itself */
    HF_MUST,    /* nothing is written: `hf` must be `number` where it is there */
};

struct hf_value {
    const char *key; /* below the architecture's prefix */
    enum hf_kind kind;
    const char *hf; /* keys of config.json, "a|b": the first that is there */
    double number;
};

struct hf_source;

/* A stored tensor and the role it plays. */
struct hf_tensor {
    const struct tensor *tensor;
    struct tensor_place place;
};

/* What a family does with the tensors of a role other than giving them a name. */
struct hf_rule {
    const char *role;
    const char *gguf; /* NULL: the role */
    void (*change)(struct hf_source *h, const struct hf_tensor *from, const char *gguf);
};

struct hf_family {
    const char *hf;   /* model_types, "a|b" */
    const char *gguf; /* general.architecture; NULL: GGUF has none for it */
    const char *why;  /* ... or not this variant: the end of a sentence */
    unsigned traits;
    double theta, epsilon; /* where the config has none; 0: 10000, 1e-6 */
    const char *acts;      /* activations that GGUF's architecture implies, "silu|swish" */
    const struct hf_rule *rules;
    const struct hf_value *values;
    void (*check)(struct hf_source *h);                             /* more to refuse */
    void (*more)(const struct hf_source *h, struct gguf_writer *w); /* more metadata */
    void (*extra)(struct hf_source *h);                             /* more tensors */
};

struct hf_rope {
    double theta;
    uint32_t dims; /* columns of a head that turn */
    const char *kind;
    double factor, original;
    double low_freq, high_freq;           /* llama3 */
    double beta_fast, beta_slow;          /* yarn */
    double mscale, mscale_all, attention; /* 0: not given */
    bool truncate;
};

struct hf_source {
    struct source *source;
    const struct hf_family *family;
    const struct hf_name *names; /* the architecture's own */
    const json_t *config;        /* of the text model */
    struct error problem;
    uint32_t n_layers, width, n_ff, n_heads, n_kv_heads, head_dim, n_context, n_vocab;
    uint32_t n_experts, n_experts_used, expert_ff;
    double norm_eps;
    struct hf_rope rope;
};

/* ---- hf_config.c ------------------------------------------------------------------------------- */

void hf_fail(struct hf_source *h, enum status status, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
/* STATUS_UNSUPPORTED: "..., which GGUF's X does not say". */
void hf_cannot(struct hf_source *h, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* keys: "a|b", the first that is there and not null. A value of the wrong kind or range is an error
 * that names the key. */
const json_t *hf_find(const struct hf_source *h, const char *keys);
uint32_t hf_u32(struct hf_source *h, const char *keys, uint32_t fallback);
uint32_t hf_need(struct hf_source *h, const char *keys);
double hf_f64(struct hf_source *h, const char *keys, double fallback);
bool hf_bool(struct hf_source *h, const char *keys, bool fallback);
/* Item of a list, or the value where it is no list. */
uint32_t hf_item(struct hf_source *h, const char *keys, uint32_t index, uint32_t fallback);
const char *hf_text(const struct hf_source *h, const char *keys); /* NULL: no text */
bool hf_listed(const char *list, const char *word);               /* "a|b" */
/* Does layer_types say that the layer sees a window? `fallback` where it says nothing. */
bool hf_is_local(const struct hf_source *h, uint32_t layer, bool fallback);
/* Fills the members of h that every family has. */
void hf_read(struct hf_source *h);

/* ---- hf_families.c ----------------------------------------------------------------------------- */

/* NULL: unknown. */
const struct hf_family *hf_family_find(const char *model_type);

/* ---- source_hf.c ------------------------------------------------------------------------------- */

/* A new tensor "blk.N.ROLE.weight" (or .bias, by the place) of these dimensions, whose rows are those
 * of `from` in one part; NULL after an error. */
struct source_tensor *hf_add(struct hf_source *h, const struct hf_tensor *from, const char *gguf,
                             uint32_t n_dims, const uint64_t *dims);
/* Under a name of its own. */
struct source_tensor *hf_add_named(struct hf_source *h, const struct tensor *from, const char *name,
                                   uint32_t n_dims, const uint64_t *dims);
/* A vector of floats under a name of its own. */
void hf_add_values(struct hf_source *h, const char *name, const float *values, uint32_t n);
/* As it is stored. */
struct source_tensor *hf_keep(struct hf_source *h, const struct hf_tensor *from, const char *gguf);
void *hf_memory(struct hf_source *h, uint64_t count, size_t size);
/* Is there a tensor of this name so far? */
bool hf_has(const struct hf_source *h, const char *name);

/* ---- hf_layout.c: changes ---------------------------------------------------------------------- */

void hf_drop(struct hf_source *h, const struct hf_tensor *from, const char *gguf);
void hf_bare(struct hf_source *h, const struct hf_tensor *from, const char *gguf);
void hf_pairs(struct hf_source *h, const struct hf_tensor *from, const char *gguf);
void hf_plus_one(struct hf_source *h, const struct hf_tensor *from, const char *gguf);
void hf_squeeze(struct hf_source *h, const struct hf_tensor *from, const char *gguf);
void hf_decay(struct hf_source *h, const struct hf_tensor *from, const char *gguf);
void hf_decay_column(struct hf_source *h, const struct hf_tensor *from, const char *gguf);
void hf_column(struct hf_source *h, const struct hf_tensor *from, const char *gguf);
void hf_turn(struct hf_source *h, const struct hf_tensor *from, const char *gguf);
void hf_group_norm(struct hf_source *h, const struct hf_tensor *from, const char *gguf);
void hf_halves(struct hf_source *h, const struct hf_tensor *from, const char *gguf);
void hf_shared_halves(struct hf_source *h, const struct hf_tensor *from, const char *gguf);
void hf_shared_down(struct hf_source *h, const struct hf_tensor *from, const char *gguf);
void hf_alternating(struct hf_source *h, const struct hf_tensor *from, const char *gguf);
void hf_down_columns(struct hf_source *h, const struct hf_tensor *from, const char *gguf);
void hf_qkv_by_head(struct hf_source *h, const struct hf_tensor *from, const char *gguf);
void hf_latent(struct hf_source *h, const struct hf_tensor *from, const char *gguf);
void hf_positions(struct hf_source *h, const struct hf_tensor *from, const char *gguf);
void hf_stack(struct hf_source *h, const struct hf_tensor *from, const char *gguf);
void hf_falcon(struct hf_source *h, const struct hf_tensor *from, const char *gguf);
void hf_qkvz(struct hf_source *h, const struct hf_tensor *from, const char *gguf);
void hf_value_heads(struct hf_source *h, const struct hf_tensor *from, const char *gguf);

/* ---- hf_metadata.c, hf_vocabulary.c ------------------------------------------------------------ */

/* Hyperparameters, sampling defaults, tokenizer and chat template. */
enum status hf_metadata(const struct source *source, struct gguf_writer *writer, struct error *err);
enum status hf_write_vocabulary(const struct source *source, struct gguf_writer *writer,
                                struct error *err);

#endif
