#!/usr/bin/env bash
# Make a virtual environment with n730c and n730-exec in it: scripts/setup.sh PYTHON VENV
# What it needs from the distribution it installs where it may (root on Debian or Ubuntu); elsewhere it names it.
set -euo pipefail
python=$1 venv=$2
cd "$(dirname "$0")/.."
mkdir -p build

fail() { echo "n730c: error: $*" >&2; exit 1; }

command -v "$python" >/dev/null || fail "$python not found (expected Python 3.11 or later). Install it, or run make PYTHON=/path/to/python3."
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || fail "$python is too old (expected 3.11 or later, found $("$python" -V)). Run make PYTHON=/path/to/python3."

# file or command -> Debian package
missing=()
want() { [ -e "$1" ] || command -v "$1" >/dev/null 2>&1 || missing+=("$2"); }
want gcc gcc
want g++ g++
want cmake cmake
want make make
want ld binutils
want clang clang
want /usr/include/nlohmann/json.hpp nlohmann-json3-dev
want /usr/include/CLI/CLI.hpp libcli11-dev
want /usr/include/doctest/doctest.h doctest-dev
want /usr/include/xxhash.h libxxhash-dev
"$python" -c 'import venv, ensurepip' 2>/dev/null || missing+=(python3-venv)

may_install() { [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; }
install() { (apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq "$@") > build/apt.log 2>&1; }

if [ ${#missing[@]} -gt 0 ]; then
    if may_install; then
        echo "installing ${missing[*]} ..."
        install "${missing[@]}" \
            || { tail -n 20 build/apt.log >&2; fail "apt-get could not install ${missing[*]} (see build/apt.log). Install them and run make again."; }
    else
        fail "these are missing: ${missing[*]}. Install them (Debian, Ubuntu: sudo apt-get install ${missing[*]}) and run make again."
    fi
fi
# 12 MB for the tests that run each instruction-set level on an emulated CPU: skipped where it cannot be had.
if ! command -v qemu-x86_64 >/dev/null && ! command -v qemu-x86_64-static >/dev/null && may_install; then
    echo "installing qemu-user ..."
    install qemu-user || echo "qemu-user cannot be installed (see build/apt.log): the tests that need it will be skipped"
fi

[ -x "$venv/bin/python" ] || "$python" -m venv "$venv"
echo "installing n730c and its dependencies into $venv (the first time takes a few minutes) ..."
"$venv/bin/python" -m pip install --disable-pip-version-check --progress-bar off -e '.[dev]' > build/pip.log 2>&1 \
    || { tail -n 30 build/pip.log >&2; fail "pip could not install n730c (see build/pip.log)."; }
