/* Functions that every template can call by name. */
#include <stdio.h>

#include "text/jinja/text_ops.h"

static bool do_range(struct jinja_run *run, struct jinja_call *call, struct jinja_value *out)
{
    int64_t n[3] = {0, 0, 1};
    size_t given = call->args->count;
    for (size_t i = 0; i < given; i++) {
        if (call->a[i].kind == JINJA_UNDEFINED)
            return fail_undefined(run, &call->a[i]);
        if (!value_is_integer(&call->a[i]))
            return run_error(run, "'%s' object cannot be interpreted as an integer",
                             value_type_name(&call->a[i]));
        n[i] = value_as_integer(&call->a[i]);
    }
    struct jinja_range *range = run_alloc(run, 1, sizeof *range);
    if (!range)
        return false;
    *range = (struct jinja_range){
        .start = given > 1 ? n[0] : 0, .stop = given > 1 ? n[1] : n[0], .step = n[2]};
    if (range->step == 0)
        return run_error(run, "range() arg 3 must not be zero");
    bool up = range->step > 0;
    if (up ? range->start < range->stop : range->start > range->stop) {
        uint64_t distance = up ? (uint64_t)range->stop - (uint64_t)range->start
                               : (uint64_t)range->start - (uint64_t)range->stop;
        uint64_t step = up ? (uint64_t)range->step : 0 - (uint64_t)range->step;
        uint64_t count = (distance - 1) / step + 1;
        if (count > JINJA_RANGE_MAX)
            return run_fail(run, STATUS_LIMIT, "range too big: the sandbox allows %d items",
                            JINJA_RANGE_MAX);
        range->count = (size_t)count;
    }
    *out = (struct jinja_value){.kind = JINJA_RANGE, .range = range};
    return true;
}

/* What dict() and namespace() share: mappings or pairs, then keywords. */
static bool fill_dict(struct jinja_run *run, const struct jinja_args *args, struct jinja_value *out)
{
    struct jinja_dict *dict = dict_new(&run->arena);
    bool untrusted = false;
    struct jinja_list pairs = {0};
    if (args->count > 1)
        return run_error(run, "dict expected at most 1 argument, got %zu", args->count);
    if (args->count == 1) {
        struct jinja_value source = args->items[0];
        if (source.kind == JINJA_DICT) {
            source.kind = JINJA_VIEW;
            source.detail = VIEW_ITEMS;
        }
        if (!value_items(run, &source, &pairs))
            return false;
    }
    for (size_t i = 0; i < pairs.count; i++) {
        struct jinja_list pair;
        if (!value_items(run, &pairs.items[i], &pair))
            return false;
        if (pair.count != 2)
            return run_error(run, "dict() wants pairs, got %zu values", pair.count);
        if (!dict || !dict_set(&run->arena, dict, &pair.items[0], &pair.items[1]))
            return run_error(run, "dict() got an unhashable key, or needs too much memory");
        untrusted |= pair.items[0].untrusted || pair.items[1].untrusted;
    }
    for (size_t i = 0; i < args->n_keywords; i++) {
        struct jinja_value key = value_text(args->keywords[i].name);
        if (!dict || !dict_set(&run->arena, dict, &key, &args->keywords[i].value))
            return run_fail(run, STATUS_LIMIT, "rendering needs too much memory");
        untrusted |= key.untrusted || args->keywords[i].value.untrusted;
    }
    if (!dict)
        return run_fail(run, STATUS_LIMIT, "rendering needs too much memory");
    *out = value_dict(dict);
    out->untrusted = untrusted;
    return true;
}

static bool do_dict(struct jinja_run *run, struct jinja_call *call, struct jinja_value *out)
{
    return fill_dict(run, call->args, out);
}

/* Its members change later, so what is printed of it as a whole is never trusted. */
static bool do_namespace(struct jinja_run *run, struct jinja_call *call, struct jinja_value *out)
{
    if (!fill_dict(run, call->args, out))
        return false;
    out->kind = JINJA_NAMESPACE;
    out->untrusted = true;
    return true;
}

static bool new_object(struct jinja_run *run, const struct jinja_value *items, size_t count,
                       bool is_cycler, struct jinja_value *out)
{
    struct jinja_object *object = run_alloc(run, 1, sizeof *object);
    struct jinja_value *copy = run_alloc(run, count, sizeof *copy);
    if (!object || !copy)
        return false;
    memcpy(copy, items, count * sizeof *copy);
    *object = (struct jinja_object){.is_cycler = is_cycler, .items = copy, .count = count};
    *out = (struct jinja_value){.kind = JINJA_OBJECT, .object = object};
    return true;
}

static bool do_cycler(struct jinja_run *run, struct jinja_call *call, struct jinja_value *out)
{
    if (call->args->count == 0)
        return run_error(run, "cycler() wants at least one item");
    return new_object(run, call->args->items, call->args->count, true, out);
}

static bool do_joiner(struct jinja_run *run, struct jinja_call *call, struct jinja_value *out)
{
    static const struct jinja_text comma = TEXT_INIT(", ");
    struct jinja_value separator =
        call->a[0].kind == JINJA_MISSING ? value_text(&comma) : call->a[0];
    return new_object(run, &separator, 1, false, out);
}

static bool do_raise(struct jinja_run *run, struct jinja_call *call, struct jinja_value *out)
{
    (void)out;
    const struct jinja_text *text = to_text(run, &call->a[0]);
    if (!text)
        return false;
    return run_error(run, "%.*s", text->len > 300 ? 300 : (int)text->len, text->data);
}

