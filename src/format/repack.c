/* Each scheme checks shapes and gives a function for one row; rows are spread over all cores. */
#include "format/repack.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/checked.h"
#include "base/threads.h"
#include "format/checkpoint.h"
#include "format/weight_files.h"
#include "quant/tensor_type.h"

#define BLOCK         32
#define NAME_BYTES    1100
#define THREADS_LIMIT 16

struct job {
    struct weight_files *files;
    const struct tensor *codes, *scales, *biases; /* biases NULL: none */
    const char *name;                             /* of the result */
    struct tensor out;                            /* type, dims, bytes; data is `memory` */
    uint8_t *memory;
    uint64_t rows, cols;             /* all leading dimensions as rows; values of a row */
    uint64_t row_bytes;              /* of the result */
    uint64_t matrix_rows;            /* rows of one matrix of a stack */
    uint32_t bits, group;            /* MLX */
    uint64_t scale_rows, scale_cols; /* of one matrix */
    uint64_t block_rows, block_cols; /* what one scale covers (FP8) */
    void (*row)(struct job *job, uint64_t row, uint8_t *to);
};

/* ---- reading ----------------------------------------------------------------------------------- */

static float scalar_at(const struct tensor *t, uint64_t index)
{
    const struct tensor_type_info *info = tensor_type_info(t->type);
    float value;
    info->decode((const uint8_t *)t->data + index * info->block_bytes, &value, 1);
    return value;
}

static bool is_float_type(const struct tensor *t)
{
    return t->type == TENSOR_F32 || t->type == TENSOR_F16 || t->type == TENSOR_BF16;
}

static const struct tensor *find(const struct weight_files *files, const char *name)
{
    const int64_t *index = strmap_get(&files->by_name, str_from(name));
    return index ? files->tensors[*index] : NULL; /* NULL also where it was dropped */
}

static uint64_t count(const struct tensor *t)
{
    uint64_t n = 1;
    for (uint32_t i = 0; i < t->n_dims; i++)
        n *= t->dims[i];
    return n;
}

/* The name's stem before `end`, with another end; false if it does not end so. */
static bool sibling(struct str name, const char *end, const char *other, char out[NAME_BYTES])
{
    if (!str_ends(name, str_from(end)))
        return false;
    snprintf(out, NAME_BYTES, "%.*s%s", (int)(name.len - strlen(end)), name.data, other);
    return true;
}

static enum status bad_shape(const struct job *job, const struct tensor *t, struct error *err)
{
    return error_set(err, STATUS_MODEL,
                     "tensor %.*s does not have the type or shape that %.*s needs beside it",
                     STR_ARG(t->name), STR_ARG(job->codes->name));
}

/* ---- the work ---------------------------------------------------------------------------------- */

static void work(void *context, uint32_t index, uint32_t n_threads)
{
    struct job *job = context;
    size_t begin, end;
    thread_range((size_t)job->rows, index, n_threads, 1, &begin, &end);
    for (size_t r = begin; r < end; r++)
        job->row(job, r, job->memory + r * job->row_bytes);
}

static void run_rows(struct job *job)
{
    long n = job->rows * job->cols < 1u << 20 ? 1 : sysconf(_SC_NPROCESSORS_ONLN);
    struct thread_pool *pool = NULL;
    if (n > 1 && thread_pool_create((uint32_t)(n < THREADS_LIMIT ? n : THREADS_LIMIT), NULL, &pool,
                                    NULL) == STATUS_OK)
        thread_pool_run(pool, work, job);
    else
        work(job, 0, 1);
    thread_pool_free(pool);
}

/* Makes the result (its type and last dimension given) and puts it in the list. */
static enum status finish(struct job *job, enum tensor_type type, struct error *err)
{
    const struct tensor *t = job->codes;
    uint64_t bytes;
    if (job->cols % BLOCK)
        return error_set(err, STATUS_UNSUPPORTED,
                         "tensor %.*s: rows of %llu values are no whole number of blocks of %d",
                         STR_ARG(t->name), (unsigned long long)job->cols, BLOCK);
    job->out.type = type;
    if (!tensor_type_bytes(type, job->cols, &job->row_bytes) ||
        !checked_mul_u64(job->row_bytes, job->rows, &bytes) || bytes > SIZE_MAX / 2)
        return error_set(err, STATUS_MODEL, "the size of tensor %.*s overflows", STR_ARG(t->name));
    job->out.bytes = bytes;
    job->memory = malloc(bytes ? (size_t)bytes : 1);
    if (!job->memory)
        return error_set(err, STATUS_MEMORY, "out of memory for %llu bytes of tensor %.*s",
                         (unsigned long long)bytes, STR_ARG(t->name));
    run_rows(job);
    return weight_files_replace(job->files, t, job->name, &job->out, job->memory, err);
}

