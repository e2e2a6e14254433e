# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""What handles packets beside the rules, attached for real: the proof has to name each, and may not say that all is well.

    python3 tests/fuzz/programs.py

Needs root, nft, ip and tc. That it matters is shown first: a filter of traffic control leads a packet past a rule that drops everything.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import socket
import struct
import subprocess
import sys
import time

import laboratory

from ansible_collections.vllm_mindspore.hardening.plugins.module_utils.firewall_witness import prove
from ansible_collections.vllm_mindspore.hardening.plugins.module_utils.packet_programs import bpf

_CLOSED = """table inet closed {
    chain input { type filter hook input priority 0; policy drop; }
    chain forward { type filter hook forward priority 0; policy drop; }
}
"""
_POLICY = {"permit": [], "permit_forward": []}
_PROG_LOAD, _LINK_CREATE = 5, 28  # commands of bpf(2)
_SCHED_CLS, _XDP, _NETFILTER = 3, 6, 32  # kinds of programs
_ATTACH_XDP, _ATTACH_NETFILTER, _ATTACH_INGRESS, _ATTACH_EGRESS = 37, 45, 46, 47
_IPV4, _HOOK_FORWARD = 2, 2  # the kernel tells of it in every network namespace; nodes of labs forward nothing that it could refuse
_WIRE, _OTHER = "eth0", "docker0"


@contextlib.contextmanager
def _program(kind, result, attach_type, target, layout="=", *options):
    """A program of two instructions that gives one result to every packet, attached as long as the context lasts."""
    code = ctypes.create_string_buffer(struct.pack("=BBhiBBhi", 0xB7, 0, 0, result, 0x95, 0, 0, 0), 16)  # r0 = result; exit
    words = ctypes.create_string_buffer(b"GPL")
    program, _answer = bpf(_PROG_LOAD, "=IIQQIIQII16sII", kind, 2, ctypes.addressof(code), ctypes.addressof(words), 0, 0, 0, 0, 0, b"", 0, attach_type)
    link, _answer = bpf(_LINK_CREATE, "=IIII" + layout.lstrip("="), program, target, attach_type, 0, *options)
    try:
        yield
    finally:
        os.close(link)
        os.close(program)


def _tc(*words):
    subprocess.run(["tc", *words], check=True)


@contextlib.contextmanager
def _filter(device, qdisc, way, *words):
    """A filter of traffic control for everything to 10.79.0.0/16."""
    _tc("qdisc", "add", "dev", device, qdisc)
    try:
        _tc("filter", "add", "dev", device, way, "protocol", "ip", "prio", "1", "u32", "match", "ip", "dst", "10.79.0.0/16", *words)
        yield
    finally:
        _tc("qdisc", "del", "dev", device, qdisc)


def _unknown():
    """The verdict of the proof, and what it names as not known."""
    result = prove(_POLICY)
    return result["verdict"], sorted(one["object"] for one in result["unknown"])


def _led_past(lab):
    """The destination ports of packets through the host that came out although the rules drop all: one sent before there was a filter, one sent after."""
    through = dict(lab.tcp("ip", "10.79.0.50", 4001, "10.79.2.60", 4002), flags=2)
    seen, end = [], time.monotonic() + 60
    lab.inject(_WIRE, through, b"")
    with _filter(_WIRE, "clsact", "ingress", "action", "mirred", "egress", "redirect", "dev", _OTHER):
        lab.inject(_WIRE, dict(through, dport=4003), b"")
        while 4003 not in seen and time.monotonic() < end:
            seen += [packet["dport"] for packet in lab.from_wire(_OTHER) if packet["protocol"] == 6]
            time.sleep(0.001)
    return seen


def main():
    """Exit status 0: each was named while it was there, and only then."""
    with laboratory.Laboratory() as lab:
        assert lab.load(_CLOSED), lab.error
        assert _unknown() == ("ok", []), _unknown()
        led = _led_past(lab)
        assert led == [4003], led
        index = socket.if_nametoindex(_WIRE)
        cases = [
            (f"XDP program on {_WIRE}", lambda: _program(_XDP, 2, _ATTACH_XDP, index)),
            (f"BPF program of traffic control on {_WIRE} (ingress)", lambda: _program(_SCHED_CLS, -1, _ATTACH_INGRESS, index)),
            (f"BPF program of traffic control on {_WIRE} (egress)", lambda: _program(_SCHED_CLS, -1, _ATTACH_EGRESS, index)),
            (f"traffic control filter on {_WIRE} (ingress)", lambda: _filter(_WIRE, "ingress", "ingress", "flowid", "1:1")),
            (f"traffic control filter on {_OTHER} (egress)", lambda: _filter(_OTHER, "clsact", "egress", "flowid", "1:1")),
            ("BPF program at netfilter's hook forward, IPv4, priority -500",
             lambda: _program(_NETFILTER, 1, _ATTACH_NETFILTER, 0, "=IIiI", _IPV4, _HOOK_FORWARD, -500, 0)),
        ]
        for name, attached in cases:
            with attached():
                verdict, named = _unknown()
                assert named == [name], (name, named)
                # One that can only refuse opens nothing; what it may rewrite or lead past the rules is certain no more.
                assert verdict == ("ok" if "netfilter" in name else "unknown"), (name, verdict)
            assert _unknown() == ("ok", []), (name, _unknown())
        print(f"{len(cases)} programs and filters beside the rules, each named by the proof while it was there; a packet led past the rules by one")
    return 0


if __name__ == "__main__":
    sys.exit(main())
