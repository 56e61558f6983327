/*
 * Instruction sets. On x86 a bit in CPUID says that the processor knows the instructions, and XCR0
 * says which register files the operating system saves; both are needed. On aarch64 the system
 * reports directly. Bit numbers: Intel SDM volume 2 (CPUID), Linux <asm/hwcap.h> for arm64.
 */
#include <stdio.h>
#include <string.h>

#include "hw/sources.h"

#if defined(__x86_64__) || defined(__i386__)

#include <cpuid.h>

/* What the operating system saves, by bit of XCR0. */
#define XCR0_YMM (1u << 1 | 1u << 2)
#define XCR0_ZMM (XCR0_YMM | 1u << 5 | 1u << 6 | 1u << 7)
#define XCR0_AMX (1u << 17 | 1u << 18)

enum cpuid_register { EAX, EBX, ECX, EDX };

struct cpuid_bit {
    enum instruction_set set;
    uint32_t leaf, subleaf;
    enum cpuid_register reg;
    unsigned bit;
    uint32_t state; /* bits of XCR0 */
};

static const struct cpuid_bit cpuid_bits[] = {
    {ISA_SSE4_2, 1, 0, ECX, 20, 0},
    {ISA_AVX, 1, 0, ECX, 28, XCR0_YMM},
    {ISA_FMA, 1, 0, ECX, 12, XCR0_YMM},
    {ISA_F16C, 1, 0, ECX, 29, XCR0_YMM},
    {ISA_AVX2, 7, 0, EBX, 5, XCR0_YMM},
    {ISA_AVX_VNNI, 7, 1, EAX, 4, XCR0_YMM},
    {ISA_AVX512F, 7, 0, EBX, 16, XCR0_ZMM},
    {ISA_AVX512DQ, 7, 0, EBX, 17, XCR0_ZMM},
    {ISA_AVX512BW, 7, 0, EBX, 30, XCR0_ZMM},
    {ISA_AVX512VL, 7, 0, EBX, 31, XCR0_ZMM},
    {ISA_AVX512_VBMI, 7, 0, ECX, 1, XCR0_ZMM},
    {ISA_AVX512_VNNI, 7, 0, ECX, 11, XCR0_ZMM},
    {ISA_AVX512_BF16, 7, 1, EAX, 5, XCR0_ZMM},
    {ISA_AVX512_FP16, 7, 0, EDX, 23, XCR0_ZMM},
    {ISA_AMX_TILE, 7, 0, EDX, 24, XCR0_AMX},
    {ISA_AMX_INT8, 7, 0, EDX, 25, XCR0_AMX},
    {ISA_AMX_BF16, 7, 0, EDX, 22, XCR0_AMX},
};

static bool cpuid(uint32_t leaf, uint32_t subleaf, uint32_t r[4])
{
    return __get_cpuid_count(leaf, subleaf, &r[EAX], &r[EBX], &r[ECX], &r[EDX]) != 0;
}

static uint32_t saved_state(void)
{
    uint32_t r[4];
    if (!cpuid(1, 0, r) || !(r[ECX] >> 27 & 1)) /* OSXSAVE: XGETBV exists */
        return 0;
    uint32_t low, high;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return low;
}

/* Copies `n` characters without blanks at either end. */
static void copy_trimmed(char *out, size_t size, const char *text, size_t n)
{
    n = strnlen(text, n);
    while (n > 0 && *text == ' ') {
        text++;
        n--;
    }
    while (n > 0 && text[n - 1] == ' ')
        n--;
    n = n < size ? n : size - 1;
    memcpy(out, text, n);
    out[n] = 0;
}

static void read_names(struct hardware *hw)
{
    uint32_t r[4];
    char text[48];
    if (cpuid(0, 0, r)) {
        memcpy(text, &r[EBX], 4);
        memcpy(text + 4, &r[EDX], 4);
        memcpy(text + 8, &r[ECX], 4);
        copy_trimmed(hw->cpu_vendor, sizeof hw->cpu_vendor, text, 12);
    }
    for (uint32_t i = 0; i < 3; i++) {
        if (!cpuid(0x80000002u + i, 0, r))
            return;
        memcpy(text + 16 * i, r, 16);
    }
    copy_trimmed(hw->cpu_model, sizeof hw->cpu_model, text, sizeof text);
}

