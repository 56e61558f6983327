/*
 * The stages of a tokenizer.json around its model. Internal to format/tokenizer_json.c.
 *
 * Each reader_*() stage takes the tagged object (NULL and null where the file has none) and fills
 * the vocabulary; errors name the file and the stage.
 */
#ifndef SLUICE_FORMAT_TOKENIZER_STAGES_H
#define SLUICE_FORMAT_TOKENIZER_STAGES_H

#include <jansson.h>
#include <stdbool.h>

#include "base/status.h"
#include "base/str.h"
#include "text/tokenizer/vocabulary.h"

struct reader {
    const char *name; /* of tokenizer.json, for errors */
    struct vocabulary *v;
    struct error *err;
    bool byte_level;  /* a ByteLevel pre-tokenizer was seen; nothing may follow it */
    bool fused;       /* a Fuse decoder was seen */
    uint32_t next_id; /* behind all tokens so far */
};

/* data NULL where `value` is no string. */
struct str reader_str(const json_t *value);
bool reader_flag(const json_t *object, const char *key, bool absent);
const char *reader_type(const json_t *object);
enum status reader_unsupported(struct reader *r, const char *stage, const char *what);
enum status reader_malformed(struct reader *r, const char *field, const char *expected);

enum status reader_normalizer(struct reader *r, const json_t *stage);
/* Also decides between BYTE_BPE and CHAR_BPE. */
enum status reader_pre_tokenizer(struct reader *r, const json_t *stage);
enum status reader_decoder(struct reader *r, const json_t *stage);
/* After the tokens. */
enum status reader_post_processor(struct reader *r, const json_t *stage);

#endif
