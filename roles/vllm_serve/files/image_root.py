# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Make the root file system of a node's instances out of a container image, and take it away again.

    python3 -I image_root.py mount sha256:DIGEST TARGET [PATH...]
    python3 -I image_root.py unmount sha256:DIGEST TARGET

podman, which computed the digests of the layers when the image came to the node, mounts the image read-only. Over it lies a skeleton with a
mount point for every PATH of the host that the units bind in or write to. Both together are one read-only overlay, which has no upper
directory: nobody, root included, writes to it. It is self-contained: the node runs it as a plain file.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys

USAGE = __doc__.split("\n\n")[1]


def podman(*arguments):
    """What podman prints; ends the program with its words where it fails."""
    done = subprocess.run(["podman", *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, check=False)
    if done.returncode != 0:
        sys.exit(f"ERROR image: podman {' '.join(arguments[:2])}: {done.stderr.decode(errors='replace').strip()}")
    return done.stdout.decode()


def skeleton(folder, paths):
    """Empty directories, and files where the host has files, below a folder."""
    shutil.rmtree(folder, ignore_errors=True)
    os.makedirs(folder, mode=0o755)
    for path in paths:
        place = folder + os.path.normpath(path)
        if os.path.isdir(path) or not os.path.exists(path):
            os.makedirs(place, mode=0o755, exist_ok=True)
        else:
            os.makedirs(os.path.dirname(place), mode=0o755, exist_ok=True)
            with open(place, "wb"):
                pass


def mounted(target):
    """Whether something is mounted at a place."""
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as handle:
        return any(line.split()[4] == target for line in handle)


def main(arguments):
    """Mount or unmount; returns the exit status."""
    if len(arguments) < 3 or arguments[0] not in ("mount", "unmount"):
        sys.stderr.write(f"usage: {USAGE}\n")
        return 2
    verb, image, target, *paths = arguments
    os.umask(0o022)
    if mounted(target):
        subprocess.run(["umount", target], check=True)
    digits = image.partition(":")[2]
    if verb == "unmount":
        podman("image", "unmount", digits)
        shutil.rmtree(f"{target}.skeleton", ignore_errors=True)
        os.rmdir(target)
        return 0
    found = json.loads(podman("image", "inspect", digits))[0]["Id"]
    if found != digits:
        sys.exit(f"ERROR image: the store has sha256:{found} for {image}")
    place = podman("image", "mount", digits).strip()
    os.makedirs(target, mode=0o755, exist_ok=True)
    skeleton(f"{target}.skeleton", paths)
    # The first of the lower directories is the uppermost; where both have a path, attributes of directories are those of the skeleton.
    subprocess.run(["mount", "-t", "overlay", "-o", f"ro,nosuid,lowerdir={target}.skeleton:{place}", "vllm-image", target], check=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