/* Leading dimensions of the codes, `cols` values in the last. */
static void set_shape(struct job *job, uint64_t cols)
{
    const struct tensor *t = job->codes;
    job->out.n_dims = t->n_dims;
    memcpy(job->out.dims, t->dims, sizeof job->out.dims);
    job->out.dims[t->n_dims - 1] = cols;
    job->cols = cols;
    job->rows = count(t) / t->dims[t->n_dims - 1];
    job->matrix_rows = t->n_dims > 1 ? t->dims[t->n_dims - 2] : 1;
}

static void store_float(uint8_t *to, float value)
{
    memcpy(to, &value, sizeof value);
}

/* ---- FP8 --------------------------------------------------------------------------------------- */

static void fp8_row(struct job *job, uint64_t row, uint8_t *to)
{
    const uint8_t *from = (const uint8_t *)job->codes->data + row * job->cols;
    uint64_t matrix = row / job->matrix_rows, scale_row = row % job->matrix_rows / job->block_rows;
    uint64_t first = (matrix * job->scale_rows + scale_row) * job->scale_cols;
    for (uint64_t b = 0; b < job->cols / BLOCK; b++, to += 4 + BLOCK, from += BLOCK) {
        store_float(to, scalar_at(job->scales, first + b * BLOCK / job->block_cols));
        memcpy(to + 4, from, BLOCK);
    }
}

static uint64_t pieces(uint64_t n, uint64_t size)
{
    return n / size + (n % size != 0);
}

/* What a scale covers follows from the shapes: all, a row, or a block of the configured size. */
static bool fit_scales(struct job *job, const uint64_t block[2])
{
    const struct tensor *s = job->scales;
    uint64_t matrices = job->rows / job->matrix_rows, n = count(s);
    job->block_rows = job->matrix_rows;
    job->block_cols = job->cols;
    job->scale_rows = job->scale_cols = 1;
    if (n == matrices)
        return true;
    if (n == 1 && matrices > 1) {
        job->scale_rows = 0; /* the same for all */
        return true;
    }
    if (n == job->rows) {
        job->block_rows = 1;
        job->scale_rows = job->matrix_rows;
        return true;
    }
    job->block_rows = block[0];
    job->block_cols = block[1];
    job->scale_rows = pieces(job->matrix_rows, block[0]);
    job->scale_cols = pieces(job->cols, block[1]);
    return s->n_dims >= 2 && s->dims[s->n_dims - 1] == job->scale_cols &&
           s->dims[s->n_dims - 2] == job->scale_rows &&
           n == matrices * job->scale_rows * job->scale_cols;
}

static enum status repack_fp8(struct weight_files *files, const struct tensor *t,
                              const uint64_t block[2], struct error *err)
{
    static const char *const ends[] = {"weight_scale_inv", "weight_scale"};
    struct job job = {.files = files, .codes = t, .row = fp8_row};
    char name[NAME_BYTES], scale[NAME_BYTES];
    for (size_t i = 0; i < 2 && !job.scales; i++)
        if (sibling(t->name, "weight", ends[i], scale))
            job.scales = find(files, scale);
    if (!job.scales || t->n_dims < 2)
        return STATUS_OK; /* plain FP8 runs as it is */
    set_shape(&job, t->dims[t->n_dims - 1]);
    if (!is_float_type(job.scales) || !fit_scales(&job, block) ||
        (job.scale_cols > 1 && job.block_cols % BLOCK))
        return bad_shape(&job, job.scales, err);
    snprintf(name, sizeof name, "%.*s", STR_ARG(t->name));
    job.name = name;
    weight_files_drop(files, job.scales);
    return finish(&job, t->type == TENSOR_F8_E4M3 ? TENSOR_F8_E4M3_SCALED : TENSOR_F8_E5M2_SCALED,
                  err);
}

/* ---- MLX --------------------------------------------------------------------------------------- */

/* Code i of a row: `bits` bits at i * bits of little-endian words. */
static uint8_t mlx_code(const struct job *job, uint64_t row, uint64_t i)
{
    const uint8_t *from = (const uint8_t *)job->codes->data + row * job->cols * job->bits / 8;
    return job->bits == 8 ? from[i] : (uint8_t)(from[i / 2] >> (i % 2 * 4) & 15);
}

