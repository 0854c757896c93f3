"""What engines answer, as Ollama says it."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest

from manager.errors import ContextLengthExceeded, GenerationFailed, HerdError, InvalidRequest, UpstreamClosed
from routes.ollama.answers import Answers, as_message, as_response, failed
from routes.ollama.shapes import ChatAnswer, GenerateAnswer

USAGE = {"prompt_tokens": 9, "completion_tokens": 4, "total_tokens": 13}
TIMINGS = {"cache_n": 4, "prompt_n": 5, "prompt_ms": 2.5, "predicted_n": 4, "predicted_ms": 1.5}
CALL = {"index": 0, "id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"city":'}}
REST = {"index": 0, "function": {"arguments": '"Rome"}'}}
SECOND = {"index": 1, "id": "c2", "function": {"name": "time", "arguments": ""}}


def chunk(delta: dict[str, Any], reason: str | None = None, **more: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": delta, "finish_reason": reason}], **more}


def whole(message: dict[str, Any], reason: str = "stop", **more: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "message": message, "finish_reason": reason}], **more}


async def stream(*chunks: Any) -> AsyncIterator[bytes]:
    for one in (*chunks, "[DONE]"):
        yield b"data: " + (one if isinstance(one, str) else json.dumps(one)).encode() + b"\n\n"


async def lines(*chunks: Any, put: Any = as_message) -> list[dict[str, Any]]:
    """The lines of the answer to a stream of these."""
    shape = ChatAnswer if put is as_message else GenerateAnswer
    found = []
    async for piece in Answers("m", put).lines(stream(*chunks)):
        assert piece.endswith(b"\n")
        found.append(json.loads(piece))
        shape.model_validate(found[-1])
    return found


def said(answers: Sequence[dict[str, Any]]) -> str:
    return "".join(answer["message"]["content"] for answer in answers)


def test_a_whole_answer_has_its_text_and_what_it_took() -> None:
    answer = Answers("m", as_message).whole(whole({"content": "hi"}, usage=USAGE, timings=TIMINGS))
    ChatAnswer.model_validate(answer)
    assert answer["message"] == {"role": "assistant", "content": "hi"}
    assert (answer["model"], answer["done"], answer["done_reason"]) == ("m", True, "stop")
    assert (answer["prompt_eval_count"], answer["eval_count"]) == (9, 4)
    assert (answer["prompt_eval_duration"], answer["eval_duration"]) == (2_500_000, 1_500_000)


async def test_a_stream_is_a_line_for_each_piece_and_one_at_the_end() -> None:
    pieces = (chunk({"role": "assistant", "content": None}), chunk({"content": "a"}), chunk({"content": "b"}))
    found = await lines(*pieces, chunk({}, "length"), {"choices": [], "usage": USAGE, "timings": TIMINGS})
    assert [line["message"]["content"] for line in found] == ["a", "b", ""]
    assert [line["done"] for line in found] == [False, False, True]
    assert (found[-1]["done_reason"], found[-1]["prompt_eval_count"], found[-1]["eval_count"]) == ("length", 9, 4)


async def test_an_engine_without_usage_or_timings_takes_the_time_that_was_seen() -> None:
    found = await lines(chunk({"content": "a"}), chunk({}, "stop"))
    assert (found[-1]["prompt_eval_count"], found[-1]["eval_count"], found[-1]["prompt_eval_duration"]) == (0, 0, 0)
    assert 0 < found[-1]["eval_duration"] <= found[-1]["total_duration"]
    counted = await lines(chunk({"content": "a"}), chunk({}, "stop", timings=TIMINGS))
    assert (counted[-1]["prompt_eval_count"], counted[-1]["eval_count"]) == (9, 4)


async def test_thinking_has_a_field_of_its_own() -> None:
    found = await lines(chunk({"reasoning_content": "hm"}), chunk({"content": "yes"}), chunk({}, "stop"))
    assert [line["message"].get("thinking") for line in found] == ["hm", None, None]
    assert said(found) == "yes"
    answer = Answers("m", as_response).whole(whole({"content": "yes", "reasoning_content": "hm"}))
    GenerateAnswer.model_validate(answer)
    assert (answer["response"], answer["thinking"]) == ("yes", "hm")


async def test_calls_come_whole_before_the_last_line_with_arguments_as_objects() -> None:
    parts = (chunk({"tool_calls": [part]}) for part in (CALL, REST, SECOND))
    found = await lines(*parts, chunk({}, "tool_calls"))
    calls = [
        {"id": "c1", "function": {"index": 0, "name": "weather", "arguments": {"city": "Rome"}}},
        {"id": "c2", "function": {"index": 1, "name": "time", "arguments": {}}},
    ]
    assert [line["message"].get("tool_calls") for line in found] == [calls, None]
    assert (found[-1]["done"], found[-1]["done_reason"]) == (True, "stop")
    full = {"name": "weather", "arguments": '{"city":"Rome"}'}
    answer = Answers("m", as_message).whole(whole({"content": None, "tool_calls": [{"id": "c1", "function": full}]}))
    ChatAnswer.model_validate(answer)
    assert answer["message"] == {"role": "assistant", "content": "", "tool_calls": calls[:1]}


async def test_a_call_that_the_limit_cut_off_is_none() -> None:
    (last,) = await lines(chunk({"tool_calls": [CALL]}), chunk({}, "length"))
    assert (last["done_reason"], "tool_calls" in last["message"]) == ("length", False)


@pytest.mark.parametrize("arguments", ['{"city":', "[]", "null"])
async def test_a_call_whose_arguments_are_no_object_fails_the_answer(arguments: str) -> None:
    call = {"index": 0, "id": "c", "function": {"name": "weather", "arguments": arguments}}
    with pytest.raises(GenerationFailed, match="weather"):
        await lines(chunk({"tool_calls": [call]}), chunk({}, "tool_calls"))


@pytest.mark.parametrize("wanted", [None, 0, 1, 2])
async def test_scores_are_of_as_many_tokens_as_were_asked_for(wanted: int | None) -> None:
    score = {"token": "hi", "logprob": -0.1, "bytes": [104, 105]}
    others = [{"token": "hi", "logprob": -0.1}, {"token": "ho", "logprob": -2.0}]
    content = [{**score, "top_logprobs": others}]
    answers = Answers("m", as_message, likeliest=wanted)
    scored = {"choices": [{"index": 0, "delta": {"content": "hi"}, "logprobs": {"content": content}}]}
    found = [json.loads(line) async for line in answers.lines(stream(scored, chunk({}, "stop")))]
    expected = [{**score, "top_logprobs": others[:wanted]} if wanted else score]
    assert [line.get("logprobs") for line in found] == [expected, None]
    answer = {"choices": [{"index": 0, "message": {"content": "hi"}, "logprobs": {"content": content}}]}
    assert answers.whole(answer)["logprobs"] == expected


def test_a_whole_answer_does_not_repeat_what_it_goes_on_with() -> None:
    begun = {"role": "assistant", "content": "one ", "reasoning_content": "hm, "}
    answers = Answers("m", as_message, [{"role": "user", "content": "count"}, begun])
    message = answers.whole(whole({"content": "one two", "reasoning_content": "hm, well"}))["message"]
    assert (message["content"], message["thinking"]) == ("two", "well")


async def test_more_than_one_choice_is_not_mixed_into_the_first() -> None:
    other = {"choices": [{"index": 1, "delta": {"content": "x"}, "finish_reason": None}]}
    assert said(await lines(chunk({"content": "a"}), other, chunk({}, "stop"))) == "a"


async def test_completions_and_infills_are_read_too() -> None:
    completion = ({"choices": [{"index": 0, "text": "a", "finish_reason": reason}]} for reason in (None, "length"))
    infill = ({"index": 0, "content": "a", "stop": False}, {"content": "", "stop": True, "stop_type": "limit"})
    assert [line["response"] for line in await lines(*completion, put=as_response)] == ["a", "a", ""]
    found = await lines(*infill, put=as_response)
    assert [line["response"] for line in found] == ["a", ""]
    assert found[-1]["done_reason"] == "length"


async def test_an_error_within_the_stream_is_raised_as_what_it_is() -> None:
    long = {"error": {"code": 400, "message": "too long", "type": "exceed_context_size_error"}}
    with pytest.raises(ContextLengthExceeded, match="too long"):
        await lines(chunk({"content": "a"}), long)
    with pytest.raises(InvalidRequest, match="wrong"):
        await lines({"error": {"code": 400, "message": "wrong"}})
    with pytest.raises(GenerationFailed):
        await lines({"error": "odd"})


async def test_a_stream_that_breaks_off_is_not_done() -> None:
    async def cut() -> AsyncIterator[bytes]:
        yield b"data: " + json.dumps(chunk({"content": "a"})).encode() + b"\n\n"

    told = Answers("m", as_message).lines(cut())
    assert json.loads(await anext(told))["done"] is False
    with pytest.raises(UpstreamClosed):
        await anext(told)


def test_a_failure_and_a_sign_of_life_are_lines() -> None:
    assert failed(HerdError('say "no"')) == b'{"error":"say \\"no\\""}\n'
    pulse = Answers("m", as_message).form.pulse("loading\n50%")
    assert pulse.count(b"\n") == 1
    line = json.loads(pulse)
    ChatAnswer.model_validate(line)
    assert (line["message"]["content"], line["done"]) == ("", False)
