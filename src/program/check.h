/*
 * What an operation touches, and whether a program makes sense. Internal to program/ and to passes;
 * backends may use op_operands() to find out where data crosses threads.
 */
#ifndef SLUICE_PROGRAM_CHECK_H
#define SLUICE_PROGRAM_CHECK_H

#include "program/program.h"

#ifdef __cplusplus
extern "C" {
#endif

#define OP_OPERANDS_MAX 6

struct op_operand {
    const struct view *view;
    const char *name;
    bool written; /* else only read */
};

struct op_operands {
    struct op_operand views[OP_OPERANDS_MAX];
    uint32_t n;
};

/* Views inside *op, absent ones included (buffer NO_BUFFER). */
struct op_operands op_operands(const struct op *op);

/* Every operand within its buffer, every weight of the shape its use demands, every group index
 * and layer in range. Errors name the operation's label. */
enum status program_check(const struct program *program, struct error *err);

#ifdef __cplusplus
}
#endif
#endif
