"""What happens to a service under duress, and what its clients see: noted under ids that its log has too."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from random import Random
from typing import Any, Final

import aiohttp
import openai
from openai import AsyncOpenAI

from tests.e2e.service import Service

CHAT: Final = "/v1/chat/completions"
LENIENT: Final = "/chat/completions"
ASK: Final = "/chat/ask"
MODELS: Final = ("alpha", "beta", "gamma")
PERSONALITY: Final = "pirate"


@dataclass
class Call:
    """One request and what its client saw. Times are of time.monotonic.

    `route`: the pattern that counts in the metrics. `status` is of the head, None where none came; `code` that of an
    error, also of one within a stream. `left`: the client went before the end. `fault`: what no client should see.
    """

    id: str
    kind: str
    method: str
    route: str
    model: str | None
    began: float
    first: float | None = None
    ended: float = 0.0
    status: int | None = None
    code: str | None = None
    message: str = ""
    tokens: int | None = None
    left: bool = False
    fault: str = ""

    @property
    def answered(self) -> bool:
        """Whether it got all that it asked for."""
        return self.status == 200 and self.code is None and not self.left and not self.fault

    @property
    def waited(self) -> float:
        """Seconds until the answer began, or ended."""
        return (self.first or self.ended) - self.began

    def failed(self, error: Any) -> None:
        """Take the error of an answer or of a frame: ours, the plain one of the original's routes, or an engine's."""
        if isinstance(error, str):
            self.code, self.message = "plain", error
        else:
            self.code, self.message = str(error.get("code")), str(error.get("message"))


@dataclass
class Story:
    """All that happened, for the rules at the end and for whoever has to find out why one was broken."""

    seed: int
    seconds: float
    began: float = field(default_factory=time.monotonic)
    calls: list[Call] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    kills: list[float] = field(default_factory=list)
    removals: list[tuple[float, float]] = field(default_factory=list)
    cancelled: dict[str, float] = field(default_factory=dict)
    # By its name, what is compared at the end.
    seen: dict[str, Any] = field(default_factory=dict)

    def note(self, text: str) -> None:
        self.lines.append(f"{time.monotonic() - self.began:8.3f} {text}")

    def fault(self, text: str) -> None:
        """A rule is broken."""
        self.note(f"FAULT {text}")
        self.faults.append(text)

    @contextlib.contextmanager
    def calling(
        self, who: str, kind: str, route: str, model: str | None = None, *, method: str = "POST"
    ) -> Iterator[Call]:
        """A call, from its begin to whatever its end is. Errors of the way there are faults, not exceptions."""
        call = Call(f"{who}-{len(self.calls)}", kind, method, route, model, time.monotonic())
        self.calls.append(call)
        try:
            yield call
        except (aiohttp.ClientError, openai.APIConnectionError, TimeoutError, ConnectionError, ValueError) as error:
            if not call.left:
                call.fault = repr(error)
        finally:
            call.ended = time.monotonic()
            self.note(
                f"{call.id} {kind} {model} {call.status} {call.code or ''} {call.ended - call.began:.2f} s"
                f"{' left' if call.left else ''} {call.fault} {call.message[:120]}"
            )


@dataclass
class World:
    """What clients need. `until`: when they ask for nothing more (time.monotonic)."""

    service: Service
    story: Story
    until: float
    http: aiohttp.ClientSession
    slow: aiohttp.ClientSession
    openai: AsyncOpenAI

    @property
    def goes_on(self) -> bool:
        return time.monotonic() < self.until

    async def pause(self, seconds: float) -> bool:
        """Sleep, at most until the end; whether it goes on after that."""
        await asyncio.sleep(max(0.0, min(seconds, self.until - time.monotonic())))
        return self.goes_on


@contextlib.asynccontextmanager
async def world_of(service: Service, story: Story, patience: float) -> AsyncIterator[World]:
    """Clients of a service: no answer takes longer than `patience`."""
    headers = {"Authorization": f"Bearer {service.key}"}
    limit = aiohttp.ClientTimeout(total=patience)
    narrow = aiohttp.TCPConnector(socket_factory=_narrow_socket, force_close=True)
    async with (
        aiohttp.ClientSession(
            service.url, headers=headers, timeout=limit, connector=aiohttp.TCPConnector(limit=0)
        ) as http,
        aiohttp.ClientSession(service.url, headers=headers, timeout=limit, connector=narrow) as slow,
        AsyncOpenAI(base_url=service.openai_url, api_key=service.key, max_retries=0, timeout=patience) as official,
    ):
        yield World(service, story, time.monotonic() + story.seconds, http, slow, official)


def _narrow_socket(info: Any) -> socket.socket:
    """One that takes little before its sender has to wait."""
    family, kind, protocol, *_ = info
    made = socket.socket(family, kind, protocol)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    made.setblocking(False)
    return made


def dice(seed: int, whose: str) -> Random:
    """Everybody has dice of his own: what he does does not depend on when others did what they do."""
    return Random(f"{seed} {whose}")


async def read_whole(call: Call, answer: aiohttp.ClientResponse) -> None:
    """Take an answer in JSON; what is neither an answer nor an error is a fault."""
    call.status = answer.status
    payload = json.loads(await answer.read())
    if "error" in payload:
        call.failed(payload["error"])
        if answer.status == 200:
            call.fault = "an error under the status 200"
    elif answer.status != 200:
        call.fault = f"status {answer.status} without an error"
    elif "choices" in payload:
        call.tokens = payload["usage"]["completion_tokens"]
        if not isinstance(payload["choices"][0]["message"]["content"], str) or not call.tokens:
            call.fault = "an answer without a text"
