/*
 * A Hugging Face folder as a source: its tensors under their GGUF names, its config as metadata.
 *
 * Which role a tensor plays is asked of the architecture's own table of names (model/names.h), so that
 * what opens and what converts cannot drift apart; how a family lays rows out, and what its metadata
 * says, stands in hf_families.c. A tensor without a place, or an option that GGUF cannot say for the
 * family, is an error, never left out; what belongs to no text model (the encoders of images and sound,
 * heads of other tasks, layers that guess further tokens, buffers that old versions stored) is counted
 * and passed over.
 */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "convert/hf.h"

#define NAME_BYTES 256
#define TWO_PI     6.283185307179586
#define TENSORS_A  3 /* most tensors made of one stored tensor, and those of a config */

void *hf_memory(struct hf_source *h, uint64_t count, size_t size)
{
    void *memory = count <= SIZE_MAX / 16
                       ? arena_alloc(&h->source->arena, count ? (size_t)count : 1, size)
                       : NULL;
    if (!memory)
        hf_fail(h, STATUS_MEMORY, "out of memory for the folder's tensors");
    return memory;
}

bool hf_has(const struct hf_source *h, const char *name)
{
    for (size_t i = 0; i < h->source->n_tensors; i++)
        if (str_eq_cstr(h->source->tensors[i].name, name))
            return true;
    return false;
}

/* ---- new tensors ------------------------------------------------------------------------------- */

struct source_tensor *hf_add_named(struct hf_source *h, const struct tensor *from, const char *name,
                                   uint32_t n_dims, const uint64_t *dims)
{
    struct source *s = h->source;
    const void **parts = hf_memory(h, 1, sizeof *parts);
    char *copy = arena_copy_cstr(&s->arena, name);
    if (!parts || !copy) {
        hf_fail(h, STATUS_MEMORY, "out of memory for the folder's tensors");
        return NULL;
    }
    parts[0] = from->data;
    struct source_tensor *out = &s->tensors[s->n_tensors++];
    *out = (struct source_tensor){.name = str_from(copy),
                                  .stored = from->name,
                                  .n_dims = n_dims,
                                  .n_rows = 1,
                                  .row_values = n_dims ? dims[n_dims - 1] : 1,
                                  .type = from->type,
                                  .parts = parts,
                                  .n_parts = 1};
    for (uint32_t d = 0; d < TENSOR_DIMS_MAX; d++)
        out->dims[d] = d < n_dims ? dims[d] : 1;
    for (uint32_t d = 0; d + 1 < n_dims; d++)
        out->n_rows *= dims[d];
    return out;
}

/* Parameters that are no module's weight have no ending. */
static const char *ending(const struct hf_tensor *from, const char *gguf)
{
    if (hf_listed("ssm_a|ssm_d", gguf))
        return "";
    return from->place.bias || strcmp(gguf, "exp_probs_b") == 0 ? ".bias" : ".weight";
}

struct source_tensor *hf_add(struct hf_source *h, const struct hf_tensor *from, const char *gguf,
                             uint32_t n_dims, const uint64_t *dims)
{
    char name[NAME_BYTES];
    if (from->place.layer >= 0)
        snprintf(name, sizeof name, "blk.%d.%s%s", from->place.layer, gguf, ending(from, gguf));
    else
        snprintf(name, sizeof name, "%s%s", gguf, ending(from, gguf));
    return hf_add_named(h, from->tensor, name, n_dims, dims);
}

void hf_add_values(struct hf_source *h, const char *name, const float *values, uint32_t n)
{
    const struct tensor made = {.name = {"", 0},
                                .type = TENSOR_F32,
                                .n_dims = 1,
                                .dims = {n, 1, 1, 1},
                                .data = values,
                                .bytes = n * sizeof *values};
    hf_add_named(h, &made, name, 1, made.dims);
}

