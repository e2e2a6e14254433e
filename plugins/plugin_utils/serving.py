# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""From the instances of a node's plan to its accounts, secrets and sandboxed systemd units. Pure but for `kept_tokens`."""

from __future__ import annotations

import ipaddress
import os
import re
import secrets
import shlex

from ansible_collections.vllm_mindspore.hardening.plugins.module_utils import npu, ports
from ansible_collections.vllm_mindspore.hardening.plugins.plugin_utils import plan_ray

EXECUTABLES = {"ray": "ray", "vllm": "vllm", "vllm_ascend": "vllm", "vllm_mindspore": "vllm-mindspore"}
# What every Ascend process opens beside its own NPUs (vLLM-Ascend and MindIE installation guides).
ASCEND_DEVICES = ("/dev/davinci_manager", "/dev/devmm_svm", "/dev/hisi_hdc")
DEFAULTS = {
    "executable_directory": "/opt/vllm/current/bin",
    "watched": ["/opt/vllm/current"],
    "restart": False,
    "sets": {},
    "listeners": [],
    "shared_memory": "50%",
    "ready_timeout": 900,
    "dropins": {},
    "enabled": True,
    "state": "started",
    "image": "",
    "image_engine": "podman",
    "image_paths": [],
    # What the last of them puts into a path precedes the others.
    "toolkit_scripts": list(npu.TOOLKIT_SCRIPTS),
}

CREDENTIALS = "/etc/vllm-hardening/credentials"
PROGRAMS = "/usr/local/lib/vllm-hardening"
TETHER = f"{PROGRAMS}/tether.py"
# Ray gives up where its agent does not answer 15 s after its start, which no variable changes (Ray 2.60, node_manager.cc, Ray issue 65983); on a
# loaded node that happens, and the next start finds everything in the page cache. The engine goes down and comes back with it.
RAY_RESTARTS = 5
IMAGE_UNIT = "vllm-image.service"
IMAGE_PROGRAM = f"{PROGRAMS}/image_root.py"
IMAGES = "/run/vllm-hardening/images"
# What each container engine needs for its images to be there. docker tells by its daemon where they are.
IMAGE_ENGINES = {
    "docker": ["RequiresMountsFor=/var/lib/docker", "Wants=docker.service", "After=docker.service"],
    "podman": ["RequiresMountsFor=/var/lib/containers"],
}
# What a unit takes from the host into the root file system of an image; with NPUs also the driver, as Ascend's own containers do.
IMAGE_HOST_PATHS = ("/etc/group", "/etc/hosts", "/etc/passwd", PROGRAMS)
ASCEND_HOST_PATHS = ("/etc/ascend_install.info", "/etc/hccn.conf", "/usr/local/Ascend/driver", "/usr/local/bin/npu-smi", "/usr/local/dcmi")
# The driver's libraries: the loader of a host is told by the driver where they are, that of an image is not.
DRIVER_LIBRARIES = "/usr/local/Ascend/driver/lib64/driver:/usr/local/Ascend/driver/lib64/common"
# Where systemd mounts by itself in such a unit.
IMAGE_MOUNT_POINTS = ("/dev", "/proc", "/run", "/sys", "/tmp", "/var/tmp")
HEADER = "# Managed by vllm_mindspore.hardening; changes are overwritten.\n"

# The sandbox of every instance. Kept open, with the reason: MemoryDenyWriteExecute (torch, numba, oneDNN and CANN compile at run time),
# ProcSubset (torch reads /proc/cpuinfo and meminfo), AF_NETLINK (getifaddrs of Gloo and HCCL), @resources (NUMA placement).
SANDBOX = """\
NoNewPrivileges=yes
CapabilityBoundingSet=
AmbientCapabilities=
UMask=0077
ProtectSystem=strict
ProtectHome=yes
ProtectProc=invisible
ProtectClock=yes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
ProtectControlGroups=yes
PrivateTmp=yes
PrivateMounts=yes
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
LockPersonality=yes
KeyringMode=private
RemoveIPC=yes
SystemCallArchitectures=native
SystemCallFilter=@system-service
SystemCallFilter=~@privileged @keyring @obsolete
SystemCallErrorNumber=EPERM
DevicePolicy=closed
"""


def quote(text):
    """One word of an ExecStart= or Environment= line: specifiers, variables and quotes mean nothing."""
    escaped = str(text).replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
    if any(ord(character) < 32 for character in escaped):
        raise ValueError(f"{text!r} holds a control character, which no unit can carry; remove it")
    return f'"{escaped}"' if not escaped or any(character in escaped for character in " \t'\";&|<>") else escaped


