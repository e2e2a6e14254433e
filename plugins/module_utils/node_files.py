# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Files and directories of a node, changed atomically and without being led astray by links that others may plant."""

from __future__ import annotations

import os
import shutil
import stat

_O_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_LINKS = 40


class UnsafePath(OSError):
    """A path leads through a link that somebody other than root could have made."""


def open_parent(path):
    """A descriptor of the directory that holds ``path``, and the last component.

    Links on the way are followed only where root made them in a directory in which nobody else may make any
    (``/var/run``, ``/lib``); any other link raises UnsafePath.
    """
    pending = [part for part in os.path.dirname(path).split("/") if part]
    directory = os.open("/", _O_DIRECTORY)
    followed = 0
    try:
        while pending:
            part = pending.pop(0)
            if part == "..":
                following = os.open("..", _O_DIRECTORY, dir_fd=directory)
            elif stat.S_ISLNK(os.lstat(part, dir_fd=directory).st_mode):
                link, around = os.lstat(part, dir_fd=directory), os.fstat(directory)
                followed += 1
                if link.st_uid != 0 or around.st_uid != 0 or around.st_mode & 0o022 or followed > _LINKS:
                    raise UnsafePath(f"{path}: the link {part} on the way belongs to somebody else than root; remove it or name another path")
                target = os.readlink(part, dir_fd=directory)
                pending = [piece for piece in target.split("/") if piece not in ("", ".")] + pending
                following = os.open("/", _O_DIRECTORY) if target.startswith("/") else os.dup(directory)
            else:
                following = os.open(part, _O_DIRECTORY, dir_fd=directory)
            os.close(directory)
            directory = following
        return directory, os.path.basename(path)
    except BaseException:
        os.close(directory)
        raise


def write_file(path, content, uid, gid, mode):
    """Put a regular file in place: written beside it, owned, synced, renamed over it. A link at ``path`` is replaced, not followed."""
    directory, name = open_parent(path)
    temporary = f".{name}.{os.getpid()}.new"
    try:
        try:
            os.unlink(temporary, dir_fd=directory)
        except FileNotFoundError:
            pass
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=directory)
        try:
            with os.fdopen(descriptor, "wb") as handle:
                handle.write(content)
                handle.flush()
                os.fchown(handle.fileno(), uid, gid)
                os.fchmod(handle.fileno(), mode)
                os.fsync(handle.fileno())
            os.rename(temporary, name, src_dir_fd=directory, dst_dir_fd=directory)
        except BaseException:
            os.unlink(temporary, dir_fd=directory)
            raise
        os.fsync(directory)
    finally:
        os.close(directory)


def own(path, uid, gid, mode, directory_wanted):
    """Set owner, group and mode of what is at ``path``; a link there raises OSError."""
    directory, name = open_parent(path)
    try:
        flags = _O_DIRECTORY if directory_wanted else os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        descriptor = os.open(name, flags, dir_fd=directory)
        try:
            os.fchown(descriptor, uid, gid)
            os.fchmod(descriptor, mode)
        finally:
            os.close(descriptor)
    finally:
        os.close(directory)


def make_directory(path, uid, gid, mode):
    """Make one directory; its parent is there."""
    directory, name = open_parent(path)
    try:
        os.mkdir(name, 0o700, dir_fd=directory)
    finally:
        os.close(directory)
    own(path, uid, gid, mode, True)


def remove(path):
    """Remove a file, a link, or a directory with everything in it; nothing there is no error."""
    try:
        directory, name = open_parent(path)
    except FileNotFoundError:
        return
    try:
        found = os.lstat(name, dir_fd=directory)
        if stat.S_ISDIR(found.st_mode):
            # Resistant to links planted meanwhile, as shutil documents for platforms with dir_fd.
            shutil.rmtree(f"/proc/self/fd/{directory}/{name}")
        else:
            os.unlink(name, dir_fd=directory)
    except FileNotFoundError:
        pass
    finally:
        os.close(directory)


def kind_of(found):
    """``file``, ``directory``, ``link`` or ``other`` of a stat result."""
    for test, name in ((stat.S_ISREG, "file"), (stat.S_ISDIR, "directory"), (stat.S_ISLNK, "link")):
        if test(found.st_mode):
            return name
    return "other"
