/* Operators with Python's meaning on our values; integers are 64 bits and overflow is an error. */
#include <math.h>

#include "text/jinja/run.h"

static bool overflow(struct jinja_run *run)
{
    return run_error(run, "integer overflow: numbers have 64 bits here");
}

static bool zero_division(struct jinja_run *run)
{
    return run_error(run, "division by zero");
}

static int64_t floor_div(int64_t a, int64_t b)
{
    int64_t q = a / b;
    return a % b != 0 && (a < 0) != (b < 0) ? q - 1 : q;
}

static bool integer_power(struct jinja_run *run, int64_t base, int64_t exponent,
                          struct jinja_value *out)
{
    int64_t result = 1;
    if (exponent < 0) {
        if (base == 0)
            return zero_division(run);
        *out = value_float(pow((double)base, (double)exponent));
        return true;
    }
    while (exponent) {
        if ((exponent & 1) && __builtin_mul_overflow(result, base, &result))
            return overflow(run);
        exponent >>= 1;
        if (exponent && __builtin_mul_overflow(base, base, &base))
            return overflow(run);
    }
    *out = value_int(result);
    return true;
}

static bool operate_integers(struct jinja_run *run, enum op op, int64_t a, int64_t b,
                             struct jinja_value *out)
{
    int64_t result = 0;
    bool over = false;
    if (b == 0 && (op == OP_DIV || op == OP_FLOOR_DIV || op == OP_MOD))
        return zero_division(run);
    if (a == INT64_MIN && b == -1 && (op == OP_FLOOR_DIV || op == OP_MOD))
        return overflow(run);
    switch (op) {
    case OP_ADD:
        over = __builtin_add_overflow(a, b, &result);
        break;
    case OP_SUB:
        over = __builtin_sub_overflow(a, b, &result);
        break;
    case OP_MUL:
        over = __builtin_mul_overflow(a, b, &result);
        break;
    case OP_FLOOR_DIV:
        result = floor_div(a, b);
        break;
    case OP_MOD:
        result = a - floor_div(a, b) * b;
        break;
    case OP_DIV:
        *out = value_float((double)a / (double)b);
        return true;
    default:
        return integer_power(run, a, b, out);
    }
    *out = value_int(result);
    return !over || overflow(run);
}

static bool operate_reals(struct jinja_run *run, enum op op, double a, double b,
                          struct jinja_value *out)
{
    double result = 0;
    if (b == 0 && (op == OP_DIV || op == OP_FLOOR_DIV || op == OP_MOD))
        return zero_division(run);
    switch (op) {
    case OP_ADD:
        result = a + b;
        break;
    case OP_SUB:
        result = a - b;
        break;
    case OP_MUL:
        result = a * b;
        break;
    case OP_DIV:
        result = a / b;
        break;
    case OP_FLOOR_DIV:
    case OP_MOD:
        result = fmod(a, b);
        if (result == 0)
            result = copysign(0, b);
        else if ((result < 0) != (b < 0))
            result += b;
        if (op == OP_FLOOR_DIV)
            result = floor((a - result) / b + 0.5);
        break;
    default:
        if (a < 0 && b != floor(b))
            return run_error(run, "a negative number to a fractional power");
        if (a == 0 && b < 0)
            return zero_division(run);
        result = pow(a, b);
        if (isinf(result) && !isinf(a) && !isinf(b))
            return run_error(run, "numerical result out of range");
    }
    *out = value_float(result);
    return true;
}

static const char *op_text(enum op op)
{
    static const char *const names[] = {
        [OP_ADD] = "+",        [OP_SUB] = "-", [OP_MUL] = "*",  [OP_DIV] = "/",
        [OP_FLOOR_DIV] = "//", [OP_MOD] = "%", [OP_POW] = "**", [OP_CONCAT] = "~",
        [OP_EQ] = "==",        [OP_NE] = "!=", [OP_LT] = "<",   [OP_LE] = "<=",
        [OP_GT] = ">",         [OP_GE] = ">=", [OP_IN] = "in",  [OP_NOT_IN] = "not in",
    };
    return op < sizeof names / sizeof *names && names[op] ? names[op] : "?";
}

