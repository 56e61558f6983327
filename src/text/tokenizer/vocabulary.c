/*
 * Building a vocabulary: every check that does not depend on the file format is made here, once.
 *
 * Merges are resolved to ids while reading (three look-ups each), so that the tokenizer never
 * compares strings and a merge that names an unknown token is found before anything runs.
 */
#include "text/tokenizer/vocabulary.h"

#include "base/checked.h"

#define VOCABULARY_BYTES_MAX ((size_t)1 << 30)

/* From the tokenizer.json files of GPT-2, Qwen2 and 3.5, Llama 3, GPT-4o, Mistral Nemo, DeepSeek V3. */
#define SPLIT_CASED                                                                                \
    "[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]*[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]+"
#define SPLIT_CAPITAL                                                                              \
    "[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]+[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]*"
#define SPLIT_SHORT "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
#define SPLIT_REST  " ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
#define SPLIT_SLASH " ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"

const char VOCABULARY_SPLIT_GPT2[] =
    "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";
const char VOCABULARY_SPLIT_QWEN2[] =
    SPLIT_SHORT "|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}|" SPLIT_REST;
const char VOCABULARY_SPLIT_QWEN35[] =
    SPLIT_SHORT "|[^\\r\\n\\p{L}\\p{N}]?[\\p{L}\\p{M}]+|\\p{N}|"
                " ?[^\\s\\p{L}\\p{M}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";
const char VOCABULARY_SPLIT_LLAMA3[] =
    SPLIT_SHORT "|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}|" SPLIT_REST;
const char VOCABULARY_SPLIT_GPT4O[] =
    SPLIT_CASED SPLIT_SHORT "?|" SPLIT_CAPITAL SPLIT_SHORT "?|\\p{N}{1,3}|" SPLIT_SLASH;
const char VOCABULARY_SPLIT_TEKKEN[] = SPLIT_CASED "|" SPLIT_CAPITAL "|\\p{N}|" SPLIT_SLASH;
const char VOCABULARY_SPLIT_KIMI[] =
    SPLIT_CASED SPLIT_SHORT "?|" SPLIT_CAPITAL SPLIT_SHORT "?|\\p{N}{1,3}|" SPLIT_REST;
const char VOCABULARY_SPLIT_GROUPS[] = "\\p{Nd}{1,3}(?=(?:\\p{Nd}{3})*(?!\\p{Nd}))";
const char VOCABULARY_SPLIT_GROUPS_BOUNDED[] = "\\d{1,3}(?=(?:\\d{3})*\\b)";
const char VOCABULARY_SPLIT_CJK[] = "[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+";
const char VOCABULARY_SPLIT_DEEPSEEK3[] =
    "[!\"#$%&'()*+,\\-./"
    ":;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\r\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+|"
    " ?[\\p{P}\\p{S}]+[\r\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";
const char VOCABULARY_SPLIT_BERT[] = "[!-/:-@\\[-`{-~\\p{P}]";
const char VOCABULARY_SPLIT_CLIP[] =
    "<\\|startoftext\\|>|<\\|endoftext\\|>|'s|'t|'re|'ve|'m|'ll|'d|[\\p{L}]+|[\\p{N}]|"
    "[^\\s\\p{L}\\p{N}]+";

/* Names under which models end a turn (or a text). A token counts only if it is a control token. */
static const char *const end_names[] = {
    "<|endoftext|>",
    "<|im_end|>",
    "<|eot_id|>",
    "<|end_of_text|>",
    "<|eom_id|>",
    "<|end|>",
    "<end_of_turn>",
    "<|return|>",
    "<|call|>",
    "<|eot|>",
    "<|end_of_turn|>",
    "<|endofturn|>",
    "<|END_OF_TURN_TOKEN|>",
    "<|eos|>",
    "<eos>",
    "<EOT>",
    "</s>",
    "<\uff5cend\u2581of\u2581sentence\uff5c>",
};

static enum status no_memory(const char *what, struct error *err)
{
    return error_set(err, STATUS_MEMORY, "%s: out of memory", what);
}

void vocabulary_init(struct vocabulary *vocabulary)
{
    *vocabulary = (struct vocabulary){
        .bos = VOCABULARY_NONE,
        .eos = VOCABULARY_NONE,
        .eot = VOCABULARY_NONE,
        .unk = VOCABULARY_NONE,
        .pad = VOCABULARY_NONE,
    };
    arena_init(&vocabulary->arena, VOCABULARY_BYTES_MAX);
}

