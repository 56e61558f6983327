# Test: what `make install` leaves is complete and stands on its own: the installed program answers
# with the installed model, and an outsider's program builds against it by pkg-config.
#   cmake -DBUILD=build -DSOURCE=. -DCC=cc -DPKG_CONFIG=pkg-config -P check_install.cmake
cmake_minimum_required(VERSION 3.22)
set(place ${BUILD}/install-test)
file(REMOVE_RECURSE ${place})
unset(ENV{DESTDIR})

function(must what)
    execute_process(COMMAND ${ARGN} WORKING_DIRECTORY ${place} RESULT_VARIABLE result
        OUTPUT_VARIABLE output ERROR_VARIABLE errors)
    if(NOT result EQUAL 0)
        message(FATAL_ERROR "${what}: exit ${result}\n${output}\n${errors}")
    endif()
    set(output "${output}" PARENT_SCOPE)
endfunction()

# Installed once, then moved: nothing may remember the prefix.
file(MAKE_DIRECTORY ${place})
must("install" ${CMAKE_COMMAND} --install ${BUILD} --prefix ${place}/first)
file(RENAME ${place}/first ${place}/prefix)
set(prefix ${place}/prefix)
foreach(file bin/sluice include/sluice.h share/sluice/models/pebble-q8_0.gguf)
    if(NOT EXISTS ${prefix}/${file})
        message(FATAL_ERROR "${file} was not installed")
    endif()
endforeach()

file(GLOB_RECURSE pc ${prefix}/sluice.pc)
get_filename_component(pc_folder "${pc}" DIRECTORY)
if(NOT pc_folder)
    message(FATAL_ERROR "sluice.pc was not installed")
endif()
set(ENV{PKG_CONFIG_PATH} "${pc_folder}:$ENV{PKG_CONFIG_PATH}")
must("pkg-config" ${PKG_CONFIG} --cflags --libs sluice)
separate_arguments(flags UNIX_COMMAND "${output}")
must("compiling examples/chat.c against the installed library"
    ${CC} ${SOURCE}/examples/chat.c ${flags} -o ${place}/chat)

must("the embedded engine's answer" ${place}/chat
    ${prefix}/share/sluice/models/pebble-q8_0.gguf "Hello")
string(STRIP "${output}" embedded)
must("the installed program's answer" ${prefix}/bin/sluice run "Say hello please" -n 8 --temp 0)
string(STRIP "${output}" answered)
if(embedded STREQUAL "" OR answered STREQUAL "")
    message(FATAL_ERROR "an installed program answered nothing")
endif()
message("installed: chat says '${embedded}', sluice says '${answered}'")
