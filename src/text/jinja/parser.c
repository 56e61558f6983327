/*
 * Statements -> tree, and what lexer and parsers share. A tag of our own is one entry in `tags`.
 *
 * Tags that would reach outside of the template (include, import, extends) are refused by name.
 */
#include <stdio.h>

#include "text/jinja/ast.h"
#include "text/jinja/run.h"

void *compile_fail(struct compiler *c, uint32_t line, enum status status, const char *format, ...)
{
    if (c->status != STATUS_OK)
        return NULL;
    char message[400];
    va_list args;
    va_start(args, format);
    vsnprintf(message, sizeof message, format, args);
    va_end(args);
    c->status = error_set(c->err, status, "template line %u: %s", line, message);
    return NULL;
}

void *compile_alloc(struct compiler *c, size_t count, size_t size)
{
    void *result = arena_alloc(&c->tmpl->arena, count, size);
    if (!result)
        compile_fail(c, c->n_tokens ? c->tokens[c->at].line : 1, STATUS_MEMORY,
                     "the template needs too much memory");
    return result;
}

struct node *node_new(struct compiler *c, enum node_kind kind, uint32_t line)
{
    struct node *node = compile_alloc(c, 1, sizeof *node);
    if (node) {
        node->kind = (uint8_t)kind;
        node->line = line;
        node->height = 1;
    }
    return node;
}

bool node_cover(struct compiler *c, struct node *node, const struct node *child)
{
    if (child->height >= node->height)
        node->height = (uint16_t)(child->height + 1);
    if (node->height <= JINJA_NESTING)
        return true;
    compile_fail(c, node->line, STATUS_LIMIT, "an expression is nested deeper than %d",
                 JINJA_NESTING);
    return false;
}

bool node_list_add(struct compiler *c, struct node_list *list, struct node *node)
{
    if (list->count == list->capacity) {
        size_t capacity = list->capacity ? list->capacity * 2 : 4;
        struct node **items = compile_alloc(c, capacity, sizeof *items);
        if (!items)
            return false;
        if (list->count)
            memcpy(items, list->items, list->count * sizeof *items);
        list->items = items;
        list->capacity = capacity;
    }
    list->items[list->count++] = node;
    return true;
}

bool symbol_of(struct compiler *c, struct str name, uint32_t *out)
{
    struct jinja_template *t = c->tmpl;
    const int64_t *known = strmap_get(&t->symbols, name);
    if (known) {
        *out = (uint32_t)*known;
        return true;
    }
    if (t->n_symbols == t->symbols_capacity) {
        size_t capacity = t->symbols_capacity ? t->symbols_capacity * 2 : 32;
        const struct jinja_text **names = compile_alloc(c, capacity, sizeof *names);
        if (!names)
            return false;
        if (t->n_symbols)
            memcpy(names, t->symbol_names, t->n_symbols * sizeof *names);
        t->symbol_names = names;
        t->symbols_capacity = capacity;
    }
    const struct jinja_text *text = text_copy(&t->arena, name, true);
    if (!text || !strmap_put(&t->symbols, text_str(text), (int64_t)t->n_symbols, NULL)) {
        compile_fail(c, peek(c)->line, STATUS_MEMORY, "out of memory");
        return false;
    }
    t->symbol_names[t->n_symbols] = text;
    *out = (uint32_t)t->n_symbols++;
    return true;
}

/* ---- tokens --------------------------------------------------------------------------------- */

struct token *peek(struct compiler *c)
{
    return &c->tokens[c->at];
}

struct token *next_token(struct compiler *c)
{
    struct token *token = &c->tokens[c->at];
    if (token->kind != TOKEN_END)
        c->at++;
    return token;
}

bool at_op(struct compiler *c, enum op op)
{
    return peek(c)->kind == TOKEN_OPERATOR && peek(c)->op == op;
}

bool at_name(struct compiler *c, const char *name)
{
    return peek(c)->kind == TOKEN_NAME && str_eq_cstr(peek(c)->text, name);
}

bool skip_op(struct compiler *c, enum op op)
{
    bool found = at_op(c, op);
    c->at += found;
    return found;
}

bool skip_name(struct compiler *c, const char *name)
{
    bool found = at_name(c, name);
    c->at += found;
    return found;
}