void vocabulary_release(struct vocabulary *vocabulary)
{
    strmap_release(&vocabulary->by_text);
    arena_release(&vocabulary->arena);
    vocabulary_init(vocabulary);
}

enum status vocabulary_set_size(struct vocabulary *vocabulary, uint64_t n_tokens, const char *what,
                                struct error *err)
{
    if (n_tokens == 0 || n_tokens > VOCABULARY_TOKENS_MAX)
        return error_set(err, STATUS_MODEL, "%s: %llu tokens; between 1 and %u are possible", what,
                         (unsigned long long)n_tokens, VOCABULARY_TOKENS_MAX);
    vocabulary->tokens =
        arena_alloc(&vocabulary->arena, (size_t)n_tokens, sizeof *vocabulary->tokens);
    if (!vocabulary->tokens || !strmap_reserve(&vocabulary->by_text, (size_t)n_tokens))
        return no_memory(what, err);
    vocabulary->n_tokens = (uint32_t)n_tokens;
    for (uint32_t i = 0; i < vocabulary->n_tokens; i++)
        vocabulary->tokens[i].kind = TOKEN_UNUSED;
    return STATUS_OK;
}

enum status vocabulary_set_token(struct vocabulary *vocabulary, uint64_t id, struct str text,
                                 int64_t kind, const char *what, struct error *err)
{
    if (id >= vocabulary->n_tokens)
        return error_set(err, STATUS_MODEL, "%s: token id %llu is not below the %u tokens", what,
                         (unsigned long long)id, vocabulary->n_tokens);
    struct vocabulary_token *token = &vocabulary->tokens[id];
    /* An empty token is never found, so it gives way. */
    if (token->text.len)
        return error_set(err, STATUS_MODEL, "%s: token id %llu is given twice (%.*s and %.*s)",
                         what, (unsigned long long)id,
                         (int)(token->text.len < 64 ? token->text.len : 64), token->text.data,
                         (int)(text.len < 64 ? text.len : 64), text.data ? text.data : "");
    if (kind < TOKEN_NORMAL || kind > TOKEN_BYTE)
        return error_set(err, STATUS_MODEL, "%s: token %llu has type %lld, which is not 1..6", what,
                         (unsigned long long)id, (long long)kind);
    if (text.len > VOCABULARY_TOKEN_BYTES_MAX)
        return error_set(err, STATUS_MODEL, "%s: token %llu is %zu bytes long; the limit is %u",
                         what, (unsigned long long)id, text.len, VOCABULARY_TOKEN_BYTES_MAX);
    struct str copy = arena_copy_str(&vocabulary->arena, text);
    bool existed = false;
    if (!copy.data || (copy.len && !strmap_add(&vocabulary->by_text, copy, (int64_t)id, &existed)))
        return no_memory(what, err);
    if (existed)
        return error_set(err, STATUS_MODEL, "%s: tokens %d and %llu have the same text %.*s", what,
                         vocabulary_find(vocabulary, copy), (unsigned long long)id,
                         (int)(copy.len < 64 ? copy.len : 64), copy.data);
    token->text = copy;
    token->kind = (uint8_t)kind;
    return STATUS_OK;
}

int32_t vocabulary_find(const struct vocabulary *vocabulary, struct str text)
{
    const int64_t *id = strmap_get(&vocabulary->by_text, text);
    return id ? (int32_t)*id : VOCABULARY_NONE;
}

enum status vocabulary_reserve_merges(struct vocabulary *vocabulary, uint64_t count,
                                      const char *what, struct error *err)
{
    if (count > VOCABULARY_MERGES_MAX)
        return error_set(err, STATUS_MODEL, "%s: %llu merges; the limit is %u", what,
                         (unsigned long long)count, VOCABULARY_MERGES_MAX);
    vocabulary->merges = arena_alloc(&vocabulary->arena, (size_t)count, sizeof *vocabulary->merges);
    if (!vocabulary->merges)
        return no_memory(what, err);
    vocabulary->merges_capacity = (uint32_t)count;
    return STATUS_OK;
}

static enum status merge_part(const struct vocabulary *vocabulary, struct str text,
                              const char *what, uint32_t *out, struct error *err)
{
    int32_t id = vocabulary_find(vocabulary, text);
    if (id == VOCABULARY_NONE)
        return error_set(err, STATUS_MODEL, "%s: merge %u names \"%.*s\", which is no token", what,
                         vocabulary->n_merges, (int)(text.len < 64 ? text.len : 64), text.data);
    *out = (uint32_t)id;
    return STATUS_OK;
}