static bool add_texts(struct jinja_run *run, const struct jinja_text *a, const struct jinja_text *b,
                      struct jinja_value *out)
{
    struct text_builder builder;
    if (a->safe == b->safe) {
        builder_continue(&builder, run, a);
        builder_text(&builder, b);
    } else {
        builder_init(&builder, run);
        builder_escaped(&builder, a);
        builder_escaped(&builder, b);
    }
    const struct jinja_text *sum = builder_finish(&builder);
    return sum && out_text(out, text_with_safe(run, sum, a->safe || b->safe));
}

static bool add_lists(struct jinja_run *run, const struct jinja_value *a,
                      const struct jinja_value *b, struct jinja_value *out)
{
    size_t n = a->list->count + b->list->count;
    struct jinja_value *items = run_alloc(run, n, sizeof *items);
    if (!items || !run_burn(run, n))
        return false;
    if (a->list->count)
        memcpy(items, a->list->items, a->list->count * sizeof *items);
    if (b->list->count)
        memcpy(items + a->list->count, b->list->items, b->list->count * sizeof *items);
    if (value_list(&run->arena, (enum jinja_kind)a->kind, items, n, out))
        return true;
    return run_fail(run, STATUS_LIMIT, "rendering needs too much memory");
}

static bool repeat(struct jinja_run *run, const struct jinja_value *what, int64_t times,
                   struct jinja_value *out)
{
    size_t n = times < 0 ? 0 : (size_t)times;
    if (what->kind == JINJA_STRING) {
        struct text_builder b;
        builder_init(&b, run);
        for (size_t i = 0; what->text->len && i < n && run->status == STATUS_OK; i++) {
            run_burn(run, 1);
            builder_text(&b, what->text);
        }
        const struct jinja_text *text = builder_finish(&b);
        return text && out_text(out, text_with_safe(run, text, what->text->safe));
    }
    size_t count = what->list->count, total;
    if (__builtin_mul_overflow(count, n, &total) || !run_burn(run, total))
        return run_fail(run, STATUS_LIMIT, "a list grew too long");
    struct jinja_value *items = run_alloc(run, total, sizeof *items);
    if (!items)
        return false;
    for (size_t i = 0; i < total; i++)
        items[i] = what->list->items[i % count];
    if (value_list(&run->arena, (enum jinja_kind)what->kind, items, total, out))
        return true;
    return run_fail(run, STATUS_LIMIT, "rendering needs too much memory");
}

static bool is_sequence(const struct jinja_value *v)
{
    return v->kind == JINJA_STRING || v->kind == JINJA_LIST || v->kind == JINJA_TUPLE;
}

bool operate(struct jinja_run *run, enum op op, const struct jinja_value *a,
             const struct jinja_value *b, struct jinja_value *out)
{
    bool numbers = value_is_number(a) && value_is_number(b), ok;
    if (numbers) {
        if (value_is_integer(a) && value_is_integer(b))
            ok = operate_integers(run, op, value_as_integer(a), value_as_integer(b), out);
        else
            ok = operate_reals(run, op, value_as_real(a), value_as_real(b), out);
        out->untrusted = a->untrusted || b->untrusted;
        return ok;
    }
    if (op == OP_MOD && a->kind == JINJA_STRING)
        return format_percent(run, a->text, b, out);
    if (a->kind == JINJA_UNDEFINED)
        return fail_undefined(run, a);
    if (b->kind == JINJA_UNDEFINED)
        return fail_undefined(run, b);
    if (op == OP_ADD && a->kind == b->kind && a->kind == JINJA_STRING)
        return add_texts(run, a->text, b->text, out);
    if (op == OP_ADD && a->kind == b->kind && is_sequence(a))
        return add_lists(run, a, b, out);
    if (op == OP_MUL && is_sequence(a) && value_is_integer(b))
        return repeat(run, a, value_as_integer(b), out);
    if (op == OP_MUL && is_sequence(b) && value_is_integer(a))
        return repeat(run, b, value_as_integer(a), out);
    if (op == OP_ADD && is_sequence(a))
        return run_error(run, "can only concatenate %s (not \"%s\") to %s", value_type_name(a),
                         value_type_name(b), value_type_name(a));
    return run_error(run, "unsupported operand types for %s: '%s' and '%s'", op_text(op),
                     value_type_name(a), value_type_name(b));
}

