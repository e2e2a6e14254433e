# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Single deviations, how to make and unmake each on a host of the lab, and exactly which controls have to report it.

FAULTS are made where instances are served without a gateway (instances.yml), GATEWAY_FAULTS behind one (instances-gateway.yml), and GUARD_FAULTS under the
guard (instances-guard.yml), which would undo many of the others.

In the commands `@N@` is the last number of the host's addresses and `@B@` the lab's block (`10.77`).
"""

from __future__ import annotations

import datetime
import re
from dataclasses import dataclass, field

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519

UNIT = "/etc/systemd/system/vllm-chat.service"
PACKAGES = "/opt/vllm/standin/lib/python3/site-packages"
RESTART = "systemctl daemon-reload; systemctl restart vllm-chat.service"
# Times of processes are told with a tolerance of two seconds.
WHILE_YOUNG = "until [ $(ps -o etimes= -p $(systemctl show -P MainPID vllm-chat.service)) -gt 3 ]; do sleep 0.3; done"
TABLE = "inet vllm_hardening"
RELOAD_FILTER = "nft -f /etc/vllm-hardening/firewall.nft"
SETTINGS = "/lib/systemd/systemd-sysctl"
SSHD = "/etc/ssh/sshd_config.d/00-fault.conf"
ENGINE = "/usr/bin/python3 /opt/vllm/current/bin/vllm serve x"
BY_HAND = f"pgrep -xf '{ENGINE}' >/dev/null"
PROCESS_CONTROLS = frozenset({"SRV-03", "SRV-04", "SRV-05", "SRV-06"})


@dataclass(frozen=True)
class Fault:
    """One deviation. `hosts`: where it makes sense; `unknown`: controls that cannot be judged while it lasts; `observed`: a regular expression of what the
    evidence of one of the controls has to say."""

    name: str
    make: str
    unmake: str
    controls: frozenset
    hosts: tuple = ("npu01", "npu02")
    unknown: frozenset = field(default_factory=frozenset)
    observed: str = ""


def fault(name, make, unmake, *controls, hosts=("npu01", "npu02"), unknown=frozenset(), observed=""):
    return Fault(name, make, unmake, frozenset(controls), hosts, frozenset(unknown), observed)


def edit(name, expression, *controls, hosts=("npu01", "npu02"), observed=""):
    """The unit edited with sed, reloaded and restarted."""
    return fault(f"unit edited: {name}", f"cp -p {UNIT} /root/unit; sed -i '{expression}' {UNIT}; {RESTART}", f"cp -p /root/unit {UNIT}; {RESTART}",
                 *controls, hosts=hosts, observed=observed)


def weaken(directive, value, *controls, observed=""):
    """A sandbox option set to another value."""
    return edit(f"{directive}={value}", f"/^{directive}=/d; s#^\\[Service\\]$#&\\n{directive}={value}#", *controls,
                observed=observed or rf"vllm-chat\.service: {directive} is (?i:{value or 'empty'})")


def setting(name, value, *controls):
    return fault(f"setting {name}={value}", f"sysctl -qw {name}='{value}'", SETTINGS, *controls,
                 observed=f"^{name.replace('.', '/')} is {'empty' if value == '' else value}, planned ")


def mode(path, bits, back, *controls):
    return fault(f"{path} has mode {bits}", f"chmod {bits} {path}", f"chmod {back} {path}", *controls, observed=f"^{re.escape(path)} .*mode {bits}")


def owner(path, *controls):
    return fault(f"{path} belongs to the service", f"chown vllm-chat {path}", f"chown root {path}", *controls,
                 observed=f"^{re.escape(path)} belongs to vllm-chat$")


def sshd(line, *controls):
    name, _separator, value = line.partition(" ")
    return fault(f"sshd: {line}", f"echo '{line}' > {SSHD}", f"rm {SSHD}", *controls, observed=f"^{name} is {value}, wanted ")


def listening(name, command, port=8111):
    """A foreign service that listens."""
    return fault(name, f"systemd-run --quiet --collect --unit=fault {command}; {until(f'ss -Hln | grep -q :{port}')}", "systemctl stop fault.service", "SOC-02")


def until(condition):
    """Wait for a condition, a minute at most."""
    return f"for try in $(seq 200); do {condition} && break; sleep 0.3; done"


def python(code):
    return f'/usr/bin/python3 -c "{code}"'


# What takes the packet filter's proof away without being wrong itself: its control is unknown, and nothing is wrong.
OBSTACLES = [
    fault("traffic control filters before the packet filter", "tc qdisc add dev eth2 clsact; tc filter add dev eth2 ingress protocol ip prio 1 "
          "u32 match ip dst 203.0.113.1 flowid 1:1", "tc qdisc del dev eth2 clsact", unknown={"NET-03"},
          observed=r"traffic control filter on eth2 \(ingress\)"),
]

FAULTS = [
    # the packet filter
    fault("table deleted", f"nft delete table {TABLE}", RELOAD_FILTER, "NET-01", "NET-03", "FW-01"),
    fault("table asleep", f"nft 'add table {TABLE} {{ flags dormant; }}'", RELOAD_FILTER, "NET-01", "NET-03", "FW-01", "FW-04"),
    fault("everything flushed", "nft flush ruleset", RELOAD_FILTER, "NET-01", "NET-03", "FW-01"),
    fault("foreign accept in our chain", f"nft insert rule {TABLE} input tcp dport 2375 accept", RELOAD_FILTER, "NET-01", "NET-03"),
    fault("foreign accept of UDP", f"nft insert rule {TABLE} input udp dport 4791 accept", RELOAD_FILTER, "NET-01", "NET-03"),
    fault("peers widened by a stranger", f"nft insert rule {TABLE} input ip saddr @B@.2.67 accept", RELOAD_FILTER, "NET-01", "NET-03"),
    fault("foreign drop of a planned flow", "nft 'add table inet foreign; add chain inet foreign i { type filter hook input priority -10; }; "
          "add rule inet foreign i tcp dport 28000-31999 drop'", "nft delete table inet foreign", "NET-02", "NET-03"),
    # The chain's own last rule still drops, and a node that forwards nothing leaks nothing: the first line of defence is gone all the same.
    fault("input accepts by default", f"nft 'add chain {TABLE} input {{ policy accept; }}'", RELOAD_FILTER, "FW-01"),
    fault("forward accepts by default", f"nft 'flush chain {TABLE} forward; add chain {TABLE} forward {{ policy accept; }}'", RELOAD_FILTER, "FW-01"),
    fault("service may open a connection to a stranger", f"nft insert rule {TABLE} output meta skuid vllm-chat ip daddr 192.0.2.1 accept", RELOAD_FILTER,
          "NET-03"),
    fault("service may open what it likes", f"nft flush chain {TABLE} output", RELOAD_FILTER, "NET-03"),
    fault("service may not open what it needs", f"nft insert rule {TABLE} output meta skuid vllm-chat tcp dport 20550 drop", RELOAD_FILTER, "NET-03"),
    fault("rules not kept", "mv /etc/vllm-hardening/firewall.nft /root/", "mv /root/firewall.nft /etc/vllm-hardening/", "FW-02"),
    fault("filter not started at boot", "systemctl -q disable vllm-hardening-firewall.service", "systemctl -q enable vllm-hardening-firewall.service", "FW-02"),
    fault("filter's unit overridden", "mkdir -p /etc/systemd/system/vllm-hardening-firewall.service.d; "
          "printf '[Service]\\nExecStart=\\nExecStart=/bin/true\\n' > /etc/systemd/system/vllm-hardening-firewall.service.d/x.conf; systemctl daemon-reload",
          "rm -r /etc/systemd/system/vllm-hardening-firewall.service.d; systemctl daemon-reload", "FW-02"),
    mode("/etc/vllm-hardening/firewall.nft", "0644", "0600", "FW-03"),
    mode("/etc/vllm-hardening", "0777", "0755", "FW-03"),
    owner("/etc/vllm-hardening/firewall.nft", "FW-03"),
    # the network
    fault("address too many", "ip address add @B@.2.200/24 dev eth2", "ip address del @B@.2.200/24 dev eth2", "NET-04"),
    setting("net.ipv4.conf.eth1.accept_redirects", 1, "NET-05"),
    setting("net.ipv4.conf.eth2.rp_filter", 0, "NET-05"),
    setting("net.ipv4.conf.eth2.arp_ignore", 0, "NET-05"),
    setting("net.ipv4.conf.eth0.accept_source_route", 1, "NET-05"),
    setting("net.ipv4.tcp_syncookies", 0, "NET-05"),
    setting("net.ipv6.conf.eth1.accept_redirects", 1, "NET-05"),
    setting("net.ipv4.ip_local_port_range", "32768 60999", "NET-06"),
    setting("net.ipv4.ip_local_reserved_ports", "", "NET-06"),
    # Forwarding switched off makes the kernel reset what it implies, so that the settings have to be applied once more.
    fault("setting net.ipv4.ip_forward=1", "sysctl -qw net.ipv4.ip_forward=1", f"{SETTINGS}; {SETTINGS}", "NET-07"),
    setting("net.ipv6.conf.all.forwarding", 1, "NET-07"),
    fault("settings not kept", "mv /etc/sysctl.d/90-vllm-hardening.conf /root/", "mv /root/90-vllm-hardening.conf /etc/sysctl.d/", "NET-08"),
    mode("/etc/sysctl.d/90-vllm-hardening.conf", "0666", "0644", "NET-08"),
    # sockets
    edit("engine on every interface", "s/^\\[Service\\]$/&\\nEnvironment=STANDIN_LISTEN=0.0.0.0:20555/", "SOC-01"),
    edit("engine on every interface of IPv6", "s/^\\[Service\\]$/&\\nEnvironment=STANDIN_LISTEN=[::]:20555/", "SOC-01"),
    edit("engine on an unplanned port", "s/^\\[Service\\]$/&\\nEnvironment=STANDIN_LISTEN=@B@.2.@N@:27550/", "SOC-01"),
    listening("foreign service on every interface", python("import socket,time; s=socket.socket(); s.bind(('0.0.0.0',8111)); s.listen(); time.sleep(900)")),
    listening("foreign service on one address", python("import socket,time; s=socket.socket(); s.bind(('@B@.2.@N@',8111)); s.listen(); time.sleep(900)")),
    listening("foreign service over UDP", python("import socket,time; s=socket.socket(type=socket.SOCK_DGRAM); s.bind(('0.0.0.0',8111)); time.sleep(900)")),
    listening("foreign service on a port of the instance",
              python("import socket,time; s=socket.socket(); s.bind(('@B@.2.@N@',28111)); s.listen(); time.sleep(900)"), 28111),
    # parameters
    edit("--host left out", "s/ --host [^ ]*/ --host 0.0.0.0/", "PAR-01", "SOC-01", "SOC-03", hosts=("npu01",)),
    edit("--port the default", "s/ --port [^ ]*/ --port 8000/", "PAR-02", "SOC-01", "SOC-03", hosts=("npu01",)),
    edit("data-parallel-address on another segment", "s/ --data-parallel-address [^ ]*/ --data-parallel-address @B@.0.11/", "PAR-03"),
    edit("data-parallel-rpc-port left out", "s/ --data-parallel-rpc-port [^ ]*//", "PAR-04"),
    edit("data-parallel-rpc-port the default", "s/ --data-parallel-rpc-port [^ ]*/ --data-parallel-rpc-port 29550/", "PAR-04"),
    edit("VLLM_HOST_IP on another segment", "s/VLLM_HOST_IP=.*/VLLM_HOST_IP=@B@.1.@N@/", "PAR-05", "SOC-01"),
    edit("VLLM_DP_MASTER_IP the default", "s/VLLM_DP_MASTER_IP=.*/VLLM_DP_MASTER_IP=127.0.0.1/", "PAR-06"),
    edit("VLLM_DP_MASTER_PORT the default", "s/VLLM_DP_MASTER_PORT=.*/VLLM_DP_MASTER_PORT=0/", "PAR-07"),
    edit("--trust-remote-code added", "s/^ExecStart=.*/& --trust-remote-code/", "PAR-08"),
    edit("--enforce-eager removed", "s/ --enforce-eager//", "PAR-08"),
    edit("another program", "s#/opt/vllm/current/bin/vllm serve#/opt/vllm/standin/bin/vllm serve#", "PAR-08"),
    edit("another command before the engine", "s#^ExecStart=#ExecStartPre=/bin/true\\n&#", "PAR-08"),
    edit("another command after the engine", "s#^ExecStart=#ExecStopPost=/bin/true\\n&#", "PAR-08"),
    edit("variables out of a file", "s#^\\[Service\\]$#&\\nEnvironmentFile=-/etc/default/none#", "PAR-10"),
    edit("HF_HUB_OFFLINE removed", "/HF_HUB_OFFLINE/d", "PAR-09"),
    edit("development mode", "s/^\\[Service\\]$/&\\nEnvironment=VLLM_SERVER_DEV_MODE=1/", "PAR-10"),
    edit("insecure serialisation", "s/^\\[Service\\]$/&\\nEnvironment=VLLM_ALLOW_INSECURE_SERIALIZATION=1/", "PAR-10"),
    edit("a key in the environment", "s/^\\[Service\\]$/&\\nEnvironment=VLLM_API_KEY=abc/", "PAR-11"),
    edit("a key on the command line", "s/^ExecStart=.*/& --api-key abc/", "PAR-08", "PAR-11"),
    # the service
    fault("service stopped on the head", "systemctl stop vllm-chat.service", "systemctl start vllm-chat.service", "SRV-01", "SOC-03", hosts=("npu01",),
          unknown=PROCESS_CONTROLS),
    fault("service stopped", "systemctl stop vllm-chat.service", "systemctl start vllm-chat.service", "SRV-01", hosts=("npu02",), unknown=PROCESS_CONTROLS),
    fault("service disabled", "systemctl -q disable vllm-chat.service", "systemctl -q enable vllm-chat.service", "SRV-01"),
    fault("unit changed and not reloaded", f"{WHILE_YOUNG}; touch -d '+1 minute' {UNIT}", f"touch {UNIT}; {RESTART}", "SRV-01", "SRV-06"),
    fault("unit changed and not restarted", f"{WHILE_YOUNG}; touch -d '+1 minute' {UNIT}; systemctl daemon-reload", f"touch {UNIT}; {RESTART}", "SRV-06"),
    edit("runs as root", "s/^User=.*/User=root/", "SRV-02", "SRV-03"),
    edit("runs as another service's user", "s/^User=.*/User=nobody/; s/^Group=.*/Group=nogroup/", "SRV-02", "SRV-03"),
    fault("engine started by hand as the service's user",
          "VLLM_HOST_IP=127.0.0.1 setsid runuser -u vllm-chat -- /opt/vllm/current/bin/vllm serve x >/dev/null 2>&1 & echo $! > /run/fault.pid; "
          + until(BY_HAND),
          f"pkill -F /run/fault.pid; pkill -xf '{ENGINE}'; {until('! ' + BY_HAND)}", "SRV-07"),
    fault("engine started by hand as root",
          f"VLLM_HOST_IP=127.0.0.1 setsid /opt/vllm/current/bin/vllm serve x >/dev/null 2>&1 & {until(BY_HAND)}",
          f"pkill -xf '{ENGINE}'; {until('! ' + BY_HAND)}", "SRV-07"),
    weaken("SupplementaryGroups", "disk", "SRV-02"),
    weaken("ProtectSystem", "full", "SRV-08"),
    weaken("ProtectHome", "no", "SRV-08"),
    weaken("PrivateTmp", "no", "SRV-08"),
    weaken("UMask", "0022", "SRV-08"),
    weaken("ReadWritePaths", "/etc", "SRV-08"),
    weaken("DevicePolicy", "auto", "SRV-09"),
    weaken("DeviceAllow", "/dev/mem rw", "SRV-09", observed="/dev/mem is allowed and not planned"),
    weaken("ProtectKernelModules", "no", "SRV-10"),
    weaken("ProtectKernelTunables", "no", "SRV-10"),
    weaken("ProtectControlGroups", "no", "SRV-10"),
    weaken("ProtectClock", "no", "SRV-10"),
    weaken("ProtectProc", "default", "SRV-10"),
    weaken("CapabilityBoundingSet", "CAP_NET_RAW", "SRV-04", "SRV-11"),
    weaken("RestrictNamespaces", "no", "SRV-11"),
    weaken("LockPersonality", "no", "SRV-11"),
    weaken("RestrictSUIDSGID", "no", "SRV-11"),
    weaken("RestrictAddressFamilies", "AF_UNIX AF_INET AF_INET6 AF_NETLINK AF_PACKET", "SRV-11", observed="RestrictAddressFamilies is .*AF_PACKET"),
    weaken("SystemCallFilter", "@system-service @mount", "SRV-12", observed="mount is let through"),
    weaken("SystemCallArchitectures", "", "SRV-12"),
    edit("packets to anywhere", "/^IPAddressDeny=/d", "SRV-13"),
    edit("packets to a stranger", "s/^\\[Service\\]$/&\\nIPAddressAllow=192.0.2.0\\/24/", "SRV-13"),
    fault("drop-in", f"mkdir -p {UNIT}.d; printf '[Service]\\nNice=1\\n' > {UNIT}.d/x.conf; {RESTART}", f"rm {UNIT}.d/x.conf; {RESTART}", "SRV-14"),
    fault("drop-in with a dangerous variable", f"mkdir -p {UNIT}.d; printf '[Service]\\nEnvironment=LD_PRELOAD=/x.so\\n' > {UNIT}.d/x.conf; {RESTART}",
          f"rm {UNIT}.d/x.conf; {RESTART}", "PAR-10", "SRV-14"),
    fault("planned drop-in changed", f"sed -i s/Nice=0/Nice=1/ {UNIT}.d/site.conf; {RESTART}", f"sed -i s/Nice=1/Nice=0/ {UNIT}.d/site.conf; {RESTART}",
          "SRV-14", observed=r"site\.conf has another content"),
    fault("planned drop-in gone", f"mv {UNIT}.d/site.conf /root/site.conf; {RESTART}", f"mv /root/site.conf {UNIT}.d/site.conf; {RESTART}",
          "SRV-14", observed=r"site\.conf is planned and not in force"),
    fault("another version of the engine", f"mv {PACKAGES}/vllm-0.32.0.dist-info {PACKAGES}/vllm-0.11.0.dist-info",
          f"mv {PACKAGES}/vllm-0.11.0.dist-info {PACKAGES}/vllm-0.32.0.dist-info", "SRV-16", observed=r"^vllm 0\.11\.0 does not belong to vllm 0\.32\.0"),
    owner(UNIT, "SRV-14"),
    mode(UNIT, "0666", "0644", "SRV-14"),
    # files and accounts
    mode("/srv/models/tiny", "0777", "0755", "FIL-01"),
    owner("/srv/models/tiny/config.json", "FIL-01"),
    owner("/srv/models", "FIL-01"),
    mode("/opt/vllm", "0775", "0755", "FIL-02"),
    mode("/opt", "0777", "0755", "FIL-02"),
    mode("/opt/vllm/standin", "0777", "0755", "FIL-02"),
    owner("/opt/vllm", "FIL-02"),
    mode("/etc/vllm-hardening/credentials/example", "0644", "0600", "FIL-03"),
    mode("/etc/vllm-hardening/credentials", "0755", "0700", "FIL-03"),
    sshd("PermitRootLogin yes", "ACC-01"),
    sshd("PasswordAuthentication yes", "ACC-02"),
    sshd("KbdInteractiveAuthentication yes", "ACC-02"),
    sshd("PermitEmptyPasswords yes", "ACC-03"),
    sshd("HostbasedAuthentication yes", "ACC-03"),
    fault("service account with a shell", "chsh -s /bin/bash vllm-chat", "chsh -s /usr/sbin/nologin vllm-chat", "ACC-04"),
    fault("service account with a password", "echo vllm-chat:x1y2z3 | chpasswd", "usermod -p '!' vllm-chat", "ACC-04"),
    fault("service account in a privileged group", "gpasswd -a vllm-chat sudo", "gpasswd -d vllm-chat sudo", "ACC-05"),
    fault("service account in sudoers", "echo 'vllm-chat ALL=(ALL) NOPASSWD: ALL' > /etc/sudoers.d/x", "rm /etc/sudoers.d/x", "ACC-05"),
    fault("service account in sudoers by an alias", "printf 'User_Alias SOME = nobody, vllm-chat\\nSOME ALL=(ALL) NOPASSWD: ALL\\n' > /etc/sudoers.d/x",
          "rm /etc/sudoers.d/x", "ACC-05"),
]


GATEWAY = "/etc/systemd/system/vllm-gateway.service"
GATEWAY_FILES = "/etc/vllm-hardening/gateway"
GATEWAY_RESTART = "systemctl daemon-reload; systemctl restart vllm-gateway.service"
DROPIN = "/etc/ssh/sshd_config.d/00-vllm-hardening.conf"
WATCH = "systemctl start vllm-gateway-expiry.service"


def gateway(name, expression, *controls):
    """The gateway's unit edited with sed, reloaded and restarted."""
    return fault(f"gateway's unit edited: {name}", f"cp -p {GATEWAY} /root/gateway; sed -i '{expression}' {GATEWAY}; {GATEWAY_RESTART}",
                 f"cp -p /root/gateway {GATEWAY}; {GATEWAY_RESTART}", *controls)


