# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""The catalogue of controls, as data. Findings, reports and the documentation are made from it."""

from __future__ import annotations

from dataclasses import asdict, dataclass

SEVERITIES = ("critical", "high", "medium", "low")
WITNESSES = ("configuration", "process", "sockets", "packet filter", "wire")

# The recommendations of the plugin's security page (mindspore.cn, vLLM-MindSpore Plugin, General, Security), one key a statement.
RECOMMENDATIONS = {
    "service-host": "Set the address the API listens on (default: every interface).",
    "service-port": "Set the port of the API (default 8000).",
    "dp-address": "Set data-parallel-address (default 127.0.0.1).",
    "dp-rpc-port": "Set data-parallel-rpc-port (default 29550).",
    "isolated-network": "All communication between nodes is insecure by default; deploy in a sufficiently isolated network.",
    "host-ip": "Set VLLM_HOST_IP to a specific address.",
    "dp-master-ip": "Set VLLM_DP_MASTER_IP (default 127.0.0.1).",
    "dp-master-port": "Set VLLM_DP_MASTER_PORT (default 0).",
    "parallel-master-ip": "Set data_parallel_master_ip (default 127.0.0.1).",
    "parallel-master-port": "Set data_parallel_master_port (default 29500).",
    "mindspore": "Distributed communication runs through MindSpore; its security advice applies.",
    "dedicated-network": "Deploy the nodes on a dedicated, isolated network.",
    "segmentation": "Use network segmentation against unauthorised access.",
    "firewall-api-only": "Block all connections except to the API's port.",
    "firewall-internal": "Let only trusted hosts or networks reach the internal ports.",
    "firewall-public": "Never expose internal ports to the internet or to untrusted networks.",
    "no-defaults": "Always configure the parameters; do not rely on defaults.",
    "firewall-needed": "Open only the ports that are needed.",
    "access-restriction": "Restrict physical and network access to the deployment.",
    "authentication": "Manage authentication and authorisation of management interfaces.",
    "least-privilege": "Follow least privilege for all system components.",
}
# What this collection requires beyond that page, with where it comes from.
ADDITIONS = {
    "guide": "vLLM's security guide: no development mode, no profiler, no unplanned downloads, media and remote code restricted",
    "sandbox": "systemd.exec(5): sandboxing of services",
    "own": "vllm_mindspore.hardening: what is declared has to be in force and to stay so",
}


