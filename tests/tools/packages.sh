#!/bin/sh
# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
# packages.sh WHAT PROGRAM=PACKAGES...: install the packages of the programs that this machine lacks. WHAT, in words, needs them.
set -eu
what=$1
shift
missing=
for pair; do
  PATH=$PATH:/usr/sbin:/sbin command -v "${pair%%=*}" >/dev/null || missing="$missing ${pair#*=}"
done
[ "$missing" ] || exit 0
if [ "$(id -u)" -ne 0 ]; then
  echo "$what needs the packages$missing: install them, or run this as root." >&2
  exit 1
fi
# The lock of the lab's own installation, since apt waits for nobody while it updates.
exec 9>/run/lock/vllm-lab-packages
flock 9
export DEBIAN_FRONTEND=noninteractive
apt-get update --quiet
printf '%s\n' "$missing" | xargs apt-get install --quiet --yes --no-install-recommends -o DPkg::Lock::Timeout=300