def weaken_gateway(directive, value, *controls):
    return gateway(f"{directive}={value}", f"/^{directive}=/d; s#^\\[Service\\]$#&\\n{directive}={value}#", *controls)


def expired_certificate():
    """A certificate that ended yesterday, as PEM."""
    key, today = ed25519.Ed25519PrivateKey.generate(), datetime.datetime.now(datetime.timezone.utc)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "ended.example.com")])
    made = x509.CertificateBuilder(
        issuer_name=name, subject_name=name, public_key=key.public_key(), serial_number=1, not_valid_before=today - datetime.timedelta(days=9),
        not_valid_after=today - datetime.timedelta(days=1)).sign(key, None)
    return made.public_bytes(serialization.Encoding.PEM).decode()


GATEWAY_FAULTS = [
    fault("gateway stopped", "systemctl stop vllm-gateway.service", "systemctl start vllm-gateway.service", "GW-01", "GW-04", unknown={"GW-03"}),
    fault("gateway disabled", "systemctl -q disable vllm-gateway.service", "systemctl -q enable vllm-gateway.service", "GW-01"),
    fault("gateway overridden", f"mkdir -p {GATEWAY}.d; printf '[Service]\\nNice=1\\n' > {GATEWAY}.d/x.conf; {GATEWAY_RESTART}",
          f"rm -r {GATEWAY}.d; {GATEWAY_RESTART}", "GW-01"),
    mode(GATEWAY, "0666", "0644", "GW-01"),
    gateway("runs as root", "s/^User=.*/User=root/", "GW-02", "GW-03"),
    weaken_gateway("CapabilityBoundingSet", "CAP_NET_RAW", "GW-02", "GW-03"),
    weaken_gateway("ProtectSystem", "full", "GW-02"),
    weaken_gateway("ProtectKernelModules", "no", "GW-02"),
    mode(f"{GATEWAY_FILES}/keys.map", "0644", "0640", "GW-05"),
    mode(f"{GATEWAY_FILES}/certificates", "0755", "0750", "GW-05"),
    fault("backends' keys belong to the service", f"chown vllm-gateway {GATEWAY_FILES}/backends.map", f"chown root {GATEWAY_FILES}/backends.map", "GW-05"),
    fault("nobody watches the gateway's certificates", "systemctl stop vllm-gateway-expiry.timer", "systemctl start vllm-gateway-expiry.timer", "GW-06"),
    fault("a certificate of the gateway has expired",
          f"printf '%s' '{expired_certificate()}' > {GATEWAY_FILES}/certificates/ended.pem; chgrp vllm-gateway {GATEWAY_FILES}/certificates/ended.pem; "
          f"chmod 0640 {GATEWAY_FILES}/certificates/ended.pem; ! {WATCH}", f"rm {GATEWAY_FILES}/certificates/ended.pem; {WATCH}", "GW-06"),
    fault("engine beside the gateway", "for unit in /etc/systemd/system/vllm-c???.service; do cp -p $unit /root/engine; "
          "sed -i 's/ --host [^ ]*/ --host @B@.1.@N@/' $unit; systemctl daemon-reload; systemctl restart $(basename $unit); done",
          "for unit in /etc/systemd/system/vllm-c???.service; do cp -p /root/engine $unit; systemctl daemon-reload; systemctl restart $(basename $unit); done",
          "PAR-01", "SOC-01", "SOC-03"),
    fault("every user reaches the engine on loopback", f"nft delete rule {TABLE} output handle $(nft -a list chain {TABLE} output | "
          "sed -n 's/.*\"[a-z]*-backend\".* handle //p')", RELOAD_FILTER, "NET-03"),
    fault("one more user reaches the engine on loopback", f"nft insert rule {TABLE} output oif lo tcp dport 17443 meta skuid nobody accept", RELOAD_FILTER,
          "NET-03"),
    fault("the gateway does not reach the engine on loopback",
          f"nft insert rule {TABLE} output oif lo tcp dport 17443 meta skuid vllm-gateway reject with tcp reset", RELOAD_FILTER, "NET-03"),
    fault("SSH is not restricted any more", f"mv {DROPIN} /root/dropin", f"mv /root/dropin {DROPIN}", "ACC-06"),
    fault("another group may log in", f"echo 'AllowGroups users' > {SSHD}", f"rm {SSHD}", "ACC-06"),
    fault("SSH is set to listen everywhere", f"echo 'ListenAddress 0.0.0.0' > {SSHD}", f"rm {SSHD}", "ACC-06"),
    fault("every group may log in", f"cp -p {DROPIN} /root/dropin; sed -i /^AllowGroups/d {DROPIN}", f"cp -p /root/dropin {DROPIN}", "ACC-06"),
    mode(DROPIN, "0666", "0644", "ACC-07"),
]


