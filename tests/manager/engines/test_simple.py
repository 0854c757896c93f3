"""SimpleEngine: what becomes of an author's pieces, errors and faults."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncGenerator, Callable
from pathlib import Path
from typing import Any

import orjson
import pytest

from manager.engines import Engine, UpstreamRequest
from manager.engines import simple as simple_module
from manager.engines.answer import LocalAnswer
from manager.engines.simple import SIMPLE_PATHS, Body, SimpleEngine, text_of
from manager.engines.simple_chat import ChatAnswer
from manager.entry import ModelEntry, ModelParams
from manager.errors import (
    HerdError,
    InvalidRequest,
    LoadFailed,
    ModelNotFound,
    PermissionDenied,
    RateLimited,
    Unavailable,
    UpstreamClosed,
    UpstreamConnectError,
    UpstreamTimeout,
)
from manager.watchdog import until_hung
from tests.test_layers import imports_of

Answers = Callable[[Body], AsyncGenerator[str, None]]
SECRET = "a prompt that nobody else may read"
HELLO = [{"role": "user", "content": SECRET}]


async def three(_: Body) -> AsyncGenerator[str, None]:
    for piece in ("a", "b", "c"):
        yield piece


async def nothing(_: Body) -> AsyncGenerator[str, None]:
    no_pieces: tuple[str, ...] = ()
    for piece in no_pieces:
        yield piece


class Own(SimpleEngine):
    fields = frozenset({"seed"})

    def __init__(self, answers: Answers = three, window: int | None = None, **params: Any) -> None:
        super().__init__(ModelEntry("m", Path("a"), ModelParams(model="a", **params), engine="own"))
        self._answers = answers
        self.window = window
        self.unloads = 0

    def answer(self, body: Body) -> AsyncGenerator[str, None]:
        return self._answers(body)

    def count(self, text: str) -> int:
        return len(text.split())

    async def unload(self) -> None:
        self.unloads += 1


def chat(**body: Any) -> UpstreamRequest:
    return UpstreamRequest("POST", "/v1/chat/completions", orjson.dumps({"messages": HELLO, **body}))


async def whole(engine: Engine, request: UpstreamRequest) -> tuple[int, dict[str, Any]]:
    async with engine.open(request) as answer:
        return answer.status, orjson.loads(await answer.read())


async def streamed(engine: Engine, **body: Any) -> list[Any]:
    """The values of its events, [DONE] as a string."""
    async with engine.open(chat(stream=True, **body)) as answer:
        assert (answer.status, answer.content_type) == (200, "text/event-stream")
        frames = (await answer.read()).decode().removesuffix("\n\n").split("\n\n")
    values = [frame.removeprefix("data: ") for frame in frames]
    return [value if value == "[DONE]" else orjson.loads(value) for value in values]


def is_engine(engine: Engine) -> Engine:
    """Held by mypy to the protocol."""
    return engine


# answers


async def test_pieces_become_an_answer_with_what_it_took() -> None:
    status, answer = await whole(is_engine(Own()), chat(model="as-asked"))
    assert (status, answer["object"], answer["model"]) == (200, "chat.completion", "as-asked")
    assert answer["choices"] == [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "abc"},
            "logprobs": None,
            "finish_reason": "stop",
        }
    ]
    assert answer["usage"] == {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}
    assert (answer["timings"]["prompt_n"], answer["timings"]["predicted_n"]) == (7, 3)
    assert (await whole(Own(), chat()))[1]["model"] == "m"


async def test_pieces_are_streamed_one_by_one_and_end_with_a_report() -> None:
    *chunks, last, done = await streamed(Own())
    assert [chunk["choices"][0]["delta"] for chunk in chunks] == [
        {"role": "assistant", "content": ""},
        {"content": "a"},
        {"content": "b"},
        {"content": "c"},
    ]
    assert (last["choices"][0]["finish_reason"], last["timings"]["predicted_n"], done) == ("stop", 3, "[DONE]")
    assert "usage" not in last
    *_, usage, done = await streamed(Own(), stream_options={"include_usage": True})
    assert (usage["choices"], usage["usage"]["total_tokens"], done) == ([], 10, "[DONE]")


async def test_a_piece_is_out_before_the_next_one_is_made() -> None:
    go_on = asyncio.Event()

    async def halting(_: Body) -> AsyncGenerator[str, None]:
        yield "first"
        await go_on.wait()
        yield "second"

    async with Own(halting).open(chat(stream=True)) as answer:
        chunks = aiter(answer.chunks())
        seen = b""
        while b"first" not in seen:
            seen += await anext(chunks)
        assert b"second" not in seen
        go_on.set()
        rest = b"".join([chunk async for chunk in chunks])
        assert b"second" in rest


async def test_no_pieces_are_an_empty_answer() -> None:
    assert (await whole(Own(nothing), chat()))[1]["choices"][0]["message"]["content"] == ""
    role, last, done = await streamed(Own(nothing))
    assert (role["choices"][0]["delta"]["role"], last["choices"][0]["finish_reason"], done) == (
        "assistant",
        "stop",
        "[DONE]",
    )


@pytest.mark.parametrize(
    ("body", "params", "text", "reason"),
    [
        ({"max_tokens": 2}, {}, "ab", "length"),
        ({"max_tokens": 0}, {}, "", "length"),
        ({"max_tokens": 9}, {}, "abc", "stop"),
        ({"max_tokens": 9, "max_completion_tokens": 1}, {}, "a", "length"),
        ({"max_tokens": -1}, {"n_predict": 1}, "abc", "stop"),
        ({}, {"n_predict": 1}, "a", "length"),
        ({}, {"n_predict": -1}, "abc", "stop"),
        ({}, {"window": 9}, "ab", "length"),
    ],
)
async def test_an_answer_is_as_long_as_request_entry_and_window_let_it(
    body: dict[str, Any], params: dict[str, Any], text: str, reason: str
) -> None:
    choice = (await whole(Own(**params), chat(**body)))[1]["choices"][0]
    assert (choice["message"]["content"], choice["finish_reason"]) == (text, reason)


async def test_a_prompt_that_fills_the_window_is_refused() -> None:
    status, answer = await whole(Own(window=7), chat())
    assert (status, answer["error"]["type"]) == (400, "exceed_context_size_error")
    assert answer["error"]["message"] == "The prompt has 7 tokens; the window is 7."


# fields


@pytest.mark.parametrize(
    "body",
    [
        {"temperature": None, "seed": 3, "user": "me", "n": 1, "stop": [], "tools": [], "tool_choice": "auto"},
        {"response_format": {"type": "text"}, "logprobs": False, "metadata": {"a": "b"}},
    ],
)
async def test_what_is_honoured_or_asks_for_nothing_is_taken(body: dict[str, Any]) -> None:
    assert (await whole(Own(), chat(**body)))[0] == 200


@pytest.mark.parametrize("body", [{"temperature": 1}, {"n": 2}, {"stop": ["x"]}, {"tool_choice": "required"}])
async def test_any_other_field_is_refused_by_name(body: dict[str, Any]) -> None:
    (name,) = body
    status, answer = await whole(Own(), chat(**body))
    assert (status, answer["error"]["param"]) == (400, name)
    assert f"'{name}' is not supported" in answer["error"]["message"]


def test_the_text_of_a_message_is_that_of_all_its_parts() -> None:
    parts = [{"type": "text", "text": "a "}, {"type": "text", "text": "b"}]
    assert [text_of({"content": content}) for content in ("x", None, parts)] == ["x", "", "a b"]
    with pytest.raises(InvalidRequest, match="takes text only, not image_url"):
        text_of({"content": [*parts, {"type": "image_url", "image_url": {"url": "data:"}}]})


async def test_other_paths_count_tell_the_window_or_are_not_supported() -> None:
    assert {path for _, path in Own()._paths} == SIMPLE_PATHS
    count = UpstreamRequest("POST", "/v1/chat/completions/input_tokens", orjson.dumps({"messages": HELLO * 2}))
    assert (await whole(Own(), count))[1]["input_tokens"] == 14
    for window, told in ((None, 2**31 - 1), (64, 64)):
        props = (await whole(Own(window=window), UpstreamRequest("GET", "/props")))[1]
        assert props["default_generation_settings"]["n_ctx"] == told
    status, answer = await whole(Own(), UpstreamRequest("POST", "/v1/embeddings", b"{}"))
    assert (status, answer["error"]["type"]) == (501, "not_supported_error")


# what goes wrong


async def test_a_fault_of_the_author_tells_nothing_of_the_prompt(caplog: pytest.LogCaptureFixture) -> None:
    async def faulty(body: Body) -> AsyncGenerator[str, None]:
        yield dict[str, str]()[text_of(body["messages"][0])]

    status, answer = await whole(Own(faulty), chat())
    assert (status, answer["error"]["message"]) == (500, "The model failed (KeyError).")
    assert "model=m /v1/chat/completions failed: KeyError" in caplog.text
    assert SECRET not in "".join(record.getMessage() for record in caplog.records)


async def test_an_error_in_the_middle_of_a_stream_is_its_last_event() -> None:
    async def breaking(_: Body) -> AsyncGenerator[str, None]:
        yield "a"
        raise InvalidRequest("Enough of that.", param="messages")

    *_, piece, error = await streamed(Own(breaking))
    assert piece["choices"][0]["delta"] == {"content": "a"}
    assert (error["error"]["message"], error["error"]["param"]) == ("Enough of that.", "messages")


async def test_a_client_that_leaves_ends_the_answer() -> None:
    left = asyncio.Event()

    async def endless(_: Body) -> AsyncGenerator[str, None]:
        try:
            while True:
                yield "a"
                await asyncio.Event().wait()
        finally:
            left.set()

    engine = Own(endless)
    async with engine.open(chat(stream=True)) as answer:
        await anext(aiter(answer.chunks()))
    async with asyncio.timeout(5):
        await left.wait()
    heard = (await engine.activity()).heard_at
    assert heard <= time.monotonic()


async def test_an_answer_without_pieces_for_long_is_a_sign_of_hanging() -> None:
    begun = asyncio.Event()

    async def silent(_: Body) -> AsyncGenerator[str, None]:
        begun.set()
        await asyncio.Event().wait()
        yield ""

    engine = Own(silent)
    before = time.monotonic()
    request = asyncio.create_task(whole(engine, chat()))
    await begun.wait()
    asked = time.monotonic()
    assert before <= (await engine.activity()).heard_at < asked
    await engine.stop()
    with pytest.raises(UpstreamClosed, match="'m' was stopped"):
        await request
    assert (await engine.activity()).heard_at >= asked


# the end


async def test_a_stop_breaks_off_what_is_under_way_and_unloads_once() -> None:
    async def endless(_: Body) -> AsyncGenerator[str, None]:
        yield "a"
        await asyncio.Event().wait()

    engine = Own(endless)
    await engine.start()
    assert (engine.progress, await engine.answers()) == (1.0, True)
    exits = asyncio.create_task(engine.wait_exit())
    async with engine.open(chat(stream=True)) as answer:
        chunks = aiter(answer.chunks())
        await anext(chunks)
        await asyncio.gather(engine.stop(), engine.stop(force=True))
        with pytest.raises(UpstreamClosed, match="'m' was stopped"):
            _ = [chunk async for chunk in chunks]
    assert (engine.unloads, await engine.answers(), (await exits).code) == (1, False, None)
    with pytest.raises(UpstreamConnectError, match="not there any more"):
        async with engine.open(chat()):
            pass


async def test_one_that_can_not_go_on_says_so() -> None:
    engine = Own()
    exits = asyncio.create_task(engine.wait_exit())
    engine.end("its other half is gone")
    assert (await exits).reason == "its other half is gone"
    assert not await engine.answers()
    await engine.stop()
    assert ((await engine.wait_exit()).reason, engine.unloads) == ("its other half is gone", 1)


async def test_a_stop_never_raises_and_never_hangs(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Faulty(Own):
        async def unload(self) -> None:
            raise RuntimeError("no")

    class Hanging(Own):
        async def unload(self) -> None:
            await asyncio.Event().wait()

    monkeypatch.setattr(simple_module, "PATIENCE_FORCED", 0.01)
    await Faulty().stop()
    await Hanging().stop(force=True)
    assert "could not be stopped cleanly" in caplog.text
    assert "did not end within 0.01 s" in caplog.text


async def test_what_the_answers_use_is_there_until_they_have_ended() -> None:
    order: list[str] = []
    closing, may_close = asyncio.Event(), asyncio.Event()

    class Ordered(Own):
        async def unload(self) -> None:
            order.append("unload")

    async def endless(_: Body) -> AsyncGenerator[str, None]:
        try:
            yield "a"
            await asyncio.Event().wait()
        finally:
            closing.set()
            await may_close.wait()
            order.append("answer")

    engine = Ordered(endless)
    async with engine.open(chat(stream=True)) as answer:
        await anext(aiter(answer.chunks()))
        stop = asyncio.create_task(engine.stop())
        await closing.wait()
        assert not stop.done()
        may_close.set()
        await stop
    assert order == ["answer", "unload"]


async def test_an_answer_that_does_not_end_is_not_waited_for_for_ever(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    may_close = asyncio.Event()

    async def clinging(_: Body) -> AsyncGenerator[str, None]:
        try:
            yield "a"
            await asyncio.Event().wait()
        finally:
            await may_close.wait()

    monkeypatch.setattr(simple_module, "PATIENCE_FORCED", 0.01)
    engine = Own(clinging)
    async with engine.open(chat(stream=True)) as answer:
        await anext(aiter(answer.chunks()))
        await engine.stop(force=True)
    assert engine.unloads == 1
    assert "model=m answers=1 did not end within 0.01 s" in caplog.text
    (work,) = engine._answering
    may_close.set()
    await asyncio.wait({work})


# its readers


async def test_a_reader_that_is_slow_is_waited_for() -> None:
    made = 0

    async def endless(_: Body) -> AsyncGenerator[str, None]:
        nonlocal made
        while True:
            made += 1
            yield "x" * 1000

    engine = Own(endless)
    async with engine.open(chat(stream=True)) as answer:
        chunks = aiter(answer.chunks())
        for _ in range(3):
            await anext(chunks)
            for _ in range(1000):
                await asyncio.sleep(0)
            before = made
            for _ in range(100):
                await asyncio.sleep(0)
            assert made == before < 4 * 66
        # No piece is due while nobody takes those that are there.
        asked = time.monotonic()
        assert (await engine.activity()).heard_at >= asked
    await engine.stop()


def test_the_pieces_of_a_stream_are_not_kept() -> None:
    entry = ModelEntry("m", Path("a"), ModelParams(model="a"), engine="own")
    streamed, whole = (ChatAnswer(LocalAnswer(), {"stream": stream}, entry, 1, 9) for stream in (True, False))
    for answer in (streamed, whole):
        answer.put("a")
        answer.put("b")
        answer.end()
    assert (streamed._pieces, whole._pieces) == ([], ["a", "b"])
    assert streamed._usage() == whole._usage() == {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}


# the watch over it


async def test_a_busy_service_does_not_hide_an_answer_that_hangs() -> None:
    async def silent(_: Body) -> AsyncGenerator[str, None]:
        await asyncio.Event().wait()
        yield ""

    async def busy() -> None:
        while True:
            used = time.process_time()
            while time.process_time() < used + 0.002:
                pass
            await asyncio.sleep(0.01)

    engine = Own(silent)
    tasks = [asyncio.create_task(whole(engine, chat())), asyncio.create_task(busy())]
    async with asyncio.timeout(5):
        assert "got no byte for 0.1 s" in await until_hung(engine, lambda: 1, 0.1)
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)


async def test_a_count_that_takes_long_holds_up_nobody() -> None:
    counting, may_end = threading.Event(), threading.Event()

    class Slow(Own):
        def count(self, text: str) -> int:
            counting.set()
            assert may_end.wait(10)
            return len(text)

    request = asyncio.create_task(whole(Slow(), chat()))
    assert await asyncio.to_thread(counting.wait, 10)  # and the loop runs on
    may_end.set()
    assert (await request)[1]["usage"]["prompt_tokens"] == len(SECRET)


# its errors


@pytest.mark.parametrize(
    "error",
    [
        RateLimited("Slow down.", retry_after=3),
        PermissionDenied("Not you."),
        ModelNotFound("No such voice."),
        LoadFailed("Its disk is gone.", should_retry=False),
        Unavailable("Not now.", retry_after=9),
    ],
)
async def test_an_error_that_the_author_chose_is_the_clients(error: HerdError) -> None:
    async def refusing(body: Body) -> AsyncGenerator[str, None]:
        if body["messages"]:
            raise error
        yield ""

    for stream in (True, False):
        with pytest.raises(type(error)) as caught:
            async with Own(refusing).open(chat(stream=stream)):
                pass
        assert caught.value is error

    async def breaking(_: Body) -> AsyncGenerator[str, None]:
        yield "a"
        raise error

    *_, last = await streamed(Own(breaking))
    assert (last["error"]["message"], last["error"]["code"]) == (error.message, error.status)


@pytest.mark.parametrize("error", [UpstreamTimeout("Its other half is late."), HerdError("Oh no."), SystemExit(3)])
async def test_a_failure_of_the_engine_is_a_500(error: BaseException) -> None:
    async def failing(body: Body) -> AsyncGenerator[str, None]:
        if body["messages"]:
            raise error
        yield ""

    status, answer = await whole(Own(failing), chat())
    told = error.message if isinstance(error, HerdError) else "The model failed (SystemExit)."
    assert (status, answer["error"]["message"]) == (500, told)


def test_it_needs_nothing_of_the_hugging_face_engine() -> None:
    modules = ("manager.engines.simple", "manager.engines.simple_chat", "manager.engines.answer")
    wanted = {one.what for module in modules for one in imports_of(module)}
    assert not [what for what in wanted if what.startswith("manager.engines.hf")]
