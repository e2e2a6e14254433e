# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Whatever answers while a unit starts, waiting for it goes on."""

from __future__ import annotations

import socket
import threading

import pytest

from ansible_collections.vllm_mindspore.hardening.plugins.module_utils import node_edge


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", None),
        (b"HTTP/1.1 204 No Content\r\n\r\n", "status 204"),
        (b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n", "status 503"),
        (b"\x15\x03\x01\x00\x02\x02\x46", "BadStatusLine"),
        (b"HTTP/1.1 soon\r\n\r\n", "BadStatusLine"),
        (b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 200 + b"\r\n", "HTTPException"),
        (b"", "Remote end closed"),
    ],
)
def test_an_answer_that_is_no_http_is_a_reason_to_wait(answer, problem):
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve():
            connection, _peer = server.accept()
            with connection:
                connection.recv(4096)
                connection.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        found = node_edge.answer_of(f"http://127.0.0.1:{server.getsockname()[1]}/health")
        thread.join()
    assert found is None if problem is None else problem in found


@pytest.mark.parametrize("url", ["http://[::1/", "http://127.0.0.1:none/"])
def test_an_address_that_is_none_is_no_traceback(url):
    assert node_edge.answer_of(url)
