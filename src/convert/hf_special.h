/*
 * What single families check and write beyond the table of hf_families.c. A check refuses what GGUF's
 * architecture cannot say (hf_cannot); writers add metadata. Internal to convert/.
 */
#ifndef SLUICE_CONVERT_HF_SPECIAL_H
#define SLUICE_CONVERT_HF_SPECIAL_H

#include "convert/hf.h"

void hf_check_no_window(struct hf_source *h);
void hf_check_gemma2(struct hf_source *h);
void hf_check_gemma3(struct hf_source *h);
void hf_check_cohere(struct hf_source *h);
void hf_check_gpt_oss(struct hf_source *h);
void hf_check_smollm3(struct hf_source *h);
void hf_check_modernbert(struct hf_source *h);
void hf_check_mamba(struct hf_source *h);
void hf_check_falcon(struct hf_source *h);
void hf_check_granite_hybrid(struct hf_source *h);
void hf_check_deepseek(struct hf_source *h);
void hf_check_bert(struct hf_source *h);
void hf_check_roberta(struct hf_source *h);
void hf_check_gemma4(struct hf_source *h);
void hf_check_xielu(struct hf_source *h);

void hf_write_four(const struct hf_source *h, struct gguf_writer *w);
void hf_write_inner(const struct hf_source *h, struct gguf_writer *w);
void hf_write_nemotron_h(const struct hf_source *h, struct gguf_writer *w);
void hf_write_jamba(const struct hf_source *h, struct gguf_writer *w);
void hf_write_granite_hybrid(const struct hf_source *h, struct gguf_writer *w);
void hf_write_delta(const struct hf_source *h, struct gguf_writer *w);
void hf_write_qwen3_5(const struct hf_source *h, struct gguf_writer *w);
void hf_write_xielu(const struct hf_source *h, struct gguf_writer *w);
void hf_write_ernie_moe(const struct hf_source *h, struct gguf_writer *w);
void hf_write_latent(const struct hf_source *h, struct gguf_writer *w);
void hf_write_longrope(const struct hf_source *h, struct gguf_writer *w);
void hf_write_gemma3n(const struct hf_source *h, struct gguf_writer *w);
void hf_write_gemma4(const struct hf_source *h, struct gguf_writer *w);

/* The tensor rope_freqs: which pairs of a wide head turn. */
void hf_gemma4_rope(struct hf_source *h);

#endif
