"""From the stream of a chat to the events of Anthropic's API."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any, Final

from pydantic import BaseModel, ConfigDict

from manager.errors import HerdError
from routes import sse
from routes.anthropic.answer import call_id, envelope, stop_reason, usage_of
from routes.errors import anthropic_error

PING: Final = sse.event_frame("ping", {"type": "ping"})


class StreamEvent(BaseModel):
    """`type` is also the name of the event: message_start, content_block_start, content_block_delta and so on."""

    model_config = ConfigDict(extra="allow")

    type: str


def ping(text: str) -> bytes:
    """Clients skip these, also before a message has begun. `text` is a comment on it."""
    return b": " + text.encode() + b"\n" + PING


def failure(error: HerdError) -> bytes:
    """The last event of a stream that fails."""
    return sse.event_frame("error", anthropic_error(error))


async def events_of(chunks: AsyncIterator[bytes], *, model: str = "", thinking: bool = True) -> AsyncIterator[bytes]:
    """The events of an answer; `thinking`: whether they show what the model thought.

    Raises HerdError where the engine tells of an error or breaks off.
    """
    message = Message(thinking)
    async for chunk in sse.chunks_of(chunks, model):
        frames = b"".join(message.take(chunk))
        if frames:
            yield frames
    yield b"".join(message.end())


class Message:
    """A message in the making. Its blocks come one after the other: one for each kind of content, and for each call."""

    def __init__(self, thinking: bool) -> None:
        self._thinking = thinking
        self._begun = False
        self._kind = ""  # of the block that is open
        self._block = -1  # its index
        self._calls: dict[int, int] = {}  # the index of each call's block
        self._finish: str | None = None
        self._usage: dict[str, Any] | None = None

    def take(self, chunk: dict[str, Any]) -> Iterator[bytes]:
        """The events of one chunk of the engine's stream."""
        if not self._begun:
            self._begun = True
            yield _event("message_start", message=envelope(chunk, [], None, usage_of(None)))
        self._usage = chunk.get("usage") or self._usage
        for choice in chunk.get("choices") or ():
            yield from self._take_delta(choice.get("delta") or {})
            self._finish = choice.get("finish_reason") or self._finish

    def end(self) -> Iterator[bytes]:
        """The events after the last chunk."""
        if not self._begun:
            yield from self.take({})
        yield from self._close()
        reason = stop_reason(self._finish, called=bool(self._calls))
        delta = {"stop_reason": reason, "stop_sequence": None}
        yield _event("message_delta", delta=delta, usage=usage_of(self._usage))
        yield _event("message_stop")

    def _take_delta(self, delta: dict[str, Any]) -> Iterator[bytes]:
        if self._thinking and (thought := delta.get("reasoning_content")):
            yield from self._open("thinking", {"thinking": "", "signature": ""})
            yield self._delta("thinking_delta", thinking=thought)
        if text := delta.get("content"):
            yield from self._open("text", {"text": ""})
            yield self._delta("text_delta", text=text)
        for call in delta.get("tool_calls") or ():
            yield from self._take_call(call)

    def _take_call(self, call: dict[str, Any]) -> Iterator[bytes]:
        number, function = call.get("index") or 0, call.get("function") or {}
        if number not in self._calls:
            yield from self._close()
            block: dict[str, Any] = {"id": call_id(call.get("id")), "name": function.get("name") or "", "input": {}}
            yield from self._open("tool_use", block)
            self._calls[number] = self._block
        if arguments := function.get("arguments"):
            yield self._delta("input_json_delta", self._calls[number], partial_json=arguments)

    def _open(self, kind: str, block: dict[str, Any]) -> Iterator[bytes]:
        """Begin a block, unless one of this kind is open."""
        if self._kind == kind:
            return
        yield from self._close()
        self._kind = kind
        self._block += 1
        yield _event("content_block_start", index=self._block, content_block={"type": kind, **block})

    def _close(self) -> Iterator[bytes]:
        if self._kind == "thinking":
            yield self._delta("signature_delta", signature="")
        if self._kind:
            yield _event("content_block_stop", index=self._block)
        self._kind = ""

    def _delta(self, kind: str, index: int | None = None, **content: str) -> bytes:
        place = self._block if index is None else index
        return _event("content_block_delta", index=place, delta={"type": kind, **content})


def _event(kind: str, **fields: Any) -> bytes:
    return sse.event_frame(kind, {"type": kind, **fields})
