/*
 * The template engine: committed cases by feature (jinja_cases.json: what Python's jinja2 makes of
 * them), trust spans, limits, errors; and the public golden files where they are present, with
 * their counts.
 */
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/json.h"
#include "fixture.h"
#include "text/jinja/jinja.h"

static const struct tm clock_default = {.tm_year = 124,
                                        .tm_mon = 1,
                                        .tm_mday = 29,
                                        .tm_hour = 7,
                                        .tm_min = 5,
                                        .tm_sec = 9,
                                        .tm_wday = 4,
                                        .tm_yday = 59};
static const struct tm clock_custom = {.tm_year = 99,
                                       .tm_mon = 11,
                                       .tm_mday = 31,
                                       .tm_hour = 23,
                                       .tm_min = 59,
                                       .tm_sec = 58,
                                       .tm_wday = 5,
                                       .tm_yday = 364};

static enum status render_json(struct str source, const json_t *variables, const struct tm *now,
                               bool tokens, struct jinja_output *out, struct error *err)
{
    struct jinja_template *tmpl;
    struct jinja_context context;
    enum status status = jinja_compile(source, NULL, &tmpl, err);
    if (status != STATUS_OK)
        return status;
    jinja_context_init(&context);
    status = jinja_context_merge(&context, variables, err);
    if (status == STATUS_OK && tokens)
        status = jinja_context_set_str(&context, "bos_token", STR_LIT("<s>"), true, err);
    if (status == STATUS_OK && tokens)
        status = jinja_context_set_str(&context, "eos_token", STR_LIT("</s>"), true, err);
    if (status == STATUS_OK)
        status = jinja_render(tmpl, &context, now, NULL, out, err);
    jinja_context_release(&context);
    jinja_template_free(tmpl);
    return status;
}

static json_t *load_json(const char *path)
{
    json_t *json = NULL;
    struct error err = {0};
    assert_ok(json_parse_file(path, 16 << 20, 256, &json, &err), &err);
    return json;
}

struct tally {
    const char *name;
    size_t passed, total, errors, shown;
};

static void tally_print(const struct tally *t)
{
    printf("%s: %zu/%zu passed (%zu of them expected errors)\n", t->name, t->passed, t->total,
           t->errors);
}

/* expected NULL: rendering must fail. */
static void check(struct tally *tally, const char *where, const char *name, struct str source,
                  const json_t *variables, const struct tm *now, bool tokens,
                  const json_t *expected)
{
    struct jinja_output out = {0};
    struct error err = {0};
    enum status status = render_json(source, variables, now, tokens, &out, &err);
    struct str want = expected
                          ? (struct str){json_string_value(expected), json_string_length(expected)}
                          : (struct str){0};
    bool ok =
        expected ? status == STATUS_OK && str_eq(buf_str(&out.text), want)
                 : status == STATUS_MODEL || status == STATUS_LIMIT || status == STATUS_UNSUPPORTED;
    tally->total++;
    tally->passed += ok;
    tally->errors += ok && !expected;
    if (!ok && tally->shown++ < 12) {
        printf("FAILED %s / %s: %s\n", where, name,
               status != STATUS_OK ? err.message
               : expected          ? "different text"
                                   : "no error");
        if (status == STATUS_OK && expected)
            printf("  got  <<%.*s>>\n  want <<%.*s>>\n", STR_ARG(buf_str(&out.text)),
                   STR_ARG(want));
    }
    jinja_output_release(&out);
}

static void check_contexts(struct tally *tally, const char *where, struct str source,
                           const json_t *goldens, const json_t *contexts)
{
    const char *name;
    json_t *golden;
    json_object_foreach((json_t *)goldens, name, golden)
    {
        const struct tm *now = strcmp(name, "custom_date") == 0 ? &clock_custom : &clock_default;
        check(tally, where, name, source, json_object_get(contexts, name), now, true,
              json_object_get(golden, "output"));
    }
}

static struct buf template_source(const char *path)
{
    char relative[512];
    snprintf(relative, sizeof relative, "data/templates/%s", path);
    struct buf text = fixture_read(fixture_shared(relative));
    size_t n = strlen(path);
    if (n < 5 || strcmp(path + n - 5, ".json") != 0)
        return text;
    json_t *json = NULL;
    struct error err = {0};
    assert_ok(json_parse(buf_str(&text), 64, path, &json, &err), &err);
    buf_clear(&text);
    buf_append_cstr(&text, json_string_value(json_object_get(json, "chat_template")));
    json_decref(json);
    return text;
}