/* All experts of one role and layer; called at expert 0. */
static void stack_experts(struct hf_source *h, const struct hf_tensor *from, const char *gguf)
{
    const struct tensor *first = from->tensor;
    uint32_t n = h->n_experts;
    const void **parts = hf_memory(h, n, sizeof *parts);
    size_t at = str_find(first->name, STR_LIT("experts.0."), 0);
    if (n == 0 || at == SIZE_MAX || first->n_dims != 2) {
        hf_fail(h, STATUS_MODEL, "tensor %.*s: no number of experts in config.json, or no matrix",
                STR_ARG(first->name));
        return;
    }
    at += strlen("experts.");
    for (uint32_t e = 0; parts && e < n; e++) {
        char full[1100];
        snprintf(full, sizeof full, "%.*s%u%.*s", (int)at, first->name.data, e,
                 (int)(first->name.len - at - 1), first->name.data + at + 1);
        const struct tensor *t = checkpoint_tensor(h->source->checkpoint, full);
        if (!t || t->type != first->type || t->n_dims != 2 ||
            memcmp(t->dims, first->dims, sizeof t->dims) != 0) {
            hf_fail(h, STATUS_MODEL, "tensor %s is missing or unlike expert 0's", full);
            return;
        }
        parts[e] = t->data;
    }
    const uint64_t dims[TENSOR_DIMS_MAX] = {n, first->dims[0], first->dims[1], 1};
    struct source_tensor *out = parts ? hf_add(h, from, gguf, 3, dims) : NULL;
    if (!out)
        return;
    out->parts = parts;
    out->n_parts = n;
}

struct source_tensor *hf_keep(struct hf_source *h, const struct hf_tensor *from, const char *gguf)
{
    return hf_add(h, from, gguf, from->tensor->n_dims, from->tensor->dims);
}

/* ---- which are passed over --------------------------------------------------------------------- */

/* Of no text model, wherever they stand. */
static bool is_foreign(struct str name)
{
    static const char *const starts[] = {"vision_tower.",
                                         "visual.",
                                         "model.visual.",
                                         "model.vision_tower.",
                                         "vision_model.",
                                         "multi_modal_projector.",
                                         "model.multi_modal_projector.",
                                         "audio_tower.",
                                         "model.audio_tower.",
                                         "embed_vision.",
                                         "model.embed_vision.",
                                         "embed_audio.",
                                         "model.embed_audio.",
                                         "mtp.",
                                         "model.mtp_"};
    static const char *const ends[] = {".inv_freq", ".attn.bias", ".masked_bias", ".attention.bias",
                                       "position_ids"};
    for (size_t i = 0; i < sizeof starts / sizeof *starts; i++)
        if (str_starts(name, str_from(starts[i])))
            return true;
    for (size_t i = 0; i < sizeof ends / sizeof *ends; i++)
        if (str_ends(name, str_from(ends[i])))
            return true;
    return false;
}

/* Heads of an encoder, which is wanted for its hidden states. */
static bool is_head(struct str name)
{
    static const char *const parts[] = {"pooler.", "cls.",        "lm_head.",
                                        "head.",   "classifier.", "decoder."};
    for (size_t p = 0; hf_prefixes[p]; p++) {
        size_t n = strlen(hf_prefixes[p]);
        if (!str_starts(name, (struct str){hf_prefixes[p], n}))
            continue;
        for (size_t i = 0; i < sizeof parts / sizeof *parts; i++)
            if (str_starts((struct str){name.data + n, name.len - n}, str_from(parts[i])))
                return true;
    }
    return false;
}

static bool is_tied_output(const struct hf_source *h, struct str name)
{
    const json_t *tied = hf_find(h, "tie_word_embeddings");
    struct tensor_place place;
    if (!json_is_true(tied) || !hf_place(h->names, name, &place) ||
        strcmp(place.role, "output") != 0)
        return false;
    for (size_t i = 0; i < checkpoint_tensor_count(h->source->checkpoint); i++)
        if (hf_place(h->names, checkpoint_tensor_at(h->source->checkpoint, i)->name, &place) &&
            strcmp(place.role, "token_embd") == 0)
            return true;
    return false;
}

/* ---- tensors ----------------------------------------------------------------------------------- */

static const struct hf_rule *find_rule(const struct hf_family *family, const char *role)
{
    for (const struct hf_rule *r = family->rules; r && r->role; r++)
        if (strcmp(r->role, role) == 0)
            return r;
    return NULL;
}

static bool is_mixers(const char *role)
{
    return strncmp(role, "ssm_", 4) == 0;
}

