/*
 * Hand-written matching of the patterns that nearly every model uses. Internal to splitter.c.
 *
 * Each is the same function of the text as its pattern under PCRE2 (a test holds them against each
 * other), at several times the speed. A pattern is recognised by its spelling; any other runs in
 * PCRE2.
 */
#ifndef SLUICE_TEXT_TOKENIZER_SPLITTER_KNOWN_H
#define SLUICE_TEXT_TOKENIZER_SPLITTER_KNOWN_H

#include "base/str.h"
#include "text/tokenizer/char_class.h"

struct splitter_known;

/* Finds the first match at or behind `from` in text (valid UTF-8): *begin, and its end as result; 0
 * if there is none. Matches are never empty. */
typedef size_t splitter_known_find(const struct splitter_known *known,
                                   const struct char_classes *classes, struct str text, size_t from,
                                   size_t *begin);

struct splitter_known {
    const char *pattern;
    splitter_known_find *find;
    unsigned digits;        /* most digits in one match, 0: any number */
    bool marks;             /* marks count as letters */
    bool contraction_first; /* 's and the like are matches of their own */
    bool contraction_last;  /* ... or belong to the word before them */
    bool slash;             /* line ends behind punctuation may be slashes */
    bool bounded;           /* no match where a word goes on */
    bool space;             /* one space may come before a match */
    unsigned classes;       /* of the characters that a match is made of */
    bool symbols;           /* ... and the symbols of ASCII */
    char except;            /* ... without this one */
};

/* NULL: not known. */
const struct splitter_known *splitter_known_pattern(struct str pattern);

#endif
