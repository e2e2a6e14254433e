# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""The Ray part of a plan: one block of ports for everything Ray listens on, and its command line.

Ray binds most of its ports to every address whatever ``--node-ip-address`` says (seen with 2.48.0 and 2.60.0), so each is pinned,
reserved, and left to the packet filter. Sources: ``ray start --help`` of both versions and their sockets as observed.
"""

from __future__ import annotations

import json

# Offsets into the block of ports; what is not pinned by a flag is pinned by a variable of the environment.
GCS = 0
NODE_MANAGER = 1
OBJECT_MANAGER = 2
RUNTIME_ENV_AGENT = 3
AGENT_HTTP = 4
AGENT_GRPC = 5
METRICS = 6
CLIENT_SERVER = 7
DASHBOARD = 8
AUTOSCALER_METRICS = 9
DASHBOARD_METRICS = 10
WORKERS = 20
FEWEST_PORTS = WORKERS + 64

FIRST_VERSION_WITH_TOKEN = (2, 52)
# 2.48 splits the head's address at each colon and stops (tests/parser).
FIRST_VERSION_WITH_IPV6 = (2, 49)
# How long the parts of Ray wait for each other while they start; by default 10 to 60 s, too short on a loaded node, and then the raylet ends.
# Read by the daemons from their environment (ray_config_def.h, node.py). One wait of 15 s is compiled in; the role's health gate knows.
PATIENCE = {
    "RAY_agent_register_timeout_ms": "180000",
    "RAY_gcs_server_port_wait_time_s": "180",
    "RAY_raylet_start_wait_time_s": "180",
    "RAY_worker_register_timeout_seconds": "180",
}
# What TLS between the processes of Ray takes: the variable of each file. It covers gRPC; the HTTP of agents and dashboard stays in the clear.
TLS = {"certificate": "RAY_TLS_SERVER_CERT", "key": "RAY_TLS_SERVER_KEY", "authority": "RAY_TLS_CA_CERT"}
# Nodes of a Ray cluster open these to each other; the others serve dashboards, jobs and clients, which nobody needs here.
_BETWEEN_NODES = (NODE_MANAGER, OBJECT_MANAGER, RUNTIME_ENV_AGENT)


def version_numbers(version):
    """``"2.48.0"`` -> ``(2, 48)``; None where it is no version."""
    parts = str(version).split(".")
    if len(parts) < 2 or not all(part.isascii() and part.isdigit() for part in parts[:2]):
        return None
    return int(parts[0]), int(parts[1])


def flow_ports(block, head):
    """Port ranges that the other nodes open on one node; ``block`` is (first, last)."""
    first, last = block
    ranges = [(first + offset, first + offset) for offset in _BETWEEN_NODES]
    ranges.append((first + WORKERS, last))
    if head:
        ranges.append((first + GCS, first + GCS))
    return ranges


def listener_ports(block):
    """Port ranges that Ray may bind on a node, nearly all of them on every address."""
    first, last = block
    return [(first, first + DASHBOARD_METRICS), (first + WORKERS, last)]


def arguments(block, own, head_address, head, resources=None):
    """The command line of ``ray`` on one node; it stays in the foreground."""
    first, last = block
    line = ["start", "--block"]
    if head:
        line += ["--head", "--port", str(first + GCS), "--include-dashboard", "false"]
        line += ["--dashboard-host", "127.0.0.1", "--dashboard-port", str(first + DASHBOARD)]
        line += ["--ray-client-server-port", str(first + CLIENT_SERVER)]
    else:
        line += ["--address", f"{_bracketed(head_address)}:{first + GCS}"]
    line += ["--node-ip-address", own]
    for flag, offset in (
        ("--node-manager-port", NODE_MANAGER),
        ("--object-manager-port", OBJECT_MANAGER),
        ("--runtime-env-agent-port", RUNTIME_ENV_AGENT),
        ("--dashboard-agent-listen-port", AGENT_HTTP),
        ("--dashboard-agent-grpc-port", AGENT_GRPC),
        ("--metrics-export-port", METRICS),
    ):
        line += [flag, str(first + offset)]
    line += ["--min-worker-port", str(first + WORKERS), "--max-worker-port", str(last), "--disable-usage-stats"]
    if resources:
        line += ["--resources", json.dumps(resources)]
    return line


def environment(block, head_address, token, tls):
    """Variables of every process of a Ray cluster; the token itself and what TLS takes are credentials and not among them."""
    first, _last = block
    variables = {
        "RAY_ADDRESS": f"{_bracketed(head_address)}:{first + GCS}",
        "RAY_USAGE_STATS_ENABLED": "0",
        **PATIENCE,
        "AUTOSCALER_METRIC_PORT": str(first + AUTOSCALER_METRICS),
        "DASHBOARD_METRIC_PORT": str(first + DASHBOARD_METRICS),
    }
    if token:
        variables["RAY_AUTH_MODE"] = "token"
    if tls:
        variables["RAY_USE_TLS"] = "1"
    return variables


def _bracketed(address):
    return f"[{address}]" if ":" in address else address