/* One conversion of strftime in the C locale, whatever the process has set; false: unknown.
 * unpadded: "%-d". */
static bool time_field(const struct tm *t, char letter, bool unpadded, char *out, size_t size)
{
    static const char *const days[] = {"Sunday",   "Monday", "Tuesday", "Wednesday",
                                       "Thursday", "Friday", "Saturday"};
    static const char *const months[] = {"January",   "February", "March",    "April",
                                         "May",       "June",     "July",     "August",
                                         "September", "October",  "November", "December"};
    int year = t->tm_year + 1900, hour12 = t->tm_hour % 12 ? t->tm_hour % 12 : 12;
    const char *day = days[(unsigned)t->tm_wday % 7], *month = months[(unsigned)t->tm_mon % 12];
    const struct {
        char letter;
        int width, value;
    } numbers[] = {
        {'Y', 4, year},
        {'m', 2, t->tm_mon + 1},
        {'d', 2, t->tm_mday},
        {'H', 2, t->tm_hour},
        {'I', 2, hour12},
        {'M', 2, t->tm_min},
        {'S', 2, t->tm_sec},
        {'y', 2, year % 100},
        {'j', 3, t->tm_yday + 1},
        {'w', 1, t->tm_wday},
        {'C', 2, year / 100},
        {'u', 1, t->tm_wday ? t->tm_wday : 7},
        {'U', 2, (t->tm_yday + 7 - t->tm_wday) / 7},
        {'W', 2, (t->tm_yday + 7 - (t->tm_wday + 6) % 7) / 7},
    };
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++)
        if (numbers[i].letter == letter) {
            snprintf(out, size, "%0*d", unpadded ? 1 : numbers[i].width, numbers[i].value);
            return true;
        }
    switch (letter) {
    case 'A':
    case 'a':
        snprintf(out, size, "%.*s", letter == 'A' ? 9 : 3, day);
        return true;
    case 'B':
    case 'b':
    case 'h':
        snprintf(out, size, "%.*s", letter == 'B' ? 9 : 3, month);
        return true;
    case 'p':
        snprintf(out, size, "%s", t->tm_hour < 12 ? "AM" : "PM");
        return true;
    case 'e':
        snprintf(out, size, unpadded ? "%d" : "%2d", t->tm_mday);
        return true;
    case 'f':
        snprintf(out, size, "000000");
        return true;
    case 'z':
    case 'Z':
        *out = 0;
        return true;
    default:
        snprintf(out, size, "%s", letter == '%' ? "%" : letter == 'n' ? "\n" : "\t");
        return letter == '%' || letter == 'n' || letter == 't';
    }
}

/* What the composed conversions stand for. */
static const char *time_composite(char letter)
{
    return letter == 'F'   ? "%Y-%m-%d"
           : letter == 'T' ? "%H:%M:%S"
           : letter == 'X' ? "%H:%M:%S"
           : letter == 'D' ? "%m/%d/%y"
           : letter == 'x' ? "%m/%d/%y"
           : letter == 'R' ? "%H:%M"
           : letter == 'c' ? "%a %b %e %H:%M:%S %Y"
           : letter == 'r' ? "%I:%M:%S %p"
                           : NULL;
}

static void print_time(struct text_builder *b, const struct tm *now, struct str format,
                       bool trusted)
{
    char field[16];
    for (size_t i = 0; i < format.len; i++) {
        bool conversion = format.data[i] == '%' && i + 1 < format.len;
        bool unpadded = conversion && format.data[i + 1] == '-' && i + 2 < format.len;
        char letter = conversion ? format.data[i + 1 + unpadded] : 0;
        const char *composite = time_composite(letter);
        if (!conversion) {
            builder_bytes(b, format.data + i, 1, trusted);
            continue;
        }
        if (composite)
            print_time(b, now, str_from(composite), trusted);
        else if (time_field(now, letter, unpadded, field, sizeof field))
            builder_cstr(b, field, trusted);
        else
            builder_bytes(b, format.data + i, 2 + (size_t)unpadded, trusted);
        i += 1 + (size_t)unpadded;
    }
}

static bool do_strftime_now(struct jinja_run *run, struct jinja_call *call, struct jinja_value *out)
{
    const struct jinja_text *format;
    struct text_builder b;
    if (!argument_text(run, &call->a[0], "format", NULL, &format))
        return false;
    if (!run->now)
        return run_error(run, "strftime_now(): the caller gave no time");
    if (!format)
        return run_error(run, "strftime_now() wants a format, not None");
    builder_init(&b, run);
    print_time(&b, run->now, text_str(format), true);
    return out_text(out, builder_finish(&b));
}

static const struct jinja_builtin table[] = {
    {"range", "start|stop step", do_range, false},
    {"dict", NULL, do_dict, true},
    {"namespace", NULL, do_namespace, true},
    {"cycler", NULL, do_cycler, true},
    {"joiner", "|sep", do_joiner, true},
    {"raise_exception", "message", do_raise, true},
    {"strftime_now", "format", do_strftime_now, false},
};

const struct jinja_builtin *find_global(struct str name)
{
    for (size_t i = 0; i < sizeof table / sizeof *table; i++)
        if (str_eq_cstr(name, table[i].name))
            return &table[i];
    return NULL;
}
