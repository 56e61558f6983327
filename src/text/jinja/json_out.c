/*
 * tojson as chat templates know it: Python's json.dumps (not jinja's HTML-safe variant). Braces,
 * separators and numbers of an untrusted value are untrusted.
 */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "text/jinja/run.h"

static void json_char(struct text_builder *b, const struct jinja_text *text, size_t at,
                      unsigned length, uint32_t c, bool ascii)
{
    static const char plain[] = "\"\\\b\f\n\r\t", letters[] = "\"\\bfnrt";
    char escape[24] = "";
    const char *simple = c && c < 0x80 ? strchr(plain, (char)c) : NULL;
    if (simple)
        snprintf(escape, sizeof escape, "\\%c", letters[simple - plain]);
    else if (c < 0x20 || (ascii && c > 0x7e && c < 0x10000))
        snprintf(escape, sizeof escape, "\\u%04" PRIx32, c);
    else if (ascii && c >= 0x10000)
        snprintf(escape, sizeof escape, "\\u%04" PRIx32 "\\u%04" PRIx32,
                 0xd800 + ((c - 0x10000) >> 10), 0xdc00 + ((c - 0x10000) & 0x3ff));
    if (escape[0])
        builder_cstr(b, escape, text_trusted_at(text, at));
    else
        builder_slice(b, text, at, at + length);
}

static void json_text(struct text_builder *b, const struct jinja_text *text, bool ascii)
{
    bool trusted = text->trust == TRUST_ALL;
    size_t plain = 0;
    builder_cstr(b, "\"", trusted);
    for (size_t at = 0; at < text->len && b->run->status == STATUS_OK;) {
        uint8_t c = (uint8_t)text->data[at];
        uint32_t code_point;
        if (c >= 0x20 && c != '"' && c != '\\' && (c < 0x80 || !ascii)) {
            at++;
            continue;
        }
        builder_slice(b, text, plain, at);
        unsigned length = text_decode(text, at, &code_point);
        json_char(b, text, at, length, code_point, ascii);
        at += length;
        plain = at;
    }
    builder_slice(b, text, plain, text->len);
    builder_cstr(b, "\"", trusted);
}

static void newline(struct text_builder *b, const struct json_style *style, unsigned level,
                    bool trusted)
{
    if (!style->indented)
        return;
    builder_cstr(b, "\n", trusted);
    for (unsigned i = 0; i < level; i++)
        builder_text(b, style->indent);
}

/* Separators are the template's, but inside an untrusted value they are part of it. */
static void separator(struct text_builder *b, const struct jinja_text *text, bool trusted)
{
    builder_str(b, text_str(text), trusted && text->trust == TRUST_ALL);
}

static bool json_list(struct jinja_run *run, struct text_builder *b, const struct jinja_value *v,
                      const struct json_style *style, unsigned level)
{
    bool trusted = !v->untrusted;
    if (v->list->count == 0) {
        builder_cstr(b, "[]", trusted);
        return true;
    }
    builder_cstr(b, "[", trusted);
    for (size_t i = 0; i < v->list->count; i++) {
        if (i)
            separator(b, style->item_separator, trusted);
        newline(b, style, level + 1, trusted);
        if (!write_json(run, b, &v->list->items[i], style, level + 1))
            return false;
    }
    newline(b, style, level, trusted);
    builder_cstr(b, "]", trusted);
    return true;
}

static bool json_key(struct jinja_run *run, struct text_builder *b, const struct jinja_value *key,
                     const struct json_style *style)
{
    bool scalar = key->kind == JINJA_NONE || value_is_number(key);
    if (key->kind == JINJA_STRING) {
        json_text(b, key->text, style->ascii);
        return true;
    }
    if (!scalar)
        return run_error(run, "keys must be str, int, float, bool or None, not %s",
                         value_type_name(key));
    builder_cstr(b, "\"", !key->untrusted);
    bool ok = write_json(run, b, key, style, 0);
    builder_cstr(b, "\"", !key->untrusted);
    return ok;
}

/* Stable insertion by merge: order[] gets entry numbers by key. */
static bool sort_entries(struct jinja_run *run, const struct jinja_dict *dict, uint32_t *order,
                         uint32_t *scratch, size_t n)
{
    if (n < 2)
        return true;
    size_t half = n / 2, i = 0, j = half, k = 0;
    if (!sort_entries(run, dict, order, scratch, half) ||
        !sort_entries(run, dict, order + half, scratch, n - half))
        return false;
    while (i < half && j < n) {
        int c;
        if (!value_order(run, &dict->entries[order[j]].key, &dict->entries[order[i]].key, &c))
            return false;
        scratch[k++] = c < 0 ? order[j++] : order[i++];
    }
    while (i < half)
        scratch[k++] = order[i++];
    memcpy(order, scratch, k * sizeof *order);
    return true;
}

static bool json_dict(struct jinja_run *run, struct text_builder *b, const struct jinja_value *v,
                      const struct json_style *style, unsigned level)
{
    bool trusted = !v->untrusted;
    const struct jinja_dict *dict = v->dict;
    uint32_t *order = NULL;
    if (dict->count == 0) {
        builder_cstr(b, "{}", trusted);
        return true;
    }
    if (style->sort_keys) {
        order = run_alloc(run, dict->count * 2, sizeof *order);
        for (size_t i = 0; order && i < dict->count; i++)
            order[i] = (uint32_t)i;
        if (!order || !sort_entries(run, dict, order, order + dict->count, dict->count))
            return false;
    }
    builder_cstr(b, "{", trusted);
    for (size_t i = 0; i < dict->count; i++) {
        const struct jinja_entry *entry = &dict->entries[order ? order[i] : i];
        if (i)
            separator(b, style->item_separator, trusted);
        newline(b, style, level + 1, trusted);
        if (!json_key(run, b, &entry->key, style))
            return false;
        separator(b, style->key_separator, trusted);
        if (!write_json(run, b, &entry->value, style, level + 1))
            return false;
    }
    newline(b, style, level, trusted);
    builder_cstr(b, "}", trusted);
    return true;
}

static void json_float(struct text_builder *b, const struct jinja_value *v)
{
    char text[40];
    print_float(v->real, text);
    if (isnan(v->real))
        strcpy(text, "NaN");
    else if (isinf(v->real))
        strcpy(text, v->real < 0 ? "-Infinity" : "Infinity");
    builder_cstr(b, text, !v->untrusted);
}

bool write_json(struct jinja_run *run, struct text_builder *b, const struct jinja_value *v,
                const struct json_style *style, unsigned level)
{
    if (level > JINJA_VALUE_DEPTH)
        return run_fail(run, STATUS_LIMIT, "a value is nested deeper than %d levels",
                        JINJA_VALUE_DEPTH);
    if (!run_burn(run, 2))
        return false;
    switch (v->kind) {
    case JINJA_NONE:
        builder_cstr(b, "null", !v->untrusted);
        return true;
    case JINJA_BOOL:
        builder_cstr(b, v->boolean ? "true" : "false", !v->untrusted);
        return true;
    case JINJA_INT:
        print_value(b, v);
        return true;
    case JINJA_FLOAT:
        json_float(b, v);
        return true;
    case JINJA_STRING:
        json_text(b, v->text, style->ascii);
        return true;
    case JINJA_LIST:
    case JINJA_TUPLE:
        return json_list(run, b, v, style, level);
    case JINJA_DICT:
        return json_dict(run, b, v, style, level);
    default:
        return run_error(run, "Object of type %s is not JSON serializable", value_type_name(v));
    }
}
