"""Variants of one loaded model: what is done to the fields of requests for it, and its profiles (`model:profile`)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final

import orjson

# Fields that have several names. What is said of one of them holds for the others, or a client could go round it.
_GROUPS: Final = (
    frozenset({"max_tokens", "max_completion_tokens", "n_predict"}),
    frozenset({"n", "n_cmpl"}),
    frozenset({"logprobs", "n_probs"}),
    frozenset({"reasoning_budget_tokens", "thinking_budget_tokens"}),
    frozenset({"tools", "functions"}),
    frozenset({"tool_choice", "function_call"}),
    frozenset({"ctx", "context_window", "n_ctx"}),
    frozenset({"response_format", "json_schema", "grammar"}),
)
# What makes no sense, or an error, without a field: it is stripped with it.
_WITH: Final = {
    "tools": frozenset({"tool_choice", "function_call", "parallel_tool_calls"}),
    "logprobs": frozenset({"top_logprobs"}),
}
# A field, and the keys in another one by which templates are told the same.
EFFORT: Final = "reasoning_effort"
TEMPLATE: Final = "chat_template_kwargs"
_EFFORT_KEYS: Final = frozenset({"reasoning_effort", "enable_thinking"})
_NAMES: Final = {name: group for group in _GROUPS for name in group}


def names_of(name: str) -> frozenset[str]:
    """All names of a field of requests, the given one among them: of what says the same, one counts at most."""
    return _NAMES.get(name) or frozenset({name})


def all_names(fields: Iterable[str]) -> frozenset[str]:
    """All names of these fields."""
    return frozenset(name for field in fields for name in names_of(field))


def _tells_effort(fields: Mapping[str, Any]) -> bool:
    """Whether these fields tell the template what `reasoning_effort` would."""
    told = fields.get(TEMPLATE)
    return isinstance(told, Mapping) and not _EFFORT_KEYS.isdisjoint(told)


@dataclass(frozen=True, slots=True, eq=False)
class RequestFilter:
    """What is done to the fields of a request: stripped, then filled in where they are missing or null, then set.

    A value takes the place of a field as a whole, under any of its names.
    """

    strip: tuple[str, ...] = ()
    default: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    set: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))

    def __eq__(self, other: object) -> bool:
        # As it is written: to Python True is 1, but not to an engine.
        return isinstance(other, RequestFilter) and self._written() == other._written()

    def __hash__(self) -> int:
        return hash(self._written())

    def _written(self) -> bytes:
        return orjson.dumps(self.as_dict(), option=orjson.OPT_SORT_KEYS)

    def __bool__(self) -> bool:
        return bool(self.strip or self.default or self.set)

    def as_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return {"set": dict(self.set), "default": dict(self.default), "strip": list(self.strip)}

    def under(self, other: RequestFilter) -> RequestFilter:
        """Both together: fields that either strips, and of each value what `other` says where it says one."""
        defaults, both = all_names(other.default), all_names((*other.default, *other.set))
        return RequestFilter(
            tuple(dict.fromkeys((*self.strip, *other.strip))),
            {name: value for name, value in self.default.items() if name not in defaults} | dict(other.default),
            {name: value for name, value in self.set.items() if name not in both} | dict(other.set),
        )

    def applied(self, body: Mapping[str, Any]) -> dict[str, Any] | None:
        """The body of a request with its fields changed; None where there is nothing to change."""
        left = self._left(body)
        filled = {name: value for name, value in self.default.items() if not self._told(name, left)}
        return None if not filled and not self.set and left == body else {**left, **filled, **self.set}

    def _left(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """What stays of a request's own fields."""
        gone = all_names((*self.strip, *self.set)).union(*(_WITH.get(name, ()) for name in all_names(self.strip)))
        if not self.set.get("logprobs", True):
            gone |= _WITH["logprobs"]
        if _tells_effort(self.set):
            gone |= {EFFORT}
        left = {name: value for name, value in body.items() if name not in gone}
        if EFFORT in gone and _tells_effort(left):
            left[TEMPLATE] = {name: value for name, value in left[TEMPLATE].items() if name not in _EFFORT_KEYS}
        return left

    def _told(self, name: str, left: Mapping[str, Any]) -> bool:
        """Whether the request, or what is set, says something of this field."""
        if name == EFFORT and _tells_effort(left):
            return True
        return any(left.get(other) is not None or other in self.set for other in names_of(name))


@dataclass(frozen=True, slots=True)
class Profile:
    """A variant of a model under an id of its own. `request` is all that is done, with what its entry says.

    `personality` is that of requests which name none; `listed`: whether it is in the list of models.
    """

    request: RequestFilter = field(default_factory=RequestFilter)
    personality: str | None = None
    description: str | None = None
    listed: bool = True

    def as_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return {
            "description": self.description,
            "personality": self.personality,
            "request": self.request.as_dict(),
            "listed": self.listed,
        }
