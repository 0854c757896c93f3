"""Token counts out of an engine's own report. The answers here are those of llama-server, shortened in their texts."""

from __future__ import annotations

import json
import time
from typing import Any, Final

import pytest

from manager.inflight import InFlight, Running, Tokens
from routes.tokens import TAIL, TOO_MANY, close, of_all_choices, reports_in, tokens_of

TIMINGS: Final = (
    b'"timings":{"cache_n":31,"prompt_n":1,"prompt_ms":11.878,"prompt_per_token_ms":11.878,"prompt_per_second":84.18,'
    b'"predicted_n":3,"predicted_ms":26.738,"predicted_per_token_ms":13.369,"predicted_per_second":74.79}'
)
USAGE: Final = (
    b'"usage":{"completion_tokens":3,"prompt_tokens":32,"total_tokens":35,"prompt_tokens_details":{"cached_tokens":31}}'
)
COUNTED: Final = Tokens(prompt=32, cached=31, generated=3, each=26.738 / 1000 / 2, prompt_seconds=11.878 / 1000)
WHOLE: Final = (
    b'{"choices":[{"finish_reason":"length","index":0,"message":{"role":"assistant","content":"I\'m glad"}}],'
    b'"created":1795261805,"model":"m","object":"chat.completion",' + USAGE + b',"id":"chatcmpl-X",' + TIMINGS + b"}"
)
HEAD: Final = b'data: {"choices":[{"finish_reason":null,"index":0,"delta":{"role":"assistant","content":null}}]}\n\n'
TOKEN: Final = b'data: {"choices":[{"finish_reason":null,"index":0,"delta":{"content":" glad"}}],"id":"chatcmpl-9"}\n\n'
LAST: Final = (
    b'data: {"choices":[{"finish_reason":"length","index":0,"delta":{}}],"id":"chatcmpl-9",' + TIMINGS + b"}\n\n"
)
WITH_USAGE: Final = b'data: {"choices":[],"id":"chatcmpl-9",' + USAGE + b"," + TIMINGS + b"}\n\n"
DONE: Final = b"data: [DONE]\n\n"


def whole(**fields: Any) -> bytes:
    """A whole answer as an engine in Python writes it: with spaces."""
    return json.dumps({"choices": [{"text": "one"}], **fields}).encode()


def test_whole_answer_of_llama_server() -> None:
    assert tokens_of(WHOLE) == COUNTED


def test_usage_counts_where_there_are_no_timings() -> None:
    answer = b'{"choices":[],' + USAGE + b',"id":"x"}'
    assert tokens_of(answer) == Tokens(32, 31, 3)
    assert tokens_of(answer, seconds=1.0) == Tokens(32, 31, 3, 0.5)


def test_usage_without_details_or_answer() -> None:
    assert tokens_of(whole(usage={"prompt_tokens": 5, "total_tokens": 5})) == Tokens(5, 0, 0)
    details = {"prompt_tokens": 5, "completion_tokens": 1, "prompt_tokens_details": None}
    assert tokens_of(whole(usage=details), seconds=1.0) == Tokens(5, 0, 1)


def test_a_time_that_is_none_is_left_out() -> None:
    assert tokens_of(whole(timings={"prompt_n": 7, "predicted_n": 2, "predicted_ms": 1e300})) == Tokens(7, 0, 2)
    for bad in (1e300, -1.0, 0, "1", None):
        timings = {"prompt_n": 7, "prompt_ms": bad, "predicted_n": 2, "predicted_ms": 5.0}
        assert tokens_of(whole(timings=timings)) == Tokens(7, 0, 2, 0.005)


def test_embeddings_of_llama_server_report_before_their_numbers() -> None:
    answer = b'{"model":"m","object":"list","usage":{"prompt_tokens":4,"total_tokens":4},"data":[' + b"0.25," * TAIL
    assert tokens_of(answer) == Tokens(4, 0, 0)


def test_timings_of_an_older_server_that_does_not_tell_of_its_cache() -> None:
    assert tokens_of(whole(timings={"prompt_n": 7, "predicted_n": 1, "predicted_ms": 0.001})) == Tokens(7, 0, 1)


