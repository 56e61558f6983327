/*
 * Expressions -> tree: precedence as in Jinja2 (from weak to strong)
 *
 *   a if b else c · or · and · not · comparisons, in · + - · ~ · * / // % · ** · unary + -
 *   · postfix . [] () | is
 *
 * Filters and tests bind tighter than a sign (-5|abs is 5), and ** associates to the left.
 */
#include <stdio.h>

#include "text/jinja/ast.h"
#include "text/jinja/run.h"

static struct node *parse_or(struct compiler *c);
static struct node *parse_unary(struct compiler *c, bool with_filters);

static bool deeper(struct compiler *c)
{
    if (++c->depth > JINJA_NESTING) {
        compile_fail(c, peek(c)->line, STATUS_LIMIT, "expressions are nested deeper than %d",
                     JINJA_NESTING);
        return false;
    }
    return true;
}

static struct node *const_node(struct compiler *c, uint32_t line, struct jinja_value value)
{
    struct node *node = node_new(c, N_CONST, line);
    if (node)
        node->value = value;
    return node;
}

static struct node *string_node(struct compiler *c, uint32_t line, struct str bytes)
{
    const struct jinja_text *text = text_borrow(&c->tmpl->arena, bytes, true);
    if (!text)
        return compile_fail(c, line, STATUS_MEMORY, "out of memory");
    return const_node(c, line, value_text(text));
}

/* Adjacent string literals are one. */
static struct node *parse_string(struct compiler *c)
{
    struct token *first = next_token(c);
    if (peek(c)->kind != TOKEN_STRING)
        return string_node(c, first->line, first->text);
    struct buf joined = {0};
    buf_append_str(&joined, first->text);
    while (peek(c)->kind == TOKEN_STRING)
        buf_append_str(&joined, next_token(c)->text);
    struct str copy = arena_copy_str(&c->tmpl->arena, buf_str(&joined));
    buf_release(&joined);
    if (!copy.data)
        return compile_fail(c, first->line, STATUS_MEMORY, "out of memory");
    return string_node(c, first->line, copy);
}

/* Marks the special macro variables as used by every macro around the name. */
static void note_special(struct compiler *c, struct str name)
{
    for (size_t i = 0; i < c->n_macros; i++) {
        c->macros[i]->uses_varargs |= str_eq_cstr(name, "varargs");
        c->macros[i]->uses_kwargs |= str_eq_cstr(name, "kwargs");
        c->macros[i]->uses_caller |= str_eq_cstr(name, "caller");
    }
}

static struct node *parse_name(struct compiler *c)
{
    struct token *token = next_token(c);
    struct str name = token->text;
    if (str_eq_cstr(name, "true") || str_eq_cstr(name, "True"))
        return const_node(c, token->line, value_bool(true));
    if (str_eq_cstr(name, "false") || str_eq_cstr(name, "False"))
        return const_node(c, token->line, value_bool(false));
    if (str_eq_cstr(name, "none") || str_eq_cstr(name, "None"))
        return const_node(c, token->line, value_none());
    note_special(c, name);
    struct node *node = node_new(c, N_NAME, token->line);
    if (!node || !symbol_of(c, name, &node->symbol))
        return NULL;
    return node;
}

static bool collect(struct compiler *c, struct node *parent, struct node_list *list,
                    struct node *child)
{
    return child && node_cover(c, parent, child) && node_list_add(c, list, child);
}

static struct node *parse_list(struct compiler *c)
{
    struct node *node = node_new(c, N_LIST, next_token(c)->line);
    struct node_list list = {0};
    while (node && !at_op(c, OP_RBRACKET)) {
        if (list.count && !expect_op(c, OP_COMMA, "',' or ']'"))
            return NULL;
        if (at_op(c, OP_RBRACKET))
            break;
        if (!collect(c, node, &list, parse_expression(c)))
            return NULL;
    }
    if (!node || !expect_op(c, OP_RBRACKET, "']'"))
        return NULL;
    node->items = list.items;
    node->count = list.count;
    return node;
}

static struct node *parse_dict(struct compiler *c)
{
    struct node *node = node_new(c, N_DICT, next_token(c)->line);
    struct node_list list = {0};
    while (node && !at_op(c, OP_RBRACE)) {
        if (list.count && !expect_op(c, OP_COMMA, "',' or '}'"))
            return NULL;
        if (at_op(c, OP_RBRACE))
            break;
        if (!collect(c, node, &list, parse_expression(c)) ||
            !expect_op(c, OP_COLON, "':' after a key") ||
            !collect(c, node, &list, parse_expression(c)))
            return NULL;
    }
    if (!node || !expect_op(c, OP_RBRACE, "'}'"))
        return NULL;
    node->items = list.items;
    node->count = list.count;
    return node;
}

