# The generated single header: <build>/single/peft.hpp, made by the target 'single_header'. With PEFT_TEST_SINGLE_HEADER it is
# made while configuring, and peft_include_dir is a folder in which each header of the library only includes it.
set(single_command ${CMAKE_COMMAND} -DOUTPUT=${PROJECT_BINARY_DIR}/single/peft.hpp -P ${PROJECT_SOURCE_DIR}/cmake/amalgamate.cmake)
if(NOT PEFT_TEST_SINGLE_HEADER)
  add_custom_target(single_header COMMAND ${single_command} VERBATIM)
  return()
endif()

set(peft_include_dir ${PROJECT_BINARY_DIR}/forward)
file(GLOB_RECURSE headers CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/include/peft/*.hpp)
set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS ${headers} ${PROJECT_SOURCE_DIR}/cmake/amalgamate.cmake)
list(INSERT single_command 1 -DFORWARD=${peft_include_dir})
execute_process(COMMAND ${single_command} COMMAND_ERROR_IS_FATAL ANY)
