# cmake -DROOT=<repository> -P check_layers.cmake
# Checks include/peft/** against the table "Who may include whom" and the rules for files of the style guide. Each fault is
# printed as file:line: rule. Checked here:
#   - a header includes only what its row below allows; an included <peft/...> exists
#   - '#pragma once' is the first directive; includes are spelled <peft/...>, never relative, own ones first and never inside
#     #if (peft.hpp, the umbrella, may)
#   - no <iostream>, <regex>, <functional>, and none of the C++20 headers that clang 14 lacks
#   - third-party headers only where the table of dependencies puts them
#   - ASCII only, no tabs
cmake_minimum_required(VERSION 3.25)

# Row: what headers of a folder may include. 'folder' stands for all of it, 'folder/file.hpp' for one file. Besides this each
# folder may include itself and config/.
set(allow_config    "")
set(allow_core      "")
set(allow_simd      core)
set(allow_kernels   core simd)
set(allow_linalg    core simd kernels)
set(allow_forms     core simd kernels)
set(allow_linear    core simd kernels)
set(allow_adapters  core kernels linalg forms)
set(allow_layers    core kernels linear/dense.hpp)
set(allow_select    core kernels linalg)
set(allow_compose   core kernels linalg)
set(allow_optim     core kernels linalg)
set(allow_io        core kernels adapters/all.hpp layers/bank.hpp layers/adapted.hpp layers/any_adapter.hpp layers/chain.hpp optim/schedule.hpp)
set(allow_train     core layers optim select adapters)
set(allow_ext       core linear layers)
set(allow_fwd.hpp   core)
set(allow_peft.hpp  fwd.hpp core simd kernels linalg forms linear adapters layers select compose optim io train)

# Third-party headers: where they may be included at all.
set(third_party_rules
    "^nlohmann/=io"
    "^(Eigen|unsupported)/=ext"
    "^xtensor/|^xtl/=ext"
    "^mpi\\.h=ext"
    "^cblas=ext")

set(forbidden "^(iostream|regex|functional|ranges|source_location|format|print)$")

set(faults 0)
function(fault file line text)
  message("include/${file}:${line}: ${text}")
  math(EXPR count "${faults} + 1")
  set(faults ${count} PARENT_SCOPE)
endfunction()

# Sets 'verdict' to the rule that is broken when <peft/${target}> is included by ${header}, or to "".
function(judge header target)
  string(REGEX REPLACE "^peft/" "" header ${header})
  string(REGEX REPLACE "/.*$" "" from ${header})
  string(REGEX REPLACE "/.*$" "" to ${target})
  set(verdict "" PARENT_SCOPE)
  if(NOT DEFINED allow_${from})
    set(verdict "include/peft/${from} is not a folder of the table in cmake/check_layers.cmake" PARENT_SCOPE)
  elseif(NOT to STREQUAL from AND NOT to STREQUAL "config" AND NOT to IN_LIST allow_${from}
         AND NOT target IN_LIST allow_${from})
    list(JOIN allow_${from} ", " allowed)
    set(verdict "${from} must not include <peft/${target}> (${from} may include: ${from}, config, ${allowed})" PARENT_SCOPE)
  endif()
endfunction()

file(GLOB_RECURSE headers RELATIVE ${ROOT}/include ${ROOT}/include/peft/*)
list(LENGTH headers header_count)
if(header_count EQUAL 0)
  message(FATAL_ERROR "no headers below ${ROOT}/include/peft")
endif()

foreach(header IN LISTS headers)
  if(NOT header MATCHES "\\.hpp$")
    fault(${header} 1 "only .hpp files belong below include/")
    continue()
  endif()
  file(READ ${ROOT}/include/${header} text)
  # Characters that mean something in a CMake list; none of them matters for the rules.
  string(REGEX REPLACE "[][\\;]" " " text "${text}")
  string(REPLACE "\n" ";" lines "${text}")
  string(REGEX REPLACE "^peft/([^/]+).*$" "\\1" folder ${header})

  set(number 0)
  set(depth 0)
  set(first_directive TRUE)
  set(others_seen "")
  foreach(line IN LISTS lines)
    math(EXPR number "${number} + 1")
    if(line MATCHES "[^ -~]")
      fault(${header} ${number} "a character that is not printable ASCII (tabs included)")
    endif()
    if(NOT line MATCHES "^ *#")
      continue()
    endif()
    if(first_directive)
      set(first_directive FALSE)
      if(NOT line MATCHES "^#pragma once *$")
        fault(${header} ${number} "the first directive must be '#pragma once'")
      endif()
    endif()

    if(line MATCHES "^ *# *if")
      math(EXPR depth "${depth} + 1")
    elseif(line MATCHES "^ *# *endif")
      math(EXPR depth "${depth} - 1")
    elseif(line MATCHES "^ *# *include *\"")
      fault(${header} ${number} "includes are spelled <peft/...>, never relative or in quotes")
    elseif(line MATCHES "^ *# *include *<peft/([^>]+)>")
      set(target ${CMAKE_MATCH_1})
      judge(${header} ${target})
      if(verdict)
        fault(${header} ${number} "${verdict}")
      endif()
      if(NOT EXISTS ${ROOT}/include/peft/${target})
        fault(${header} ${number} "<peft/${target}> does not exist")
      endif()
      if(depth GREATER 0 AND NOT header STREQUAL "peft/peft.hpp")
        fault(${header} ${number} "own includes never stand inside #if")
      endif()
      if(others_seen AND NOT header STREQUAL "peft/peft.hpp")
        fault(${header} ${number} "own includes come first, but <${others_seen}> stands before")
      endif()
    elseif(line MATCHES "^ *# *include *<([^>]+)>")
      set(target ${CMAKE_MATCH_1})
      set(others_seen ${target})
      if(target MATCHES "${forbidden}")
        fault(${header} ${number} "<${target}> must not be included by a public header")
      endif()
      foreach(rule IN LISTS third_party_rules)
        string(REGEX MATCH "^(.*)=(.*)$" rule "${rule}")
        set(pattern "${CMAKE_MATCH_1}")
        string(REPLACE " " ";" places "${CMAKE_MATCH_2}")
        if(target MATCHES "${pattern}" AND NOT folder IN_LIST places)
          list(JOIN places "/, " places)
          fault(${header} ${number} "<${target}> may be included only below ${places}/")
        endif()
      endforeach()
    endif()
  endforeach()
  if(first_directive)
    fault(${header} 1 "the first directive must be '#pragma once'")
  endif()
endforeach()

if(faults GREATER 0)
  message(FATAL_ERROR "${faults} faults in ${header_count} headers")
endif()
message("${header_count} headers keep the rules")