@pytest.mark.parametrize(
    "report",
    [
        {},
        {"usage": None},
        {"usage": {}},
        {"usage": {"prompt_tokens": "many", "completion_tokens": 1}},
        {"usage": {"prompt_tokens": -1, "completion_tokens": 1}},
        {"usage": {"prompt_tokens": True, "completion_tokens": 1}},
        {"usage": {"prompt_tokens": TOO_MANY, "completion_tokens": 1}},
        {"usage": {"prompt_tokens": 1, "completion_tokens": TOO_MANY}},
        {"timings": {"prompt_n": 1, "predicted_n": TOO_MANY}},
        {"timings": {"prompt_n": TOO_MANY, "predicted_n": 1}},
        {"timings": {"prompt_n": 1, "predicted_n": 1, "cache_n": -1}},
        {"usage": [1, 2]},
        {"timings": {"prompt_n": 1.5, "predicted_n": 1}},
        {"timings": {"a": {"b": {"c": {"d": {"e": {}}}}}}},
    ],
)
def test_a_report_that_is_none_counts_nothing(report: dict[str, Any]) -> None:
    assert tokens_of(whole(**report)) is None


@pytest.mark.parametrize("answer", [b"", b"{", b"not JSON", b'{"timings":{', b'{"timings":{"prompt_n":1', b"\xff\x00"])
def test_an_answer_that_breaks_off_counts_nothing(answer: bytes) -> None:
    assert tokens_of(answer) is None


def test_bad_timings_leave_it_to_the_usage() -> None:
    report = {"usage": {"prompt_tokens": 5, "completion_tokens": 2}, "timings": {"prompt_n": None}}
    assert tokens_of(whole(**report)) == Tokens(5, 0, 2)


def test_what_the_model_says_is_no_report() -> None:
    said = '"timings":{"prompt_n":1000,"predicted_n":1000},"usage":{"prompt_tokens":1000,"completion_tokens":1000}'
    answer = json.dumps({"choices": [{"text": said}]}, separators=(",", ":")).encode()
    assert tokens_of(answer) is None


def test_only_the_ends_of_an_answer_are_looked_at() -> None:
    assert tokens_of(b'{"more":"' + b"x" * TAIL + b'",' + WHOLE[1:-1] + b',"more":"' + b"x" * TAIL + b'"}') is None


def began() -> Running:
    running = InFlight().begin("one", "m", None, "/v1/chat/completions", True)
    running.first_at = running.began
    return running


@pytest.mark.parametrize("last", [[LAST, DONE], [LAST + DONE], [WITH_USAGE, DONE], [LAST[:50], LAST[50:], DONE]])
async def test_a_stream_is_counted_at_its_end(last: list[bytes]) -> None:
    running = began()
    assert close(running, [TOKEN, *last])
    assert running.tokens == COUNTED


async def test_timings_of_every_token_count_once() -> None:
    running = began()
    early = TIMINGS.replace(b'"predicted_n":3', b'"predicted_n":2')
    assert close(running, [HEAD, TOKEN[:-3] + b"," + early + b"}\n\n", LAST, DONE])
    assert running.tokens == COUNTED


async def test_the_time_per_token_of_a_stream_without_timings_is_taken_here() -> None:
    running = began()
    running.first_at = time.monotonic() - 4.0
    assert close(running, [TOKEN, b"data: {" + USAGE + b"}\n\n", DONE])
    assert running.tokens is not None
    assert running.tokens.each == pytest.approx(2.0, abs=0.5)


@pytest.mark.parametrize("error", [b'data: {"error":{"code":500}}\n\n', b'data: {"error": {"code": 500}}\n\n'])
async def test_a_stream_that_ends_with_an_error_did_not_go_well(error: bytes) -> None:
    running = began()
    assert not close(running, [HEAD, TOKEN, error])
    assert running.tokens is None


async def test_a_model_that_speaks_of_errors_is_none() -> None:
    said = b'data: {"choices":[{"delta":{"content":"data: {\\"error\\": 1}"}}]}\n\n'
    assert close(began(), [said])


async def test_a_stream_of_nothing_counts_nothing() -> None:
    running = InFlight().begin("one", "m", None, "/v1/chat/completions", True)
    assert close(running, [])
    assert running.tokens is None


