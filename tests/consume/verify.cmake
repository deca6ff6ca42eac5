# cmake -DINSTALLS=<file|file...> -P verify.cmake, in the build folder of a consumer: its program works, and installing the consumer installs
# nothing, or INSTALLS among others if it asked for the install rules of the library.
cmake_minimum_required(VERSION 3.25)
string(REPLACE "|" ";" INSTALLS "${INSTALLS}")
find_program(consumer consumer PATHS . Debug Release NO_DEFAULT_PATH NO_CACHE REQUIRED)
execute_process(COMMAND ${consumer} COMMAND_ERROR_IS_FATAL ANY)

file(REMOVE_RECURSE installed)
execute_process(COMMAND ${CMAKE_COMMAND} --install . --prefix ${CMAKE_BINARY_DIR}/installed OUTPUT_QUIET COMMAND_ERROR_IS_FATAL ANY)
file(GLOB_RECURSE files RELATIVE ${CMAKE_BINARY_DIR}/installed installed/*)
if(NOT INSTALLS AND files)
  message(FATAL_ERROR "installing the consumer installs: ${files}")
endif()
foreach(file IN LISTS INSTALLS)
  if(NOT file IN_LIST files)
    message(FATAL_ERROR "installing the consumer does not install ${file}, but: ${files}")
  endif()
endforeach()
