/* The table of tensor types: names and sizes of all that GGUF and safetensors know, conversions of
 * those implemented. A further type is one entry here and a function in its family's file. */
#include "quant/tensor_type.h"

#include <string.h>

#include "base/checked.h"
#include "quant/formats.h"

static const struct tensor_type_info types[TENSOR_TYPE_END] = {
    [TENSOR_F32] = {"F32", 1, 4, decode_f32, encode_f32, NULL},
    [TENSOR_F16] = {"F16", 1, 2, decode_f16, encode_f16, NULL},
    [TENSOR_Q4_0] = {"Q4_0", 32, 18, decode_q4_0, encode_q4_0, NULL},
    [TENSOR_Q4_1] = {"Q4_1", 32, 20, decode_q4_1, encode_q4_1, NULL},
    [TENSOR_Q5_0] = {"Q5_0", 32, 22, decode_q5_0, encode_q5_0, NULL},
    [TENSOR_Q5_1] = {"Q5_1", 32, 24, decode_q5_1, encode_q5_1, NULL},
    [TENSOR_Q8_0] = {"Q8_0", 32, 34, decode_q8_0, encode_q8_0, NULL},
    [TENSOR_Q8_1] = {"Q8_1", 32, 36, NULL, NULL, NULL},
    [TENSOR_Q2_K] = {"Q2_K", 256, 84, decode_q2_k, NULL, encode_q2_k},
    [TENSOR_Q3_K] = {"Q3_K", 256, 110, decode_q3_k, NULL, encode_q3_k},
    [TENSOR_Q4_K] = {"Q4_K", 256, 144, decode_q4_k, NULL, encode_q4_k},
    [TENSOR_Q5_K] = {"Q5_K", 256, 176, decode_q5_k, NULL, encode_q5_k},
    [TENSOR_Q6_K] = {"Q6_K", 256, 210, decode_q6_k, NULL, encode_q6_k},
    [TENSOR_Q8_K] = {"Q8_K", 256, 292, NULL, NULL, NULL},
    [TENSOR_IQ2_XXS] = {"IQ2_XXS", 256, 66, decode_iq2_xxs, NULL, NULL},
    [TENSOR_IQ2_XS] = {"IQ2_XS", 256, 74, decode_iq2_xs, NULL, NULL},
    [TENSOR_IQ3_XXS] = {"IQ3_XXS", 256, 98, decode_iq3_xxs, NULL, NULL},
    [TENSOR_IQ1_S] = {"IQ1_S", 256, 50, decode_iq1_s, NULL, NULL},
    [TENSOR_IQ4_NL] = {"IQ4_NL", 32, 18, decode_iq4_nl, NULL, encode_iq4_nl},
    [TENSOR_IQ3_S] = {"IQ3_S", 256, 110, decode_iq3_s, NULL, NULL},
    [TENSOR_IQ2_S] = {"IQ2_S", 256, 82, decode_iq2_s, NULL, NULL},
    [TENSOR_IQ4_XS] = {"IQ4_XS", 256, 136, decode_iq4_xs, NULL, encode_iq4_xs},
    [TENSOR_I8] = {"I8", 1, 1, NULL, NULL, NULL},
    [TENSOR_I16] = {"I16", 1, 2, NULL, NULL, NULL},
    [TENSOR_I32] = {"I32", 1, 4, NULL, NULL, NULL},
    [TENSOR_I64] = {"I64", 1, 8, NULL, NULL, NULL},
    [TENSOR_F64] = {"F64", 1, 8, NULL, NULL, NULL},
    [TENSOR_IQ1_M] = {"IQ1_M", 256, 56, decode_iq1_m, NULL, NULL},
    [TENSOR_BF16] = {"BF16", 1, 2, decode_bf16, encode_bf16, NULL},
    [TENSOR_TQ1_0] = {"TQ1_0", 256, 54, decode_tq1_0, encode_tq1_0, NULL},
    [TENSOR_TQ2_0] = {"TQ2_0", 256, 66, decode_tq2_0, encode_tq2_0, NULL},
    [TENSOR_MXFP4] = {"MXFP4", 32, 17, decode_mxfp4, encode_mxfp4, NULL},
    [TENSOR_NVFP4] = {"NVFP4", 64, 36, decode_nvfp4, NULL, NULL},
    [TENSOR_U8] = {"U8", 1, 1, NULL, NULL, NULL},
    [TENSOR_BOOL] = {"BOOL", 1, 1, NULL, NULL, NULL},
    [TENSOR_F8_E4M3] = {"F8_E4M3", 1, 1, decode_f8_e4m3, encode_f8_e4m3, NULL},
    [TENSOR_F8_E5M2] = {"F8_E5M2", 1, 1, decode_f8_e5m2, NULL, NULL},
    [TENSOR_U16] = {"U16", 1, 2, NULL, NULL, NULL},
    [TENSOR_U32] = {"U32", 1, 4, NULL, NULL, NULL},
    [TENSOR_U64] = {"U64", 1, 8, NULL, NULL, NULL},
    [TENSOR_AFFINE8] = {"AFFINE8", 32, 40, decode_affine8, NULL, NULL},
    [TENSOR_F8_E4M3_SCALED] = {"F8_E4M3_SCALED", 32, 36, decode_f8_e4m3_scaled, NULL, NULL},
    [TENSOR_F8_E5M2_SCALED] = {"F8_E5M2_SCALED", 32, 36, decode_f8_e5m2_scaled, NULL, NULL},
};

const struct tensor_type_info *tensor_type_info(uint32_t type)
{
    return type < TENSOR_TYPE_END && types[type].block_elements ? &types[type] : NULL;
}

const char *tensor_type_name(uint32_t type)
{
    const struct tensor_type_info *info = tensor_type_info(type);
    return info ? info->name : "unknown";
}

static char lower(char c)
{
    return c >= 'A' && c <= 'Z' ? (char)(c + 32) : c;
}

enum tensor_type tensor_type_from_name(struct str name)
{
    for (uint32_t i = 0; i < TENSOR_TYPE_END; i++) {
        const char *known = types[i].name;
        if (!known || strlen(known) != name.len)
            continue;
        size_t j = 0;
        while (j < name.len && lower(name.data[j]) == lower(known[j]))
            j++;
        if (j == name.len)
            return (enum tensor_type)i;
    }
    return TENSOR_TYPE_END;
}

bool tensor_type_bytes(uint32_t type, uint64_t n, uint64_t *bytes)
{
    const struct tensor_type_info *info = tensor_type_info(type);
    return info && n % info->block_elements == 0 &&
           checked_mul_u64(n / info->block_elements, info->block_bytes, bytes);
}

bool tensor_type_encodes(uint32_t type)
{
    const struct tensor_type_info *info = tensor_type_info(type);
    return info && (info->encode || info->encode_weighted);
}

bool tensor_type_encode(uint32_t type, const float *values, const float *weights, void *blocks,
                        size_t n)
{
    const struct tensor_type_info *info = tensor_type_info(type);
    if (info && info->encode_weighted)
        info->encode_weighted(values, weights, blocks, n);
    else if (info && info->encode)
        info->encode(values, blocks, n);
    else
        return false;
    return true;
}
