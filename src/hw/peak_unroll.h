/*
 * Repeats a statement for i = 0 .. ACCUMULATORS - 1, written out: with constant indices an array of
 * accumulators stays in registers at every optimisation level.
 */
#ifndef SLUICE_HW_PEAK_UNROLL_H
#define SLUICE_HW_PEAK_UNROLL_H

#define PEAK_ONE(n, ...)                                                                           \
    if (n < ACCUMULATORS) {                                                                        \
        enum { i = n };                                                                            \
        __VA_ARGS__                                                                                \
    }
#define PEAK_FOUR(n, ...)                                                                          \
    PEAK_ONE(n, __VA_ARGS__)                                                                       \
    PEAK_ONE(n + 1, __VA_ARGS__)                                                                   \
    PEAK_ONE(n + 2, __VA_ARGS__)                                                                   \
    PEAK_ONE(n + 3, __VA_ARGS__)
#define EACH_ACCUMULATOR(...)                                                                      \
    do {                                                                                           \
        PEAK_FOUR(0, __VA_ARGS__)                                                                  \
        PEAK_FOUR(4, __VA_ARGS__)                                                                  \
        PEAK_FOUR(8, __VA_ARGS__)                                                                  \
        PEAK_FOUR(12, __VA_ARGS__)                                                                 \
    } while (0)

#endif
