# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""vLLM, but for instances over Ray, which its CPU build refuses ("current platform cpu does not support ray").

In its place such an instance gets a driver that joins the very cluster and asks every node of it for an answer: each completion is a Ray
task on each node, and what it returns names them.
"""

from __future__ import annotations

import http.server
import json
import os
import sys

ENGINE = "/opt/vllm/current/bin/vllm"


def value(flag):
    """The value of a flag of the command line."""
    return sys.argv[sys.argv.index(flag) + 1]


def main():
    """Become vLLM, or serve over Ray."""
    if "ray" not in sys.argv:
        os.execv(ENGINE, [ENGINE, *sys.argv[1:]])
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    ray.init(address=os.environ["RAY_ADDRESS"], log_to_driver=False)

    @ray.remote(num_cpus=0)
    def where(prompt):
        return f"{ray.util.get_node_ip_address()}:{os.getuid()}:{len(prompt)}"

    def answer(prompt):
        nodes = [node["NodeID"] for node in ray.nodes() if node["Alive"]]
        tasks = [where.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False)).remote(prompt) for node in nodes]
        return sorted(ray.get(tasks, timeout=240))

    class Api(http.server.BaseHTTPRequestHandler):
        """Completions and health."""

        def say(self, status, content):
            """One answer."""
            body = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_GET(self):
            """Healthy as soon as the tensor parallel ranks have a node each."""
            alive = sum(node["Alive"] for node in ray.nodes())
            self.say(200 if self.path == "/health" and alive >= int(value("--tensor-parallel-size")) else 503, {"nodes": alive})

        def do_POST(self):
            """A completion."""
            prompt = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["prompt"]
            self.say(200, {"choices": [{"text": " ".join(answer(prompt)), "finish_reason": "length"}]})

        def log_message(self, *_arguments):
            return

    http.server.ThreadingHTTPServer((value("--host"), int(value("--port"))), Api).serve_forever()


if __name__ == "__main__":
    main()
