/* Layout, writing and reading of sidecar.h's file. */
#include "backend/cpu/sidecar.h"

#include <string.h>
#include <xxhash.h>

#include "backend/cpu/packed.h"
#include "base/checked.h"

#define HEADER_BYTES 128
#define MATRIX_BYTES 40 /* struct sidecar_matrix, and zeros */
#define ORDER_MARK   0x01020304u

static const char magic[8] = {'S', 'L', 'U', 'P', 'A', 'C', 'K', '\n'};

struct header {
    char magic[8];
    uint64_t sum; /* over all of the head that follows it: header, table and sums */
    uint32_t version, order;
    struct sidecar_digest digest;
    uint64_t file_bytes, data_offset, data_bytes, n_chunks;
    uint32_t n_matrices, unused;
    uint64_t zeros[6];
};

#define SUMMED offsetof(struct header, version) /* where that begins */

_Static_assert(sizeof(struct header) == HEADER_BYTES, "no padding");
_Static_assert(sizeof(struct sidecar_matrix) <= MATRIX_BYTES, "fits its place in the table");

/* Bytes of header, table and sums together. */
static uint64_t head_bytes(uint32_t n_matrices, uint64_t n_chunks)
{
    return HEADER_BYTES + (uint64_t)n_matrices * MATRIX_BYTES + n_chunks * sizeof(uint64_t);
}

bool sidecar_matrix_bytes(struct sidecar_matrix *matrix)
{
    const struct packed_layout *layout = packed_layout((enum tensor_type)matrix->type);
    if (!layout || matrix->n_cols % layout->block_columns != 0)
        return false;
    uint64_t panels = ((uint64_t)matrix->n_rows + PANEL_ROWS - 1) / PANEL_ROWS;
    return checked_mul_u64(panels * matrix->count, packed_panel_bytes(layout, matrix->n_cols),
                           &matrix->bytes);
}

/* All but n_matrices and data_bytes, from these. */
static bool complete_layout(struct sidecar_layout *layout)
{
    uint64_t rounded;
    if (layout->n_matrices > SIDECAR_MATRICES_MAX ||
        !checked_round_up_u64(layout->data_bytes, SIDECAR_CHUNK, &rounded))
        return false;
    layout->n_chunks = rounded / SIDECAR_CHUNK;
    return checked_round_up_u64(head_bytes(layout->n_matrices, layout->n_chunks),
                                SIDECAR_DATA_ALIGN, &layout->data_offset) &&
           checked_add_u64(layout->data_offset, layout->data_bytes, &layout->file_bytes) &&
           layout->file_bytes <= INT64_MAX;
}

bool sidecar_plan(struct sidecar_matrix *matrices, uint32_t n, struct sidecar_layout *out)
{
    *out = (struct sidecar_layout){.n_matrices = n};
    for (uint32_t i = 0; i < n; i++) {
        uint64_t *end = &out->data_bytes;
        if (!checked_round_up_u64(*end, SIDECAR_ALIGNMENT, &matrices[i].offset) ||
            !checked_add_u64(matrices[i].offset, matrices[i].bytes, end))
            return false;
    }
    return complete_layout(out);
}

uint64_t sidecar_sum(const uint8_t *chunk, uint64_t bytes)
{
    return XXH3_64bits(chunk, (size_t)bytes);
}

void sidecar_seal(uint8_t *head, uint64_t bytes)
{
    uint64_t sum = sidecar_sum(head + SUMMED, bytes - SUMMED);
    memcpy(head + offsetof(struct header, sum), &sum, sizeof sum);
}

void sidecar_write_head(const struct sidecar_digest *digest, const struct sidecar_layout *layout,
                        const struct sidecar_matrix *matrices, const uint64_t *sums, uint8_t *out)
{
    struct header header = {.version = SIDECAR_VERSION,
                            .order = ORDER_MARK,
                            .digest = *digest,
                            .file_bytes = layout->file_bytes,
                            .data_offset = layout->data_offset,
                            .data_bytes = layout->data_bytes,
                            .n_chunks = layout->n_chunks,
                            .n_matrices = layout->n_matrices};
    memcpy(header.magic, magic, sizeof magic);
    memset(out, 0, (size_t)layout->data_offset);
    memcpy(out, &header, sizeof header);
    for (uint32_t i = 0; i < layout->n_matrices; i++)
        memcpy(out + HEADER_BYTES + (size_t)i * MATRIX_BYTES, &matrices[i], sizeof *matrices);
    memcpy(out + head_bytes(layout->n_matrices, 0), sums, (size_t)layout->n_chunks * sizeof *sums);
    sidecar_seal(out, head_bytes(layout->n_matrices, layout->n_chunks));
}

/* ---- reading ----------------------------------------------------------------------------------- */

