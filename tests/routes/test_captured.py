"""What becomes of a request between its body and its capture."""

from __future__ import annotations

from collections.abc import Callable
from unittest.mock import Mock

import pytest
from aiohttp import StreamReader, web
from aiohttp.test_utils import make_mocked_request

from manager.capture import Captures
from manager.inflight import Running
from routes.captured import hold, keep_answer, keep_end, keep_head, keep_request


@pytest.fixture
def captures() -> Captures:
    return Captures(enabled=True, size=100, keep=5)


def post() -> web.Request:
    return make_mocked_request(
        "POST", "/v1/chat/completions", headers={"Authorization": "Bearer x"}, payload=Mock(StreamReader)
    )


def test_nothing_is_made_of_a_body_before_it_is_held(captures: Captures) -> None:
    request = post()
    keep_request(request, captures, b"hello")
    assert len(captures) == 0
    capture = hold(request, captures)
    assert capture is not None
    told = capture.as_dict()
    assert told is not None
    assert told["request"]["body"] == "hello"
    assert hold(request, captures) is capture
    assert len(captures) == 1


@pytest.mark.parametrize("forget", [Captures.forget, lambda captures: captures.switch(False)])
def test_a_body_that_was_read_before_all_was_forgotten_is_not_held(
    captures: Captures, forget: Callable[[Captures], object]
) -> None:
    request = post()
    keep_request(request, captures, b"hello")
    forget(captures)
    captures.switch(True)
    assert hold(request, captures) is None
    assert len(captures) == 0


def test_nor_is_one_that_was_read_before_capturing_began(captures: Captures) -> None:
    assert hold(post(), captures) is None


async def test_an_answer_that_reaches_nobody_takes_no_place_of_one_that_has_begun(captures: Captures) -> None:
    request = post()
    keep_request(request, captures, b"hello")
    running = Running("one", "alpha", None, "/x", True)
    capture = running.capture = hold(request, captures)
    keep_head(request, running, web.StreamResponse(status=200))
    assert capture is not None
    capture.sent(b"a part")
    keep_end(request, running, ok=False)
    keep_answer(request, web.json_response({"error": "cancelled"}, status=409))
    told = capture.as_dict()
    assert told is not None
    assert (told["answer"]["status"], told["answer"]["body"], told["answer"]["size"]) == (200, "a part", 6)


def test_a_request_without_a_body_is_held(captures: Captures) -> None:
    assert hold(make_mocked_request("GET", "/props"), captures) is not None


def test_while_it_is_off_nothing_is_held(captures: Captures) -> None:
    request = post()
    keep_request(request, captures, b"hello")
    captures.enabled = False
    assert hold(request, captures) is None
