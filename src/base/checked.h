/*
 * Overflow-checked size arithmetic. Every size that comes from a file or a request is computed
 * with these; a false return means "does not fit", and *out is then unspecified.
 */
#ifndef SLUICE_BASE_CHECKED_H
#define SLUICE_BASE_CHECKED_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

static inline bool checked_add_u64(uint64_t a, uint64_t b, uint64_t *out)
{
    return !__builtin_add_overflow(a, b, out);
}

static inline bool checked_mul_u64(uint64_t a, uint64_t b, uint64_t *out)
{
    return !__builtin_mul_overflow(a, b, out);
}

static inline bool checked_add_size(size_t a, size_t b, size_t *out)
{
    return !__builtin_add_overflow(a, b, out);
}

static inline bool checked_mul_size(size_t a, size_t b, size_t *out)
{
    return !__builtin_mul_overflow(a, b, out);
}

/* Rounds up to a multiple of `alignment` (any positive value). */
static inline bool checked_round_up_u64(uint64_t value, uint64_t alignment, uint64_t *out)
{
    uint64_t rest = value % alignment;
    return checked_add_u64(value, rest ? alignment - rest : 0, out);
}

/* Lays n arrays, of counts[i][0] elements of counts[i][1] bytes, behind a header, each at a multiple of
 * `alignment`: offsets[i], and in offsets[n] the size of the whole. All of them are at most `most`. */
static inline bool checked_sections(uint64_t header, const uint64_t (*counts)[2], int n,
                                    uint64_t alignment, uint64_t most, uint64_t *offsets)
{
    uint64_t at = header;
    for (int i = 0; i <= n; i++) {
        if (!checked_round_up_u64(at, alignment, &at) || at > most)
            return false;
        offsets[i] = at;
        uint64_t bytes;
        if (i < n && (!checked_mul_u64(counts[i][0], counts[i][1], &bytes) ||
                      !checked_add_u64(at, bytes, &at)))
            return false;
    }
    return true;
}

#endif