def argument(text):
    """As quote(), for ExecStart=, in which systemd would also replace variables."""
    return quote(text).replace("$", "$$")


def collapse(networks):
    """Addresses and networks of both families as the fewest networks in CIDR form, IPv4 first."""
    parsed = [ipaddress.ip_network(item, strict=False) for item in networks]
    collapsed = []
    for version in (4, 6):
        collapsed += [str(network) for network in ipaddress.collapse_addresses(item for item in parsed if item.version == version)]
    return collapsed


def devices(instance):
    """Device nodes of an instance: exactly its NPUs and what each of them needs, and what the plan lists."""
    npus = instance.get("npus")
    listed = [f"/dev/davinci{number}" for number in npus] + list(ASCEND_DEVICES) if npus else []
    return list(dict.fromkeys([*listed, *(instance.get("devices") or [])]))


def environment(instance):
    """Variables of an instance: its folders and what keeps Python to its environment; the plan's own come last and win."""
    name = instance["user"]
    state, cache = f"/var/lib/{name}", f"/var/cache/{name}"
    return {
        "HOME": state,
        "HF_HOME": f"{cache}/huggingface",
        "NUMBA_CACHE_DIR": f"{cache}/numba",
        "PYTHONNOUSERSITE": "1",
        "PYTHONSAFEPATH": "1",
        "TORCHINDUCTOR_CACHE_DIR": f"{cache}/inductor",
        "TRITON_CACHE_DIR": f"{cache}/triton",
        "VLLM_CACHE_ROOT": f"{cache}/vllm",
        "VLLM_CONFIG_ROOT": f"{state}/config",
        "XDG_CACHE_HOME": cache,
        **({"ASCEND_PROCESS_LOG_PATH": f"{state}/ascend"} if instance.get("npus") else {}),
        **{key: str(value) for key, value in (instance.get("environment") or {}).items()},
    }


def is_loopback(address):
    """Whether an address of an API is reachable from its own node only."""
    return ipaddress.ip_address(address).is_loopback


def allowed_networks(instance, options):
    """Who may exchange packets with the unit: its peers, and for an API that is not on loopback its clients and the node itself."""
    networks = list(options["sets"].get(f"peers_{instance['name']}") or [])
    api = instance.get("api")
    if api and not is_loopback(api["address"]):
        networks += [api["address"], *(options["sets"].get("clients") or [])]
    return collapse(networks)


def bind_rules(instance, options):
    """SocketBind lines: any planned port and what the kernel chooses, no other.

    A deny of 1-65535 leaves out port 0, by which a program lets the kernel choose a port of the pinned ephemeral range.
    """
    api = instance.get("api")
    planned = [str(api["port"])] if api else []
    for listener in options["listeners"]:
        if listener["instance"] == instance["name"] and listener["protocol"] == "tcp":
            planned += listener["ports"]
    merged = ports.merge_ports([ports.parse_ports(item) for item in planned])
    lines = ["SocketBindDeny=tcp:1-65535", "SocketBindDeny=udp:1-65535"]
    return lines + [f"SocketBindAllow=tcp:{ports.format_ports(bounds)}" for bounds in merged]


def tethered(instance, options):
    """Addresses of the members whose end must end this one: of the head every other member, of the others the head.

    A data-parallel engine meets its head only while both start (vLLM closes the handshake socket then).
    """
    arguments = list(instance["arguments"] or [])
    if "--data-parallel-address" not in arguments:
        return []
    head = arguments[arguments.index("--data-parallel-address") + 1]
    if is_loopback(head):
        return []
    if not instance.get("head"):
        return [head]
    return [address for address in options["sets"].get(f"peers_{instance['name']}") or [] if address != head]


def credential(name):
    """What a shell assigns to a variable that takes a secret: its content, or its place where the program reads a file by itself."""
    place = f"$CREDENTIALS_DIRECTORY/{name}"
    return f'"{place}"' if name.endswith("_PATH") or name in plan_ray.TLS.values() else f'"$(cat "{place}")"'