static struct node *parse_primary(struct compiler *c)
{
    struct token *token = peek(c);
    char text[64];
    switch (token->kind) {
    case TOKEN_NAME:
        return parse_name(c);
    case TOKEN_STRING:
        return parse_string(c);
    case TOKEN_INT:
        next_token(c);
        return const_node(c, token->line, value_int(token->integer));
    case TOKEN_FLOAT:
        next_token(c);
        return const_node(c, token->line, value_float(token->real));
    default:
        break;
    }
    if (at_op(c, OP_LBRACKET))
        return parse_list(c);
    if (at_op(c, OP_LBRACE))
        return parse_dict(c);
    if (skip_op(c, OP_LPAREN)) {
        struct node *node = parse_tuple(c, true, true);
        return node && expect_op(c, OP_RPAREN, "')'") ? node : NULL;
    }
    return compile_fail(c, token->line, STATUS_MODEL, "unexpected %s, wanted a value",
                        token_describe(token, text, sizeof text));
}

static bool at_tuple_end(struct compiler *c)
{
    uint8_t kind = peek(c)->kind;
    return kind == TOKEN_PRINT_END || kind == TOKEN_TAG_END || kind == TOKEN_END ||
           at_op(c, OP_RPAREN) || at_name(c, "recursive");
}

struct node *parse_tuple(struct compiler *c, bool conditional, bool parenthesized)
{
    struct token *first = peek(c);
    struct node_list list = {0};
    bool is_tuple = false;
    while (!at_tuple_end(c)) {
        struct node *item = conditional ? parse_expression(c) : parse_or(c);
        if (!item || !node_list_add(c, &list, item))
            return NULL;
        if (!at_op(c, OP_COMMA))
            break;
        next_token(c);
        is_tuple = true;
    }
    if (!is_tuple && list.count)
        return list.items[0];
    char text[64];
    if (!is_tuple && !parenthesized)
        return compile_fail(c, first->line, STATUS_MODEL, "unexpected %s, wanted an expression",
                            token_describe(first, text, sizeof text));
    struct node *node = node_new(c, N_TUPLE, first->line);
    for (size_t i = 0; node && i < list.count; i++)
        if (!node_cover(c, node, list.items[i]))
            return NULL;
    if (node) {
        node->items = list.items;
        node->count = list.count;
    }
    return node;
}

/* ---- postfix -------------------------------------------------------------------------------- */

/* One argument; sets *keyword if it is name=value. */
static bool parse_argument(struct compiler *c, struct node *parent, struct arguments *out,
                           struct node_list *items, size_t *keyword_capacity)
{
    struct token *token = peek(c);
    bool star = skip_op(c, OP_MUL), star_star = !star && skip_op(c, OP_POW);
    bool keyword = !star && !star_star && token->kind == TOKEN_NAME &&
                   token[1].kind == TOKEN_OPERATOR && token[1].op == OP_ASSIGN;
    if (keyword)
        c->at += 2;
    struct node *value = parse_expression(c);
    if (!value || !node_cover(c, parent, value))
        return false;
    if (star || star_star) {
        *(star ? &out->star : &out->star_star) = value;
        return true;
    }
    if (!keyword) {
        if (out->n_keywords) {
            compile_fail(c, token->line, STATUS_MODEL, "a positional argument follows keywords");
            return false;
        }
        return node_list_add(c, items, value);
    }
    if (out->n_keywords == *keyword_capacity) {
        size_t capacity = *keyword_capacity ? *keyword_capacity * 2 : 4;
        struct keyword_node *keywords = compile_alloc(c, capacity, sizeof *keywords);
        if (!keywords)
            return false;
        if (out->n_keywords)
            memcpy(keywords, out->keywords, out->n_keywords * sizeof *keywords);
        out->keywords = keywords;
        *keyword_capacity = capacity;
    }
    const struct jinja_text *name = text_borrow(&c->tmpl->arena, token->text, true);
    out->keywords[out->n_keywords++] = (struct keyword_node){name, value};
    if (!name)
        compile_fail(c, token->line, STATUS_MEMORY, "out of memory");
    return name;
}

