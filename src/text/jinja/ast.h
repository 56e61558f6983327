/*
 * Tokens and syntax tree of a template, and the compile-time state that lexer and parser share.
 *
 * All of it lives in the template's arena and is immutable after compilation. Chains of operators of
 * one precedence are flat (many operands in one node), so that evaluation is only as deep as the
 * template's real nesting; every node knows its height, and the parser bounds it.
 */
#ifndef SLUICE_TEXT_JINJA_AST_H
#define SLUICE_TEXT_JINJA_AST_H

#include "base/arena.h"
#include "base/status.h"
#include "base/strmap.h"
#include "text/jinja/value.h"

#define JINJA_SOURCE_MAX (4u << 20)
#define JINJA_NESTING    200 /* of blocks, and of expressions */

enum token_kind {
    TOKEN_END,
    TOKEN_DATA, /* text outside of tags */
    TOKEN_PRINT_BEGIN,
    TOKEN_PRINT_END,
    TOKEN_TAG_BEGIN,
    TOKEN_TAG_END,
    TOKEN_NAME,
    TOKEN_STRING, /* text: decoded */
    TOKEN_INT,
    TOKEN_FLOAT,
    TOKEN_OPERATOR, /* op */
};

enum op {
    OP_NONE,
    OP_ADD,
    OP_SUB,
    OP_MUL,
    OP_DIV,
    OP_FLOOR_DIV,
    OP_MOD,
    OP_POW,
    OP_CONCAT,
    OP_EQ,
    OP_NE,
    OP_LT,
    OP_LE,
    OP_GT,
    OP_GE,
    OP_IN,
    OP_NOT_IN,
    OP_ASSIGN,
    OP_DOT,
    OP_COMMA,
    OP_COLON,
    OP_SEMICOLON,
    OP_PIPE,
    OP_LPAREN,
    OP_RPAREN,
    OP_LBRACKET,
    OP_RBRACKET,
    OP_LBRACE,
    OP_RBRACE,
};

struct token {
    uint8_t kind, op;
    uint32_t line;
    struct str text;
    union {
        int64_t integer;
        double real;
    };
};

struct body {
    struct node **items;
    size_t count;
};

struct keyword_node {
    const struct jinja_text *name;
    struct node *value;
};

struct arguments {
    struct node **items;
    size_t count;
    struct keyword_node *keywords;
    size_t n_keywords;
    struct node *star, *star_star; /* *args, **kwargs */
};

struct parameter {
    uint32_t symbol;
    const struct jinja_text *name;
    struct node *value; /* default, or NULL */
};

enum node_kind {
    /* expressions */
    N_CONST,
    N_NAME,
    N_LIST,
    N_TUPLE,
    N_DICT,    /* items: key, value, key, value, ... */
    N_CHAIN,   /* items, ops: a op b op c, left to right */
    N_CONCAT,  /* items: a ~ b ~ c */
    N_COMPARE, /* items, ops: a < b < c */
    N_AND,
    N_OR,
    N_NOT,
    N_NEGATE,
    N_PLUS,
    N_COND,   /* items: test, then, else or NULL */
    N_MEMBER, /* a.name */
    N_ITEM,   /* a[b] */
    N_SLICE,  /* items: start, stop, step; each may be NULL */
    N_CALL,
    N_FILTER,
    N_TEST,
    N_INPUT,       /* what a filter block pipes into its chain */
    N_MEMBER_SLOT, /* ns.name as the target of set */
    /* statements */
    N_DATA,
    N_PRINT, /* items: expressions */
    N_IF,    /* branches */
    N_FOR,
    N_SET,
    N_SET_BLOCK,
    N_MACRO,
    N_CALL_BLOCK,
    N_FILTER_BLOCK,
    N_WITH,
    N_SCOPE, /* a named block: its body in a scope of its own */
    N_BREAK,
    N_CONTINUE,
};

struct branch {
    struct node *test; /* NULL: else */
    struct body body;
};

struct for_node {
    struct node *target, *source, *filter; /* filter may be NULL */
    struct body body, otherwise;
    uint32_t loop_symbol;
    bool recursive;
};