def toolkit(instance, options):
    """What a shell does so that an engine with NPUs finds the libraries and the compilers of CANN; nothing without NPUs.

    The vendor's scripts are written for bash, look at the arguments of the shell that has no others for them, and ask the first Python for torch.
    They put what is theirs before what is there, and leave an empty entry where nothing is, which would stand for the current directory.
    """
    if not instance.get("npus") or not options["toolkit_scripts"]:
        return ""
    for path in options["toolkit_scripts"]:
        if not re.fullmatch(r"/[A-Za-z0-9._/+-]+", path):
            raise ValueError(f"vllm_serve_toolkit_scripts: {path!r} is no plain absolute path; write such as {DEFAULTS['toolkit_scripts'][0]}")
    scripts = " ".join(options["toolkit_scripts"])
    load = f'toolkit() {{ for script in {scripts}; do [ ! -f $script ] || . $script; done; }}; toolkit; '
    first = f'PATH={shlex.quote(options["executable_directory"])}:"$PATH"; export LD_LIBRARY_PATH={DRIVER_LIBRARIES}; '
    return first + load + "PYTHONPATH=${PYTHONPATH%:}; "


def command(instance, options):
    """The words of ExecStart. A shell sets up the toolkit, reads secrets from credentials into the environment, and is replaced by the program."""
    folder = options["executable_directory"]
    words = [f"{folder}/{EXECUTABLES[instance['engine']]}", *instance["arguments"]]
    members = tethered(instance, options)
    if members:
        words = [f"{folder}/python", "-I", TETHER, ",".join(members), "--", *words]
    names = sorted(instance.get("credentials") or {})
    reads = "".join(f"{name}={credential(name)} && export {name} && " for name in names)
    before = toolkit(instance, options)
    if before or reads:
        words = ["/bin/bash" if before else "/bin/sh", "-c", f'{before}{reads}exec "$@"', "sh", *words]
    return " ".join(argument(word) for word in words)


def ray_token(instance):
    """The credential of a Ray cluster with token authentication; Ray reads the file by itself (its C++ loader, since 2.52)."""
    return {"RAY_AUTH_TOKEN_PATH": f"{CREDENTIALS}/{instance['name']}.ray-token"} if (instance.get("ray") or {}).get("token") else {}


def ray_credentials(instance):
    """What the processes of a Ray cluster read from files: its token, and with TLS the certificate, the key and the authority."""
    tls = (instance.get("ray") or {}).get("tls") or {}
    return {**ray_token(instance), **{plan_ray.TLS[name]: path for name, path in tls.items()}}


def ray_member(instance):
    """What runs Ray on a node of an instance, as an instance of its own: same user, same sandbox, same variables."""
    ray = instance["ray"]
    credentials = ray_credentials(instance)
    engine = instance["unit"] if instance["arguments"] is not None else None
    own = {"unit": ray["unit"], "engine": "ray", "arguments": ray["arguments"], "api": None, "what": "Ray of instance"}
    return {**instance, **own, "wants": engine, "credentials": credentials}


def image_root(image):
    """Where the root file system of an image lies; another image has another place, so that the units that use it change."""
    if not re.fullmatch(r"sha256:[0-9a-f]{64}", image):
        raise ValueError(f"vllm_runtime_image: {image!r} is no ID of an image; write sha256: and its 64 hexadecimal digits")
    return f"{IMAGES}/{image[7:19]}"


def host_paths(instance, options):
    """What an instance out of an image sees of the host, read-only: {path: whether it may be missing}."""
    paths = dict.fromkeys(IMAGE_HOST_PATHS, False)
    paths.update(dict.fromkeys(ASCEND_HOST_PATHS if instance.get("npus") else (), True))
    model = str(instance.get("model") or "")
    paths.update(dict.fromkeys([model] if model.startswith("/") else [], False))
    paths.update(dict.fromkeys(options["image_paths"], False))
    return paths


def image_lines(instance, options):
    """The lines by which a unit runs out of an image instead of the host's root; nothing else of the unit differs."""
    if not options["image"]:
        return []
    binds = [f"BindReadOnlyPaths={'-' if optional else ''}{quote(path)}" for path, optional in sorted(host_paths(instance, options).items())]
    return [f"RootDirectory={image_root(options['image'])}", "MountAPIVFS=yes", *binds]


