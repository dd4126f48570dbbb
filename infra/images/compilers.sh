#!/usr/bin/env bash
# What the agent's C library takes to be compiled for another processor than this machine's: by apt where that is possible, else says what to install.
# usage: compilers.sh ARCH...
set -eu -o pipefail
for arch in "$@"; do
  case $arch in
    arm64) triple=aarch64-linux-gnu libc=libc6-dev-arm64-cross ;;
    amd64) triple=x86_64-linux-gnu libc=libc6-dev-amd64-cross ;;
    *) echo "compilers: $arch is neither amd64 nor arm64" >&2; exit 2 ;;
  esac
  command -v "$triple-gcc" >/dev/null && continue
  if [ "$(id -u)" -eq 0 ] && command -v apt-get >/dev/null; then
    echo "compilers: installing gcc for $arch"
    apt-get install -y -q --no-install-recommends "gcc-${triple//_/-}" "$libc" >/dev/null ||
      { apt-get update -q >/dev/null && apt-get install -y -q --no-install-recommends "gcc-${triple//_/-}" "$libc" >/dev/null; }
  fi
  command -v "$triple-gcc" >/dev/null || { echo "compilers: $triple-gcc is missing (Debian: apt-get install gcc-${triple//_/-} $libc)" >&2; exit 3; }
done
