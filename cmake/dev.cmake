# Settings for our own tests, examples and benchmarks. Nothing here reaches the public target peft::peft.
#
#   PEFT_WERROR    warnings are errors; on for the compilers that CI runs, so that a newer one does not break a build
#   PEFT_SANITIZE  a value for -fsanitize=, e.g. address,undefined
include_guard(GLOBAL)

set(werror_default OFF)
if((CMAKE_CXX_COMPILER_ID STREQUAL "GNU" AND CMAKE_CXX_COMPILER_VERSION MATCHES "^12\\.")
   OR (CMAKE_CXX_COMPILER_ID STREQUAL "Clang" AND CMAKE_CXX_COMPILER_VERSION MATCHES "^14\\."))
  set(werror_default ON)
endif()
option(PEFT_WERROR "Treat warnings as errors in our own programs" ${werror_default})
set(PEFT_SANITIZE "" CACHE STRING "Value for -fsanitize= in our own programs")

add_library(peft_dev INTERFACE)
target_link_libraries(peft_dev INTERFACE peft::peft)
if(NOT MSVC)
  target_compile_options(peft_dev INTERFACE -Wall -Wextra -Wpedantic -Wconversion -Wshadow
                                            $<$<BOOL:${PEFT_WERROR}>:-Werror>)
  if(NOT OpenMP_CXX_FOUND) # '#pragma omp' is then meant to be ignored
    target_compile_options(peft_dev INTERFACE -Wno-unknown-pragmas)
  endif()
endif()
if(PEFT_SANITIZE)
  target_compile_options(peft_dev INTERFACE -fsanitize=${PEFT_SANITIZE} -fno-sanitize-recover=all
                                            -fno-omit-frame-pointer)
  target_link_options(peft_dev INTERFACE -fsanitize=${PEFT_SANITIZE})
endif()

if(PROJECT_IS_TOP_LEVEL)
  set(CMAKE_RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/bin)
  set(CMAKE_EXPORT_COMPILE_COMMANDS ON)
  set(CMAKE_CXX_EXTENSIONS OFF)
  if(NOT CMAKE_BUILD_TYPE AND NOT CMAKE_CONFIGURATION_TYPES)
    set(CMAKE_BUILD_TYPE Release CACHE STRING "" FORCE)
  endif()
  find_program(PEFT_CCACHE ccache)
  if(PEFT_CCACHE AND NOT CMAKE_CXX_COMPILER_LAUNCHER)
    set(CMAKE_CXX_COMPILER_LAUNCHER ${PEFT_CCACHE})
  endif()
endif()

# peft_source_flags(<source>...) reads the first line of each source: '// flags: -mavx2 -ffast-math' gives that one
# source these compile options. On other processors than x86 the options that start with -m are dropped.
function(peft_source_flags)
  foreach(source IN LISTS ARGN)
    file(STRINGS ${source} first LIMIT_COUNT 1)
    if(first MATCHES "^// flags: *(.+)$")
      separate_arguments(flags UNIX_COMMAND "${CMAKE_MATCH_1}")
      if(NOT CMAKE_SYSTEM_PROCESSOR MATCHES "x86_64|AMD64|i[3-6]86")
        list(FILTER flags EXCLUDE REGEX "^-m")
      endif()
      set_property(SOURCE ${source} APPEND PROPERTY COMPILE_OPTIONS ${flags})
    endif()
  endforeach()
  # the flags are read while configuring, so a change of such a file must configure again
  set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS ${ARGN})
endfunction()