bool operate_unary(struct jinja_run *run, enum op op, const struct jinja_value *a,
                   struct jinja_value *out)
{
    if (a->kind == JINJA_UNDEFINED)
        return fail_undefined(run, a);
    if (!value_is_number(a))
        return run_error(run, "bad operand type for unary %s: '%s'", op_text(op),
                         value_type_name(a));
    if (a->kind == JINJA_FLOAT)
        *out = value_float(op == OP_SUB ? -a->real : a->real);
    else if (op == OP_SUB && value_as_integer(a) == INT64_MIN)
        return overflow(run);
    else
        *out = value_int(op == OP_SUB ? -value_as_integer(a) : value_as_integer(a));
    out->untrusted = a->untrusted;
    return true;
}

/* ---- comparison ----------------------------------------------------------------------------- */

/* Fuel for comparing or hashing what both values have in bytes. */
static bool burn_texts(struct jinja_run *run, const struct jinja_value *a,
                       const struct jinja_value *b)
{
    size_t n = a->kind == JINJA_STRING ? a->text->len : 0;
    size_t m = b->kind == JINJA_STRING ? b->text->len : 0;
    return run_burn(run, (n < m ? n : m) / JINJA_BYTES_A_STEP);
}

static bool equal(struct jinja_run *run, const struct jinja_value *a, const struct jinja_value *b,
                  bool *out)
{
    if (!burn_texts(run, a, b))
        return false;
    *out = value_equal(a, b, (struct value_walk){&run->fuel, JINJA_VALUE_DEPTH});
    return run_burn(run, 1);
}

static int text_order(const struct jinja_text *a, const struct jinja_text *b)
{
    size_t n = a->len < b->len ? a->len : b->len;
    int order = n ? memcmp(a->data, b->data, n) : 0;
    return order ? order : (a->len > b->len) - (a->len < b->len);
}

bool value_order(struct jinja_run *run, const struct jinja_value *a, const struct jinja_value *b,
                 int *order)
{
    if (a->kind == JINJA_UNDEFINED)
        return fail_undefined(run, a);
    if (b->kind == JINJA_UNDEFINED)
        return fail_undefined(run, b);
    if (value_is_integer(a) && value_is_integer(b)) {
        int64_t x = value_as_integer(a), y = value_as_integer(b);
        *order = (x > y) - (x < y);
        return run_burn(run, 1);
    }
    if (value_is_number(a) && value_is_number(b)) {
        double x = value_as_real(a), y = value_as_real(b);
        *order = (x > y) - (x < y);
        return run_burn(run, 1);
    }
    if (a->kind == JINJA_STRING && b->kind == JINJA_STRING) {
        *order = text_order(a->text, b->text);
        return burn_texts(run, a, b) && run_burn(run, 1);
    }
    if (a->kind != b->kind || !is_sequence(a))
        return run_error(run, "no order between '%s' and '%s'", value_type_name(a),
                         value_type_name(b));
    if (!run_enter(run))
        return false;
    size_t n = a->list->count, m = b->list->count;
    bool ok = true, same = true;
    *order = (n > m) - (n < m);
    for (size_t i = 0; ok && same && i < n && i < m; i++) {
        ok = equal(run, &a->list->items[i], &b->list->items[i], &same);
        if (ok && !same)
            ok = value_order(run, &a->list->items[i], &b->list->items[i], order);
    }
    run_leave(run);
    return ok;
}

