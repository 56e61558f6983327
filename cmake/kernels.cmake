# Compiler flags of single kernel files. The CPU backend has one translation unit per instruction
# set; the portable one relies on loop vectorisation, which GCC does fully only at -O3. Never
# -ffast-math: a sum's order is part of what a kernel promises.
if(NOT CMAKE_BUILD_TYPE STREQUAL "Debug" AND NOT SLUICE_SANITIZE)
    set_source_files_properties(src/backend/cpu/portable.c src/backend/cpu/recurrent.c
        src/backend/cpu/latent.c PROPERTIES COMPILE_OPTIONS "-O3")
endif()

# Files that hold tables of what each instruction set offers.
set(SLUICE_DISPATCHERS src/hw/peak.c src/backend/cpu/kernels.c
    src/backend/cpu/float_kernels.c)

# sluice_isa(NAME FLAGS FILES...): compiles the files for an instruction set where the compiler and
# the processor family know it, and tells the dispatchers by SLUICE_HAVE_NAME.
include(CheckCCompilerFlag)
function(sluice_isa name flags)
    string(REPLACE ";" " " joined "${flags}")
    set(CMAKE_REQUIRED_QUIET ON)
    check_c_compiler_flag("${joined}" SLUICE_COMPILES_${name})
    if(NOT SLUICE_COMPILES_${name} OR NOT CMAKE_SYSTEM_PROCESSOR MATCHES "x86_64|AMD64")
        return()
    endif()
    set_property(SOURCE ${SLUICE_DISPATCHERS} APPEND PROPERTY COMPILE_DEFINITIONS
        SLUICE_HAVE_${name}=1)
    # Sanitizers are for what reads input; in kernels they cost minutes of compiling a file.
    if(SLUICE_SANITIZE)
        list(APPEND flags -fno-sanitize=all)
    endif()
    if(SLUICE_FUZZ)
        list(APPEND flags -fno-sanitize=fuzzer-no-link)
    endif()
    set_source_files_properties(${ARGN} PROPERTIES COMPILE_OPTIONS "${flags}")
endfunction()

# Kernels of the CPU backend are one loop each, for which -O3 pays.
set(optimise "")
if(NOT SLUICE_SANITIZE) # in Debug builds too: below, GCC warns of loops that it will not unroll
    set(optimise ";-O3")
    set_source_files_properties(src/backend/cpu/float_portable.c PROPERTIES COMPILE_OPTIONS "-O3")
endif()

sluice_isa(AVX2 "-mavx2;-mfma;-mf16c" src/hw/peak_avx2.c)
sluice_isa(AVX2 "-mavx2;-mfma;-mf16c${optimise}" src/backend/cpu/x86_avx2.c
    src/backend/cpu/x86_avx2_q4k.c src/backend/cpu/x86_avx2_q6k.c src/backend/cpu/x86_avx2_q2k.c
    src/backend/cpu/x86_avx2_32.c src/backend/cpu/x86_avx2_float.c
    src/backend/cpu/float_avx2.c)
sluice_isa(AVX512 "-mavx512f;-mavx512bw;-mavx512vl;-mavx512dq${optimise}"
    src/backend/cpu/float_avx512.c)
sluice_isa(AVXVNNI "-mavx2;-mavxvnni" src/hw/peak_avxvnni.c)
sluice_isa(AVX512 "-mavx512f;-mavx512bw;-mavx512vl;-mavx512dq;-mavx512vnni;-mavx512bf16"
    src/hw/peak_avx512.c)
sluice_isa(AVX512 "-mavx512f;-mavx512bw;-mavx512vl;-mavx512dq;-mavx512vnni;-mfma;-mf16c${optimise}"
    src/backend/cpu/x86_avx512.c)
sluice_isa(AVX512_BF16 "-mavx512f;-mavx512bw;-mavx512vl;-mavx512dq;-mavx512bf16;-mfma;-mf16c${optimise}"
    src/backend/cpu/x86_avx512_bf16.c)
sluice_isa(AMX "-mamx-tile;-mamx-int8;-mamx-bf16" src/hw/peak_amx.c)
sluice_isa(AMX "-mamx-tile;-mamx-int8;-mavx512f;-mavx512bw;-mavx512vl;-mavx512dq;-mavx512vnni;-mfma;-mf16c${optimise}"
    src/backend/cpu/x86_amx.c src/backend/cpu/x86_amx_32.c)
sluice_isa(AMX "-mamx-tile;-mamx-bf16;-mavx512f;-mavx512bw;-mavx512vl;-mavx512dq;-mavx512vnni;-mfma;-mf16c${optimise}"
    src/backend/cpu/x86_amx_bf16.c src/backend/cpu/x86_amx_prompt.c)
sluice_isa(AMX "-mamx-tile;-mamx-bf16;-mavx512f;-mavx512bw;-mavx512vl;-mavx512dq;-mavx512vnni;-mavx512bf16;-mfma;-mf16c${optimise}"
    src/backend/cpu/x86_amx_attention.c)