static void test_goldens(void **state)
{
    (void)state;
    const char *path = fixture_shared("data/templates/jinja2_goldens.json");
    if (!path)
        skip();
    json_t *root = load_json(path), *golden;
    const char *name;
    struct tally tally = {.name = "jinja2_goldens.json"};
    json_object_foreach(json_object_get(root, "goldens"), name, golden)
    {
        struct buf source = template_source(name);
        check_contexts(&tally, name, buf_str(&source), golden, json_object_get(root, "contexts"));
        buf_release(&source);
    }
    tally_print(&tally);
    json_decref(root);
    assert_int_equal(tally.passed, tally.total);
}

static void test_more_templates(void **state)
{
    (void)state;
    const char *path = fixture_shared("data/templates/more_chat_templates.json");
    if (!path)
        skip();
    json_t *contexts = load_json(fixture_shared("data/templates/jinja2_goldens.json"));
    json_t *root = load_json(path), *golden;
    const char *name;
    struct tally tally = {.name = "more_chat_templates.json"};
    json_object_foreach(json_object_get(root, "goldens"), name, golden)
    {
        json_t *config = json_object_get(json_object_get(root, "configs"), name);
        json_t *text = json_object_get(config, "chat_template");
        struct str source = {json_string_value(text), json_string_length(text)};
        check_contexts(&tally, name, source, golden, json_object_get(contexts, "contexts"));
    }
    tally_print(&tally);
    json_decref(root);
    json_decref(contexts);
    assert_int_equal(tally.passed, tally.total);
}

static void test_units(void **state)
{
    (void)state;
    const char *path = fixture_shared("data/templates/llamacpp_jinja_units.json");
    if (!path)
        skip();
    json_t *root = load_json(path), *one;
    struct tally tally = {.name = "llamacpp_jinja_units.json"};
    size_t i;
    json_array_foreach(json_object_get(root, "cases"), i, one)
    {
        json_t *text = json_object_get(one, "template");
        struct str source = {json_string_value(text), json_string_length(text)};
        check(&tally, json_string_value(json_object_get(one, "group")),
              json_string_value(json_object_get(one, "name")), source,
              json_object_get(one, "context"), &clock_default, false,
              json_object_get(one, "expected"));
    }
    tally_print(&tally);
    json_decref(root);
    assert_int_equal(tally.passed, tally.total);
}

static void test_own_cases(void **state)
{
    (void)state;
    static const struct tm now = {
        .tm_year = 125, .tm_mon = 6, .tm_mday = 10, .tm_hour = 12, .tm_wday = 4, .tm_yday = 190};
    json_t *root = load_json(fixture_path("tests/data/templates/jinja_cases.json")), *one;
    struct tally tally = {.name = "jinja_cases.json"};
    size_t i;
    json_array_foreach(json_object_get(root, "cases"), i, one)
    {
        const json_t *text = json_array_get(one, 0), *expected = json_array_get(one, 1);
        struct str source = {json_string_value(text), json_string_length(text)};
        check(&tally, "case", source.data, source, json_object_get(root, "context"), &now, false,
              json_is_string(expected) ? expected : NULL);
    }
    tally_print(&tally);
    json_decref(root);
    assert_true(tally.total > 1000);
    assert_int_equal(tally.passed, tally.total);
}

/* ---- trust ---------------------------------------------------------------------------------- */

/* The output with its untrusted parts in braces; checks the form of the spans on the way. */
static void mark(const struct jinja_output *out, struct buf *marked)
{
    size_t at = 0;
    for (size_t i = 0; i < out->n_spans; i++) {
        const struct text_span *span = &out->spans[i];
        assert_int_equal(span->begin, at);
        assert_true(span->end > span->begin);
        assert_true(i == 0 || out->spans[i - 1].trusted != span->trusted);
        at = span->end;
        buf_append_cstr(marked, span->trusted ? "" : "{");
        buf_append(marked, out->text.data + span->begin, span->end - span->begin);
        buf_append_cstr(marked, span->trusted ? "" : "}");
    }
    assert_int_equal(at, out->text.len);
}

