/*
 * Operation by operation: programs of one to a few operations with random weights over odd shapes,
 * run on a backend under test and on the reference, and compared row by row.
 *
 * No backend hooks: activations enter through OP_EMBED (random table, or the step's embedding rows)
 * and leave through OP_SELECT into the program's hidden output, or OP_LOGITS. Plain C without a test
 * framework, so that a program for a bare GPU machine can link it: it needs base, quant, program,
 * sample and the two backends, nothing else.
 *
 * A caller is as small as
 *
 *     struct op_cases_config config = op_cases_exact(&cuda_backend_api, &ref_backend_api);
 *     struct op_cases_result total = op_cases_run(&config);
 *     config = op_cases_fast(&cuda_backend_api, &ref_backend_api, TENSOR_F16, 0x1p-11);
 *     op_cases_add(&total, op_cases_run(&config));
 *     return op_cases_finish("cuda", total);          // prints "N passed, N failed"
 *
 * The tolerance of a case is explained in op_cases.c: it follows from `epsilon`, the operations of
 * the case, and the K/V element type where the case reads K/V.
 * Thread rule: one thread at a time per process (backends may use more inside).
 */
#ifndef SLUICE_TESTS_OP_CASES_H
#define SLUICE_TESTS_OP_CASES_H

#include <stdbool.h>
#include <stdint.h>

#include "backend/backend.h"
#include "op_kit.h"

struct op_cases_config {
    const struct backend_api *tested;    /* borrowed */
    const struct backend_api *reference; /* borrowed; opened exact, K/V always F32 */
    struct backend_config backend;       /* how the tested backend is opened */
    enum tensor_type kv_type;            /* K/V elements of the tested backend */
    /* Unit roundoff of the narrowest format that activations pass through between or inside the
     * tested backend's operations: 2^-24 float32, 2^-11 f16, 2^-8 bf16. Routers are float32 anyway,
     * but see narrowed inputs. */
    double epsilon;
    const char *only; /* run only cases whose name contains this; NULL: all */
    bool all_types;   /* also with weights of the types that few models have */
    bool verbose;     /* one line per case, not only per operation */
};

struct op_cases_result {
    uint32_t passed, failed;
    uint32_t
        unsupported; /* place() or allocate() said STATUS_UNSUPPORTED; printed with its reason */
};

/* Float32 everywhere, one thread per core. */
struct op_cases_config op_cases_exact(const struct backend_api *tested,
                                      const struct backend_api *reference);
struct op_cases_config op_cases_fast(const struct backend_api *tested,
                                     const struct backend_api *reference, enum tensor_type kv_type,
                                     double epsilon);

/* Runs all cases, prints "BACKEND MODE OPERATION: N passed, N failed" lines on stdout, and for each
 * failure the case's name, the first bad row and the error beside its tolerance. */
struct op_cases_result op_cases_run(const struct op_cases_config *config);
void op_cases_add(struct op_cases_result *total, struct op_cases_result more);
/* Prints the closing "NAME: N passed, N failed (N unsupported)" and returns the exit code: 0 when
 * nothing failed and something passed. */
int op_cases_finish(const char *name, struct op_cases_result total);

/* A small model with every kind of sequence operation (two K/V groups, one windowed, and a
 * convolution) on a kit made by kit_init(): what the identity tests cut and batch. */
void op_cases_build_model(struct kit *kit);
/* The same for what carries a state: convolution, state space and delta rule recurrences in groups of
 * their own, then latent attention and experts chosen by group. */
void op_cases_build_recurrent(struct kit *kit);

#endif
