# cmake -DCOMPILER=<c++> -DFLAGS=<flag|flag...> -DWIDE=<flag|flag...> -DSOURCES=<folder> -DSCRATCH=<folder> -P odr_guard.cmake
# Compiles SOURCES/unit.cpp twice, with FLAGS (function odr_plain) and with FLAGS and WIDE (odr_wide), links both orders with
# main.cpp and runs them. Then no weak function that both objects define, and so the linker picks one of, may compute with VEX or
# EVEX instructions in the wide object: it would run where the processor lacks them, or give other numbers than its unit asked for.
#
# A fault is a function of ours (peft in its mangled name: instantiations of the standard library over our types too). Others, and
# functions that only move data, are counted, not refused: with -mavx the compiler copies every std::string and clears every struct
# with VEX moves, in the standard library as well, and no header can prevent that. They are correct on each processor that the
# wide unit was meant for; a program that must also start on older ones compiles all units without -m flags (the library picks
# its kernels at run time) or keeps the wide unit in a shared library of its own.
cmake_minimum_required(VERSION 3.25)
foreach(tool IN ITEMS nm objdump awk)
  find_program(${tool} ${tool} NO_CACHE)
  if(NOT ${tool})
    message("odr_guard: skipped, there is no ${tool}")
    return()
  endif()
endforeach()
foreach(list IN ITEMS FLAGS WIDE)
  string(REPLACE "|" ";" ${list} "${${list}}")
endforeach()
file(REMOVE_RECURSE ${SCRATCH})
file(MAKE_DIRECTORY ${SCRATCH})

function(run)
  execute_process(COMMAND ${ARGN} WORKING_DIRECTORY ${SCRATCH} RESULT_VARIABLE result OUTPUT_VARIABLE output ERROR_VARIABLE output)
  if(NOT result EQUAL 0)
    list(JOIN ARGN " " command)
    message(FATAL_ERROR "odr_guard: ${command}: ${result}\n${output}")
  endif()
endfunction()

file(WRITE ${SCRATCH}/probe.cpp "int probe() { return 0; }\n")
execute_process(COMMAND ${COMPILER} ${FLAGS} ${WIDE} -c probe.cpp WORKING_DIRECTORY ${SCRATCH} RESULT_VARIABLE result OUTPUT_QUIET ERROR_QUIET)
if(NOT result EQUAL 0)
  message("odr_guard: skipped, ${COMPILER} has no ${WIDE}")
  return()
endif()
run(${COMPILER} ${FLAGS} -c ${SOURCES}/main.cpp -o main.o)
run(${COMPILER} ${FLAGS} -DODR_UNIT=odr_plain -c ${SOURCES}/unit.cpp -o plain.o)
run(${COMPILER} ${FLAGS} ${WIDE} -DODR_UNIT=odr_wide -c ${SOURCES}/unit.cpp -o wide.o)
run(${COMPILER} ${FLAGS} main.o plain.o wide.o -o plain_first)
run(${COMPILER} ${FLAGS} main.o wide.o plain.o -o wide_first)

# Disassembled after linking: in an object each weak function is a section of its own, and objdump takes minutes for those.
# Moves, blends and clearings compute nothing.
file(WRITE ${SCRATCH}/computing.awk [=[
/^[0-9a-f]+ <.*>:$/ { name = $2; gsub(/[<>:]/, "", name); sub(/\..*$/, "", name) }
/^ +[0-9a-f]+:\tv/ {
  if ($2 ~ /^v(mov|pxor|xorp|pinsr|punpck|unpck|pextr|extract|insert|zero|broadcast|pbroadcast|pshuf|shufp|perm)/) print "moves", name
  else print "computes", name
}
]=])
execute_process(COMMAND ${objdump} -d --no-show-raw-insn wide_first COMMAND ${awk} -f computing.awk COMMAND sort -u
                WORKING_DIRECTORY ${SCRATCH} OUTPUT_VARIABLE vex COMMAND_ERROR_IS_FATAL ANY)
foreach(object IN ITEMS plain wide)
  execute_process(COMMAND ${nm} -P --defined-only ${object}.o COMMAND ${awk} "$2 ~ /^[WVu]$/ { print $1 }"
                  WORKING_DIRECTORY ${SCRATCH} OUTPUT_VARIABLE ${object} COMMAND_ERROR_IS_FATAL ANY)
  string(REGEX MATCHALL "[^\n]+" ${object} "${${object}}")
endforeach()
set(common "")
foreach(symbol IN LISTS wide)
  set(in_wide_${symbol} TRUE)
endforeach()
foreach(symbol IN LISTS plain)
  if(in_wide_${symbol})
    set(common_${symbol} TRUE)
    list(APPEND common ${symbol})
  endif()
endforeach()
list(LENGTH common common_count)
if(common_count EQUAL 0)
  message(FATAL_ERROR "odr_guard: the units share no weak function at all, so nothing was checked")
endif()

string(REGEX MATCHALL "[^\n]+" vex "${vex}")
set(moves 0)
set(others 0)
set(faults "")
foreach(line IN LISTS vex)
  string(REGEX MATCH "^([a-z]+) (.*)$" line "${line}")
  set(kind ${CMAKE_MATCH_1})
  set(symbol ${CMAKE_MATCH_2})
  if(NOT common_${symbol})
    continue()
  elseif(kind STREQUAL "moves")
    math(EXPR moves "${moves} + 1")
  elseif(symbol MATCHES "4peft")
    list(APPEND faults ${symbol})
  else()
    math(EXPR others "${others} + 1")
    message("odr_guard: not of this library, shared and computing: ${symbol}")
  endif()
endforeach()
message("odr_guard: ${common_count} weak symbols in both objects; with VEX code: ${moves} move data, ${others} of other libraries compute")
if(faults)
  list(JOIN faults "\n  " names)
  message(FATAL_ERROR "odr_guard: these compute with ${WIDE} under one name for both units:\n  ${names}")
endif()

# Last, because the processor may lack what the wide unit needs.
if(EXISTS /proc/cpuinfo)
  file(STRINGS /proc/cpuinfo cpu REGEX "^flags" LIMIT_COUNT 1)
  string(REGEX MATCHALL "[a-z0-9_]+" cpu "${cpu}")
  foreach(flag IN LISTS WIDE)
    string(REGEX REPLACE "^-m" "" flag "${flag}")
    if(NOT flag IN_LIST cpu)
      message("odr_guard: not run, this processor has no ${flag}")
      return()
    endif()
  endforeach()
endif()
foreach(program IN ITEMS plain_first wide_first)
  run(${SCRATCH}/${program} ${SCRATCH}/${program}.plain ${SCRATCH}/${program}.wide)
endforeach()
