# cmake -DLEVEL=avx512|avx2|baseline -DPROGRAM=<path> [-DARGUMENTS=<list>] -P run_at_level.cmake
# Runs the program with PEFT_SIMD=<level>. If the processor lacks the level it says so, in words that CTest takes as 'skipped'.
cmake_minimum_required(VERSION 3.25)

set(needed_avx512 avx512f avx512bw avx512dq avx512vl)
set(needed_avx2 avx2 fma)

set(flags "")
if(EXISTS /proc/cpuinfo)
  file(STRINGS /proc/cpuinfo flags REGEX "^flags" LIMIT_COUNT 1)
else()
  execute_process(COMMAND sysctl -n machdep.cpu.features machdep.cpu.leaf7_features OUTPUT_VARIABLE flags ERROR_QUIET)
endif()
string(TOLOWER "${flags}" flags)
string(REGEX MATCHALL "[a-z0-9_]+" flags "${flags}")

foreach(flag IN LISTS needed_${LEVEL})
  if(NOT flag IN_LIST flags)
    message("peft: this processor has no ${LEVEL} (flag ${flag} is missing), ${PROGRAM} is not run")
    return()
  endif()
endforeach()

message("peft: PEFT_SIMD=${LEVEL} ${PROGRAM} ${ARGUMENTS}")
set(ENV{PEFT_SIMD} ${LEVEL})
execute_process(COMMAND ${PROGRAM} ${ARGUMENTS} RESULT_VARIABLE result)
if(NOT result EQUAL 0)
  message(FATAL_ERROR "${PROGRAM} at PEFT_SIMD=${LEVEL}: exit status ${result}")
endif()
