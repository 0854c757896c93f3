"""What a request asks for, as far as that makes tokens: how many answers, and about how much is to be read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from routes.media import MEDIA

# Of a text of which nobody has told the tokens.
BYTES_OF_TOKEN: Final = 4
# The fields that are read by a model.
_READ: Final = (
    *("messages", "tools", "prompt", "input", "query", "documents", "texts"),
    *("input_prefix", "input_suffix", "input_extra"),
)
_IMAGES: Final = "multimodal_data"  # of llama.cpp's prompts


def prompts_of(body: Mapping[str, Any]) -> list[Any]:
    """The prompts of a completion. Numbers among them make all of them one, as llama.cpp has it."""
    prompt = body.get("prompt")
    return prompt if isinstance(prompt, list) and prompt and int not in map(type, prompt) else [prompt]


def asks_for_several(body: Mapping[str, Any]) -> bool:
    """Whether the answer may have more than one choice. `body` has gone through check_fields."""
    return (body.get("n") or 1) > 1 or (body.get("n_cmpl") or 1) > 1 or len(prompts_of(body)) > 1


def tokens_to_read(body: Mapping[str, Any]) -> int:
    """About how many tokens the model has to read. Media count nothing."""
    return tokens_in(body[name] for name in _READ if name in body)


def tokens_in(values: Iterable[Any]) -> int:
    """About how many tokens the texts in there are, at any depth; numbers are tokens themselves."""
    ids = size = 0
    left = list(values)
    while left:
        value = left.pop()
        if isinstance(value, str):
            size += len(value.encode(errors="replace"))
        elif isinstance(value, list):
            others = [item for item in value if type(item) is not int]
            ids += len(value) - len(others)
            left += others
        elif isinstance(value, dict) and not _is_media(value):
            left += [item for name, item in value.items() if name != _IMAGES]
    return ids + -(-size // BYTES_OF_TOKEN)


def _is_media(part: dict[str, Any]) -> bool:
    kind = part.get("type")
    return isinstance(kind, str) and kind in MEDIA
