"""A child that costs next to nothing, so that what is measured is the service. Not llama.cpp, and no real model.

Started like llama-server (`--host PATH.sock`, or an address with `--port`; the key in LLAMA_API_KEY). A stream is
64 events of the usual size, sent at once: the way is measured, not the generation.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from itertools import pairwise
from typing import Any, Final, cast

import httptools
import uvloop

TOKENS: Final = 64


def _whole(status: str, body: Any) -> bytes:
    data = json.dumps(body).encode()
    head = f"HTTP/1.1 {status}\r\nContent-Type: application/json; charset=utf-8\r\nContent-Length: {len(data)}\r\n\r\n"
    return head.encode() + data


def _stream() -> bytes:
    common = {"created": 1, "id": "chatcmpl-" + "x" * 32, "model": "tiny", "object": "chat.completion.chunk"}
    deltas: list[dict[str, Any]] = [{"role": "assistant", "content": None}, *[{"content": " word"}] * TOKENS, {}]
    events = [
        {"choices": [{"index": 0, "delta": delta, "finish_reason": None if delta else "length"}], **common}
        for delta in deltas
    ]
    used = {"prompt_tokens": 1, "completion_tokens": TOKENS, "total_tokens": TOKENS + 1}
    events.append({"choices": [], "usage": used, **common})
    parts = [f"data: {json.dumps(event)}\n\n".encode() for event in events]
    parts.append(b"data: [DONE]\n\n")
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
    return head + b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"


DENIED: Final = _whole("401 Unauthorized", {"error": {"code": 401, "message": "Invalid API Key"}})
MISSING: Final = _whole("404 Not Found", {"error": {"code": 404, "message": "File Not Found"}})
ANSWERS: Final = {
    b"/health": _whole("200 OK", {"status": "ok"}),
    b"/props": _whole("200 OK", {"total_slots": 16}),
    b"/tokenize": _whole("200 OK", {"tokens": [1, 2, 3]}),
    b"/v1/chat/completions": _stream(),
}


class Connection(asyncio.Protocol):
    """One client; also the callbacks of its parser."""

    def __init__(self, key: str) -> None:
        self._wanted = f"Bearer {key}".encode()
        self._parser = httptools.HttpRequestParser(self)
        self._transport: asyncio.Transport | None = None
        self._path = b""
        self._allowed = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_url(self, url: bytes) -> None:
        self._path = url
        self._allowed = False

    def on_header(self, name: bytes, value: bytes) -> None:
        if value == self._wanted:
            self._allowed = True

    def on_message_complete(self) -> None:
        assert self._transport is not None  # noqa: S101 - connection_made came first
        answer = ANSWERS.get(self._path, MISSING) if self._allowed or self._path == b"/health" else DENIED
        self._transport.write(answer)


async def serve(host: str, port: int, key: str) -> None:
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, ended.set)
    if host.endswith(".sock"):
        await loop.create_unix_server(lambda: Connection(key), host, backlog=512)
    else:
        await loop.create_server(lambda: Connection(key), host, port, backlog=512)
    await ended.wait()


def main() -> None:
    given = dict(pairwise(sys.argv[1:]))
    uvloop.run(serve(given.get("--host", "127.0.0.1"), int(given.get("--port", "0")), os.environ["LLAMA_API_KEY"]))


if __name__ == "__main__":
    main()
