"""The response as a stream: events made of the chunks of a chat."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from typing import Any

from manager.errors import HerdError, UpstreamError
from manager.short_answers import error_object
from routes import sse
from routes.responses import answer
from routes.responses.chat_body import Chat
from routes.responses.request import ResponseRequest


class OpenItem:
    """An item of the output that still grows. `piece` is what the events call a piece of it."""

    def __init__(self, item: answer.Item, index: int, piece: str) -> None:
        self.item = item
        self.index = index
        self.piece = piece
        self.pieces: list[str] = []
        self.scores: list[dict[str, Any]] = []

    @property
    def place(self) -> dict[str, Any]:
        """Where in the output it is, as its events tell it."""
        place = {"item_id": self.item["id"], "output_index": self.index}
        return place if self.item["type"] == "function_call" else {**place, "content_index": 0}

    def closed(self) -> answer.Item:
        """The item with all that came."""
        text, item = "".join(self.pieces), self.item
        match item["type"]:
            case "message":
                return answer.message_item(item["id"], text, self.scores)
            case "reasoning":
                return answer.reasoning_item(item["id"], text)
        return answer.call_item(item["id"], item["call_id"], item["name"], text)


class ResponseStream:
    """The events of one response. `body` gives the chat as it was asked, which is known when an answer comes."""

    def __init__(self, asked: ResponseRequest, chat: Chat, body: Callable[[], Mapping[str, Any]]) -> None:
        self._asked = asked
        self._chat = chat
        self._body = body
        self._sent = 0
        self._response: dict[str, Any] | None = None
        self._output: list[answer.Item] = []
        self._open: OpenItem | None = None
        self._call: int | None = None  # the chat's number of the call that is open, or was last
        self._finish: str | None = None
        self._report: dict[str, Any] = {}

    async def reframe(self, chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        """The events of the engine's stream. Raises HerdError where it tells of an error or breaks off."""
        async for chunk in sse.chunks_of(chunks, self._asked.model or ""):
            for event in self._events_of(chunk):
                yield event
        for event in self._end():
            yield event

    def failed(self, error: HerdError) -> bytes:
        """The last events of a stream that fails: one that makes clients raise, and the response as it is then."""
        error = self._chat.in_its_words(error)
        events = list(self._begin(None))
        told = {"code": error.code, "message": error.message, "param": error.param}
        events.append(self._event("error", **told, **error_object(error)))
        if self._open is not None:
            self._output.append({**self._open.closed(), "status": "incomplete"})
        error_of = {"code": answer.error_code(error.status), "message": error.message}
        failed = {"status": "failed", "error": error_of, "output": self._output}
        events.append(self._event("response.failed", response={**self._begun, **failed}))
        return b"".join(events)

    @property
    def _begun(self) -> dict[str, Any]:
        return self._response or {}

    def _event(self, kind: str, **fields: Any) -> bytes:
        event = sse.event_frame(kind, {"type": kind, "sequence_number": self._sent, **fields})
        self._sent += 1
        return event

    def _begin(self, model: str | None) -> Iterator[bytes]:
        if self._response is None:
            self._response = answer.begun(self._asked, model or self._asked.model or "", self._body())
            yield self._event("response.created", response=self._response)
            yield self._event("response.in_progress", response=self._response)

    def _events_of(self, chunk: Mapping[str, Any]) -> Iterator[bytes]:
        yield from self._begin(chunk.get("model"))
        self._report |= {name: chunk[name] for name in ("usage", "timings") if chunk.get(name)}
        for choice in chunk.get("choices") or ():
            delta = choice.get("delta") or {}
            if thought := delta.get("reasoning_content"):
                yield from self._grow("reasoning", thought)
            if text := delta.get("content"):
                yield from self._grow("message", text, answer.scores_of(self._asked, choice))
            for call in delta.get("tool_calls") or ():
                yield from self._grow_call(call)
            self._finish = choice.get("finish_reason") or self._finish

    def _grow(self, kind: str, text: str, scores: list[dict[str, Any]] | None = None) -> Iterator[bytes]:
        """A piece of a text; it begins an item where another one is open."""
        if self._open is None or self._open.item["type"] != kind:
            yield from self._close()
            yield from self._add_text(kind)
        grown = self._open
        assert grown is not None  # noqa: S101  it was there, or was added
        grown.pieces.append(text)
        grown.scores += scores or ()
        more = {} if kind == "reasoning" else {"logprobs": scores or []}
        yield self._event(f"response.{grown.piece}.delta", **grown.place, delta=text, **more)

    def _grow_call(self, call: Mapping[str, Any]) -> Iterator[bytes]:
        """A piece of a call; its first one has the name. Calls come one after the other."""
        number, function = call.get("index", 0), call.get("function") or {}
        if self._open is None or self._open.item["type"] != "function_call" or number != self._call:
            if not function.get("name"):
                raise UpstreamError("The engine began a call of a tool without its name.")
            yield from self._close()
            self._call = number
            item = answer.call_item(answer.new_id("fc"), call.get("id") or answer.new_id("call"), function["name"], "")
            yield self._add(item, "function_call_arguments")
        grown = self._open
        assert grown is not None  # noqa: S101  it was there, or was added
        if arguments := function.get("arguments"):
            grown.pieces.append(arguments)
            yield self._event("response.function_call_arguments.delta", **grown.place, delta=arguments)

    def _add(self, item: answer.Item, piece: str) -> bytes:
        self._open = OpenItem(item, len(self._output), piece)
        return self._event(
            "response.output_item.added", output_index=self._open.index, item={**item, "status": "in_progress"}
        )

    def _add_text(self, kind: str) -> Iterator[bytes]:
        if kind == "message":
            item, piece = answer.message_item(answer.new_id("msg"), "", ()), "output_text"
        else:
            item, piece = answer.reasoning_item(answer.new_id("rs"), ""), "reasoning_text"
        (part,) = item["content"]
        yield self._add({**item, "content": []}, piece)
        assert self._open is not None  # noqa: S101  it was just added
        yield self._event("response.content_part.added", **self._open.place, part=part)

    def _close(self, status: str = "completed") -> Iterator[bytes]:
        """Close the item that is open, if one is."""
        if self._open is None:
            return
        done, self._open = self._open, None
        item = {**done.closed(), "status": status}
        self._output.append(item)
        if item["type"] == "function_call":
            told = {"name": item["name"], "arguments": item["arguments"]}
            yield self._event("response.function_call_arguments.done", **done.place, **told)
        else:
            (part,) = item["content"]
            more = {"logprobs": done.scores} if item["type"] == "message" else {}
            yield self._event(f"response.{done.piece}.done", **done.place, text=part["text"], **more)
            yield self._event("response.content_part.done", **done.place, part=part)
        yield self._event("response.output_item.done", output_index=done.index, item=item)

    def _end(self) -> Iterator[bytes]:
        yield from self._begin(None)
        if not self._output and self._open is None:
            yield from self._add_text("message")
        status = answer.status_of(self._finish)
        yield from self._close(status)
        response = answer.ended(self._begun, self._output, self._finish, self._report)
        yield self._event(f"response.{status}", response=response)
