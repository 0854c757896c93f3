"""The seam between a model's life and the way it runs. Routes and pool know engines by this protocol only."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from manager.errors import UpstreamError

if TYPE_CHECKING:  # engines import this in their children too, where asyncio would only cost time
    from manager.logbuf import LogBuffer


@dataclass(slots=True)
class UpstreamRequest:
    """One request to an engine. `path` is as llama-server names it; `body` is sent byte for byte."""

    method: str
    path: str
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)


async def read_whole(chunks: AsyncIterator[bytes], limit: int) -> bytes:
    """All that comes; UpstreamError where it is more than `limit` bytes."""
    pieces: list[bytes] = []
    size = 0
    async for chunk in chunks:
        size += len(chunk)
        if size > limit:
            raise UpstreamError(f"The engine's answer is longer than {limit} bytes.")
        pieces.append(chunk)
    return b"".join(pieces)


class UpstreamResponse(Protocol):
    """An answer whose head has arrived; its body may still be on the way."""

    @property
    def status(self) -> int: ...

    @property
    def headers(self) -> Mapping[str, str]:
        """Names in lower case, hop-by-hop headers included. Made anew at each call."""

    @property
    def content_type(self) -> str:
        """As the engine gave it; empty where it gave none."""

    @property
    def whole(self) -> bytes | None:
        """The body, where all of it has arrived already; else None, and `chunks` brings it."""

    def chunks(self) -> AsyncIterator[bytes]:
        """The body as it arrives. Raises UpstreamClosed where it ends before it is whole."""

    async def read(self, limit: int = 64 * 1024 * 1024) -> bytes:
        """The whole body; UpstreamError where it is longer than `limit` bytes."""


@dataclass(frozen=True, slots=True)
class EngineExit:
    """Why an engine ended without being asked. `code` is negative for a signal, as in subprocess."""

    reason: str
    code: int | None = None


@dataclass(frozen=True, slots=True)
class Activity:
    """Signs of work. `cpu`: the CPU seconds used so far.

    `heard_at`: now (time.monotonic), less the seconds for which a byte was due in vain: to the request that has waited
    longest for its next one, and to those before it that were given up since the body of any answer got a byte.
    """

    heard_at: float
    cpu: float


class Engine(Protocol):
    """How one model runs. Used for one life: start, then wait_exit or stop; a new life is a new engine."""

    log: LogBuffer
    pid: int | None
    progress: float | None  # how much of it is loaded, 0 to 1; None where that can't be told

    async def start(self) -> None:
        """Return when inference works. Raises LoadFailed with the reason. Cancelling leaves cleaning up to stop()."""

    async def wait_exit(self) -> EngineExit:
        """Block until the running engine ends by itself."""

    async def stop(self, *, force: bool = False) -> None:
        """Free everything: process group, socket, memory. From any state, by many at once; never raises.

        `force`: it hangs; nothing is saved, and it is not asked but ended.
        """

    async def answers(self) -> bool:
        """Whether it says in good time that it is well. Asks nothing that inference in progress could hold up."""

    async def activity(self) -> Activity:
        """Signs of work, to tell one that computes from one that hangs."""

    async def measure(self) -> Mapping[str, int]:
        """Bytes that it takes now by device ("host", "gpu0", …); empty where that can't be told."""

    async def metrics(self) -> bytes | None:
        """Its own metrics in Prometheus' text form; None where it has none or does not answer in good time."""

    def open(self, request: UpstreamRequest) -> AbstractAsyncContextManager[UpstreamResponse]:
        """Send a request; entering waits for the head of the answer, leaving closes what is unfinished.

        Raises UpstreamConnectError where nothing could be sent, UpstreamClosed where the answer broke off. Any other
        HerdError below 500, or with 503, is the client's answer.
        """
