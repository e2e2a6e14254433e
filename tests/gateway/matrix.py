# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Every route of a real engine behind a real gateway, times every credential: expected against observed.

    python3 matrix.py LAB SECRETS_FOLDER [REPORT.json]

The lab is one of molecule/gateway: npu01 with the gateway and the engine, client, outsider and monitor. The routes are those of the engine's own
OpenAPI document and those that it does not document (UNDOCUMENTED). A route that ``routes.json`` does not know is a deviation too: somebody has
to decide what it is. Exit status 1 where anything deviates.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
LAB = HERE.parent / "lab" / "lab"
NAME = "chat.example.com"
PORT, METRICS_PORT, BACKEND_PORT = 7443, 7444, 17443
ALLOWED = {"GET /v1/models", "POST /v1/chat/completions", "POST /v1/completions"}
READ = {"GET /chat/metrics", "GET /chat/health", "GET /health"}
CHANGE = {"POST /chat/pause"}
EXPIRED = "vms_team-e_0123456789abcdefghijklmnopqrstuvwxyz"
# Routes of vLLM 0.11 to 0.33 that the document leaves out, or that a flag or a variable adds.
UNDOCUMENTED = [
    *(
        f"GET {path}"
        for path in (
            "/docs",
            "/docs/oauth2-redirect",
            "/redoc",
            "/openapi.json",
            "/metrics",
            "/metrics/",
            "/health",
            "/load",
            "/ping",
            "/version",
            "/server_info",
            "/is_sleeping",
            "/is_paused",
            "/kv_event_sources",
            "/tokenizer_info",
            "/v1/realtime",
            "/fault_tolerance/status",
            "/get_world_size",
        )
    ),
    *(
        f"POST {path}"
        for path in (
            "/invocations",
            "/ping",
            "/pause",
            "/resume",
            "/abort_requests",
            "/sleep",
            "/wake_up",
            "/collective_rpc",
            "/reset_prefix_cache",
            "/reset_mm_cache",
            "/reset_encoder_cache",
            "/update_weights",
            "/init_weight_transfer_engine",
            "/weight_checker",
            "/start_profile",
            "/stop_profile",
            "/scale_elastic_ep",
            "/is_scaling_elastic_ep",
            "/v1/load_lora_adapter",
            "/v1/unload_lora_adapter",
            "/generative_scoring",
            "/inference/v1/generate",
            "/tokenize",
            "/detokenize",
            "/pooling",
            "/classify",
            "/score",
            "/rerank",
            "/v2/rerank",
            "/v2/embed",
            "/cohere/v2/chat",
        )
    ),
    "OPTIONS /v1/completions",
    "OPTIONS /v1/models",
    "HEAD /v1/models",
    "DELETE /v1/models",
    "PUT /v1/completions",
    "GET /v1/completions",
    "POST /v1/models",
]
HOST_TRICKS = ["a/?", "a#", "localhost/x?", f"{NAME}/?", "localhost:8000", "127.0.0.1", "", f"user@{NAME}"]


