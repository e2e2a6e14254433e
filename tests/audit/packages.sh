#!/bin/sh
# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
# What the tests of the reports need from the system: a browser without a display, and a font for its pictures.
set -eu
if ! command -v chromium-headless-shell >/dev/null; then
  if [ "$(id -u)" -ne 0 ]; then
    echo 'The tests of the HTML report need the package chromium-headless-shell: install it, or run this as root.' >&2
    exit 1
  fi
  apt-get update --quiet
  apt-get install --quiet --yes --no-install-recommends chromium-headless-shell fonts-dejavu-core
fi