bool expect_op(struct compiler *c, enum op op, const char *what)
{
    char text[64];
    if (skip_op(c, op))
        return true;
    compile_fail(c, peek(c)->line, STATUS_MODEL, "unexpected %s, wanted %s",
                 token_describe(peek(c), text, sizeof text), what);
    return false;
}

const char *token_describe(const struct token *token, char *out, size_t size)
{
    switch (token->kind) {
    case TOKEN_END:
        return "end of template";
    case TOKEN_PRINT_END:
    case TOKEN_TAG_END:
        return "end of tag";
    case TOKEN_STRING:
        return "string";
    default:
        snprintf(out, size, "'%.*s'", token->text.len > 40 ? 40 : (int)token->text.len,
                 token->text.data);
        return out;
    }
}

/* ---- statements ----------------------------------------------------------------------------- */

static bool expect_name(struct compiler *c, const char *name)
{
    char text[64];
    if (skip_name(c, name))
        return true;
    compile_fail(c, peek(c)->line, STATUS_MODEL, "unexpected %s, wanted '%s'",
                 token_describe(peek(c), text, sizeof text), name);
    return false;
}

static bool expect_tag_end(struct compiler *c)
{
    char text[64];
    if (peek(c)->kind == TOKEN_TAG_END) {
        next_token(c);
        return true;
    }
    compile_fail(c, peek(c)->line, STATUS_MODEL, "unexpected %s, wanted the end of the tag",
                 token_describe(peek(c), text, sizeof text));
    return false;
}

static bool parse_symbol(struct compiler *c, const struct jinja_text **name, uint32_t *symbol)
{
    char text[64];
    struct token *token = next_token(c);
    if (token->kind != TOKEN_NAME) {
        compile_fail(c, token->line, STATUS_MODEL, "unexpected %s, wanted a name",
                     token_describe(token, text, sizeof text));
        return false;
    }
    if (!symbol_of(c, token->text, symbol))
        return false;
    if (name)
        *name = c->tmpl->symbol_names[*symbol];
    return true;
}

/* Body up to {% end %} of one of the names, whose tag is consumed. */
static bool parse_block(struct compiler *c, const char *const *ends, struct body *out)
{
    return expect_tag_end(c) && parse_body(c, ends, out);
}

static bool parse_block_to(struct compiler *c, const char *end, struct body *out)
{
    const char *const ends[] = {end, NULL};
    if (!parse_block(c, ends, out))
        return false;
    next_token(c);
    return expect_tag_end(c);
}

static struct node *parse_target_item(struct compiler *c, bool allow_member)
{
    if (skip_op(c, OP_LPAREN)) {
        struct node *inner = parse_target(c, allow_member);
        return inner && expect_op(c, OP_RPAREN, "')'") ? inner : NULL;
    }
    struct node *node = node_new(c, N_NAME, peek(c)->line);
    struct str name = peek(c)->text;
    if (!node || !parse_symbol(c, NULL, &node->symbol))
        return NULL;
    static const char *const constants[] = {"true", "false", "none", "True", "False", "None"};
    for (size_t i = 0; i < sizeof constants / sizeof *constants; i++)
        if (str_eq_cstr(name, constants[i]))
            return compile_fail(c, node->line, STATUS_MODEL, "cannot assign to '%s'", constants[i]);
    if (allow_member && skip_op(c, OP_DOT)) {
        uint32_t unused;
        node->kind = N_MEMBER_SLOT;
        if (!parse_symbol(c, &node->name, &unused))
            return NULL;
    }
    return node;
}

struct node *parse_target(struct compiler *c, bool allow_member)
{
    if (++c->depth > JINJA_NESTING)
        return compile_fail(c, peek(c)->line, STATUS_LIMIT, "nested too deeply");
    struct node *first = parse_target_item(c, allow_member);
    c->depth--;
    if (!first || !at_op(c, OP_COMMA))
        return first;
    struct node *tuple = node_new(c, N_TUPLE, first->line);
    struct node_list list = {0};
    if (!tuple || !node_cover(c, tuple, first) || !node_list_add(c, &list, first))
        return NULL;
    while (skip_op(c, OP_COMMA)) {
        if (at_op(c, OP_RPAREN) || at_op(c, OP_ASSIGN) || at_name(c, "in"))
            break;
        struct node *item = parse_target_item(c, allow_member);
        if (!item || !node_cover(c, tuple, item) || !node_list_add(c, &list, item))
            return NULL;
    }
    tuple->items = list.items;
    tuple->count = list.count;
    return tuple;
}

