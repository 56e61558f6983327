/*
 * The table of pre-tokenizers.
 *
 * Patterns are those of the models' own tokenizer.json files (where a model has none, of its
 * tokenizer's source); the names are those that llama.cpp's converter writes. Models share few
 * patterns, so rows refer to them by name. bos and whole-piece rules are of the same sources; form C
 * is listed where the original normalizes and the name belongs to that vocabulary alone.
 */
#include "format/pre_tokenizers.h"

#include <stddef.h>

#include "format/vocabulary.h"

#define SHORT             "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
#define WORD              "[^\\r\\n\\p{L}\\p{N}]?\\p{L}+"
#define REST              " ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
#define ASCII_PUNCTUATION "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~]"
#define CASED                                                                                      \
    "[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]*[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]+"    \
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)?|"                                                               \
    "[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]+[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]*"    \
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)?"

#define GPT2        VOCABULARY_SPLIT_GPT2
#define QWEN2       VOCABULARY_SPLIT_QWEN2
#define LLAMA3      VOCABULARY_SPLIT_LLAMA3
#define GPT4O       VOCABULARY_SPLIT_GPT4O
#define DEEPSEEK_V3 "\\p{N}{1,3}", VOCABULARY_SPLIT_CJK, VOCABULARY_SPLIT_DEEPSEEK3
#define DIGITS_GPT2 "\\p{N}", GPT2
#define BLOOM       " ?[^(\\s|.,!?\u2026\u3002\uff0c\u3001\u0964\u06d4\u060c)]+"

/* Letters as DeepSeek LLM's file lists them. */
static const char deepseek_llm_letters[] =
    "\\s?[A-Za-z\u00b5\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u01ba\u01bc-\u01bf\u01c4-\u0293\u0295-"
    "\u02af\u0370-\u0373\u0376\u0377\u037b-\u037d\u037f\u0386\u0388-\u038a\u038c\u038e-\u03a1"
    "\u03a3-\u03f5\u03f7-\u0481\u048a-\u052f\u0531-\u0556\u10a0-\u10c5\u13a0-\u13f5\u13f8-\u13fd"
    "\u1c90-\u1cba\u1cbd-\u1cbf\u1d00-\u1d2b\u1d6b-\u1d77\u1d79-\u1d9a\u1e00-\u1f15\u1f18-\u1f1d"
    "\u1f20-\u1f45\u1f48-\u1f4d\u1f50-\u1f57\u1f59\u1f5b\u1f5d\u1f5f-\u1f7d\u1f80-\u1fb4\u1fb6-"
    "\u1fbc\u1fbe\u1fc2-\u1fc4\u1fc6-\u1fcc\u1fd0-\u1fd3\u1fd6-\u1fdb\u1fe0-\u1fec\u1ff2-\u1ff4"
    "\u1ff6-\u1ffc\u2102\u2107\u210a-\u2113\u2115\u2119-\u211d\u2124\u2126\u2128\u212a-\u212d"
    "\u212f-\u2134\u2139\u213c-\u213f\u2145-\u2149\u214e\u2183\u2184\u2c00-\u2c7b\u2c7e-\u2ce4"
    "\u2ceb-\u2cee\u2cf2\u2cf3\ua640-\ua66d\ua680-\ua69b\ua722-\ua76f\ua771-\ua787\ua78b-\ua78e"
    "\uab70-\uabbf\ufb00-\ufb06\ufb13-\ufb17\uff21-\uff3a\uff41-\uff5a\U00010400-\U0001044f"
    "\U000104b0-\U000104d3\U000104d8-\U000104fb\U00010c80-\U00010cb2\U00010cc0-\U00010cf2"
    "\U000118a0-\U000118df\U0001e900-\U0001e943]+";

static const char youtu_scripts[] =
    "[\uac00-\ud7a3\u3131-\u318e]+|[\uff01\u2026\u201c\u201d\u2018\u2019\u2014\uff1a\uff1b\uff0c"
    "\u3001-\u303f\ufe30-\ufe4f]+|[\u3105-\u312f]+|[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+";

static const char afmoe_scripts[] =
    "[\u4e00-\u9fff\u3400-\u4dbf\uf900-\ufaff\u3040-\u309f\u30a0-\u30ff\uff65-\uff9f\u2f00-\u2fdf"
    "\u0e00-\u0e7f\u0e80-\u0eff\u1780-\u17ff\u1000-\u109f\uaa60-\uaa7f\ua9e0-\ua9ff\uac00-\ud7af"
    "\u1100-\u11ff]+";