static void convert_tensor(struct hf_source *h, const struct hf_tensor *from)
{
    const struct hf_family *family = h->family;
    const char *role = from->place.role;
    const struct hf_rule *rule = find_rule(family, role);
    const char *gguf = rule && rule->gguf ? rule->gguf : role;
    bool norm = str_ends(str_from(role), STR_LIT("_norm"));
    if (strcmp(role, "output") == 0 && json_is_true(hf_find(h, "tie_word_embeddings")))
        gguf = "token_embd"; /* the only copy of a tied table */
    if (from->place.expert > 0 && !(rule && rule->change))
        return; /* with expert 0 */
    if (rule && rule->change)
        rule->change(h, from, gguf);
    else if (from->place.expert == 0)
        stack_experts(h, from, gguf);
    else if ((family->traits & HF_PLUS_ONE) && norm && !is_mixers(role))
        hf_plus_one(h, from, gguf);
    else if ((family->traits & HF_PAIRS) && hf_listed("attn_q|attn_k", role))
        hf_pairs(h, from, gguf);
    else if (hf_listed("ssm_conv1d|shortconv.conv|exp_probs_b", role))
        hf_squeeze(h, from, gguf);
    else if (strcmp(role, "ffn_gate_up_exps") == 0)
        hf_halves(h, from, gguf);
    else
        hf_keep(h, from, gguf);
}

static void add_tensor(struct hf_source *h, const struct tensor *t)
{
    struct hf_tensor from = {.tensor = t};
    bool skipped = is_foreign(t->name) || is_tied_output(h, t->name) ||
                   ((h->family->traits & HF_ENCODER) && is_head(t->name));
    if (!skipped && !hf_place(h->names, t->name, &from.place)) {
        hf_fail(h, STATUS_UNSUPPORTED,
                "tensor %.*s has no place in a GGUF file of %s that quantize knows",
                STR_ARG(t->name), h->family->gguf);
        return;
    }
    if (skipped || from.place.layer >= (int32_t)h->n_layers) {
        h->source->n_skipped++;
        return;
    }
    if (!tensor_type_info(t->type)->decode) {
        hf_fail(h, STATUS_UNSUPPORTED, "tensor %.*s has type %s, which sluice cannot read",
                STR_ARG(t->name), tensor_type_name(t->type));
        return;
    }
    convert_tensor(h, &from);
}

/* ---- tensors that the config lists ------------------------------------------------------------- */

/* llama3's scaling as divisors of frequencies. */
static void add_llama3(struct hf_source *h)
{
    const struct hf_rope *r = &h->rope;
    uint32_t pairs = r->dims / 2;
    float *divisors = hf_memory(h, pairs, sizeof *divisors);
    for (uint32_t i = 0; divisors && i < pairs; i++) {
        double wave = TWO_PI * pow(r->theta, 2.0 * i / r->dims);
        double blend = (r->original / wave - r->low_freq) / (r->high_freq - r->low_freq);
        double divisor = r->factor;
        if (blend >= 1.0)
            divisor = 1.0;
        else if (blend > 0.0)
            divisor = 1.0 / ((1.0 - blend) / r->factor + blend);
        divisors[i] = (float)divisor;
    }
    if (divisors)
        hf_add_values(h, "rope_freqs.weight", divisors, pairs);
}

static void add_longrope(struct hf_source *h, const char *key, const char *name)
{
    const json_t *rope = hf_find(h, "rope_parameters|rope_scaling");
    const json_t *list = json_object_get(rope, key);
    uint32_t pairs = h->rope.dims / 2;
    float *divisors = hf_memory(h, pairs, sizeof *divisors);
    if (json_array_size(list) != pairs) {
        hf_fail(h, STATUS_MODEL, "config.json: rope %s is not a list of %u numbers", key, pairs);
        return;
    }
    for (uint32_t i = 0; divisors && i < pairs; i++) {
        divisors[i] = (float)json_number_value(json_array_get(list, i));
        if (!(divisors[i] > 0.0f))
            hf_fail(h, STATUS_MODEL, "config.json: rope %s[%u] is not positive", key, i);
    }
    if (divisors)
        hf_add_values(h, name, divisors, pairs);
}

