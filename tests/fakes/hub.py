"""A web server for downloads and a model hub, on 127.0.0.1, whose faults are set path by path.

It serves `files` by path, with Range and If-Range, and for the repositories that were added the hub's API: the commit
of a revision, the tree in pages, and the files. Each request to a path takes the next of its `faults`; one that `stays`
is for all that follow. `requests` is what came.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qs, quote, unquote, urlsplit

COMMIT: Final = "c0ffee" + "0" * 34
MODIFIED: Final = "Sat, 21 Nov 2026 10:00:00 GMT"
REASONS: Final = {200: "OK", 206: "Partial Content", 302: "Found", 404: "Not Found", 416: "Range Not Satisfiable"}
PIECE: Final = 64 * 1024


@dataclass(frozen=True)
class Fault:
    """What is wrong with one answer. A knob that is not given does nothing."""

    status: int | None = None  # this status and no file
    headers: Mapping[str, str] = field(default_factory=dict)  # more of them, or others
    cut_after: int | None = None  # ends the connection after so many bytes of the body
    reset: bool = False  # and does that without saying goodbye
    stall_after: int | None = None  # silent for ever after so many bytes of the body
    announce: int | None = None  # the length that is told
    chunked: bool = False  # no length is told
    more: bytes = b""  # behind the body
    ignore_range: bool = False
    content_range: str | None = None  # what is told of a part
    validators: bool = True  # False: neither ETag nor Last-Modified
    etag: str | None = None  # instead of the right one, also when conditions are judged
    body: bytes | None = None  # instead of the file's
    stays: bool = False  # for all requests that follow


@dataclass(frozen=True)
class Request:
    method: str
    path: str
    query: str
    headers: Mapping[str, str]  # names in lower case

    @property
    def range(self) -> str | None:
        return self.headers.get("range")


@dataclass
class Hub:
    """`stalled` is set when the body of an answer stalls."""

    port: int = 0
    files: dict[str, bytes] = field(default_factory=dict)
    answers: dict[str, tuple[Any, str | None]] = field(default_factory=dict)  # JSON and Link, by path and query
    faults: dict[str, list[Fault]] = field(default_factory=dict)
    requests: list[Request] = field(default_factory=list)
    stalled: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def url(self, path: str) -> str:
        return self.address + quote(path)

    def fail(self, path: str, *faults: Fault) -> None:
        self.faults.setdefault(path, []).extend(faults)

    def asked(self, path: str) -> list[Request]:
        return [request for request in self.requests if request.path == path]

    def add_repository(
        self, repo: str, files: Mapping[str, bytes], *, commit: str = COMMIT, revision: str = "main", page: int = 1000
    ) -> None:
        """A repository of the hub, its tree in pages of so many files. GGUF files and weights are in LFS."""
        entries = [_entry(path, data) for path, data in files.items()]
        folders = {path.rpartition("/")[0] for path in files} - {""}
        entries += [{"type": "directory", "path": folder, "size": 0, "oid": "0" * 40} for folder in sorted(folders)]
        self.answers[f"/api/models/{repo}/revision/{revision}"] = ({"id": repo, "sha": commit}, None)
        self.answers[f"/api/models/{repo}/revision/{commit}"] = ({"id": repo, "sha": commit}, None)
        tree = f"/api/models/{repo}/tree/{commit}"
        for start in range(0, max(1, len(entries)), page):
            more = f'<{self.address}{tree}?recursive=true&cursor={start + page}>; rel="next"'
            key = tree if start == 0 else f"{tree}#{start}"
            self.answers[key] = (entries[start : start + page], more if start + page < len(entries) else None)
        for path, data in files.items():
            self.files[f"/{repo}/resolve/{commit}/{path}"] = data

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError, asyncio.IncompleteReadError, TimeoutError):
            request = _parsed((await reader.readuntil(b"\r\n\r\n")).decode("latin-1"))
            self.requests.append(request)
            await self._answer(request, writer)
        with suppress(ConnectionError):
            writer.close()
            await writer.wait_closed()

    async def _answer(self, request: Request, writer: asyncio.StreamWriter) -> None:
        fault = self._fault(request.path)
        if fault.status is not None:
            await _send(writer, fault.status, {"Content-Length": "0", **fault.headers})
            return
        cursor = parse_qs(request.query).get("cursor", [""])[0]
        said = self.answers.get(f"{request.path}#{cursor}" if cursor else request.path)
        if said is not None:
            text = json.dumps(said[0]).encode() if fault.body is None else fault.body
            link = {} if said[1] is None else {"Link": said[1]}
            headers = {"Content-Type": "application/json", "Content-Length": str(len(text)), **link, **fault.headers}
            await _send(writer, 200, headers, text)
            return
        data = self.files.get(request.path) if fault.body is None else fault.body
        if data is None:
            await _send(writer, 404, {"Content-Length": "0"})
        else:
            await self._send_file(request, writer, data, fault)

    def _fault(self, path: str) -> Fault:
        left = self.faults.get(path)
        if not left:
            return Fault()
        return left[0] if left[0].stays else left.pop(0)

    async def _send_file(self, request: Request, writer: asyncio.StreamWriter, data: bytes, fault: Fault) -> None:
        etag = fault.etag or f'"{hashlib.sha256(data).hexdigest()[:32]}"'
        headers = {"Content-Type": "application/octet-stream"}
        if fault.validators:
            headers |= {"ETag": etag, "Last-Modified": MODIFIED}
        first, status = _first(request, etag, fault), 200
        if first is not None and first >= len(data):
            await _send(writer, 416, headers | {"Content-Range": f"bytes */{len(data)}", "Content-Length": "0"})
            return
        body = data
        if first is not None:
            status, body = 206, data[first:]
            headers["Content-Range"] = fault.content_range or f"bytes {first}-{len(data) - 1}/{len(data)}"
        if fault.chunked:
            headers["Transfer-Encoding"] = "chunked"
        else:
            headers["Content-Length"] = str(len(body) if fault.announce is None else fault.announce)
        await _send(writer, status, headers | dict(fault.headers))
        if request.method != "HEAD":
            await self._send_body(writer, body + fault.more, fault)

    async def _send_body(self, writer: asyncio.StreamWriter, body: bytes, fault: Fault) -> None:
        end = next((end for end in (fault.cut_after, fault.stall_after) if end is not None), len(body))
        for start in range(0, min(end, len(body)), PIECE):
            piece = body[start : min(start + PIECE, end)]
            writer.write(b"%x\r\n%b\r\n" % (len(piece), piece) if fault.chunked else piece)
            await writer.drain()
        if fault.stall_after is not None:
            self.stalled.set()
            await asyncio.Event().wait()
        if fault.chunked and fault.cut_after is None:
            writer.write(b"0\r\n\r\n")
        if fault.reset:
            await asyncio.sleep(0)
            writer.transport.abort()


@asynccontextmanager
async def running_hub() -> AsyncIterator[Hub]:
    """A hub that listens."""
    hub = Hub()
    tasks: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        with suppress(asyncio.CancelledError):
            await hub.serve(reader, writer)
        writer.transport.abort()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    hub.port = server.sockets[0].getsockname()[1]
    try:
        yield hub
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _parsed(head: str) -> Request:
    first, *lines = head.split("\r\n")
    method, target, _ = first.split(" ")
    parts = urlsplit(target)
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines if line)}
    return Request(method, unquote(parts.path), parts.query, headers)


def _first(request: Request, etag: str, fault: Fault) -> int | None:
    """Where the part begins that is asked for; None where all is to be sent."""
    found = re.fullmatch(r"bytes=(\d+)-", request.range or "")
    condition = request.headers.get("if-range")
    if found is None or fault.ignore_range or condition not in (None, etag, MODIFIED):
        return None
    return int(found[1])


async def _send(writer: asyncio.StreamWriter, status: int, headers: Mapping[str, str], body: bytes = b"") -> None:
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    reason = REASONS.get(status, "Whatever")
    writer.write(f"HTTP/1.1 {status} {reason}\r\n{lines}Connection: close\r\n\r\n".encode() + body)
    await writer.drain()


def _entry(path: str, data: bytes) -> dict[str, Any]:
    blob = hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()
    entry: dict[str, Any] = {"type": "file", "path": path, "size": len(data), "oid": blob}
    if Path(path).suffix in (".gguf", ".safetensors", ".bin"):
        entry["lfs"] = {"oid": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 135}
    return entry
