# cmake -DSCRATCH=<folder> -P check_layers_self_test.cmake
# Shows that check_layers.cmake is able to fail: one small tree per rule, each with one fault that must be named with its line.
cmake_minimum_required(VERSION 3.25)

set(self_test_failures 0)
string(ASCII 195 164 umlaut)
# expect(<regex or "accepted"> <file below include/peft> <text>), beside two sound headers.
function(expect expected file text)
  file(REMOVE_RECURSE ${SCRATCH})
  file(WRITE ${SCRATCH}/include/peft/core/shape.hpp "#pragma once\n#include <cstddef>\n")
  file(WRITE ${SCRATCH}/include/peft/linear/dense.hpp "#pragma once\n#include <peft/core/shape.hpp>\n")
  file(WRITE ${SCRATCH}/include/peft/linear/int8.hpp "// a comment first; with a list [x] and a \\\n#pragma once\n")
  file(WRITE ${SCRATCH}/include/peft/${file} "${text}")
  execute_process(COMMAND ${CMAKE_COMMAND} -DROOT=${SCRATCH} -P ${CMAKE_CURRENT_FUNCTION_LIST_DIR}/check_layers.cmake
                  RESULT_VARIABLE result OUTPUT_VARIABLE output ERROR_VARIABLE output)
  if(expected STREQUAL "accepted")
    set(ok FALSE)
    if(result EQUAL 0)
      set(ok TRUE)
    endif()
  elseif(NOT result EQUAL 0 AND output MATCHES "${expected}" AND output MATCHES "1 faults in")
    set(ok TRUE)
  else()
    set(ok FALSE)
  endif()
  if(NOT ok)
    message("not as expected: ${expected}\n${output}")
    math(EXPR count "${self_test_failures} + 1")
    set(self_test_failures ${count} PARENT_SCOPE)
  endif()
endfunction()

expect("accepted" core/ok.hpp "#pragma once\n#include <peft/core/shape.hpp>\n\n#include <vector>\n")
expect("accepted" layers/merge.hpp "#pragma once\n#include <peft/linear/dense.hpp>\n")
expect("accepted" ext/eigen.hpp "#pragma once\n#if __has_include(<Eigen/Core>)\n#include <Eigen/Core>\n#endif\n")
expect("<Eigen/SVD> may be included only below ext" linalg/svd.hpp "#pragma once\n#include <Eigen/SVD>\n")
expect("core/bad.hpp:3: core must not include <peft/linear/dense.hpp>" core/bad.hpp
       "#pragma once\n\n#include <peft/linear/dense.hpp>\n")
expect("adapters/low_rank/lora.hpp:2: adapters must not include <peft/linear/dense.hpp>" adapters/low_rank/lora.hpp
       "#pragma once\n#include <peft/linear/dense.hpp>\n")
expect("layers/merge.hpp:2: layers must not include <peft/linear/int8.hpp>" layers/merge.hpp
       "#pragma once\n#include <peft/linear/int8.hpp>\n")
expect("misc/a.hpp:2: include/peft/misc is not a folder" misc/a.hpp "#pragma once\n#include <peft/core/shape.hpp>\n")
expect("core/bad.hpp:2: <peft/core/none.hpp> does not exist" core/bad.hpp "#pragma once\n#include <peft/core/none.hpp>\n")
expect("core/bad.hpp:1: the first directive must be" core/bad.hpp "#include <cstddef>\n#pragma once\n")
expect("core/bad.hpp:1: the first directive must be" core/bad.hpp "// empty\n")
expect("core/bad.hpp:2: includes are spelled" core/bad.hpp "#pragma once\n#include \"shape.hpp\"\n")
expect("core/bad.hpp:3: own includes never stand inside" core/bad.hpp
       "#pragma once\n#if 1\n#include <peft/core/shape.hpp>\n#endif\n")
expect("core/bad.hpp:3: own includes come first" core/bad.hpp
       "#pragma once\n#include <vector>\n#include <peft/core/shape.hpp>\n")
expect("core/bad.hpp:2: <iostream> must not" core/bad.hpp "#pragma once\n#include <iostream>\n")
expect("core/bad.hpp:2: <functional> must not" core/bad.hpp "#pragma once\n#include <functional>\n")
expect("core/bad.hpp:2: <regex> must not" core/bad.hpp "#pragma once\n#include <regex>\n")
expect("core/bad.hpp:2: <nlohmann/json.hpp> may be included only below io/" core/bad.hpp
       "#pragma once\n#include <nlohmann/json.hpp>\n")
expect("core/bad.hpp:2: a character that is not printable ASCII" core/bad.hpp "#pragma once\n// ${umlaut}\n")
expect("core/bad.cpp:1: only .hpp files" core/bad.cpp "int x;\n")

if(self_test_failures GREATER 0)
  message(FATAL_ERROR "check_layers.cmake: ${self_test_failures} cases not as expected")
endif()
message("check_layers.cmake accepts and refuses as expected")
