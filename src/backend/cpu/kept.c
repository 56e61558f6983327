/*
 * Which packed weights a file can bring (packed_cache.h), and when they are ready to be kept.
 *
 * Packing is a pure function of the matrices' bytes, shapes and types, so a file is named by a
 * digest of what tells these: version and panel size, and of every matrix that this program packs
 * its type, shape, and where its bytes come from. Reading all bytes for that would take as long as
 * packing them. For bytes in a mapped file stand the file's inode, size and times and the offset: no
 * write leaves the change time as it was, and a file that changed just before it was opened, within
 * the clock's step, is not kept. A few bytes of every matrix are read all the same, for file systems
 * whose times tell nothing. The path does not count: a moved model is found again, a copied one is
 * packed again. Bytes in memory (made at load from other layouts) are read in full.
 *
 * The instruction set does not count: all share one layout, and types that some do not pack are
 * missing from the list.
 */
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "backend/cpu/internal.h"
#include "backend/cpu/packed_cache.h"
#include "base/file.h"
#include "base/log.h"

#define SAMPLE_BYTES 64

struct kept {
    struct packed_cache *cache;
    const struct program *program;   /* the first whose weights are placed */
    struct packed_contents contents; /* matrices owned */
    uint32_t *matrix_of;             /* owned, [n_weights]: UINT32_MAX where not packed */
    const uint8_t **panels;          /* owned, one per matrix: those packed here so far */
    uint32_t n_packed;               /* of them */
    const uint8_t *data;             /* of the file; NULL: pack */
    bool writes;                     /* what is packed is to be kept */
};

void kept_open(struct cpu_backend *backend)
{
    const struct backend_config *config = &backend->config;
    struct error err = {0};
    if (!config->packed_cache || !config->packed_cache[0] || config->exact)
        return;
    struct kept *kept = calloc(1, sizeof *kept);
    uint64_t most = config->packed_cache_bytes ? config->packed_cache_bytes : PACKED_CACHE_BYTES;
    if (!kept || packed_cache_open(config->packed_cache, most, &kept->cache, &err) != STATUS_OK) {
        log_warn("packed weights are not kept: %s", kept ? err.message : "out of memory");
        free(kept);
        return;
    }
    backend->kept = kept;
}

void kept_close(struct cpu_backend *backend)
{
    struct kept *kept = backend->kept;
    if (!kept)
        return;
    packed_cache_close(kept->cache);
    free((void *)kept->contents.matrices);
    free(kept->matrix_of);
    free((void *)kept->panels);
    free(kept);
    backend->kept = NULL;
}

/* ---- the digest -------------------------------------------------------------------------------- */

struct source {
    uint64_t matrix, part;
    uint64_t in_file; /* 1: what follows is a place in a file; 0: a digest of the bytes */
    struct file_identity identity;
    uint64_t offset;
    XXH128_hash_t bytes; /* of all, or the sample */
};

static XXH128_hash_t sample(const uint8_t *bytes, uint64_t n)
{
    uint8_t ends[2 * SAMPLE_BYTES] = {0};
    uint64_t m = n < SAMPLE_BYTES ? n : SAMPLE_BYTES;
    memcpy(ends, bytes, (size_t)m);
    memcpy(ends + SAMPLE_BYTES, bytes + n - m, (size_t)m);
    return XXH3_128bits(ends, sizeof ends);
}

/* False: a file changed too lately to be told from what it may be next. */
static bool digest_weight(const struct weight *w, uint64_t matrix, uint64_t part_bytes,
                          XXH3_state_t *state)
{
    bool settled = true;
    for (uint32_t part = 0; part < w->count; part++) {
        struct source source = {.matrix = matrix, .part = part};
        const uint8_t *bytes = w->parts[part];
        const struct mapped_file *file = mapped_file_find(bytes, part_bytes, &source.offset);
        if (!file) {
            source.bytes = XXH3_128bits(bytes, (size_t)part_bytes);
        } else {
            bool this_settled;
            source.in_file = 1;
            source.identity = mapped_file_identity(file, &this_settled);
            settled &= this_settled;
            /* Of a stack's matrices the first and the last: the sample is a spare anchor. */
            if (part == 0 || part + 1 == w->count) {
                source.bytes = sample(bytes, part_bytes);
                mapped_file_forget(bytes, part_bytes);
            }
        }
        XXH3_128bits_update(state, &source, sizeof source);
    }
    return settled;
}

