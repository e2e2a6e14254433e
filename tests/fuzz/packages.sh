#!/bin/sh
# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
# What the campaign needs from the system.
set -eu
if [ "$(id -u)" -ne 0 ]; then
  echo 'The campaign loads packet filters into network namespaces of its own: run it as root.' >&2
  exit 1
fi
if ! command -v nft >/dev/null || ! command -v ip >/dev/null; then
  apt-get update --quiet
  apt-get install --quiet --yes --no-install-recommends nftables iproute2
fi
