/*
 * Arithmetic peaks, the private side: one loop per kind of arithmetic and instruction set.
 *
 * A loop keeps enough independent accumulators in registers to hide the latency of its one
 * instruction and touches no memory, so it runs at the rate the execution units allow. Files are
 * one instruction set each, compiled with that set's flags; where the compiler or the processor
 * family lacks it, the file is empty and peak.c has no entry for it.
 */
#ifndef SLUICE_HW_PEAK_H
#define SLUICE_HW_PEAK_H

#include <stdint.h>

/* Runs `rounds` rounds and returns the operations done: a multiply and an add are two. */
typedef double (*arithmetic_loop)(uint64_t rounds);

double peak_portable_f32(uint64_t rounds);
double peak_avx2_f32(uint64_t rounds);
double peak_avx2_int8(uint64_t rounds);
double peak_avx2_int8_wide(uint64_t rounds);
double peak_avxvnni_int8(uint64_t rounds);
double peak_avx512_f32(uint64_t rounds);
double peak_avx512_vnni(uint64_t rounds);
double peak_avx512_bf16(uint64_t rounds);
double peak_amx_int8(uint64_t rounds);
double peak_amx_bf16(uint64_t rounds);

#endif