static const struct pre_tokenizer pre_tokenizers[] = {
    {"default",
     false,
     false,
     false,
     {"[\\p{P}\\$\\+<=>\\^~\\|]+", GPT2, "\\p{N}+", "[0-9][0-9][0-9]"}},
    /* Llama 3 and those that took its pattern. */
    {"llama-bpe", true, true, false, {LLAMA3}},
    {"llama3", true, true, false, {LLAMA3}},
    {"llama-v3", true, true, false, {LLAMA3}},
    {"falcon3", true, true, false, {LLAMA3}},
    {"falcon-h1", true, true, false, {LLAMA3}},
    {"pixtral", true, true, false, {LLAMA3}},
    {"midm-2.0", true, true, false, {LLAMA3}},
    {"lfm2", true, true, false, {LLAMA3}},
    {"jina-v5-nano", true, true, false, {LLAMA3}},
    {"dbrx", false, false, false, {LLAMA3}},
    {"smaug-bpe", false, false, false, {LLAMA3}},
    {"glm4", false, false, false, {LLAMA3}},
    {"chatglm-bpe", false, false, false, {LLAMA3}},
    {"minicpm5", true, false, false, {"\\p{N}{1,3}", SHORT "|" WORD "|\\p{N}+|" REST}},
    /* Qwen 2. */
    {"qwen2", false, false, false, {QWEN2}},
    {"deepseek-r1-qwen", false, false, false, {QWEN2}},
    {"kormo", false, false, false, {QWEN2}},
    {"f2llmv2", false, false, false, {QWEN2}},
    {"megrez", false, false, false, {QWEN2}},
    {"stablelm2", false, false, false, {QWEN2}},
    {"hunyuan", false, false, false, {QWEN2}},
    {"solar-open", false, false, false, {QWEN2}},
    {"grok-2", false, false, false, {QWEN2}},
    {"laguna", false, false, false, {"[^\\n]+|[\\n]+", QWEN2}},
    {"qwen35", false, false, false, {VOCABULARY_SPLIT_QWEN35}},
    {"ufakzeka", false, false, false, {WORD "|\\p{N}|" REST}},
    {"bailingmoe",
     false,
     false,
     false,
     {"'(?i:[sdmt]|ll|ve|re)|[^\\r\\n\\p{L}\\p{N}]?+\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}]++[\\r\\n]*|"
      "\\s*[\\r\\n]|\\s+(?!\\S)|\\s+"}},
    {"bailingmoe2",
     false,
     false,
     false,
     {"'(?i:[sdmt]|ll|ve|re)|[^\\r\\n\\p{L}\\p{N}]?+\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}]++[\\r\\n]*|"
      "\\s*[\\r\\n]|\\s+(?!\\S)|\\s+"}},
    {"llada-moe",
     false,
     false,
     false,
     {"'(?i:[sdmt]|ll|ve|re)|[^\\r\\n\\p{L}\\p{N}]?+\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}]++[\\r\\n]*|"
      "\\s*[\\r\\n]|\\s+(?!\\S)|\\s+"}},
    {"seed-coder",
     false,
     false,
     false,
     {SHORT "|" WORD "|\\p{N}{1}| ?[^\\s\\p{L}\\p{N}\\r\\n]+|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"}},
    {"exaone-moe",
     false,
     false,
     false,
     {SHORT "|[^\\r\\n\\p{L}\\p{N}]?(?:\\p{L}\\p{M}*+(?: \\p{L}\\p{M}*+)*+)++|\\p{N}|"
            " ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]?|\\s*[\\r\\n]|\\s+(?!\\S)|\\s+"}},
    /* GPT-2. */
    {"gpt-2", false, false, false, {GPT2}},
    {"phi-2", false, false, false, {GPT2}},
    {"jina-es", false, false, false, {GPT2}},
    {"jina-de", false, false, false, {GPT2}},
    {"jina-v2-es", false, false, false, {GPT2}},
    {"jina-v2-de", false, false, false, {GPT2}},
    {"jina-v1-en", false, false, false, {GPT2}},
    {"jina-v2-code", false, false, false, {GPT2}},
    {"roberta-bpe", false, false, false, {GPT2}},
    {"gigachat", false, false, false, {GPT2}},
    {"a.x-4.0", false, false, false, {GPT2}},
    {"mellum", false, false, false, {GPT2}},
    {"modern-bert", false, false, true, {GPT2}},
    {"mpt", false, false, true, {GPT2}},
    {"olmo", false, false, true, {GPT2}},
    {"jais", false, false, false, {GPT2}},
    {"trillion", false, false, false, {GPT2}},
    {"granite-docling", false, false, false, {GPT2}},
    {"exaone4", false, false, false, {GPT2}},
    /* ... with single digits. */
    {"starcoder", false, false, false, {DIGITS_GPT2}},
    {"refact", false, false, false, {DIGITS_GPT2}},
    {"command-r", false, false, false, {DIGITS_GPT2}},
    {"smollm", false, false, false, {DIGITS_GPT2}},
    {"codeshell", false, false, false, {DIGITS_GPT2}},
    {"exaone", false, false, false, {DIGITS_GPT2}},
    {"minerva-7b", false, false, false, {DIGITS_GPT2}},
    {"mellum2", false, false, false, {DIGITS_GPT2}},
    {"falcon", false, false, false, {"[\\p{P}\\$\\+<=>\\^~\\|`]+", GPT2, "[0-9][0-9][0-9]"}},
    {"chameleon",
     false,
     true,
     false,
     {"<sentinel:[0-9]+>", "(IMGIMG)((A|B|C|D|E|F|G|H|I){1,4})Z", "([\\t\\n]|    |  )", "\\p{N}",
      "[\\p{P}!-/:-@\\[-`{-~]", GPT2}},
    /* DeepSeek. */
    {"deepseek-llm",
     false,
     false,
     false,
     {"[\r\n]", deepseek_llm_letters,
      "\\s?[!-/:-~\uff01-\uff0f\uff1a-\uff5e\u2018-\u201f\u3000-\u3002]+", "\\s+$",
      "[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]+", "\\p{N}+"}},
    {"deepseek-coder",
     false,
     false,
     false,
     {"[\r\n]", "\\s?\\p{L}+", "\\s?\\p{P}+", "[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]+",
      "\\p{N}"}},
    {"deepseek-v3", false, false, false, {DEEPSEEK_V3}},
    {"hunyuan-dense", false, false, false, {DEEPSEEK_V3}},
    {"joyai-llm", false, false, false, {DEEPSEEK_V3}},
    {"hy_v4", false, false, false, {DEEPSEEK_V3}},
    {"spark2_5",
     false,
     false,
     false,
     {"\\p{N}{1,3}", VOCABULARY_SPLIT_CJK,
      ASCII_PUNCTUATION "[A-Za-z]+|[^\r\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+| ?[\\p{P}\\p{S}]+|"
                        "[\r\n]|\\s+(?!\\S)|\\s+",
      "\\p{N}"}},
    {"afmoe",
     false,
     false,
     false,
     {VOCABULARY_SPLIT_GROUPS, afmoe_scripts, VOCABULARY_SPLIT_DEEPSEEK3}},
    {"youtu",
     true,
     false,
     false,
     {youtu_scripts,
      CASED "|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"}},
    /* GPT-4o. */
    {"gpt-4o", false, false, false, {GPT4O}},
    {"llama4", false, false, false, {GPT4O}},
    {"kanana2", false, false, false, {GPT4O}},
    {"talkie", false, false, false, {GPT4O}},
    {"minimax-m2", false, false, false, {GPT4O}},
    {"granite-embed-multi-97m", true, false, false, {GPT4O}},
    {"tiny_aya", false, false, false, {VOCABULARY_SPLIT_GROUPS_BOUNDED, GPT4O}},
    {"cohere2moe", false, false, false, {VOCABULARY_SPLIT_GROUPS_BOUNDED, GPT4O}},
    {"tekken", true, true, false, {VOCABULARY_SPLIT_TEKKEN}},
    {"kimi-k2", false, false, false, {"\\p{Han}+", VOCABULARY_SPLIT_KIMI}},
    {"superbpe", false, false, false, {"\\p{N}+", VOCABULARY_SPLIT_GROUPS}},
    /* BLOOM. */
    {"bloom", false, false, false, {BLOOM}},
    {"gpt3-finnish", false, false, false, {BLOOM}},
    {"poro-chat", false, false, false, {BLOOM}},
    {"viking", false, false, false, {BLOOM, "\\p{N}"}},
};