/* After '(' up to and with ')'. */
static struct arguments *parse_arguments(struct compiler *c, struct node *parent)
{
    struct arguments *out = compile_alloc(c, 1, sizeof *out);
    struct node_list items = {0};
    size_t keyword_capacity = 0;
    bool first = true;
    while (out && !at_op(c, OP_RPAREN)) {
        if (!first && !expect_op(c, OP_COMMA, "',' or ')'"))
            return NULL;
        if (!first && at_op(c, OP_RPAREN))
            break;
        if (!parse_argument(c, parent, out, &items, &keyword_capacity))
            return NULL;
        first = false;
    }
    if (!out || !expect_op(c, OP_RPAREN, "')'"))
        return NULL;
    out->items = items.items;
    out->count = items.count;
    return out;
}

static struct node *parent_node(struct compiler *c, enum node_kind kind, struct node *child)
{
    struct node *node = child ? node_new(c, kind, peek(c)->line) : NULL;
    if (!node || !node_cover(c, node, child))
        return NULL;
    node->a = child;
    return node;
}

struct node *parse_postfix_call(struct compiler *c, struct node *callee)
{
    struct node *node = parent_node(c, N_CALL, callee);
    if (!node || !expect_op(c, OP_LPAREN, "'('"))
        return NULL;
    node->arguments = parse_arguments(c, node);
    return node->arguments ? node : NULL;
}

static struct node *parse_member(struct compiler *c, struct node *object)
{
    next_token(c);
    struct token *token = next_token(c);
    char text[64];
    if (token->kind == TOKEN_NAME) {
        struct node *node = parent_node(c, N_MEMBER, object);
        if (!node)
            return NULL;
        node->name = text_borrow(&c->tmpl->arena, token->text, true);
        return node->name ? node : compile_fail(c, token->line, STATUS_MEMORY, "out of memory");
    }
    if (token->kind != TOKEN_INT)
        return compile_fail(c, token->line, STATUS_MODEL, "unexpected %s, wanted a name after '.'",
                            token_describe(token, text, sizeof text));
    struct node *node = parent_node(c, N_ITEM, object);
    if (node)
        node->b = const_node(c, token->line, value_int(token->integer));
    return node && node->b ? node : NULL;
}

/* Bounds after the first, which may be NULL; the ':' is next. */
static struct node *parse_slice(struct compiler *c, struct node *object, struct node *start)
{
    struct node *node = parent_node(c, N_SLICE, object);
    if (!node)
        return NULL;
    node->items = compile_alloc(c, 3, sizeof *node->items);
    if (!node->items || (start && !node_cover(c, node, start)))
        return NULL;
    node->count = 3;
    node->items[0] = start;
    for (size_t i = 1; i < 3 && skip_op(c, OP_COLON); i++) {
        if (at_op(c, OP_COLON) || at_op(c, OP_RBRACKET))
            continue;
        node->items[i] = parse_expression(c);
        if (!node->items[i] || !node_cover(c, node, node->items[i]))
            return NULL;
    }
    return node;
}

static struct node *parse_subscript(struct compiler *c, struct node *object)
{
    uint32_t line = next_token(c)->line;
    struct node *index = NULL, *node = NULL;
    if (at_op(c, OP_RBRACKET)) {
        index = node_new(c, N_TUPLE, line);
    } else if (!at_op(c, OP_COLON)) {
        index = parse_tuple(c, true, false);
    }
    if (c->status != STATUS_OK)
        return NULL;
    if (at_op(c, OP_COLON)) {
        node = parse_slice(c, object, index);
    } else {
        node = parent_node(c, N_ITEM, object);
        if (node && !node_cover(c, node, index))
            return NULL;
        if (node)
            node->b = index;
    }
    return node && expect_op(c, OP_RBRACKET, "']'") ? node : NULL;
}

/* The name of a filter or test, dots included. */
static const struct jinja_text *parse_dotted(struct compiler *c, const char *what)
{
    struct token *token = next_token(c);
    char text[64];
    if (token->kind != TOKEN_NAME)
        return compile_fail(c, token->line, STATUS_MODEL, "unexpected %s, wanted %s",
                            token_describe(token, text, sizeof text), what);
    struct str name = token->text;
    while (at_op(c, OP_DOT) && peek(c)[1].kind == TOKEN_NAME) {
        next_token(c);
        const char *joined =
            arena_printf(&c->tmpl->arena, "%.*s.%.*s", STR_ARG(name), STR_ARG(peek(c)->text));
        if (!joined)
            return compile_fail(c, token->line, STATUS_MEMORY, "out of memory");
        next_token(c);
        name = str_from(joined);
    }
    const struct jinja_text *out = text_borrow(&c->tmpl->arena, name, true);
    return out ? out : compile_fail(c, token->line, STATUS_MEMORY, "out of memory");
}

