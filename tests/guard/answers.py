# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""A permitted client of the lab that asks the serving instance, over a new connection each time, and counts what is not answered."""

from __future__ import annotations

import ctypes
import http.client
import json
import ssl
import threading
import time

from faults.node import Node

INTERVAL = 0.1  # seconds between two questions
PATIENCE = 10.0  # seconds for an answer without a model
ENGINE_PATIENCE = 10.0  # seconds for a token, on processors that audits and drift correction use too
HEALTH = ("GET", "/health", None)
COMPLETION = ("POST", "/v1/completions", {"model": "chat", "prompt": "hello", "max_tokens": 1})


class Client:
    """Asks from the lab's host `client` as long as the context lasts: for a completion where a real engine serves, else for its health."""

    def __init__(self, lab, engine=False):
        self.node, self.address, self.tls = Node(lab.name, "client"), f"{lab.block}.1.11", lab.gateway
        self.question, self.patience = (COMPLETION, ENGINE_PATIENCE) if engine else (HEALTH, PATIENCE)
        self.answers = self.missing = 0
        self.complaint = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._ask, daemon=True)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_error):
        self._stop.set()
        self._thread.join()

    def _ask(self):
        # The network of this thread alone: what it opens afterwards belongs to the client.
        with open(f"/proc/{self.node.pid}/ns/net", "rb") as network:
            if ctypes.CDLL(None, use_errno=True).setns(network.fileno(), 0):
                self.complaint = f"the network of the client cannot be entered: {ctypes.get_errno()}"
                return
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        while not self._stop.is_set():
            connection = (http.client.HTTPSConnection(self.address, 7443, timeout=self.patience, context=context) if self.tls
                          else http.client.HTTPConnection(self.address, 7443, timeout=self.patience))
            method, path, body = self.question
            try:
                connection.request(method, path, body and json.dumps(body), {"Content-Type": "application/json"} if body else {})
                answer = connection.getresponse()
                content = answer.read()
                if body and (answer.status != 200 or not json.loads(content)["choices"]):
                    raise http.client.HTTPException(f"{answer.status}: {content[:200]!r}")
                self.answers += 1
            except (OSError, http.client.HTTPException, ValueError, KeyError, TypeError) as error:
                self.missing += 1
                self.complaint = f"{time.strftime('%H:%M:%S')} {error!r}"
            finally:
                connection.close()
            self._stop.wait(INTERVAL)
