# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Make an archive of a container image as `docker save` writes it, with nothing but this node: make_image.py NAME [ENVIRONMENT]

Its one layer holds the node's system and the environment, at the place that it was built for; without ENVIRONMENT nothing but empty
directories, so that no engine starts out of it. The archive and the ID of the image go to NAME.tar and NAME.id.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import sys
import tarfile

PLACE = "/opt/vllm/current"
SYSTEM = (
    "bin", "etc/ld.so.cache", "etc/ld.so.conf", "etc/ld.so.conf.d", "etc/nsswitch.conf", "lib", "lib64", "sbin", "usr/bin", "usr/lib", "usr/lib64",
)
# Nothing that serves reads these: less to load.
LEFT_OUT = re.compile(r"/site-packages/(.+/tests?|torch/include|ray/jars)/")
EMPTY = ("dev", "etc", "proc", "root", "run", "srv", "sys", "tmp", "usr/local", "var/cache", "var/lib", "var/tmp")


class Summing:
    """A file that computes the digest and the size of what is written to it."""

    def __init__(self, handle):
        self.handle, self.sum, self.size = handle, hashlib.sha256(), 0

    def write(self, data):
        """As a file."""
        self.sum.update(data)
        self.size += len(data)
        return self.handle.write(data)


def rooted(member):
    """A member that belongs to root, or None for what is left out."""
    if LEFT_OUT.search(f"{member.name}/"):
        return None
    member.uid = member.gid = 0
    member.uname = member.gname = "root"
    return member


def add_system(layer, environment):
    """The node's system and an environment."""
    for name in SYSTEM:
        if os.path.lexists(f"/{name}"):
            layer.add(f"/{name}", name, filter=rooted)
    layer.add(environment, environment.lstrip("/"), filter=rooted)
    link = tarfile.TarInfo(PLACE.lstrip("/"))
    link.type, link.linkname = tarfile.SYMTYPE, environment
    layer.addfile(link)


def write_layer(target, environment):
    """The one layer."""
    with tarfile.open(fileobj=target, mode="w|", format=tarfile.GNU_FORMAT) as layer:
        for name in EMPTY:
            layer.addfile(header(name, tarfile.DIRTYPE, 0o755))
        if environment is not None:
            add_system(layer, environment)


def header(name, kind, mode, size=0):
    """A member of a tar file."""
    member = tarfile.TarInfo(name)
    member.type, member.mode, member.size = kind, mode, size
    return member


def make(name, environment):
    """The archive. The layer goes straight to its place, and the header before it is written when the size is known."""
    with open(f"{name}.tar", "wb") as archive:
        archive.write(bytes(tarfile.BLOCKSIZE))
        layer = Summing(archive)
        write_layer(layer, environment)
        archive.write(bytes(-layer.size % tarfile.BLOCKSIZE))
        configuration = json.dumps({
            "architecture": "amd64", "os": "linux", "created": "2026-01-01T00:00:00Z", "config": {},
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{layer.sum.hexdigest()}"]}, "history": [{"created": "2026-01-01T00:00:00Z"}],
        }).encode()
        image = hashlib.sha256(configuration).hexdigest()
        tag = f"localhost/vllm:{os.path.basename(name)}"
        manifest = json.dumps([{"Config": f"{image}.json", "RepoTags": [tag], "Layers": ["layer.tar"]}]).encode()
        with tarfile.open(fileobj=archive, mode="w|", format=tarfile.GNU_FORMAT) as rest:
            for path, content in ((f"{image}.json", configuration), ("manifest.json", manifest)):
                rest.addfile(header(path, tarfile.REGTYPE, 0o644, len(content)), io.BytesIO(content))
        archive.seek(0)
        archive.write(header("layer.tar", tarfile.REGTYPE, 0o644, layer.size).tobuf(tarfile.GNU_FORMAT))
    with open(f"{name}.id", "w", encoding="ascii") as handle:
        handle.write(f"sha256:{image}\n")


if __name__ == "__main__":
    make(sys.argv[1], os.path.realpath(sys.argv[2]) if len(sys.argv) > 2 else None)
