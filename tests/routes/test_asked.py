"""What a request asks for: how many answers, and about how much is to be read."""

from __future__ import annotations

from typing import Any

import pytest

from routes.asked import asks_for_several, prompts_of, tokens_to_read


@pytest.mark.parametrize(
    ("body", "prompts"),
    [
        ({}, [None]),
        ({"prompt": "one"}, ["one"]),
        ({"prompt": ["one", "two"]}, ["one", "two"]),
        ({"prompt": [1, 2]}, [[1, 2]]),
        ({"prompt": ["one", 2]}, [["one", 2]]),
        ({"prompt": [[1, 2], "two"]}, [[1, 2], "two"]),
        ({"prompt": []}, [[]]),
    ],
)
def test_prompts_are_told_apart_as_llama_cpp_does(body: dict[str, Any], prompts: list[Any]) -> None:
    assert prompts_of(body) == prompts
    assert asks_for_several(body) == (len(prompts) > 1)


@pytest.mark.parametrize(
    ("body", "several"),
    [({"n": 1}, False), ({"n": None}, False), ({"n": 2}, True), ({"n_cmpl": 2}, True), ({"n": 1, "n_cmpl": 3}, True)],
)
def test_more_than_one_answer_is_asked_for_under_two_names(body: dict[str, Any], several: bool) -> None:
    assert asks_for_several({"messages": [], **body}) == several


@pytest.mark.parametrize(
    ("body", "tokens"),
    [
        ({}, 0),
        ({"prompt": "12345678"}, 2),
        ({"prompt": "123456789"}, 3),
        ({"prompt": "日本語日"}, 3),  # 12 bytes
        ({"prompt": "\ud800"}, 1),
        ({"prompt": [5, 6, 7]}, 3),
        ({"prompt": ["12345678", 5]}, 3),
        ({"input": [[5, 6], [7]]}, 3),
        ({"prompt": {"prompt_string": "1234", "multimodal_data": ["x" * 1000]}}, 1),
        ({"messages": [{"role": "user", "content": "12345678"}], "user": "x" * 1000}, 3),
        ({"messages": [{"content": [{"type": "image_url", "image_url": {"url": "x" * 1000}}]}]}, 0),
        ({"messages": [{"content": [{"type": "text", "text": "1234"}]}]}, 2),
        ({"tools": [{"parameters": {"type": ["null", "object"]}}]}, 3),
    ],
)
def test_what_is_to_be_read_counts_by_its_length_without_media(body: dict[str, Any], tokens: int) -> None:
    assert tokens_to_read(body) == tokens


def test_no_depth_is_too_much() -> None:
    deep: list[Any] = ["1234"]
    for _ in range(5000):
        deep = [deep]
    assert tokens_to_read({"prompt": deep}) == 1
