# cmake -DROOT=<repository> -P check_packages.cmake
# The recipes of package managers, as far as that can be told without them: vcpkg.json is JSON and has the version of the
# header; the Conan recipe, which reads the version itself, is Python where there is a Python.
cmake_minimum_required(VERSION 3.25)

include(${CMAKE_CURRENT_LIST_DIR}/version.cmake)
peft_read_version(version ${ROOT})
file(READ ${ROOT}/cmake/vcpkg/vcpkg.json manifest)
string(JSON stated GET "${manifest}" version)
if(NOT stated STREQUAL version)
  message(FATAL_ERROR "cmake/vcpkg/vcpkg.json: version ${stated}, but include/peft/config/version.hpp says ${version}")
endif()

find_program(python python3 NO_CACHE)
if(python)
  foreach(recipe IN ITEMS conanfile.py test_package/conanfile.py)
    execute_process(COMMAND ${python} -c "import ast, sys; ast.parse(open(sys.argv[1]).read(), sys.argv[1])" ${ROOT}/cmake/conan/${recipe}
                    COMMAND_ERROR_IS_FATAL ANY)
  endforeach()
endif()
message("the recipes parse, version ${version}")