static bool parse_if(struct compiler *c, struct node *node)
{
    static const char *const ends[] = {"elif", "else", "endif", NULL};
    size_t capacity = 0;
    bool more = true, has_else = false;
    node->kind = N_IF;
    while (more) {
        if (node->count == capacity) {
            capacity = capacity ? capacity * 2 : 2;
            struct branch *grown = compile_alloc(c, capacity, sizeof *grown);
            if (!grown)
                return false;
            if (node->count)
                memcpy(grown, node->branches, node->count * sizeof *grown);
            node->branches = grown;
        }
        struct branch branch = {0};
        if (!has_else && !(branch.test = parse_tuple(c, true, false)))
            return false;
        if (!parse_block(c, has_else ? ends + 2 : ends, &branch.body))
            return false;
        node->branches[node->count++] = branch;
        more = !at_name(c, "endif");
        has_else = at_name(c, "else");
        next_token(c);
    }
    return expect_tag_end(c);
}

static bool parse_for(struct compiler *c, struct node *node)
{
    static const char *const ends[] = {"endfor", "else", NULL};
    struct for_node *loop = compile_alloc(c, 1, sizeof *loop);
    node->kind = N_FOR;
    node->loop = loop;
    if (!loop || !symbol_of(c, STR_LIT("loop"), &loop->loop_symbol) ||
        !(loop->target = parse_target(c, false)) || !expect_name(c, "in") ||
        !(loop->source = parse_tuple(c, false, false)))
        return false;
    if (skip_name(c, "if") && !(loop->filter = parse_expression(c)))
        return false;
    loop->recursive = skip_name(c, "recursive");
    c->loops++;
    bool ok = parse_block(c, ends, &loop->body);
    c->loops--;
    if (ok && skip_name(c, "else"))
        return parse_block_to(c, "endfor", &loop->otherwise);
    return ok && skip_name(c, "endfor") && expect_tag_end(c);
}

static bool parse_set(struct compiler *c, struct node *node)
{
    node->kind = N_SET;
    if (!(node->a = parse_target(c, true)))
        return false;
    if (skip_op(c, OP_ASSIGN))
        return (node->b = parse_tuple(c, true, false)) && expect_tag_end(c);
    node->kind = N_SET_BLOCK;
    node->b = node_new(c, N_INPUT, node->line);
    if (node->b && skip_op(c, OP_PIPE))
        node->b = parse_filters(c, node->b, true);
    if (!node->b)
        return false;
    node->body = compile_alloc(c, 1, sizeof *node->body);
    return node->body && parse_block_to(c, "endset", node->body);
}

/* ---- macros --------------------------------------------------------------------------------- */

/* "(a, b=1)" */
static bool parse_parameters(struct compiler *c, struct macro_node *macro)
{
    size_t capacity = 0;
    if (!expect_op(c, OP_LPAREN, "'('"))
        return false;
    while (!at_op(c, OP_RPAREN)) {
        if (macro->n_parameters && !expect_op(c, OP_COMMA, "',' or ')'"))
            return false;
        if (at_op(c, OP_RPAREN))
            break;
        if (macro->n_parameters == capacity) {
            capacity = capacity ? capacity * 2 : 4;
            struct parameter *grown = compile_alloc(c, capacity, sizeof *grown);
            if (!grown)
                return false;
            if (macro->n_parameters)
                memcpy(grown, macro->parameters, macro->n_parameters * sizeof *grown);
            macro->parameters = grown;
        }
        struct parameter *p = &macro->parameters[macro->n_parameters++];
        if (!parse_symbol(c, &p->name, &p->symbol))
            return false;
        macro->declares_caller |= str_eq_cstr(text_str(p->name), "caller");
        if (skip_op(c, OP_ASSIGN)) {
            if (!(p->value = parse_expression(c)))
                return false;
        } else if (macro->n_parameters > 1 && p[-1].value) {
            compile_fail(c, peek(c)->line, STATUS_MODEL,
                         "a parameter without default follows one with a default");
            return false;
        }
    }
    return expect_op(c, OP_RPAREN, "')'");
}

