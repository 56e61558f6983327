/*
 * The CUDA backend, a plugin (sluice-cuda.so) behind backend.h: plain and correct, not yet fast.
 *
 * Everything lives on the device: weights in their file's precision, float32 activations, pages,
 * page tables, token history, drawn tokens. A step is one copy of its buffer, one kernel per
 * operation (OP_EXPERTS has two), and an event; the host never waits between them.
 *
 * Batch invariance is structural: one warp computes one result (a dot product, a norm, one head's
 * attention) in an order that depends on shapes and positions only, never on how many rows are in
 * the step. So config.batch_invariant always holds, and both numeric classes coincide.
 *
 * Needs the CUDA runtime (linked statically) and, at run time, an NVIDIA driver; without one open()
 * returns STATUS_DEVICE.
 */
#ifndef SLUICE_BACKEND_CUDA_CUDA_H
#define SLUICE_BACKEND_CUDA_CUDA_H

#include "backend/backend.h"

#ifdef __cplusplus
extern "C" {
#endif

extern const struct backend_api cuda_backend_api;

#ifdef __cplusplus
}
#endif
#endif
