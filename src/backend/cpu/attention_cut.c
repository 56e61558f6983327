/*
 * How attention is cut into tiles, so that a key or value is read once for as many (row, head) pairs as
 * fit: consecutive rows of one slice times the query heads that share a K/V head. The list of tiles is
 * never stored: each thread walks it from the front.
 */
#include "backend/cpu/attention_cut.h"

bool attention_of_prompts(const struct cpu_backend *backend, const struct program *program,
                          const struct op_attention *op)
{
    const struct state_group *group = &program->groups[op->group];
    return backend->tiles && backend->kv && group->kind == GROUP_KV &&
           tile_attention_takes(backend->kv->type, group->k_head_dim, group->v_head_dim);
}

bool attention_is_narrow(const struct cpu_run *run, const struct op_attention *op)
{
    return attention_of_prompts(run->backend, run->program->program, op);
}

void attention_visible(const struct cpu_run *run, const struct op_attention *op, uint32_t row,
                       uint32_t *begin, uint32_t *end)
{
    const struct slice *slice = step_slices(run->step) + step_row_slice(run->step)[row];
    uint32_t position = step_row_position(run->step, row);
    *end = slice->mask == MASK_SPAN ? slice->first_position + slice->n_rows : position + 1;
    if (op->ahead && *end > position + 1 + op->ahead)
        *end = position + 1 + op->ahead;
    *begin = op->window && position + 1 > op->window ? position + 1 - op->window : 0;
}

struct tile_list tile_list_begin(const struct cpu_run *run, const struct op_attention *op)
{
    const struct state_group *group = &run->program->program->groups[op->group];
    struct tile_list t = {.run = run,
                          .op = op,
                          .n_kv_heads = group->n_kv_heads,
                          .heads_per_kv = op->n_heads / group->n_kv_heads};
    if (attention_is_narrow(run, op)) {
        /* All pairs share what is made of keys and values; but every thread needs some tiles. */
        uint64_t pairs = (uint64_t)run->step->n_rows * op->n_heads;
        t.narrow_pairs = PAIRS_MOST;
        while (t.narrow_pairs > PAIRS &&
               pairs / t.narrow_pairs < (uint64_t)TILES_PER_THREAD * run->backend->n_threads)
            t.narrow_pairs /= 2;
    }
    return t;
}

bool tile_list_next(struct tile_list *t, struct tile *out)
{
    const struct step *step = t->run->step;
    if (t->slice >= step->n_slices)
        return false;
    const struct slice *slice = step_slices(step) + t->slice;
    uint32_t heads_left = t->heads_per_kv - t->head, rows_left = slice->n_rows - t->row;
    bool narrow = t->narrow_pairs && slice->numeric_class == CLASS_PROMPT;
    uint32_t pairs = narrow ? t->narrow_pairs : PAIRS;
    uint32_t heads = t->heads_per_kv < pairs ? t->heads_per_kv : pairs; /* of a tile */
    uint32_t rows = pairs / heads, unused;
    *out = (struct tile){
        .slot = slice->slot,
        .row = slice->first_row + t->row,
        .n_rows = rows < rows_left ? rows : rows_left,
        .kv_head = t->kv_head,
        .head = t->kv_head * t->heads_per_kv + t->head,
        .n_heads = heads < heads_left ? heads : heads_left,
        .narrow = narrow,
    };
    attention_visible(t->run, t->op, out->row, &out->begin, &unused);
    attention_visible(t->run, t->op, out->row + out->n_rows - 1, &unused, &out->end);
    t->head += out->n_heads;
    if (t->head < t->heads_per_kv)
        return true;
    t->head = 0;
    if (++t->kv_head < t->n_kv_heads)
        return true;
    t->kv_head = 0;
    t->row += out->n_rows;
    if (t->row < slice->n_rows)
        return true;
    t->row = 0;
    t->slice++;
    return true;
}

bool tile_cursor_seek(struct tile_cursor *c, uint64_t unit)
{
    bool moved = false;
    if (unit < c->unit)
        *c = (struct tile_cursor){.list = tile_list_begin(c->list.run, c->list.op),
                                  .by_block = c->by_block};
    while (unit >= c->unit + c->units) {
        c->unit += c->units;
        if (c->units)
            c->pairs += (size_t)tile_blocks(&c->tile) * tile_pairs(&c->tile);
        if (!tile_list_next(&c->list, &c->tile))
            return moved; /* there is no such unit */
        c->units = c->by_block ? tile_blocks(&c->tile) : 1;
        moved = true;
    }
    return moved;
}

struct tile_sums sum_tiles(const struct cpu_run *run, const struct op_attention *op)
{
    struct tile_sums s = {0};
    struct tile tile;
    for (struct tile_list t = tile_list_begin(run, op); tile_list_next(&t, &tile); s.tiles++) {
        s.blocks += tile_blocks(&tile);
        s.columns += (uint64_t)tile_pairs(&tile) * (tile.end - tile.begin);
        s.pairs += (size_t)tile_blocks(&tile) * tile_pairs(&tile);
    }
    return s;
}
