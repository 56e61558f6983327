/*
 * Reading vocabularies: GGUF metadata, tokenizer.json and tokenizer.model into text's vocabulary.
 *
 * Nothing in the files is trusted; errors are STATUS_MODEL naming the file or key, or
 * STATUS_UNSUPPORTED naming the kind of tokenizer that sluice does not know yet (such a model still
 * opens for `show` and `logits`: that is the caller's decision). On success the caller owns *out
 * and calls vocabulary_release(); on error *out is empty.
 *
 * Sources of the formats: GGUF specification ("tokenizer.ggml.*"); the serialisation of Hugging Face
 * tokenizers 0.2x (tokenizer.json); sentencepiece_model.proto (tokenizer.model). GGUF does not record a normalizer or whether a piece that is a
 * token is merged, so these follow from the pre-tokenizer's name; see vocabulary_gguf.c.
 */
#ifndef SLUICE_FORMAT_VOCABULARY_H
#define SLUICE_FORMAT_VOCABULARY_H

#include <jansson.h>

#include "base/status.h"
#include "base/str.h"
#include "text/tokenizer/vocabulary.h"

struct checkpoint;
struct gguf;

/* GGUF: its metadata. HF: tokenizer.json, tokenizer_config.json, generation_config.json and
 * config.json. STATUS_UNSUPPORTED also where the model carries no tokenizer at all. */
enum status vocabulary_from_checkpoint(struct checkpoint *checkpoint, struct vocabulary *out,
                                       struct error *err);

/* What tokenizer.ggml.pre calls the splits of a byte-level vocabulary; NULL: GGUF has no name for them. */
const char *vocabulary_pre_tokenizer(const struct vocabulary *vocabulary);

enum status vocabulary_from_gguf(const struct gguf *gguf, struct vocabulary *out,
                                 struct error *err);

/* A tokenizer.json file; tokenizer_config.json and generation_config.json beside it are read too
 * where they exist. */
enum status vocabulary_from_tokenizer_json(const char *path, struct vocabulary *out,
                                           struct error *err);

/* What HF models keep outside tokenizer.json; every member may be NULL. Borrowed. */
struct vocabulary_configs {
    const json_t *tokenizer_config, *generation_config, *config;
};
/* The same from memory. `name` is used in errors. */
enum status vocabulary_from_json_text(struct str text, const char *name,
                                      const struct vocabulary_configs *configs,
                                      struct vocabulary *out, struct error *err);

/* A tokenizer.model: SentencePiece's protobuf. Tokens that only tokenizer_config.json knows
 * (added_tokens_decoder) are added; configs may be NULL. */
enum status vocabulary_from_tokenizer_model(const char *path,
                                            const struct vocabulary_configs *configs,
                                            struct vocabulary *out, struct error *err);
/* The same from memory. */
enum status vocabulary_from_model_bytes(struct str bytes, const char *name,
                                        const struct vocabulary_configs *configs,
                                        struct vocabulary *out, struct error *err);

#endif
