#!/usr/bin/python
# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0), or at your option
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""Serving software in immutable Python environments, from locked and hashed wheels."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: python_environment
short_description: Install locked wheels into an immutable Python environment
version_added: 0.1.0
author:
  - vllm_mindspore.hardening contributors (!UNKNOWN)
extends_documentation_fragment:
  - ansible.builtin.action_common_attributes
description:
  - Builds C(PREFIX/environments/DIGEST) from a lock file, where the digest stands for the locked requirements and the interpreter,
    and points the link C(PREFIX/current) at it. An environment is never changed once it is complete.
  - Wheels come from a directory on the node (air-gapped), or from an index, from which C(pip) downloads them. Each file is
    compared with the lock's sha256 before it is unpacked. Unpacking needs no C(pip) and runs nothing of a package, and source
    distributions are refused, so installing executes no foreign code. There is no C(pip) in the environment unless the lock names it.
  - The environment is built under a temporary name and renamed when it is complete, so there is no half-built environment at
    its place at any time. It belongs to root and nobody else may write to it; bytecode is compiled beforehand.
  - A later run compares name, owner, mode, size and modification time of every file with what was recorded at the end of the
    build, and builds anew where they differ, or where somebody else owns a file or may write to one.
  - The prefix, C(environments) and the environment's own directory belong to root with mode 0755, and are put right where they do not.
attributes:
  check_mode:
    support: full
    description: Reports what would be built, linked and removed, with the wheels chosen and their digests compared.
  diff_mode:
    support: full
    description: Shows the environments kept and what C(current) points to.
  platform:
    support: full
    platforms: linux
    description: CPython of version 3.9 or newer on the node.
options:
  prefix:
    description:
      - Directory that holds C(environments), C(current) and C(previous).
    type: path
    default: /opt/vllm
  state:
    description:
      - V(absent) removes every environment and both links, and the prefix where nothing else is in it.
      - V(returned) exchanges C(current) and C(previous), for a new environment that turned out not to work. Nothing is built or removed.
    type: str
    choices: [present, absent, returned]
    default: present
  requirements:
    description:
      - Content of a lock file, C(NAME==VERSION --hash=sha256:DIGEST) a requirement, without environment markers and complete, since
        dependencies are not resolved.
      - Required when O(state=present).
    type: str
  python:
    description:
      - Interpreter the environment is made for.
    type: path
    default: /usr/bin/python3
  wheel_directory:
    description:
      - Directory on the node that holds the wheels. With it nothing is fetched.
      - Exactly one of O(wheel_directory) and O(index_url) is required when O(state=present).
    type: path
  index_url:
    description:
      - Package index that C(pip) of O(python) downloads the wheels from. It is handed over in the environment, never as an argument.
    type: str
  extra_index_urls:
    description:
      - Further indexes, for builds that the first one lacks.
    type: list
    elements: str
    default: []
  keep:
    description:
      - How many earlier environments are kept beside the current one.
    type: int
    default: 1
"""

EXAMPLES = r"""
- name: Install the serving software from wheels that lie on the node
  vllm_mindspore.hardening.python_environment:
    prefix: /opt/vllm
    python: /usr/bin/python3.11
    requirements: "{{ lookup('ansible.builtin.file', 'serving.lock') }}"
    wheel_directory: /srv/wheels

- name: Install from the site's mirror
  vllm_mindspore.hardening.python_environment:
    requirements: "{{ lookup('ansible.builtin.file', 'serving.lock') }}"
    index_url: https://mirror.example.com/simple

- name: Go back to the environment of before
  vllm_mindspore.hardening.python_environment:
    state: returned

- name: Remove everything again
  vllm_mindspore.hardening.python_environment:
    prefix: /opt/vllm
    state: absent
"""

RETURN = r"""
environment:
  description: The environment that C(current) points to (in check mode, will point to).
  type: str
  returned: when O(state=present) or O(state=returned)
  sample: /opt/vllm/environments/4a1f0c7e9b2d3a55
previous:
  description: The environment that C(previous) points to, or an empty string.
  type: str
  returned: when O(state=present) or O(state=returned)
digest:
  description: Digest of the locked requirements and the interpreter.
  type: str
  returned: when O(state=present)
  sample: 4a1f0c7e9b2d3a55