static void add_rope(struct hf_source *h)
{
    const char *kind = h->rope.kind;
    if (kind && strcmp(kind, "llama3") == 0)
        add_llama3(h);
    if (!kind || strcmp(kind, "longrope") != 0)
        return;
    add_longrope(h, "long_factor", "rope_factors_long.weight");
    add_longrope(h, "short_factor", "rope_factors_short.weight");
}

/* ---- all --------------------------------------------------------------------------------------- */

static void check_class(struct hf_source *h)
{
    const char *act = hf_text(h, "hidden_act|hidden_activation|activation_function|mlp_hidden_act");
    if (act && !hf_listed(h->family->acts ? h->family->acts : "silu|swish", act))
        hf_cannot(h, "the activation is \"%.40s\"", act);
    for (const struct hf_value *v = h->family->values; v && v->key; v++) {
        const json_t *value = v->kind == HF_MUST ? hf_find(h, v->hf) : NULL;
        double number = json_is_true(value) ? 1.0 : json_number_value(value);
        if (value && number != v->number)
            hf_cannot(h, "%s is %g, not %g", v->hf, number, v->number);
    }
    if (h->family->check)
        h->family->check(h);
}

static void convert_all(struct hf_source *h)
{
    struct source *s = h->source;
    size_t n = checkpoint_tensor_count(s->checkpoint);
    s->tensors = hf_memory(h, 2 * (uint64_t)n + TENSORS_A, sizeof *s->tensors);
    if (!s->tensors)
        return;
    add_rope(h);
    if (h->family->extra)
        h->family->extra(h);
    for (size_t i = 0; i < n && h->problem.status == STATUS_OK; i++)
        add_tensor(h, checkpoint_tensor_at(s->checkpoint, i));
    if (h->problem.status == STATUS_OK && !hf_has(h, "token_embd.weight"))
        hf_fail(h, STATUS_MODEL, "the token embedding is missing");
    s->model.tied = !hf_has(h, "output.weight");
    bool routed = false; /* some configs count experts that their models do not have */
    for (size_t i = 0; i < s->n_tensors; i++)
        routed |= str_find(s->tensors[i].name, STR_LIT("ffn_gate_inp.weight"), 0) != SIZE_MAX;
    if (!routed)
        h->n_experts = 0;
}

static enum status find_family(struct source *s, struct hf_source *h, struct error *err)
{
    const json_t *config = checkpoint_config(s->checkpoint);
    const json_t *text = json_object_get(config, "text_config");
    h->config = json_is_object(text) ? text : config;
    const char *type = json_string_value(json_object_get(h->config, "model_type"));
    if (!type)
        return error_set(err, STATUS_MODEL, "config.json: model_type is missing");
    h->family = hf_family_find(type);
    if (h->family && h->family->gguf && hf_names_of(str_from(type), &h->names))
        return STATUS_OK;
    if (h->family)
        return error_set(
            err, STATUS_UNSUPPORTED,
            "model_type \"%.64s\" cannot be written as GGUF: %s. Run the folder as it is", type,
            h->family->why);
    return error_set(err, STATUS_UNSUPPORTED,
                     "model_type \"%.64s\" is no architecture that quantize knows: start from a "
                     "GGUF file of it",
                     type);
}

enum status source_from_hf(struct source *s, struct error *err)
{
    struct hf_source *h = arena_alloc(&s->arena, 1, sizeof *h);
    if (!h)
        return error_set(err, STATUS_MEMORY, "out of memory for the folder's config");
    h->source = s;
    enum status status = find_family(s, h, err);
    if (status == STATUS_OK) {
        hf_read(h);
        if (h->problem.status == STATUS_OK)
            check_class(h);
        if (h->problem.status == STATUS_OK)
            convert_all(h);
        if (h->problem.status != STATUS_OK)
            status = error_set(err, h->problem.status, "%s", h->problem.message);
    }
    if (status != STATUS_OK)
        return error_prefix(err, "%s", checkpoint_path(s->checkpoint));
    s->model.n_layers = h->n_layers;
    s->model.n_experts = h->n_experts;
    s->model.heads_per_kv = h->n_kv_heads ? h->n_heads / h->n_kv_heads : 0;
    s->hf = h;
    s->metadata = hf_metadata;
    return STATUS_OK;
}
