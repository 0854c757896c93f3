"""What is kept of a request and its answer: as much as may be, without secrets, and never more captures than wanted."""

from __future__ import annotations

import json
from collections.abc import Mapping

import pytest
from multidict import CIMultiDict

from manager.api_key import generate_key
from manager.capture import OVERLAP, REDACTED, Body, Capture, Captures, Redactor

KEY = generate_key()
NO_SECRETS = Redactor({})


def captures(*, size: int = 100, keep: int = 2) -> Captures:
    return Captures(enabled=True, size=size, keep=keep)


def asked(held: Captures, body: bytes = b"hello", headers: Mapping[str, str] | None = None) -> Capture:
    capture = held.begin("POST", "/v1/chat/completions", headers or {}, body)
    held.hold(capture)
    return capture


def answered(capture: Capture, *parts: bytes, redactor: Redactor = NO_SECRETS) -> dict[str, object]:
    """The answer as it is told after these parts."""
    capture.answer_begins(200, {"Content-Type": "application/json"}, redactor)
    for part in parts:
        capture.sent(part)
    capture.close(redactor)
    told = capture.as_dict()
    assert told is not None
    answer: dict[str, object] = told["answer"]
    return answer


def body_of(data: bytes, most: int, redactor: Redactor = NO_SECRETS) -> dict[str, object]:
    body = Body(most)
    body.add(data)
    body.close(redactor)
    return body.as_dict()


def test_both_sides_are_told_as_they_came_and_went() -> None:
    capture = asked(captures(), b'{"a": "\xc3\xa4"}', {"Accept": "*/*"})
    answer = answered(capture, b"data: 1\n\n", b"data: 2\n\n")
    told = capture.as_dict()
    assert told is not None
    assert told["request"] == {
        "method": "POST",
        "path": "/v1/chat/completions",
        "headers": {"Accept": "*/*"},
        "body": '{"a": "ä"}',
        "size": 11,
        "truncated": False,
    }
    assert answer == {
        "status": 200,
        "headers": {"Content-Type": "application/json"},
        "body": "data: 1\n\ndata: 2\n\n",
        "size": 18,
        "truncated": False,
    }


def test_an_answer_that_never_began_has_no_status() -> None:
    told = asked(captures()).as_dict()
    assert told is not None
    assert told["answer"] == {"status": None, "headers": {}, "body": "", "size": 0, "truncated": False}


@pytest.mark.parametrize(("size", "truncated"), [(9, False), (10, False), (11, True), (OVERLAP * 3, True)])
def test_a_body_is_cut_at_its_limit_and_its_whole_size_told(size: int, truncated: bool) -> None:
    told = body_of(b"x" * size, 10)
    assert told == {"body": "x" * min(size, 10), "size": size, "truncated": truncated}


def test_what_comes_in_parts_takes_no_more_memory_than_its_limit() -> None:
    body = Body(10)
    for _ in range(100):
        body.add(b"x" * 1000)
    assert len(body._start) == 10 + OVERLAP
    body.close(NO_SECRETS)
    assert (len(body._start), body.size) == (10, 100_000)


def test_a_character_that_is_cut_is_left_out() -> None:
    assert body_of("aä".encode(), 2)["body"] == "a"


def test_bytes_that_are_no_text_do_not_matter() -> None:
    told = body_of(b"a\xff\xc3", 10)
    assert json.dumps(told)
    assert told["body"] == "a\ufffd\ufffd"


@pytest.mark.parametrize(
    "name",
    [
        *("Authorization", "authorization", "X-Api-Key", "API-KEY", "apikey", "Cookie", "Set-Cookie"),
        *("Proxy-Authorization", "X-Auth-Token", "X-Amz-Security-Token", "Cf-Access-Jwt-Assertion", "X_API_KEY"),
    ],
)
def test_headers_that_hold_secrets_are_redacted_whatever_is_in_them(name: str) -> None:
    assert Redactor({}).headers({name: "abc", "Accept": "*/*"}) == {name: REDACTED, "Accept": "*/*"}


