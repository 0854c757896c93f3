"""Personalities and the budget of tokens. The fake counts words, one more per message, and one at the end."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import orjson
import pytest

from manager.engines import UpstreamRequest
from routes.conversation import COUNT_PATH, fit_to_budget
from tests.routes.conftest import StartHerd
from tests.routes.herd import Answer, Herd, said, until
from tests.routes.stage import CHAT, Fake, Stage

PIRATE = "Talk like a pirate."


def message(role: str, content: Any, **more: Any) -> dict[str, Any]:
    return {"role": role, "content": content, **more}


async def load(herd: Herd, model: str, **fields: Any) -> None:
    assert (await herd.post("/loadModel", {"model": model, **fields})).status == 200


# Personalities


@pytest.mark.parametrize("fields", [{"personality": "pirate"}, {"model": "alpha:pirate"}])
async def test_personality_becomes_the_system_message(herd: Herd, fake: Fake, fields: dict[str, Any]) -> None:
    answer = await herd.chat("hi", temperature=0.5, **fields)
    assert answer.echo == [message("system", PIRATE), message("user", "hi")]
    (request,) = fake.requests()
    assert "personality" not in request["body"]
    assert request["body"]["temperature"] == 0.5


async def test_apply_template_shows_the_prompt_with_the_personality(herd: Herd) -> None:
    answer = await herd.post(
        "/apply-template", {"messages": [message("user", "hi")], "personality": "pirate", "model": "alpha"}
    )
    assert answer.status == 200
    assert PIRATE in answer.json["prompt"]


@pytest.mark.parametrize(
    ("fields", "param"),
    [({"personality": "pirate"}, "personality"), ({"ctx": 10}, "ctx"), ({"model": "alpha:pirate"}, "model")],
)
async def test_what_is_for_chats_only_is_refused_elsewhere(
    herd: Herd, fake: Fake, fields: dict[str, Any], param: str
) -> None:
    answer = await herd.post("/tokenize", {"content": "hi", **fields})
    assert (answer.status, answer.json["error"]["param"]) == (400, param)
    assert not fake.requests()


@pytest.mark.parametrize("role", ["system", "developer"])
async def test_system_message_of_the_request_comes_after_the_personality(herd: Herd, role: str) -> None:
    messages = [message(role, "Be brief.", name="boss"), message("user", "hi")]
    answer = await herd.post(CHAT, {"messages": messages, "personality": "pirate"})
    assert answer.echo == [message(role, f"{PIRATE}\n\nBe brief.", name="boss"), message("user", "hi")]


async def test_system_message_in_parts_stays_in_parts(herd: Herd) -> None:
    parts = [{"type": "text", "text": "Be brief."}, {"type": "text", "text": "Be kind."}]
    answer = await herd.post(
        CHAT, {"messages": [message("system", parts), message("user", "hi")], "personality": "pirate"}
    )
    assert answer.echo[0] == message("system", [{"type": "text", "text": f"{PIRATE}\n\n"}, *parts])


async def test_system_message_further_down_stays_where_it_is(herd: Herd) -> None:
    messages = [message("user", "a"), message("system", "b"), message("user", "c")]
    answer = await herd.post(CHAT, {"messages": messages, "personality": "pirate"})
    assert answer.echo == [message("system", PIRATE), *messages]


async def test_personality_of_the_load_counts_for_the_requests_after_it(herd: Herd, fake: Fake) -> None:
    await load(herd, "alpha", personality="pirate")
    assert (await herd.chat("hi")).echo[0] == message("system", PIRATE)
    await load(herd, "alpha")
    assert (await herd.chat("hi")).echo == [message("user", "hi")]
    assert len(fake.starts()) == 1


async def test_load_under_model_colon_personality_says_and_keeps_it(herd: Herd) -> None:
    answer = await herd.post("/loadModel", {"model": "alpha:pirate"})
    assert (answer.json["model"], answer.json["personality"]) == ("alpha", "pirate")
    assert (await herd.chat("hi")).echo[0] == message("system", PIRATE)


async def test_unloading_forgets_the_personality(herd: Herd) -> None:
    await load(herd, "alpha", personality="pirate")
    await herd.get("/unloadModel")
    assert (await herd.chat("hi")).echo == [message("user", "hi")]


async def test_personality_of_the_request_wins_over_the_id_and_the_load(stage: Stage, start_herd: StartHerd) -> None:
    stage.model("m", personalities={"a": "A.", "b": "B.", "c": "C."})
    herd = await start_herd()
    await load(herd, "m", personality="a")
    assert (await herd.chat("hi")).echo[0]["content"] == "A."
    assert (await herd.chat("hi", model="m:b")).echo[0]["content"] == "B."
    assert (await herd.chat("hi", model="m:b", personality="c")).echo[0]["content"] == "C."


async def test_personality_of_a_load_that_failed_does_not_stay(herd: Herd, fake: Fake) -> None:
    fake.knobs(exit_on_start={"code": 1}, faulty_starts=1)
    assert (await herd.post("/loadModel", {"model": "alpha", "personality": "pirate"})).status == 500
    await until(lambda: herd.state("alpha") == "failed")
    assert (await herd.chat("hi")).echo == [message("user", "hi")]


async def test_streamed_requests_are_under_the_personality_too(herd: Herd, fake: Fake) -> None:
    async with herd.stream("hi", personality="pirate") as events:
        await events.rest()
    assert fake.requests()[0]["body"]["messages"][0] == message("system", PIRATE)


# The budget

# 11 tokens with the system message, 4 for each turn of before, 2 for the last question and 1 at the end.
SYSTEM = message("system", "s1 s2 s3")  # 4
TURN_1 = [message("user", "a"), message("assistant", "b")]  # 4
TURN_2 = [message("user", "c"), message("assistant", "d")]  # 4
LAST = message("user", "e")  # 2
LONG = [SYSTEM, *TURN_1, *TURN_2, LAST]  # 15 with the end


async def ask(herd: Herd, messages: list[dict[str, Any]], **fields: Any) -> Answer:
    answer = await herd.post(CHAT, {"messages": messages, **fields})
    assert answer.status == 200, answer.body
    return answer


async def test_a_conversation_that_fits_is_kept_whole(herd: Herd, fake: Fake) -> None:
    answer = await ask(herd, LONG, ctx=20, max_tokens=5)
    assert answer.echo == LONG
    body = fake.requests()[0]["body"]
    assert body["max_tokens"] == 5
    assert "ctx" not in body


@pytest.mark.parametrize(
    ("ctx", "kept"),
    [
        (19, [SYSTEM, *TURN_2, LAST]),  # 15 + 5 > 19
        (16, [SYSTEM, *TURN_2, LAST]),  # 11 + 5
        (15, [SYSTEM, LAST]),
        (12, [SYSTEM, LAST]),  # 7 + 5
    ],
)
async def test_the_oldest_turns_are_dropped_until_it_fits(herd: Herd, ctx: int, kept: list[dict[str, Any]]) -> None:
    assert (await ask(herd, LONG, ctx=ctx, max_tokens=5)).echo == kept


async def test_max_tokens_is_lowered_to_what_is_left(herd: Herd, fake: Fake) -> None:
    await ask(herd, LONG, ctx=10, max_tokens=5)
    await ask(herd, LONG, ctx=10, max_completion_tokens=5)
    for request in fake.requests():
        assert request["body"]["max_tokens"] == 3
        assert "max_completion_tokens" not in request["body"]
        assert request["body"]["messages"] == [SYSTEM, LAST]


async def test_without_max_tokens_a_quarter_is_kept_and_all_that_is_left_is_given(herd: Herd, fake: Fake) -> None:
    await ask(herd, LONG, ctx=20)  # 15 + 20 // 4
    assert fake.requests()[-1]["body"]["max_tokens"] == 5
    await ask(herd, LONG, ctx=19)  # 15 + 4
    assert fake.requests()[-1]["body"]["max_tokens"] == 4
    await ask(herd, LONG, ctx=18)  # 15 + 4 > 18: a turn goes
    assert fake.requests()[-1]["body"]["max_tokens"] == 7
    assert fake.requests()[-1]["body"]["messages"] == [SYSTEM, *TURN_2, LAST]


async def test_a_long_answer_costs_no_turn_that_fits(herd: Herd, fake: Fake) -> None:
    for limit in (16, 32, 1000):
        assert (await ask(herd, LONG, ctx=32, max_tokens=limit)).echo == LONG
    assert [request["body"]["max_tokens"] for request in fake.requests()] == [16, 17, 17]


async def test_half_of_the_budget_is_kept_for_a_long_answer(herd: Herd, fake: Fake) -> None:
    await ask(herd, LONG, ctx=30, max_tokens=1000)  # 15 + 30 // 2
    assert fake.requests()[-1]["body"]["messages"] == LONG
    await ask(herd, LONG, ctx=29, max_tokens=1000)  # 15 + 14
    assert fake.requests()[-1]["body"]["messages"] == LONG
    await ask(herd, LONG, ctx=28, max_tokens=1000)  # 15 + 14 > 28: a turn goes
    assert fake.requests()[-1]["body"]["messages"] == [SYSTEM, *TURN_2, LAST]
    assert fake.requests()[-1]["body"]["max_tokens"] == 17


@pytest.mark.parametrize(
    "limits",
    [
        {"n_predict": 1000},
        {"n_predict": 1000, "max_tokens": 1},
        {"max_completion_tokens": 1000, "max_tokens": 1},
        {"n_predict": -1, "max_tokens": 1},
    ],
)
async def test_no_name_of_the_limit_lifts_the_budget(herd: Herd, fake: Fake, limits: dict[str, int]) -> None:
    await ask(herd, LONG, ctx=32, **limits)
    (request,) = fake.requests()
    assert request["body"]["max_tokens"] == 17
    assert not {"n_predict", "max_completion_tokens"} & request["body"].keys()


async def test_the_models_own_limit_counts_where_the_request_has_none(stage: Stage, start_herd: StartHerd) -> None:
    fake = stage.model("short", params={"n_predict": 3})
    herd = await start_herd()
    fields: list[dict[str, int]] = [{}, {"max_tokens": -1}, {"max_tokens": 2}, {"max_tokens": 9}]
    for more in fields:
        assert (await ask(herd, LONG, ctx=100, **more)).echo == LONG
    assert [request["body"]["max_tokens"] for request in fake.requests()] == [3, 3, 2, 9]


@pytest.mark.parametrize("name", ["ctx", "context_window", "n_ctx"])
async def test_the_field_has_three_names(herd: Herd, fake: Fake, name: str) -> None:
    assert (await ask(herd, LONG, max_tokens=5, **{name: 12})).echo == [SYSTEM, LAST]
    assert name not in fake.requests()[0]["body"]


async def test_what_cannot_fit_is_a_400(herd: Herd, fake: Fake) -> None:
    answer = await herd.post(CHAT, {"messages": LONG, "ctx": 7, "max_tokens": 5})
    assert answer.status == 400
    assert answer.error["code"] == "context_length_exceeded"
    assert answer.error["param"] == "messages"
    assert "7 tokens" in answer.error["message"]
    assert fake.requests() == []
    assert herd.in_flight == 0


async def test_what_cannot_fit_is_a_400_for_streams_too(herd: Herd) -> None:
    answer = await herd.post(CHAT, {"messages": LONG, "ctx": 7, "stream": True})
    assert (answer.status, answer.error["code"]) == (400, "context_length_exceeded")


async def test_tool_messages_stay_with_their_turn(herd: Herd) -> None:
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    turn = [
        message("user", "a"),
        {"role": "assistant", "content": None, "tool_calls": [call]},
        message("tool", "b", tool_call_id="1"),
        message("assistant", "c"),
    ]  # 7
    messages = [*turn, *TURN_2, LAST]  # 14 with the end
    assert (await ask(herd, messages, ctx=15, max_tokens=1)).echo == messages
    assert (await ask(herd, messages, ctx=14, max_tokens=1)).echo == [*TURN_2, LAST]


async def test_what_follows_the_last_user_message_stays(herd: Herd) -> None:
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    end = [
        LAST,
        {"role": "assistant", "content": None, "tool_calls": [call]},
        message("tool", "x", tool_call_id="1"),
    ]  # 5
    assert (await ask(herd, [*TURN_1, *end], ctx=7, max_tokens=1)).echo == end


async def test_without_a_user_results_stay_with_their_call(herd: Herd) -> None:
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    called = {"role": "assistant", "content": None, "tool_calls": [call]}
    end = [called, message("tool", "x", tool_call_id="1")]  # 3
    assert (await ask(herd, [*TURN_1[1:], *end], ctx=5, max_tokens=1)).echo == end


class Counting:
    """An engine that says how long its prompts are: ten tokens of a message, and what its fields bring."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []

    @asynccontextmanager
    async def open(self, request: UpstreamRequest) -> AsyncIterator[Any]:
        body = orjson.loads(request.body) if request.body else {}
        self.asked.append(body)
        answers = {
            "/props": {"default_generation_settings": {"n_ctx": 1000}},
            COUNT_PATH: {"input_tokens": 10 * len(body.get("messages", ()))},
        }
        answer = orjson.dumps(answers[request.path])  # anything else is not to be asked

        async def read() -> bytes:
            return answer

        yield SimpleNamespace(status=200, read=read)