static struct node *parse_filter(struct compiler *c, struct node *input)
{
    struct node *node = parent_node(c, N_FILTER, input);
    if (!node || !(node->name = parse_dotted(c, "a filter's name")))
        return NULL;
    node->function = find_filter(text_str(node->name));
    if (skip_op(c, OP_LPAREN))
        node->arguments = parse_arguments(c, node);
    return c->status == STATUS_OK ? node : NULL;
}

/* A test's single argument without parentheses: `x is divisibleby 3`. */
static bool at_bare_argument(struct compiler *c)
{
    struct token *token = peek(c);
    if (token->kind == TOKEN_NAME)
        return !at_name(c, "else") && !at_name(c, "or") && !at_name(c, "and") &&
               !at_name(c, "if") && !at_name(c, "in") && !at_name(c, "not") && !at_name(c, "is") &&
               !at_name(c, "recursive");
    return token->kind == TOKEN_STRING || token->kind == TOKEN_INT || token->kind == TOKEN_FLOAT ||
           at_op(c, OP_LBRACKET) || at_op(c, OP_LBRACE);
}

static struct node *parse_postfix(struct compiler *c, struct node *node);

static struct node *parse_test(struct compiler *c, struct node *subject)
{
    next_token(c);
    struct node *node = parent_node(c, N_TEST, subject);
    if (!node)
        return NULL;
    node->negated = skip_name(c, "not");
    if (!(node->name = parse_dotted(c, "a test's name")))
        return NULL;
    node->function = find_test(text_str(node->name));
    if (skip_op(c, OP_LPAREN)) {
        node->arguments = parse_arguments(c, node);
    } else if (at_bare_argument(c)) {
        struct arguments *arguments = compile_alloc(c, 1, sizeof *arguments);
        struct node *argument = parse_postfix(c, parse_primary(c));
        struct node_list items = {0};
        if (!arguments || !collect(c, node, &items, argument))
            return NULL;
        arguments->items = items.items;
        arguments->count = 1;
        node->arguments = arguments;
    }
    return c->status == STATUS_OK ? node : NULL;
}

static struct node *parse_postfix(struct compiler *c, struct node *node)
{
    while (node) {
        if (at_op(c, OP_DOT))
            node = parse_member(c, node);
        else if (at_op(c, OP_LBRACKET))
            node = parse_subscript(c, node);
        else if (at_op(c, OP_LPAREN))
            node = parse_postfix_call(c, node);
        else
            break;
    }
    return node;
}

struct node *parse_filters(struct compiler *c, struct node *node, bool first_without_pipe)
{
    if (first_without_pipe)
        node = parse_filter(c, node);
    while (node) {
        if (skip_op(c, OP_PIPE))
            node = parse_filter(c, node);
        else if (!first_without_pipe && at_name(c, "is"))
            node = parse_test(c, node);
        else if (!first_without_pipe && at_op(c, OP_LPAREN))
            node = parse_postfix_call(c, node);
        else
            break;
    }
    return node;
}

/* ---- operators ------------------------------------------------------------------------------ */

static struct node *parse_signed(struct compiler *c, enum node_kind kind)
{
    next_token(c);
    if (!deeper(c))
        return NULL;
    struct node *operand = parse_unary(c, false);
    c->depth--;
    return parent_node(c, kind, operand);
}

static struct node *parse_unary(struct compiler *c, bool with_filters)
{
    struct node *node;
    if (at_op(c, OP_SUB))
        node = parse_signed(c, N_NEGATE);
    else if (at_op(c, OP_ADD))
        node = parse_signed(c, N_PLUS);
    else
        node = parse_primary(c);
    node = parse_postfix(c, node);
    return with_filters ? parse_filters(c, node, false) : node;
}

/* Levels of binary operators, weak to strong; each is one flat chain. */
static const struct {
    uint8_t kind, ops[5];
} levels[] = {
    {N_CHAIN, {OP_ADD, OP_SUB}},
    {N_CONCAT, {OP_CONCAT}},
    {N_CHAIN, {OP_MUL, OP_DIV, OP_FLOOR_DIV, OP_MOD}},
    {N_CHAIN, {OP_POW}},
};
#define N_LEVELS (sizeof levels / sizeof *levels)

static enum op level_op(struct compiler *c, size_t level)
{
    struct token *token = peek(c);
    if (token->kind != TOKEN_OPERATOR)
        return OP_NONE;
    for (size_t i = 0; levels[level].ops[i]; i++)
        if (token->op == levels[level].ops[i])
            return token->op;
    return OP_NONE;
}

