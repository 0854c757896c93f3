"""Loading on demand: who waits, what they hear meanwhile, and who is never in the way."""

from __future__ import annotations

import asyncio
import os
import signal
import time

import pytest

from tests.routes.conftest import StartHerd
from tests.routes.herd import Answer, Herd, data_of, said, until
from tests.routes.stage import CHAT, Fake, Stage

BENT = {"code": 1, "lines": ["load_model: the tensor is bent"]}
QUICK_HEARTBEAT = {"limits": {"stream_heartbeat": 0.02}}


@pytest.fixture
async def quick(fake: Fake, start_herd: StartHerd) -> Herd:
    """The service with the model "alpha" and a comment every 20 ms."""
    return await start_herd(**QUICK_HEARTBEAT)


async def test_whole_answer_waits_for_its_model(herd: Herd, fake: Fake) -> None:
    fake.close_gate()
    waiting = asyncio.create_task(herd.chat("hi"))
    await until(lambda: bool(fake.starts()))
    assert not waiting.done()
    fake.open_gate()
    assert (await waiting).text == "hi"


async def test_stream_gets_comments_while_its_model_loads_and_then_its_chunks(quick: Herd, fake: Fake) -> None:
    fake.close_gate()
    async with quick.stream("one two") as events:
        for _ in range(3):
            assert await events.next() == b": loading alpha\n"
        fake.open_gate()
        assert await events.token() == "one"
        assert (await events.rest())[-1] == b"data: [DONE]\n"


async def test_comments_tell_how_much_of_the_model_is_loaded(quick: Herd, fake: Fake) -> None:
    fake.close_gate(load_progress=[0.25])
    async with quick.stream("one two") as events:
        while (comment := await events.next()) == b": loading alpha\n":
            pass
        assert comment == b": loading alpha 25%\n"
        fake.open_gate()
        assert await events.token() == "one"


async def test_stream_gets_comments_while_its_prompt_is_read_and_between_its_chunks(quick: Herd, fake: Fake) -> None:
    fake.hold_streams(slow_head=0.1)
    async with quick.stream("one two") as events:
        frames = [await events.next()]
        while not (frames[-1] or b"data:").startswith(b"data:"):
            frames.append(await events.next())
        assert b": waiting for the model\n" in frames, "before its first chunk"
        while await events.next() != b": waiting for the model\n":
            pass
        fake.release_streams()
        *_, last = await events.rest()
    assert last == b"data: [DONE]\n"


async def test_a_failure_of_an_engine_after_a_comment_is_the_last_frame(quick: Herd, fake: Fake) -> None:
    fake.knobs(slow_head=0.1, error_status=500)
    async with quick.stream("one two") as events:
        *comments, error = await events.rest()
    assert b": waiting for the model\n" in comments
    assert data_of(error)["error"]["code"] == "generation_failed"


async def test_stream_whose_load_fails_after_a_comment_ends_with_an_error_frame(quick: Herd, fake: Fake) -> None:
    fake.close_gate()
    async with quick.stream("hi") as events:
        assert await events.next() == b": loading alpha\n"
        await until(lambda: bool(fake.starts()))
        os.kill(fake.starts()[0], signal.SIGKILL)  # as the kernel does where memory is short
        *comments, error = await events.rest()
    assert all(comment.startswith(b": loading alpha") for comment in comments)
    assert data_of(error)["error"]["code"] == "insufficient_memory"
    assert "killed by signal 9" in data_of(error)["error"]["message"]


async def test_stream_that_the_engine_refuses_after_a_comment_ends_with_an_error_frame(quick: Herd, fake: Fake) -> None:
    fake.close_gate(error_status=500)
    async with quick.stream("hi") as events:
        assert await events.next() == b": loading alpha\n"
        fake.open_gate()
        *comments, error = await events.rest()
    assert all(comment.startswith(b": ") for comment in comments)  # it may be loaded for a moment before it refuses
    assert data_of(error)["error"]["code"] == "generation_failed"


