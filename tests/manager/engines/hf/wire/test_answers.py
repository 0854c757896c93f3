"""What sequences bring becomes an answer in llama-server's shape, whole or frame by frame."""

from __future__ import annotations

import math
from typing import Any

import orjson
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from manager.engines.hf.batch.text import Pieces
from manager.engines.hf.generation import Ending, Reason, Score, Update
from manager.engines.hf.wire.answers import Head, StreamedAnswer, WholeAnswer
from manager.inflight import Tokens
from routes.tokens import tokens_of

ALPHABET = sorted(pre_tokenizers.ByteLevel.alphabet())
CHAT = Head(chat=True, model="m", id="chatcmpl-1", created=5, fingerprint="f")
TEXT = Head(chat=False, model="m", id="chatcmpl-1", created=5, fingerprint="f")
CHUNK = {
    "created": 5,
    "id": "chatcmpl-1",
    "model": "m",
    "system_fingerprint": "f",
    "object": "chat.completion.chunk",
}


def pieces() -> Pieces:
    tokenizer = Tokenizer(models.BPE({letter: at for at, letter in enumerate(ALPHABET)}, []))
    tokenizer.decoder = decoders.ByteLevel()
    return Pieces(tokenizer)


PIECES = pieces()
TOKEN_OF = {PIECES[token]: token for token in range(256)}


def score(raw: bytes, logprob: float = -0.5, **rivals: float) -> Score:
    """Of the token of one byte; rivals by their letter."""
    return Score(TOKEN_OF[raw], logprob, tuple((TOKEN_OF[name.encode()], value) for name, value in rivals.items()))


def end(reason: Reason = "length", *, prompt: int = 10, cached: int = 0, tokens: int = 3) -> Ending:
    return Ending(reason, prompt, cached, tokens, prompt_seconds=0.5, seconds=0.2)


def body_of(answer: WholeAnswer, index: int, update: Update) -> bytes:
    """The whole answer, which is done with this update."""
    assert answer.take(index, update) == b""
    assert answer.done
    return answer.body()


