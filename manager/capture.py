"""Captures: what clients sent and got, kept in memory for administrators who ask for it, without keys and cookies."""

from __future__ import annotations

import codecs
import re
from collections import deque
from collections.abc import Mapping
from typing import Any, Final

from manager.api_key import PREFIX

REDACTED: Final = "[redacted]"
# Beyond the limit of a body, so that no secret is cut in two before it is looked for; no header is as long.
OVERLAP: Final = 8192
# What is shorter is no key, but a word in its place ("none", "ollama") that a text may have for other reasons.
SHORTEST_SECRET: Final = 12
_OUR_KEYS: Final = re.compile(re.escape(PREFIX).encode() + rb"[\w-]{16,}")
# Headers with one of these words in their name hold what is not to be read.
_SECRET_WORDS: Final = frozenset(
    {
        *("apikey", "assertion", "auth", "authorization", "cookie", "cookie2", "credential", "credentials", "jwt"),
        *("key", "password", "secret", "session", "signature", "token"),
    }
)


class Redactor:
    """Takes the secrets of one request out of what is kept of it: its own, and whatever looks like a key of ours."""

    def __init__(self, headers: Mapping[str, str]) -> None:
        """`headers`: those of the request, which hold its secrets."""
        tokens = (value.split()[-1] for name, value in headers.items() if _is_secret(name) and value.strip())
        self._secrets = [_encoded(token) for token in tokens if len(token) >= SHORTEST_SECRET]

    def body(self, data: bytes) -> bytes:
        for secret in self._secrets:
            data = data.replace(secret, REDACTED.encode())
        return _OUR_KEYS.sub(REDACTED.encode(), data)

    def text(self, text: str) -> str:
        return self.body(_encoded(text)).decode(errors="replace")

    def headers(self, headers: Mapping[str, str]) -> dict[str, str]:
        """By name; those that come more than once with commas between."""
        shown: dict[str, str] = {}
        for key, value in headers.items():
            name, text = str(key), self.text(value)  # a name of its own kind would be no key of JSON
            if _is_secret(name) or REDACTED in text:
                shown[name] = REDACTED
            else:
                shown[name] = f"{shown[name]}, {text}" if name in shown else text
        return shown


class Body:
    """The beginning of a body, `most` bytes of it, and its whole `size`."""

    __slots__ = ("_most", "_start", "size")

    def __init__(self, most: int) -> None:
        self._most = most
        self._start = bytearray()
        self.size = 0

    def add(self, data: bytes) -> None:
        left = self._most + OVERLAP - len(self._start)
        if left > 0:
            self._start += data[:left]
        self.size += len(data)

    def close(self, redactor: Redactor) -> None:
        """It is whole: nothing is to be seen of it before."""
        full = len(self._start) == self._most + OVERLAP  # its end may be the beginning of a secret
        shown = redactor.body(bytes(self._start))
        end = min(self._most, len(shown) - OVERLAP) if full else self._most
        self._start = bytearray(shown[: max(0, end)])

    def as_dict(self) -> dict[str, Any]:
        truncated = self.size > self._most
        # Where it is cut, a character that is cut is left out.
        text = codecs.getincrementaldecoder("utf-8")("replace").decode(self._start, final=not truncated)
        return {"body": text, "size": self.size, "truncated": truncated}


class Capture:
    """One request and its answer. Secrets are taken out of it before it is kept, and none stays in it."""

    __slots__ = ("_answer", "_answer_head", "_request", "_request_head", "held")

    def __init__(
        self, method: str, path: str, headers: Mapping[str, str], body: bytes, redactor: Redactor, most: int
    ) -> None:
        """`most`: bytes of each body."""
        self.held = True
        self._request_head: dict[str, Any] = {
            "method": method,
            "path": redactor.text(path),
            "headers": redactor.headers(headers),
        }
        self._answer_head: dict[str, Any] = {"status": None, "headers": {}}
        self._request, self._answer = Body(most), Body(most)
        self._request.add(body)
        self._request.close(redactor)

    def answer_begins(self, status: int, headers: Mapping[str, str], redactor: Redactor) -> None:
        """The head of the answer goes out."""
        if self.held:
            self._answer_head = {"status": status, "headers": redactor.headers(headers)}

    def sent(self, data: bytes) -> None:
        """A part of the answer goes out."""
        if self.held:
            self._answer.add(data)

    def close(self, redactor: Redactor) -> None:
        """The answer is at its end, or was cut off there."""
        self._answer.close(redactor)

    def forget(self) -> None:
        """Nothing of it is kept any more, and nothing more is taken in."""
        self.held = False
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
    """The newest `keep` captures, of requests that run and that have ended; `size`: most bytes of a body."""

    def __init__(self, *, enabled: bool, size: int, keep: int) -> None:
        self.enabled = enabled
        self.size = size
        self.keep = keep
        self._held: deque[Capture] = deque()

    def __len__(self) -> int:
        return sum(capture.held for capture in self._held)

    def begin(self, method: str, path: str, headers: Mapping[str, str], body: bytes) -> Capture:
        """Of a request that came; it is not held yet."""
        return Capture(method, path, headers, body, Redactor(headers), self.size)

    def hold(self, capture: Capture) -> None:
        """Keep it. Beyond `keep` the oldest is forgotten."""
        while len(self._held) >= self.keep:
            self._held.popleft().forget()
        self._held.append(capture)

    def switch(self, on: bool) -> bool:
        """Begin or end capturing; whether that changes anything. Off forgets what there is."""
        changed = self.enabled is not on
        self.enabled = on
        if not on:
            self.forget()
        return changed

    def forget(self) -> None:
        """Forget all that was captured so far, also of requests that still run."""
        for capture in self._held:
            capture.forget()
        self._held.clear()


def _is_secret(name: str) -> bool:
    return not _SECRET_WORDS.isdisjoint(re.split(r"[-_]", name.lower()))


def _encoded(text: str) -> bytes:
    """Header bytes that are no UTF-8 arrive as surrogates."""
    return text.encode("utf-8", "surrogatepass")