python:
  description: Version of the interpreter.
  type: str
  returned: when O(state=present)
  sample: 3.11.2
replaced:
  description: Whether C(current) now leads to other files than before, so that what runs from it has to be restarted.
  type: bool
  returned: when O(state=present)
origin:
  description: Whether the differences come from a change on the node (V(foreign)), since C(current) was the wanted environment before, or may be intended.
  type: str
  returned: when changed, with O(state=present)
  sample: foreign
resources:
  description: What differs, with the state before and after.
  type: list
  elements: dict
  returned: always
  sample:
    - {resource: "link /opt/vllm/current", change: create, before: {}, after: {target: environments/4a1f0c7e9b2d3a55}}
"""

import configparser
import fcntl
import hashlib
import json
import os
import pwd
import shutil
import stat
import zipfile
import zlib
from concurrent.futures import ThreadPoolExecutor

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.vllm_mindspore.hardening.plugins.module_utils import wheels

MARKER = "environment.json"
DIRECTORY_MODE = 0o755
CHUNK = 1 << 20


def seal(root):
    """A digest of name, kind, mode, owner, size and modification time of everything below ``root`` but the marker.

    Reading metadata of some 50,000 files takes well under a second where reading their 3 GB would not. An empty text, which is no
    digest, where somebody else owns a file or may write to one, the marker among them: whoever can do that can write a marker as well.
    """
    lines = []
    pending = [""]
    while pending:
        folder = pending.pop()
        with os.scandir(os.path.join(root, folder)) as entries:
            for entry in entries:
                relative = os.path.join(folder, entry.name)
                found = entry.stat(follow_symlinks=False)
                kind = stat.S_IFMT(found.st_mode)
                if found.st_uid != os.geteuid() or (not stat.S_ISLNK(kind) and found.st_mode & 0o022):
                    return ""
                if relative == MARKER:
                    continue
                detail = f"{found.st_size} {found.st_mtime_ns}"
                if stat.S_ISDIR(kind):
                    pending.append(relative)
                    detail = ""
                elif stat.S_ISLNK(kind):
                    detail = os.readlink(entry.path)
                lines.append(f"{relative}\0{found.st_mode:o} {found.st_uid} {found.st_gid} {detail}")
    return hashlib.sha256("\n".join(sorted(lines)).encode("utf-8", "surrogateescape")).hexdigest()


def sha256_of(path):
    """Digest of a file's content."""
    digest = hashlib.sha256()
    with open(path, "rb") as handle:
        for chunk in iter(lambda: handle.read(CHUNK), b""):
            digest.update(chunk)
    return digest.hexdigest()


def owner_name(number):
    """The name of an account, or its number where it has none."""
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return str(number)


def read_link(path):
    """Target of a symbolic link, or None."""
    try:
        return os.readlink(path)
    except OSError:
        return None


def read_marker(path):
    """What the build of an environment recorded about itself, or None where there is no complete environment."""
    try:
        with open(os.path.join(path, MARKER), encoding="utf-8") as handle:
            found = json.load(handle)
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


