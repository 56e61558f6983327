/*
 * Names of a Hugging Face folder's tensors and the roles they play.
 *
 * One table serves both directions: bind.c looks for a role's tensor, a converter asks which role a
 * tensor has. A name is
 *
 *     PREFIX [layers.N.] PART [.weight | .bias | _bias | nothing]
 *
 * where PART is the table's pattern, with a number in the place of "%u" (an expert's), or without it and
 * its dot where one tensor holds all experts.
 */
#include "model/names.h"

#include <stdio.h>
#include <string.h>

#include "model/build.h"

/* Roles that most Hugging Face decoders share. */
static const struct hf_name common_names[] = {
    {"token_embd", "embed_tokens"},
    {"output_norm", "norm"},
    {"output", "lm_head"},
    {"attn_norm", "input_layernorm"},
    {"attn_q", "self_attn.q_proj"},
    {"attn_k", "self_attn.k_proj"},
    {"attn_v", "self_attn.v_proj"},
    {"attn_output", "self_attn.o_proj"},
    {"attn_q_norm", "self_attn.q_norm"},
    {"attn_k_norm", "self_attn.k_norm"},
    {"ffn_norm", "post_attention_layernorm"},
    {"ffn_gate", "mlp.gate_proj"},
    {"ffn_up", "mlp.up_proj"},
    {"ffn_down", "mlp.down_proj"},
    {"ffn_gate_inp", "mlp.gate"},
    {"ffn_gate_exps", "mlp.experts.%u.gate_proj"},
    {"ffn_up_exps", "mlp.experts.%u.up_proj"},
    {"ffn_down_exps", "mlp.experts.%u.down_proj"},
    {"ffn_gate_up_exps", "mlp.experts.gate_up_proj"},
    {"ffn_gate_shexp", "mlp.shared_experts.gate_proj"},
    {"ffn_up_shexp", "mlp.shared_experts.up_proj"},
    {"ffn_down_shexp", "mlp.shared_experts.down_proj"},
    {"layers", "layers"},
    {"exp_probs_b", "mlp.gate.e_score_correction_bias"},
    {NULL, NULL},
};

/* Where the text decoder sits in a Hugging Face checkpoint; the first that fits is used. */
const char *const hf_prefixes[] = {"model.",
                                   "",
                                   "language_model.model.",
                                   "model.language_model.",
                                   "backbone.",
                                   "transformer.",
                                   "gpt_neox.",
                                   "bert.",
                                   "roberta.",
                                   NULL};

/* Of the roles in the table, those outside the layers. */
static const char *const global_roles[] = {
    "token_embd",           "output_norm",          "output",
    "position_embd",        "token_types",          "token_embd_norm",
    "per_layer_token_embd", "per_layer_model_proj", "per_layer_proj_norm",
    "altup_proj",           "altup_unembd_proj",    NULL};

static const char *own_name(const struct hf_name *own, const char *role)
{
    for (; own && own->role; own++)
        if (strcmp(own->role, role) == 0)
            return own->name;
    return NULL;
}

const char *hf_name(const struct hf_name *own, const char *role)
{
    const char *name = own_name(own, role);
    for (const struct hf_name *n = common_names; !name && n->role; n++)
        if (strcmp(n->role, role) == 0)
            name = n->name;
    return name ? name : role;
}

bool hf_names_of(struct str model_type, const struct hf_name **out)
{
    const struct architecture *architecture = architecture_find(model_type, false);
    *out = architecture ? architecture->names : NULL;
    return architecture != NULL;
}

/* ---- mlx-lm's name for stacks of experts ------------------------------------------------------- */

static const struct hf_name switch_names[] = {{"ffn_gate_exps", "gate_proj"},
                                              {"ffn_up_exps", "up_proj"},
                                              {"ffn_down_exps", "down_proj"},
                                              {NULL, NULL}};

bool hf_switch_name(const char *role, const char *pattern, char *out, size_t size)
{
    const char *part = own_name(switch_names, role), *experts = strstr(pattern, "experts.");
    if (!part || !experts)
        return false;
    snprintf(out, size, "%.*sswitch_mlp.%s", (int)(experts - pattern), pattern, part);
    return true;
}

/* ---- which role -------------------------------------------------------------------------------- */

static bool take(struct str *name, const char *start)
{
    size_t n = strlen(start);
    if (!str_starts(*name, (struct str){start, n}))
        return false;
    *name = (struct str){name->data + n, name->len - n};
    return true;
}

/* At most six digits. */
static bool take_number(struct str *name, int64_t *out)
{
    size_t n = 0;
    int64_t value = 0;
    while (n < name->len && n < 6 && name->data[n] >= '0' && name->data[n] <= '9')
        value = 10 * value + (name->data[n++] - '0');
    *name = (struct str){name->data + n, name->len - n};
    *out = value;
    return n > 0;
}

static bool is_end(struct str rest, bool *bias)
{
    *bias = str_eq_cstr(rest, ".bias") || str_eq_cstr(rest, "_bias");
    return *bias || rest.len == 0 || str_eq_cstr(rest, ".weight");
}

static bool fits(struct str name, const char *pattern, struct tensor_place *out)
{
    const char *number = strstr(pattern, "%u");
    char head[128];
    snprintf(head, sizeof head, "%.*s", number ? (int)(number - pattern) : 127, pattern);
    out->expert = -1;
    if (!take(&name, head))
        return false;
    if (number) {
        number += 2;
        if (!take_number(&name, &out->expert)) {
            out->expert = -1;
            if (*number++ != '.')
                return false;
        }
        if (!take(&name, number))
            return false;
    }
    return is_end(name, &out->bias);
}

static bool is_global(const char *role)
{
    for (size_t i = 0; global_roles[i]; i++)
        if (strcmp(role, global_roles[i]) == 0)
            return true;
    return false;
}

/* Looks through one table; entries whose role `hidden` has too do not count. */
static bool search(const struct hf_name *table, const struct hf_name *hidden, struct str name,
                   bool global, struct tensor_place *out)
{
    char other[128];
    for (; table && table->role; table++) {
        if (is_global(table->role) != global || own_name(hidden, table->role))
            continue;
        out->role = table->role;
        if (fits(name, table->name, out) ||
            (hf_switch_name(table->role, table->name, other, sizeof other) &&
             fits(name, other, out)))
            return true;
    }
    return false;
}

bool hf_place(const struct hf_name *own, struct str tensor, struct tensor_place *out)
{
    for (size_t i = 0; hf_prefixes[i]; i++) {
        struct str rest = tensor, below;
        int64_t layer = -1;
        if (!take(&rest, hf_prefixes[i]))
            continue;
        below = rest;
        bool global = !(take(&below, hf_name(own, "layers")) && take(&below, ".") &&
                        take_number(&below, &layer) && take(&below, "."));
        if (global)
            below = rest;
        out->layer = global ? -1 : (int32_t)layer;
        if (search(own, NULL, below, global, out) || search(common_names, own, below, global, out))
            return true;
    }
    return false;
}
