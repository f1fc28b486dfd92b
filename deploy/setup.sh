#!/usr/bin/env bash
# Makes sure of what the build and the tests need beyond Rust, and says what it took.
#   deploy/setup.sh build   a C++ compiler and libclang; writes build.env for the Makefile
#   deploy/setup.sh tools   Python and Node with the client libraries of the interop tests
# Nothing is put into the clone: everything is below ~/.cache/mainstem.
set -euo pipefail
cd "$(dirname "$0")"

tools=${MAINSTEM_TOOLS:-$HOME/.cache/mainstem/tools}
mkdir -p "$tools"
exec 9>"$tools/setup.lock"
flock 9 # two builds at a time set up once

say() { echo "setup: $*"; }
fail() { echo "setup: $*" >&2; exit 1; }
have() { command -v "$1" >/dev/null 2>&1; }

# Installs Debian packages when that is allowed here; tells whether it worked.
install() {
    have apt-get && [ "$(id -u)" = 0 ] || return 1
    local log=$tools/apt.log
    export DEBIAN_FRONTEND=noninteractive
    say "installing $* with apt-get"
    apt-get install -y --no-install-recommends "$@" >"$log" 2>&1 </dev/null && return
    apt-get update >>"$log" 2>&1 </dev/null &&
        apt-get install -y --no-install-recommends "$@" >>"$log" 2>&1 </dev/null && return
    say "apt-get could not install $* (see $log)"
    return 1
}

need() { # command, packages that have it
    local command=$1
    shift
    have "$command" && return
    install "$@" && have "$command" && return
    fail "'$command' is missing: install it (Debian: apt-get install $*)"
}

# The folder of a libclang that the bindings' generator finds by itself.
libclang_here() {
    local place name
    for place in ${LIBCLANG_PATH:-} /usr/lib/llvm-*/lib /usr/lib/*-linux-gnu /usr/lib64 /usr/lib /usr/local/lib; do
        for name in libclang.so 'libclang.so.*' 'libclang-[0-9]*.so*'; do
            compgen -G "$place/$name" >/dev/null && { echo "$place"; return; }
        done
    done
    return 1
}

# A Python environment of its own at $1.
venv() {
    [ -x "$1/bin/pip" ] && return
    need python3 python3 python3-venv
    rm -rf "$1"
    python3 -m venv "$1" >/dev/null 2>&1 && return
    rm -rf "$1"
    install python3-venv || fail "python3 has no venv module: install it (Debian: apt-get install python3-venv)"
    python3 -m venv "$1" >/dev/null
}

build() {
    need gcc gcc libc6-dev
    need g++ g++
    need make make
    local place settings=""
    if place=$(libclang_here); then
        say "libclang: $place"
    elif install libclang-dev && place=$(libclang_here); then
        say "libclang: $place, from Debian's libclang-dev"
    else
        venv "$tools/libclang"
        "$tools/libclang/bin/pip" install --quiet --disable-pip-version-check libclang==18.1.1 </dev/null
        place=$(echo "$tools"/libclang/lib/python3*/site-packages/clang/native)
        [ -e "$place/libclang.so" ] || fail "no libclang: install it (Debian: apt-get install libclang-dev)"
        say "libclang: $place, from the PyPI package libclang"
        settings="export LIBCLANG_PATH='$place'"
    fi
    # A libclang without clang's own headers takes the compiler's. Nothing is set without need:
    # cargo compiles RocksDB again when one of these changes.
    compgen -G "$place/clang/*/include/stddef.h" >/dev/null ||
        settings+=$'\n'"export BINDGEN_EXTRA_CLANG_ARGS='-I$(gcc -print-file-name=include)'"
    echo "$settings" >"$tools/build.env"
}

# The fingerprint of what was installed from a list, so that a second run does nothing.
current() { [ -f "$1" ] && [ "$(cat "$1")" = "$2" ]; }

tools() {
    local mark
    mark=$(cksum <tools/requirements.txt)
    if ! current "$tools/python/.done" "$mark"; then
        venv "$tools/python"
        say "Python clients: $(grep -E '^(pika|paho-mqtt|rocketmq-python-client)=' tools/requirements.txt | tr '\n' ' ')"
        "$tools/python/bin/pip" install --quiet --disable-pip-version-check -r tools/requirements.txt </dev/null
        echo "$mark" >"$tools/python/.done"
    fi
    need node nodejs
    need npm npm
    mark=$(cat tools/package.json tools/package-lock.json | cksum)
    if ! current "$tools/node/.done" "$mark"; then
        mkdir -p "$tools/node"
        cp tools/package.json tools/package-lock.json "$tools/node/"
        say "Node clients: $(sed -n 's/^ *"\(.*\)": "\([0-9].*\)",\?$/\1==\2/p' tools/package.json | tr '\n' ' ')"
        (cd "$tools/node" && npm ci --no-audit --no-fund --ignore-scripts >npm.log 2>&1 </dev/null) ||
            fail "npm ci failed (see $tools/node/npm.log)"
        echo "$mark" >"$tools/node/.done"
    fi
    say "Python $("$tools/python/bin/python" -c 'import platform; print(platform.python_version())'), Node $(node --version)"
}

case "${1:-}" in
build) build ;;
tools) tools ;;
*) fail "usage: deploy/setup.sh build|tools" ;;
esac