def image_unit(instances, options):
    """The unit that makes the root file system of the instances; it needs root and mounts for others to see, and runs nothing of the image."""
    root, places = image_root(options["image"]), set(IMAGE_MOUNT_POINTS)
    for instance in instances:
        places |= {f"{base}/{instance['user']}" for base in ("/run", "/var/cache", "/var/lib")} | set(host_paths(instance, options))
    places |= {f"/run/credentials/{instance['unit']}" for instance in instances if instance.get("credentials")}
    words = ["/usr/bin/python3", "-I", IMAGE_PROGRAM]
    start, stop = [*words, "mount", options["image_engine"], options["image"], root], [*words, "unmount", root]
    lines = [
        "[Unit]", "Description=Root file system of the vLLM instances, out of a container image", *IMAGE_ENGINES[options["image_engine"]], "",
        "[Service]", "Type=oneshot", "RemainAfterExit=yes", f"ExecStart={' '.join(map(argument, [*start, *sorted(places)]))}",
        f"ExecStop={' '.join(map(argument, stop))}", "",
    ]
    return {
        "name": IMAGE_UNIT, "content": HEADER + "\n".join(lines), "state": options["state"], "restart_on": [IMAGE_PROGRAM],
        "restart": False, "dropins": {},
    }


def unit_content(instance, options):
    """The unit file of an instance; raises ValueError for what no unit can carry."""
    user = instance["user"]
    if instance["engine"] not in EXECUTABLES:
        known = ", ".join(sorted(set(EXECUTABLES) - {"ray"}))
        raise ValueError(f"{instance['name']}: engine {instance['engine']!r} is not known; write one of {known}")
    beside = instance.get("ray") if instance["engine"] != "ray" else None
    listed = devices(instance)
    lines = [
        "[Unit]",
        f"Description={instance.get('what', 'vLLM instance')} {instance['name'].replace('%', '%%')}, rank {instance.get('rank', 0)}",
        *([f"BindsTo={beside['unit']}", f"After={beside['unit']}"] if beside else []),
        "Wants=network-online.target",
        # The end of Ray ends the engine, and its next start has to start the engine again.
        *([f"Wants={instance['wants']}"] if instance.get("wants") else []),
        "After=network-online.target vllm-hardening-firewall.service",
        *([f"BindsTo={IMAGE_UNIT}", f"After={IMAGE_UNIT}"] if options["image"] else []),
        "StartLimitIntervalSec=0",
        "",
        "[Service]",
        "Type=exec",
        f"User={user}",
        f"Group={user}",
        f"ExecStart={command(instance, options)}",
        *(f"LoadCredential={name}:{path}" for name, path in sorted((instance.get("credentials") or {}).items())),
        *(f"Environment={quote(f'{key}={value}')}" for key, value in sorted(environment(instance).items())),
        f"StateDirectory={user}",
        f"CacheDirectory={user}",
        f"RuntimeDirectory={user}",
        "StateDirectoryMode=0700",
        "CacheDirectoryMode=0700",
        "RuntimeDirectoryMode=0700",
        # Ray and the engine beside it meet in one folder, which the end of one must not take from the other.
        *(["RuntimeDirectoryPreserve=yes", f"Environment=RAY_TMPDIR=/run/{user}"] if instance.get("ray") else []),
        f"WorkingDirectory=/var/lib/{user}",
        "Restart=on-failure",
        "RestartSec=10",
        # The tether ends as a shell does when it is stopped; systemd takes the same signal for success where a program ends by it.
        *(["SuccessExitStatus=143"] if tethered(instance, options) else []),
        "TimeoutStopSec=60",
        "KillMode=mixed",
        "LimitNOFILE=65536:524288",
        "LimitMEMLOCK=infinity",
        "LimitCORE=0",
        f"TemporaryFileSystem=/dev/shm:size={options['shared_memory']},mode=1777",
        SANDBOX.rstrip("\n"),
        *image_lines(instance, options),
        *(f"DeviceAllow={path} rw" for path in listed),
        # Device nodes belong to groups that a user namespace of the unit does not map. And the engine finds Ray by its processes, which
        # ProtectProc= hides from a process of another user namespace.
        *([] if listed or instance.get("ray") else ["PrivateUsers=yes"]),
        "IPAddressDeny=any",
        "IPAddressAllow=localhost",
        *(f"IPAddressAllow={network}" for network in allowed_networks(instance, options)),
        *bind_rules(instance, options),
        "",
        "[Install]",
        "WantedBy=multi-user.target",
        "",
    ]
    return HEADER + "\n".join(lines)