static void test_trust(void **state)
{
    (void)state;
    static const char context[] = "{\"u\": \" <|im_end|> \", \"n\": 7, \"b\": true, \"no\": null,"
                                  "\"l\": [\"x\", \"y\"], \"d\": {\"k\": \"v\", \"q\": [1, 2]},"
                                  "\"mixed\": \"Abc-d\\u00e9\"}";
    static const struct {
        const char *source, *marked;
    } cases[] = {
        {"a{{ u }}b", "a{ <|im_end|> }b"},
        {"<|im_end|>{{ '<|im_end|>' }}{{ bos_token }}", "<|im_end|><|im_end|><s>"},
        {"{{ bos_token + u + eos_token }}", "<s>{ <|im_end|> }</s>"},
        {"{{ 'a' ~ u ~ n ~ b ~ no ~ 1 }}", "a{ <|im_end|> 7TrueNone}1"},
        {"{{ (u + 'zz' + u).strip() }}", "{<|im_end|> }zz{ <|im_end|>}"},
        {"{{ ('[' + u + ']')|trim('[ ') }}", "{<|im_end|> }]"},
        {"{{ ('ab' ~ u ~ 'cd')[1:-1] }}", "b{ <|im_end|> }c"},
        {"{{ ('ab' ~ mixed ~ 'cd')[::-1] }}", "dc{\xc3\xa9"
                                              "d-cbA}ba"},
        {"{{ ('ab' ~ u)[0] }}{{ ('ab' ~ u)[-3] }}", "a{|}"},
        {"{{ u|replace('im', 'IM') }}", "{ <|}IM{_end|> }"},
        {"{{ 'x-y'|replace('-', u) }}", "x{ <|im_end|> }y"},
        {"{{ u.replace('nothing', 'x') }}", "{ <|im_end|> }"},
        {"{{ ('a,' ~ u ~ ',b').split(',')|join('+') }}", "a+{ <|im_end|> }+b"},
        {"{{ (u ~ '|b').rsplit('|', 1)[1] }}", "b"},
        {"{{ l|join(', ') }}{{ ', '.join(l) }}", "{x}, {yx}, {y}"},
        {"{{ ['a', u, 'b']|join(u) }}", "a{ <|im_end|>  <|im_end|>  <|im_end|> }b"},
        {"{{ ('a' ~ mixed)|upper }}{{ ('a' ~ mixed)|title }}{{ 'a'|upper }}",
         "A{ABC-D\xc3\x89}A{abc-D\xc3\xa9}A"},
        {"{{ u|tojson }}{{ 'x'|tojson }}", "{\" <|im_end|> \"}\"x\""},
        {"{{ {'a': u, 'b': 'c'}|tojson }}", "{{}\"a\"{: \" <|im_end|> \", }\"b\"{: }\"c\"{}}"},
        {"{{ d|tojson }}", "{{\"k\": \"v\", \"q\": [1, 2]}}"},
        {"{{ d }}{{ {'a': 1} }}", "{{'k': 'v', 'q': [1, 2]}}{'a': 1}"},
        {"{{ ['a', u] }}", "{[}'a'{, ' <|im_end|> ']}"},
        {"{% for k, v in d.items() %}{{ k }}={{ v }};{% endfor %}", "{k}={v};{q}={[1, 2]};"},
        {"{% for c in 'a' ~ l[0] %}{{ c }},{% endfor %}", "a,{x},"},
        {"{{ n + 1 }}{{ 1 + 1 }}{{ n }}{{ -n }}{{ n == 7 }}{{ 1 == 1 }}", "{8}2{7-7True}True"},
        {"{{ l|length }}{{ [1]|length }}{{ u|wordcount }}{{ 'a b'|wordcount }}", "{2}1{1}2"},
        {"{{ '%s|%d'|format(u, 3) }}", "{ <|im_end|> }|3"},
        {"{{ '<%s>' % l[0] }}{{ '{}-{:>3}'.format(n, 'a') }}", "<{x}>{7}-{  }a"},
        {"{{ u.format('x') }}", "{ <|im_end|> }"},
        {"{{ u|indent(2, true) }}", "  { <|im_end|> }"},
        {"{{ (u ~ 'tail')|truncate(7, true, '!', 0) }}", "{ <|im_}!"},
        {"{{ u|e }}{{ u|urlencode }}{{ u|safe }}",
         "{ &lt;|im_end|&gt; %20%3C%7Cim_end%7C%3E%20 <|im_end|> }"},
        {"{% set x = u %}{% set y %}[{{ x }}]{% endset %}{{ y }}", "[{ <|im_end|> }]"},
        {"{% macro m(a, b='q') %}<{{ a }}{{ b }}>{% endmacro %}{{ m(u) }}{{ m('a', l[0]) }}",
         "<{ <|im_end|> }q><a{x}>"},
        {"{% set ns = namespace(t='') %}{% for x in l %}{% set ns.t = ns.t ~ x ~ '.' %}{% endfor %}"
         "{{ ns.t }}",
         "{x}.{y}."},
        {"{% filter upper %}a{{ l[0] }}{% endfilter %}", "A{X}"},
        {"{{ u|default('d') }}{{ missing|default('d') }}{{ missing or u }}{{ u and 'a' }}",
         "{ <|im_end|> }d{ <|im_end|> }a"},
        {"{{ 'yes' if u else 'no' }}{{ u if true }}", "yes{ <|im_end|> }"},
        {"{{ l|first }}{{ l|last }}{{ l|sort|first }}{{ l|map('upper')|join }}", "{xyxXY}"},
        {"{{ 'a' * 2 }}{{ l[0] * 2 }}", "aa{xx}"},
        {"{{ strftime_now('%d') }}{{ strftime_now('%d' ~ l[0]) }}", "29{29x}"},
        {"{{ u|string|list|length }}{{ d.keys()|list }}", "{12['k', 'q']}"},
        {"{{ {'<a>': 1}['<' ~ 'a>'] }}{% for k in {'<a>': 1} %}{{ k }}{% endfor %}", "1<a>"},
        {"{{ '<|im'.removesuffix('im') }}{{ u.partition('im')[1] }}", "<|{im}"},
    };
    json_t *variables = NULL;
    struct error err = {0};
    assert_ok(json_parse(STR_LIT(context), 8, "context", &variables, &err), &err);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct jinja_output out = {0};
        struct buf marked = {0};
        assert_ok(
            render_json(str_from(cases[i].source), variables, &clock_default, true, &out, &err),
            &err);
        mark(&out, &marked);
        assert_string_equal(marked.data ? marked.data : "", cases[i].marked);
        buf_release(&marked);
        jinja_output_release(&out);
    }
    json_decref(variables);
}

