#!/bin/sh
# Looks for the tools that agq is built and tested with. Usage: scripts/deps.sh [--install] build|cross|arm|pi ...
#   build   Python 3.11 or newer with venv, a C compiler with its headers, make
#   cross   an Arm cross compiler with a static C library
#   arm     the same, and qemu's user emulation
#   pi      what makes and runs an emulated Raspberry Pi: debootstrap and a static qemu
# Where something is missing, --install installs it on Debian: as root, or by a sudo that asks for no password. Without
# --install, or where neither is possible, the command that installs it is shown and the exit code is 1.
# Environment: PYTHON, CC, CROSS_ARM, QEMU, QEMU_STATIC.
set -u
install=""
[ "${1:-}" = --install ] && install=yes && shift
groups=$*
PYTHON=${PYTHON:-python3}
CC=${CC:-gcc}
CROSS_ARM=${CROSS_ARM:-aarch64-linux-gnu-}
QEMU=${QEMU:-qemu-aarch64}
QEMU_STATIC=${QEMU_STATIC:-qemu-aarch64-static}

missing=""   # what is missing, in words
packages=""  # the Debian packages that hold it

lacks() { missing="$missing\n  - $1"; shift; packages="$packages $*"; }

links() { # does this compiler turn a small program into an executable?
  program=$(mktemp) || exit 1
  printf '#include <stdio.h>\n#include <pthread.h>\nint main(void) { return puts("") < 0; }\n' |
    "$@" -x c - -o "$program" -pthread 2>/dev/null
  found=$?
  rm -f "$program"
  return $found
}

look_for() {
  case $1 in
  build)
    if ! command -v "$PYTHON" >/dev/null; then
      lacks "Python ($PYTHON)" python3 python3-venv
    elif ! "$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
      echo "error: agq needs Python 3.11 or newer, but $PYTHON is $("$PYTHON" -V 2>&1)" >&2
      echo "hint: name another one, for example: make PYTHON=python3.12 ..." >&2
      exit 1
    elif ! "$PYTHON" -c 'import ensurepip, venv' 2>/dev/null; then
      lacks "Python's venv module" python3-venv
    fi
    links "$CC" || lacks "a C compiler that works ($CC) and the C library's headers" gcc libc6-dev
    ;;
  cross)
    links "${CROSS_ARM}gcc" -static ||
      lacks "a C compiler for 64-bit Arm (${CROSS_ARM}gcc) and its C library" gcc-aarch64-linux-gnu libc6-dev-arm64-cross
    ;;
  arm)
    look_for cross
    command -v "$QEMU" >/dev/null || lacks "the emulator of Arm processors ($QEMU)" qemu-user
    ;;
  pi)
    command -v debootstrap >/dev/null || lacks "the program that makes a Debian root (debootstrap)" debootstrap
    command -v "$QEMU_STATIC" >/dev/null ||
      lacks "the emulator of Arm processors as one static file ($QEMU_STATIC)" qemu-user-static
    ;;
  *)
    echo "usage: $0 [--install] build|cross|arm|pi ..." >&2
    exit 2
    ;;
  esac
}

look() {
  missing="" packages=""
  for group in $groups; do look_for "$group"; done
  [ -z "$missing" ]
}

# Prints what comes before a command that needs root: nothing for root, sudo where it asks for no password; fails otherwise.
as_root() {
  [ "$(id -u)" = 0 ] && return
  command -v sudo >/dev/null && sudo -n true 2>/dev/null && echo "sudo -n"
}

install_packages() {
  command -v apt-get >/dev/null && root=$(as_root) || return
  echo "Installing missing Debian packages:$packages" >&2
  # shellcheck disable=SC2086  # several words in one variable are meant
  {
    $root env DEBIAN_FRONTEND=noninteractive apt-get update -qq &&
      $root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $packages
  } </dev/null >&2
}

look && exit 0
[ -n "$install" ] && install_packages && look && exit 0
printf 'error: not found on this machine:%b\n' "$missing" >&2
echo "hint: on Debian, Ubuntu or Raspberry Pi OS: sudo apt-get install$packages" >&2
exit 1
