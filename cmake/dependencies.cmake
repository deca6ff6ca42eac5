# peft_require(<name>...) makes the target of a third-party library available: one that exists already, else the installed
# package, else FetchContent at a pinned commit. All are used as imported targets, so their headers are system headers
# and our warnings do not fire in them.
#
#   eigen      Eigen3::Eigen                    json    nlohmann_json::nlohmann_json     catch2  Catch2::Catch2 (v2 or v3)
#   xtensor    xtensor                          cli11   CLI11::CLI11                     benchmark  benchmark::benchmark
include_guard(GLOBAL)
include(FetchContent)

# Only the headers are wanted: the commit is unpacked, its own CMakeLists.txt is never read.
function(peft_fetch_headers target include_dir name repository commit)
  message(STATUS "peft: ${name} is not installed, fetching ${repository}")
  find_package(Git QUIET)
  if(NOT Git_FOUND)
    message(FATAL_ERROR "peft: ${name} is neither installed nor can it be fetched, because git is missing. "
                        "On Debian or Ubuntu 'sh cmake/bootstrap.sh setup' installs everything.")
  endif()
  FetchContent_Declare(peft_${name} GIT_REPOSITORY ${repository} GIT_TAG ${commit} SOURCE_SUBDIR no-cmake-here)
  FetchContent_MakeAvailable(peft_${name})
  if(NOT TARGET ${target})
    add_library(${target} INTERFACE IMPORTED GLOBAL)
  endif()
  target_include_directories(${target} INTERFACE ${peft_${name}_SOURCE_DIR}/${include_dir})
endfunction()

macro(peft_find target package)
  if(NOT TARGET ${target})
    find_package(${package} QUIET GLOBAL ${ARGN})
  endif()
endmacro()

function(peft_require)
  foreach(name IN LISTS ARGN)
    if(name STREQUAL "eigen")
      peft_find(Eigen3::Eigen Eigen3)
      if(Eigen3_FOUND AND Eigen3_VERSION VERSION_LESS 3.4)
        message(FATAL_ERROR "peft: Eigen ${Eigen3_VERSION} in ${Eigen3_DIR}, 3.4 or later is needed")
      endif()
      if(NOT TARGET Eigen3::Eigen)
        peft_fetch_headers(Eigen3::Eigen . eigen https://gitlab.com/libeigen/eigen.git
                           3147391d946bb4b6c68edd901f2add6ac1f31f8c) # 3.4.0
      endif()
    elseif(name STREQUAL "json")
      peft_find(nlohmann_json::nlohmann_json nlohmann_json)
      if(NOT TARGET nlohmann_json::nlohmann_json)
        peft_fetch_headers(nlohmann_json::nlohmann_json include json https://github.com/nlohmann/json.git
                           bc889afb4c5bf1c0d8ee29ef35eaaf4c8bef8a5d) # 3.11.2
      endif()
    elseif(name STREQUAL "xtensor")
      peft_find(xtensor xtensor)
      if(NOT TARGET xtensor)
        peft_fetch_headers(xtensor include xtl https://github.com/xtensor-stack/xtl.git
                           e697c91e2a3ac571d120d2b093fb3b250d060a7d) # 0.7.4
        peft_fetch_headers(xtensor include xtensor https://github.com/xtensor-stack/xtensor.git
                           9e8662ddad7fcd1a96969b96bf8955e59cf44978) # 0.24.3
      endif()
    elseif(name STREQUAL "catch2")
      peft_find(Catch2::Catch2 Catch2)
      if(NOT TARGET Catch2::Catch2)
        peft_fetch_headers(Catch2::Catch2 single_include catch2 https://github.com/catchorg/Catch2.git
                           182c910b4b63ff587a3440e08f84f70497e49a81) # 2.13.10
      endif()
    elseif(name STREQUAL "cli11")
      peft_find(CLI11::CLI11 CLI11)
      if(NOT TARGET CLI11::CLI11)
        peft_fetch_headers(CLI11::CLI11 include cli11 https://github.com/CLIUtils/CLI11.git
                           70f8072f9dd2292fd0b9f9e5f58e279f60483ed3) # 2.1.2
      endif()
    elseif(name STREQUAL "benchmark")
      peft_find(benchmark::benchmark benchmark)
      if(NOT TARGET benchmark::benchmark) # the only one that is a compiled library
        message(STATUS "peft: benchmark is not installed, fetching https://github.com/google/benchmark.git")
        set(BENCHMARK_ENABLE_TESTING OFF CACHE BOOL "")
        set(BENCHMARK_ENABLE_INSTALL OFF CACHE BOOL "")
        set(BENCHMARK_ENABLE_WERROR OFF CACHE BOOL "")
        FetchContent_Declare(peft_benchmark GIT_REPOSITORY https://github.com/google/benchmark.git
                             GIT_TAG d572f4777349d43653b21d6c2fc63020ab326db2) # 1.7.1
        FetchContent_MakeAvailable(peft_benchmark)
      endif()
    else()
      message(FATAL_ERROR "peft_require: unknown dependency '${name}'")
    endif()
  endforeach()
endfunction()
