# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""The command line ``tests/lab/lab``."""
from __future__ import annotations

import argparse
import os
import sys

from . import labs, machine, roots, runtime, topology
from .podman import Podman
from .progress import say
from .topology import Refusal


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="lab", description="Hosts that boot systemd, on this machine, in seconds.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name, text):
        sub = commands.add_parser(name, help=text, description=text)
        sub.add_argument("--name", default=os.environ.get("LAB_NAME", "demo"), help="the lab (default: LAB_NAME, or demo)")
        return sub

    up = command("up", "Bring a lab up, or repair what is missing of it.")
    up.add_argument("--block", metavar="10.N", help="its addresses are 10.N.0.0 to 10.N.2.255 (default: 10.77)")
    up.add_argument("--hosts", metavar="HOST,...", help=f"default: {','.join(topology.DEFAULT_HOSTS)}")
    up.add_argument("--scale", type=int, metavar="N", help="N nodes, npu01 to npuNN, instead of those in --hosts")
    up.add_argument(
        "--root",
        action="append",
        metavar="[HOST=]SUITE[+PACKAGE...]",
        help="bookworm (default) or trixie, with further packages; for one host with HOST=; repeatable",
    )
    up.add_argument("--mount", action="append", metavar="HOSTPATH:PATH[:ro]", help="mount into every host; repeatable")
    down = command("down", "Remove a lab and everything it made.")
    down.add_argument("--all", action="store_true", help="remove all labs of this machine")
    command("status", "Show the hosts of a lab, or which labs there are.").add_argument("--all", action="store_true")
    for name, text in (
        ("ssh", "Log in as the deployment account, or run a command."),
        ("exec", "Run a command as root past the host's network; survives a firewall that locks everybody out."),
    ):
        sub = command(name, text)
        sub.add_argument("host")
        sub.add_argument("words", nargs=argparse.REMAINDER, metavar="COMMAND")
    for name, text in (("restart", "Reboot hosts."), ("stop", "Shut hosts down; up boots them again.")):
        command(name, text).add_argument("hosts", nargs="+", metavar="HOST")
    check = commands.add_parser("check", help="Refuse a machine that cannot carry a lab, and install the tools that are missing.")
    check.add_argument("--free", type=int, default=1, metavar="GIB", help="how much of the disk has to be free (default: 1)")
    run = commands.add_parser("run", help="Run a command in the mount namespace of the labs (its cgroups are podman's).")
    run.add_argument("words", nargs=argparse.REMAINDER, metavar="COMMAND")
    build = commands.add_parser("roots", help="Build and cache roots, or remove them.")
    build.add_argument("roots", nargs="*", metavar="SUITE[+PACKAGE...]", help=f"default: {' '.join(roots.SUITES)}")
    build.add_argument("--again", action="store_true", help="build even if cached (for newer packages)")
    build.add_argument("--remove", action="store_true", help="remove all cached roots")
    return parser


def _asked(options: argparse.Namespace) -> dict:
    """What an ``up`` asks for; None where it leaves things as they are."""
    names = options.hosts.split(",") if options.hosts else None
    common = [root for root in options.root or [] if "=" not in root]
    if len(common) > 1:
        raise Refusal(f"--root {' and '.join(common)}: write HOST=ROOT for hosts that differ from the others")
    single = tuple(tuple(root.split("=", 1)) for root in options.root or [] if "=" in root)
    hosts = topology.hosts(names, options.scale) if names or options.scale is not None else None
    return {
        "block": options.block,
        "hosts": tuple(host.name for host in hosts) if hosts else None,
        "root": common[0] if common else None,
        "roots": single or None,
        "mounts": tuple(options.mount) if options.mount else None,
        "directory": str(labs.directory(options.name)),
        "cache": str(machine.cache()),
    }


def _existing(name: str) -> labs.Lab:
    spec = labs.own(name)
    if spec is None:
        raise Refusal(f"lab {name} is not up; bring it up with: lab up --name {name}")
    return labs.Lab(spec)


def _become(command: list[str], environment: dict[str, str] | None = None) -> None:
    sys.stdout.flush()
    os.execvpe(command[0], command, environment or dict(os.environ))


def _up(options: argparse.Namespace) -> None:
    machine.demand(free_gib=1)
    try:
        with machine.lock("use", shared=True):
            runtime.prepare()
            asked = _asked(options)
            labs.discard_orphans(labs.resolve(options.name, asked, None))
            spec = labs.resolve(options.name, asked, labs.specs().get(options.name))
            with machine.lock(f"lab-{spec.name}"):
                labs.Lab(spec).up()
    except BaseException:
        runtime.release()
        raise
    say(f"inventory: {spec.directory}/inventory.yml; log in with: tests/lab/lab ssh --name {spec.name} HOST")


def _down(options: argparse.Namespace) -> None:
    if not options.all:
        labs.own(options.name)
    machine.demand()
    with machine.lock("use", shared=True):
        runtime.prepare()
        known = {entry["lab"] for entry in Podman().hosts()} | set(labs.specs())
        for name in sorted(known) if options.all else [topology.lab_name(options.name)]:
            with machine.lock(f"lab-{name}"):
                labs.down(name)
    runtime.release()


def _status(options: argparse.Namespace) -> None:
    if options.all:
        for name, spec in labs.specs().items():
            print(f"{name:10} {spec.block:7} {spec.root:20} {len(spec.hosts)} hosts  {spec.directory}")
    else:
        print(_existing(options.name).status())


def _run(options: argparse.Namespace) -> None:
    if not options.words:
        raise Refusal("run: name the command to run")
    _become([*runtime.inside(), "sh", "-c", 'cd "$0" && exec "$@"', os.getcwd(), *options.words])


def _roots(options: argparse.Namespace) -> None:
    if options.remove and options.roots:
        raise Refusal("roots --remove: removes all cached roots; name none")
    for root in options.roots:
        roots.parse(root)
    machine.demand()
    with machine.lock("use", shared=True):
        runtime.prepare()
        podman = Podman()
        if options.remove:
            for image in roots.discard(podman):
                say(f"removed {image}")
        else:
            roots.build(options.roots or list(roots.SUITES), podman, again=options.again)
    runtime.release()


def main(arguments: list[str] | None = None) -> int:
    """Run one command; a refusal is one line on standard error and exit status 1."""
    options = _parser().parse_args(arguments)
    try:
        if options.command == "check":
            machine.demand(free_gib=options.free)
        elif options.command == "up":
            _up(options)
        elif options.command == "down":
            _down(options)
        elif options.command == "status":
            _status(options)
        elif options.command == "roots":
            _roots(options)
        elif options.command == "run":
            _run(options)
        elif options.command == "ssh":
            lab = _existing(options.name)
            _become(["ssh", "-F", str(lab.directory / "ssh_config"), options.host, *options.words])
        elif options.command == "exec":
            _become(*_existing(options.name).exec_command(options.host, options.words))
        elif options.command == "restart":
            _existing(options.name).restart(options.hosts)
        elif options.command == "stop":
            _existing(options.name).stop(options.hosts)
    except Refusal as refusal:
        say(str(refusal))
        return 1
    except KeyboardInterrupt:
        say("interrupted")
        return 130
    return 0
