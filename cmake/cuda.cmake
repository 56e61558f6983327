# The CUDA backend: sluice-cuda.so, a plugin that the registry loads where a driver is present, and
# sluice-cuda-test, a program that carries all it needs to a bare GPU machine.
#
# nvcc compiles the kernels through plain custom commands instead of CMake's CUDA language: that
# would link libstdc++ and a shared runtime into whatever contains a .cu file. Kernels are compiled
# without contraction (--fmad=false), like the rest of sluice.
set(SLUICE_CUDA_ARCHITECTURES "90" CACHE STRING "Compute capabilities to compile kernels for")

if(SLUICE_CUDA STREQUAL "OFF" OR NOT SLUICE_CUDA)
    return()
endif()

find_program(SLUICE_NVCC nvcc HINTS $ENV{CUDA_HOME}/bin $ENV{CUDA_PATH}/bin /usr/local/cuda/bin)
if(SLUICE_NVCC)
    file(REAL_PATH ${SLUICE_NVCC} cuda_root)
    get_filename_component(cuda_root ${cuda_root} DIRECTORY)
    get_filename_component(cuda_root ${cuda_root} DIRECTORY)
endif()
find_library(SLUICE_CUDART NAMES libcudart_static.a
    HINTS ${cuda_root}/lib64 ${cuda_root}/targets/${CMAKE_SYSTEM_PROCESSOR}-linux/lib)
find_path(SLUICE_CUDA_INCLUDE cuda_runtime_api.h
    HINTS ${cuda_root}/include ${cuda_root}/targets/${CMAKE_SYSTEM_PROCESSOR}-linux/include)
if(NOT SLUICE_NVCC OR NOT SLUICE_CUDART OR NOT SLUICE_CUDA_INCLUDE)
    if(SLUICE_CUDA STREQUAL "AUTO")
        message(STATUS "CUDA backend: not built, no nvcc with the static runtime was found")
        return()
    endif()
    message(FATAL_ERROR "SLUICE_CUDA is ${SLUICE_CUDA}, but nvcc, libcudart_static.a or "
        "cuda_runtime_api.h was not found. Install the CUDA toolkit, set CUDA_HOME, or configure "
        "with -DSLUICE_CUDA=OFF")
endif()
message(STATUS "CUDA backend: ${SLUICE_NVCC}, compute capability ${SLUICE_CUDA_ARCHITECTURES}")

# ---- kernels --------------------------------------------------------------------------------------

set(nvcc_flags -std=c++17 -O2 --fmad=false -I${CMAKE_SOURCE_DIR}/src
    -Xcompiler -fPIC,-fno-exceptions,-fno-rtti,-fno-threadsafe-statics,-fvisibility=hidden,-ffp-contract=off
    -Xcompiler -Wall,-Wextra)
if(SLUICE_WERROR)
    list(APPEND nvcc_flags -Werror all-warnings)
endif()
foreach(architecture IN LISTS SLUICE_CUDA_ARCHITECTURES)
    list(APPEND nvcc_flags -gencode arch=compute_${architecture},code=sm_${architecture})
endforeach()

