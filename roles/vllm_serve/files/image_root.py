# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Make the root file system of a node's instances out of a container image, and take it away again.

    python3 -I image_root.py mount podman|docker sha256:DIGEST TARGET [PATH...]
    python3 -I image_root.py unmount TARGET

The container engine computed the digests of the layers when the image came to the node; its copy of the image is used read-only. Over it lies a
skeleton with a mount point for every PATH of the host that the units bind in or write to. Both together are one read-only overlay, which has no
upper directory: nobody, root included, writes to it. Beside TARGET lies no other image. It is self-contained: the node runs it as a plain file.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys

USAGE = __doc__.split("\n\n")[1]


def call(*words):
    """What a container engine prints; ends the program with its words where it fails."""
    done = subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, check=False)
    if done.returncode != 0:
        sys.exit(f"ERROR image: {' '.join(words[:3])}: {done.stderr.decode(errors='replace').strip()}")
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


def docker_layers(found):
    """(working directory, directories relative to it, uppermost first) of an image of docker, whose daemon mounts no image.

    The names are docker's own short links, since all options of a mount have to fit into a page.
    """
    driver = found.get("GraphDriver") or {}
    if driver.get("Name") != "overlay2":
        sys.exit(f"ERROR image: docker keeps it by {driver.get('Name') or 'containerd'} and not by the driver overlay2; keep it in podman's store")
    folders = [driver["Data"]["UpperDir"], *filter(None, (driver["Data"].get("LowerDir") or "").split(":"))]
    home, links = os.path.dirname(os.path.dirname(folders[0])), []
    for folder in folders:
        with open(os.path.join(os.path.dirname(folder), "link"), encoding="ascii") as handle:
            links.append(f"l/{handle.read().strip()}")
    return home, links


def layers(engine, image):
    """(working directory, directories) whose overlay is the image."""
    digits = image.partition(":")[2]
    found = json.loads(call(engine, "image", "inspect", image if engine == "docker" else digits))[0]
    if found["Id"].rpartition(":")[2] != digits:
        sys.exit(f"ERROR image: the store has {found['Id']} for {image}")
    return docker_layers(found) if engine == "docker" else ("/", [call("podman", "image", "mount", digits).strip()])


def mounted():
    """Every place where something is mounted."""
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as handle:
        return {line.split()[4] for line in handle}


def clear(parent):
    """Take away every root that lies below a directory, that of a former image as well."""
    for name in sorted(os.listdir(parent)) if os.path.isdir(parent) else []:
        place = os.path.join(parent, name)
        if place in mounted():
            subprocess.run(["umount", place], check=True)
        if name.endswith(".skeleton"):
            shutil.rmtree(place)
            continue
        if shutil.which("podman"):
            # Counted by podman; what it no longer knows is nothing to end.
            subprocess.run(["podman", "image", "unmount", name], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)
        os.rmdir(place)


def main(arguments):
    """Mount or unmount; returns the exit status."""
    os.umask(0o022)
    if len(arguments) == 2 and arguments[0] == "unmount":
        clear(os.path.dirname(arguments[1]))
        return 0
    if len(arguments) < 4 or arguments[0] != "mount" or arguments[1] not in ("podman", "docker"):
        sys.stderr.write(f"usage: {USAGE}\n")
        return 2
    engine, image, target, *paths = arguments[1:]
    clear(os.path.dirname(target))
    folder, below = layers(engine, image)
    os.makedirs(target, mode=0o755)
    skeleton(f"{target}.skeleton", paths)
    # The first of the lower directories is the uppermost; where both have a path, attributes of directories are those of the skeleton.
    lower = ":".join([f"{target}.skeleton", *below])
    subprocess.run(["mount", "-t", "overlay", "-o", f"ro,nosuid,lowerdir={lower}", "vllm-image", target], check=True, cwd=folder)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
