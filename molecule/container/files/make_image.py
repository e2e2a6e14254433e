# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Make an archive of a container image as `docker save` writes it, with nothing but this node: make_image.py ENVIRONMENT DIRECTORY

The layer holds the node's system and the environment, at the place that it was built for. The archive and its ID go to
DIRECTORY/DIGEST.tar and DIRECTORY/DIGEST.id, where they stay: a second run finds them.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import sys
import tarfile

PLACE = "/opt/vllm/current"
SYSTEM = (
    "bin", "etc/ld.so.cache", "etc/ld.so.conf", "etc/ld.so.conf.d", "etc/nsswitch.conf", "lib", "lib64", "sbin", "usr/bin", "usr/lib", "usr/lib64",
)
EMPTY = ("dev", "etc", "proc", "root", "run", "srv", "sys", "tmp", "usr/local", "var/cache", "var/lib", "var/tmp")


class Summing:
    """A file that computes the digest of what is written to it."""

    def __init__(self, path):
        self.handle, self.sum = open(path, "wb"), hashlib.sha256()

    def write(self, data):
        """As a file."""
        self.sum.update(data)
        return self.handle.write(data)


def rooted(member):
    """A member that belongs to root."""
    member.uid = member.gid = 0
    member.uname = member.gname = "root"
    return member


def add_layer(path, environment):
    """The one layer; returns its digest."""
    summing = Summing(path)
    with tarfile.open(fileobj=summing, mode="w|", format=tarfile.GNU_FORMAT) as layer:
        for name in EMPTY:
            member = tarfile.TarInfo(name)
            member.type, member.mode = tarfile.DIRTYPE, 0o755
            layer.addfile(member)
        for name in SYSTEM:
            if os.path.lexists(f"/{name}"):
                layer.add(f"/{name}", name, filter=rooted)
        layer.add(environment, environment.lstrip("/"), filter=rooted)
        link = tarfile.TarInfo(PLACE.lstrip("/"))
        link.type, link.linkname = tarfile.SYMTYPE, environment
        layer.addfile(link)
    summing.handle.close()
    return summing.sum.hexdigest()


def main():
    """The archive, unless it is there."""
    environment, directory = os.path.realpath(sys.argv[1]), sys.argv[2]
    name = f"{directory}/{os.path.basename(environment)}"
    if os.path.exists(f"{name}.id"):
        return
    layer = add_layer(f"{name}.layer", environment)
    configuration = json.dumps({
        "architecture": "amd64", "os": "linux", "created": "2026-01-01T00:00:00Z", "config": {},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{layer}"]}, "history": [{"created": "2026-01-01T00:00:00Z"}],
    }).encode()
    image = hashlib.sha256(configuration).hexdigest()
    manifest = json.dumps([{"Config": f"{image}.json", "RepoTags": ["localhost/vllm:lab"], "Layers": ["layer.tar"]}]).encode()
    with tarfile.open(f"{name}.tar", "w", format=tarfile.GNU_FORMAT) as archive:
        for path, content in ((f"{image}.json", configuration), ("manifest.json", manifest)):
            member = tarfile.TarInfo(path)
            member.size, member.mode = len(content), 0o644
            archive.addfile(member, io.BytesIO(content))
        archive.add(f"{name}.layer", "layer.tar", filter=rooted)
    os.unlink(f"{name}.layer")
    with open(f"{name}.id", "w", encoding="ascii") as handle:
        handle.write(f"sha256:{image}\n")


if __name__ == "__main__":
    main()
