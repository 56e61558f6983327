/*
 * A file of packed weights from anyone: either an error with a message, or matrices and chunks that
 * all lie inside it. The sum over the head is put right first where the sizes allow, or nothing behind
 * it would ever be reached; so is the file's size, since no input has the megabytes that data take.
 */
#include <stdlib.h>
#include <string.h>

#include "backend/cpu/sidecar.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define HEADER_BYTES 128
#define FILE_MAX     ((uint64_t)8 << 20)

static volatile uint64_t sink;

static void read_all(const struct sidecar *sidecar, uint64_t size)
{
    const struct sidecar_layout *layout = &sidecar->layout;
    if (layout->data_offset + layout->data_bytes != size)
        abort();
    for (uint32_t i = 0; i < layout->n_matrices; i++) {
        struct sidecar_matrix m = sidecar_matrix_at(sidecar, i);
        if (m.offset > layout->data_bytes || m.bytes > layout->data_bytes - m.offset)
            abort();
        if (m.bytes)
            sink += (uint64_t)sidecar->data[m.offset] + sidecar->data[m.offset + m.bytes - 1];
    }
    for (uint64_t c = 0; c < layout->n_chunks; c++)
        sink += sidecar_check_chunk(sidecar, c);
}

static void parse(const uint8_t *file, uint64_t size)
{
    struct error err = {0};
    struct sidecar sidecar;
    if (sidecar_parse(file, size, &sidecar, &err) == STATUS_OK)
        read_all(&sidecar, size);
    else if (!err.message[0] || sidecar.data)
        abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    /* Exactly the input, in a block of its size. */
    uint8_t *copy = malloc(size ? size : 1);
    if (!copy)
        return 0;
    memcpy(copy, data, size);
    parse(copy, size);
    free(copy);
    /* The same with sum and size as its header wants them. */
    if (size < HEADER_BYTES)
        return 0;
    uint64_t file_bytes, n_chunks;
    uint32_t n_matrices;
    memcpy(&file_bytes, data + 40, sizeof file_bytes);
    memcpy(&n_chunks, data + 64, sizeof n_chunks);
    memcpy(&n_matrices, data + 72, sizeof n_matrices);
    if (file_bytes < size || file_bytes > FILE_MAX || n_chunks > 64 || n_matrices > 4096)
        return 0;
    uint64_t head = HEADER_BYTES + (uint64_t)n_matrices * 40 + n_chunks * 8;
    if (head > file_bytes)
        return 0;
    uint8_t *file = calloc(1, (size_t)file_bytes);
    if (!file)
        return 0;
    memcpy(file, data, size);
    sidecar_seal(file, head);
    parse(file, file_bytes);
    free(file);
    return 0;
}