def serving_units(instances, **given):
    """The units of a node's instances as `node_state` takes them; options as in DEFAULTS."""
    unknown = sorted(set(given) - set(DEFAULTS))
    if unknown:
        raise ValueError(f"unknown option of serving_units: {', '.join(unknown)}")
    options = {**DEFAULTS, **given}
    members = []
    for instance in instances:
        members += [ray_member(instance)] if instance.get("ray") else []
        if instance["arguments"] is not None:
            members.append({**instance, "credentials": {**(instance.get("credentials") or {}), **ray_credentials(instance)}})
    units = [image_unit(members, options)] if options["image"] and members else []
    for instance in members:
        watched = [*options["watched"], *sorted((instance.get("credentials") or {}).values())]
        unit = {
            "name": instance["unit"],
            "content": unit_content(instance, options),
            "enabled": options["enabled"],
            "state": options["state"],
            "restart_on": watched + ([TETHER] if tethered(instance, options) else []),
            "restart": bool(options["restart"]),
            "dropins": dict(options["dropins"].get(instance["name"]) or {}),
        }
        api = instance.get("api")
        if api and options["state"] == "started":
            host = f"[{api['address']}]" if ":" in api["address"] else api["address"]
            unit["ready"] = {"url": f"http://{host}:{api['port']}/health", "timeout": options["ready_timeout"]}
            if instance.get("ray"):
                unit["ready"].update({"restarts": RAY_RESTARTS, "journals": [instance["ray"]["unit"]]})
        units.append(unit)
    return units


def serving_secrets(instances, tokens, state="started"):
    """The directory and the files of the tokens of Ray, as `node_state` takes them; ``tokens`` is the token by instance."""
    with_token = [instance["name"] for instance in instances if ray_token(instance)]
    if state == "absent":
        return {"directories": [], "files": [{"path": f"{CREDENTIALS}/{name}.ray-token", "state": "absent"} for name in with_token]}
    if not with_token:
        return {"directories": [], "files": []}
    for name in with_token:
        if not re.fullmatch(r"[!-~]{16,}", str(tokens.get(name) or "")):
            raise ValueError(f"vllm_serve_ray_tokens.{name}: is missing, or is no token of at least 16 printable characters without blanks; generate one")
    files = [{"path": f"{CREDENTIALS}/{name}.ray-token", "content": str(tokens[name]), "mode": "0600", "sensitive": True} for name in with_token]
    return {"directories": [{"path": "/etc/vllm-hardening"}, {"path": CREDENTIALS, "mode": "0700"}], "files": files}


def kept_tokens(instances, directory):
    """{instance: token} of the instances whose Ray asks for one, from files of a directory of the controller; a missing file is made."""
    tokens = {}
    for instance in instances:
        if not ray_token(instance):
            continue
        if not directory:
            raise ValueError(f"vllm_serve_secret_directory: is empty, and Ray of {instance['name']} asks for a token; "
                             "name a directory of the controller that keeps it, or give vllm_serve_ray_tokens")
        path = os.path.join(directory, f"{instance['name']}.ray-token")
        os.makedirs(directory, mode=0o700, exist_ok=True)
        try:
            with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600), "w", encoding="ascii") as handle:
                handle.write(secrets.token_hex(32))
        except FileExistsError:
            pass
        with open(path, encoding="ascii") as handle:
            tokens[instance["name"]] = handle.read().strip()
    return tokens


def serving_accounts(instances, device_group="", state="present"):
    """A user and a group of its own for each instance, as `node_state` takes them; with NPUs also in the group of the driver."""
    users = []
    for instance in instances:
        groups = [device_group] if device_group and devices(instance) else []
        users.append({"name": instance["user"], "group": instance["user"], "groups": groups, "home": f"/var/lib/{instance['user']}",
                      "comment": f"vLLM instance {instance['name']}", "state": state})
    return {"groups": [{"name": user["name"], "state": state} for user in users], "users": users}


def serving_leftovers(instances):
    """What systemd made for the units of instances and leaves behind, as directories for `node_state`."""
    return [{"path": f"/var/{kind}/{instance['user']}", "state": "absent"} for instance in instances for kind in ("cache", "lib")]


def planned_addresses(node):
    """The addresses of a node's plan as `node_state` takes them: every address of a segment on the segment's interface."""
    return [
        {"name": segment, "address": address, **({"interface": node["interfaces"][segment]} if segment in node.get("interfaces", {}) else {})}
        for segment, addresses in node.get("addresses", {}).items() for address in addresses
    ]


def planned_models(plan, host):
    """The models of a node in the plan as `node_state` takes them, each directory once; none without a plan."""
    node = plan.get("nodes", {}).get(host)
    if node is None:
        return []
    instances, models = plan["clusters"][node["cluster"]]["instances"], {}
    for instance in node["instances"]:
        models.setdefault(instance["model"], {}).update(instances[instance["name"]]["model_checksums"])
    return [{"path": path, "checksums": checksums} for path, checksums in models.items() if checksums]
