/*
 * The rules as tables: for each mixture a list of (role, layers, type), of which the first that fits
 * counts; what none fits has the base type.
 */
#include "quant/mixture.h"

#include <stdio.h>

enum layers {
    ALL,
    FIRST_TWO,
    FIRST_FOUR,
    FIRST_16TH,
    FIRST_EIGHTH,
    MORE_BITS, /* the first and the last eighth, and every third between */
    SHARED_KV, /* all, where at least four query heads share a key/value head */
};

struct rule {
    const char *role; /* part of the tensor's name */
    enum layers layers;
    enum tensor_type type;
};

struct mixture {
    const char *name, *about;
    enum tensor_type base, output; /* output: of the output matrix */
    uint32_t file_type;
    const struct rule *rules; /* up to one with role NULL; NULL: none */
};

#define END                                                                                        \
    {                                                                                              \
        NULL, ALL, TENSOR_F32                                                                      \
    }

static const struct rule q2_k[] = {{"attn_v.", SHARED_KV, TENSOR_Q4_K},
                                   {"attn_v.", ALL, TENSOR_Q3_K},
                                   {"ffn_down", ALL, TENSOR_Q3_K},
                                   {"attn_output.", ALL, TENSOR_Q3_K},
                                   END};
static const struct rule q3_k_m[] = {{"attn_v.", FIRST_TWO, TENSOR_Q5_K},
                                     {"attn_v.", ALL, TENSOR_Q4_K},
                                     {"attn_qkv.", ALL, TENSOR_Q4_K},
                                     {"ffn_down", FIRST_16TH, TENSOR_Q5_K},
                                     {"ffn_down", MORE_BITS, TENSOR_Q4_K},
                                     {"attn_output.", ALL, TENSOR_Q4_K},
                                     END};
static const struct rule q3_k_l[] = {{"attn_v.", ALL, TENSOR_Q5_K},
                                     {"attn_qkv.", ALL, TENSOR_Q4_K},
                                     {"ffn_down", ALL, TENSOR_Q5_K},
                                     {"attn_output.", ALL, TENSOR_Q5_K},
                                     END};
static const struct rule q4_k_s[] = {
    {"attn_v.", FIRST_FOUR, TENSOR_Q5_K}, {"ffn_down", FIRST_EIGHTH, TENSOR_Q5_K}, END};
static const struct rule q4_k_m[] = {{"attn_v.", MORE_BITS, TENSOR_Q6_K},
                                     {"attn_qkv.", ALL, TENSOR_Q5_K},
                                     {"ffn_down", MORE_BITS, TENSOR_Q6_K},
                                     END};
static const struct rule q5_k_m[] = {{"attn_v.", MORE_BITS, TENSOR_Q6_K},
                                     {"attn_qkv.", ALL, TENSOR_Q6_K},
                                     {"ffn_down", MORE_BITS, TENSOR_Q6_K},
                                     END};
static const struct rule iq4[] = {
    {"attn_v.", SHARED_KV, TENSOR_Q5_K}, {"ffn_down", FIRST_EIGHTH, TENSOR_Q5_K}, END};
static const struct rule mxfp4_moe[] = {{"_exps.", ALL, TENSOR_MXFP4}, END};

static const struct mixture mixtures[] = {
    {"Q2_K", "2.6 bits and more, for memory alone", TENSOR_Q2_K, TENSOR_Q6_K, 10, q2_k},
    {"Q3_K_S", "3.4 bits", TENSOR_Q3_K, TENSOR_Q6_K, 11, NULL},
    {"Q3_K_M", "3.4 bits, 4 and 5 where it matters", TENSOR_Q3_K, TENSOR_Q6_K, 12, q3_k_m},
    {"Q3_K_L", "3.4 bits, 5 where it matters", TENSOR_Q3_K, TENSOR_Q6_K, 13, q3_k_l},
    {"IQ4_XS", "4.25 bits, uneven steps", TENSOR_IQ4_XS, TENSOR_Q6_K, 30, iq4},
    {"IQ4_NL", "4.5 bits, uneven steps, rows of 32", TENSOR_IQ4_NL, TENSOR_Q6_K, 25, iq4},
    {"Q4_0", "4.5 bits, the simplest format", TENSOR_Q4_0, TENSOR_Q6_K, 2, NULL},
    {"Q4_1", "5 bits, with a minimum", TENSOR_Q4_1, TENSOR_Q6_K, 3, NULL},
    {"Q4_K_S", "4.5 bits", TENSOR_Q4_K, TENSOR_Q6_K, 14, q4_k_s},
    {"Q4_K_M", "4.5 bits, 6.6 where it matters: the usual choice", TENSOR_Q4_K, TENSOR_Q6_K, 15,
     q4_k_m},
    {"MXFP4", "4.25 bits, the microscaling float format", TENSOR_MXFP4, TENSOR_Q8_0, 38, NULL},
    {"MXFP4_MOE", "MXFP4 for experts, Q8_0 for the rest", TENSOR_Q8_0, TENSOR_Q8_0, 38, mxfp4_moe},
    {"Q5_0", "5.5 bits", TENSOR_Q5_0, TENSOR_Q6_K, 8, NULL},
    {"Q5_1", "6 bits, with a minimum", TENSOR_Q5_1, TENSOR_Q6_K, 9, NULL},
    {"Q5_K_S", "5.5 bits", TENSOR_Q5_K, TENSOR_Q6_K, 16, NULL},
    {"Q5_K_M", "5.5 bits, 6.6 where it matters", TENSOR_Q5_K, TENSOR_Q6_K, 17, q5_k_m},
    {"Q6_K", "6.6 bits", TENSOR_Q6_K, TENSOR_Q6_K, 18, NULL},
    {"Q8_0", "8.5 bits, nearly exact", TENSOR_Q8_0, TENSOR_Q8_0, 7, NULL},
    {"F16", "half precision", TENSOR_F16, TENSOR_F16, 1, NULL},
    {"BF16", "bfloat16, what most models are trained in", TENSOR_BF16, TENSOR_BF16, 32, NULL},
    {"F32", "single precision", TENSOR_F32, TENSOR_F32, 0, NULL},
};
#define N_MIXTURES (sizeof mixtures / sizeof *mixtures)

