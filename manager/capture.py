"""Captures: what clients sent and got, kept in memory for administrators who ask for it, without its secrets."""

from __future__ import annotations

import asyncio
import codecs
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any, Final

from manager.redaction import Redactor

# Beyond the limit of a body, so that no secret is cut in two before it is looked for; no header is as long.
OVERLAP: Final = 8192
# Bytes that are redacted at once, in less than a millisecond; more are left to a thread.
AT_ONCE: Final = 16 * 1024


class Body:
    """The beginning of a body, `most` bytes of it, and its whole `size`."""

    __slots__ = ("_most", "_raw", "_redacting", "_shown", "size")

    def __init__(self, most: int) -> None:
        self._most = most
        self._raw = bytearray()
        self._shown = b""
        self._redacting: asyncio.Future[None] | None = None
        self.size = 0

    def add(self, data: bytes) -> None:
        left = self._most + OVERLAP - len(self._raw)
        if left > 0:
            self._raw += data[:left]
        self.size += len(data)

    def close(self, redactor: Redactor) -> None:
        """It is whole. Nothing is to be seen of it before it is redacted; a large one is by a thread, see `settled`."""
        if len(self._raw) <= AT_ONCE:
            self._redact(redactor)
        else:
            self._redacting = asyncio.get_running_loop().run_in_executor(None, self._redact, redactor)

    async def settled(self) -> None:
        """Until it can be seen."""
        if self._redacting is not None:
            await asyncio.wait({self._redacting})  # which leaves it alone where who waits is cancelled

    def _redact(self, redactor: Redactor) -> None:
        full = len(self._raw) == self._most + OVERLAP  # its end may be the beginning of a secret
        shown = redactor.body(bytes(self._raw))
        end = min(self._most, len(shown) - OVERLAP) if full else self._most
        self._raw = bytearray()
        self._shown = shown[: max(0, end)]

    def as_dict(self) -> dict[str, Any]:
        truncated = self.size > self._most
        # Where it is cut, a character that is cut is left out.
        text = codecs.getincrementaldecoder("utf-8")("replace").decode(self._shown, final=not truncated)
        return {"body": text, "size": self.size, "truncated": truncated}


class Capture:
    """One request and its answer; it is `held` until it is forgotten. No secret of it stays in it.

    `begun`: the head of an answer has gone out.
    """

    __slots__ = ("_among", "_answer", "_answer_head", "_request", "_request_head", "begun")

    def __init__(self, head: dict[str, Any], request: Body, most: int, among: OrderedDict[Capture, None]) -> None:
        """`most`: bytes of the answer's body; `among`: all that are held."""
        self._request_head, self._request = head, request
        self._answer_head, self._answer = _answer_head(None, {}), Body(most)
        self._among = among
        self.begun = False
        among[self] = None

    @property
    def held(self) -> bool:
        return self in self._among

    def answer_begins(self, status: int, headers: Mapping[str, str], redactor: Redactor) -> None:
        """The head of the answer goes out."""
        if self.held:
            self._answer_head = _answer_head(status, redactor.headers(headers))
            self.begun = True

    def sent(self, data: bytes) -> None:
        """A part of the answer goes out."""
        if self.held:
            self._answer.add(data)

    def answer_ends(self, redactor: Redactor, *, cut_off: bool = False) -> None:
        """Nothing more goes out. `cut_off`: though the answer was not whole."""
        if self.held:
            self._answer_head["cut_off"] = cut_off
            self._answer.close(redactor)

    async def settled(self) -> None:
        """Until all that is there can be told."""
        await self._request.settled()
        await self._answer.settled()

    def forget(self) -> None:
        """Nothing of it is kept any more, and nothing more is taken in."""
        self._among.pop(self, None)
        self._request_head, self._answer_head = {}, {}
        self._request, self._answer = Body(0), Body(0)

    def as_dict(self) -> dict[str, Any] | None:
        """None where it is forgotten. The status is null where the client left before there was an answer."""
        if not self.held:
            return None
        return {
            "request": {**self._request_head, **self._request.as_dict()},
            "answer": {**self._answer_head, **self._answer.as_dict()},
        }


class Captures:
    """The newest `keep` captures, of requests that run and that have ended; `size`: most bytes of a body.

    `generation` counts how often all of them were forgotten: what was read before is not to be held after it.
    """

    def __init__(self, *, enabled: bool, size: int, keep: int) -> None:
        self.enabled = enabled
        self.size = size
        self.keep = keep
        self.generation = 0
        self._held: OrderedDict[Capture, None] = OrderedDict()

    def __len__(self) -> int:
        return len(self._held)

    def hold(self, method: str, path: str, headers: Mapping[str, str], body: bytes, redactor: Redactor) -> Capture:
        """Keep a request that came. Beyond `keep` the oldest is forgotten."""
        while len(self._held) >= self.keep:
            next(iter(self._held)).forget()
        head = {"method": method, "path": redactor.path(path), "headers": redactor.headers(headers)}
        came = Body(self.size)
        came.add(body)
        came.close(redactor)
        return Capture(head, came, self.size, self._held)

    def switch(self, on: bool) -> bool:
        """Begin or end capturing; whether that changes anything. Off forgets what there is."""
        changed = self.enabled is not on
        self.enabled = on
        if not on:
            self.forget()
        return changed

    def forget(self) -> None:
        """Forget all that was captured so far, also of requests that still run."""
        self.generation += 1
        for capture in tuple(self._held):
            capture.forget()


def _answer_head(status: int | None, headers: dict[str, str]) -> dict[str, Any]:
    return {"status": status, "headers": headers, "cut_off": False}
