"""What of the routes without a chat is seen elsewhere: tokens that count, and errors that are the client's."""

from __future__ import annotations

import json

import pytest

from manager.engines import UpstreamRequest
from manager.engines.llama.upstream import UpstreamClient
from manager.inflight import Tokens
from routes.asked import tokens_to_read
from routes.errors import from_engine
from routes.tokens import COUNTED, tokens_of


@pytest.mark.parametrize(("path", "field"), [("/v1/rerank", "documents"), ("/infill", "input_prefix")])
def test_inputs_that_are_too_long_are_the_clients_mistake(path: str, field: str) -> None:
    for status, said in (
        (500, {"message": "input (600 tokens) is too large to process. increase the physical batch size"}),
        (400, {"message": "input (600 tokens) is larger", "type": "exceed_context_size_error"}),
    ):
        error = from_engine(status, json.dumps({"error": said}).encode(), "m", path)
        assert (error.status, error.code, error.param) == (400, "context_length_exceeded", field)


def test_a_model_that_cannot_hear_says_so_as_a_400() -> None:
    said = "audio input is not supported - hint: if this is unexpected, you may need to provide the mmproj"
    error = from_engine(500, json.dumps({"error": {"message": said}}).encode(), "m")
    assert (error.status, error.code) == (400, "endpoint_not_supported")
    assert "'m'" in error.message


def test_rankings_and_gaps_count() -> None:
    assert {"/v1/rerank", "/infill"} <= COUNTED
    ranking = b'{"model":"m","object":"list","usage":{"prompt_tokens":35,"total_tokens":35},"results":[' + b" " * 9000
    assert tokens_of(ranking + b"]}") == Tokens(35, 0, 0)
    gap = b'{"content":"a","timings":{"cache_n":1,"prompt_n":16,"predicted_n":4,"predicted_ms":3.0}}'
    assert tokens_of(gap) == Tokens(17, 1, 4, 0.001)
    assert tokens_to_read({"query": "abcd", "texts": ["abcd"], "input_extra": [{"text": "abcd"}]}) == 3


def test_a_content_type_of_a_request_takes_the_place_of_json() -> None:
    client = UpstreamClient("/nowhere", "key")
    plain = client.encode(UpstreamRequest("POST", "/a", b"{}"))
    form = client.encode(UpstreamRequest("POST", "/a", b"x", {"Content-Type": "multipart/form-data; boundary=x"}))
    assert plain.count(b"Content-Type: ") == form.count(b"Content-Type: ") == 1
    assert b"Content-Type: multipart/form-data; boundary=x\r\n" in form
    assert client.encode(UpstreamRequest("POST", "/a", b"{}")) == plain
