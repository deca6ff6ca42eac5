# peft_require(<name>...) makes the target of a third-party library available: one that exists already, else the installed
# package, else FetchContent at a pinned commit or archive. All are used as imported targets, so their headers are system headers
# and our warnings do not fire in them.
#
#   eigen      Eigen3::Eigen                    json    nlohmann_json::nlohmann_json     catch2  Catch2::Catch2 (v2 or v3)
#   xtensor    xtensor                          cli11   CLI11::CLI11                     benchmark  benchmark::benchmark
include_guard(GLOBAL)
include(FetchContent)

# peft_fetch_headers(<target> <include dir> <name> <where: arguments of FetchContent_Declare>...)
# Only the headers are wanted: the source is unpacked, its own CMakeLists.txt is never read.
function(peft_fetch_headers target include_dir name)
  message(STATUS "peft: ${name} is not installed, fetching it (on Debian and Ubuntu 'sh cmake/bootstrap.sh setup' installs all)")
  FetchContent_Declare(peft_${name} ${ARGN} SOURCE_SUBDIR no-cmake-here)
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
        peft_fetch_headers(Eigen3::Eigen . eigen
                           URL https://gitlab.com/libeigen/eigen/-/archive/3.4.0/eigen-3.4.0.tar.gz
                           URL_HASH SHA256=8586084f71f9bde545ee7fa6d00288b264a2b7ac3607b974e54d13e7162c1c72
                           DOWNLOAD_EXTRACT_TIMESTAMP ON)
      endif()
    elseif(name STREQUAL "json")
      peft_find(nlohmann_json::nlohmann_json nlohmann_json)
      if(NOT TARGET nlohmann_json::nlohmann_json)
        peft_fetch_headers(nlohmann_json::nlohmann_json include json
                           URL https://github.com/nlohmann/json/releases/download/v3.11.2/json.tar.xz
                           URL_HASH SHA256=8c4b26bf4b422252e13f332bc5e388ec0ab5c3443d24399acb675e68278d341f
                           DOWNLOAD_EXTRACT_TIMESTAMP ON)
      endif()
    elseif(name STREQUAL "xtensor")
      peft_find(xtensor xtensor)
      if(NOT TARGET xtensor)
        peft_fetch_headers(xtensor include xtl GIT_REPOSITORY https://github.com/xtensor-stack/xtl.git
                           GIT_TAG e697c91e2a3ac571d120d2b093fb3b250d060a7d) # 0.7.4
        peft_fetch_headers(xtensor include xtensor GIT_REPOSITORY https://github.com/xtensor-stack/xtensor.git
                           GIT_TAG 9e8662ddad7fcd1a96969b96bf8955e59cf44978) # 0.24.3
      endif()
    elseif(name STREQUAL "catch2")
      peft_find(Catch2::Catch2 Catch2)
      if(NOT TARGET Catch2::Catch2)
        peft_fetch_headers(Catch2::Catch2 single_include catch2 GIT_REPOSITORY https://github.com/catchorg/Catch2.git
                           GIT_TAG 182c910b4b63ff587a3440e08f84f70497e49a81) # 2.13.10
      endif()
    elseif(name STREQUAL "cli11")
      peft_find(CLI11::CLI11 CLI11)
      if(NOT TARGET CLI11::CLI11)
        peft_fetch_headers(CLI11::CLI11 include cli11 GIT_REPOSITORY https://github.com/CLIUtils/CLI11.git
                           GIT_TAG 70f8072f9dd2292fd0b9f9e5f58e279f60483ed3) # 2.1.2
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