static enum status check_header(const struct header *h, uint64_t size, struct error *err)
{
    if (memcmp(h->magic, magic, sizeof magic) != 0)
        return error_set(err, STATUS_INTEGRITY, "it does not begin as packed weights do");
    if (h->order != ORDER_MARK)
        return error_set(err, STATUS_INTEGRITY, "it is of a machine with another byte order");
    if (h->version != SIDECAR_VERSION)
        return error_set(err, STATUS_INTEGRITY, "its version is %u, this program's is %d",
                         h->version, SIDECAR_VERSION);
    struct sidecar_layout layout = {.n_matrices = h->n_matrices, .data_bytes = h->data_bytes};
    if (!complete_layout(&layout) || layout.n_chunks != h->n_chunks ||
        layout.data_offset != h->data_offset || layout.file_bytes != h->file_bytes)
        return error_set(err, STATUS_INTEGRITY,
                         "sizes in its header contradict each other (%u matrices, %llu bytes of "
                         "data at %llu, %llu chunks, %llu bytes in all)",
                         h->n_matrices, (unsigned long long)h->data_bytes,
                         (unsigned long long)h->data_offset, (unsigned long long)h->n_chunks,
                         (unsigned long long)h->file_bytes);
    if (h->file_bytes != size)
        return error_set(err, STATUS_INTEGRITY, "its header says %llu bytes, the file has %llu",
                         (unsigned long long)h->file_bytes, (unsigned long long)size);
    return STATUS_OK;
}

static enum status check_table(const struct sidecar *sidecar, struct error *err)
{
    uint64_t end = 0;
    for (uint32_t i = 0; i < sidecar->layout.n_matrices; i++) {
        struct sidecar_matrix m = sidecar_matrix_at(sidecar, i), shape = m;
        if (!sidecar_matrix_bytes(&shape) || shape.bytes != m.bytes)
            return error_set(err, STATUS_INTEGRITY,
                             "matrix %u: %llu bytes are no %u x %u x %u panels of type %u", i,
                             (unsigned long long)m.bytes, m.count, m.n_rows, m.n_cols, m.type);
        if (m.offset < end || m.offset % SIDECAR_ALIGNMENT != 0 ||
            m.offset > sidecar->layout.data_bytes ||
            m.bytes > sidecar->layout.data_bytes - m.offset)
            return error_set(err, STATUS_INTEGRITY,
                             "matrix %u: %llu bytes at offset %llu overlap the one before or lie "
                             "outside the data (%llu bytes)",
                             i, (unsigned long long)m.bytes, (unsigned long long)m.offset,
                             (unsigned long long)sidecar->layout.data_bytes);
        end = m.offset + m.bytes;
    }
    return STATUS_OK;
}

enum status sidecar_parse(const uint8_t *data, uint64_t size, struct sidecar *out,
                          struct error *err)
{
    struct header h;
    *out = (struct sidecar){.data = NULL};
    if (size < sizeof h)
        return error_set(err, STATUS_INTEGRITY, "it has %llu bytes, its header alone %d",
                         (unsigned long long)size, HEADER_BYTES);
    memcpy(&h, data, sizeof h);
    enum status status = check_header(&h, size, err);
    if (status != STATUS_OK)
        return status;
    if (sidecar_sum(data + SUMMED, head_bytes(h.n_matrices, h.n_chunks) - SUMMED) != h.sum)
        return error_set(err, STATUS_INTEGRITY, "the sum over its header and table is wrong");
    struct sidecar sidecar = {.digest = h.digest,
                              .layout = {.n_matrices = h.n_matrices,
                                         .n_chunks = h.n_chunks,
                                         .data_offset = h.data_offset,
                                         .data_bytes = h.data_bytes,
                                         .file_bytes = h.file_bytes},
                              .table = data + HEADER_BYTES,
                              .sums = data + head_bytes(h.n_matrices, 0),
                              .data = data + h.data_offset};
    status = check_table(&sidecar, err);
    if (status == STATUS_OK)
        *out = sidecar;
    return status;
}

struct sidecar_matrix sidecar_matrix_at(const struct sidecar *sidecar, uint32_t index)
{
    struct sidecar_matrix matrix;
    memcpy(&matrix, sidecar->table + (size_t)index * MATRIX_BYTES, sizeof matrix);
    return matrix;
}

bool sidecar_check_chunk(const struct sidecar *sidecar, uint64_t index)
{
    uint64_t at = index * SIDECAR_CHUNK, bytes = sidecar->layout.data_bytes - at, expected;
    memcpy(&expected, sidecar->sums + index * sizeof expected, sizeof expected);
    return sidecar_sum(sidecar->data + at, bytes < SIDECAR_CHUNK ? bytes : SIDECAR_CHUNK) ==
           expected;
}