def on(lab, host, program):
    """Run a Python program on a host of the lab, and return what it prints."""
    done = subprocess.run([str(LAB), "exec", "--name", lab, host, "python3", "-"], input=program, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(f"{host}: {done.stderr.strip()}")
    return done.stdout


def ask(lab, host, cases):
    """{id: answer} of cases sent from a host."""
    source = (HERE / "wire.py").read_text()
    return {answer["id"]: answer for answer in json.loads(on(lab, host, f"{source}\nrun(json.loads({json.dumps(json.dumps(cases))}))\n"))}


def documented(lab):
    """Routes of the engine's own document, asked past the gateway with the engine's key."""
    program = f"""
import json, urllib.request
key = open("/etc/vllm-hardening/credentials/chat.api-key").read()
request = urllib.request.Request("http://127.0.0.1:{BACKEND_PORT}/openapi.json", headers={{"Authorization": "Bearer " + key}})
print(urllib.request.urlopen(request, timeout=60).read().decode())
"""
    paths = json.loads(on(lab, "npu01", program))["paths"]
    return [f"{method.upper()} {path}" for path, methods in paths.items() for method in methods]


def credentials(folder):
    """{name: (key or None, certificate or None)}"""
    held = {name: json.loads((folder / "keys" / f"{name}.json").read_text())["keys"] for name in ("team-a", "team-b", "team-x")}
    secret = {name: keys[0]["secret"] for name, keys in held.items()}
    certificate = (folder / "ca" / "administrator-alice.pem").read_text()
    return {
        "no key": (None, None),
        "wrong key": ("vms_team-a_this-is-not-the-secret-of-anybody", None),
        "expired key": (EXPIRED, None),
        "key of another instance": (secret["team-x"], None),
        "key for models only": (secret["team-b"], None),
        "client key": (secret["team-a"], None),
        "newest client key": (held["team-a"][-1]["secret"], None),
        "administrator certificate": (None, certificate),
    }


def expected(route, credential):
    """What the API frontend answers: a status of the gateway, or ``engine``."""
    if route not in ALLOWED:
        return 404
    if credential == "key for models only":
        return "engine" if route == "GET /v1/models" else 403
    return {"client key": "engine", "newest client key": "engine", "key of another instance": 403}.get(credential, 401)


def expected_management(route, credential):
    """The same for the management frontend."""
    if route in READ:
        return "engine" if route != "GET /health" else 200
    if route in CHANGE:
        return "engine" if credential == "administrator certificate" else 403
    return 404


def observed(answer, head=False):
    """As expected() says it."""
    if answer["error"]:
        return answer["error"]
    # An answer to HEAD has no body by which to tell who answers, and the engines have no HEAD.
    return answer["status"] if answer["gateway"] or head else "engine"


def main(lab, folder, report=None):
    """Ask everything, print what deviates, and return the exit status."""
    known = {route for routes in json.loads((HERE / "routes.json").read_text()).values() for route in routes}
    routes = documented(lab)
    rows = [("openapi", route, "", "known", "known" if route in known else "new") for route in routes]
    routes = list(dict.fromkeys([*routes, *UNDOCUMENTED]))
    block = json.loads(subprocess.run([str(LAB), "exec", "--name", lab, "npu01", "ip", "-j", "address"], capture_output=True, text=True, check=True).stdout)
    address = {link["ifname"]: item["local"] for link in block for item in link["addr_info"] if item["family"] == "inet"}
    folder = Path(folder)
    authority = (folder / "ca" / "ca.pem").read_text()
    cases, wanted = {"client": [], "monitor": [], "outsider": []}, {}

    def add(host, kind, route, credential, want, hostname=NAME, **more):
        method, _blank, path = route.partition(" ")
        key, certificate = credentials(folder).get(credential, (None, None))
        number = len(wanted)
        wanted[number] = (kind, route, credential, want)
        headers = [["Host", hostname]] + ([["Authorization", f"Bearer {key}"]] if key else [])
        management = kind == "management"
        cases[host].append({
            "id": number, "address": address["eth0" if management else "eth1"], "port": METRICS_PORT if management else PORT, "authority": authority,
            "certificate": certificate, "method": method, "path": path.replace("{", "").replace("}", ""), "headers": headers,
            "body": "{}" if method in ("POST", "PUT") else None, **more,
        })

    for credential in credentials(folder):
        for route in routes:
            add("client", "api", route, credential, expected(route, credential))
        for route in [*READ, *CHANGE, *(f"{route.split(' ')[0]} /chat{route.split(' ')[1]}" for route in routes)]:
            add("monitor", "management", route, credential, expected_management(route, credential), hostname=address["eth0"])
    for trick in HOST_TRICKS:
        for credential in ("no key", "client key"):
            add("client", "host", "GET /v1/models", credential, 421, hostname=trick)
            wanted[len(wanted) - 1] = ("host", f"GET /v1/models as {trick!r}", credential, 421)
    add("client", "api", "POST /v1/completions", "client key", "engine", body='{"model": "chat", "prompt": "hello", "max_tokens": 4}', timeout=120)
    completion = len(wanted) - 1
    answers = {}
    for host, asked in cases.items():
        if asked:
            answers.update(ask(lab, host, asked))
    for number, (kind, route, credential, want) in wanted.items():
        seen = observed(answers[number], route.startswith("HEAD "))
        # The gateway's own page of health is no answer of an engine.
        rows.append((kind, route, credential, want, 200 if want == 200 and answers[number]["status"] == 200 else seen))
    rows.append(("api", "a completion", "client key", 200, answers[completion]["status"]))
    around = {"id": 0, "address": "127.0.0.1", "port": BACKEND_PORT, "authority": None, "method": "GET", "path": "/v1/models", "headers": [["Host", "x"]]}
    rows.append(("around the gateway", "GET /v1/models", "no key", 401, ask(lab, "npu01", [around])[0]["status"]))
    neighbour = on(lab, "npu01", f"""
import os, socket
os.setuid(65534)
try:
    socket.create_connection(("127.0.0.1", {BACKEND_PORT}), 3).close(); print("open")
except OSError:
    print("closed")
""").strip()
    rows.append(("around the gateway", f"port {BACKEND_PORT}", "another user of the node", "closed", neighbour))
    outside = json.loads(on(lab, "outsider", f"""
import json, socket
seen = []
for place in {[(address['eth1'], PORT), (address['eth0'], METRICS_PORT), (address['eth1'], BACKEND_PORT)]!r}:
    try:
        socket.create_connection(place, 3).close(); seen.append("open")
    except OSError as error:
        seen.append("closed")
print(json.dumps(seen))
"""))
    rows += [("outsider", f"port {port}", "", "closed", seen) for port, seen in zip((PORT, METRICS_PORT, BACKEND_PORT), outside)]
    deviations = [row for row in rows if row[3] != row[4]]
    for row in deviations:
        print("deviation: {} {} with {}: expected {}, observed {}".format(*row))
    if report:
        keys = ("frontend", "route", "credential", "expected", "observed")
        Path(report).write_text(json.dumps([dict(zip(keys, row)) for row in rows], indent=1) + "\n")
    print(f"{len(routes)} routes, {len(rows)} cells, {len(deviations)} deviations")
    return 1 if deviations else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