static char upper(char c)
{
    return c >= 'a' && c <= 'z' ? (char)(c - 32) : c;
}

const struct mixture *mixture_from_name(struct str name)
{
    for (size_t i = 0; i < N_MIXTURES; i++) {
        size_t j = 0;
        while (j < name.len && upper(name.data[j]) == mixtures[i].name[j])
            j++;
        if (j == name.len && mixtures[i].name[j] == 0)
            return &mixtures[i];
    }
    return NULL;
}

enum status mixture_unknown(const char *name, struct error *err)
{
    char known[N_MIXTURES * 12] = "";
    size_t used = 0;
    for (size_t i = 0; i < N_MIXTURES; i++)
        used += (size_t)snprintf(known + used, sizeof known - used, "%s%s", i ? ", " : "",
                                 mixtures[i].name);
    return error_set(err, STATUS_USAGE, "unknown type '%s' (known: %s)", name, known);
}

const struct mixture *mixture_at(uint32_t index)
{
    return index < N_MIXTURES ? &mixtures[index] : NULL;
}

const char *mixture_name(const struct mixture *mixture)
{
    return mixture->name;
}

const char *mixture_about(const struct mixture *mixture)
{
    return mixture->about;
}

uint32_t mixture_file_type(const struct mixture *mixture)
{
    return mixture->file_type;
}

static bool contains(struct str name, const char *part)
{
    return str_find(name, str_from(part), 0) != SIZE_MAX;
}

bool mixture_applies(struct str name, uint32_t n_dims, const uint64_t *dims)
{
    static const char *const kept[] = {"_norm.",         "ffn_gate_inp", "ssm_conv1d",
                                       "shortconv.conv", "rope_freqs",   "attn_sinks",
                                       "token_types",    "position_embd"};
    if (n_dims < 2 || dims[n_dims - 2] == 1 || !str_ends(name, STR_LIT(".weight")))
        return false;
    for (size_t i = 0; i < sizeof kept / sizeof *kept; i++)
        if (contains(name, kept[i]))
            return false;
    return true;
}

/* N of "blk.N."; 0 for tensors outside the layers. */
static uint32_t layer_of(struct str name)
{
    uint32_t layer = 0;
    if (!str_starts(name, STR_LIT("blk.")))
        return 0;
    for (size_t i = 4; i < name.len && name.data[i] >= '0' && name.data[i] <= '9' && layer < 100000;
         i++)
        layer = 10 * layer + (uint32_t)(name.data[i] - '0');
    return layer;
}

static bool rule_fits(const struct rule *rule, const struct mixture_model *model, struct str name)
{
    uint32_t layer = layer_of(name), n = model->n_layers;
    if (!contains(name, rule->role))
        return false;
    switch (rule->layers) {
    case ALL:
        return true;
    case FIRST_TWO:
        return layer < 2;
    case FIRST_FOUR:
        return layer < 4;
    case FIRST_16TH:
        return layer < n / 16;
    case FIRST_EIGHTH:
        return layer < n / 8;
    case MORE_BITS:
        return layer < n / 8 || layer >= 7 * n / 8 || (layer - n / 8) % 3 == 2;
    case SHARED_KV:
        return model->heads_per_kv >= 4;
    }
    return false;
}

/* With 8 experts the attention is so small beside them that it may be large (Mixtral's rule). */
static bool eight_experts(const struct mixture *m, const struct mixture_model *model,
                          struct str name, enum tensor_type *type)
{
    if (model->n_experts != 8 || !m->rules)
        return false;
    if (contains(name, "attn_v.") || contains(name, "attn_k."))
        *type = TENSOR_Q8_0;
    else if (contains(name, "attn_output."))
        *type = TENSOR_Q5_K;
    else
        return false;
    return true;
}

static enum tensor_type fit_row(enum tensor_type type, uint64_t row)
{
    const struct tensor_type_info *info = tensor_type_info(type);
    if (row % info->block_elements == 0)
        return type;
    if (row % 32)
        return TENSOR_F16;
    switch (type) {
    case TENSOR_Q4_K:
        return TENSOR_Q5_0;
    case TENSOR_Q5_K:
        return TENSOR_Q5_1;
    case TENSOR_Q6_K:
        return TENSOR_Q8_0;
    default:
        return TENSOR_IQ4_NL;
    }
}

enum tensor_type mixture_type(const struct mixture *m, const struct mixture_model *model,
                              struct str name, uint32_t n_dims, const uint64_t *dims)
{
    enum tensor_type type = m->base;
    bool output = str_eq(name, STR_LIT("output.weight")) ||
                  (model->tied && str_eq(name, STR_LIT("token_embd.weight")));
    if (output) {
        type = m->output;
    } else if (!eight_experts(m, model, name, &type)) {
        for (const struct rule *rule = m->rules; rule && rule->role; rule++)
            if (rule_fits(rule, model, name)) {
                type = rule->type;
                break;
            }
    }
    return fit_row(type, dims[n_dims - 1]);
}
