/*
 * What single families check and write beyond the table.
 *
 * A check refuses a folder (hf_cannot) whose config says what a GGUF file of that architecture cannot say:
 * there the pattern of windows, the scale of queries and the like are not written but implied, so a folder
 * that has others would silently become another model.
 */
#include "convert/hf_special.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "format/gguf_writer.h"

/* ---- checks ------------------------------------------------------------------------------------ */

void hf_check_no_window(struct hf_source *h)
{
    if (hf_bool(h, "use_sliding_window", false))
        hf_cannot(h, "use_sliding_window is true");
}

/* Layers see windows as `period` says: every period-th sees all, or (first: 0) every even one a window. */
static void check_pattern(struct hf_source *h, uint32_t period, bool even_local)
{
    for (uint32_t i = 0; i < h->n_layers; i++) {
        bool local = even_local ? i % 2 == 0 : (i + 1) % period != 0;
        if (hf_is_local(h, i, local) != local) {
            hf_cannot(h, "layer_types[%u] is not what the architecture implies", i);
            return;
        }
    }
}

/* The scale of scores is 1/sqrt of this. */
static void check_query_scale(struct hf_source *h, uint32_t large)
{
    double implied =
        h->n_layers == large && h->n_heads ? (double)h->width / h->n_heads : (double)h->head_dim;
    if (hf_f64(h, "query_pre_attn_scalar", implied) != implied)
        hf_cannot(h, "query_pre_attn_scalar is not %g", implied);
}

void hf_check_gemma2(struct hf_source *h)
{
    check_pattern(h, 0, true);
    check_query_scale(h, 46);
}

void hf_check_gemma3(struct hf_source *h)
{
    check_pattern(h, 6, false);
    check_query_scale(h, 62);
}

void hf_check_cohere(struct hf_source *h)
{
    if (hf_find(h, "sliding_window"))
        check_pattern(h, 4, false);
}

void hf_check_gpt_oss(struct hf_source *h)
{
    check_pattern(h, 0, true);
    if (h->rope.kind && h->rope.truncate)
        hf_cannot(h, "rope \"truncate\" is not false");
}

void hf_check_smollm3(struct hf_source *h)
{
    hf_check_no_window(h);
    for (uint32_t i = 0; i < h->n_layers; i++)
        if (hf_item(h, "no_rope_layers", i, (i + 1) % 4 != 0) != ((i + 1) % 4 != 0)) {
            hf_cannot(h, "no_rope_layers[%u] is not what the architecture implies", i);
            return;
        }
}

void hf_check_modernbert(struct hf_source *h)
{
    uint32_t every = hf_u32(h, "global_attn_every_n_layers", 3);
    for (uint32_t i = 0; i < h->n_layers; i++)
        if (every != 3 || hf_is_local(h, i, i % 3 != 0) != (i % 3 != 0)) {
            hf_cannot(h, "layer %u sees another window than every third layer implies", i);
            return;
        }
}

void hf_check_mamba(struct hf_source *h)
{
    const json_t *limits = hf_find(h, "time_step_limit");
    double least = json_number_value(json_array_get(limits, 0));
    const json_t *most = json_array_get(limits, 1);
    if (least > 0.0 || (json_is_number(most) && json_number_value(most) < 1e30))
        hf_cannot(h, "time_step_limit limits the time step");
}

void hf_check_falcon(struct hf_source *h)
{
    hf_check_mamba(h);
    if (hf_bool(h, "mamba_rms_norm", false) && hf_bool(h, "mamba_norm_before_gate", true))
        hf_cannot(h, "mamba_norm_before_gate is true");
}

void hf_check_granite_hybrid(struct hf_source *h)
{
    const char *kind = hf_text(h, "position_embedding_type");
    hf_check_mamba(h);
    if (!h->n_experts)
        h->n_ff = hf_u32(h, "shared_intermediate_size", h->n_ff);
    if (kind && !hf_listed("rope|nope", kind))
        hf_cannot(h, "position_embedding_type is \"%.40s\"", kind);
}

void hf_check_deepseek(struct hf_source *h)
{
    const char *method = hf_text(h, "topk_method");
    if (!hf_bool(h, "rope_interleave", true))
        hf_cannot(h, "rope_interleave is false");
    if (method && !hf_listed("greedy|group_limited_greedy|noaux_tc", method))
        hf_cannot(h, "topk_method is \"%.40s\"", method);
    if (h->rope.kind && h->rope.mscale != h->rope.mscale_all)
        hf_cannot(h, "rope mscale is not mscale_all_dim");
}