class Builder:
    """Verifies and unpacks wheels into a root that will be renamed to its final place."""

    def __init__(self, module, root, final, target, base):
        self.module, self.root, self.final, self.base = module, root, final, base
        self.python = f"python{target.version[0]}.{target.version[1]}"
        self.version = ".".join(str(part) for part in target.version)
        self.interpreter = f"{final}/bin/python"

    def write(self, relative, content, mode=0o644):
        """A file of our own below the root."""
        path = os.path.join(self.root, relative)
        os.makedirs(os.path.dirname(path), mode=0o755, exist_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, mode)
        with os.fdopen(descriptor, "wb") as handle:
            handle.write(content)

    def skeleton(self):
        """What `python -m venv --without-pip` would make, with the final place written into it."""
        os.makedirs(os.path.join(self.root, "lib", self.python, "site-packages"), mode=0o755)
        os.makedirs(os.path.join(self.root, "bin"), mode=0o755)
        os.symlink(self.base, os.path.join(self.root, "bin", "python"))
        for name in ("python3", self.python):
            os.symlink("python", os.path.join(self.root, "bin", name))
        os.symlink("lib", os.path.join(self.root, "lib64"))
        configuration = f"home = {os.path.dirname(self.base)}\ninclude-system-site-packages = false\nversion = {self.version}\n"
        self.write("pyvenv.cfg", configuration.encode())

    def unpack(self, placed, owners, filename):
        """Write the members that this wheel owns and its launchers; a path that several wheels ship belongs to the last by name."""
        with zipfile.ZipFile(filename) as archive:
            launchers = {}
            information = ""
            for member, path, is_script in placed:
                if member.endswith(".dist-info/entry_points.txt"):
                    launchers = wheels.entry_points(archive.read(member).decode("utf-8"))
                if member.endswith(".dist-info/METADATA") and member.count("/") == 1:
                    information = os.path.dirname(path)
                if owners[path] != filename or path.endswith(".dist-info/RECORD"):
                    continue
                self.extract(archive, member, path, is_script)
            record = next((member for member, _path, _script in placed if member.endswith(".dist-info/RECORD")), None)
            rows = [archive.read(record).decode("utf-8")] if record else []
            for name, (attribute_module, attribute) in launchers.items():
                content = wheels.console_script(self.interpreter, attribute_module, attribute).encode()
                self.write(f"bin/{name}", content, 0o755)
                rows.append(wheels.record_row(f"../../../bin/{name}", content))
            if information:
                self.write(f"{information}/INSTALLER", b"vllm_mindspore.hardening\n")
                self.write(f"{information}/RECORD", "".join(rows).encode())

    def unpack_or_name(self, placed, owners, filename):
        """As unpack; what is wrong with a wheel is told with its name."""
        try:
            self.unpack(placed, owners, filename)
        except (zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, UnicodeError, configparser.Error) as error:
            what = str(error).splitlines()[0]
            raise wheels.WheelError([f"{filename} cannot be unpacked ({type(error).__name__}: {what}); do not use this file"]) from None

    def extract(self, archive, member, path, is_script):
        """One member to its place: executable where the wheel says so, never set-id, never a link."""
        executable = is_script or (archive.getinfo(member).external_attr >> 16) & 0o111
        if is_script:
            self.write(path, wheels.rewrite_shebang(archive.read(member), self.interpreter), 0o755)
            return
        full = os.path.join(self.root, path)
        os.makedirs(os.path.dirname(full), mode=0o755, exist_ok=True)
        descriptor = os.open(full, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o755 if executable else 0o644)
        with os.fdopen(descriptor, "wb") as handle, archive.open(member) as source:
            shutil.copyfileobj(source, handle, CHUNK)

    def build(self, files):
        """Unpack the wheels, compile, record."""
        self.skeleton()
        placements, owners, problems = {}, {}, []
        for filename in files:
            try:
                with zipfile.ZipFile(filename) as archive:
                    placements[filename] = wheels.layout(os.path.basename(filename), archive.namelist(), self.python)
            except (zipfile.BadZipFile, wheels.WheelError) as error:
                problems.append(f"{filename}: {error}")
                continue
            owners.update({path: filename for _member, path, _script in placements[filename]})
        if problems:
            raise wheels.WheelError(problems)
        with ThreadPoolExecutor(max_workers=os.cpu_count() or 1) as pool:
            list(pool.map(lambda name: self.unpack_or_name(placements[name], owners, name), files))
        # Unchecked bytecode: the environment never changes, so no import has to look at the source's time. Files that are no valid
        # Python (templates that packages ship) make compileall report an error that pip ignores as well.
        self.module.run_command(
            [f"{self.root}/bin/python", "-I", "-m", "compileall", "-q", "-j", "0", "-s", self.root, "-p", self.final,
             "--invalidation-mode", "unchecked-hash", f"{self.root}/lib"],
        )


