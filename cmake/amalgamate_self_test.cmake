# cmake -DSCRATCH=<folder> -P amalgamate_self_test.cmake
# What amalgamate.cmake writes for small trees, and that it refuses each fault by name.
cmake_minimum_required(VERSION 3.25)

set(self_test_failures 0)
# A tree of three sound headers and a part in ext/; further arguments are pairs of a file below include/peft and its text.
function(make_tree)
  file(REMOVE_RECURSE ${SCRATCH})
  file(WRITE ${SCRATCH}/LICENSE "A licence\n\nof two lines.\n")
  file(WRITE ${SCRATCH}/include/peft/config/version.hpp
       "#pragma once\n#define PEFT_VERSION_MAJOR 7\n#define PEFT_VERSION_MINOR 8\n#define PEFT_VERSION_PATCH 9\n")
  file(WRITE ${SCRATCH}/include/peft/core/shape.hpp "#pragma once\n#include <peft/config/version.hpp>\n\n#include <cstddef>\nstruct S { std::size_t s[2]; };\n")
  file(WRITE ${SCRATCH}/include/peft/io/load.hpp "#pragma once\n#include <peft/core/shape.hpp>\nvoid load(S);\n")
  file(WRITE ${SCRATCH}/include/peft/peft.hpp
       "#pragma once\n#include <peft/core/shape.hpp>\n#include <peft/config/version.hpp>\n#if __has_include(<x>)\n#include <peft/io/load.hpp>\n#endif\n")
  file(WRITE ${SCRATCH}/include/peft/ext/eigen.hpp "#pragma once\n#include <peft/core/shape.hpp>\nvoid eigen(S);\n")
  while(ARGN)
    list(POP_FRONT ARGN file text)
    file(WRITE ${SCRATCH}/include/peft/${file} "${text}")
  endwhile()
endfunction()

macro(amalgamate output)
  execute_process(COMMAND ${CMAKE_COMMAND} -DROOT=${SCRATCH} -DOUTPUT=${output} -DFORWARD=${SCRATCH}/forward
                          -P ${CMAKE_CURRENT_FUNCTION_LIST_DIR}/amalgamate.cmake
                  RESULT_VARIABLE result OUTPUT_VARIABLE log ERROR_VARIABLE log)
  string(REGEX REPLACE "[ \n]+" " " log "${log}")   # CMake wraps messages
endmacro()

function(report ok what)
  if(NOT ok)
    message("amalgamate.cmake: ${what}")
    math(EXPR self_test_failures "${self_test_failures} + 1")
  endif()
  set(self_test_failures ${self_test_failures} PARENT_SCOPE)
endfunction()

function(expect_refusal expected)
  make_tree(${ARGN})
  amalgamate(${SCRATCH}/out.hpp)
  set(ok FALSE)
  if(NOT result EQUAL 0 AND log MATCHES "${expected}" AND NOT EXISTS ${SCRATCH}/out.hpp)
    set(ok TRUE)
  endif()
  report(${ok} "not refused with '${expected}':\n${log}")
  set(self_test_failures ${self_test_failures} PARENT_SCOPE)
endfunction()

