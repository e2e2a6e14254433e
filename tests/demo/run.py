# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""From nothing to a hardened, proven two-node vLLM cluster on this machine: what `make demo` runs.

The lab's hosts stand for real nodes: Ansible logs in over SSH as an ordinary account, the serving software is installed from a
wheel directory, and the audit sends real packets. Exits with a status that is not zero when a step fails, a completion is
missing, or the audit finds a leak or something broken.
"""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
LAB = ROOT / "tests" / "lab" / "lab"
NAME = os.environ.get("DEMO_NAME", "demo")
BLOCK = os.environ.get("DEMO_BLOCK", "10.77")
CACHE = pathlib.Path(os.environ["LAB_CACHE"])  # the Makefile says where
SERVING = CACHE / "serving"
DIRECTORY = ROOT / ".build" / "labs" / NAME
REPORT = ROOT / ".build" / "demo"
INVENTORY = ["-i", str(DIRECTORY / "inventory.yml"), "-i", str(ROOT / "tests" / "demo" / "instances.yml")]
COMPLETIONS = 8
# Two environments of the real vLLM, the hosts' roots and the wheels.
FREE_GIB = 8
STARTED = time.monotonic()

# Runs on the client: as many completions as asked for at once, then the number of requests each engine has finished.
CLIENT = r"""
import concurrent.futures, json, re, sys, urllib.request
base, model, count = sys.argv[1], sys.argv[2], int(sys.argv[3])

def completion(number):
    body = {"model": model, "prompt": f"hello {number}", "max_tokens": 8, "seed": number}
    request = urllib.request.Request(base + "/v1/completions", json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=120) as answer:
        return len(json.load(answer)["choices"])

with concurrent.futures.ThreadPoolExecutor(count) as pool:
    answered = sum(pool.map(completion, range(count)))
engines = {}
with urllib.request.urlopen(base + "/metrics", timeout=30) as answer:
    for line in answer.read().decode().splitlines():
        found = re.match(r'vllm:request_success_total\{.*engine="(\d+)".*\} ([0-9.e+]+)', line)
        if found:
            engines[found[1]] = engines.get(found[1], 0) + int(float(found[2]))
print(json.dumps({"answered": answered, "engines": engines}))
"""


def step(title):
    elapsed = int(time.monotonic() - STARTED)
    print(f"\n==> [{elapsed // 60}:{elapsed % 60:02d}] {title}", flush=True)


def run(*command, **options):
    return subprocess.run([str(part) for part in command], check=False, cwd=ROOT, **options)


def must(title, *command):
    step(title)
    status = run(*command).returncode
    if status:
        sys.exit(f"{title}: failed with status {status}")


def playbook(name):
    return run("ansible-playbook", *INVENTORY, ROOT / "playbooks" / f"{name}.yml", "-e", f"vllm_audit_directory={REPORT}").returncode


def completions():
    """Ask for completions as a permitted client would; both engines must have answered."""
    plan = json.loads((REPORT / "plan.json").read_text(encoding="utf-8"))
    instance = plan["nodes"]["npu01"]["instances"][0]
    base = f"http://{instance['api']['address']}:{instance['api']['port']}"
    answer = run(
        LAB, "ssh", "--name", NAME, "client", "python3", "-", base, instance["name"], str(COMPLETIONS),
        input=CLIENT, text=True, stdout=subprocess.PIPE,
    )  # fmt: skip
    if answer.returncode:
        sys.exit("the client got no completions")
    counts = json.loads(answer.stdout)
    print(f"{counts['answered']} completions for the client; finished by each engine so far: {counts['engines']}")
    if counts["answered"] < COMPLETIONS or len([count for count in counts["engines"].values() if count]) < 2:
        sys.exit("not every completion was answered, or not by both engines")


def main():
    # Before anything is fetched. Hosts that are there have what they need.
    must("This machine", LAB, "check", "--free", "0" if DIRECTORY.exists() else str(FREE_GIB))
    must("Wheels and a tiny model to serve (cached)", sys.executable, ROOT / "tests" / "lab" / "serving" / "prepare.py", SERVING)
    must(
        f"Hosts npu01, npu02, client, outsider and rogue (lab {NAME}, {BLOCK}.0.0)",
        LAB, "up", "--name", NAME, "--block", BLOCK, "--root", "bookworm",
        "--mount", f"{SERVING}/wheels:/srv/wheels:ro", "--mount", f"{SERVING}/models:/srv/models:ro",
    )  # fmt: skip
    REPORT.mkdir(parents=True, exist_ok=True)
    must(
        "The plan, before any node is contacted",
        "ansible-playbook", *INVENTORY, ROOT / "playbooks" / "plan.yml", "-e", f"vllm_cluster_plan_file={REPORT}/plan.json",
    )  # fmt: skip
    step("site.yml: provision, harden, audit")
    if playbook("site"):
        sys.exit("site.yml failed")
    step("Completions from the permitted client")
    completions()
    step("audit.yml: every path tried from peer, client, outsider and rogue")
    status = playbook("audit")
    elapsed = int(time.monotonic() - STARTED)
    print(f"""
==> [{elapsed // 60}:{elapsed % 60:02d}] {"Done" if status == 0 else "The audit found something"}

The report:     {(REPORT / "report.html").relative_to(ROOT)} and report.json beside it
Look around:    tests/lab/lab ssh --name {NAME} npu01        (or npu02, client, outsider, rogue)
                sudo nft list table inet vllm_hardening ; systemctl status vllm-chat
Break it:       tests/lab/lab ssh --name {NAME} npu02 sudo nft delete table inet vllm_hardening
                make demo-audit ; make demo-drift
Take it down:   make demo-down
Your own nodes: write an inventory like README.md shows, install the collection with
                ansible-galaxy collection install .
                review with
                ansible-playbook -i INVENTORY vllm_mindspore.hardening.plan
                then run
                ansible-playbook -i INVENTORY vllm_mindspore.hardening.site""")
    return status


if __name__ == "__main__":
    sys.exit(main())
