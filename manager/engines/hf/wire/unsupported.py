"""The fields of llama.cpp and OpenAI that this engine can't honour: refused by name, never ignored."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from manager.errors import InvalidRequest


class FieldError(InvalidRequest):
    """A field that can't be honoured; `message` goes on after its name."""

    def __init__(self, param: str, message: str) -> None:
        super().__init__(f"'{param}' {message}.", param=param)


# llama.cpp's samplers that we have, in the order in which they are applied, and those that do nothing here.
_SAMPLERS: Final = ("penalties", "top_k", "typ_p", "top_p", "min_p", "temperature")
_IDLE: Final = frozenset({"dry", "top_n_sigma", "xtc"})
_LETTERS: Final = {"e": "penalties", "k": "top_k", "y": "typ_p", "p": "top_p", "m": "min_p", "t": "temperature"} | {
    "d": "dry",
    "s": "top_n_sigma",
    "x": "xtc",
}


def _is_our_chain(value: Any) -> bool:
    names = [_LETTERS.get(letter) for letter in value] if isinstance(value, str) else value
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        return False
    return tuple(name for name in names if name not in _IDLE) == _SAMPLERS


def _is_zero(value: Any) -> bool:
    return value == 0 or value is False


def _is_off(value: Any) -> bool:
    return value is False


def _is_negative(value: Any) -> bool:
    return type(value) in {int, float} and value < 0


def _is_at_most(most: int) -> Callable[[Any], bool]:
    return lambda value: type(value) in {int, float} and value <= most


def _is_on(value: Any) -> bool:
    return value is True


def _is_empty(value: Any) -> bool:
    return value in ("", [])


def _never(_: Any) -> bool:
    return False


# Fields of llama.cpp and OpenAI that are not honoured, each with the values that ask for nothing. What only sets how
# strongly one of them works (mirostat_tau, dry_base, …) has no meaning without it.
UNSUPPORTED: Final[dict[str, Callable[[Any], bool]]] = {
    "dry_multiplier": _is_zero,
    "xtc_probability": _is_zero,
    "mirostat": _is_zero,
    "dynatemp_range": _is_zero,
    "top_n_sigma": _is_at_most(0),
    "adaptive_target": _is_negative,
    "min_keep": _is_at_most(1),
    "samplers": _is_our_chain,
    "backend_sampling": _is_off,
    "post_sampling_probs": _is_off,
    "n_keep": lambda value: value in (0, -1),
    "n_discard": _is_zero,
    "n_indent": _is_zero,
    "n_cache_reuse": _is_zero,
    "t_max_predict_ms": _is_at_most(0),
    "t_max_prompt_ms": _is_at_most(0),
    "id_slot": _is_negative,
    "lora": _is_empty,
    "reasoning_format": lambda value: value in ("auto", "deepseek", "none"),
    "reasoning_budget_message": _is_empty,
    "reasoning_budget_tokens": _is_negative,
    "thinking_budget_tokens": _is_negative,
    "reasoning_control": _is_off,
    "timings_per_token": _is_off,
    "return_progress": _is_off,
    "sse_ping_interval": _is_negative,
    "verbose": _is_off,
    "echo": _is_off,
    "suffix": _is_empty,
    "modalities": lambda value: value == ["text"],
    "audio": _never,
    "prediction": _never,
    "return_tokens": _is_off,
    "response_fields": _is_empty,
    "chat_template": _is_empty,
    "chat_parser": _is_empty,
    "parse_tool_calls": _is_on,
    "generation_prompt": _is_empty,
    "preserved_tokens": _is_empty,
    "grammar_lazy": _is_off,
    "grammar_triggers": _is_empty,
}


def refuse_unsupported(body: Mapping[str, Any], n: int = 1) -> None:
    """Raises FieldError for a field that asks for what we don't have. Null asks for nothing."""
    for name in UNSUPPORTED.keys() & body.keys():
        if body[name] is not None and not UNSUPPORTED[name](body[name]):
            raise FieldError(name, "is not supported by this model's engine with that value")
    if body.get("best_of") not in (None, n):
        raise FieldError("best_of", "is not supported: it must be as many as 'n'")
