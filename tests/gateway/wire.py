# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Requests from a host of the lab: its source is sent there with the cases behind it. Standard library, Python 3.9.

A case: ``{id, address, port, name, authority, certificate, method, path, headers, body}``; an answer: ``{id, status, gateway, error}``, where
``gateway`` says whether the gateway answered itself. ``authority`` and ``certificate`` are PEM texts, ``authority`` null is HTTP without TLS.
"""

from __future__ import annotations

import http.client
import json
import os
import ssl
import sys
import tempfile


def context(authority, certificate):
    """TLS that trusts one authority."""
    made = ssl.create_default_context(cadata=authority)
    if certificate:
        descriptor, path = tempfile.mkstemp()
        try:
            with os.fdopen(descriptor, "w") as handle:
                handle.write(certificate)
            made.load_cert_chain(path)
        finally:
            os.unlink(path)
    return made


def ask(case, contexts):
    """The answer to one case, on a connection of its own."""
    answer = {"id": case["id"], "status": None, "gateway": None, "error": None}
    try:
        if case["authority"]:
            key = (case["authority"], case.get("certificate"))
            secured = contexts.setdefault(key, None) or contexts.update({key: context(*key)}) or contexts[key]
            connection = http.client.HTTPSConnection(case["address"], case["port"], timeout=case.get("timeout", 30), context=secured)
        else:
            connection = http.client.HTTPConnection(case["address"], case["port"], timeout=case.get("timeout", 30))
        connection.putrequest(case["method"], case["path"], skip_host=True, skip_accept_encoding=True)
        body = case.get("body")
        for name, value in case["headers"]:
            connection.putheader(name, value)
        if body is not None:
            connection.putheader("Content-Length", str(len(body.encode())))
            connection.putheader("Content-Type", "application/json")
        connection.endheaders(body.encode() if body is not None else None)
        response = connection.getresponse()
        content = response.read()
        answer["status"] = response.status
        answer["gateway"] = b'"gateway_error"' in content
        if case.get("keep"):
            answer["content"] = content.decode("utf-8", "replace")
        connection.close()
    except (OSError, http.client.HTTPException) as error:
        answer["error"] = f"{type(error).__name__}: {error}"
    return answer


def run(cases):
    """Print the answers to all cases."""
    contexts = {}
    json.dump([ask(case, contexts) for case in cases], sys.stdout)
