/*
 * Which of the x86 kernel sets this processor and system can run.
 *
 * In a file of its own, because it runs before anybody knows: a file compiled for an instruction set
 * may use it for anything, even for clearing a struct.
 */
#if defined(__x86_64__)
#define _GNU_SOURCE /* syscall */
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "backend/cpu/kernels.h"
#include "hw/hardware.h"

/* arch_prctl(2): leave to use the state of the AMX tiles. */
#define ARCH_REQ_XCOMP_PERM 0x1023
#define XFEATURE_XTILEDATA  18

bool x86_avx2_usable(void)
{
    struct hardware hw = {.n_cores = 0};
    hardware_read_instruction_sets(&hw);
    return hw.isa[ISA_AVX2] && hw.isa[ISA_FMA] && hw.isa[ISA_F16C];
}

bool x86_avx512_usable(void)
{
    struct hardware hw = {.n_cores = 0};
    hardware_read_instruction_sets(&hw);
    return hw.isa[ISA_AVX512F] && hw.isa[ISA_AVX512BW] && hw.isa[ISA_AVX512VL] &&
           hw.isa[ISA_AVX512DQ] && hw.isa[ISA_AVX512_VNNI] && hw.isa[ISA_FMA] && hw.isa[ISA_F16C];
}

bool x86_avx512_bf16_usable(void)
{
    struct hardware hw = {.n_cores = 0};
    hardware_read_instruction_sets(&hw);
    return hw.isa[ISA_AVX512_BF16] && x86_avx512_usable();
}

/* By maker: measuring it would make answers depend on the moment of the measurement. */
bool x86_avx512_bf16_preferred(void)
{
    struct hardware hw = {.n_cores = 0};
    hardware_read_instruction_sets(&hw);
    return !strcmp(hw.cpu_vendor, "AuthenticAMD");
}

bool x86_amx_usable(void)
{
    struct hardware hw = {.n_cores = 0};
    hardware_read_instruction_sets(&hw);
#ifdef SYS_arch_prctl
    return hw.isa[ISA_AMX_TILE] && hw.isa[ISA_AMX_INT8] && hw.isa[ISA_AMX_BF16] &&
           hw.isa[ISA_AVX512_BF16] && x86_avx512_usable() &&
           syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0;
#else
    return false;
#endif
}
#else
typedef int x86_usable_is_empty;
#endif