/* Adds an operator to a chain's list, growing by doubling. */
static bool add_op(struct compiler *c, struct node *chain, size_t n, enum op op)
{
    if ((n & (n - 1)) == 0) {
        uint8_t *ops = compile_alloc(c, n * 2 + 4, 1);
        if (!ops)
            return false;
        if (n)
            memcpy(ops, chain->ops, n);
        chain->ops = ops;
    }
    chain->ops[n] = (uint8_t)op;
    return true;
}

static struct node *parse_chain(struct compiler *c, size_t level)
{
    struct node *first = level == N_LEVELS ? parse_unary(c, true) : parse_chain(c, level + 1);
    if (!first || level == N_LEVELS || level_op(c, level) == OP_NONE)
        return first;
    struct node *chain = node_new(c, (enum node_kind)levels[level].kind, peek(c)->line);
    struct node_list list = {0};
    if (!chain || !collect(c, chain, &list, first))
        return NULL;
    enum op op;
    while ((op = level_op(c, level)) != OP_NONE) {
        next_token(c);
        if (!add_op(c, chain, list.count - 1, op) ||
            !collect(c, chain, &list, parse_chain(c, level + 1)))
            return NULL;
    }
    chain->items = list.items;
    chain->count = list.count;
    return chain;
}

static enum op comparison(struct compiler *c)
{
    struct token *token = peek(c);
    if (token->kind == TOKEN_OPERATOR && token->op >= OP_EQ && token->op <= OP_GE)
        return next_token(c)->op;
    if (skip_name(c, "in"))
        return OP_IN;
    if (at_name(c, "not") && token[1].kind == TOKEN_NAME && str_eq_cstr(token[1].text, "in")) {
        c->at += 2;
        return OP_NOT_IN;
    }
    return OP_NONE;
}

static struct node *parse_comparison(struct compiler *c)
{
    struct node *first = parse_chain(c, 0), *node = NULL;
    struct node_list list = {0};
    enum op op;
    while (first && (op = comparison(c)) != OP_NONE) {
        if (!node) {
            node = node_new(c, N_COMPARE, peek(c)->line);
            if (!node || !collect(c, node, &list, first))
                return NULL;
        }
        if (!add_op(c, node, list.count - 1, op) || !collect(c, node, &list, parse_chain(c, 0)))
            return NULL;
    }
    if (!node)
        return first;
    node->items = list.items;
    node->count = list.count;
    return node;
}

static struct node *parse_not(struct compiler *c)
{
    if (!at_name(c, "not"))
        return parse_comparison(c);
    next_token(c);
    if (!deeper(c))
        return NULL;
    struct node *operand = parse_not(c);
    c->depth--;
    return parent_node(c, N_NOT, operand);
}

/* `and` chains of not-expressions, or `or` chains of `and` chains. */
static struct node *parse_logic(struct compiler *c, bool is_or)
{
    const char *word = is_or ? "or" : "and";
    struct node *first = is_or ? parse_logic(c, false) : parse_not(c);
    if (!first || !at_name(c, word))
        return first;
    struct node *node = node_new(c, is_or ? N_OR : N_AND, peek(c)->line);
    struct node_list list = {0};
    if (!node || !collect(c, node, &list, first))
        return NULL;
    while (skip_name(c, word))
        if (!collect(c, node, &list, is_or ? parse_logic(c, false) : parse_not(c)))
            return NULL;
    node->items = list.items;
    node->count = list.count;
    return node;
}

static struct node *parse_or(struct compiler *c)
{
    return parse_logic(c, true);
}

/* a if b else (c if d else e): flat while reading, nested to the right in the tree. */
static struct node *parse_conditional(struct compiler *c)
{
    struct node *value = parse_or(c);
    while (value && at_name(c, "if")) {
        struct node *node = node_new(c, N_COND, next_token(c)->line);
        if (!node || !(node->items = compile_alloc(c, 3, sizeof *node->items)))
            return NULL;
        node->count = 3;
        node->items[1] = value;
        if (!node_cover(c, node, value) || !(node->items[0] = parse_or(c)) ||
            !node_cover(c, node, node->items[0]))
            return NULL;
        if (skip_name(c, "else")) {
            if (!(node->items[2] = parse_expression(c)) || !node_cover(c, node, node->items[2]))
                return NULL;
        }
        value = node;
    }
    return value;
}

struct node *parse_expression(struct compiler *c)
{
    if (!deeper(c))
        return NULL;
    struct node *node = parse_conditional(c);
    c->depth--;
    return node;
}
