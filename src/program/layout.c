/*
 * Page geometry: pure arithmetic over a program's groups. First the bytes of a token in each group, then the
 * bytes of a page, which suit the neediest group, then how many tokens (or layers of state) of each group
 * fit into such a page.
 */
#include "program/layout.h"

#include "base/checked.h"
#include "kv/kv.h"

#define LAYOUT_PAGE_BYTES_MAX ((uint64_t)1 << 30)
#define LAYOUT_TABLE_MAX      (1u << 24)
#define LAYOUT_TOKENS_MAX     (1u << 20) /* of a page */

static enum status kv_token_bytes(const struct state_group *g, enum tensor_type type,
                                  struct group_layout *out, uint64_t *token_bytes,
                                  struct error *err)
{
    uint64_t k, v;
    if (!tensor_type_bytes(type, g->k_head_dim, &k) || !tensor_type_bytes(type, g->v_head_dim, &v))
        return error_set(err, STATUS_UNSUPPORTED,
                         "heads of %u+%u values do not divide into %s blocks for the KV cache",
                         g->k_head_dim, g->v_head_dim, tensor_type_name(type));
    uint64_t per_head;
    if (k > UINT32_MAX || v > UINT32_MAX || !checked_add_u64(k, v, &per_head) ||
        !checked_mul_u64(per_head, g->n_kv_heads, token_bytes) ||
        *token_bytes > LAYOUT_PAGE_BYTES_MAX || *token_bytes == 0)
        return error_set(err, STATUS_MODEL, "%u key/value heads of %u+%u are out of range",
                         g->n_kv_heads, g->k_head_dim, g->v_head_dim);
    out->n_kv_heads = g->n_kv_heads;
    out->k_head_bytes = (uint32_t)k;
    out->v_head_bytes = (uint32_t)v;
    out->window = g->window;
    return STATUS_OK;
}

/* Blocks of the prefix index fill a page; where it holds less than one, blocks shrink to powers of
 * two (kv.h). */
static uint32_t whole_blocks(uint64_t tokens)
{
    uint32_t result = 1;
    if (tokens >= KV_BLOCK_MAX)
        return (uint32_t)(tokens < LAYOUT_TOKENS_MAX ? tokens : LAYOUT_TOKENS_MAX) / KV_BLOCK_MAX *
               KV_BLOCK_MAX;
    while (result * 2 <= tokens)
        result *= 2;
    return result;
}

/* Largest need decides: target_tokens of the widest K/V group, or one layer's recurrent state. */
static uint64_t choose_page_bytes(const struct program *program, const uint64_t *token_bytes,
                                  uint32_t target_tokens)
{
    uint64_t page = 256;
    for (uint32_t i = 0; i < program->n_groups; i++) {
        const struct state_group *g = &program->groups[i];
        uint64_t need = g->kind == GROUP_RECURRENT ? (uint64_t)g->state_floats * sizeof(float)
                                                   : token_bytes[i] * g->n_layers * target_tokens;
        if (need > page)
            page = need;
    }
    return (page + 255) / 256 * 256;
}

static void place_kv(const struct state_group *g, uint64_t token_bytes, uint64_t page_bytes,
                     uint32_t max_context, struct group_layout *out)
{
    uint32_t tokens = whole_blocks(page_bytes / (token_bytes * g->n_layers));
    out->tokens_per_page = tokens;
    out->layer_bytes = token_bytes * tokens;
    out->max_pages = (max_context + tokens - 1) / tokens;
}

static void place_state(const struct state_group *g, uint64_t page_bytes, struct group_layout *out)
{
    out->state_bytes = (uint64_t)g->state_floats * sizeof(float);
    uint64_t fit = page_bytes / out->state_bytes;
    out->layers_per_page = fit > g->n_layers ? g->n_layers : (uint32_t)fit;
    out->pages_per_state = (g->n_layers + out->layers_per_page - 1) / out->layers_per_page;
    out->max_pages = 2 * out->pages_per_state;
}

enum status layout_plan(const struct program *program, enum tensor_type kv_type, uint32_t n_slots,
                        uint32_t max_context, uint32_t target_tokens, struct layout *out,
                        struct error *err)
{
    *out = (struct layout){
        .n_slots = n_slots, .n_groups = program->n_groups, .kv_type = (uint32_t)kv_type};
    uint64_t token_bytes[PROGRAM_GROUPS_MAX] = {0};
    for (uint32_t i = 0; i < program->n_groups; i++) {
        const struct state_group *g = &program->groups[i];
        out->groups[i].kind = (uint32_t)g->kind;
        if (g->n_layers == 0 || (g->kind == GROUP_RECURRENT && g->state_floats == 0))
            return error_set(err, STATUS_MODEL, "layer group %s is empty", g->name);
        if (g->kind == GROUP_RECURRENT)
            continue;
        enum status status = kv_token_bytes(g, kv_type, &out->groups[i], &token_bytes[i], err);
        if (status != STATUS_OK)
            return status;
    }
    out->page_bytes = choose_page_bytes(program, token_bytes, target_tokens);
    if (out->page_bytes > LAYOUT_PAGE_BYTES_MAX)
        return error_set(err, STATUS_LIMIT, "a page of %u tokens would take %llu bytes",
                         target_tokens, (unsigned long long)out->page_bytes);
    for (uint32_t i = 0; i < program->n_groups; i++) {
        struct group_layout *g = &out->groups[i];
        if (program->groups[i].kind == GROUP_RECURRENT)
            place_state(&program->groups[i], out->page_bytes, g);
        else
            place_kv(&program->groups[i], token_bytes[i], out->page_bytes, max_context, g);
        g->table_offset = out->slot_pages;
        if (g->max_pages > LAYOUT_TABLE_MAX - out->slot_pages)
            return error_set(err, STATUS_LIMIT, "a context of %u tokens needs too many pages",
                             max_context);
        out->slot_pages += g->max_pages;
    }
    return STATUS_OK;
}

enum status layout_kv_type(const char *name, enum tensor_type *out, struct error *err)
{
    static const enum tensor_type types[] = {TENSOR_F32, TENSOR_F16, TENSOR_BF16, TENSOR_Q8_0,
                                             TENSOR_F8_E4M3};
    *out = tensor_type_from_name(str_from(name));
    for (size_t i = 0; i < sizeof types / sizeof *types; i++)
        if (types[i] == *out)
            return STATUS_OK;
    return error_set(err, STATUS_USAGE, "kv_type: '%s' is none of f32, f16, bf16, q8_0 and f8_e4m3",
                     name);
}

uint64_t layout_bytes_read(const struct layout *layout, uint64_t tokens)
{
    uint64_t total = 0;
    for (uint32_t i = 0; i < layout->n_groups; i++) {
        const struct group_layout *g = &layout->groups[i];
        uint64_t read = g->window && g->window < tokens ? g->window : tokens;
        total += g->tokens_per_page ? layout->page_bytes * read / g->tokens_per_page
                                    : layout->page_bytes * g->max_pages / 2;
    }
    return total;
}