static bool parse_macro_body(struct compiler *c, struct macro_node *macro, const char *end)
{
    if (!symbol_of(c, STR_LIT("varargs"), &macro->varargs_symbol) ||
        !symbol_of(c, STR_LIT("kwargs"), &macro->kwargs_symbol) ||
        !symbol_of(c, STR_LIT("caller"), &macro->caller_symbol))
        return false;
    if (c->n_macros == JINJA_NESTING) {
        compile_fail(c, peek(c)->line, STATUS_LIMIT, "macros are nested deeper than %d",
                     JINJA_NESTING);
        return false;
    }
    unsigned loops = c->loops;
    c->loops = 0;
    c->macros[c->n_macros++] = macro;
    bool ok = parse_block_to(c, end, &macro->body);
    c->n_macros--;
    c->loops = loops;
    return ok;
}

static bool parse_macro(struct compiler *c, struct node *node)
{
    node->kind = N_MACRO;
    node->macro = compile_alloc(c, 1, sizeof *node->macro);
    return node->macro && parse_symbol(c, &node->macro->name, &node->macro->symbol) &&
           parse_parameters(c, node->macro) && parse_macro_body(c, node->macro, "endmacro");
}

static bool parse_call(struct compiler *c, struct node *node)
{
    node->kind = N_CALL_BLOCK;
    node->macro = compile_alloc(c, 1, sizeof *node->macro);
    if (!node->macro || (at_op(c, OP_LPAREN) && !parse_parameters(c, node->macro)))
        return false;
    node->macro->call = parse_expression(c);
    if (!node->macro->call)
        return false;
    if (node->macro->call->kind != N_CALL) {
        compile_fail(c, node->line, STATUS_MODEL, "{%% call %%} wants a call");
        return false;
    }
    return parse_macro_body(c, node->macro, "endcall");
}

static bool parse_filter_block(struct compiler *c, struct node *node)
{
    node->kind = N_FILTER_BLOCK;
    node->body = compile_alloc(c, 1, sizeof *node->body);
    if (!node->body || !(node->b = node_new(c, N_INPUT, node->line)) ||
        !(node->b = parse_filters(c, node->b, true)))
        return false;
    return parse_block_to(c, "endfilter", node->body);
}

/* {% with a = 1, b = 2 %}: items are target, value, ... */
static bool parse_with(struct compiler *c, struct node *node)
{
    struct node_list list = {0};
    node->kind = N_WITH;
    node->body = compile_alloc(c, 1, sizeof *node->body);
    while (node->body && peek(c)->kind != TOKEN_TAG_END) {
        if (list.count && !expect_op(c, OP_COMMA, "','"))
            return false;
        struct node *target = parse_target_item(c, false);
        if (!target || !expect_op(c, OP_ASSIGN, "'='") || !node_list_add(c, &list, target))
            return false;
        struct node *value = parse_expression(c);
        if (!value || !node_list_add(c, &list, value))
            return false;
    }
    node->items = list.items;
    node->count = list.count;
    return node->body && parse_block_to(c, "endwith", node->body);
}

static bool parse_jump(struct compiler *c, struct node *node, enum node_kind kind)
{
    node->kind = (uint8_t)kind;
    if (c->loops == 0) {
        compile_fail(c, node->line, STATUS_MODEL, "break or continue outside of a loop");
        return false;
    }
    return expect_tag_end(c);
}

static bool parse_break(struct compiler *c, struct node *node)
{
    return parse_jump(c, node, N_BREAK);
}

static bool parse_continue(struct compiler *c, struct node *node)
{
    return parse_jump(c, node, N_CONTINUE);
}

/* The reference marks assistant turns with it; the body is rendered as it stands. */
static bool parse_generation(struct compiler *c, struct node *node)
{
    node->kind = N_SCOPE;
    node->body = compile_alloc(c, 1, sizeof *node->body);
    return node->body && parse_block_to(c, "endgeneration", node->body);
}

/* Without inheritance a named block is just its body. */
static bool parse_named_block(struct compiler *c, struct node *node)
{
    static const char *const ends[] = {"endblock", NULL};
    uint32_t unused;
    node->kind = N_SCOPE;
    node->body = compile_alloc(c, 1, sizeof *node->body);
    if (!node->body || !parse_symbol(c, NULL, &unused) || !parse_block(c, ends, node->body))
        return false;
    next_token(c);
    if (peek(c)->kind == TOKEN_NAME)
        next_token(c);
    return expect_tag_end(c);
}