void hardware_read_instruction_sets(struct hardware *hw)
{
    snprintf(hw->architecture, sizeof hw->architecture, sizeof(void *) == 8 ? "x86_64" : "x86");
    read_names(hw);
    uint32_t state = saved_state();
    for (size_t i = 0; i < sizeof cpuid_bits / sizeof *cpuid_bits; i++) {
        const struct cpuid_bit *b = &cpuid_bits[i];
        uint32_t r[4], last[4];
        if ((state & b->state) != b->state || !cpuid(b->leaf, 0, last))
            continue;
        /* EAX of leaf 7.0 is its highest subleaf; an absent one may return anything. */
        if (b->subleaf > 0 && (last[EAX] < b->subleaf || !cpuid(b->leaf, b->subleaf, r)))
            continue;
        hw->isa[b->set] = (b->subleaf > 0 ? r : last)[b->reg] >> b->bit & 1;
    }
}

#elif defined(__aarch64__) && defined(__linux__)

#include <sys/auxv.h>

void hardware_read_instruction_sets(struct hardware *hw)
{
    unsigned long first = getauxval(AT_HWCAP), second = getauxval(AT_HWCAP2);
    snprintf(hw->architecture, sizeof hw->architecture, "aarch64");
    hw->isa[ISA_NEON] = first >> 1 & 1;
    hw->isa[ISA_FP16] = first >> 10 & 1;
    hw->isa[ISA_DOTPROD] = first >> 20 & 1;
    hw->isa[ISA_SVE] = first >> 22 & 1;
    hw->isa[ISA_I8MM] = second >> 13 & 1;
    hw->isa[ISA_BF16] = second >> 14 & 1;
    hw->isa[ISA_SME] = second >> 23 & 1;
}

#elif defined(__aarch64__) && defined(__APPLE__)

#include <sys/sysctl.h>

static bool feature(const char *name)
{
    int value = 0;
    size_t size = sizeof value;
    return sysctlbyname(name, &value, &size, NULL, 0) == 0 && value != 0;
}

void hardware_read_instruction_sets(struct hardware *hw)
{
    size_t size = sizeof hw->cpu_model;
    snprintf(hw->architecture, sizeof hw->architecture, "aarch64");
    snprintf(hw->cpu_vendor, sizeof hw->cpu_vendor, "Apple");
    if (sysctlbyname("machdep.cpu.brand_string", hw->cpu_model, &size, NULL, 0) != 0)
        hw->cpu_model[0] = 0;
    hw->isa[ISA_NEON] = true; /* part of every Apple aarch64 processor */
    hw->isa[ISA_FP16] = feature("hw.optional.arm.FEAT_FP16");
    hw->isa[ISA_DOTPROD] = feature("hw.optional.arm.FEAT_DotProd");
    hw->isa[ISA_I8MM] = feature("hw.optional.arm.FEAT_I8MM");
    hw->isa[ISA_BF16] = feature("hw.optional.arm.FEAT_BF16");
    hw->isa[ISA_SME] = feature("hw.optional.arm.FEAT_SME");
}

#else

void hardware_read_instruction_sets(struct hardware *hw)
{
    snprintf(hw->architecture, sizeof hw->architecture, "unknown");
}

#endif

const char *instruction_set_name(enum instruction_set set)
{
    static const char *const names[INSTRUCTION_SETS] = {
        [ISA_SSE4_2] = "sse4.2",
        [ISA_AVX] = "avx",
        [ISA_AVX2] = "avx2",
        [ISA_FMA] = "fma",
        [ISA_F16C] = "f16c",
        [ISA_AVX_VNNI] = "avx_vnni",
        [ISA_AVX512F] = "avx512f",
        [ISA_AVX512BW] = "avx512bw",
        [ISA_AVX512VL] = "avx512vl",
        [ISA_AVX512DQ] = "avx512dq",
        [ISA_AVX512_VBMI] = "avx512_vbmi",
        [ISA_AVX512_VNNI] = "avx512_vnni",
        [ISA_AVX512_BF16] = "avx512_bf16",
        [ISA_AVX512_FP16] = "avx512_fp16",
        [ISA_AMX_TILE] = "amx_tile",
        [ISA_AMX_INT8] = "amx_int8",
        [ISA_AMX_BF16] = "amx_bf16",
        [ISA_NEON] = "neon",
        [ISA_FP16] = "fp16",
        [ISA_DOTPROD] = "dotprod",
        [ISA_I8MM] = "i8mm",
        [ISA_BF16] = "bf16",
        [ISA_SVE] = "sve",
        [ISA_SME] = "sme",
    };
    return (unsigned)set < INSTRUCTION_SETS ? names[set] : "unknown";
}
