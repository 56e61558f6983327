# make install: the program, its demo model, and what a program that embeds the engine needs.
# Nothing installed knows where it is: the program looks for the model beside itself, sluice.pc
# for its prefix beside itself, so that `cmake --install --prefix` and DESTDIR both work.
include(GNUInstallDirs)

# What `make build` builds: the program and the plugins that it can load.
add_custom_target(product)
if(TARGET sluice)
    add_dependencies(product sluice)
    install(TARGETS sluice RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
endif()
if(TARGET sluice_cuda)
    add_dependencies(product sluice_cuda)
    install(TARGETS sluice_cuda LIBRARY DESTINATION lib/sluice) # where the registry looks
endif()
install(TARGETS libsluice ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR})
install(FILES include/sluice.h DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
install(FILES models/pebble/pebble-q8_0.gguf DESTINATION share/sluice/models)
install(FILES models/pebble/README.md DESTINATION share/sluice/models RENAME pebble.md)
install(FILES LICENSE THIRD_PARTY DESTINATION share/doc/sluice)

file(RELATIVE_PATH SLUICE_PC_PREFIX "/prefix/${CMAKE_INSTALL_LIBDIR}/pkgconfig" "/prefix")
string(REGEX REPLACE "/$" "" SLUICE_PC_PREFIX "${SLUICE_PC_PREFIX}")
configure_file(cmake/sluice.pc.in ${CMAKE_BINARY_DIR}/sluice.pc @ONLY)
install(FILES ${CMAKE_BINARY_DIR}/sluice.pc DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig)
