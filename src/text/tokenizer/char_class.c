/* From utf8proc's categories; one table look-up per character that is not ASCII. */
#include "text/tokenizer/char_class.h"

#include <utf8proc.h>

unsigned char_class_of(uint32_t c)
{
    static const uint16_t classes[] = {
        [UTF8PROC_CATEGORY_CN] = 0,
        [UTF8PROC_CATEGORY_LU] = CHAR_LETTER | CHAR_UPPER,
        [UTF8PROC_CATEGORY_LL] = CHAR_LETTER | CHAR_LOWER,
        [UTF8PROC_CATEGORY_LT] = CHAR_LETTER | CHAR_UPPER,
        [UTF8PROC_CATEGORY_LM] = CHAR_LETTER,
        [UTF8PROC_CATEGORY_LO] = CHAR_LETTER,
        [UTF8PROC_CATEGORY_MN] = CHAR_MARK,
        [UTF8PROC_CATEGORY_MC] = CHAR_MARK,
        [UTF8PROC_CATEGORY_ME] = CHAR_MARK,
        [UTF8PROC_CATEGORY_ND] = CHAR_NUMBER | CHAR_DIGIT,
        [UTF8PROC_CATEGORY_NL] = CHAR_NUMBER,
        [UTF8PROC_CATEGORY_NO] = CHAR_NUMBER,
        [UTF8PROC_CATEGORY_PC] = CHAR_PUNCTUATION | CHAR_CONNECTOR,
        [UTF8PROC_CATEGORY_PD] = CHAR_PUNCTUATION,
        [UTF8PROC_CATEGORY_PS] = CHAR_PUNCTUATION,
        [UTF8PROC_CATEGORY_PE] = CHAR_PUNCTUATION,
        [UTF8PROC_CATEGORY_PI] = CHAR_PUNCTUATION,
        [UTF8PROC_CATEGORY_PF] = CHAR_PUNCTUATION,
        [UTF8PROC_CATEGORY_PO] = CHAR_PUNCTUATION,
        [UTF8PROC_CATEGORY_SM] = CHAR_SYMBOL,
        [UTF8PROC_CATEGORY_SC] = CHAR_SYMBOL,
        [UTF8PROC_CATEGORY_SK] = CHAR_SYMBOL,
        [UTF8PROC_CATEGORY_SO] = CHAR_SYMBOL,
        [UTF8PROC_CATEGORY_ZS] = CHAR_SPACE,
        [UTF8PROC_CATEGORY_ZL] = CHAR_SPACE,
        [UTF8PROC_CATEGORY_ZP] = CHAR_SPACE,
        [UTF8PROC_CATEGORY_CC] = CHAR_CONTROL,
        [UTF8PROC_CATEGORY_CF] = CHAR_CONTROL,
        [UTF8PROC_CATEGORY_CS] = CHAR_CONTROL,
        [UTF8PROC_CATEGORY_CO] = CHAR_CONTROL,
    };
    if ((c >= '\t' && c <= '\r') || c == 0x85)
        return CHAR_SPACE | CHAR_CONTROL | (c == '\n' || c == '\r' ? CHAR_NEWLINE : 0);
    return classes[utf8proc_category((utf8proc_int32_t)c)];
}

void char_class_table(struct char_classes *classes)
{
    for (uint32_t c = 0; c < 128; c++)
        classes->ascii[c] = (uint16_t)char_class_of(c);
}