async def test_an_engine_that_counts_its_prompts_is_believed() -> None:
    engine: Any = Counting()
    entry: Any = SimpleNamespace(name="m", params=SimpleNamespace(n_predict=None))
    told = {
        "reasoning_effort": "low",
        "continue_final_message": False,
        "add_generation_prompt": True,
    }
    body = {"messages": [*TURN_1, *TURN_2, LAST], "max_tokens": 10, **told}
    await fit_to_budget(engine, entry, body, 45)
    assert body["messages"] == [*TURN_2, LAST]
    assert body["max_tokens"] == 10
    counts = [asked for asked in engine.asked if asked]
    assert all({name: asked[name] for name in told} == told for asked in counts)


async def test_the_personality_counts_and_stays(herd: Herd) -> None:
    answer = await ask(herd, [*TURN_1, LAST], ctx=9, max_tokens=1, personality="pirate")  # 5 + 4 + 2 + 1
    assert answer.echo == [message("system", PIRATE), LAST]


async def test_the_budget_is_at_most_the_models_window(stage: Stage, start_herd: StartHerd) -> None:
    stage.model("small", ctx_size=12)
    herd = await start_herd()
    assert (await ask(herd, LONG, ctx=1000, max_tokens=5)).echo == [SYSTEM, LAST]


async def test_the_engine_counts_with_the_tools_of_the_request(herd: Herd, fake: Fake) -> None:
    tools = [{"type": "function", "function": {"name": "f"}}]
    await ask(herd, LONG, ctx=20, max_tokens=5, tools=tools)
    assert {str(request["body"]["tools"]) for request in fake.requests(COUNT_PATH)} == {str(tools)}
    assert fake.requests()[0]["body"]["tools"] == tools


async def test_without_a_budget_nothing_is_counted(herd: Herd, fake: Fake) -> None:
    await ask(herd, LONG, max_tokens=5)
    assert fake.requests(COUNT_PATH) == []


async def test_completions_refuse_a_budget(herd: Herd) -> None:
    answer = await herd.post("/v1/completions", said("hi", prompt="a b", ctx=4))
    assert (answer.status, answer.json["error"]["param"]) == (400, "ctx")
