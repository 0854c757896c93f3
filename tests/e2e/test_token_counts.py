"""What the account of a key says of requests to a real llama.cpp, which reports some of their tokens only."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.e2e.service import PATIENCE, Service, running
from tests.gguf_files import write_tiny_gguf

Took = Callable[[str, dict[str, Any]], tuple[int, int]]
MADE = 6
# Every choice has just as many tokens, and its prompts are ids, which can be counted.
COMPLETION = {"model": "tiny", "ignore_eos": True, "max_tokens": MADE, "temperature": 0}
PROMPTS = [[5, 6, 7], [8] * 40]


@pytest.fixture(scope="module")
def counting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("counting")
    (folder / "data").mkdir()
    write_tiny_gguf(folder / "tiny.gguf")
    tiny = {"model": "tiny.gguf", "threads": 1, "parallel": 4}
    models = {"tiny": {"params": tiny}, "vectors": {"params": {**tiny, "embedding": True, "pooling": "mean"}}}
    (folder / "data" / "models.json").write_text(json.dumps(models))
    environment = {"LLAMAHERD_LLAMA__LAUNCHER": "embedded", "LLAMAHERD_STORAGE__MODELS_FOLDER": str(folder)}
    with running(folder, environment) as service:
        yield service


@pytest.fixture
def took(counting: Service) -> Took:
    """Sends a request, reads all of its answer, and tells what it added to the tokens of prompts and of answers."""

    def ask(path: str, body: dict[str, Any] | None = None) -> bytes:
        headers = {"Authorization": f"Bearer {counting.key}"}
        data = None if body is None else json.dumps(body).encode()
        with urllib.request.urlopen(  # noqa: S310  the service's own address
            urllib.request.Request(counting.url + path, data, headers),  # noqa: S310
            timeout=PATIENCE,
        ) as answer:
            content: bytes = answer.read()
            return content

    def used() -> tuple[int, int]:
        total = json.loads(ask("/admin/usage"))["total"]
        return total["prompt_tokens"], total["completion_tokens"]

    def send(path: str, body: dict[str, Any]) -> tuple[int, int]:
        before = used()
        ask(path, body)
        after = used()
        return after[0] - before[0], after[1] - before[1]

    return send


@pytest.mark.parametrize("usage", [False, True])
@pytest.mark.parametrize("more", [{}, {"timings_per_token": True}, {"verbose": True}, {"return_progress": True}])
def test_a_stream_of_several_choices_counts_all_of_them(took: Took, usage: bool, more: dict[str, Any]) -> None:
    options = {"stream": True, "stream_options": {"include_usage": usage}, **more}
    assert took("/v1/completions", {**COMPLETION, "prompt": PROMPTS, **options}) == (43, 2 * MADE)
    assert took("/v1/completions", {**COMPLETION, "prompt": PROMPTS, "n": 2, **options}) == (43, 4 * MADE)
    assert took("/v1/completions", {**COMPLETION, "prompt": PROMPTS[0], **options}) == (3, MADE)


def test_a_chat_of_several_choices_counts_its_prompt_once(took: Took) -> None:
    chat = {**COMPLETION, "messages": [{"role": "user", "content": "one two three"}]}
    prompt, made = took("/v1/chat/completions", chat)
    assert made == MADE
    assert took("/v1/chat/completions", {**chat, "n": 3, "stream": True}) == (prompt, 3 * MADE)
    options = {"stream": True, "stream_options": {"include_usage": True}, "verbose": True}
    assert took("/v1/chat/completions", {**chat, "n": 3, **options}) == (prompt, 3 * MADE)


def test_a_whole_answer_of_several_choices_counts_all_of_them(took: Took) -> None:
    prompt, made = took("/v1/completions", {**COMPLETION, "prompt": PROMPTS, "n": 2, "logprobs": 1})
    assert prompt == 43
    assert made == pytest.approx(4 * MADE, abs=4), "tokens that are only a part of a letter are not shown"
    prompt, made = took("/v1/completions", {**COMPLETION, "prompt": PROMPTS * 5})
    assert prompt == 5 * 43
    assert made >= MADE + 9, "by the length of its texts, but a token each at least"


@pytest.mark.parametrize("form", ["float", "base64"])
def test_embeddings_count_what_was_read(took: Took, form: str) -> None:
    body = {"model": "vectors", "input": PROMPTS * 20, "encoding_format": form}
    assert took("/v1/embeddings", body) == (20 * 43, 0)
