/*
 * cpu: the backend for processors. A pool of threads walks a program's operations together (SPMD);
 * weights stay in their file's precision, as views of the mapped bytes; activations are float32.
 * A submitted ticket has completed when submit() or sample() returns, unless the backend computes on
 * threads of its own (queue.c).
 *
 * exact and fast mode differ in the K/V element type only (float32, float16), as yet. In both a
 * row's result has the same bits whatever its company, chunking and number of threads: every output
 * element is one reduction in an order that depends on the shape of its operation alone.
 */
#ifndef SLUICE_BACKEND_CPU_CPU_H
#define SLUICE_BACKEND_CPU_CPU_H

#include "backend/backend.h"

extern const struct backend_api cpu_backend_api;

#endif