void hf_check_bert(struct hf_source *h)
{
    const char *kind = hf_text(h, "position_embedding_type");
    if (kind && strcmp(kind, "absolute") != 0)
        hf_cannot(h, "position_embedding_type is \"%.40s\"", kind);
}

/* Its first positions are for padding, and GGUF leaves them out. */
void hf_check_roberta(struct hf_source *h)
{
    uint32_t skipped = hf_u32(h, "pad_token_id", 1);
    hf_check_bert(h);
    if (skipped + 1 >= h->n_context)
        hf_fail(h, STATUS_MODEL, "config.json: pad_token_id leaves no positions");
    else
        h->n_context -= skipped + 1;
}

void hf_check_gemma4(struct hf_source *h)
{
    if (hf_bool(h, "enable_moe_block", false))
        hf_cannot(h, "enable_moe_block is true");
}

/* ---- more metadata ----------------------------------------------------------------------------- */

static const char *key(const struct hf_source *h, const char *name, char out[128])
{
    snprintf(out, 128, "%s.%s", h->family->gguf, name);
    return out;
}

static void write_pattern(const struct hf_source *h, struct gguf_writer *w, uint32_t period)
{
    char name[128];
    if (!hf_find(h, "sliding_window"))
        return;
    gguf_writer_array(w, key(h, "attention.sliding_window_pattern", name), GGUF_BOOL, h->n_layers);
    for (uint32_t i = 0; i < h->n_layers; i++)
        gguf_writer_item_bool(w, hf_is_local(h, i, (i + 1) % period != 0));
}

void hf_write_four(const struct hf_source *h, struct gguf_writer *w)
{
    write_pattern(h, w, 4);
}

static uint32_t number(const struct hf_source *h, const char *keys, uint32_t fallback)
{
    const json_t *value = hf_find(h, keys);
    return json_is_integer(value) ? (uint32_t)json_integer_value(value) : fallback;
}

void hf_write_inner(const struct hf_source *h, struct gguf_writer *w)
{
    char name[128];
    uint32_t heads = number(h, "mamba_n_heads|mamba_num_heads|num_heads", 0);
    uint32_t each = number(h, "mamba_d_head|mamba_head_dim|head_dim", 0);
    gguf_writer_u32(w, key(h, "ssm.inner_size", name), heads * each);
}

/* The FFN's width too is a list with zeros. */
void hf_write_nemotron_h(const struct hf_source *h, struct gguf_writer *w)
{
    char name[128];
    hf_write_inner(h, w);
    gguf_writer_array(w, key(h, "feed_forward_length", name), GGUF_I32, h->n_layers);
    for (uint32_t i = 0; i < h->n_layers; i++) {
        snprintf(name, sizeof name, "blk.%u.ffn_up.weight", i);
        gguf_writer_item_u32(w, hf_has(h, name) ? h->n_ff : 0);
    }
}

void hf_write_jamba(const struct hf_source *h, struct gguf_writer *w)
{
    char name[128];
    gguf_writer_u32(w, key(h, "ssm.inner_size", name), number(h, "mamba_expand", 2) * h->width);
}

void hf_write_granite_hybrid(const struct hf_source *h, struct gguf_writer *w)
{
    char name[128];
    const char *kind = hf_text(h, "position_embedding_type");
    hf_write_inner(h, w);
    gguf_writer_bool(w, key(h, "rope.scaling.finetuned", name), kind && strcmp(kind, "rope") == 0);
}

void hf_write_delta(const struct hf_source *h, struct gguf_writer *w)
{
    char name[128];
    uint32_t heads = number(h, "linear_num_value_heads", 0);
    gguf_writer_u32(w, key(h, "ssm.inner_size", name),
                    heads * number(h, "linear_value_head_dim", 0));
}

void hf_write_qwen3_5(const struct hf_source *h, struct gguf_writer *w)
{
    static const uint32_t usual[4] = {11, 11, 10, 0};
    char name[128];
    const json_t *sections = json_object_get(hf_find(h, "rope_parameters"), "mrope_section");
    hf_write_delta(h, w);
    gguf_writer_array(w, key(h, "rope.dimension_sections", name), GGUF_I32, 4);
    for (size_t i = 0; i < 4; i++) {
        json_int_t n = json_integer_value(json_array_get(sections, i));
        gguf_writer_item_u32(w, json_is_array(sections) ? (uint32_t)n : usual[i]);
    }
}

