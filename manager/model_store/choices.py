"""The quantisations that a repository offers, and what is said where none can be chosen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from manager.errors import ConfigError

# Nobody far away may say that.
PICKLES: Final = "the option --allow-pickle of `llamaherd model pull` and `import` allows that, on the machine itself"


class BadSource(ConfigError):
    """What was asked for means no model, or not this one. On the wire a mistake of the request."""

    status = 400
    type = "invalid_request_error"
    code = "invalid_request"


@dataclass(frozen=True, slots=True)
class Choice:
    """One quantisation: its name as the file names have it (Q4_K_M), bytes of all its files, None where unknown."""

    quant: str
    size: int | None
    files: tuple[str, ...]


class ChoiceNeeded(BadSource):
    """The repository holds several models, and nothing says which, or not the one that was asked for."""

    def __init__(self, message: str, choices: Sequence[Choice]) -> None:
        super().__init__(message, param="quant")
        self.choices = tuple(choices)
