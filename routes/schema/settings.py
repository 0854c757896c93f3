"""The settings, as administrators see them."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from routes.schema.answer import Answer


class ShownSetting(Answer):
    """A setting."""

    name: str = Field(description="`section.key`, as in `server.port`.")
    section: str
    value: Any = Field(description="As the service has it now; a secret that is set is masked.")
    default: Any = Field(description="What it is where nothing is set; null for a secret.")
    source: str = Field(
        description="`default`, `command line`, the name of a variable, a file and its line, or `a socket of systemd`."
    )
    description: str
    secret: bool


class ShownSettings(Answer):
    """Every setting, as it was when the service started."""

    config_path: str | None = Field(description="The YAML file that was read.")
    settings: list[ShownSetting]