void hf_write_xielu(const struct hf_source *h, struct gguf_writer *w)
{
    static const char *const roles[] = {"alpha_n", "alpha_p", "beta", "eps"};
    for (size_t r = 0; r < 4; r++) {
        char name[160];
        snprintf(name, sizeof name, "xielu.%s", roles[r]);
        gguf_writer_array(w, name, GGUF_F32, h->n_layers);
        for (uint32_t i = 0; i < h->n_layers; i++) {
            float value = 0.0f;
            snprintf(name, sizeof name, "model.layers.%u.mlp.act_fn.%s", i, roles[r]);
            const struct tensor *t = checkpoint_tensor(h->source->checkpoint, name);
            if (t && tensor_type_info(t->type)->block_elements == 1)
                tensor_type_info(t->type)->decode(t->data, &value, 1);
            gguf_writer_item_f32(w, value);
        }
    }
}

void hf_check_xielu(struct hf_source *h)
{
    static const char *const roles[] = {"alpha_n", "alpha_p", "beta", "eps"};
    for (uint32_t i = 0; i < h->n_layers; i++)
        for (size_t r = 0; r < 4; r++) {
            char name[160];
            snprintf(name, sizeof name, "model.layers.%u.mlp.act_fn.%s", i, roles[r]);
            if (!checkpoint_tensor(h->source->checkpoint, name))
                hf_fail(h, STATUS_MODEL, "tensor %s is missing", name);
        }
}

void hf_write_ernie_moe(const struct hf_source *h, struct gguf_writer *w)
{
    char name[128];
    gguf_writer_u32(w, key(h, "expert_shared_feed_forward_length", name),
                    number(h, "moe_num_shared_experts", 0) * h->expert_ff);
}

static double log_multiplier(const struct hf_source *h)
{
    return h->rope.kind && strcmp(h->rope.kind, "yarn") == 0 ? 0.1 * h->rope.mscale_all : 0.0;
}

void hf_write_latent(const struct hf_source *h, struct gguf_writer *w)
{
    char name[128];
    uint32_t rank = number(h, "kv_lora_rank", 0), rope = number(h, "qk_rope_head_dim", 0);
    const char *type = hf_text(h, "model_type"), *method = hf_text(h, "topk_method");
    bool greedy = method && strcmp(method, "greedy") == 0, v3 = strcmp(type, "deepseek_v3") == 0;
    gguf_writer_u32(w, key(h, "attention.key_length", name), rank + rope);
    gguf_writer_u32(w, key(h, "attention.value_length", name), rank);
    gguf_writer_u32(w, key(h, "attention.key_length_mla", name),
                    number(h, "qk_nope_head_dim", 0) + rope);
    gguf_writer_u32(w, key(h, "expert_gating_func", name), v3 ? 2 : 1);
    gguf_writer_bool(w, key(h, "expert_weights_norm", name),
                     hf_find(h, "norm_topk_prob") ? json_is_true(hf_find(h, "norm_topk_prob"))
                                                  : v3);
    gguf_writer_u32(w, key(h, "expert_group_count", name), greedy ? 1 : number(h, "n_group", 1));
    if (log_multiplier(h) > 0.0)
        gguf_writer_f32(w, key(h, "rope.scaling.yarn_log_multiplier", name),
                        (float)log_multiplier(h));
}

void hf_write_longrope(const struct hf_source *h, struct gguf_writer *w)
{
    const struct hf_rope *r = &h->rope;
    char name[128];
    double scale = h->n_context / r->original, factor = r->attention;
    gguf_writer_u32(w, key(h, "rope.scaling.original_context_length", name), (uint32_t)r->original);
    if (!r->kind || strcmp(r->kind, "longrope") != 0)
        return;
    if (!(factor > 0.0))
        factor = scale > 1.0 ? sqrt(1.0 + log(scale) / log(r->original)) : 1.0;
    gguf_writer_f32(w, key(h, "rope.scaling.attn_factor", name), (float)factor);
}

