/* Tests: what may follow `is`. */
#include <math.h>

#include "text/jinja/text_ops.h"

static bool answer(struct jinja_value *out, bool result)
{
    *out = value_bool(result);
    return true;
}

/* One test per kind of value needs nothing but the value. */
#define KIND_TEST(function, condition)                                                             \
    static bool function(struct jinja_run *run, struct jinja_call *call, struct jinja_value *out)  \
    {                                                                                              \
        (void)run;                                                                                 \
        const struct jinja_value *v = &call->self;                                                 \
        return answer(out, (condition));                                                           \
    }

KIND_TEST(is_defined, v->kind != JINJA_UNDEFINED)
KIND_TEST(is_undefined, v->kind == JINJA_UNDEFINED)
KIND_TEST(is_none, v->kind == JINJA_NONE)
KIND_TEST(is_boolean, v->kind == JINJA_BOOL)
KIND_TEST(is_false, v->kind == JINJA_BOOL && !v->boolean)
KIND_TEST(is_true, v->kind == JINJA_BOOL && v->boolean)
KIND_TEST(is_integer, v->kind == JINJA_INT)
KIND_TEST(is_float, v->kind == JINJA_FLOAT)
KIND_TEST(is_number, value_is_number(v))
KIND_TEST(is_string, v->kind == JINJA_STRING)
KIND_TEST(is_mapping, v->kind == JINJA_DICT)
KIND_TEST(is_iterable, value_is_iterable(v) || v->kind == JINJA_LOOP)
KIND_TEST(is_escaped, v->kind == JINJA_STRING && v->text->safe)
KIND_TEST(is_callable, v->kind == JINJA_MACRO || v->kind == JINJA_METHOD ||
                           v->kind == JINJA_FUNCTION || v->kind == JINJA_LOOP ||
                           v->kind == JINJA_UNDEFINED ||
                           (v->kind == JINJA_OBJECT && !v->object->is_cycler))
KIND_TEST(is_sequence, v->kind == JINJA_STRING || v->kind == JINJA_LIST || v->kind == JINJA_TUPLE ||
                           v->kind == JINJA_DICT || v->kind == JINJA_RANGE ||
                           v->kind == JINJA_UNDEFINED)
KIND_TEST(is_filter, v->kind == JINJA_STRING && find_filter(text_str(v->text)))
KIND_TEST(is_test, v->kind == JINJA_STRING && find_test(text_str(v->text)))

static bool remainder_is(struct jinja_run *run, const struct jinja_value *v,
                         const struct jinja_value *divisor, int64_t wanted, struct jinja_value *out)
{
    struct jinja_value rest, want = value_int(wanted);
    bool same;
    if (v->kind == JINJA_STRING)
        return run_error(run, "not all arguments converted during string formatting");
    return operate(run, OP_MOD, v, divisor, &rest) && compare(run, OP_EQ, &rest, &want, &same) &&
           answer(out, same);
}

static bool is_odd(struct jinja_run *run, struct jinja_call *call, struct jinja_value *out)
{
    struct jinja_value two = value_int(2);
    return remainder_is(run, &call->self, &two, 1, out);
}

static bool is_even(struct jinja_run *run, struct jinja_call *call, struct jinja_value *out)
{
    struct jinja_value two = value_int(2);
    return remainder_is(run, &call->self, &two, 0, out);
}

static bool is_divisibleby(struct jinja_run *run, struct jinja_call *call, struct jinja_value *out)
{
    return remainder_is(run, &call->self, &call->a[0], 0, out);
}

/* str.islower(), str.isupper(): some letter with case, and none of the other case. */
static bool has_case(struct jinja_run *run, struct jinja_call *call, enum text_case how,
                     struct jinja_value *out)
{
    const struct jinja_text *text = to_text(run, &call->self);
    const struct jinja_text *same = text ? text_change_case(run, text, how) : NULL;
    const struct jinja_text *other =
        text ? text_change_case(run, text, how == CASE_LOWER ? CASE_UPPER : CASE_LOWER) : NULL;
    return same && other &&
           answer(out, str_eq(text_str(text), text_str(same)) &&
                           !str_eq(text_str(text), text_str(other)));
}