/* Two runs of 16 values to the nibbles of 16 bytes. */
static void put_nibbles(const struct job *job, uint64_t row, uint64_t first, uint8_t *to)
{
    for (uint64_t i = 0; i < BLOCK / 2; i++)
        to[i] = (uint8_t)(mlx_code(job, row, first + i) | mlx_code(job, row, first + BLOCK / 2 + i)
                                                              << 4);
}

static void put_half(uint8_t *to, float value)
{
    uint16_t h = f32_to_f16(value);
    to[0] = (uint8_t)h;
    to[1] = (uint8_t)(h >> 8);
}

static void q4_1_row(struct job *job, uint64_t row, uint8_t *to)
{
    uint64_t groups = job->cols / job->group;
    for (uint64_t first = 0; first < job->cols; first += BLOCK, to += 20) {
        put_half(to, scalar_at(job->scales, row * groups + first / job->group));
        put_half(to + 2, scalar_at(job->biases, row * groups + first / job->group));
        put_nibbles(job, row, first, to + 4);
    }
}

static void affine8_row(struct job *job, uint64_t row, uint8_t *to)
{
    uint64_t groups = job->cols / job->group;
    for (uint64_t first = 0; first < job->cols; first += BLOCK, to += 8 + BLOCK) {
        store_float(to, scalar_at(job->scales, row * groups + first / job->group));
        store_float(to + 4, scalar_at(job->biases, row * groups + first / job->group));
        for (uint64_t i = 0; i < BLOCK; i++)
            to[8 + i] = mlx_code(job, row, first + i);
    }
}

static void mxfp4_row(struct job *job, uint64_t row, uint8_t *to)
{
    uint64_t groups = job->cols / BLOCK;
    for (uint64_t b = 0; b < groups; b++, to += 17) {
        to[0] = ((const uint8_t *)job->scales->data)[row * groups + b];
        put_nibbles(job, row, b * BLOCK, to + 1);
    }
}

static bool halves_hold(const struct tensor *t)
{
    uint64_t n = count(t);
    for (uint64_t i = 0; i < n; i++) {
        float value = scalar_at(t, i);
        if (f16_to_f32(f32_to_f16(value)) != value)
            return false;
    }
    return true;
}

/* Of config's "quantization", which may say otherwise for single modules. */
static json_int_t mlx_number(const json_t *mlx, const char *module, const char *key)
{
    const json_t *own = json_object_get(json_object_get(mlx, module), key);
    return json_integer_value(own ? own : json_object_get(mlx, key));
}

static bool same_leading(const struct tensor *a, const struct tensor *b)
{
    return a->n_dims == b->n_dims && a->n_dims >= 2 &&
           memcmp(a->dims, b->dims, (a->n_dims - 1) * sizeof *a->dims) == 0;
}

static enum status repack_mlx(struct weight_files *files, const struct tensor *t, const json_t *mlx,
                              struct error *err)
{
    struct job job = {.files = files, .codes = t};
    char module[NAME_BYTES], name[NAME_BYTES], other[NAME_BYTES];
    if (!sibling(t->name, ".weight", "", module) || !sibling(t->name, "weight", "scales", other))
        return STATUS_OK;
    job.scales = find(files, other);
    if (!job.scales)
        return STATUS_OK;
    sibling(t->name, "weight", "biases", other);
    job.biases = find(files, other);
    json_int_t bits = mlx_number(mlx, module, "bits"),
               group = mlx_number(mlx, module, "group_size");
    if (bits != 4 && bits != 8)
        return error_set(err, STATUS_UNSUPPORTED,
                         "%s: MLX quantization of %lld bits, sluice opens 4 and 8", module,
                         (long long)bits);
    job.bits = (uint32_t)bits;
    uint64_t cols = t->dims[t->n_dims - 1];
    if (group < BLOCK || group % BLOCK || group > 4096 || cols > UINT64_MAX / 32)
        return error_set(err, STATUS_MODEL, "%s: MLX group_size %lld", module, (long long)group);
    job.group = (uint32_t)group;
    set_shape(&job, cols * 32 / job.bits);
    bool shaped =
        same_leading(t, job.scales) && job.scales->dims[t->n_dims - 1] * job.group == job.cols;
    bool affine = shaped && job.biases && is_float_type(job.scales) && is_float_type(job.biases) &&
                  same_leading(t, job.biases) &&
                  job.biases->dims[t->n_dims - 1] * job.group == job.cols;
    bool micro = shaped && !job.biases && job.scales->type == TENSOR_U8 && job.bits == 4 &&
                 job.group == BLOCK;
    if (!affine && !micro)
        return bad_shape(&job, job.scales, err);
    snprintf(name, sizeof name, "%.*s", STR_ARG(t->name));
    job.name = name;
    weight_files_drop(files, job.scales);
    if (job.biases)
        weight_files_drop(files, job.biases);
    bool halves = affine && job.bits == 4 && halves_hold(job.scales) && halves_hold(job.biases);
    job.row = micro ? mxfp4_row : halves ? q4_1_row : affine8_row;
    return finish(&job, micro ? TENSOR_MXFP4 : halves ? TENSOR_Q4_1 : TENSOR_AFFINE8, err);
}

