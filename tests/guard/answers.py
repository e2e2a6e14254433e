# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""A permitted client of the lab that asks the serving instance, over a new connection each time, and counts what is not answered."""

from __future__ import annotations

import ctypes
import http.client
import ssl
import threading
import time

from faults.node import Node

INTERVAL = 0.1
PATIENCE = 3.0


class Client:
    """Asks from the lab's host `client` as long as the context lasts."""

    def __init__(self, lab):
        self.node, self.address, self.tls = Node(lab.name, "client"), f"{lab.block}.1.11", lab.gateway
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
            connection = (http.client.HTTPSConnection(self.address, 7443, timeout=PATIENCE, context=context) if self.tls
                          else http.client.HTTPConnection(self.address, 7443, timeout=PATIENCE))
            try:
                connection.request("GET", "/health")
                connection.getresponse().read()
                self.answers += 1
            except (OSError, http.client.HTTPException) as error:
                self.missing += 1
                self.complaint = f"{time.strftime('%H:%M:%S')} {error!r}"
            finally:
                connection.close()
            self._stop.wait(INTERVAL)