size_t text_find(struct jinja_run *run, const struct jinja_text *text,
                 const struct jinja_text *needle, size_t from)
{
    if (needle->len == 0)
        return from <= text->len ? from : SIZE_MAX;
    size_t begin = from, tries = 0;
    while (from < text->len && text->len - from >= needle->len) {
        const char *hit =
            memchr(text->data + from, needle->data[0], text->len - from - needle->len + 1);
        if (!hit)
            break;
        if (++tries % 8 == 0 && !run_burn(run, 1 + needle->len / 8))
            return SIZE_MAX;
        from = (size_t)(hit - text->data);
        if (memcmp(hit, needle->data, needle->len) == 0) {
            run_burn(run, (from - begin) / JINJA_BYTES_A_STEP);
            return from;
        }
        from++;
    }
    run_burn(run, (text->len - begin) / JINJA_BYTES_A_STEP);
    return SIZE_MAX;
}

static bool in_items(struct jinja_run *run, const struct jinja_value *container,
                     const struct jinja_value *item, bool *out)
{
    size_t count;
    *out = false;
    if (!value_length(run, container, &count))
        return false;
    for (size_t i = 0; i < count && !*out; i++) {
        struct jinja_value other;
        if (!value_at(run, container, i, &other) || !equal(run, &other, item, out))
            return false;
    }
    return true;
}

bool value_contains(struct jinja_run *run, const struct jinja_value *container,
                    const struct jinja_value *item, bool *out)
{
    uint64_t hash, budget = 1000;
    *out = false;
    switch (container->kind) {
    case JINJA_UNDEFINED:
        return true;
    case JINJA_STRING:
        if (item->kind != JINJA_STRING)
            return run_error(run, "'in <string>' requires string as left operand, not %s",
                             value_type_name(item));
        *out = text_find(run, container->text, item->text, 0) != SIZE_MAX;
        return run->status == STATUS_OK;
    case JINJA_DICT:
        if (!value_hash(item, (struct value_walk){&budget, 16}, &hash))
            return run_error(run, "unhashable type: '%s'", value_type_name(item));
        *out = dict_get(container->dict, item) != NULL;
        return burn_texts(run, item, item);
    case JINJA_LIST:
    case JINJA_TUPLE:
    case JINJA_VIEW:
    case JINJA_RANGE:
        return in_items(run, container, item, out);
    case JINJA_ITERATOR: {
        struct jinja_iterator *it = container->iterator;
        while (it->next < it->count && !*out)
            if (!equal(run, &it->items[it->next++], item, out))
                return false;
        return true;
    }
    default:
        return run_error(run, "argument of type '%s' is not iterable", value_type_name(container));
    }
}

bool compare(struct jinja_run *run, enum op op, const struct jinja_value *a,
             const struct jinja_value *b, bool *out)
{
    int order;
    bool result;
    if (op == OP_EQ || op == OP_NE) {
        if (!equal(run, a, b, &result))
            return false;
        *out = result == (op == OP_EQ);
        return true;
    }
    if (op == OP_IN || op == OP_NOT_IN) {
        if (!value_contains(run, b, a, &result))
            return false;
        *out = result == (op == OP_IN);
        return true;
    }
    if (value_is_number(a) && value_is_number(b) &&
        (isnan(value_as_real(a)) || isnan(value_as_real(b)))) {
        *out = false;
        return true;
    }
    if (!value_order(run, a, b, &order))
        return false;
    *out = op == OP_LT   ? order < 0
           : op == OP_LE ? order <= 0
           : op == OP_GT ? order > 0
                         : order >= 0;
    return true;
}