static bool is_lower(struct jinja_run *run, struct jinja_call *call, struct jinja_value *out)
{
    return has_case(run, call, CASE_LOWER, out);
}

static bool is_upper(struct jinja_run *run, struct jinja_call *call, struct jinja_value *out)
{
    return has_case(run, call, CASE_UPPER, out);
}

/* Identity; scalars of one kind that are equal count as the same object. */
static bool is_sameas(struct jinja_run *run, struct jinja_call *call, struct jinja_value *out)
{
    const struct jinja_value *a = &call->self, *b = &call->a[0];
    bool same;
    if (a->kind != b->kind)
        return answer(out, false);
    if (a->kind == JINJA_LIST || a->kind == JINJA_TUPLE || a->kind == JINJA_DICT)
        return answer(out, a->list == b->list);
    return compare(run, OP_EQ, a, b, &same) && answer(out, same);
}

static bool compared(struct jinja_run *run, struct jinja_call *call, enum op op,
                     struct jinja_value *out)
{
    bool result;
    return compare(run, op, &call->self, &call->a[0], &result) && answer(out, result);
}

#define COMPARE_TEST(function, op)                                                                 \
    static bool function(struct jinja_run *run, struct jinja_call *call, struct jinja_value *out)  \
    {                                                                                              \
        return compared(run, call, op, out);                                                       \
    }

COMPARE_TEST(is_eq, OP_EQ)
COMPARE_TEST(is_ne, OP_NE)
COMPARE_TEST(is_lt, OP_LT)
COMPARE_TEST(is_le, OP_LE)
COMPARE_TEST(is_gt, OP_GT)
COMPARE_TEST(is_ge, OP_GE)
COMPARE_TEST(is_in, OP_IN)

static const struct jinja_builtin table[] = {
    {"defined", "", is_defined, false},
    {"undefined", "", is_undefined, false},
    {"none", "", is_none, false},
    {"boolean", "", is_boolean, false},
    {"false", "", is_false, false},
    {"true", "", is_true, false},
    {"integer", "", is_integer, false},
    {"float", "", is_float, false},
    {"number", "", is_number, false},
    {"string", "", is_string, false},
    {"mapping", "", is_mapping, false},
    {"iterable", "", is_iterable, false},
    {"sequence", "", is_sequence, false},
    {"callable", "", is_callable, false},
    {"escaped", "", is_escaped, false},
    {"filter", "", is_filter, false},
    {"test", "", is_test, false},
    {"odd", "", is_odd, false},
    {"even", "", is_even, false},
    {"divisibleby", "num", is_divisibleby, false},
    {"lower", "", is_lower, false},
    {"upper", "", is_upper, false},
    {"sameas", "other", is_sameas, false},
    {"eq", "other", is_eq, false},
    {"equalto", "other", is_eq, false},
    {"==", "other", is_eq, false},
    {"ne", "other", is_ne, false},
    {"!=", "other", is_ne, false},
    {"lt", "other", is_lt, false},
    {"lessthan", "other", is_lt, false},
    {"<", "other", is_lt, false},
    {"le", "other", is_le, false},
    {"<=", "other", is_le, false},
    {"gt", "other", is_gt, false},
    {"greaterthan", "other", is_gt, false},
    {">", "other", is_gt, false},
    {"ge", "other", is_ge, false},
    {">=", "other", is_ge, false},
    {"in", "seq", is_in, false},
};

const struct jinja_builtin *find_test(struct str name)
{
    for (size_t i = 0; i < sizeof table / sizeof *table; i++)
        if (str_eq_cstr(name, table[i].name))
            return &table[i];
    return NULL;
}
