"""What is kept of a request and its answer: as much as may be, without secrets, and never more captures than wanted."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Mapping
from itertools import pairwise

import pytest

from manager.api_key import generate_key
from manager.capture import AT_ONCE, OVERLAP, Body, Capture, Captures
from manager.redaction import REDACTED, Redactor

KEY = generate_key()
NO_SECRETS = Redactor({})


def captures(*, size: int = 100, keep: int = 2) -> Captures:
    return Captures(enabled=True, size=size, keep=keep)


def asked(held: Captures, body: bytes = b"hello", headers: Mapping[str, str] | None = None) -> Capture:
    return held.hold("POST", "/v1/chat/completions", headers or {}, body, NO_SECRETS)


def answered(capture: Capture, *parts: bytes, redactor: Redactor = NO_SECRETS) -> dict[str, object]:
    """The answer as it is told after these parts."""
    capture.answer_begins(200, {"Content-Type": "application/json"}, redactor)
    for part in parts:
        capture.sent(part)
    capture.answer_ends(redactor)
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
        "cut_off": False,
        "body": "data: 1\n\ndata: 2\n\n",
        "size": 18,
        "truncated": False,
    }


def test_an_answer_that_never_began_has_no_status() -> None:
    told = asked(captures()).as_dict()
    assert told is not None
    nothing = {"body": "", "size": 0, "truncated": False}
    assert told["answer"] == {"status": None, "headers": {}, "cut_off": False, **nothing}


@pytest.mark.parametrize(("size", "truncated"), [(9, False), (10, False), (11, True), (OVERLAP * 3, True)])
def test_a_body_is_cut_at_its_limit_and_its_whole_size_told(size: int, truncated: bool) -> None:
    told = body_of(b"x" * size, 10)
    assert told == {"body": "x" * min(size, 10), "size": size, "truncated": truncated}


def test_what_comes_in_parts_takes_no_more_memory_than_its_limit() -> None:
    body = Body(10)
    for _ in range(100):
        body.add(b"x" * 1000)
    assert len(body._raw) == 10 + OVERLAP
    body.close(NO_SECRETS)
    assert (len(body._raw), len(body._shown), body.size) == (0, 10, 100_000)


def test_a_character_that_is_cut_is_left_out() -> None:
    assert body_of("aä".encode(), 2)["body"] == "a"


def test_bytes_that_are_no_text_do_not_matter() -> None:
    told = body_of(b"a\xff\xc3", 10)
    assert json.dumps(told)
    assert told["body"] == "a\ufffd\ufffd"


def test_the_key_of_the_caller_is_taken_out_of_the_path_and_both_bodies() -> None:
    secret = "not-in-our-form-0123"
    headers = {"Authorization": f"Bearer {secret}"}
    redactor = Redactor(headers)
    capture = captures().hold("GET", f"/chat/ask?question={secret}", headers, b"so " + secret.encode(), redactor)
    answered(capture, b"it is not-in-our-", b"form-0123, really", redactor=redactor)
    told = capture.as_dict()
    assert told is not None
    assert secret not in json.dumps(told)
    assert told["request"]["path"] == f"/chat/ask?question={REDACTED}"
    assert told["request"]["body"] == f"so {REDACTED}"
    assert told["answer"]["body"] == f"it is {REDACTED}, really"


def test_a_key_that_the_limit_would_cut_is_not_told_in_part() -> None:
    body = body_of(b"x" * 90 + KEY.encode(), 100)
    assert body["body"] == "x" * 90 + REDACTED
    assert "sk-lh" not in json.dumps(body)


def test_however_much_is_taken_out_no_part_of_a_key_is_told() -> None:
    keys = f"{KEY} ".encode()
    for most in range(5000, 5000 + len(keys)):  # wherever the last one is cut
        assert "sk-lh" not in json.dumps(body_of(keys * 1000, most))


def test_a_member_that_the_limit_cuts_is_not_told_in_part() -> None:
    body = body_of(b'{"password": "' + b"hunter2 " * 10_000, 100)
    assert "hunter2" not in json.dumps(body)


async def test_a_large_body_is_redacted_by_a_thread_and_told_when_it_is() -> None:
    begun, go_on, threads = threading.Event(), threading.Event(), list[int]()

    class Slow(Redactor):
        def body(self, data: bytes) -> bytes:
            threads.append(threading.get_ident())
            begun.set()
            assert go_on.wait(10)
            return super().body(data)

    body = Body(AT_ONCE * 2)
    body.add(f"{KEY} ".encode() + b"x" * AT_ONCE)
    body.close(Slow({}))
    assert body.as_dict()["body"] == ""
    waiting = asyncio.create_task(body.settled())
    assert await asyncio.to_thread(begun.wait, 10)
    waiting.cancel()  # who wants to see it leaves
    await asyncio.wait({waiting})
    go_on.set()
    await body.settled()
    assert body.as_dict()["body"] == f"{REDACTED} " + "x" * AT_ONCE
    assert threads != [threading.get_ident()]


async def test_what_is_forgotten_while_a_thread_has_it_stays_forgotten() -> None:
    held = captures(size=AT_ONCE * 2)
    capture = asked(held, b"x" * (AT_ONCE + 1))
    request = capture._request
    held.forget()
    await request.settled()
    assert (capture.as_dict(), capture._request._shown) == (None, b"")


def test_nothing_of_a_capture_shows_where_it_is_printed() -> None:
    held = captures()
    capture = asked(held, b"a prompt", {"User-Agent": "a note"})
    answered(capture, b"an answer")
    printed = repr(capture) + str(capture) + repr(held) + repr([capture])
    assert not any(word in printed for word in ("prompt", "note", "answer\n", "an answer"))


def test_beyond_the_most_the_oldest_is_forgotten() -> None:
    held = captures(keep=2)
    first, second, third = (asked(held) for _ in range(3))
    assert [one.held for one in (first, second, third)] == [False, True, True]
    assert (first.as_dict(), len(held)) == (None, 2)


def test_what_is_forgotten_takes_no_place() -> None:
    held = captures(keep=2)
    first, second = asked(held), asked(held)
    second.forget()
    third = asked(held)
    assert [one.held for one in (first, second, third)] == [True, False, True]
    assert len(held) == 2


def test_each_time_that_all_is_forgotten_begins_a_generation() -> None:
    held = captures()
    generations = [held.generation]
    for forget in (held.forget, lambda: held.switch(False), lambda: held.switch(False)):
        forget()
        generations.append(held.generation)
    assert held.switch(True)
    assert all(before < after for before, after in pairwise(generations))
    assert held.generation == generations[-1]


def test_an_answer_that_was_cut_off_says_so() -> None:
    capture = asked(captures())
    capture.answer_begins(200, {}, NO_SECRETS)
    capture.sent(b"the beginn")
    capture.answer_ends(NO_SECRETS, cut_off=True)
    told = capture.as_dict()
    assert told is not None
    assert (told["answer"]["body"], told["answer"]["cut_off"]) == ("the beginn", True)


def test_what_is_forgotten_while_it_runs_takes_nothing_more_in() -> None:
    held = captures()
    capture = asked(held)
    held.forget()
    capture.answer_begins(200, {"X": "y"}, NO_SECRETS)
    capture.sent(b"more")
    capture.answer_ends(NO_SECRETS)
    assert (capture.as_dict(), capture._answer.size, capture._answer_head) == (None, 0, {})


def test_switching_off_forgets_and_tells_whether_it_changed_anything() -> None:
    held = captures()
    capture = asked(held)
    assert held.switch(True) is False
    assert capture.held
    assert held.switch(False) is True
    assert (capture.held, len(held), held.enabled) == (False, 0, False)
    assert held.switch(False) is False