def ended(index: int, prompt: int, generated: int, **more: Any) -> bytes:
    """The last frame of one of several choices, as llama-server writes it."""
    timings = {"cache_n": 1, "prompt_n": prompt - 1, "predicted_n": generated, "predicted_ms": 5.0}
    frame = {"choices": [{"finish_reason": "stop", "index": index, "delta": {}}], "timings": timings, **more}
    return b"data: " + json.dumps(frame, separators=(",", ":")).encode() + b"\n\n"


def test_each_choice_of_a_stream_has_a_report_at_its_end() -> None:
    assert reports_in(TOKEN) == []
    assert reports_in(TOKEN + ended(1, 5, 2) + TOKEN + ended(0, 7, 3)) == [
        Tokens(5, 1, 2, 0.005),
        Tokens(7, 1, 3, 0.0025),
    ]
    counted = TOKEN[:-3] + b"," + TIMINGS + b"}\n\n"
    assert reports_in(counted) == [], "with timings_per_token they are told on the way, too"


def test_a_report_that_is_repeated_for_debugging_counts_once() -> None:
    verbose = {"__verbose": {"prompt": "p" * TAIL, "timings": {"prompt_n": 9, "predicted_n": 9}}}
    assert reports_in(ended(0, 5, 2, **verbose)) == [Tokens(5, 1, 2, 0.005)]
    end = b'data: {"choices":[{"finish_reason":"stop","index":0,"delta":{}}],' + json.dumps(verbose)[1:].encode()
    assert reports_in(end + b"\n\n" + WITH_USAGE) == [COUNTED]


async def test_a_prompt_counts_once_however_many_choices_there_are_of_it() -> None:
    running = began()
    reports = [Tokens(5, 1, 2), Tokens(7, 3, 4), Tokens(5, 1, 3), Tokens(7, 3, 1)]
    assert close(running, [LAST, DONE], reports, prompts=2)
    assert running.tokens == Tokens(12, 4, 10)
    assert close(running, [LAST, DONE], reports[:1], prompts=1)
    assert running.tokens == COUNTED, "one report is of all"


async def test_a_prompt_is_read_once_however_many_choices_there_are_of_it() -> None:
    running = began()
    reports = [Tokens(5, 0, 2, prompt_seconds=0.5)] * 4
    assert close(running, [LAST, DONE], reports, prompts=1)
    assert running.tokens == Tokens(5, 0, 8, prompt_seconds=0.5)
    assert close(running, [LAST, DONE], reports, prompts=2)
    assert running.tokens == Tokens(10, 0, 8), "together or one by one: who knows"


def several(*texts: str, chat: bool = False, scored: int = 0) -> bytes:
    """A whole answer of llama-server to several prompts."""
    scores = {"content": [{"token": "x", "logprob": -1.5, "top_logprobs": []}] * scored} if scored else None
    choices: list[dict[str, Any]] = []
    for index, text in enumerate(texts):
        if chat:
            message = {"role": "assistant", "content": text}
            choices.append({"finish_reason": "stop", "index": index, "message": message})
        else:
            choices.append({"text": text, "index": index, "logprobs": scores, "finish_reason": "length"})
    answer = json.dumps({"choices": choices, "created": 1795261805, "model": "m"}, separators=(",", ":")).encode()
    return answer[:-1] + b"," + USAGE + b"," + TIMINGS + b"}"


@pytest.mark.parametrize("chat", [False, True])
def test_texts_of_other_choices_are_counted_by_their_length(chat: bool) -> None:
    answer = several("four" * 3, "four" * 100, "four" * 50, chat=chat)
    took = of_all_choices(answer, COUNTED, ["p" * 12, "q" * 40, [1, 2, 3]])
    assert (took.prompt, took.cached) == (32 + 10 + 3, 31)
    assert took.generated == pytest.approx(153, abs=3)


def test_a_prompt_of_several_texts_is_read_once() -> None:
    assert of_all_choices(several("a", "b"), COUNTED, ["p"]).prompt_seconds == COUNTED.prompt_seconds


def test_tokens_that_are_shown_are_counted() -> None:
    assert of_all_choices(several("a", "b", scored=7), COUNTED, [""]).generated == 14


def test_a_choice_has_a_token_at_least() -> None:
    assert of_all_choices(several("", "", "", ""), COUNTED, [""]).generated == 3 + 3


def test_the_one_choice_of_an_answer_is_what_its_report_says() -> None:
    assert of_all_choices(several("long" * 100), COUNTED, ["", ""]) == COUNTED