set(cuda_objects "")
file(GLOB kernels CONFIGURE_DEPENDS src/backend/cuda/*.cu)
file(MAKE_DIRECTORY ${CMAKE_BINARY_DIR}/cuda)
foreach(kernel IN LISTS kernels)
    get_filename_component(name ${kernel} NAME_WE)
    set(object ${CMAKE_BINARY_DIR}/cuda/${name}.o)
    add_custom_command(OUTPUT ${object}
        COMMAND ${SLUICE_NVCC} ${nvcc_flags} -MD -MF ${object}.d -c ${kernel} -o ${object}
        DEPENDS ${kernel}
        DEPFILE ${object}.d
        COMMENT "Compiling ${name}.cu"
        VERBATIM)
    list(APPEND cuda_objects ${object})
endforeach()
set_source_files_properties(${cuda_objects} PROPERTIES EXTERNAL_OBJECT ON GENERATED ON)

file(GLOB cuda_sources CONFIGURE_DEPENDS src/backend/cuda/*.c)
set(cuda_plugin_source ${CMAKE_SOURCE_DIR}/src/backend/cuda/plugin.c)
list(REMOVE_ITEM cuda_sources ${cuda_plugin_source})

# The backend whole: what the plugin and the test program are linked from.
add_library(sluice_backend_cuda STATIC ${cuda_sources} ${cuda_objects})
target_include_directories(sluice_backend_cuda SYSTEM PRIVATE ${SLUICE_CUDA_INCLUDE})
set_target_properties(sluice_backend_cuda PROPERTIES LINKER_LANGUAGE C C_VISIBILITY_PRESET hidden)

# The module archives by path, so that no shared library comes along with what is not used of them.
set(cuda_modules backend sample program quant base)
set(cuda_archives "")
foreach(module IN LISTS cuda_modules)
    list(APPEND cuda_archives $<TARGET_FILE:sluice_${module}>)
endforeach()
set(cuda_system ${SLUICE_CUDART} Threads::Threads m ${CMAKE_DL_LIBS} rt)

# ---- plugin ---------------------------------------------------------------------------------------

# Nothing but the entry point is visible, so that the plugin and the program that loads it, which
# share modules, never meet; nothing is left undefined either.
add_library(sluice_cuda MODULE ${cuda_plugin_source})
set_target_properties(sluice_cuda PROPERTIES PREFIX "" OUTPUT_NAME sluice-cuda
    C_VISIBILITY_PRESET hidden LIBRARY_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR})
target_link_libraries(sluice_cuda PRIVATE $<TARGET_FILE:sluice_backend_cuda> ${cuda_archives}
    ${cuda_system})
target_link_options(sluice_cuda PRIVATE LINKER:--exclude-libs,ALL LINKER:--gc-sections)
if(NOT SLUICE_SANITIZE)
    target_link_options(sluice_cuda PRIVATE LINKER:-z,defs)
endif()
add_dependencies(sluice_cuda sluice_backend_cuda)
foreach(module IN LISTS cuda_modules)
    add_dependencies(sluice_cuda sluice_${module})
endforeach()

# ---- test program ---------------------------------------------------------------------------------

# Runs on a machine that has a GPU and nothing else: every library except libc, libm and pthread is
# linked from its archive.
if(NOT SLUICE_TESTS)
    return()
endif()
set(cuda_static "")
foreach(library jansson pcre2-8 utf8proc xxhash)
    find_library(SLUICE_STATIC_${library} NAMES lib${library}.a)
    if(NOT SLUICE_STATIC_${library})
        message(STATUS "CUDA backend: no sluice-cuda-test, lib${library}.a was not found")
        return()
    endif()
    list(APPEND cuda_static ${SLUICE_STATIC_${library}})
endforeach()

set(cuda_test_modules model format text backend hw program sample quant base)
set(cuda_test_archives "")
foreach(module IN LISTS cuda_test_modules)
    list(APPEND cuda_test_archives $<TARGET_FILE:sluice_${module}>)
endforeach()
file(GLOB cuda_test_sources CONFIGURE_DEPENDS tests/cuda/*.c tests/kernel/op_*.c)
add_executable(sluice_cuda_test ${cuda_test_sources})
set_target_properties(sluice_cuda_test PROPERTIES OUTPUT_NAME sluice-cuda-test)
target_include_directories(sluice_cuda_test PRIVATE tests/kernel tests/tools ${JANSSON_INCLUDE_DIRS})
target_link_libraries(sluice_cuda_test PRIVATE $<TARGET_FILE:sluice_backend_cuda>
    ${cuda_test_archives} ${cuda_static} ${cuda_system})
target_link_options(sluice_cuda_test PRIVATE LINKER:--gc-sections)
add_dependencies(sluice_cuda_test sluice_backend_cuda)
foreach(module IN LISTS cuda_test_modules)
    add_dependencies(sluice_cuda_test sluice_${module})
endforeach()

# Without a GPU the program says so and the test counts as skipped.
add_test(NAME cuda/device COMMAND sluice_cuda_test ${CMAKE_SOURCE_DIR})
set_tests_properties(cuda/device PROPERTIES LABELS cuda TIMEOUT 600 SKIP_RETURN_CODE 77)
