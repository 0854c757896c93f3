"""Variants of one loaded model: what is done to the fields of requests for it, and its profiles (`model:profile`)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final

# Fields that have several names. What is said of one of them holds for the others, or a client could go round it.
_GROUPS: Final = (
    frozenset({"max_tokens", "max_completion_tokens", "n_predict"}),
    frozenset({"n", "n_cmpl"}),
    frozenset({"logprobs", "n_probs"}),
    frozenset({"reasoning_budget_tokens", "thinking_budget_tokens"}),
    frozenset({"tools", "functions"}),
    frozenset({"tool_choice", "function_call"}),
    frozenset({"ctx", "context_window", "n_ctx"}),
)
_NAMES: Final = {name: group for group in _GROUPS for name in group}


def names_of(name: str) -> frozenset[str]:
    """All names of a field of requests, the given one among them."""
    return _NAMES.get(name) or frozenset({name})


def all_names(fields: Iterable[str]) -> frozenset[str]:
    """All names of these fields."""
    return frozenset(name for field in fields for name in names_of(field))


@dataclass(frozen=True, slots=True)
class RequestFilter:
    """What is done to the fields of a request: stripped, then filled in where they are missing or null, then set.

    A value takes the place of a field as a whole, under any of its names.
    """

    strip: tuple[str, ...] = ()
    default: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    set: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))

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
        gone = all_names((*self.strip, *self.set))
        changed = {name: value for name, value in body.items() if name not in gone}
        filled = {
            name: value
            for name, value in self.default.items()
            if all(changed.get(other) is None and other not in self.set for other in names_of(name))
        }
        if not filled and not self.set and len(changed) == len(body):
            return None
        return {**changed, **filled, **self.set}


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
