# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""An engine for uvicorn that streams completions as vLLM does, an event a token; the tokens come as fast as they can be written.

    uvicorn --app-dir tests/gateway completions:app

``{"max_tokens": N, "pause": SECONDS}`` in the body: how many events, and how long each token takes to be generated.
"""

from __future__ import annotations

import asyncio
import json

MODELS = json.dumps({"object": "list", "data": [{"id": "chat", "object": "model", "owned_by": "vllm", "max_model_len": 4096}]}).encode()


async def answer(send, body, kind=b"application/json", **options):
    """One part of an answer; the first has headers."""
    if kind:
        headers = [(b"content-type", kind)] + ([(b"content-length", b"%d" % len(body))] if not options else [])
        await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body, **options})


async def app(scope, receive, send):
    """What uvicorn calls for a request."""
    if scope["type"] != "http":
        return
    if scope["method"] == "GET":
        await answer(send, MODELS)
        return
    body, more = b"", True
    while more:
        message = await receive()
        body, more = body + message.get("body", b""), message.get("more_body", False)
    asked = json.loads(body)
    kind = b"text/event-stream"
    for number in range(asked["max_tokens"]):
        await asyncio.sleep(asked.get("pause", 0))
        choice = {"index": 0, "text": f" token{number}", "logprobs": None, "finish_reason": None, "token_ids": None}
        event = {"id": "cmpl-7c1d2f", "object": "text_completion", "created": 1800000000, "model": "chat", "choices": [choice], "usage": None}
        await answer(send, b"data: " + json.dumps(event).encode() + b"\n\n", kind, more_body=True)
        kind = None
    await answer(send, b"data: [DONE]\n\n", None, more_body=False)