static bool digest(struct kept *kept, bool *settled)
{
    const struct program *program = kept->program;
    XXH3_state_t *state = XXH3_createState();
    if (!state)
        return false;
    const uint32_t versions[4] = {SIDECAR_VERSION, PANEL_ROWS, kept->contents.layout.n_matrices, 0};
    XXH3_128bits_reset(state);
    XXH3_128bits_update(state, versions, sizeof versions);
    *settled = true;
    for (uint32_t i = 0; i < program->n_weights; i++) {
        const struct weight *w = &program->weights[i];
        uint32_t matrix = kept->matrix_of[i];
        uint64_t row_bytes;
        if (matrix == UINT32_MAX || !tensor_type_bytes(w->type, w->n_cols, &row_bytes))
            continue;
        XXH3_128bits_update(state, &kept->contents.matrices[matrix],
                            sizeof *kept->contents.matrices);
        *settled &= digest_weight(w, matrix, row_bytes * w->n_rows, state);
    }
    XXH128_hash_t hash = XXH3_128bits_digest(state);
    XXH3_freeState(state);
    kept->contents.digest = (struct sidecar_digest){hash.low64, hash.high64};
    return true;
}

/* ---- the plan ---------------------------------------------------------------------------------- */

/* Lists what this program packs. False: nothing that could be kept, or no memory. */
static bool plan(struct cpu_backend *backend, struct kept *kept)
{
    const struct program *program = kept->program;
    struct sidecar_matrix *matrices = calloc(program->n_weights + 1, sizeof *matrices);
    uint32_t n = 0;
    kept->contents.matrices = matrices;
    kept->matrix_of = calloc(program->n_weights + 1, sizeof *kept->matrix_of);
    kept->panels = calloc(program->n_weights + 1, sizeof *kept->panels);
    if (!matrices || !kept->matrix_of || !kept->panels)
        return false;
    for (uint32_t i = 0; i < program->n_weights; i++) {
        const struct weight *w = &program->weights[i];
        kept->matrix_of[i] = UINT32_MAX;
        if (!packed_kernel_for(backend, program, i))
            continue;
        matrices[n] = (struct sidecar_matrix){
            .type = w->type, .count = w->count, .n_rows = w->n_rows, .n_cols = w->n_cols};
        if (!sidecar_matrix_bytes(&matrices[n]))
            return false;
        kept->matrix_of[i] = n++;
    }
    return n > 0 && sidecar_plan(matrices, n, &kept->contents.layout);
}

/* At the first weight of the first program. */
static void begin(struct cpu_backend *backend, struct kept *kept, const struct program *program)
{
    bool settled;
    kept->program = program;
    if (!plan(backend, kept) || !digest(kept, &settled)) {
        log_info("nothing of this model can be kept packed");
        kept->contents.layout.n_matrices = 0;
        return;
    }
    if (!settled) {
        log_info("the model changed a moment ago: its packed weights are kept from the next start");
        return;
    }
    kept->data = packed_cache_find(kept->cache, &kept->contents, backend->pool);
    kept->writes = !kept->data;
}

const uint8_t *kept_find(struct cpu_backend *backend, const struct program *program,
                         uint32_t weight)
{
    struct kept *kept = backend->kept;
    if (!kept)
        return NULL;
    if (!kept->program)
        begin(backend, kept, program);
    if (!kept->data || program != kept->program)
        return NULL;
    return kept->data + kept->contents.matrices[kept->matrix_of[weight]].offset;
}

/* A file of the model was cut short or unreadable: what was packed are zeros in part. The file may be
 * as it was by the next start. */
static bool source_damaged(const struct kept *kept)
{
    uint64_t offset;
    for (uint32_t i = 0; i < kept->program->n_weights; i++) {
        const struct weight *w = &kept->program->weights[i];
        for (uint32_t part = 0; kept->matrix_of[i] != UINT32_MAX && part < w->count; part++) {
            const struct mapped_file *file = mapped_file_find(w->parts[part], 1, &offset);
            if (file && mapped_file_damaged(file))
                return true;
        }
    }
    return false;
}

void kept_add(struct cpu_backend *backend, const struct program *program, uint32_t weight,
              const uint8_t *panels)
{
    struct kept *kept = backend->kept;
    if (!kept || !kept->writes || program != kept->program)
        return;
    const uint8_t **place = &kept->panels[kept->matrix_of[weight]];
    kept->n_packed += *place == NULL;
    *place = panels;
    if (kept->n_packed < kept->contents.layout.n_matrices)
        return;
    kept->writes = false;
    if (source_damaged(kept))
        log_warn("a file of the model is damaged: its packed weights are not kept");
    else
        packed_cache_keep(kept->cache, &kept->contents, kept->panels);
}

bool kept_damaged(const struct cpu_backend *backend)
{
    return backend->kept && packed_cache_damaged(backend->kept->cache);
}
