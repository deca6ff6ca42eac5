# cmake -DCOMPILER=<path> -DSOURCE=<file> -DINCLUDES=<dir|dir|...> -P compile_fail.cmake
# The source must be refused, and the compiler's output must match the regex of its first line, '// expect: <regex>'.
# If the source mentions PEFT_FIXED it must compile with -DPEFT_FIXED.
cmake_minimum_required(VERSION 3.25)

file(STRINGS ${SOURCE} first LIMIT_COUNT 1)
if(NOT first MATCHES "^// expect: *(.+)$")
  message(FATAL_ERROR "${SOURCE}:1: the first line must be '// expect: <regex>'")
endif()
set(expected "${CMAKE_MATCH_1}")

string(REPLACE "|" ";" INCLUDES "${INCLUDES}")
list(REMOVE_ITEM INCLUDES "" "/usr/include")
list(TRANSFORM INCLUDES PREPEND "-I")
set(command ${COMPILER} -std=c++20 -fsyntax-only ${INCLUDES})

execute_process(COMMAND ${command} ${SOURCE} RESULT_VARIABLE result OUTPUT_VARIABLE output ERROR_VARIABLE output)
if(result EQUAL 0)
  message(FATAL_ERROR "${SOURCE}: compiles, but must be refused with: ${expected}")
elseif(NOT output MATCHES "${expected}")
  message(FATAL_ERROR "${SOURCE}: refused, but not with the expected text\nexpected: ${expected}\nfound:\n${output}")
endif()

file(READ ${SOURCE} text)
if(text MATCHES "PEFT_FIXED")
  execute_process(COMMAND ${command} -DPEFT_FIXED ${SOURCE} RESULT_VARIABLE result OUTPUT_VARIABLE output
                  ERROR_VARIABLE output)
  if(NOT result EQUAL 0)
    message(FATAL_ERROR "${SOURCE}: is refused with -DPEFT_FIXED too, so something else is wrong with it:\n${output}")
  endif()
endif()