function(expect_text)
  make_tree()
  amalgamate(${SCRATCH}/out.hpp)
  amalgamate(${SCRATCH}/other/again.hpp)
  file(READ ${SCRATCH}/out.hpp text)
  file(READ ${SCRATCH}/other/again.hpp again)
  string(FIND "${text}" "// ---- peft/config/version.hpp ----\n\n#define PEFT_VERSION_MAJOR 7\n" version_at)
  string(FIND "${text}" "// ---- peft/core/shape.hpp ----\n\n#include <cstddef>\nstruct S { std::size_t s[2]; };\n" shape_at)
  string(FIND "${text}" "\n#if __has_include(<x>)\n\n// ---- peft/io/load.hpp ----\n\nvoid load(S);\n" load_at)
  string(FIND "${text}" "#endif  // PEFT_SINGLE_HEADER\n\n#if defined(PEFT_WITH_EIGEN) && " switch_at)
  string(FIND "${text}" "// ---- peft/ext/eigen.hpp ----\n\nvoid eigen(S);\n" eigen_at)
  string(REGEX MATCHALL "struct S" copies "${text}")
  list(LENGTH copies copies)
  set(ok FALSE)
  if(text MATCHES "^// peft 7[.]8[.]9: " AND text MATCHES "// A licence\n//\n// of two lines[.]\n" AND copies EQUAL 1
     AND version_at GREATER 0 AND shape_at GREATER version_at AND load_at GREATER shape_at AND switch_at GREATER load_at
     AND eigen_at GREATER switch_at AND NOT text MATCHES "#pragma once|#include <peft")
    set(ok TRUE)
  endif()
  report(${ok} "not the expected text:\n${text}")
  set(ok FALSE)
  if(text STREQUAL again AND NOT text MATCHES "${SCRATCH}")
    set(ok TRUE)
  endif()
  report(${ok} "the text depends on where it is written")

  file(WRITE ${SCRATCH}/forward/peft/core/gone.hpp "")
  amalgamate(${SCRATCH}/out.hpp)
  file(READ ${SCRATCH}/forward/peft/core/shape.hpp shape)
  file(READ ${SCRATCH}/forward/peft/ext/eigen.hpp eigen)
  set(ok FALSE)
  if(shape STREQUAL "#include \"../../../out.hpp\"\n" AND eigen MATCHES "#define PEFT_WITH_EIGEN 1\n#endif\n#include "
     AND NOT EXISTS ${SCRATCH}/forward/peft/core/gone.hpp)
    set(ok TRUE)
  endif()
  report(${ok} "not the expected forwarding headers:\n${shape}\n${eigen}")
  # What was not generated stays.
  file(READ ${SCRATCH}/include/peft/core/shape.hpp source)
  file(WRITE ${SCRATCH}/forward/peft/mine.hpp "int mine;\n")
  amalgamate(${SCRATCH}/out.hpp)
  set(ok FALSE)
  if(NOT result EQUAL 0 AND log MATCHES "FORWARD holds peft/mine.hpp" AND EXISTS ${SCRATCH}/forward/peft/mine.hpp)
    set(ok TRUE)
  endif()
  report(${ok} "a header that was not generated is not safe in FORWARD:\n${log}")
  file(REMOVE ${SCRATCH}/forward/peft/mine.hpp)
  foreach(output IN ITEMS include/peft/peft.hpp forward/peft/peft.hpp)
    amalgamate(${SCRATCH}/${output})
    set(ok FALSE)
    if(NOT result EQUAL 0 AND log MATCHES "OUTPUT lies ")
      set(ok TRUE)
    endif()
    report(${ok} "OUTPUT = ${output} is not refused:\n${log}")
    make_tree()
  endforeach()
  execute_process(COMMAND ${CMAKE_COMMAND} -DROOT=${SCRATCH} -DOUTPUT=${SCRATCH}/out.hpp -DFORWARD=${SCRATCH}/include
                          -P ${CMAKE_CURRENT_FUNCTION_LIST_DIR}/amalgamate.cmake RESULT_VARIABLE result OUTPUT_QUIET ERROR_QUIET)
  file(READ ${SCRATCH}/include/peft/core/shape.hpp after)
  set(ok FALSE)
  if(NOT result EQUAL 0 AND after STREQUAL source)
    set(ok TRUE)
  endif()
  report(${ok} "FORWARD = include writes over the sources")
  set(self_test_failures ${self_test_failures} PARENT_SCOPE)
endfunction()

expect_text()
expect_refusal("a cycle of includes: .*peft/core/shape.hpp -> peft/core/b.hpp -> peft/core/shape.hpp"
               core/shape.hpp "#pragma once\n#include <peft/core/b.hpp>\n" core/b.hpp "#pragma once\n#include <peft/core/shape.hpp>\n")
expect_refusal("peft/core/shape.hpp includes <peft/core/none.hpp>, which does not exist"
               core/shape.hpp "#pragma once\n#include <peft/core/none.hpp>\n")
expect_refusal("peft/core/shape.hpp includes <peft/config/version.hpp> inside #if"
               core/shape.hpp "#pragma once\n#if 1\n#include <peft/config/version.hpp>\n#endif\n")
expect_refusal("reaches peft/core/alone.hpp" core/alone.hpp "#pragma once\n")
expect_refusal("peft/ext/eigen.hpp includes <peft/io/load.hpp>, which was first used in the part '#if of peft/peft.hpp'"
               ext/eigen.hpp "#pragma once\n#include <peft/io/load.hpp>\n")

if(self_test_failures GREATER 0)
  message(FATAL_ERROR "amalgamate.cmake: ${self_test_failures} cases not as expected")
endif()
message("amalgamate.cmake writes and refuses as expected")