@dataclass(frozen=True)
class Control:
    """One numbered requirement.

    `sources` are keys of RECOMMENDATIONS and ADDITIONS; `tags` are those of `playbooks/site.yml` that put it right; `waivable` is False
    for what isolates the network.
    """

    id: str
    title: str
    rationale: str
    sources: tuple
    severity: str
    witness: str
    applies: str
    fix: str
    tags: tuple
    waivable: bool = True

    def as_dict(self):
        """Plain data, for the results document."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}


NODE, INSTANCE, HEAD, PARALLEL = "every node", "every node of an instance", "the head of an instance", "every node of an instance over several nodes"
NPUS, FABRIC = "every node with planned NPUs", "every node of an instance whose NPUs span nodes"
FIREWALL, NETWORK, SERVE, RUNTIME = ("vllm_firewall",), ("vllm_network",), ("vllm_serve",), ("vllm_runtime",)
ACCESS, GATEWAY, GATEWAY_TAGS = "every node whose access this collection restricts", "every node with a gateway", ("vllm_gateway",)
REAPPLY_GATEWAY = "Apply the gateway again; remove what overrides its unit."
REAPPLY_FIREWALL = "Apply the firewall again and find out who changed it."
REAPPLY_NETWORK = "Apply the network settings again."
REAPPLY_SERVICE = "Apply the service again, which restarts it; remove what overrides its unit."

CONTROLS = (
    Control("NET-01", "Nothing is reachable that the plan does not name",
            "Traffic between nodes is neither authenticated nor encrypted; whoever reaches an internal port owns the cluster.",
            ("firewall-api-only", "firewall-internal", "firewall-public", "firewall-needed", "access-restriction", "isolated-network"),
            "critical", "wire", NODE, REAPPLY_FIREWALL, FIREWALL, waivable=False),
    Control("NET-02", "Everything the plan names is reachable",
            "A cluster with a port too few hangs without an error, and people then switch the firewall off.",
            ("firewall-needed",), "high", "wire", NODE, "Apply the firewall again; look for foreign drop rules and for filters between the hosts.", FIREWALL),
    Control("NET-03", "The loaded packet filter lets through exactly the planned flows",
            "What the kernel enforces is more than one table: foreign rules, their order and mistranslated rules decide as well.",
            ("firewall-api-only", "firewall-internal", "firewall-public", "firewall-needed"),
            "critical", "packet filter", NODE, "Apply the firewall again; remove the foreign rule that the trace names.", FIREWALL, waivable=False),
    Control("NET-04", "The node has its planned addresses, and no other on the cluster's segments",
            "Addresses select the segment a service is reachable on; an address too many is a way around the segmentation.",
            ("dedicated-network", "segmentation"), "high", "configuration", NODE,
            "Correct the inventory or the interface's configuration.", NETWORK, waivable=False),
    Control("NET-05", "The network settings of the plan are in force",
            "The weak host model, redirects and source routing let a neighbour on one segment reach the addresses of another.",
            ("segmentation",), "high", "configuration", NODE, REAPPLY_NETWORK, NETWORK, waivable=False),
    Control("NET-06", "The ports that no flag pins are pinned by the kernel's port range",
            "The engines' internal sockets take ephemeral ports; only a pinned range can be opened to peers and to nobody else.",
            ("parallel-master-port", "firewall-needed", "mindspore"), "high", "configuration", NODE, REAPPLY_NETWORK, NETWORK),
    Control("NET-07", "The node forwards nothing between its segments",
            "A node that forwards joins the segments it is meant to keep apart.",
            ("segmentation", "dedicated-network"), "critical", "configuration", "every node that is planned not to forward",
            REAPPLY_NETWORK, NETWORK, waivable=False),
    Control("NET-08", "The network settings outlast a restart",
            "What is only set in the running kernel is gone after the next start.",
            ("own",), "medium", "configuration", NODE, REAPPLY_NETWORK, NETWORK),
    Control("FW-01", "The collection's table is loaded, awake, and drops by default",
            "Rules that are not loaded or asleep protect nothing; a chain that accepts by default opens what nobody thought of.",
            ("firewall-api-only",), "critical", "packet filter", NODE, REAPPLY_FIREWALL, FIREWALL, waivable=False),
    Control("FW-02", "The packet filter stands before the network does at the next start",
            "Between the start of the network and that of the filter everything is open.",
            ("own", "firewall-api-only"), "high", "configuration", NODE, REAPPLY_FIREWALL, FIREWALL, waivable=False),
    Control("FW-03", "Only root can read or change the filter's files",
            "Who can write the rules that are loaded at the next start owns the filter.",
            ("least-privilege",), "high", "configuration", NODE, REAPPLY_FIREWALL, FIREWALL),
    Control("FW-04", "The listing of the rules says what the kernel enforces",
            "Older nft merges two comparisons into one and lists them unmerged; people then review rules that do not exist.",
            ("own",), "medium", "packet filter", NODE, "Rewrite the rule named, or update nft and load it again.", ()),
    Control("SOC-01", "The instance listens only where the plan says",
            "Without --host the API takes every interface, and internal sockets follow names and default routes.",
            ("service-host", "dp-address", "host-ip", "parallel-master-ip"), "critical", "sockets", INSTANCE, REAPPLY_SERVICE, SERVE),
    Control("SOC-02", "No service outside the plan listens on an address of the network",
            "A service nobody planned is one that nobody patches; the packet filter should not be all that protects it.",
            ("access-restriction", "least-privilege"), "medium", "sockets", NODE,
            "Stop the service, bind it to loopback, or plan a flow for it with its reason.", ()),
    Control("SOC-03", "The API of the instance listens on its planned address and port",
            "A head that does not listen is broken, and one that listens elsewhere bypasses what was planned for it.",
            ("service-host", "service-port"), "high", "sockets", HEAD, "Start the unit; its journal tells why it does not listen.", SERVE),
    Control("PAR-01", "The API's address is set as planned", "The default is every interface.",
            ("service-host", "no-defaults"), "critical", "configuration", HEAD, REAPPLY_SERVICE, SERVE),
    Control("PAR-02", "The API's port is set as planned", "Everybody tries port 8000 first.",
            ("service-port", "no-defaults"), "medium", "configuration", HEAD, REAPPLY_SERVICE, SERVE),
    Control("PAR-03", "data-parallel-address is set as planned",
            "The sockets between head and engines bind to it; over Ray the default is that of the default route.",
            ("dp-address", "parallel-master-ip", "no-defaults"), "high", "configuration", PARALLEL, REAPPLY_SERVICE, SERVE),
    Control("PAR-04", "data-parallel-rpc-port is set as planned", "Any peer that says hello on it is told all other addresses.",
            ("dp-rpc-port", "no-defaults"), "high", "configuration", PARALLEL, REAPPLY_SERVICE, SERVE),
    Control("PAR-05", "VLLM_HOST_IP is set as planned", "Unset, vLLM asks the default route, and takes every interface where there is none.",
            ("host-ip", "no-defaults"), "high", "configuration", INSTANCE, REAPPLY_SERVICE, SERVE),
    Control("PAR-06", "VLLM_DP_MASTER_IP is set as planned", "The default is loopback, and whatever is exported by hand wins.",
            ("dp-master-ip", "no-defaults"), "medium", "configuration", PARALLEL, REAPPLY_SERVICE, SERVE),
    Control("PAR-07", "VLLM_DP_MASTER_PORT is set as planned", "The default 0 is taken literally, and the ports after it follow.",
            ("dp-master-port", "no-defaults"), "medium", "configuration", PARALLEL, REAPPLY_SERVICE, SERVE),
    Control("PAR-08", "The program and its other arguments are the planned ones, and no more",
            "An argument added by hand can switch off what the others switch on, and another program is another service.",
            ("no-defaults",), "high", "configuration", INSTANCE, REAPPLY_SERVICE, SERVE),
    Control("PAR-09", "The other planned variables are set as planned",
            "Interface and offline variables keep traffic on its segment and the node off the internet.",
            ("mindspore", "no-defaults", "guide"), "medium", "configuration", INSTANCE, REAPPLY_SERVICE, SERVE),
    Control("PAR-10", "Nothing dangerous is switched on by a variable",
            "Development mode, insecure serialisation, the profiler and adapters loaded at run time each hand the engine to whoever reaches it.",
            ("guide",), "critical", "configuration", INSTANCE, "Remove the variable from the unit or its drop-in.", SERVE),
    Control("PAR-11", "No secret stands in the unit", "Whoever can ask systemd about the unit, or list processes, reads it.",
            ("authentication", "least-privilege"), "high", "configuration", INSTANCE, "Hand it over as a credential.", SERVE),
    Control("SRV-01", "The instance's unit is loaded, enabled, active and reloaded",
            "A unit that was edited, masked or not reloaded does not run what was reviewed.",
            ("own",), "high", "configuration", INSTANCE, REAPPLY_SERVICE, SERVE),
    Control("SRV-02", "The unit runs as its own user", "Instances that share a user share their secrets and each other's sockets; root shares everything.",
            ("least-privilege",), "critical", "configuration", INSTANCE, REAPPLY_SERVICE, SERVE),
    Control("SRV-03", "The processes of the instance run as its own user and cannot gain privileges", "Remote code in an engine must not own the host.",
            ("least-privilege",), "critical", "process", INSTANCE, REAPPLY_SERVICE, SERVE),
    Control("SRV-04", "The processes of the instance have no capability", "A single capability can be enough to leave the sandbox.",
            ("least-privilege",), "critical", "process", INSTANCE, REAPPLY_SERVICE, SERVE),
    Control("SRV-05", "The processes of the instance are under a system call filter",
            "Most ways from a process into the kernel go through calls that no engine needs.",
            ("sandbox", "least-privilege"), "high", "process", INSTANCE, REAPPLY_SERVICE, SERVE),
    Control("SRV-06", "The running processes are the ones deployed", "A unit that was changed and not restarted still runs the old one.",
            ("own",), "medium", "process", INSTANCE, "Restart the unit.", SERVE),
    Control("SRV-07", "No engine runs outside its unit", "What was started by hand has no sandbox, no planned port and nobody who restarts it.",
            ("own", "least-privilege"), "high", "process", NODE, "Stop the process; start the instance through its unit.", ()),
    Control("SRV-08", "The unit sees a read-only system and private directories", "An engine needs to write its own state and nothing else.",
            ("sandbox", "least-privilege"), "high", "configuration", INSTANCE, REAPPLY_SERVICE, SERVE),
    Control("SRV-09", "The unit reaches its own devices and no other", "Raw memory, disks and other instances' NPUs are devices as well.",
            ("sandbox", "least-privilege"), "high", "configuration", INSTANCE, REAPPLY_SERVICE, SERVE),
    Control("SRV-10", "The unit cannot change the kernel, its modules, its clock or its control groups", "An engine has no business there.",
            ("sandbox", "least-privilege"), "high", "configuration", INSTANCE, REAPPLY_SERVICE, SERVE),
    Control("SRV-11", "The unit is declared without privileges, namespaces and unneeded address families", "What a unit may not have, code in it cannot take.",
            ("sandbox", "least-privilege"), "high", "configuration", INSTANCE, REAPPLY_SERVICE, SERVE),
    Control("SRV-12", "The unit declares a system call filter without privileged calls", "A filter that lets mount and module calls through is none.",
            ("sandbox", "least-privilege"), "high", "configuration", INSTANCE, REAPPLY_SERVICE, SERVE),
    Control("SRV-13", "The unit exchanges packets with its peers and clients only",
            "A second layer that holds where the packet filter was flushed; it stops forged requests and downloads.",
            ("sandbox", "firewall-internal", "isolated-network"), "high", "configuration", INSTANCE, REAPPLY_SERVICE, SERVE),
    Control("SRV-14", "The unit's files are the deployed ones, and only root can change them", "A drop-in overrides everything that was reviewed.",
            ("own", "least-privilege"), "high", "configuration", INSTANCE,
            "Remove the drop-in, or name it in vllm_serve_dropins where it is meant, and apply the service again.", SERVE),
    Control("SRV-15", "What the unit declares is enforced by this host's systemd", "Older systemd accepts options that it does not enforce.",
            ("own",), "low", "configuration", INSTANCE, "Update systemd, or rely on the packet filter for this.", ()),
    Control("SRV-16", "The versions of serving software that the site brings belong together",
            "pip does not know which versions do; others fail at the first request, or compute something else.",
            ("own",), "medium", "configuration", "every node with an existing installation",
            "Install what belongs together, or state the installed version of the engine as the instance's version.", ()),
    Control("FIL-01", "Only root can change the model", "Whoever changes the model, or its code, runs code in every engine.",
            ("least-privilege", "guide"), "high", "configuration", INSTANCE,
            "Give the model's directory to root and take write access from everybody else.", ()),
    Control("FIL-02", "Only root can change the serving software", "Whoever changes a library runs code in every engine.",
            ("least-privilege",), "critical", "configuration", INSTANCE, "Apply the runtime again.", RUNTIME),
    Control("FIL-03", "Only root can read the credentials", "A key that other accounts can read is everybody's.",
            ("authentication", "least-privilege"), "critical", "configuration", "every node with credentials",
            "Take access from everybody but root, and change the credential.", ()),
    Control("NPU-01", "The NPU driver is installed for its own group only", "Installed for all, every account of the node may use every NPU.",
            ("least-privilege",), "high", "configuration", NPUS, "Install the driver again without --install-for-all.", ()),
    Control("NPU-02", "The toolkit is the one that the engine is paired with", "Other pairings fail at the first request, or compute something else.",
            ("own",), "medium", "configuration", NPUS, "Install the toolkit, or the engine, that belongs to the other.", ()),
    Control("NPU-03", "The device nodes of the planned NPUs are there, and closed to others than the driver's group",
            "Whoever opens an NPU's device reads the memory of the model and of its requests.",
            ("least-privilege",), "high", "configuration", NPUS, "Install or load the driver again, without --install-for-all.", ()),
    Control("NPU-04", "The planned NPUs are present and healthy", "An instance with a sick NPU hangs all of its nodes.",
            ("own",), "medium", "configuration", NPUS, "See npu-smi info -t health; reset or replace the NPU, or plan without it.", ()),
    Control("NPU-05", "The fabric of the NPUs is apart from the host's networks",
            "Its traffic passes no packet filter of the host. A default route says nothing of it; the switch has to keep it apart.",
            ("dedicated-network", "segmentation", "isolated-network"), "high", "configuration", FABRIC,
            "Give the NPUs addresses of a network of their own, and remove the route.", (), waivable=False),
    Control("NPU-06", "The TLS switch of the NPUs is the same over all ranks of an instance",
            "Where it differs no link comes up, and it is switched off in haste.",
            ("isolated-network", "mindspore"), "medium", "configuration", FABRIC, "Set it alike with hccn_tool -tls -s enable.", ()),
    Control("ACC-01", "Root does not log in with a password", "The first account everybody tries.",
            ("authentication",), "high", "configuration", NODE, "Set PermitRootLogin no, or prohibit-password.", ("vllm_access",)),
    Control("ACC-02", "Logins take keys, not passwords", "Passwords are guessed and reused.",
            ("authentication",), "high", "configuration", NODE, "Set PasswordAuthentication and KbdInteractiveAuthentication to no.", ("vllm_access",)),
    Control("ACC-03", "Nobody logs in without a secret", "An empty password is none.",
            ("authentication",), "critical", "configuration", NODE, "Set PermitEmptyPasswords and HostbasedAuthentication to no.", ("vllm_access",)),
    Control("ACC-04", "The instance's account cannot log in", "It is for one service; nobody is behind it.",
            ("least-privilege", "authentication"), "high", "configuration", INSTANCE, "Apply the runtime again.", RUNTIME),
    Control("ACC-05", "The instance's account has no privileged group and no sudo rule", "Either makes every sandbox pointless.",
            ("least-privilege",), "critical", "configuration", INSTANCE, "Remove the membership or the rule.", RUNTIME),
    Control("ACC-06", "SSH listens on the management segment only, for named groups", "An SSH daemon on the API segment is one more front door.",
            ("access-restriction", "authentication"), "high", "sockets", ACCESS,
            "Apply the access again; remove what overrides its drop-in.", ("vllm_access",)),
    Control("ACC-07", "Only root can change what restricts SSH and sudo", "Whoever changes it decides who becomes root.",
            ("least-privilege", "authentication"), "high", "configuration", ACCESS, "Apply the access again.", ("vllm_access",)),
    Control("GW-01", "The gateway's unit is the deployed one, active and enabled",
            "Without it the API is closed; with another unit it is not what was reviewed.",
            ("authentication", "own"), "high", "configuration", GATEWAY, REAPPLY_GATEWAY, GATEWAY_TAGS),
    Control("GW-02", "The gateway's unit is confined", "It is what strangers talk to.",
            ("sandbox", "least-privilege"), "high", "configuration", GATEWAY, REAPPLY_GATEWAY, GATEWAY_TAGS),
    Control("GW-03", "The gateway's processes run as its own user without privileges", "A fault in the front door must not own the host.",
            ("least-privilege",), "critical", "process", GATEWAY, REAPPLY_GATEWAY, GATEWAY_TAGS),
    Control("GW-04", "The gateway listens on its planned addresses and ports", "Clients that cannot reach it are led past it.",
            ("service-host", "service-port"), "high", "sockets", GATEWAY,
            "Apply the gateway again; its journal tells why it does not listen.", GATEWAY_TAGS),
    Control("GW-05", "Only root and the gateway can read its keys, certificates and backends' keys", "They open every instance behind it.",
            ("authentication", "least-privilege"), "critical", "configuration", GATEWAY,
            "Apply the gateway again, and replace the keys that others could read.", GATEWAY_TAGS),
    Control("GW-06", "The end of certificates and keys is watched, and none has expired",
            "An expired certificate makes clients switch verification off.",
            ("authentication", "own"), "medium", "configuration", GATEWAY, "Renew it with playbooks/rotate_credentials.yml.", GATEWAY_TAGS),
    Control("GRD-01", "The guard runs as deployed, and only root can change what it runs",
            "Whoever wants a change of the node to stay stops the guard first; without it deviations stay until the next run.",
            ("own", "least-privilege"), "high", "configuration", "every node that the inventory puts under the guard (vllm_guard_state: present)",
            "Apply the guard again; remove what overrides its units.", ("vllm_guard",)),
    Control("HST-01", "The kernel randomises addresses", "Without it, memory errors in parsers of untrusted input are far easier to use.",
            ("least-privilege",), "medium", "configuration", NODE, "Set kernel.randomize_va_space to 2.", ()),
)

BY_ID = {control.id: control for control in CONTROLS}
