"""Processes that die or are ended: a model's in the middle of a stream, and the service's own."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from typing import Any

import openai
import psutil
import pytest
from openai import OpenAI

from tests.e2e.service import PATIENCE, Service

pytestmark = pytest.mark.timeout(180)

HELLO: Any = [{"role": "user", "content": "Name a colour."}]


def streaming(client: OpenAI, tokens: int) -> Iterator[Any]:
    """A stream of so many tokens whose first chunk has come."""
    stream = client.chat.completions.create(
        model="smol-cold", messages=HELLO, stream=True, max_tokens=tokens, extra_body={"ignore_eos": True}
    )
    chunks = iter(stream)
    next(chunks)
    return chunks


def client_of(service: Service) -> OpenAI:
    return OpenAI(base_url=service.openai_url, api_key=service.key, max_retries=0, timeout=PATIENCE)


def test_a_killed_process_ends_its_stream_with_an_error_and_the_next_request_gets_a_new_one(
    client: OpenAI, service: Service
) -> None:
    chunks = streaming(client, 1500)
    child = service.child("smol-cold")
    child.kill()
    killed = time.monotonic()
    with pytest.raises(openai.APIError) as caught:
        list(chunks)
    assert time.monotonic() - killed < 1
    assert caught.value.code == "upstream_closed"
    assert client.chat.completions.create(model="smol-cold", messages=HELLO, max_tokens=1).choices
    assert service.child("smol-cold").pid != child.pid
    assert not child.is_running()
    errors: Any = OpenAI.get(client, f"{service.url}/chat/errors", cast_to=object)
    assert errors["errors"][-1]["model"] == "smol-cold"


def test_no_process_is_left_where_the_service_is_killed(fresh_service: Service) -> None:
    with client_of(fresh_service) as client:
        for model in ("tiny", "tiny-greedy"):
            client.chat.completions.create(model=model, messages=HELLO, max_tokens=1)
    children = fresh_service.children()
    assert len(children) >= 2
    fresh_service.process.kill()
    assert fresh_service.wait_ended(children) == -signal.SIGKILL


def test_sigterm_lets_a_stream_end_whole_refuses_new_requests_and_exits_0(fresh_service: Service) -> None:
    with client_of(fresh_service) as client:
        chunks = streaming(client, 60)
        children = fresh_service.children()
        assert children
        fresh_service.process.terminate()
        fresh_service.wait_for_log(r"draining in_flight=1")
        with pytest.raises(openai.InternalServerError) as caught:
            client.chat.completions.create(model="smol-cold", messages=HELLO)
        assert caught.value.code == "shutting_down"
        assert list(chunks)[-1].choices[0].finish_reason == "length"
    assert fresh_service.wait_ended(children) == 0
    assert not [child for child in children if psutil.pid_exists(child.pid)]


def test_a_second_sigterm_does_not_wait_for_a_stream(fresh_service: Service) -> None:
    with client_of(fresh_service) as client:
        chunks = streaming(client, 1500)
        children = fresh_service.children()
        fresh_service.process.terminate()
        fresh_service.wait_for_log(r"draining in_flight=1")
        fresh_service.process.terminate()
        with pytest.raises(openai.APIError):
            list(chunks)
    assert fresh_service.wait_ended(children) == 0


def test_sigterm_while_a_model_loads_still_answers_the_request_that_waits_for_it(fresh_service: Service) -> None:
    with client_of(fresh_service) as client:
        waiting = client.chat.completions.create(model="smol-cold", messages=HELLO, stream=True, max_tokens=1)
        assert "state=ready" not in fresh_service.log
        assert fresh_service.stop() == 0
        assert list(waiting)[-1].choices[0].finish_reason == "length"
