#!/bin/sh
# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
# What the benchmarks compare with.
set -eu
if ! command -v nmap >/dev/null; then
  if [ "$(id -u)" -ne 0 ]; then
    echo 'The benchmark of the probes needs the package nmap: install it, or run this as root.' >&2
    exit 1
  fi
  apt-get update --quiet
  apt-get install --quiet --yes --no-install-recommends nmap
fi