class Environments:
    """The environments below one prefix: what is there, what is wanted, and the way from one to the other."""

    def __init__(self, module):
        self.module = module
        options = module.params
        self.prefix = options["prefix"].rstrip("/")
        self.python, self.keep = options["python"], options["keep"]
        self.wheel_directory = options["wheel_directory"]
        self.folder = f"{self.prefix}/environments"
        self.resources = []

    def note(self, resource, change, before, after):
        """Record one difference."""
        self.resources.append({"resource": resource, "change": change, "before": before, "after": after})

    def own(self, path, through_link=False):
        """Give a directory back to root with its mode, where it is there and another has it; a link may lead to anything and is left alone."""
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | (0 if through_link else os.O_NOFOLLOW))
        except (FileNotFoundError, NotADirectoryError):
            return
        try:
            found = os.fstat(descriptor)
            before = {"owner": owner_name(found.st_uid), "mode": f"{stat.S_IMODE(found.st_mode):04o}"}
            # A setgid directory around the prefix leaves its bit and its group, which may not write.
            if found.st_uid == os.geteuid() and found.st_mode & 0o777 == DIRECTORY_MODE:
                return
            self.note(f"directory {path}", "update", before, {"owner": owner_name(os.geteuid()), "mode": f"{DIRECTORY_MODE:04o}"})
            if not self.module.check_mode:
                os.fchown(descriptor, os.geteuid(), -1)
                os.fchmod(descriptor, DIRECTORY_MODE)
        finally:
            os.close(descriptor)

    def probe(self):
        """The interpreter's Target and facts; raises WheelError where it cannot be used."""
        if not os.access(self.python, os.X_OK):
            raise wheels.WheelError([f"python: {self.python} is not there on this node; install it or name another interpreter"])
        code, out, err = self.module.run_command([self.python, "-I", "-c", wheels.probe_program()])
        if code != 0:
            raise wheels.WheelError([f"python: {self.python} does not run: {err.strip().splitlines()[-1] if err.strip() else code}"])
        return wheels.target_of(out, self.python)

    def verified(self, requirements, target, directory):
        """Files of ``directory`` that are what the lock says, in the order of their names; raises WheelError naming all that are not."""
        try:
            offered = os.listdir(directory)
        except OSError as error:
            raise wheels.WheelError([f"wheel_directory: {directory} cannot be read on this node ({error.strerror}); copy or mount the wheels there"]) from None
        candidates = wheels.choose_wheels(requirements, offered, target, directory)
        files, problems = [], []
        for item in requirements:
            seen = {}
            for filename in candidates[item.name]:
                path = os.path.join(directory, filename)
                seen[filename] = sha256_of(path)
                if seen[filename] in item.hashes:
                    files.append(path)
                    break
            else:
                found = ", ".join(f"{filename} is {digest}" for filename, digest in seen.items())
                problems.append(f"{item.name}=={item.version}: no file has a digest of the lock ({found}); fetch the file that was locked")
        if problems:
            raise wheels.WheelError(problems)
        return files

    def download(self, text, directory):
        """Fetch the locked wheels with the interpreter's own pip; URLs travel in the environment, since they may carry credentials."""
        lock = os.path.join(directory, "requirements.lock")
        with open(lock, "w", encoding="utf-8") as handle:
            handle.write(text)
        environment = {"PIP_INDEX_URL": self.module.params["index_url"], "PIP_NO_INPUT": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
        if self.module.params["extra_index_urls"]:
            environment["PIP_EXTRA_INDEX_URL"] = " ".join(self.module.params["extra_index_urls"])
        code, out, err = self.module.run_command(
            [self.python, "-m", "pip", "download", "--quiet", "--no-deps", "--require-hashes", "--only-binary", ":all:",
             "--no-cache-dir", "--dest", directory, "--requirement", lock],
            environ_update=environment,
        )
        if code != 0:
            reasons = [line for line in (out + err).splitlines() if line.startswith("ERROR") or "No module named pip" in line] or (out + err).splitlines()[-1:]
            raise wheels.WheelError([f"index_url: pip could not fetch the locked wheels: {reason}" for reason in reasons[:3]])

    def present(self):
        """Make the wanted environment the current one; returns the result of the module."""
        text = self.module.params["requirements"] or ""
        requirements = wheels.parse_lock(text)
        target, facts = self.probe()
        digest = wheels.environment_digest(requirements, target, self.python)
        final = f"{self.folder}/{digest}"
        current, previous = read_link(f"{self.prefix}/current"), read_link(f"{self.prefix}/previous")
        wanted = f"environments/{digest}"
        earlier = current if current not in (None, wanted) and read_marker(os.path.join(self.prefix, current)) else previous
        kept = self.kept(wanted, [earlier, current, previous])
        earlier = earlier if earlier != wanted and earlier and os.path.basename(earlier) in kept else None
        self.own(self.prefix, through_link=True)
        self.own(self.folder)
        self.own(final)
        marker = read_marker(final)
        found = seal(final) if marker is not None and marker.get("digest") == digest else ""
        sound = found != "" and marker.get("seal") == found
        if not sound:
            self.build(text, requirements, target, facts, digest, marker)
        self.link("current", current, wanted)
        self.link("previous", previous, earlier)
        self.prune(kept)
        return {
            "replaced": not sound or current != wanted, **({"origin": "foreign" if current == wanted else "unknown"} if self.resources else {}),
            "environment": final, "previous": f"{self.prefix}/{earlier}" if earlier else "", "digest": digest,
            "python": ".".join(str(part) for part in target.version),
        }

    def kept(self, wanted, links):
        """Names below ``environments`` that stay: the wanted one, and up to ``keep`` others, first those that links name, then the newest."""
        try:
            present = [entry.name for entry in os.scandir(self.folder) if entry.is_dir(follow_symlinks=False) and not entry.name.startswith(".")]
        except OSError:
            present = []
        linked = [os.path.basename(link) for link in links if link and os.path.basename(link) in present]
        newest = sorted(present, key=lambda name: os.stat(os.path.join(self.folder, name)).st_mtime, reverse=True)
        earlier = [name for name in dict.fromkeys(linked + newest) if name != os.path.basename(wanted)]
        return {os.path.basename(wanted)} | set(earlier[:self.keep])

    def build(self, text, requirements, target, facts, digest, marker):
        """Build the environment under a temporary name and rename it; what was there and is damaged goes afterwards."""
        final = f"{self.folder}/{digest}"
        there = os.path.lexists(final)
        before = {} if not there else {"state": "differs from what was built" if marker else "incomplete"}
        self.note(f"environment {final}", "rebuild" if there else "create", before, {"state": "complete", "wheels": len(requirements)})
        if self.module.check_mode:
            if self.wheel_directory:
                self.verified(requirements, target, self.wheel_directory)
            return
        os.makedirs(self.folder, mode=0o755, exist_ok=True)
        root, stage, damaged = (f"{self.folder}/.{what}-{digest}" for what in ("building", "wheels", "damaged"))
        for leftover in (root, stage, damaged):
            shutil.rmtree(leftover, ignore_errors=True)
        try:
            source = self.wheel_directory
            if not source:
                os.mkdir(stage, 0o700)
                self.download(text, stage)
                source = stage
            files = self.verified(requirements, target, source)
            self.require_space(files)
            os.mkdir(root, 0o755)
            Builder(self.module, root, final, target, facts["base"]).build(files)
            sealed = seal(root)
            if not sealed:
                raise wheels.WheelError([f"prefix: what is written below {self.prefix} belongs to others, or others may write to it; name a local file system"])
            with open(os.path.join(root, MARKER), "w", encoding="utf-8") as handle:
                json.dump({"digest": digest, "python": self.python, "seal": sealed}, handle)
                handle.flush()
                os.fsync(handle.fileno())
            if there:
                os.rename(final, damaged)
            os.rename(root, final)
        finally:
            for leftover in (root, stage, damaged):
                shutil.rmtree(leftover, ignore_errors=True)

    def require_space(self, files):
        """Refuse before the disk is full: unpacked wheels, and as much again for a third of bytecode and blocks."""
        needed = 0
        for filename in files:
            with zipfile.ZipFile(filename) as archive:
                needed += sum(member.file_size for member in archive.infolist())
        needed = needed * 4 // 3
        space = os.statvfs(self.folder)
        free = space.f_bavail * space.f_frsize
        if free < needed:
            raise wheels.WheelError(
                [f"prefix: {self.prefix} has {free >> 20} MiB free and the environment needs about {needed >> 20} MiB; free some or name another prefix"]
            )

    def link(self, name, before, after):
        """Point PREFIX/NAME at a target atomically, or remove it."""
        path = f"{self.prefix}/{name}"
        if before == after:
            return
        change = "create" if before is None else "remove" if after is None else "update"
        self.note(f"link {path}", change, {"target": before} if before else {}, {"target": after} if after else {})
        if self.module.check_mode:
            return
        if after is None:
            os.unlink(path)
            return
        temporary = f"{self.prefix}/.{name}.new"
        if os.path.lexists(temporary):
            os.unlink(temporary)
        os.symlink(after, temporary)
        os.replace(temporary, path)

    def prune(self, kept):
        """Remove environments beyond those kept."""
        try:
            present = sorted(entry.name for entry in os.scandir(self.folder))
        except OSError:
            return
        for name in present:
            if name.startswith(".") or name in kept:
                continue
            self.note(f"environment {self.folder}/{name}", "remove", {"state": "earlier"}, {})
            if not self.module.check_mode:
                shutil.rmtree(os.path.join(self.folder, name))

    def returned(self):
        """Exchange the current environment and the one before it."""
        current, previous = read_link(f"{self.prefix}/current"), read_link(f"{self.prefix}/previous")
        if previous is None or read_marker(os.path.join(self.prefix, previous)) is None:
            raise wheels.WheelError([f"prefix: {self.prefix} has no earlier environment to return to; keep at least 1, or install the wanted lock again"])
        self.link("current", current, previous)
        self.link("previous", previous, current)
        return {"environment": f"{self.prefix}/{previous}", "previous": f"{self.prefix}/{current}" if current else ""}

    def absent(self):
        """Remove what this module made; the prefix goes where it is then empty."""
        for name in ("current", "previous"):
            self.link(name, read_link(f"{self.prefix}/{name}"), None)
        if os.path.isdir(self.folder):
            self.note(f"directory {self.folder}", "remove", {"state": "present"}, {})
            if not self.module.check_mode:
                shutil.rmtree(self.folder)
        if os.path.isdir(self.prefix) and not set(os.listdir(self.prefix)) - {"environments", "current", "previous", ".lock"}:
            self.note(f"directory {self.prefix}", "remove", {"state": "present"}, {})
            if not self.module.check_mode:
                shutil.rmtree(self.prefix)
        return {}


def as_text(resources, side):
    """One side of the difference as text for --diff."""
    lines = []
    for item in resources:
        state = " ".join(f"{key}={value}" for key, value in sorted(item[side].items()))
        if state:
            lines.append(f"{item['resource']}: {state}\n")
    return "".join(lines)


def main():
    """Read the options, hold the lock of the prefix, bring it to the wanted state."""
    module = AnsibleModule(
        argument_spec={
            "prefix": {"type": "path", "default": "/opt/vllm"},
            "state": {"type": "str", "choices": ["present", "absent", "returned"], "default": "present"},
            "requirements": {"type": "str"},
            "python": {"type": "path", "default": "/usr/bin/python3"},
            "wheel_directory": {"type": "path"},
            "index_url": {"type": "str", "no_log": True},
            "extra_index_urls": {"type": "list", "elements": "str", "default": [], "no_log": True},
            "keep": {"type": "int", "default": 1},
        },
        mutually_exclusive=[("wheel_directory", "index_url")],
        required_if=[("state", "present", ("requirements",)), ("state", "present", ("wheel_directory", "index_url"), True)],
        supports_check_mode=True,
    )
    os.umask(0o022)
    environments = Environments(module)
    lock = None
    try:
        if module.params["keep"] < 0 or not environments.prefix.startswith("/"):
            raise wheels.WheelError(["prefix must be an absolute path other than / and keep not negative"])
        if not module.check_mode and module.params["state"] != "absent":
            os.makedirs(environments.prefix, mode=0o755, exist_ok=True)
            lock = os.open(f"{environments.prefix}/.lock", os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            fcntl.flock(lock, fcntl.LOCK_EX)
        result = getattr(environments, module.params["state"])()
    except wheels.WheelError as error:
        module.fail_json(msg="\n".join(error.problems), problems=error.problems)
    except (OSError, zipfile.BadZipFile) as error:
        module.fail_json(msg=f"{environments.prefix}: {error}")
    finally:
        if lock is not None:
            os.close(lock)
    if module._diff:
        result["diff"] = {"before": as_text(environments.resources, "before"), "after": as_text(environments.resources, "after")}
    module.exit_json(changed=bool(environments.resources), resources=environments.resources, **result)


if __name__ == "__main__":
    main()