struct macro_node {
    const struct jinja_text *name; /* NULL: a call block */
    uint32_t symbol;
    struct parameter *parameters;
    size_t n_parameters;
    bool uses_varargs, uses_kwargs, uses_caller, declares_caller;
    uint32_t varargs_symbol, kwargs_symbol, caller_symbol;
    struct body body;
    struct node *call; /* of a call block */
};

struct node {
    uint8_t kind; /* enum node_kind */
    bool negated; /* N_TEST: is not */
    uint16_t height;
    uint32_t line;
    uint32_t symbol; /* N_NAME, N_MEMBER_SLOT */
    struct node *a, *b;
    struct node **items;
    size_t count;
    union {
        uint8_t *ops;                  /* N_CHAIN, N_COMPARE: [count - 1] enum op */
        const struct jinja_text *name; /* N_MEMBER, N_FILTER, N_TEST, N_MEMBER_SLOT, N_DATA */
        struct for_node *loop;
        struct macro_node *macro;
        struct branch *branches; /* [count] */
        struct body *body;       /* N_SET_BLOCK, N_FILTER_BLOCK, N_WITH, N_SCOPE */
    };
    union {
        struct arguments *arguments;         /* N_CALL, N_FILTER, N_TEST */
        struct jinja_value value;            /* N_CONST */
        const struct jinja_builtin *builtin; /* (none) */
    };
    const struct jinja_builtin *function; /* N_FILTER, N_TEST: NULL if there is none of the name */
};

struct jinja_template {
    struct arena arena;
    struct body body;
    struct strmap symbols; /* name -> symbol */
    const struct jinja_text **symbol_names;
    size_t n_symbols, symbols_capacity;
};

/* Shared by lexer and parser. */
struct compiler {
    struct jinja_template *tmpl;
    struct token *tokens; /* [n_tokens], ends with TOKEN_END */
    size_t n_tokens, tokens_capacity, at;
    unsigned depth; /* of the parser */
    struct macro_node *macros[JINJA_NESTING];
    size_t n_macros; /* enclosing the place being parsed */
    unsigned loops;  /* enclosing, within the innermost macro */
    enum status status;
    struct error *err;
};

/* lexer.c: fills compiler->tokens. source: normalized, valid UTF-8, in the template's arena. */
enum status lex(struct compiler *c, struct str source);

/* Sets the error "template line N: ..."; returns NULL for convenience. */
void *compile_fail(struct compiler *c, uint32_t line, enum status status, const char *format, ...)
    __attribute__((format(printf, 4, 5)));
void *compile_alloc(struct compiler *c, size_t count, size_t size);

/* parser.c, expression.c: NULL or false after compile_fail(). */
bool parse_template(struct compiler *c);
bool parse_body(struct compiler *c, const char *const *ends, struct body *out);
struct node *parse_expression(struct compiler *c);
/* One expression, or a tuple of them separated by commas. conditional: `a if b else c` allowed. */
struct node *parse_tuple(struct compiler *c, bool conditional, bool parenthesized);
struct node *parse_filters(struct compiler *c, struct node *input, bool first_without_pipe);
struct node *parse_postfix_call(struct compiler *c, struct node *callee);
struct node *parse_target(struct compiler *c, bool allow_member);
bool symbol_of(struct compiler *c, struct str name, uint32_t *out);
struct node *node_new(struct compiler *c, enum node_kind kind, uint32_t line);
/* Takes the height of a child into account; false when the tree gets too high. */
bool node_cover(struct compiler *c, struct node *node, const struct node *child);

struct token *peek(struct compiler *c);
struct token *next_token(struct compiler *c);
bool at_op(struct compiler *c, enum op op);
bool at_name(struct compiler *c, const char *name);
bool skip_op(struct compiler *c, enum op op);
bool skip_name(struct compiler *c, const char *name);
bool expect_op(struct compiler *c, enum op op, const char *what);
const char *token_describe(const struct token *token, char *out, size_t size);

/* A growing list of pointers in the arena. */
struct node_list {
    struct node **items;
    size_t count, capacity;
};
bool node_list_add(struct compiler *c, struct node_list *list, struct node *node);

#endif
