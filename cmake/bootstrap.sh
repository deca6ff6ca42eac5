#!/bin/sh
# Sets up, builds and runs the project on a fresh machine. 'sh cmake/bootstrap.sh help' says how.
set -eu

cd "$(dirname "$0")/.."
root=$(pwd)

usage() {
    cat <<'EOF'
usage: sh cmake/bootstrap.sh COMMAND [ARGUMENT...]

  demo [ARGUMENT...]   build the example 'finetune' and run it; arguments are passed on (try: demo --help)
  test [ARGUMENT...]   build everything and run all tests; arguments are passed on to ctest (e.g. test -R lora)
  build [TARGET...]    build only
  setup                install the packages only
  ci                   install also what .ci/run needs (clang and its sanitizers)
  help                 this text

Everything is built in build/ with -O2. On Debian and Ubuntu (Debian 12, Ubuntu 24.04 or later) missing packages are
installed with apt-get, as root or through sudo; elsewhere install a C++20 compiler (g++ 12 or clang++ 14 at least),
cmake 3.25 and ninja or make yourself: CMake fetches missing libraries at pinned commits with git.

environment:
  CXX                          compiler (default: g++)
  CMAKE_BUILD_PARALLEL_LEVEL   compile jobs at a time (default: cores, less where memory is short)
  PEFT_NO_INSTALL=1            never call apt-get
ccache is used when it is installed.
EOF
}

say() { printf '== %s\n' "$*"; }
fail() {
    printf 'bootstrap: %s\n' "$*" >&2
    exit 1
}
have() { command -v "$1" >/dev/null 2>&1; }

installed() { dpkg -s "$1" 2>/dev/null | grep -q '^Status: .* installed$'; }

# install_missing PACKAGE... : apt-get install of those that are not there
install_missing() {
    missing=
    for package in "$@"; do
        installed "$package" || missing="$missing $package"
    done
    [ -n "$missing" ] || return 0
    if [ "$(id -u)" -eq 0 ]; then
        as_root=
    elif have sudo; then
        as_root=sudo
    else
        printf 'bootstrap: not installed:%s\n' "$missing" >&2
        printf 'bootstrap: neither root nor sudo, so going on without; as root: apt-get install%s\n' "$missing" >&2
        return 0
    fi
    say "installing packages:$missing"
    log=$(mktemp)
    # --no-install-recommends: a compiler and headers, not their documentation and graphical companions
    if ! { $as_root env DEBIAN_FRONTEND=noninteractive apt-get update -q &&
        $as_root env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends $missing; } >"$log" 2>&1; then
        # One unknown name makes apt-get refuse all of them; the others are still worth having.
        for package in $missing; do
            $as_root env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends "$package" >>"$log" 2>&1 ||
                printf 'bootstrap: could not install %s: %s\n' "$package" "$(grep '^E:' "$log" | tail -n 1)" >&2
        done
    fi
    rm -f "$log"
}

setup() {
    if [ "${PEFT_NO_INSTALL:-}" = 1 ] || ! have apt-get || ! have dpkg; then
        return 0
    fi
    tools=
    have "${CXX:-g++}" || tools="$tools g++"
    have cmake || tools="$tools cmake"
    have ninja || have make || tools="$tools ninja-build"
    install_missing $tools libeigen3-dev libxtensor-dev nlohmann-json3-dev catch2 libbenchmark-dev libcli11-dev "$@"
}

setup_ci() {
    setup
    if [ "${PEFT_NO_INSTALL:-}" != 1 ] && have apt-get && have dpkg; then
        install_missing clang
        # OpenMP and the sanitizers come in packages that carry the version of the compiler
        major=$(clang++ -dumpversion 2>/dev/null | cut -d. -f1)
        if [ -n "$major" ]; then
            install_missing "libomp-$major-dev" "libclang-rt-$major-dev"
        fi
    fi
    have clang++ || fail "clang++ is missing"
}

# jobs at a time: one per core, but at least 1.5 GB of memory each
parallel() {
    cores=$(nproc 2>/dev/null || getconf _NPROCESSORS_ONLN 2>/dev/null || echo 2)
    if [ -r /proc/meminfo ]; then
        fit=$(awk '/^MemTotal/ { print int($2 / 1500000) }' /proc/meminfo)
        [ "$fit" -ge 1 ] || fit=1
        [ "$cores" -le "$fit" ] || cores=$fit
    fi
    echo "$cores"
}

configure() {
    have "${CXX:-g++}" || fail "no ${CXX:-g++}: install a C++20 compiler (g++ 12 or clang++ 14 at least) or name one in CXX"
    have cmake || fail "no cmake: install cmake 3.25 or later"
    have ninja || have make || fail "no build tool: install ninja or make"
    version=$(cmake --version | sed -n 's/^cmake version \([0-9]*\)\.\([0-9]*\).*/\1 \2/p')
    if [ "${version% *}" -lt 3 ] || { [ "${version% *}" -eq 3 ] && [ "${version#* }" -lt 25 ]; }; then
        fail "cmake $(echo "$version" | tr ' ' .) is too old, 3.25 or later is needed (Debian 12, Ubuntu 24.04, or cmake.org)"
    fi
    CXX=${CXX:-g++}
    CMAKE_BUILD_PARALLEL_LEVEL=${CMAKE_BUILD_PARALLEL_LEVEL:-$(parallel)}
    CTEST_PARALLEL_LEVEL=${CTEST_PARALLEL_LEVEL:-$CMAKE_BUILD_PARALLEL_LEVEL}
    export CXX CMAKE_BUILD_PARALLEL_LEVEL CTEST_PARALLEL_LEVEL
    if have ninja && [ -z "${CMAKE_GENERATOR:-}" ]; then
        CMAKE_GENERATOR=Ninja
        export CMAKE_GENERATOR
    fi

    # A build folder of another place or another compiler cannot be used.
    cache=build/CMakeCache.txt
    if [ -f $cache ]; then
        if ! grep -qxF "CMAKE_HOME_DIRECTORY:INTERNAL=$root" $cache ||
            ! grep -q "^CMAKE_CXX_COMPILER:[A-Z]*=$(command -v "$CXX")\$" $cache; then
            say "build/ belongs to another place or compiler, starting afresh"
            rm -rf build
        fi
    fi

    mkdir -p build
    say "configuring build/ with $CXX $($CXX -dumpfullversion 2>/dev/null || $CXX -dumpversion)"
    if ! cmake --preset default >build/configure.log 2>&1; then
        cat build/configure.log >&2
        fail "cmake failed, see above (build/configure.log)"
    fi
    grep -E '^-- peft:|Warning' build/configure.log || true
}

# build [TARGET...]
build() {
    started=$(date +%s)
    say "building ${*:-everything} ($CMAKE_BUILD_PARALLEL_LEVEL jobs at a time)"
    if [ $# -gt 0 ]; then
        set -- --target "$@"
    fi
    cmake --build --preset default "$@" || fail "the build failed, the first error above says why"
    say "built in $(($(date +%s) - started)) s"
}

command=${1:-help}
[ $# -eq 0 ] || shift
case $command in
demo)
    setup
    configure
    build finetune
    say "build/bin/finetune $*"
    exec build/bin/finetune "$@"
    ;;
test)
    setup
    configure
    build
    say "testing"
    exec ctest --preset default "$@"
    ;;
build)
    setup
    configure
    build "$@"
    ;;
setup) setup ;;
ci) setup_ci ;;
help | -h | --help) usage ;;
*)
    usage >&2
    fail "unknown command '$command'"
    ;;
esac