static bool parse_print_tag(struct compiler *c, struct node *node)
{
    struct node_list list = {0};
    node->kind = N_PRINT;
    do {
        struct node *item = parse_expression(c);
        if (!item || !node_list_add(c, &list, item))
            return false;
    } while (skip_op(c, OP_COMMA));
    node->items = list.items;
    node->count = list.count;
    return expect_tag_end(c);
}

static bool parse_refused(struct compiler *c, struct node *node)
{
    compile_fail(c, node->line, STATUS_UNSUPPORTED,
                 "{%% %.*s %%} is not available: a chat template stands alone",
                 STR_ARG(c->tokens[c->at - 1].text));
    return false;
}

static const struct {
    const char *name;
    bool (*parse)(struct compiler *c, struct node *node);
} tags[] = {
    {"if", parse_if},
    {"for", parse_for},
    {"set", parse_set},
    {"macro", parse_macro},
    {"call", parse_call},
    {"filter", parse_filter_block},
    {"with", parse_with},
    {"break", parse_break},
    {"continue", parse_continue},
    {"generation", parse_generation},
    {"block", parse_named_block},
    {"print", parse_print_tag},
    {"include", parse_refused},
    {"import", parse_refused},
    {"from", parse_refused},
    {"extends", parse_refused},
    {"autoescape", parse_refused},
};

static struct node *parse_tag(struct compiler *c)
{
    struct token *token = next_token(c);
    char text[64];
    if (token->kind == TOKEN_NAME)
        for (size_t i = 0; i < sizeof tags / sizeof *tags; i++)
            if (str_eq_cstr(token->text, tags[i].name)) {
                struct node *node = node_new(c, N_SCOPE, token->line);
                return node && tags[i].parse(c, node) ? node : NULL;
            }
    return compile_fail(c, token->line, STATUS_MODEL, "unknown or misplaced tag %s",
                        token_describe(token, text, sizeof text));
}

static struct node *parse_output(struct compiler *c)
{
    struct token *token = next_token(c);
    if (token->kind == TOKEN_DATA) {
        struct node *node = node_new(c, N_DATA, token->line);
        if (!node)
            return NULL;
        node->name = text_borrow(&c->tmpl->arena, token->text, true);
        return node->name ? node : compile_fail(c, token->line, STATUS_MEMORY, "out of memory");
    }
    struct node *node = node_new(c, N_PRINT, token->line);
    struct node_list list = {0};
    struct node *item = node ? parse_tuple(c, true, false) : NULL;
    char text[64];
    if (!item || !node_list_add(c, &list, item))
        return NULL;
    if (peek(c)->kind != TOKEN_PRINT_END)
        return compile_fail(c, peek(c)->line, STATUS_MODEL, "unexpected %s, wanted '}}'",
                            token_describe(peek(c), text, sizeof text));
    next_token(c);
    node->items = list.items;
    node->count = list.count;
    return node;
}

/* Whether the tag that begins at the current token is one of the ends. */
static bool at_end_tag(struct compiler *c, const char *const *ends)
{
    struct token *token = peek(c);
    if (token->kind != TOKEN_TAG_BEGIN || token[1].kind != TOKEN_NAME)
        return false;
    for (; *ends; ends++)
        if (str_eq_cstr(token[1].text, *ends))
            return true;
    return false;
}

bool parse_body(struct compiler *c, const char *const *ends, struct body *out)
{
    static const char *const none[] = {NULL};
    struct node_list list = {0};
    if (++c->depth > JINJA_NESTING) {
        compile_fail(c, peek(c)->line, STATUS_LIMIT, "blocks are nested deeper than %d",
                     JINJA_NESTING);
        return false;
    }
    uint32_t line = peek(c)->line;
    while (!at_end_tag(c, ends ? ends : none)) {
        struct node *node = NULL;
        if (peek(c)->kind == TOKEN_END) {
            if (!ends)
                break;
            compile_fail(c, line, STATUS_MODEL, "the block that begins here has no {%% %s %%}",
                         ends[0]);
            return false;
        }
        if (peek(c)->kind == TOKEN_TAG_BEGIN) {
            next_token(c);
            node = parse_tag(c);
        } else {
            node = parse_output(c);
        }
        if (!node || !node_list_add(c, &list, node))
            return false;
    }
    c->depth--;
    if (ends)
        next_token(c); /* the tag's begin; its name is next */
    out->items = list.items;
    out->count = list.count;
    return true;
}

bool parse_template(struct compiler *c)
{
    return parse_body(c, NULL, &c->tmpl->body);
}
