# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Deviations of the audit's fault table that drift correction leaves and reports, each with the reason why it is not the collection's to correct."""

from __future__ import annotations

from audit.fault_table import FAULTS, GATEWAY_FAULTS, GUARD_FAULTS

TABLE = "a table of another program; what it is for only its owner knows"
ADDRESS = "addresses are the network administrator's"
SERVICE = "a service of somebody else"
PROCESS = "a process that somebody started; stopping it may lose work"
DROPIN = "a drop-in of the site, which may be meant; vllm_serve_dropins makes it the collection's"
OTHER_DROPIN = "a drop-in of the site, which may be meant; the collection lays none beside this unit"
MODEL = "the model is the site's: only its owner knows what its files should be"
SOFTWARE = "the serving software is the site's here (vllm_runtime_software: existing)"
AROUND = "a directory of the distribution around the serving software"
SSH = "a file of the site in /etc/ssh; the role vllm_access does not manage this node, or cannot know which of the two is meant"
CREDENTIAL = "a secret that others could read has to be replaced, not only closed"
SUDO = "a rule of the site in /etc/sudoers.d"

REASONS = {
    "foreign drop of a planned flow": TABLE,
    "filter's unit overridden": OTHER_DROPIN,
    "address too many": ADDRESS,
    "foreign service on every interface": SERVICE,
    "foreign service on one address": SERVICE,
    "foreign service over UDP": SERVICE,
    "foreign service on a port of the instance": SERVICE,
    "engine started by hand as the service's user": PROCESS,
    "engine started by hand as root": PROCESS,
    "drop-in": DROPIN,
    "drop-in with a dangerous variable": DROPIN,
    "/srv/models belongs to the service": MODEL,
    "/srv/models/tiny has mode 0777": MODEL,
    "/srv/models/tiny/config.json belongs to the service": MODEL,
    "/etc/vllm-hardening/credentials/example has mode 0644": CREDENTIAL,
    "/etc/vllm-hardening/credentials has mode 0755": CREDENTIAL,
    "/opt/vllm/standin has mode 0777": SOFTWARE,
    "/opt/vllm has mode 0775": SOFTWARE,
    "/opt/vllm belongs to the service": SOFTWARE,
    "another version of the engine": SOFTWARE,
    "/opt has mode 0777": AROUND,
    "service account in sudoers": SUDO,
    "service account in sudoers by an alias": SUDO,
    "gateway overridden": OTHER_DROPIN,
    "guard overridden": OTHER_DROPIN,
    "SSH is set to listen everywhere": SSH,
    "another group may log in": SSH,
    **{item.name: SSH for item in FAULTS if item.name.startswith("sshd: ")},
}
LEFT = {name: REASONS[name] for name in (item.name for item in [*FAULTS, *GATEWAY_FAULTS, *GUARD_FAULTS]) if name in REASONS}
# Where the collection installed the serving software, its directories are the collection's as well.
LEFT_WITH_MANAGED_SOFTWARE = {name: reason for name, reason in LEFT.items() if reason != SOFTWARE}