@pytest.mark.parametrize(
    "name", ["x-ratelimit-remaining-tokens", "Content-Type", "X-Request-ID", "User-Agent", "Keep-Alive"]
)
def test_other_headers_are_told(name: str) -> None:
    assert Redactor({}).headers({name: "abc"}) == {name: "abc"}


def test_a_header_with_a_key_in_it_is_redacted_whatever_its_name() -> None:
    assert Redactor({}).headers({"X-Note": f"mine: {KEY}"}) == {"X-Note": REDACTED}
    foreign = Redactor({"X-Api-Key": "some-other-key"})
    assert foreign.headers({"X-Note": "it is some-other-key"}) == {"X-Note": REDACTED}


def test_headers_that_come_twice_are_told_together() -> None:
    headers = CIMultiDict([("Accept", "a"), ("Accept", "b"), ("Cookie", "x"), ("Cookie", "y")])
    assert Redactor({}).headers(headers) == {"Accept": "a, b", "Cookie": REDACTED}


def test_header_bytes_that_are_no_text_can_be_told() -> None:
    assert json.dumps(Redactor({}).headers({"X-Name": "\udcff"})).isascii()


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "Basic"])
def test_the_key_of_the_caller_is_taken_out_of_both_bodies_and_the_path(scheme: str) -> None:
    secret = "not-in-our-form-0123"
    redactor = Redactor({"Authorization": f"{scheme} {secret}"})
    held = captures()
    capture = held.begin("GET", f"/chat/ask?question={secret}", {"Authorization": f"{scheme} {secret}"}, b"")
    held.hold(capture)
    answered(capture, b"it is not-in-our-", b"form-0123, really", redactor=redactor)
    told = capture.as_dict()
    assert secret not in json.dumps(told)
    assert told is not None
    assert told["request"]["path"] == f"/chat/ask?question={REDACTED}"
    assert told["answer"]["body"] == f"it is {REDACTED}, really"


def test_keys_of_others_are_taken_out_too() -> None:
    assert body_of(f"use {KEY}!".encode(), 100)["body"] == f"use {REDACTED}!"


def test_a_key_that_the_limit_would_cut_is_not_told_in_part() -> None:
    body = body_of(b"x" * 90 + KEY.encode(), 100)
    assert body["body"] == "x" * 90 + REDACTED
    assert "sk-lh" not in json.dumps(body)


def test_however_much_is_taken_out_no_part_of_a_key_is_told() -> None:
    assert "sk-lh" not in json.dumps(body_of(f"{KEY} ".encode() * 1000, 5000))


def test_a_word_in_place_of_a_key_stays_in_texts() -> None:
    assert body_of(b"ask ollama", 100, Redactor({"Authorization": "Bearer ollama"}))["body"] == "ask ollama"


def test_nothing_of_a_capture_shows_where_it_is_printed() -> None:
    held = captures()
    capture = asked(held, b"a prompt", {"X-Note": "a note"})
    answered(capture, b"an answer")
    printed = repr(capture) + str(capture) + repr(held) + repr([capture])
    assert not any(word in printed for word in ("prompt", "note", "answer\n", "an answer"))


def test_beyond_the_most_the_oldest_is_forgotten() -> None:
    held = captures(keep=2)
    first, second, third = (asked(held) for _ in range(3))
    assert [one.held for one in (first, second, third)] == [False, True, True]
    assert (first.as_dict(), len(held)) == (None, 2)


def test_what_is_forgotten_while_it_runs_takes_nothing_more_in() -> None:
    held = captures()
    capture = asked(held)
    held.forget()
    capture.answer_begins(200, {"X": "y"}, NO_SECRETS)
    capture.sent(b"more")
    capture.close(NO_SECRETS)
    assert (capture.as_dict(), capture._answer.size, capture._answer_head) == (None, 0, {})


def test_switching_off_forgets_and_tells_whether_it_changed_anything() -> None:
    held = captures()
    capture = asked(held)
    assert held.switch(True) is False
    assert capture.held
    assert held.switch(False) is True
    assert (capture.held, len(held), held.enabled) == (False, 0, False)
    assert held.switch(False) is False
