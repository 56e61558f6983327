# libsluice.a: every module up to engine in one archive, for programs that embed the engine.
#
# Inside, the modules call each other by short names (arena_alloc, error_set, ...), which must not
# meet a name of the program that embeds us. So on Linux all objects are first linked into one
# relocatable object in which only sluice_* stays global; the price is that the archive is linked
# as a whole. Sanitizer builds keep the plain archive: their run-time hooks hang on global names.
set(objects "")
foreach(module IN LISTS SLUICE_MODULES)
    list(APPEND objects $<TARGET_OBJECTS:sluice_${module}>)
endforeach()

set(SLUICE_LIBRARY_HIDES_NAMES OFF)
if(CMAKE_SYSTEM_NAME STREQUAL "Linux" AND CMAKE_OBJCOPY AND CMAKE_LINKER
   AND NOT SLUICE_SANITIZE AND NOT CMAKE_INTERPROCEDURAL_OPTIMIZATION)
    set(SLUICE_LIBRARY_HIDES_NAMES ON)
    set(joined ${CMAKE_BINARY_DIR}/libsluice.o)
    add_custom_command(OUTPUT ${joined}
        COMMAND ${CMAKE_LINKER} -r -o ${joined} ${objects}
        COMMAND ${CMAKE_OBJCOPY} --wildcard --keep-global-symbol=sluice_* ${joined}
        DEPENDS ${objects}
        COMMENT "Joining libsluice.o: only sluice_* stays global"
        COMMAND_EXPAND_LISTS VERBATIM)
    set_source_files_properties(${joined} PROPERTIES EXTERNAL_OBJECT ON GENERATED ON)
    set(objects ${joined})
endif()

add_library(libsluice STATIC ${objects})
set_target_properties(libsluice PROPERTIES OUTPUT_NAME sluice LINKER_LANGUAGE C)
target_link_libraries(libsluice INTERFACE Threads::Threads PkgConfig::JANSSON PkgConfig::XXHASH
    PkgConfig::HWLOC PkgConfig::PCRE2 PkgConfig::UTF8PROC ${CMAKE_DL_LIBS} m)