enum status vocabulary_add_merge(struct vocabulary *vocabulary, struct str left, struct str right,
                                 const char *what, struct error *err)
{
    if (vocabulary->n_merges >= vocabulary->merges_capacity)
        return error_set(err, STATUS_INTERNAL, "%s: more merges than reserved", what);
    if (left.len == 0 || right.len == 0 || left.len > VOCABULARY_TOKEN_BYTES_MAX ||
        right.len > VOCABULARY_TOKEN_BYTES_MAX)
        return error_set(err, STATUS_MODEL, "%s: merge %u has an empty or an overlong part", what,
                         vocabulary->n_merges);
    struct vocabulary_merge merge = {0};
    enum status status = merge_part(vocabulary, left, what, &merge.left, err);
    if (status == STATUS_OK)
        status = merge_part(vocabulary, right, what, &merge.right, err);
    if (status != STATUS_OK)
        return status;
    char small[256];
    struct buf large = {0};
    struct str whole = {small, left.len + right.len};
    if (whole.len <= sizeof small) {
        memcpy(small, left.data, left.len);
        memcpy(small + left.len, right.data, right.len);
    } else {
        buf_append_str(&large, left);
        buf_append_str(&large, right);
        if (large.failed) {
            buf_release(&large);
            return no_memory(what, err);
        }
        whole = buf_str(&large);
    }
    status = merge_part(vocabulary, whole, what, &merge.result, err);
    merge.rank = vocabulary->n_merges;
    buf_release(&large);
    if (status == STATUS_OK)
        vocabulary->merges[vocabulary->n_merges++] = merge;
    return status;
}

enum status vocabulary_add_merge_line(struct vocabulary *vocabulary, struct str line,
                                      const char *what, struct error *err)
{
    const char *space = line.len ? memchr(line.data, ' ', line.len) : NULL;
    if (!space)
        return error_set(err, STATUS_MODEL, "%s: merge %u has no space between its parts", what,
                         vocabulary->n_merges);
    struct str left = {line.data, (size_t)(space - line.data)};
    struct str right = {space + 1, line.len - left.len - 1};
    return vocabulary_add_merge(vocabulary, left, right, what, err);
}

static enum status add_step(struct vocabulary *vocabulary, const struct vocabulary_split *split,
                            struct error *err)
{
    if (vocabulary->n_splits == VOCABULARY_SPLITS_MAX)
        return error_set(err, STATUS_MODEL, "pre_tokenizer: more than %d steps",
                         VOCABULARY_SPLITS_MAX);
    vocabulary->splits[vocabulary->n_splits++] = *split;
    return STATUS_OK;
}

enum status vocabulary_add_split(struct vocabulary *vocabulary, struct str pattern,
                                 enum vocabulary_split_keep keep, struct error *err)
{
    if (pattern.len == 0 || pattern.len > VOCABULARY_PATTERN_MAX)
        return error_set(err, STATUS_MODEL,
                         "pre_tokenizer: a pattern of %zu bytes; between 1 and %u are possible",
                         pattern.len, VOCABULARY_PATTERN_MAX);
    struct str copy = arena_copy_str(&vocabulary->arena, pattern);
    if (!copy.data)
        return no_memory("pre_tokenizer", err);
    return add_step(vocabulary, &(struct vocabulary_split){.pattern = copy, .keep = keep}, err);
}

enum status vocabulary_add_metaspace(struct vocabulary *vocabulary, enum vocabulary_prefix prefix,
                                     bool split, struct error *err)
{
    return add_step(vocabulary, &(struct vocabulary_split){.prefix = prefix, .split = split}, err);
}

enum status vocabulary_set_text(struct vocabulary *vocabulary, struct str *field, struct str text,
                                struct error *err)
{
    struct str copy = arena_copy_str(&vocabulary->arena, text);
    if (!copy.data)
        return no_memory("vocabulary", err);
    *field = copy;
    return STATUS_OK;
}