class Parser:
    """Deltas that keep all text until the end, and call it a tool's call."""

    def __init__(self) -> None:
        self.text = ""

    def feed(self, text: str) -> list[dict[str, Any]]:
        self.text += text
        return []

    def end(self) -> tuple[list[dict[str, Any]], str | None]:
        return [{"content": " "}, {"tool_calls": [{"index": 0, "function": {"name": self.text}}]}], "tool_calls"

    def message(self) -> dict[str, Any]:
        return {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": self.text}}]}


def frames(data: bytes) -> list[Any]:
    """The frames' JSON, and b"[DONE]" for that; each frame must be whole."""
    assert not data or data.endswith(b"\n\n")
    values = [frame.removeprefix(b"data: ") for frame in data.split(b"\n\n")[:-1]]
    return [value if value == b"[DONE]" else orjson.loads(value) for value in values]


def test_a_whole_chat() -> None:
    answer = WholeAnswer(CHAT, PIECES)
    assert (answer.take(0, Update("Hel")), answer.done) == (b"", False)
    body = body_of(answer, 0, Update("lo", end=end("stop", cached=4)))
    assert answer.done
    assert orjson.loads(body) == {
        "choices": [{"finish_reason": "stop", "index": 0, "message": {"role": "assistant", "content": "Hello"}}],
        **CHUNK,
        "object": "chat.completion",
        "usage": {
            "completion_tokens": 3,
            "prompt_tokens": 10,
            "total_tokens": 13,
            "prompt_tokens_details": {"cached_tokens": 4},
        },
        "timings": {
            "cache_n": 4,
            "prompt_n": 6,
            "prompt_ms": 500.0,
            "prompt_per_token_ms": pytest.approx(500 / 6),
            "prompt_per_second": pytest.approx(12.0),
            "predicted_n": 3,
            "predicted_ms": 200.0,
            "predicted_per_token_ms": 100.0,
            "predicted_per_second": pytest.approx(10.0),
        },
    }


def test_a_whole_completion() -> None:
    body = orjson.loads(body_of(WholeAnswer(TEXT, PIECES), 0, Update("Hello", end=end())))
    assert body["choices"] == [{"text": "Hello", "index": 0, "logprobs": None, "finish_reason": "length"}]
    assert body["object"] == "text_completion"


def test_an_answer_of_no_tokens() -> None:
    body = orjson.loads(body_of(WholeAnswer(TEXT, PIECES), 0, Update(end=Ending("length", 0, 0, 0, 0.0, 0.0))))
    assert body["choices"][0]["text"] == ""
    assert body["usage"]["total_tokens"] == 0
    assert set(body["timings"].values()) == {0}


def test_a_streamed_chat_is_llama_servers_frame_by_frame() -> None:
    answer = StreamedAnswer(CHAT, PIECES)

    def chunk(delta: dict[str, Any], reason: str | None = None) -> dict[str, Any]:
        return {"choices": [{"finish_reason": reason, "index": 0, "delta": delta}], **CHUNK}

    first = frames(answer.take(0, Update("Hel")))
    assert first == [chunk({"role": "assistant", "content": None}), chunk({"content": "Hel"})]
    assert frames(answer.take(0, Update('"lo"\n'))) == [chunk({"content": '"lo"\n'})]
    *last, report, done = frames(answer.take(0, Update("!", end=end("stop"))))
    assert last == [chunk({"content": "!"})]
    timings = report.pop("timings")
    assert timings["predicted_n"] == 3
    assert report == chunk({}, "stop")
    assert done == b"[DONE]"
    assert answer.done


def test_a_streamed_completion_is_llama_servers_frame_by_frame() -> None:
    answer = StreamedAnswer(TEXT, PIECES)
    head = {**CHUNK, "object": "text_completion"}
    assert frames(answer.take(0, Update("a"))) == [
        {"choices": [{"text": "a", "index": 0, "logprobs": None, "finish_reason": None}], **head}
    ]
    report, done = frames(answer.take(0, Update(end=end())))
    assert report["choices"] == [{"text": "", "index": 0, "logprobs": None, "finish_reason": "length"}]
    assert report["usage"]["completion_tokens"] == 3
    assert report["timings"]["prompt_n"] == 10
    assert done == b"[DONE]"


@pytest.mark.parametrize("head", [CHAT, TEXT])
def test_usage_asked_for_is_a_chunk_without_choices(head: Head) -> None:
    answer = StreamedAnswer(head, PIECES, include_usage=True)
    *_, last, report, done = frames(answer.take(0, Update("a", end=end())))
    assert last["choices"][0]["finish_reason"] == "length"
    assert "usage" not in last
    assert report["choices"] == []
    assert report["usage"]["prompt_tokens"] == 10
    assert report["timings"]["predicted_n"] == 3
    assert done == b"[DONE]"


def test_the_role_comes_before_there_is_text() -> None:
    answer = StreamedAnswer(CHAT, PIECES)
    assert [one["choices"][0]["delta"] for one in frames(answer.take(0, Update()))] == [
        {"role": "assistant", "content": None}
    ]
    assert answer.take(0, Update()) == b""


def test_choices_of_a_stream_come_as_they_are_ready_and_the_report_with_the_last() -> None:
    answer = StreamedAnswer(CHAT, PIECES, n=2)
    answer.take(1, Update("b"))
    answer.take(0, Update("a"))
    (early,) = frames(answer.take(1, Update(end=end("stop", tokens=1))))
    assert early == {"choices": [{"finish_reason": "stop", "index": 1, "delta": {}}], **CHUNK}
    assert not answer.done
    last, done = frames(answer.take(0, Update(end=end(cached=9, tokens=3))))
    assert last["choices"] == [{"finish_reason": "length", "index": 0, "delta": {}}]
    assert done == b"[DONE]"
    assert last["timings"]["predicted_n"] == 4


def test_a_prompt_counts_once_and_each_choice_with_its_tokens() -> None:
    answer = WholeAnswer(TEXT, PIECES, prompts=2, n=2)
    answer.take(3, Update("d", end=end(prompt=20, cached=19, tokens=4)))
    answer.take(1, Update("b", end=end(prompt=10, cached=9, tokens=2)))
    answer.take(0, Update("a", end=end(prompt=10, cached=2, tokens=1)))
    body = orjson.loads(body_of(answer, 2, Update("c", end=end(prompt=20, cached=0, tokens=3))))
    assert [(choice["index"], choice["text"]) for choice in body["choices"]] == list(enumerate("abcd"))
    assert body["usage"] == {
        "completion_tokens": 10,
        "prompt_tokens": 30,
        "total_tokens": 40,
        "prompt_tokens_details": {"cached_tokens": 2},
    }
    timings = body["timings"]
    assert (timings["prompt_n"], timings["cache_n"], timings["predicted_n"]) == (28, 2, 10)
    assert timings["prompt_ms"] == 1000
    assert timings["predicted_per_token_ms"] == pytest.approx(800 / 6)


def test_a_prompt_that_was_cached_is_so_though_another_choice_computed_it_again() -> None:
    answer = WholeAnswer(TEXT, PIECES, n=3)
    for index, cached in enumerate((8, 0)):
        answer.take(index, Update(end=end(cached=cached)))
    body = orjson.loads(body_of(answer, 2, Update(end=end(cached=9))))
    assert body["usage"]["prompt_tokens_details"]["cached_tokens"] == 8
    assert (body["timings"]["cache_n"], body["timings"]["prompt_n"]) == (8, 2)


def test_a_prompt_that_nobody_read_was_not_computed() -> None:
    body = orjson.loads(body_of(WholeAnswer(TEXT, PIECES), 0, Update(end=Ending("length", 10, 0, 0, 0.0, 0.0))))
    assert (body["usage"]["prompt_tokens"], body["timings"]["prompt_n"], body["timings"]["cache_n"]) == (10, 0, 0)


def test_only_answers_with_scores_are_long_to_write() -> None:
    answer = WholeAnswer(CHAT, PIECES, n=2)
    answer.take(0, Update("a" * 1000, end=end()))
    assert not answer.long
    answer.take(1, Update("a", (score(b"a"),), end()))
    assert answer.long


@pytest.mark.parametrize("head", [CHAT, TEXT])
def test_the_service_reads_the_tokens_of_our_reports(head: Head) -> None:
    update = Update('"timings":{"prompt_n":99', end=end(cached=4))
    expected = Tokens(6 + 4, 4, 3, 0.1, prompt_seconds=0.5)
    assert tokens_of(body_of(WholeAnswer(head, PIECES), 0, update)) == expected
    assert tokens_of(StreamedAnswer(head, PIECES).take(0, update)) == expected
    assert tokens_of(StreamedAnswer(head, PIECES, include_usage=True).take(0, update)) == expected


def test_logprobs_of_a_whole_chat() -> None:
    answer = WholeAnswer(CHAT, PIECES)
    answer.take(0, Update("a", (score(b"a", -0.5, a=-0.5, b=-1.5),)))
    choice = orjson.loads(body_of(answer, 0, Update(end=end())))["choices"][0]
    told = {"id": TOKEN_OF[b"a"], "token": "a", "bytes": [97], "logprob": -0.5}
    rival = {"id": TOKEN_OF[b"b"], "token": "b", "bytes": [98], "logprob": -1.5}
    assert choice["logprobs"] == {"content": [{**told, "top_logprobs": [told, rival]}]}


def test_logprobs_of_a_completion_have_openais_lists_too() -> None:
    answer = WholeAnswer(TEXT, PIECES)
    answer.take(0, Update("ab", (score(b"a", -0.5, a=-0.5, b=-1.5), score(b"b", -2.0))))
    logprobs = orjson.loads(body_of(answer, 0, Update(end=end())))["choices"][0]["logprobs"]
    assert [one["token"] for one in logprobs.pop("content")] == ["a", "b"]
    assert logprobs == {
        "tokens": ["a", "b"],
        "token_logprobs": [-0.5, -2.0],
        "top_logprobs": [{"a": -0.5, "b": -1.5}, {}],
        "text_offset": [0, 1],
    }


def test_part_of_a_character_is_told_by_its_bytes() -> None:
    raw = "é".encode()
    answer = WholeAnswer(TEXT, PIECES)
    answer.take(0, Update("é", (score(raw[:1]), score(raw[1:]))))
    logprobs = orjson.loads(body_of(answer, 0, Update(end=end())))["choices"][0]["logprobs"]
    assert [one["bytes"] for one in logprobs["content"]] == [[0xC3], [0xA9]]
    assert logprobs["tokens"] == ["bytes:\\xc3", "bytes:\\xa9"]


def test_what_can_not_be_is_a_number_still() -> None:
    answer = WholeAnswer(CHAT, PIECES)
    body = orjson.loads(body_of(answer, 0, Update("a", (score(b"a", -math.inf),), end())))
    assert body["choices"][0]["logprobs"]["content"][0]["logprob"] == pytest.approx(-3.4028235e38)


@pytest.mark.parametrize("head", [CHAT, TEXT])
def test_streamed_logprobs_come_with_their_text(head: Head) -> None:
    answer = StreamedAnswer(head, PIECES)
    *_, one = frames(answer.take(0, Update("a", (score(b"a"),))))
    assert [told["token"] for told in one["choices"][0]["logprobs"]["content"]] == ["a"]
    (one,) = frames(answer.take(0, Update("bc", (score(b"b"), score(b"c")))))
    logprobs = one["choices"][0]["logprobs"]
    assert [told["token"] for told in logprobs["content"]] == ["b", "c"]
    assert logprobs.get("text_offset", [1, 2]) == [1, 2]
    (last, _) = frames(answer.take(0, Update(end=end())))
    assert last["choices"][0].get("logprobs") is None


def test_logprobs_of_text_that_is_held_back_wait_for_it() -> None:
    answer = StreamedAnswer(CHAT, PIECES, deltas=Parser)
    answer.take(0, Update())
    assert answer.take(0, Update("a", (score(b"a"),))) == b""
    before, call, last, _ = frames(answer.take(0, Update("b", (score(b"b"),), end("stop"))))
    assert "logprobs" not in before["choices"][0]
    assert [told["token"] for told in call["choices"][0]["logprobs"]["content"]] == ["a", "b"]
    assert "logprobs" not in last["choices"][0]


def test_a_parser_makes_the_message_and_the_reason() -> None:
    body = orjson.loads(body_of(WholeAnswer(CHAT, PIECES, deltas=Parser), 0, Update("f", end=end("stop"))))
    message = {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "f"}}]}
    assert body["choices"] == [{"finish_reason": "tool_calls", "index": 0, "message": message}]


def test_a_parsers_deltas_at_the_end_come_before_the_reason() -> None:
    answer = StreamedAnswer(CHAT, PIECES, deltas=Parser)
    _, _, call, last, _ = frames(answer.take(0, Update("f", end=end("stop"))))
    assert call["choices"][0]["delta"] == {"tool_calls": [{"index": 0, "function": {"name": "f"}}]}
    assert last["choices"][0]["finish_reason"] == "tool_calls"


def test_a_call_that_was_cut_off_is_no_call() -> None:
    body = orjson.loads(body_of(WholeAnswer(CHAT, PIECES, deltas=Parser), 0, Update("f", end=end("length"))))
    assert body["choices"][0]["finish_reason"] == "length"


def test_heads_have_ids_of_their_own() -> None:
    one, other = Head(chat=True, model="m"), Head(chat=True, model="m")
    assert one.id.startswith("chatcmpl-")
    assert one.id != other.id