/* Where the normal distribution has this share below it, in deviations. */
static double deviations(double share)
{
    double low = -40.0, high = 40.0;
    for (int i = 0; i < 200; i++) {
        double middle = (low + high) / 2.0;
        if (0.5 * erfc(-middle * sqrt(0.5)) < share)
            low = middle;
        else
            high = middle;
    }
    return low;
}

void hf_write_gemma3n(const struct hf_source *h, struct gguf_writer *w)
{
    char name[128];
    const json_t *shares = hf_find(h, "activation_sparsity_pattern");
    write_pattern(h, w, 5);
    gguf_writer_array(w, key(h, "activation_sparsity_scale", name), GGUF_F32, h->n_layers);
    for (uint32_t i = 0; i < h->n_layers; i++) {
        const json_t *item = json_is_array(shares) ? json_array_get(shares, i) : shares;
        double share = json_number_value(item);
        gguf_writer_item_f32(w, share > 0.0 ? (float)deviations(share) : -INFINITY);
    }
}

/* ---- gemma4: heads that differ by the kind of layer -------------------------------------------- */

/* Of layers that see everything: "per_layer_config" of the first of them, or a key of its own. */
static uint32_t global_number(const struct hf_source *h, const char *own, const char *all,
                              uint32_t fallback)
{
    const json_t *by_layer = hf_find(h, "per_layer_config");
    for (uint32_t i = 0; i < h->n_layers; i++) {
        char layer[16];
        snprintf(layer, sizeof layer, "%u", i);
        const json_t *value = json_object_get(json_object_get(by_layer, layer), all);
        if (!hf_is_local(h, i, (i + 1) % 6 != 0) && json_is_integer(value))
            return (uint32_t)json_integer_value(value);
    }
    return number(h, own, fallback);
}

void hf_gemma4_rope(struct hf_source *h)
{
    const json_t *full = json_object_get(hf_find(h, "rope_parameters"), "full_attention");
    const json_t *part = json_object_get(full, "partial_rotary_factor");
    double share = json_is_number(part) ? json_number_value(part) : 1.0;
    uint32_t head = global_number(h, "global_head_dim", "head_dim", h->head_dim), pairs = head / 2;
    if (pairs == 0 || pairs > 1u << 15 || !(share > 0.0 && share <= 1.0)) {
        hf_fail(h, STATUS_MODEL, "config.json: heads of %u columns, of which a part of %g turns",
                head, share);
        return;
    }
    float *divisors = hf_memory(h, pairs, sizeof *divisors);
    for (uint32_t i = 0; divisors && i < pairs; i++)
        divisors[i] = i < (uint32_t)(share * head / 2.0) ? 1.0f : 1e30f;
    if (divisors)
        hf_add_values(h, "rope_freqs.weight", divisors, pairs);
}

void hf_write_gemma4(const struct hf_source *h, struct gguf_writer *w)
{
    char name[128];
    uint32_t head = global_number(h, "global_head_dim", "head_dim", h->head_dim);
    uint32_t kv =
        global_number(h, "num_global_key_value_heads", "num_key_value_heads", h->n_kv_heads);
    uint32_t shared = number(h, "num_kv_shared_layers", 0);
    bool wide = json_is_true(hf_find(h, "use_double_wide_mlp"));
    write_pattern(h, w, 6);
    gguf_writer_u32(w, key(h, "attention.key_length", name), head);
    gguf_writer_u32(w, key(h, "attention.value_length", name), head);
    gguf_writer_u32(w, key(h, "attention.key_length_swa", name), h->head_dim);
    gguf_writer_u32(w, key(h, "attention.value_length_swa", name), h->head_dim);
    gguf_writer_u32(w, key(h, "rope.dimension_count", name), head);
    gguf_writer_u32(w, key(h, "rope.dimension_count_swa", name), h->head_dim);
    gguf_writer_array(w, key(h, "attention.head_count_kv", name), GGUF_I32, h->n_layers);
    for (uint32_t i = 0; i < h->n_layers; i++)
        gguf_writer_item_u32(w, hf_is_local(h, i, (i + 1) % 6 != 0) ? h->n_kv_heads : kv);
    gguf_writer_array(w, key(h, "feed_forward_length", name), GGUF_I32, h->n_layers);
    for (uint32_t i = 0; i < h->n_layers; i++)
        gguf_writer_item_u32(w, wide && i + shared >= h->n_layers ? 2 * h->n_ff : h->n_ff);
}