enum status vocabulary_add_normalizer(struct vocabulary *vocabulary,
                                      const struct vocabulary_normalizer *step, struct error *err)
{
    if (vocabulary->n_normalizers == VOCABULARY_NORMALIZERS_MAX)
        return error_set(err, STATUS_MODEL, "normalizer: more than %d steps",
                         VOCABULARY_NORMALIZERS_MAX);
    struct vocabulary_normalizer *copy = &vocabulary->normalizers[vocabulary->n_normalizers];
    *copy = *step;
    if (step->regex && step->pattern.len > VOCABULARY_PATTERN_MAX)
        return error_set(err, STATUS_MODEL, "normalizer: a pattern of %zu bytes; the limit is %u",
                         step->pattern.len, VOCABULARY_PATTERN_MAX);
    enum status status = vocabulary_set_text(vocabulary, &copy->pattern, step->pattern, err);
    if (status == STATUS_OK)
        status = vocabulary_set_text(vocabulary, &copy->content, step->content, err);
    if (status == STATUS_OK)
        vocabulary->n_normalizers++;
    return status;
}

static enum status check_id(const struct vocabulary *vocabulary, int64_t id, const char *what,
                            struct error *err)
{
    if (id < 0 || id >= vocabulary->n_tokens)
        return error_set(err, STATUS_MODEL, "%s: token id %lld is not in 0..%u", what,
                         (long long)id, vocabulary->n_tokens ? vocabulary->n_tokens - 1 : 0);
    return STATUS_OK;
}

enum status vocabulary_set_id(struct vocabulary *vocabulary, int32_t *field, int64_t id,
                              const char *what, struct error *err)
{
    enum status status = check_id(vocabulary, id, what, err);
    if (status == STATUS_OK)
        *field = (int32_t)id;
    return status;
}

enum status vocabulary_add_affix(struct vocabulary *vocabulary, bool behind, int64_t id,
                                 const char *what, struct error *err)
{
    uint32_t *count = behind ? &vocabulary->n_behind : &vocabulary->n_before;
    int32_t *ids = behind ? vocabulary->behind : vocabulary->before;
    if (*count == VOCABULARY_AFFIX_MAX)
        return error_set(err, STATUS_MODEL, "%s: more than %d special tokens on one side", what,
                         VOCABULARY_AFFIX_MAX);
    enum status status = vocabulary_set_id(vocabulary, &ids[*count], id, what, err);
    if (status == STATUS_OK)
        ++*count;
    return status;
}

enum status vocabulary_add_end(struct vocabulary *vocabulary, int64_t id, const char *what,
                               struct error *err)
{
    enum status status = check_id(vocabulary, id, what, err);
    if (status != STATUS_OK)
        return status;
    for (uint32_t i = 0; i < vocabulary->n_ends; i++) {
        if (vocabulary->ends[i] == id)
            return STATUS_OK;
    }
    if (vocabulary->n_ends == vocabulary->ends_capacity) {
        uint32_t capacity = vocabulary->ends_capacity ? vocabulary->ends_capacity * 2 : 8;
        int32_t *ends = arena_alloc(&vocabulary->arena, capacity, sizeof *ends);
        if (!ends)
            return no_memory(what, err);
        if (vocabulary->n_ends)
            memcpy(ends, vocabulary->ends, vocabulary->n_ends * sizeof *ends);
        vocabulary->ends = ends;
        vocabulary->ends_capacity = capacity;
    }
    vocabulary->ends[vocabulary->n_ends++] = (int32_t)id;
    return STATUS_OK;
}

static int32_t find_control(const struct vocabulary *vocabulary, const char *name)
{
    int32_t id = vocabulary_find(vocabulary, str_from(name));
    if (id != VOCABULARY_NONE && vocabulary->tokens[id].kind != TOKEN_CONTROL)
        id = VOCABULARY_NONE;
    return id;
}

enum status vocabulary_finish(struct vocabulary *vocabulary, struct error *err)
{
    enum status status = STATUS_OK;
    if (vocabulary->eos != VOCABULARY_NONE)
        status = vocabulary_add_end(vocabulary, vocabulary->eos, "eos", err);
    if (status == STATUS_OK && vocabulary->eot != VOCABULARY_NONE)
        status = vocabulary_add_end(vocabulary, vocabulary->eot, "eot", err);
    /* In the harmony format <|end|> closes one message of several; <|return|> and <|call|> close
     * the turn. */
    bool harmony = find_control(vocabulary, "<|return|>") != VOCABULARY_NONE &&
                   find_control(vocabulary, "<|call|>") != VOCABULARY_NONE;
    for (size_t i = 0; status == STATUS_OK && i < sizeof end_names / sizeof *end_names; i++) {
        int32_t id = find_control(vocabulary, end_names[i]);
        if (id == VOCABULARY_NONE || (harmony && strcmp(end_names[i], "<|end|>") == 0))
            continue;
        status = vocabulary_add_end(vocabulary, id, end_names[i], err);
    }
    return status;
}
