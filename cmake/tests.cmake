# Tests: tests/unit/MODULE/test_*.c links only that module (and what is below it), so a lower module
# cannot lean on a higher one; tests/{kernel,golden,sched}/test_*.c link everything.
# A program reads the committed fixtures by SLUICE_SOURCE_DIR; SLUICE_SHARED (environment) names a
# folder with the larger public data, and tests that need it skip with a message where it is absent.
pkg_check_modules(CMOCKA REQUIRED IMPORTED_TARGET cmocka)

file(GLOB_RECURSE tool_sources CONFIGURE_DEPENDS tests/tools/*.c)
if(tool_sources)
    add_library(sluice_test_tools STATIC ${tool_sources})
    target_link_libraries(sluice_test_tools PUBLIC sluice_base PkgConfig::CMOCKA)
    target_include_directories(sluice_test_tools PUBLIC tests/tools)
    target_compile_definitions(sluice_test_tools PUBLIC SLUICE_SOURCE_DIR="${CMAKE_SOURCE_DIR}"
        SLUICE_BINARY_DIR="${CMAKE_BINARY_DIR}")
endif()

function(sluice_test source label)
    get_filename_component(name ${source} NAME_WE)
    add_executable(${name} ${source})
    target_link_libraries(${name} PRIVATE sluice_test_tools ${ARGN})
    set_target_properties(${name} PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/tests)
    add_test(NAME ${label}/${name} COMMAND ${name})
    set_tests_properties(${label}/${name} PROPERTIES LABELS ${label} TIMEOUT 1200
        WORKING_DIRECTORY ${CMAKE_SOURCE_DIR})
endfunction()

foreach(module IN LISTS SLUICE_MODULES)
    file(GLOB tests CONFIGURE_DEPENDS tests/unit/${module}/test_*.c)
    foreach(test IN LISTS tests)
        sluice_test(${test} unit sluice_${module})
        get_filename_component(name ${test} NAME_WE)
        set_property(TEST unit/${name} APPEND PROPERTY LABELS ${module})
    endforeach()
endforeach()
foreach(name test_sched test_budget)
    target_sources(${name} PRIVATE tests/unit/sched/sched_kit.c)
endforeach()
# Tests of hostile files count what the parsers allocate. Apple's linker cannot wrap symbols; there
# only the JSON library's allocations are counted.
foreach(name test_hostile test_hostile_safetensors)
    if(TARGET ${name} AND NOT APPLE)
        target_link_options(${name} PRIVATE LINKER:--wrap=malloc,--wrap=calloc,--wrap=realloc)
        target_compile_definitions(${name} PRIVATE SLUICE_WRAPS_MALLOC)
    endif()
endforeach()
foreach(label kernel golden sched)
    file(GLOB tests CONFIGURE_DEPENDS tests/${label}/test_*.c)
    foreach(test IN LISTS tests)
        sluice_test(${test} ${label} sluice_engine)
    endforeach()
endforeach()
# The program as a user meets it.
if(TARGET sluice)
    sluice_test(tests/cli/test_cli.c cli)
    add_dependencies(test_cli sluice)
endif()
# Operation cases, their kit and stand-in kernels. The CUDA test program compiles the first two itself.
file(GLOB kernel_tools CONFIGURE_DEPENDS tests/kernel/op_*.c tests/kernel/prompt_kernels.c)
add_library(sluice_kernel_tools STATIC ${kernel_tools})
target_link_libraries(sluice_kernel_tools PUBLIC sluice_backend)
target_include_directories(sluice_kernel_tools PUBLIC tests/kernel PRIVATE tests/tools)
foreach(name test_operations test_identity test_classes test_float_kernels test_quality test_sharing)
    target_link_libraries(${name} PRIVATE sluice_kernel_tools)
endforeach()

# Over sockets, as clients see it.
file(GLOB tests CONFIGURE_DEPENDS tests/http/test_*.c)
foreach(test IN LISTS tests)
    get_filename_component(name ${test} NAME_WE)
    if(name STREQUAL test_process AND NOT TARGET sluice)
        continue() # it runs the program
    endif()
    sluice_test(${test} http sluice_server sluice_bench)
endforeach()
if(TARGET test_process)
    add_dependencies(test_process sluice)
endif()

# The official clients; skipped without node, npm or network.
if(TARGET sluice AND NOT SLUICE_SANITIZE)
    add_test(NAME http/clients COMMAND ${CMAKE_SOURCE_DIR}/tests/http/clients.sh
        $<TARGET_FILE:sluice> ${CMAKE_BINARY_DIR})
    set_tests_properties(http/clients PROPERTIES LABELS http TIMEOUT 300 SKIP_RETURN_CODE 77)
endif()

# The example embeds the engine as anybody would: through libsluice.a and include/sluice.h.
add_executable(example_chat examples/chat.c)
target_link_libraries(example_chat PRIVATE libsluice)
add_test(NAME examples/chat COMMAND example_chat models/pebble/pebble-q8_0.gguf "Hello"
    "My name is Nora." "What is my name?")
set_tests_properties(examples/chat PROPERTIES LABELS examples TIMEOUT 120
    WORKING_DIRECTORY ${CMAKE_SOURCE_DIR} PASS_REGULAR_EXPRESSION "How can I help you.*Nora")

# A few seconds of the soak; `make soak` is the long form.
add_executable(soak tests/soak/soak.c)
target_link_libraries(soak PRIVATE libsluice)
add_test(NAME soak/engine COMMAND soak models/pebble/pebble-q8_0.gguf 5)
set_tests_properties(soak/engine PROPERTIES LABELS soak TIMEOUT 120
    WORKING_DIRECTORY ${CMAKE_SOURCE_DIR})

# What the ThreadSanitizer stage of .ci/run picks: tests in which several threads meet. The real
# engine is there by its soak; golden/test_engine, which runs the scalar reference too, takes too long.
foreach(name soak/engine unit/test_threads unit/test_file unit/test_loop unit/test_many unit/test_models
        http/test_transport http/test_openai http/test_streams http/test_crowd
        http/test_serving_models examples/chat)
    if(TEST ${name})
        set_property(TEST ${name} APPEND PROPERTY LABELS threads)
    endif()
endforeach()

# The architecture: which module may include which.
sluice_test(tests/layering/test_layering.c layering)

# What embedders and `make install` get. A sanitized archive cannot be linked by a plain compiler.
if(SLUICE_LIBRARY_HIDES_NAMES)
    add_test(NAME library/symbols COMMAND ${CMAKE_COMMAND} -DNM=${CMAKE_NM}
        -DARCHIVE=$<TARGET_FILE:libsluice> -DHEADER=${CMAKE_SOURCE_DIR}/include/sluice.h
        -P ${CMAKE_SOURCE_DIR}/cmake/check_symbols.cmake)
    set_tests_properties(library/symbols PROPERTIES LABELS library TIMEOUT 60)
endif()
if(TARGET sluice AND NOT SLUICE_SANITIZE)
    add_test(NAME library/install COMMAND ${CMAKE_COMMAND} -DBUILD=${CMAKE_BINARY_DIR}
        -DSOURCE=${CMAKE_SOURCE_DIR} -DCC=${CMAKE_C_COMPILER}
        -DPKG_CONFIG=${PKG_CONFIG_EXECUTABLE}
        -P ${CMAKE_SOURCE_DIR}/cmake/check_install.cmake)
    set_tests_properties(library/install PROPERTIES LABELS library TIMEOUT 120)
endif()

# Measurements, built on demand (ninja bench_kernels bench_attention), not run as tests.
add_executable(bench_kernels EXCLUDE_FROM_ALL tests/bench/bench_kernels.c)
target_link_libraries(bench_kernels PRIVATE sluice_backend)
target_include_directories(bench_kernels PRIVATE tests/tools)
set_target_properties(bench_kernels PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/tests)
add_executable(bench_attention EXCLUDE_FROM_ALL tests/bench/bench_attention.c)
target_link_libraries(bench_attention PRIVATE sluice_kernel_tools)
target_include_directories(bench_attention PRIVATE tests/tools)
set_target_properties(bench_attention PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/tests)
add_executable(bench_sched EXCLUDE_FROM_ALL tests/bench/bench_sched.c)
target_link_libraries(bench_sched PRIVATE sluice_sched)
set_target_properties(bench_sched PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/tests)
add_executable(bench_streams EXCLUDE_FROM_ALL tests/bench/bench_streams.c)
target_link_libraries(bench_streams PRIVATE sluice_engine)
target_include_directories(bench_streams PRIVATE tests/tools)
set_target_properties(bench_streams PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/tests)
add_executable(bench_idle EXCLUDE_FROM_ALL tests/bench/bench_idle.c)
target_link_libraries(bench_idle PRIVATE sluice_server)
set_target_properties(bench_idle PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/tests)
add_executable(bench_alone EXCLUDE_FROM_ALL tests/bench/bench_alone.c)
target_link_libraries(bench_alone PRIVATE sluice_server)
set_target_properties(bench_alone PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/tests)
