# Compiler flags of single kernel files. The CPU backend has one translation unit per instruction
# set; the portable one relies on loop vectorisation, which GCC does fully only at -O3. Never
# -ffast-math: a sum's order is part of what a kernel promises.
if(NOT CMAKE_BUILD_TYPE STREQUAL "Debug" AND NOT SLUICE_SANITIZE)
    set_source_files_properties(src/backend/cpu/portable.c src/backend/cpu/recurrent.c
        src/backend/cpu/latent.c PROPERTIES COMPILE_OPTIONS "-O3")
endif()
