# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Give this host what the driver and the tools of an Ascend node show, out of recorded output: ascend.py RECORDINGS [FAULT]

RECORDINGS is a JSON file, {name: text}; the first line of a text names its source. A FAULT changes one thing.
"""

from __future__ import annotations

import grp
import json
import os
import shutil
import stat
import subprocess
import sys

GROUP = "HwHiAiUser"
DEVICES = ("davinci0", "davinci1", "davinci_manager", "devmm_svm", "hisi_hdc")
ASCEND = "/usr/local/Ascend"
SMI = "/usr/local/bin/npu-smi"
TOOLS = f"{ASCEND}/driver/tools"
# Answers for NPU 0 and 1; the recording is that of one NPU.
HCCN_TEXT = '''#!/bin/sh
case "$3" in
-ip) sed "s/10.77.8.10/{network}.1$2/" {tools}/address ;;
-tls) sed "s/dev_id:0/dev_id:$2/; s/switch.0./switch[$(({unequal} * $2))]/" {tools}/tls ;;
esac
'''


def write(path, text, mode=0o644):
    """A file and its directories."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w", encoding="utf-8") as handle:
        handle.write(text)
    os.chmod(path, mode)


def device(name, mode):
    """A device node, which stands for one of the driver."""
    path = f"/dev/{name}"
    if not os.path.exists(path):
        os.mknod(path, stat.S_IFCHR, os.makedev(1, 3))
    os.chown(path, 0, grp.getgrnam(GROUP).gr_gid)
    os.chmod(path, mode)


def main():
    """Everything, with at most one fault."""
    fault = (sys.argv[2:] or [""])[0]
    with open(sys.argv[1], encoding="utf-8") as handle:
        recorded = {name: text.partition("\n")[2] for name, text in json.load(handle).items()}
    subprocess.run(["groupadd", "--force", "--system", GROUP], check=True)
    for name in DEVICES:
        device(name, 0o666 if fault == "devices" else 0o660)
    if fault == "absent":
        os.unlink("/dev/davinci1")
    everybody = "yes" if fault == "everybody" else "no"
    write("/etc/ascend_install.info", recorded["install"].replace("Install_For_All=yes", f"Install_For_All={everybody}"))
    shutil.rmtree(ASCEND, ignore_errors=True)
    for package in ("driver", "firmware"):
        write(f"{ASCEND}/{package}/version.info", "Version=25.2.0\n")
    toolkit = recorded["toolkit"].replace("version=8.3.RC2", "version=9.1.0" if fault == "toolkit" else "version=8.3.RC2")
    write(f"{ASCEND}/ascend-toolkit/latest/x86_64-linux/ascend_toolkit_install.info", toolkit)
    health = "Warning" if fault == "health" else "OK     "
    write(f"{TOOLS}/table", recorded["smi_a2"].replace("910B4-1             | OK     ", f"910B4-1             | {health}"))
    write(SMI, f"#!/bin/sh\nexec cat {TOOLS}/table\n", 0o755)
    for name in ("address", "tls"):
        write(f"{TOOLS}/{name}", recorded[name])
    if fault != "tool":
        network = "10.99.2" if fault == "segment" else "10.77.8"
        write(f"{TOOLS}/hccn_tool", HCCN_TEXT.format(network=network, tools=TOOLS, unequal=int(fault == "unequal")), 0o755)


if __name__ == "__main__":
    main()
