/*
 * What a hostile file must meet, whatever its format: an error with a message, within 100 ms, within
 * a few MiB of the parser's own allocations, and no read outside the bytes it was given.
 *
 * Each image is parsed from a heap block of exactly its size, so that the address sanitizer sees
 * every read past its end. Allocations are counted by the linker's --wrap (where it exists, see
 * cmake/tests.cmake) and by jansson's hook, as the sum of all requests without any free: an upper
 * bound of what was held at once.
 */
#ifndef SLUICE_TESTS_HOSTILE_H
#define SLUICE_TESTS_HOSTILE_H

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "fixture.h"

#define HOSTILE_BYTES_MAX (8u << 20)
/* The limit is about sluice as it ships; a sanitizer's debug build was measured 5 to 18 times slower. */
#if SANITIZED
#define HOSTILE_NS_MAX (20 * UINT64_C(100000000))
#else
#define HOSTILE_NS_MAX UINT64_C(100000000)
#endif

/* Parses and frees; what a test program gives for its format. */
typedef enum status (*hostile_parse_fn)(const uint8_t *data, uint64_t size, struct error *err);

struct hostile_result {
    enum status status;
    uint64_t ns, allocated;
};

static size_t hostile_allocated;

#ifdef SLUICE_WRAPS_MALLOC
void *__real_malloc(size_t size);
void *__real_calloc(size_t count, size_t size);
void *__real_realloc(void *old, size_t size);
void *__wrap_malloc(size_t size);
void *__wrap_calloc(size_t count, size_t size);
void *__wrap_realloc(void *old, size_t size);

void *__wrap_malloc(size_t size)
{
    hostile_allocated += size;
    return __real_malloc(size);
}

void *__wrap_calloc(size_t count, size_t size)
{
    hostile_allocated += count * size;
    return __real_calloc(count, size);
}

void *__wrap_realloc(void *old, size_t size)
{
    hostile_allocated += size;
    return __real_realloc(old, size);
}
#endif

static void *hostile_json_malloc(size_t size)
{
    hostile_allocated += size;
    return malloc(size);
}

static inline void hostile_count_json(void)
{
    json_set_alloc_funcs(hostile_json_malloc, free);
}

/* This thread's processor time: parsing never waits, and a busy machine must not fail a test. */
static inline uint64_t hostile_clock(void)
{
    struct timespec now;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

/* Asserts the limits; the caller judges the status. */
static inline struct hostile_result hostile_run(hostile_parse_fn parse, const void *data,
                                                size_t size, struct error *err)
{
    uint8_t *exact = malloc(size ? size : 1);
    assert_non_null(exact);
    if (size)
        memcpy(exact, data, size);
    *err = (struct error){0};
    hostile_allocated = 0;
    uint64_t start = hostile_clock();
    struct hostile_result result = {.status = parse(exact, size, err)};
    result.ns = hostile_clock() - start;
    result.allocated = hostile_allocated;
    free(exact);
    if (result.ns > HOSTILE_NS_MAX)
        fail_msg("took %llu ns (%s)", (unsigned long long)result.ns, err->message);
    if (result.allocated > HOSTILE_BYTES_MAX)
        fail_msg("allocated %llu bytes (%s)", (unsigned long long)result.allocated, err->message);
    return result;
}

/* Expects `status` and a message that starts with the file's name and has `says` in it. */
static inline void hostile_refused(hostile_parse_fn parse, const void *data, size_t size,
                                   enum status status, const char *says)
{
    struct error err;
    struct hostile_result result = hostile_run(parse, data, size, &err);
    if (result.status != status || err.status != status)
        fail_msg("expected %s (\"%s\"), got %s: %s", status_name(status), says,
                 status_name(result.status), err.message);
    if (strncmp(err.message, "image: ", 7) != 0 || !strstr(err.message, says))
        fail_msg("\"%s\" does not say \"%s\"", err.message, says);
}

#endif