/* One character of a pattern; line ends count alike whether they are escaped or not. */
static char next(struct str *pattern)
{
    char c = pattern->len ? *pattern->data : 0;
    size_t n = pattern->len ? 1 : 0;
    if (c == '\\' && pattern->len > 1 && (pattern->data[1] == 'r' || pattern->data[1] == 'n')) {
        c = pattern->data[1] == 'r' ? '\r' : '\n';
        n = 2;
    }
    *pattern = (struct str){pattern->data + n, pattern->len - n};
    return c;
}

static bool same_pattern(struct str a, struct str b)
{
    while (a.len && b.len)
        if (next(&a) != next(&b))
            return false;
    return a.len == b.len;
}

static bool same_steps(const struct vocabulary *v, const struct pre_tokenizer *pre)
{
    uint32_t n = 0;
    while (n < PRE_STEPS_MAX && pre->steps[n])
        n++;
    if (n != v->n_splits)
        return false;
    for (uint32_t i = 0; i < n; i++) {
        enum vocabulary_split_keep keep = v->splits[i].keep;
        if (!same_pattern(v->splits[i].pattern, str_from(pre->steps[i])) ||
            (keep != VOCABULARY_SPLIT_ISOLATED && (n > 1 || keep != VOCABULARY_SPLIT_MATCHES)))
            return false;
    }
    return true;
}

const char *vocabulary_pre_tokenizer(const struct vocabulary *v)
{
    const char *name = NULL;
    for (size_t i = 0; i < sizeof pre_tokenizers / sizeof *pre_tokenizers; i++) {
        if (!same_steps(v, &pre_tokenizers[i]))
            continue;
        if (pre_tokenizers[i].ignore_merges == v->ignore_merges)
            return pre_tokenizers[i].name;
        name = name ? name : pre_tokenizers[i].name;
    }
    return name;
}

const struct pre_tokenizer *pre_tokenizer_find(struct str name)
{
    for (size_t i = 0; i < sizeof pre_tokenizers / sizeof *pre_tokenizers; i++) {
        if (str_eq_cstr(name, pre_tokenizers[i].name))
            return &pre_tokenizers[i];
    }
    return NULL;
}
