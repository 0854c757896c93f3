"""An answer between who makes it and who reads it: both may be quicker, and both may leave."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import orjson
import pytest
from tokenizers import Tokenizer, decoders, models

from manager.engines import UpstreamResponse
from manager.engines.answer import LocalAnswer, error_answer
from manager.engines.hf.batch.text import Pieces
from manager.engines.hf.generation import Ending, Score, Update
from manager.engines.hf.wire.answers import Head, StreamedAnswer, WholeAnswer
from manager.engines.hf.wire.assembly import Assembly
from manager.engines.hf.wire.unsupported import FieldError
from manager.errors import (
    ContextLengthExceeded,
    EndpointUnsupported,
    GenerationFailed,
    InsufficientMemory,
    InvalidRequest,
    Unavailable,
    UpstreamClosed,
    UpstreamError,
)
from routes import tokens
from routes.errors import from_engine

END = Ending("stop", 3, 0, 1, 0.1, 0.0)
HEAD = Head(chat=True, model="m")


def pieces() -> Pieces:
    tokenizer = Tokenizer(models.BPE({"a": 0}, []))
    tokenizer.decoder = decoders.ByteLevel()
    return Pieces(tokenizer)


class Cancelled:
    """Counts how often the sequences were cancelled."""

    def __init__(self) -> None:
        self.times = 0

    def __call__(self) -> None:
        self.times += 1


async def turn() -> None:
    """Let everybody who can go on do so."""
    for _ in range(5):
        await asyncio.sleep(0)


async def test_an_answer_that_is_there_is_whole_at_once() -> None:
    async with LocalAnswer.ready(404, b"{}") as answer:
        seam: UpstreamResponse = answer
        assert (seam.status, seam.whole, await seam.read()) == (404, b"{}", b"{}")
        assert seam.content_type == seam.headers["content-type"] == "application/json; charset=utf-8"


async def test_entering_waits_for_the_head() -> None:
    answer = LocalAnswer()
    entered = asyncio.create_task(answer.__aenter__())
    await turn()
    assert not entered.done()
    answer.begin()
    assert (await entered).content_type == "text/event-stream"
    assert answer.whole is None


async def test_frames_that_are_there_at_once_are_one_chunk() -> None:
    answer = LocalAnswer()
    answer.begin()
    answer.put(b"data: 1\n\n")
    answer.put(b"data: 2\n\n")
    async with answer:
        chunks = answer.chunks()
        assert await anext(chunks) == b"data: 1\n\ndata: 2\n\n"
        waiting = asyncio.ensure_future(anext(chunks))
        await turn()
        assert not waiting.done()
        answer.put(b"data: 3\n\n")
        assert await waiting == b"data: 3\n\n"
        answer.put(b"data: 4\n\n")
        answer.end()
        assert [chunk async for chunk in chunks] == [b"data: 4\n\n"]


async def test_a_whole_answer_cancels_nothing() -> None:
    cancelled = Cancelled()
    answer = LocalAnswer(cancelled)
    answer.finish(200, b"{}")
    async with answer:
        pass
    assert cancelled.times == 0


async def test_leaving_before_the_end_cancels_once() -> None:
    cancelled = Cancelled()
    answer = LocalAnswer(cancelled)
    answer.begin()
    async with answer:
        assert cancelled.times == 0
    assert cancelled.times == 1
    answer.put(b"data: 1\n\n")  # the sequences are not gone at once
    answer.end()
    assert cancelled.times == 1


async def test_giving_up_while_waiting_for_the_head_cancels() -> None:
    cancelled = Cancelled()
    answer = LocalAnswer(cancelled)
    entering = asyncio.create_task(answer.__aenter__())
    await turn()
    entering.cancel()
    with pytest.raises(asyncio.CancelledError):
        await entering
    assert cancelled.times == 1


async def test_what_came_before_an_engine_broke_is_read_first() -> None:
    cancelled = Cancelled()
    answer = LocalAnswer(cancelled)
    answer.begin()
    answer.put(b"data: 1\n\n")
    answer.break_off("its thread died")
    async with answer:
        chunks = answer.chunks()
        assert await anext(chunks) == b"data: 1\n\n"
        with pytest.raises(UpstreamClosed, match="its thread died"):
            await anext(chunks)
    assert cancelled.times == 1


async def test_an_engine_that_breaks_before_the_head_is_told_of_at_once() -> None:
    answer = LocalAnswer()
    entering = asyncio.create_task(answer.__aenter__())
    await turn()
    answer.break_off("its thread died")
    with pytest.raises(UpstreamClosed, match="its thread died"):
        await entering


async def test_reading_more_than_may_be_is_an_error() -> None:
    async with LocalAnswer.ready(200, b"12345") as answer:
        with pytest.raises(UpstreamError):
            await answer.read(4)


async def test_a_stream_is_handed_on_until_its_end() -> None:
    answer = LocalAnswer()
    assembly = Assembly(answer, StreamedAnswer(HEAD, pieces()))
    assembly.take(0, Update("a"))
    assert (answer.begun, answer.over) == (True, False)
    assembly.take(0, Update("b", end=END))
    assert answer.over
    assembly.take(0, Update("late"))
    async with answer:
        (chunk,) = [chunk async for chunk in answer.chunks()]
    assert chunk.endswith(b"data: [DONE]\n\n")
    assert b"late" not in chunk


async def test_a_whole_answer_comes_with_its_last_choice() -> None:
    answer = LocalAnswer()
    assembly = Assembly(answer, WholeAnswer(HEAD, pieces(), n=2))
    assembly.take(0, Update("a", end=END))
    assert (answer.begun, answer.over) == (False, False)
    assembly.take(1, Update("b", end=END))
    async with answer:
        assert answer.status == 200
        assert [each["message"]["content"] for each in orjson.loads(answer.whole or b"")["choices"]] == ["a", "b"]


class Broken:
    """Deltas that fail at a text, or when the message is asked for."""

    def __init__(self, at: str) -> None:
        self._at = at

    def feed(self, text: str) -> list[dict[str, Any]]:
        if text == self._at:
            raise ValueError("the prompt was: a secret")
        return []

    def end(self) -> tuple[list[dict[str, Any]], str | None]:
        return [], None

    def message(self) -> dict[str, Any]:
        raise ValueError("the prompt was: a secret")


@pytest.mark.parametrize("kind", [WholeAnswer, StreamedAnswer])
async def test_an_answer_that_cant_be_made_is_an_error_and_frees_its_sequences(
    kind: type[WholeAnswer] | type[StreamedAnswer], caplog: pytest.LogCaptureFixture
) -> None:
    cancelled = Cancelled()
    answer = LocalAnswer(cancelled)
    assembly = Assembly(answer, kind(HEAD, pieces(), n=2, deltas=lambda: Broken("b")), "m")
    assembly.take(0, Update("a"))
    assembly.take(1, Update("b"))
    assert cancelled.times == 1
    assembly.take(0, Update("c", end=END))
    async with answer:
        data = await answer.read()
    assert b"The model failed (ValueError)" in data
    assert "ValueError at test_exchange.py:" in caplog.text
    assert "secret" not in caplog.text + data.decode()


@pytest.mark.parametrize("scores", [(), (Score(0, -1.0),)])
async def test_a_whole_answer_that_cant_be_written_is_an_error(scores: tuple[Score, ...]) -> None:
    answer = LocalAnswer()
    Assembly(answer, WholeAnswer(HEAD, pieces(), deltas=lambda: Broken("b"))).take(0, Update("a", scores, END))
    async with answer:
        assert (answer.status, b"ValueError" in await answer.read()) == (500, True)


async def test_scores_are_written_in_a_thread() -> None:
    threads = []

    class Noted(WholeAnswer):
        def body(self) -> bytes:
            threads.append(threading.current_thread())
            return super().body()

    for scores in ((), (Score(0, -1.0),)):
        answer = LocalAnswer()
        Assembly(answer, Noted(HEAD, pieces())).take(0, Update("a", scores, END))
        assert answer.over == (not scores)
        async with answer:
            assert orjson.loads(await answer.read())["choices"][0]["message"]["content"] == "a"
    assert [thread is threading.current_thread() for thread in threads] == [True, False]


async def test_leaving_while_scores_are_written_is_fine() -> None:
    going, cancelled = threading.Event(), Cancelled()

    class Slow(WholeAnswer):
        def body(self) -> bytes:
            assert going.wait(10)
            return super().body()

    answer = LocalAnswer(cancelled)
    assembly = Assembly(answer, Slow(HEAD, pieces()))
    assembly.take(0, Update("a", (Score(0, -1.0),), END))
    entering = asyncio.create_task(answer.__aenter__())
    await turn()
    entering.cancel()
    with pytest.raises(asyncio.CancelledError):
        await entering
    going.set()
    assert assembly.writing is not None
    await assembly.writing
    await turn()
    assert (answer.begun, cancelled.times) == (False, 1)


async def test_an_error_before_the_head_is_the_answer() -> None:
    cancelled = Cancelled()
    answer = LocalAnswer(cancelled)
    assembly = Assembly(answer, StreamedAnswer(HEAD, pieces(), n=2))
    assembly.take(0, Update(error=GenerationFailed("no memory")))
    assert cancelled.times == 1  # the other choice
    async with answer:
        assert answer.status == 500
        assert orjson.loads(await answer.read())["error"] == {
            "code": 500,
            "message": "no memory",
            "type": "server_error",
        }
    assert cancelled.times == 1


async def test_an_error_within_a_stream_is_its_last_frame() -> None:
    cancelled = Cancelled()
    answer = LocalAnswer(cancelled)
    assembly = Assembly(answer, StreamedAnswer(HEAD, pieces(), n=2))
    assembly.take(0, Update("a"))
    assembly.take(1, Update(error=GenerationFailed("no memory")))
    assembly.take(0, Update("late", end=END))
    async with answer:
        data = await answer.read()
    last = data.removesuffix(b"\n\n").rpartition(b"\n\n")[2]
    assert orjson.loads(last.removeprefix(b"data: "))["error"]["message"] == "no memory"
    assert last.startswith(b'data: {"error"')  # by which the service knows it
    assert tokens._ERROR in data
    assert cancelled.times == 1


async def test_an_engine_that_ends_in_a_stream_breaks_it_off() -> None:
    answer = LocalAnswer()
    assembly = Assembly(answer, StreamedAnswer(HEAD, pieces()))
    assembly.take(0, Update("a"))
    assembly.take(0, Update(error=UpstreamClosed("the model was unloaded")))
    async with answer:
        with pytest.raises(UpstreamClosed):
            await answer.read()


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (FieldError("top_k", "must be an integer"), InvalidRequest),
        (ContextLengthExceeded("too long"), ContextLengthExceeded),
        (EndpointUnsupported("no images"), EndpointUnsupported),
        (Unavailable("full"), Unavailable),
        (InsufficientMemory("full"), InsufficientMemory),
        (GenerationFailed("no memory"), GenerationFailed),
        (RuntimeError("a prompt"), GenerationFailed),
    ],
)
def test_errors_come_out_of_the_service_as_they_went_in(error: Exception, expected: type) -> None:
    status, body = error_answer(error)
    assert orjson.loads(body)["error"]["code"] == status
    assert type(from_engine(status, body, "m")) is expected


def test_a_field_that_no_path_here_honours_is_named_by_the_service() -> None:
    status, body = error_answer(EndpointUnsupported("It takes no images.", param="messages"))
    error = from_engine(status, body, "m")
    assert (error.code, error.param) == ("endpoint_not_supported", "messages")


def test_what_an_unforeseen_error_says_is_not_told() -> None:
    assert b"a prompt" not in error_answer(RuntimeError("a prompt"))[1]


def test_a_field_at_fault_is_named() -> None:
    assert orjson.loads(error_answer(FieldError("top_k", "must be an integer"))[1])["error"] == {
        "code": 400,
        "message": "'top_k' must be an integer.",
        "type": "invalid_request_error",
        "param": "top_k",
    }
