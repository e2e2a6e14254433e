# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Whether a model is the one that the inventory pins, and whether only root can change it.

A model has hundreds of gigabytes. A digest is remembered with what changes when a file does (size, times, inode), and a file is read again only
where one of them changed; that is sound since nobody but root may write, which is verified first.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat

RECORD = "/var/lib/vllm-hardening/models.json"
# Files that a loader runs, or whose format can hold a program. One that nobody pinned is not part of the model.
CODE = (".py", ".so", ".pkl", ".pickle", ".pt", ".pth", ".bin")
SHOWN = 20


def stamp(facts):
    """What of a file changes whenever its content does; the change time cannot be set by a program."""
    return [facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns, facts.st_ino, facts.st_dev]


def digest(path):
    """The sha256 of a file."""
    found = hashlib.sha256()
    with open(path, "rb") as file:
        for part in iter(lambda: file.read(1 << 22), b""):
            found.update(part)
    return found.hexdigest()


def _only_roots(path, facts):
    problems = []
    if facts.st_uid != 0:
        problems.append(f"{path} belongs to user {facts.st_uid}; chown root {path}")
    if stat.S_IMODE(facts.st_mode) & 0o022:
        problems.append(f"{path} has mode {stat.S_IMODE(facts.st_mode):04o}; chmod go-w {path}")
    return problems


def _around(path):
    """The directories above a path, and above what it is a link to: whoever may write in one of them puts another in its place."""
    found = set()
    for place in (os.path.abspath(path), os.path.realpath(path)):
        while place != "/":
            place = os.path.dirname(place)
            found.add(place)
    return found


def verify(path, checksums, known, read=digest):
    """Compare one model's directory with its checksums.

    known: {path of a file: [stamp, sha256]} of before; read: ``read(path) -> sha256``. Returns (problems, {path: [stamp, sha256]} of its files now).
    """
    if not os.path.isdir(path):
        return [f"{path} is no directory of this node; put the model there"], {}
    problems, found, listed, around, walked = [], {}, set(checksums), _around(path), set()
    for folder, folders, names in os.walk(path):
        walked.add(folder)
        problems += _only_roots(folder, os.stat(folder))
        problems += [f"{folder}/{name} is a link to a directory; put the directory there" for name in folders if os.path.islink(f"{folder}/{name}")]
        for name in names:
            inside = os.path.relpath(os.path.join(folder, name), path)
            if inside not in listed and name.endswith(CODE):
                problems.append(f"{path}/{inside} can hold code and is not among model_checksums; add it once it is vetted, or remove it")
    for inside in sorted(listed):
        file = f"{path}/{inside}"
        around |= _around(file) if os.path.islink(file) else set()
        try:
            facts = os.stat(file)
        except OSError as error:
            problems.append(f"{file}: {error.strerror}, though model_checksums names it; copy the model again")
            continue
        foreign = _only_roots(file, facts) if stat.S_ISREG(facts.st_mode) else [f"{file} is no file"]
        problems += foreign
        if foreign:
            continue
        before = known.get(file)
        value = before[1] if isinstance(before, list) and len(before) == 2 and before[0] == stamp(facts) else read(file)
        found[file] = [stamp(facts), value]
        if value != checksums[inside]:
            problems.append(f"{file} has the sha256 {value}, not {checksums[inside]}; copy the model again, or correct model_checksums")
    for folder in filter(os.path.isdir, sorted(around - walked)):
        facts = os.stat(folder)
        # In a directory with the sticky bit only the owner of an entry replaces it.
        problems += [] if facts.st_mode & stat.S_ISVTX else _only_roots(folder, facts)
    return problems, found


def verify_all(models, remember=True, record=RECORD):
    """Every problem of models, ``[{path, checksums}]``; what was read is remembered in a file of root's, unless ``remember`` is false."""
    try:
        with open(record, encoding="utf-8") as file:
            known = json.load(file) if os.fstat(file.fileno()).st_uid == os.geteuid() else {}
    except (FileNotFoundError, ValueError):
        known = {}
    problems, found = [], {}
    for model in models:
        if model["checksums"]:
            wrong, files = verify(model["path"], model["checksums"], known if isinstance(known, dict) else {})
            problems += wrong
            found.update(files)
    if remember and found != known:
        os.makedirs(os.path.dirname(record), mode=0o700, exist_ok=True)
        descriptor = os.open(f"{record}.new", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            json.dump(found, file)
        os.replace(f"{record}.new", record)
    if len(problems) > SHOWN:
        problems = [*problems[:SHOWN], f"and {len(problems) - SHOWN} more"]
    return problems