async def test_stream_whose_load_fails_before_any_comment_is_a_status(herd: Herd, fake: Fake) -> None:
    fake.knobs(exit_on_start=BENT)
    answer = await herd.chat("hi", stream=True)
    assert answer.status == 503
    assert answer.headers["Content-Type"].startswith("application/json")
    assert answer.error["code"] == "model_load_failed"
    assert "the tensor is bent" in answer.error["message"]
    assert answer.headers["Retry-After"] == "1"


async def test_load_that_cannot_succeed_says_so(stage: Stage, herd: Herd) -> None:
    (stage.data / "models" / "alpha.gguf").unlink()
    answer = await herd.chat("hi")
    assert answer.status == 503
    assert answer.error["type"] == "server_error"
    assert answer.error["param"] is None
    assert answer.error["code"] == "model_load_failed"
    assert "alpha.gguf does not exist" in answer.error["message"]
    assert answer.headers["x-should-retry"] == "false"
    assert "Retry-After" not in answer.headers


async def test_a_model_that_failed_is_left_alone_for_a_while(herd: Herd, fake: Fake) -> None:
    fake.knobs(exit_on_start=BENT)
    assert (await herd.chat("hi")).headers["Retry-After"] == "1"
    assert (await herd.chat("hi")).headers["Retry-After"] == "2"  # it waited for the second, and failed again
    began = time.monotonic()
    answer = await herd.chat("hi")
    assert time.monotonic() - began < 0.5
    assert (answer.status, answer.error["code"], answer.headers["Retry-After"]) == (503, "model_load_failed", "2")
    assert "the tensor is bent" in answer.error["message"]
    assert len(fake.starts()) == 2


async def test_wait_has_a_limit_and_the_load_goes_on(fake: Fake, start_herd: StartHerd) -> None:
    fake.close_gate()
    herd = await start_herd(limits={"wait_timeout": 0.2})
    answer = await herd.chat("hi")
    assert answer.status == 503
    assert answer.error["code"] == "model_loading"
    assert int(answer.headers["Retry-After"]) >= 1
    assert herd.state("alpha") == "starting"
    fake.open_gate()
    await until(lambda: herd.state("alpha") == "ready")


async def test_load_has_a_limit(fake: Fake, start_herd: StartHerd) -> None:
    fake.knobs(never_ready=True)
    herd = await start_herd(limits={"load_timeout": 0.3})
    answer = await herd.chat("hi")
    assert answer.status == 503
    assert answer.error["code"] == "model_loading"
    assert "was not ready after 0.3 s" in answer.error["message"]


async def test_twenty_requests_for_an_unloaded_model_start_it_once(herd: Herd, fake: Fake) -> None:
    answers = await asyncio.gather(*(herd.chat(f"hi {number}", stream=number % 2 == 1) for number in range(20)))
    assert {answer.status for answer in answers} == {200}
    assert [answer.text for answer in answers[::2]] == [f"hi {number}" for number in range(0, 20, 2)]
    assert all(answer.body.endswith(b"data: [DONE]\n\n") for answer in answers[1::2])
    assert len(fake.starts()) == 1
    assert herd.in_flight == 0


@pytest.mark.parametrize("stream", [False, True])
async def test_client_that_leaves_while_it_loads_does_not_end_the_load_and_leaks_nothing(
    quick: Herd, fake: Fake, stream: bool
) -> None:
    fake.close_gate()
    leaver = asyncio.create_task(quick.chat("bye", stream=stream))
    await until(lambda: bool(fake.starts()))
    stayer = asyncio.create_task(quick.chat("hi"))
    await until(lambda: quick.service.gate.in_flight == 2)
    leaver.cancel()
    await until(lambda: quick.service.gate.in_flight == 1)
    fake.open_gate()
    assert (await stayer).text == "hi"
    assert [request["body"]["messages"][0]["content"] for request in fake.requests()] == ["hi"]
    assert len(fake.starts()) == 1
    assert (quick.in_flight, quick.service.gate.in_flight) == (0, 0)