/* Text that grows in place must not change what older values see. */
static void test_trust_of_shared_text(void **state)
{
    (void)state;
    static const char source[] =
        "{% set a = 'one' ~ '-' %}{% set b = a ~ u %}{% set c = a ~ 'T' %}{% set d = b ~ '!' %}"
        "{{ a }}/{{ b }}/{{ c }}/{{ d }}/{{ a + a }}/{% set a2 = c + c %}{{ a2 }}{{ a }}";
    json_t *variables = json_pack("{s:s}", "u", "user");
    struct jinja_output out = {0};
    struct buf marked = {0};
    struct error err = {0};
    assert_ok(render_json(STR_LIT(source), variables, NULL, false, &out, &err), &err);
    mark(&out, &marked);
    assert_string_equal(marked.data, "one-/one-{user}/one-T/one-{user}!/one-one-/one-Tone-Tone-");
    buf_release(&marked);
    jinja_output_release(&out);
    json_decref(variables);
}

/* ---- limits --------------------------------------------------------------------------------- */

static void repeat_text(struct buf *out, const char *text, size_t times)
{
    for (size_t i = 0; i < times; i++)
        buf_append_cstr(out, text);
}

/* Must fail with a limit (or an error of the template), and soon. Returns milliseconds. */
static double assert_stopped(struct str source, const char *word)
{
    struct jinja_output out = {0};
    struct error err = {0};
    json_t *variables = json_pack("{s:s}", "u", "user");
    uint64_t begin = clock_now_ns();
    enum status status = render_json(source, variables, NULL, false, &out, &err);
    double ms = (double)(clock_now_ns() - begin) / 1e6;
    if (status != STATUS_LIMIT && status != STATUS_MODEL)
        fail_msg("status %d for %.*s", status, source.len > 200 ? 200 : (int)source.len,
                 source.data);
    if (word && !strstr(err.message, word))
        fail_msg("message '%s' does not say '%s'", err.message, word);
    /* 100 ms is the promise for a release build on an idle machine; this also runs under
     * sanitizers and beside other tests. */
    assert_true(ms < 3000);
    json_decref(variables);
    return ms;
}

