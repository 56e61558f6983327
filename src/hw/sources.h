/*
 * Where struct hardware comes from; private to this module. Each function fills in its own fields
 * of a zeroed struct and leaves the rest alone.
 */
#ifndef SLUICE_HW_SOURCES_H
#define SLUICE_HW_SOURCES_H

#include "hw/hardware.h"

/* memory_total, memory_available, memory_limit, cpu_quota from the files of Linux under `root`
 * ("" for the real ones; a test passes a folder). Files that are absent tell nothing. Elsewhere
 * only memory_total is known. */
void hardware_read_limits(struct hardware *hw, const char *root);

/* Asks the CUDA driver, if `library` can be loaded ("libcuda.so.1"; a test passes another name),
 * and merges its devices into gpus by PCI address. */
void hardware_read_cuda(struct hardware *hw, const char *library);

#endif
