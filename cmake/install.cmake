# cmake --install: the headers and what find_package(peft) needs.
include(CMakePackageConfigHelpers)
include(GNUInstallDirs)

set(peft_config_dir ${CMAKE_INSTALL_DATAROOTDIR}/cmake/peft)
install(DIRECTORY ${PROJECT_SOURCE_DIR}/include/ DESTINATION ${CMAKE_INSTALL_INCLUDEDIR} FILES_MATCHING PATTERN "*.hpp")
install(TARGETS peft EXPORT peft-targets INCLUDES DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
install(EXPORT peft-targets NAMESPACE peft:: DESTINATION ${peft_config_dir})

configure_package_config_file(${PROJECT_SOURCE_DIR}/cmake/peft-config.cmake.in ${PROJECT_BINARY_DIR}/peft-config.cmake
                              INSTALL_DESTINATION ${peft_config_dir} NO_SET_AND_CHECK_MACRO)
# Before 1.0 a minor version may change the interface.
write_basic_package_version_file(${PROJECT_BINARY_DIR}/peft-config-version.cmake COMPATIBILITY SameMinorVersion
                                 ARCH_INDEPENDENT)
install(FILES ${PROJECT_BINARY_DIR}/peft-config.cmake ${PROJECT_BINARY_DIR}/peft-config-version.cmake
        DESTINATION ${peft_config_dir})
install(FILES ${PROJECT_SOURCE_DIR}/LICENSE DESTINATION ${CMAKE_INSTALL_DOCDIR})
