/*
 * Repacking: matrices that a folder stores as codes and separate scale tensors become one tensor in
 * a block type, so that nothing above format/ knows of the difference.
 *
 *   FP8     NAME.weight (F8_E4M3, F8_E5M2) with NAME.weight_scale_inv or NAME.weight_scale, one scale
 *           for the tensor, a row, or a block (quantization_config.weight_block_size): F8_*_SCALED
 *   MLX     NAME.weight (U32, 4 or 8 bits a code) with NAME.scales and NAME.biases, one pair for a
 *           group of a row: Q4_1 where the scales fit float16 exactly, else AFFINE8; mode "mxfp4"
 *           (no biases): MXFP4
 *   MXFP4   NAME_blocks and NAME_scales (gpt-oss; U8), rows along the last dimension but one: MXFP4
 *
 * The values are exactly those of the scheme's definition in float32; only AFFINE8 and F8_*_SCALED
 * take more memory than the file. Other schemes (GPTQ, AWQ, bitsandbytes, ...) are refused by name.
 * Internal to format/.
 */
#ifndef SLUICE_FORMAT_REPACK_H
#define SLUICE_FORMAT_REPACK_H

#include <jansson.h>

#include "base/status.h"

struct weight_files;

/* config: config.json. What is repacked takes the original's place, and its scales leave the list. */
enum status repack_weights(struct weight_files *files, const json_t *config, struct error *err);

#endif
