/*
 * hardware: what this machine offers to this process.
 *
 * Cores, caches and devices come from hwloc, instruction sets from the processor itself together
 * with what the operating system saves on a context switch, memory and processor limits from the
 * system and the control groups the process lives in, and NVIDIA devices from the CUDA driver where
 * one is installed (loaded at run time; nothing here needs CUDA to build). What a system does not
 * tell is 0, empty or absent, never guessed.
 *
 * Thread rule: every function may run on any thread; detection takes milliseconds, or with a CUDA
 * driver up to a second or two, so detect once and pass the struct on. It is plain data without
 * pointers. Bytes are bytes; MiB and GiB appear only in hardware_describe().
 */
#ifndef SLUICE_HW_HARDWARE_H
#define SLUICE_HW_HARDWARE_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"
#include "base/str.h"

/* Instruction sets that kernels choose by; present means usable: the operating system keeps their
 * registers too. The x86 amx sets still need the process to ask for the tile state once. */
enum instruction_set {
    ISA_SSE4_2,
    ISA_AVX,
    ISA_AVX2,
    ISA_FMA,
    ISA_F16C,
    ISA_AVX_VNNI,
    ISA_AVX512F,
    ISA_AVX512BW,
    ISA_AVX512VL,
    ISA_AVX512DQ,
    ISA_AVX512_VBMI,
    ISA_AVX512_VNNI,
    ISA_AVX512_BF16,
    ISA_AVX512_FP16,
    ISA_AMX_TILE,
    ISA_AMX_INT8,
    ISA_AMX_BF16,
    ISA_NEON,
    ISA_FP16, /* aarch64 half precision vector arithmetic */
    ISA_DOTPROD,
    ISA_I8MM,
    ISA_BF16, /* aarch64 */
    ISA_SVE,
    ISA_SME,
    INSTRUCTION_SETS
};

#define HARDWARE_GPUS_MAX 32

struct hardware_gpu {
    char name[96];
    uint32_t pci_domain, pci_bus, pci_device;
    uint16_t vendor_id, device_id; /* PCI; 0 where only the driver told of the device */
    /* From the CUDA driver; cuda_index is -1 for devices that it does not drive. */
    int32_t cuda_index;
    uint32_t compute_major, compute_minor;
    uint32_t n_multiprocessors;
    uint64_t memory_bytes;
    uint64_t l2_bytes;
};

struct hardware {
    char cpu_model[96]; /* "AMD EPYC 9654 96-Core Processor" */
    char cpu_vendor[32];
    char architecture[16]; /* "x86_64", "aarch64" */
    /* The machine as the system shows it. A thread is a logical processor. */
    uint32_t n_packages, n_cores, n_threads, n_numa_nodes;
    uint32_t
        n_efficiency_cores; /* of n_cores; 0 also where all are alike or the system is silent */
    /* What this process may use: affinity of the calling thread, cpusets; quota in processors
     * (control groups), 0: none. */
    uint32_t n_usable_threads, n_usable_cores, n_usable_efficiency_cores;
    double cpu_quota;
    /* One cache of each level, and how many there are of the last. 0: unknown. */
    uint64_t l1d_bytes, l2_bytes, l3_bytes;
    uint32_t n_l3;
    /* Total: of the machine. Limit: the tightest control group's, 0: none. Available: what can be
     * allocated now without swapping, within that limit. */
    uint64_t memory_total, memory_limit, memory_available;
    bool isa[INSTRUCTION_SETS];
    uint32_t n_gpus;
    struct hardware_gpu gpus[HARDWARE_GPUS_MAX];
    bool cuda_driver;       /* libcuda was found and initialised */
    uint32_t cuda_version;  /* 12040 for 12.4 */
    char cuda_problem[128]; /* why the driver is present but unusable; else empty */
};

/* STATUS_MEMORY or STATUS_INTERNAL when the topology cannot be read; a machine without some of the
 * sources is no error. */
enum status hardware_detect(struct hardware *out, struct error *err);
/* The same without asking the CUDA driver: milliseconds. */
enum status hardware_detect_host(struct hardware *out, struct error *err);

/* Only isa, cpu_model, cpu_vendor and architecture of a zeroed struct: takes microseconds. */
void hardware_read_instruction_sets(struct hardware *hw);

/* Threads for compute-bound work: one per usable performance core, within the quota; at least 1. */
uint32_t hardware_default_threads(const struct hardware *hw);

/* "avx512_vnni" and so on; the names in JSON. */
const char *instruction_set_name(enum instruction_set set);

/* Appends a few aligned lines for people; each ends in a newline. */
void hardware_describe(const struct hardware *hw, struct buf *out);
/* A new reference, or NULL without memory. Unknown values are left out. */
json_t *hardware_to_json(const struct hardware *hw);

/* Read bandwidth of main memory with n_threads threads, in bytes per second: the best of a few
 * passes of sequential reading, in a buffer of at least twice all level-3 caches (64 MiB or more)
 * that is first written, so that every page is real. With very large caches preparing the buffer
 * takes longer than the reading. On demand only: it disturbs everybody else on the machine.
 * STATUS_MEMORY when such a buffer would take more than a quarter of the available memory. */
enum status hardware_measure_bandwidth(const struct hardware *hw, uint32_t n_threads,
                                       double *bytes_per_second, struct error *err);
/* The same, remembered between runs of the program in a small file of the user's cache folder
 * ($XDG_CACHE_HOME/sluice, else ~/.cache/sluice) that is named by a digest of the machine: another
 * machine, or another number of threads, measures anew. `again` measures in any case. A cache that
 * cannot be read or written is no error. */
enum status hardware_bandwidth(const struct hardware *hw, uint32_t n_threads, bool again,
                               double *bytes_per_second, struct error *err);

/* Kinds of arithmetic that have a peak of their own. */
enum arithmetic { ARITHMETIC_INT8, ARITHMETIC_BF16, ARITHMETIC_F32, ARITHMETICS };

#define ARITHMETIC_PEAKS_MAX 16

struct arithmetic_peak {
    const char *name; /* "AVX-512 VNNI" */
    enum arithmetic kind;
    double operations_per_second; /* a multiply and an add are two */
};

struct arithmetic_peaks {
    uint32_t count;
    struct arithmetic_peak items[ARITHMETIC_PEAKS_MAX];
};

/* How fast n_threads threads multiply and add from registers, by every instruction set that this
 * processor has: some 25 ms each. On demand only. */
enum status hardware_measure_arithmetic(const struct hardware *hw, uint32_t n_threads,
                                        struct arithmetic_peaks *out, struct error *err);
/* The highest of a kind; 0: none. */
double arithmetic_best(const struct arithmetic_peaks *peaks, enum arithmetic kind);
const char *arithmetic_name(enum arithmetic kind); /* "int8" */

/* Energy that the processor packages have used, in joules since some time in the past, where the
 * system tells this user (Linux powercap); false: not told. It wraps: take short differences. */
bool hardware_energy(double *joules);

/* Memory of this process, in bytes: its own, of mapped files (pages that others may share), and the
 * most that it ever had of both. */
struct resident_memory {
    uint64_t own, mapped, most;
};

/* False: the system does not tell (Linux does). */
bool hardware_resident(struct resident_memory *out);

#endif
