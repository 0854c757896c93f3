"""The settings as people may see them: each with its value, its default and where the value comes from."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from manager.settings import Settings
from manager.settings_layers import sections_of
from manager.settings_types import is_secret

MASK: Final = "********"  # always this long, whatever the secret is
DEFAULT: Final = "default"


@dataclass(frozen=True, slots=True)
class ShownSetting:
    """`value` and `default` as JSON has them, a secret masked. `name` is `section.key`.

    `default`: what the value would be with nothing set. `source`: "default", "command line", a variable, a file and
    its line, "a socket of systemd".
    """

    name: str
    section: str
    value: Any
    default: Any
    source: str
    description: str
    secret: bool


def shown_settings(settings: Settings) -> Iterator[ShownSetting]:
    """Every setting, as it was loaded. Blocks: defaults of paths depend on the present folder."""
    for section in sections_of(Settings):
        part = getattr(settings, section)
        values, defaults = part.model_dump(mode="json"), type(part)().model_dump(mode="json")
        for key, field in type(part).model_fields.items():
            name, secret = f"{section}.{key}", is_secret(field)
            source = settings.origins.get(name, DEFAULT)
            value = _masked(values[key]) if secret else values[key]
            # Of a path that follows from another setting, too.
            default = value if source == DEFAULT else None if secret else defaults[key]
            yield ShownSetting(name, section, value, default, source, field.description or "", secret)


def _masked(value: Any) -> str | None:
    return None if value is None else MASK
