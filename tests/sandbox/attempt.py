# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""One attempt, made from inside a unit in the place of the engine: ends with 0 where it succeeded, with 10 where it was refused.

Any other status means that the attempt itself is broken. Attempts named `keeps_*` are what inference needs.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import signal
import socket
import subprocess
import sys

REFUSED = 10
SET_MEMPOLICY = 238 if os.uname().machine == "x86_64" else 237
LIBC = ctypes.CDLL(None, use_errno=True)


def called(result):
    """Result of a call into libc; raises OSError where it is -1."""
    if result == -1:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


def write_usr(_peer):
    with open("/usr/written", "w") as handle:
        handle.write("x")
    os.unlink("/usr/written")


def read_foreign_file(_peer):
    with open("/srv/sandbox-foreign") as handle:
        handle.read()


def read_home(_peer):
    with open("/home/sandbox-readable") as handle:
        handle.read()


def read_foreign_tmp(_peer):
    with open("/tmp/sandbox-foreign") as handle:
        handle.read()


def read_foreign_shm(_peer):
    with open("/dev/shm/sandbox-foreign") as handle:
        handle.read()


def ptrace(_peer):
    child = os.fork()
    if child == 0:
        signal.pause()
    try:
        called(LIBC.ptrace(16, child, None, None))
        os.waitpid(child, 0)
        called(LIBC.ptrace(17, child, None, None))
    finally:
        os.kill(child, 9)


def mount(_peer):
    called(LIBC.mount(b"none", b"/mnt", b"tmpfs", 0, None))


def open_device(_peer):
    os.close(os.open("/dev/sandbox-foreign", os.O_RDWR))


def bind_unplanned(_peer):
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 5000))


def connect_outside(peer):
    socket.create_connection((peer, 22), timeout=3).close()


def make_setuid(_peer):
    with open("/tmp/setuid", "w") as handle:
        handle.write("x")
    os.chmod("/tmp/setuid", 0o4755)


def gain_privileges(_peer):
    done = subprocess.run(["/srv/sandbox-setuid", "/srv/sandbox-foreign"], capture_output=True, check=False)
    if done.returncode != 0:
        raise PermissionError(done.stderr)


def make_namespace(_peer):
    called(LIBC.unshare(0x10000000))


def open_packet_socket(_peer):
    socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0).close()


def write_tunable(_peer):
    with open("/proc/sys/net/ipv4/tcp_sack", "r+") as handle:
        value = handle.read()
        handle.seek(0)
        handle.write(value)


def write_cgroup(_peer):
    os.mkdir("/sys/fs/cgroup/sandbox")
    os.rmdir("/sys/fs/cgroup/sandbox")


def set_host_name(_peer):
    name = socket.gethostname().encode()
    called(LIBC.sethostname(name, len(name)))


def see_processes(_peer):
    os.stat("/proc/1/status")


def give_away(_peer):
    with open("/tmp/given", "w") as handle:
        handle.write("x")
    os.chown("/tmp/given", 1, 1)


def keeps_compiling(_peer):
    code = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    code.write(b"\xc3")
    ctypes.CFUNCTYPE(None)(ctypes.addressof(ctypes.c_char.from_buffer(code)))()


def keeps_shared_memory(_peer):
    with open("/dev/shm/own", "wb") as handle:
        handle.write(bytes(1 << 20))
    called(LIBC.shm_open(b"/own2", os.O_CREAT | os.O_RDWR, 0o600))


def keeps_numa(_peer):
    os.sched_setaffinity(0, os.sched_getaffinity(0))
    called(LIBC.syscall(SET_MEMPOLICY, 0, None, 0))


def keeps_interfaces(_peer):
    if not socket.if_nameindex():
        raise OSError("no interface")
    socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0).close()


def keeps_planned_ports(_peer):
    for port in (7443, 0):
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", port))
            listener.listen()
            socket.create_connection(listener.getsockname(), timeout=30).close()


def keeps_folders(_peer):
    for name in ("HOME", "XDG_CACHE_HOME", "VLLM_RPC_BASE_PATH"):
        with open(os.path.join(os.environ[name], "own"), "w") as handle:
            handle.write("x")


def keeps_peers(peer):
    socket.create_connection((peer, 22), timeout=30).close()


def keeps_own_device(_peer):
    os.close(os.open("/dev/davinci0", os.O_RDWR))


def main():
    """Make the attempt that the last two arguments name: the attempt, and an address for those that connect."""
    name, peer = sys.argv[-2:]
    try:
        globals()[name](peer)
    except OSError as error:
        sys.stderr.write(f"{name}: {error}\n")
        return REFUSED
    return 0


if __name__ == "__main__":
    sys.exit(main())
