/* Arena: a list of zeroed blocks, each at least twice as useful as its header is large. */
#include "base/arena.h"

#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/checked.h"

#define ARENA_ALIGN     16
#define ARENA_BLOCK_MIN 4096
#define ARENA_BLOCK_MAX (1u << 20)

struct arena_block {
    struct arena_block *next;
    size_t size, used; /* bytes in data */
    _Alignas(ARENA_ALIGN) char data[];
};

void arena_init(struct arena *arena, size_t limit)
{
    *arena = (struct arena){.limit = limit};
}

void arena_release(struct arena *arena)
{
    struct arena_block *block = arena->blocks;
    while (block) {
        struct arena_block *next = block->next;
        free(block);
        block = next;
    }
    *arena = (struct arena){.limit = arena->limit};
}

static struct arena_block *arena_grow(struct arena *arena, size_t bytes)
{
    size_t size = arena->used < ARENA_BLOCK_MIN ? ARENA_BLOCK_MIN : arena->used;
    if (size > ARENA_BLOCK_MAX)
        size = ARENA_BLOCK_MAX;
    if (size < bytes)
        size = bytes;
    if (size > SIZE_MAX - sizeof(struct arena_block))
        return NULL;
    struct arena_block *block = calloc(1, sizeof *block + size);
    if (!block)
        return NULL;
    block->size = size;
    block->next = arena->blocks;
    arena->blocks = block;
    return block;
}

void *arena_alloc(struct arena *arena, size_t count, size_t size)
{
    size_t bytes, padded;
    if (!checked_mul_size(count, size, &bytes) ||
        !checked_add_size(bytes, ARENA_ALIGN - 1, &padded))
        return NULL;
    padded &= ~(size_t)(ARENA_ALIGN - 1);
    if (padded == 0)
        padded = ARENA_ALIGN;
    if (arena->limit && (padded > arena->limit || arena->used > arena->limit - padded))
        return NULL;
    struct arena_block *block = arena->blocks;
    if (!block || block->size - block->used < padded)
        block = arena_grow(arena, padded);
    if (!block)
        return NULL;
    void *result = block->data + block->used;
    block->used += padded;
    arena->used += padded;
    return result;
}

struct str arena_copy_str(struct arena *arena, struct str text)
{
    if (text.len == SIZE_MAX)
        return (struct str){0};
    char *copy = arena_alloc(arena, text.len + 1, 1);
    if (!copy)
        return (struct str){0};
    if (text.len)
        memcpy(copy, text.data, text.len);
    return (struct str){copy, text.len};
}

char *arena_copy_cstr(struct arena *arena, const char *text)
{
    return (char *)arena_copy_str(arena, str_from(text)).data;
}

char *arena_printf(struct arena *arena, const char *format, ...)
{
    va_list args, again;
    va_start(args, format);
    va_copy(again, args);
    int n = vsnprintf(NULL, 0, format, args);
    va_end(args);
    char *text = n < 0 ? NULL : arena_alloc(arena, (size_t)n + 1, 1);
    if (text)
        vsnprintf(text, (size_t)n + 1, format, again);
    va_end(again);
    return text;
}