/* ---- MXFP4 of gpt-oss -------------------------------------------------------------------------- */

/* NAME_blocks [..., rows, cols / 32, 16] -> NAME [..., rows, cols]. */
static enum status repack_blocks(struct weight_files *files, const struct tensor *t,
                                 struct error *err)
{
    struct job job = {.files = files, .codes = t, .bits = 4, .row = mxfp4_row};
    char name[NAME_BYTES], scale[NAME_BYTES];
    if (!sibling(t->name, "_blocks", "", name) || !sibling(t->name, "_blocks", "_scales", scale))
        return STATUS_OK;
    job.scales = find(files, scale);
    if (!job.scales)
        return STATUS_OK;
    uint32_t n = t->n_dims;
    if (n < 3 || t->dims[n - 1] != 16 || job.scales->type != TENSOR_U8 ||
        job.scales->n_dims != n - 1 ||
        memcmp(job.scales->dims, t->dims, (n - 1) * sizeof *t->dims) != 0)
        return bad_shape(&job, job.scales, err);
    job.out.n_dims = n - 1;
    for (uint32_t i = 0; i < TENSOR_DIMS_MAX; i++)
        job.out.dims[i] = i < n - 1 ? t->dims[i] : 1;
    job.cols = job.out.dims[n - 2] *= BLOCK; /* as many bytes as values, halved: no overflow */
    job.rows = count(t) / 16 / t->dims[n - 2];
    job.name = name;
    weight_files_drop(files, job.scales);
    return finish(&job, TENSOR_MXFP4, err);
}

/* ---- which scheme ------------------------------------------------------------------------------ */

static enum status refuse(const char *method, struct error *err)
{
    return error_set(
        err, STATUS_UNSUPPORTED,
        "config.json: quantization_config.quant_method is \"%.64s\", which sluice does "
        "not open (it opens FP8 and MXFP4 folders, MLX folders of 4 and 8 bits, and "
        "GGUF files): take the original model or a GGUF file",
        method);
}

static enum status check_method(const json_t *quantization, const json_t *mlx, struct error *err)
{
    static const char *const known[] = {"fp8", "fbgemm_fp8", "mxfp4", "compressed-tensors"};
    const char *method = json_string_value(json_object_get(quantization, "quant_method"));
    if (!method || mlx)
        return STATUS_OK;
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (strcmp(method, known[i]) == 0)
            return STATUS_OK;
    return refuse(method, err);
}

static void read_block(const json_t *quantization, uint64_t block[2])
{
    const json_t *size = json_object_get(quantization, "weight_block_size");
    for (size_t i = 0; i < 2; i++) {
        json_int_t n = json_integer_value(json_array_get(size, i));
        block[i] = n > 0 && n <= 1 << 20 ? (uint64_t)n : 128;
    }
}

static const json_t *object(const json_t *config, const char *key)
{
    const json_t *value = json_object_get(config, key);
    return json_is_object(value) ? value : NULL;
}

enum status repack_weights(struct weight_files *files, const json_t *config, struct error *err)
{
    const json_t *quantization = object(config, "quantization_config");
    const json_t *mlx = object(config, "quantization");
    uint64_t block[2];
    if (!mlx && quantization && json_object_get(quantization, "group_size") &&
        !json_object_get(quantization, "quant_method"))
        mlx = quantization; /* MLX writes both, older versions only one */
    enum status status = check_method(quantization, mlx, err);
    read_block(quantization, block);
    size_t n = files->n_tensors;
    for (size_t i = 0; i < n && status == STATUS_OK && (quantization || mlx); i++) {
        const struct tensor *t = files->tensors[i];
        if (!t) /* scales of one before */
            continue;
        if (t->type == TENSOR_F8_E4M3 || t->type == TENSOR_F8_E5M2)
            status = repack_fp8(files, t, block, err);
        else if (mlx && t->type == TENSOR_U32)
            status = repack_mlx(files, t, mlx, err);
        else if (t->type == TENSOR_U8)
            status = repack_blocks(files, t, err);
        else if (str_ends(t->name, STR_LIT(".weight_packed")))
            status = refuse("compressed-tensors (packed integers)", err);
    }
    return status == STATUS_OK ? weight_files_compact(files, err) : status;
}