@pytest.mark.parametrize("stream", [False, True])
async def test_load_goes_on_when_its_only_client_leaves(quick: Herd, fake: Fake, stream: bool) -> None:
    fake.close_gate()
    leaver = asyncio.create_task(quick.chat("bye", stream=stream))
    await until(lambda: bool(fake.starts()))
    leaver.cancel()
    await until(lambda: quick.service.gate.in_flight == 0)
    fake.open_gate()
    await until(lambda: quick.state("alpha") == "ready")
    assert quick.in_flight == 0
    await quick.get("/unloadModel?model=alpha")  # would wait for a lease that nobody gives back
    assert fake.requests() == []


async def answers_at_once(herd: Herd) -> None:
    """What clients and watchers ask, while something is under way; none of it may wait for that."""
    async with asyncio.timeout(1.0):
        for path in ("/ping", "/health", "/v1/models", "/v1/models/alpha", "/models", "/chat/errors", "/metrics"):
            assert (await herd.get(path)).status == 200
        async with herd.feed() as events:
            await events.status()
        assert (await herd.chat("hi", model="beta")).text == "hi"
        async with herd.stream("hi", model="beta") as events:
            assert (await events.rest())[-1] == b"data: [DONE]\n"


async def test_a_slow_load_delays_nobody_else(stage: Stage, fake: Fake, start_herd: StartHerd) -> None:
    stage.model("beta")
    herd = await start_herd(**QUICK_HEARTBEAT)
    await herd.chat("warm", model="beta")
    fake.close_gate()
    waiting = [asyncio.create_task(herd.chat("hi", model="alpha", stream=stream)) for stream in (False, True)]
    waiting.append(asyncio.create_task(herd.post("/loadModel", {"model": "alpha"})))
    await until(lambda: bool(fake.starts()))
    await answers_at_once(herd)
    assert not any(task.done() for task in waiting)
    fake.open_gate()
    assert [answer.status for answer in await asyncio.gather(*waiting)] == [200, 200, 200]


async def test_a_child_whose_probes_hang_delays_nobody_else(stage: Stage, fake: Fake, start_herd: StartHerd) -> None:
    stage.model("beta")
    herd = await start_herd()
    await herd.chat("warm", model="beta")
    fake.knobs(probe_delay=30.0)
    waiting = asyncio.create_task(herd.chat("hi", model="alpha"))
    await until(lambda: bool(fake.starts()))
    await answers_at_once(herd)
    assert not waiting.done()
    await herd.get("/unloadModel?model=alpha")
    assert (await waiting).error["code"] == "model_unloaded"


async def test_a_model_that_unloads_slowly_delays_nobody_else(stage: Stage, fake: Fake, start_herd: StartHerd) -> None:
    stage.model("beta")
    fake.knobs(ignore_sigterm=True)
    herd = await start_herd(limits={"stop_grace": 0.5})
    await herd.chat("warm", model="beta")
    await herd.chat("warm", model="alpha")
    unloading = asyncio.create_task(herd.get("/unloadModel?model=alpha"))
    await until(lambda: herd.state("alpha") == "stopping")
    await answers_at_once(herd)
    assert (await unloading).status == 200


async def test_load_under_a_request_in_the_air_is_shared(herd: Herd, fake: Fake) -> None:
    fake.close_gate()
    tasks: list[asyncio.Task[Answer]] = [
        asyncio.create_task(herd.post("/loadModel", {"model": "alpha"})),
        asyncio.create_task(herd.post(CHAT, said("hi"))),
        asyncio.create_task(herd.post("/chat/completions", said("hi", model="NotNeeded"))),
        asyncio.create_task(herd.get("/chat/ask?question=hi")),
        asyncio.create_task(herd.post("/tokenize", {"content": "hi"})),
    ]
    await until(lambda: bool(fake.starts()))
    fake.open_gate()
    assert [answer.status for answer in await asyncio.gather(*tasks)] == [200] * 5
    assert len(fake.starts()) == 1
