/* What merging starts from and ends in: text to symbols, symbols to ids. Internal to bpe.c. */
#ifndef SLUICE_TEXT_TOKENIZER_BPE_SYMBOLS_H
#define SLUICE_TEXT_TOKENIZER_BPE_SYMBOLS_H

#include "text/tokenizer/bpe.h"

/* False: out of memory. */
bool bpe_symbols_init(struct bpe_symbols *symbols, const struct vocabulary *vocabulary,
                      const struct byte_alphabet *alphabet);
void bpe_symbols_release(struct bpe_symbols *symbols);
/* Writes the symbols of bytes[n]; `ids` has room for n. Returns their number. */
size_t bpe_symbols_split(const struct bpe_symbols *symbols, const uint8_t *bytes, size_t n,
                         uint32_t *ids);
/* Appends what ids[n] stand for. False: out of memory. */
bool bpe_symbols_put(const struct bpe_symbols *symbols, const uint32_t *ids, size_t n,
                     struct token_list *out);

#endif
