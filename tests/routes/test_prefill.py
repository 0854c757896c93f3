"""What the assistant had begun, and answers without it."""

from __future__ import annotations

from typing import Any

import pytest

from routes.prefill import begun_of, without_prefill

USER = {"role": "user", "content": "hi"}
PARTS = [{"type": "text", "text": "a"}, {"type": "image_url", "image_url": {}}, {"type": "text", "text": "b"}]


@pytest.mark.parametrize(
    ("messages", "begun"),
    [
        ([], ""),
        ([USER], ""),
        ([{"role": "assistant", "content": "a"}, USER], ""),
        ([USER, {"role": "assistant", "content": "a"}], "a"),
        ([USER, {"role": "assistant", "content": None}], ""),
        ([USER, {"role": "assistant"}], ""),
        ([USER, {"role": "assistant", "content": PARTS}], "a\n\nb"),  # as llama.cpp makes a text of them
    ],
)
def test_a_last_message_of_the_assistant_is_the_beginning(messages: list[dict[str, Any]], begun: str) -> None:
    assert begun_of(messages) == begun


def test_thoughts_are_begun_too() -> None:
    assert begun_of([{"role": "assistant", "reasoning_content": "hm"}], "reasoning_content") == "hm"


def test_the_beginning_is_left_out_once_and_only_at_the_start() -> None:
    assert without_prefill("a b a", "a ") == "b a"
    assert without_prefill("b a", "a") == "b a"
    assert without_prefill("a", "") == "a"