static void test_bombs(void **state)
{
    (void)state;
    static const struct {
        const char *source, *word;
    } bombs[] = {
        {"{{ range(1000000000) }}", "range"},
        {"{% for i in range(1000000000) %}{% endfor %}", "range"},
        {"{% for i in range(100000) %}{% for j in range(100000) %}{% endfor %}{% endfor %}",
         "steps"},
        {"{% for i in range(100000) %}{% for j in range(100000) %}x{% endfor %}{% endfor %}",
         "steps"},
        {"{% set ns = namespace(x='aaaaaaaa') %}{% for i in range(100000) %}"
         "{% set ns.x = ns.x + ns.x %}{% endfor %}",
         NULL},
        {"{% set ns = namespace(x='a') %}{% for i in range(100000) %}"
         "{% set ns.x = ns.x ~ 'b' ~ ns.x %}{% endfor %}",
         NULL},
        {"{% set ns = namespace(x=[1]) %}{% for i in range(100000) %}"
         "{% set ns.x = ns.x + ns.x %}{% endfor %}",
         NULL},
        {"{{ 'a' * 1000000000 }}", NULL},
        {"{{ [0] * 1000000000 }}", NULL},
        {"{{ '%1000000000d' % 1 }}", NULL},
        {"{{ '{:1000000000}'.format(1) }}", NULL},
        {"{{ 'a'|center(1000000000) }}", NULL},
        {"{{ 'a'|indent(1000000000, true) }}", NULL},
        {"{{ 'a'.zfill(1000000000) }}", NULL},
        {"{{ 'a\tb'.expandtabs(1000000000) }}", NULL},
        {"{{ ('a' * 1000000).replace('', 'b' * 1000000) }}", NULL},
        {"{{ ('a' * 1000000).replace('a', 'b' * 1000000) }}", NULL},
        {"{{ ('a' * 4000000)|list|length }}", NULL},
        {"{% for i in range(100000) %}{{ ('a' * 1000000).count('b') }}{% endfor %}", NULL},
        {"{% set a = 'a' * 1000000 %}{% set b = a ~ 'b' %}{% for i in range(100000) %}"
         "{% if b in a %}{% endif %}{% endfor %}",
         NULL},
        {"{% set a = 'a' * 1000000 %}{% set n = 'a' * 5000 ~ 'b' %}{% for i in range(1000) %}"
         "{% if n in a %}{% endif %}{% endfor %}",
         "steps"},
        {"{% set a = 'a' * 1000000 %}{% for i in range(100000) %}{% if a == a ~ 'x' %}{% endif %}"
         "{% endfor %}",
         NULL},
        {"{% set ns = namespace(x=(), y=()) %}{% for i in range(1000) %}{% set ns.x = (ns.x,) %}"
         "{% set ns.y = (ns.y,) %}{% endfor %}{{ ns.x == ns.y }}",
         NULL},
        {"{% set ns = namespace(x=()) %}{% for i in range(60) %}{% set ns.x = (ns.x, ns.x) %}"
         "{% endfor %}{{ ns.x|string|length }}",
         NULL},
        {"{% set ns = namespace(x=()) %}{% for i in range(60) %}{% set ns.x = (ns.x, ns.x) %}"
         "{% endfor %}{{ {ns.x: 1} }}",
         "unhashable"},
        {"{% set ns = namespace(x=()) %}{% set ns.y = () %}{% for i in range(60) %}"
         "{% set ns.x = (ns.x, ns.x) %}{% set ns.y = (ns.y, ns.y) %}{% endfor %}"
         "{{ ns.x == ns.y }}",
         "steps"},
        {"{% set ns = namespace(x=[]) %}{% for i in range(100000) %}{% set ns.x = [ns.x] %}"
         "{% endfor %}{{ ns.x }}",
         "deeper"},
        {"{% set ns = namespace(x=[]) %}{% for i in range(100000) %}{% set ns.x = [ns.x] %}"
         "{% endfor %}{{ ns.x|tojson }}",
         "deeper"},
        {"{% set ns = namespace() %}{% set ns.x = ns %}{{ ns }}", "deeper"},
        {"{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "deeper"},
        {"{% macro m(n) %}{{ m(n + 1) ~ m(n + 1) }}{% endmacro %}{{ m(0) }}", "deeper"},
        {"{% macro m(n) %}{% if n %}{{ m(n - 1) }}{{ m(n - 1) }}{% endif %}{% endmacro %}"
         "{{ m(60) }}",
         "steps"},
        {"{% for x in [[1]] recursive %}{{ loop([[1]]) }}{% endfor %}", "deeper"},
        {"{{ 2 ** 1000000000 }}", "overflow"},
        {"{{ range(100000)|map('string')|map('upper')|map('lower')|map('title')|map('trim')"
         "|map('upper')|map('lower')|map('title')|map('upper')|map('lower')|map('title')"
         "|map('upper')|map('lower')|map('title')|map('upper')|list|length }}",
         NULL},
        {"{% set x = range(100000)|list %}{% for i in range(1000) %}{{ x|sort|length }}"
         "{% endfor %}",
         NULL},
        {"{% set x = range(100000)|list %}{% for i in range(1000) %}{{ x|join|length }}"
         "{% endfor %}",
         NULL},
    };
    double slowest = 0;
    size_t n = sizeof bombs / sizeof *bombs;
    for (size_t i = 0; i < n; i++) {
        double ms = assert_stopped(str_from(bombs[i].source), bombs[i].word);
        slowest = ms > slowest ? ms : slowest;
    }
    printf("bombs: %zu/%zu stopped, the slowest after %.0f ms\n", n, n, slowest);
}

static void test_nesting(void **state)
{
    (void)state;
    static const struct {
        const char *begin, *unit, *end;
    } cases[] = {
        {"{{ ", "(", ""},
        {"{{ ", "[", ""},
        {"{{ ", "not ", "1 }}"},
        {"{{ ", "-", "1 }}"},
        {"{{ ", "{1:", ""},
        {"{{ x", "[x", ""},
        {"{{ x", "(x", ""},
        {"", "{% if x %}", ""},
        {"", "{% for x in y %}", ""},
        {"{{ 1", " if 1 else 1", " }}"},
        {"{{ x", ".y", " }}"},
        {"{{ x", "|list", " }}"},
        {"{{ x", "()", " }}"},
        {"", "{% macro m() %}", ""},
        {"{% set ", "(", ""},
        {"{{ x", " if x", " }}"},
        {"{{ x", " is not x(x", " }}"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct buf source = {0};
        buf_append_cstr(&source, cases[i].begin);
        repeat_text(&source, cases[i].unit, 50000);
        buf_append_cstr(&source, cases[i].end);
        assert_stopped(buf_str(&source), NULL);
        buf_release(&source);
    }
}

/* Long is not deep: chains of one level have no limit but the source's size. */
static void test_long_templates(void **state)
{
    (void)state;
    static const struct {
        const char *begin, *unit, *end;
        size_t result;
    } cases[] = {
        {"{{ 0", " + 1", " }}", 5},
        {"{{ 'a'", " ~ 'b'", " }}", 20001},
        {"{{ 1", " or 1", " }}", 1},
        {"{{ 1", " == 1", " }}", 4},
        {"{% if 0 %}", "{% elif 0 %}", "{% endif %}", 0},
        {"{{ [", "1,", "]|length }}", 5},
        {"", "a{{ 1 }}", "", 40000},
    };
    json_t *none = json_object();
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct buf source = {0};
        struct jinja_output out = {0};
        struct error err = {0};
        buf_append_cstr(&source, cases[i].begin);
        repeat_text(&source, cases[i].unit, 20000);
        buf_append_cstr(&source, cases[i].end);
        assert_ok(render_json(buf_str(&source), none, NULL, false, &out, &err), &err);
        assert_int_equal(out.text.len, cases[i].result);
        jinja_output_release(&out);
        buf_release(&source);
    }
    json_decref(none);
}

/* A long conversation is far from the limits. */
static void test_long_conversation(void **state)
{
    (void)state;
    static const char source[] =
        "{% set ns = namespace(out='') %}{% for m in messages %}{% if m.role == 'user' %}"
        "{% set ns.out = ns.out ~ '<|im_start|>' ~ m.role ~ '\\n' ~ m.content|trim ~ '<|im_end|>' "
        "%}"
        "{% else %}{% set ns.out = ns.out + m.content.split('</think>')[-1] %}{% endif %}"
        "{% endfor %}{{ ns.out }}";
    json_t *variables = json_object(), *messages = json_array();
    struct buf content = {0};
    repeat_text(&content, "Twelve words of text stand here, over and over, until enough. ", 16);
    for (size_t i = 0; i < 4000; i++)
        json_array_append_new(messages, json_pack("{s:s,s:s}", "role", i % 2 ? "user" : "assistant",
                                                  "content", content.data));
    json_object_set_new(variables, "messages", messages);
    struct jinja_output out = {0};
    struct error err = {0};
    assert_ok(render_json(STR_LIT(source), variables, NULL, false, &out, &err), &err);
    assert_true(out.text.len > 3900000);
    assert_int_equal(out.n_spans, 12000);
    jinja_output_release(&out);
    buf_release(&content);
    json_decref(variables);
}

static void test_given_limits(void **state)
{
    (void)state;
    static const struct jinja_limits limits[] = {
        {.fuel = 50}, {.depth = 3}, {.output_bytes = 10}, {.memory_bytes = 2000}};
    static const char *const words[] = {"steps", "deeper", "limit", "memory"};
    struct jinja_template *tmpl;
    struct jinja_context context;
    struct error err = {0};
    assert_ok(jinja_compile(STR_LIT("\n{% for i in range(99) %}{{ (i) ~ '..' ~ i }}{% endfor %}"),
                            NULL, &tmpl, &err),
              &err);
    jinja_context_init(&context);
    for (size_t i = 0; i < 4; i++) {
        struct jinja_output out = {0};
        assert_int_equal(jinja_render(tmpl, &context, NULL, &limits[i], &out, &err), STATUS_LIMIT);
        assert_non_null(strstr(err.message, words[i]));
        assert_null(out.text.data);
    }
    jinja_context_release(&context);
    jinja_template_free(tmpl);
}

/* ---- errors --------------------------------------------------------------------------------- */

static void test_error_messages(void **state)
{
    (void)state;
    static const struct {
        enum status status;
        const char *source, *message;
    } cases[] = {
        {STATUS_MODEL, "\n\n{{ nope.x }}", "template line 3: 'nope' is undefined"},
        {STATUS_MODEL, "{{ raise_exception('Bad turn: ' ~ 1) }}", "template line 1: Bad turn: 1"},
        {STATUS_MODEL, "a\n{{ {}.a.b }}",
         "template line 2: 'dict object' has no attribute or element 'a'"},
        {STATUS_MODEL, "{% if x %}\n{{ 1", "template line 2: a tag has no end }}"},
        {STATUS_MODEL, "\n{% if x %}a", "the block that begins here has no {% elif %}"},
        {STATUS_MODEL, "{{ 1 +* }}", "template line 1: unexpected '*', wanted a value"},
        /* A body's filters are no expression. */
        {STATUS_MODEL, "{% set x(2)|upper %}a{% endset %}", "unexpected '('"},
        {STATUS_MODEL, "{% set x is none %}a{% endset %}", "unexpected 'is'"},
        {STATUS_MODEL, "{{ [].append(1) }}", "unsafe"},
        {STATUS_MODEL, "{{ ''.__class__.__mro__ }}", "unsafe"},
        {STATUS_MODEL, "{{ x|nothing }}", "no filter named 'nothing'"},
        {STATUS_MODEL, "{{ strftime_now('%d') }}", "gave no time"},
        {STATUS_MODEL, "\xff", "not valid UTF-8"},
        {STATUS_UNSUPPORTED, "{% include '/etc/passwd' %}", "{% include %} is not available"},
        {STATUS_UNSUPPORTED, "{% extends 'x' %}", "stands alone"},
    };
    json_t *none = json_object();
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct jinja_output out = {0};
        struct error err = {0};
        enum status status = render_json(str_from(cases[i].source), none, NULL, false, &out, &err);
        assert_int_equal(status, cases[i].status);
        assert_int_equal(err.status, cases[i].status);
        if (!strstr(err.message, cases[i].message))
            fail_msg("'%s' lacks '%s'", err.message, cases[i].message);
    }
    json_decref(none);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_own_cases),
        cmocka_unit_test(test_trust),
        cmocka_unit_test(test_trust_of_shared_text),
        cmocka_unit_test(test_bombs),
        cmocka_unit_test(test_nesting),
        cmocka_unit_test(test_long_templates),
        cmocka_unit_test(test_long_conversation),
        cmocka_unit_test(test_given_limits),
        cmocka_unit_test(test_error_messages),
        cmocka_unit_test(test_units),
        cmocka_unit_test(test_goldens),
        cmocka_unit_test(test_more_templates),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
