/*
 * Any bytes as a template (up to a NUL) and as what a user wrote (after it): no crash, no endless
 * loop, valid UTF-8 out, spans that cover the text, and nothing of the user's text trusted: a
 * character that the template does not have and that no operation makes up is never in a trusted
 * span.
 */
#include <stdlib.h>
#include <string.h>

#include "text/jinja/jinja.h"
#include "text/jinja/text.h"
#include "text/tokenizer/utf8.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* U+2603; the template is skipped if it has this one or could spell it (an escape, ...). */
#define SNOWMAN "\xe2\x98\x83"

static const char variables_text[] =
    "{\"n\": 3, \"f\": 1.5, \"l\": [1, 2, \"" SNOWMAN "\"], \"d\": {\"a\": 1, \"" SNOWMAN
    "\": null},"
    "\"messages\": [{\"role\": \"user\", \"content\": \"hi " SNOWMAN "\"},"
    "{\"role\": \"assistant\", \"content\": null, \"tool_calls\": [{\"function\": "
    "{\"name\": \"f\", \"arguments\": {\"x\": [1, 2.5, true]}}}]}]}";

static void check(const struct jinja_output *out, bool snowman)
{
    size_t at = 0;
    if (!utf8_valid(buf_str(&out->text)))
        abort();
    for (size_t i = 0; i < out->n_spans; i++) {
        const struct text_span *span = &out->spans[i];
        if (span->begin != at || span->end <= span->begin)
            abort();
        at = span->end;
        struct str part = {out->text.data + span->begin, span->end - span->begin};
        if (snowman && span->trusted && str_find(part, STR_LIT(SNOWMAN), 0) != SIZE_MAX)
            abort();
    }
    if (at != out->text.len)
        abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const struct jinja_limits limits = {
        .fuel = 20000, .depth = 300, .output_bytes = 100000, .memory_bytes = 4 << 20};
    static const struct tm now = {.tm_year = 125, .tm_mon = 6, .tm_mday = 10, .tm_wday = 4};
    const char *text = (const char *)data;
    size_t n = size ? strnlen(text, size) : 0;
    struct str source = {text, n};
    struct str user = n < size ? (struct str){text + n + 1, size - n - 1} : STR_LIT(SNOWMAN);
    struct jinja_template *tmpl;
    struct jinja_context context;
    struct jinja_output out = {0};
    struct error err = {0};
    json_t *variables = json_loads(variables_text, 0, NULL);
    bool spells = str_find(source, STR_LIT(SNOWMAN), 0) != SIZE_MAX ||
                  str_find(source, STR_LIT("\\"), 0) != SIZE_MAX ||
                  str_find(source, STR_LIT("%"), 0) != SIZE_MAX ||
                  str_find(source, STR_LIT("format"), 0) != SIZE_MAX;
    if (jinja_compile(source, &limits, &tmpl, &err) == STATUS_OK) {
        jinja_context_init(&context);
        if (!variables || jinja_context_merge(&context, variables, &err) != STATUS_OK)
            abort();
        if (jinja_context_set_str(&context, "u", user, false, &err) == STATUS_OK &&
            jinja_render(tmpl, &context, &now, &limits, &out, &err) == STATUS_OK)
            check(&out, !spells);
        if (err.status == STATUS_INTERNAL)
            abort();
        jinja_output_release(&out);
        jinja_context_release(&context);
        jinja_template_free(tmpl);
    }
    json_decref(variables);
    return 0;
}