GUARD_FIREWALL, GUARD_NODE = "vllm-guard-firewall.service", "vllm-guard-node.service"
GUARD_PROGRAM, GUARD_SETTINGS = "/usr/local/lib/vllm-guard/guard.py", "/etc/vllm-guard/guard.json"
GUARD_UNIT = f"/etc/systemd/system/{GUARD_FIREWALL}"
GUARDS = f"{GUARD_FIREWALL} {GUARD_NODE}"


def unguarded(name, make, unmake, observed):
    """A deviation that the guard of the files would undo at once: made after it was stopped."""
    return fault(name, f"systemctl stop {GUARD_NODE}; {make}", f"{unmake}; systemctl start {GUARDS}", "GRD-01", observed=observed)


GUARD_FAULTS = [
    unguarded("guard of the filter stopped", f"systemctl stop {GUARD_FIREWALL}", "true", f"^{GUARD_FIREWALL}: ActiveState is inactive, wanted active"),
    unguarded("guard of the files stopped", "true", "true", f"^{GUARD_NODE}: ActiveState is inactive, wanted active"),
    unguarded("guard disabled", f"systemctl -q disable {GUARDS}", f"systemctl -q enable {GUARDS}",
              f"^{GUARD_FIREWALL}: UnitFileState is disabled, wanted enabled"),
    unguarded("guard masked", f"systemctl stop {GUARD_FIREWALL}; mv {GUARD_UNIT} /root/guard; systemctl -q mask {GUARD_FIREWALL}",
              f"systemctl -q unmask {GUARD_FIREWALL}; mv /root/guard {GUARD_UNIT}; systemctl daemon-reload",
              f"^{GUARD_FIREWALL}: LoadState is masked, wanted loaded"),
    unguarded("guard's unit gone", f"systemctl stop {GUARD_FIREWALL}; mv {GUARD_UNIT} /root/guard; systemctl daemon-reload",
              f"mv /root/guard {GUARD_UNIT}; systemctl daemon-reload", f"^{GUARD_FIREWALL} does not exist"),
    unguarded("guard fails again and again", f"mv {GUARD_PROGRAM} /root/guard; systemctl restart --no-block {GUARD_FIREWALL}; "
              f"until systemctl show -P NRestarts {GUARD_FIREWALL} | grep -qv '^0$'; do sleep 0.1; done", f"mv /root/guard {GUARD_PROGRAM}",
              f"^{GUARD_FIREWALL}: ActiveState is (activating|failed), wanted active"),
    fault("guard overridden", f"mkdir -p {GUARD_UNIT}.d; printf '[Service]\nNice=1\n' > {GUARD_UNIT}.d/x.conf; systemctl daemon-reload",
          f"rm -r {GUARD_UNIT}.d; systemctl daemon-reload", "GRD-01", observed=f"^{GUARD_FIREWALL}: DropInPaths is {GUARD_UNIT}.d/x.conf, wanted empty"),
    unguarded("guard's unit changed and not reloaded", f"touch -d '+1 minute' {GUARD_UNIT}", f"touch {GUARD_UNIT}; systemctl daemon-reload",
              f"^{GUARD_FIREWALL}: NeedDaemonReload is yes, wanted no"),
    unguarded("guard's program is writable", f"chmod 0666 {GUARD_PROGRAM}", f"chmod 0644 {GUARD_PROGRAM}", f"^{GUARD_PROGRAM} is writable by others"),
    unguarded("guard's settings belong to the service", f"chown vllm-chat {GUARD_SETTINGS}", f"chown root {GUARD_SETTINGS}",
              f"^{GUARD_SETTINGS} belongs to vllm-chat"),
    unguarded("guard's folder is writable", "chmod 0777 /etc/vllm-guard", "chmod 0755 /etc/vllm-guard", "^/etc/vllm-guard is writable by others"),
]
