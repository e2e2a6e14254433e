#!/bin/sh
# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
# What the tests of the gateway need from the system.
set -eu
if [ ! -x /usr/sbin/haproxy ] || ! command -v wrk >/dev/null; then
  if [ "$(id -u)" -ne 0 ]; then
    echo 'The tests of the gateway need the packages haproxy and wrk: install them, or run this as root.' >&2
    exit 1
  fi
  apt-get update --quiet
  apt-get install --quiet --yes --no-install-recommends haproxy wrk
fi
