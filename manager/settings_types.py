"""The types of single settings: what a number, a time, a path or an origin must be; and of a section of them."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Annotated, Any, Final, get_args

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, SecretStr
from pydantic.fields import FieldInfo

VERBOSITY: Final = ("error", "warning", "info", "trace", "debug")

_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://[^/\s]+")
_HTTP_URL = re.compile(r"https?://[^/\s?#@]+(/[^/\s?#]+)*", re.IGNORECASE)


def _not_bool(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError("must be a number")
    return value


def _absolute(path: Path) -> Path:
    try:
        path = path.expanduser()
    except RuntimeError:
        raise ValueError("its ~ means no folder here: set HOME, or the whole path") from None
    # Not resolve(): a link to the data is the name under which its owner knows it.
    return Path(os.path.abspath(path))  # noqa: PTH100  see above


def _not_empty(value: Any) -> Any:
    if isinstance(value, str) and not value.strip():
        raise ValueError("must not be empty")
    if isinstance(value, str) and "\0" in value:
        raise ValueError("must not contain a NUL character")
    return value


def lower(value: Any) -> Any:
    return value.lower() if isinstance(value, str) else value


def upper(value: Any) -> Any:
    return value.upper() if isinstance(value, str) else value


def _verbosity(value: Any) -> Any:
    if isinstance(value, str) and value.isdecimal():
        value = int(value)
    if isinstance(value, str):
        value = {"warn": "warning"}.get(value.lower(), value.lower())
    if value is None or value in VERBOSITY or (type(value) is int and 0 <= value <= 5):
        return value
    raise ValueError(f"must be one of {', '.join(VERBOSITY)}, or a number from 0 to 5")


def _origin(value: str) -> str:
    if value != "*" and not _ORIGIN.fullmatch(value.lower()):
        raise ValueError(
            "must be '*' or an origin such as https://chat.example.org, without a path or a slash at its end"
        )
    return value


def _http_url(value: str) -> str:
    value = value.rstrip("/")
    if not _HTTP_URL.fullmatch(value):
        raise ValueError("must be an address such as https://hub.example.org")
    return value


def is_secret(field: FieldInfo) -> bool:
    """Whether the value of this field of a section is shown to nobody."""
    return SecretStr in (field.annotation, *get_args(field.annotation))


def none_if_empty(value: Any) -> Any:
    return None if value == "" else value


Int = Annotated[int, BeforeValidator(_not_bool)]
Number = Annotated[float, BeforeValidator(_not_bool), Field(allow_inf_nan=False)]
Seconds = Annotated[Number, Field(gt=0)]
Text = Annotated[str, AfterValidator(_not_empty)]
AbsolutePath = Annotated[Path, BeforeValidator(_not_empty), AfterValidator(_absolute)]
HttpUrl = Annotated[str, AfterValidator(_http_url)]
Origin = Annotated[str, AfterValidator(_origin)]
Verbosity = Annotated[str | int | None, BeforeValidator(_verbosity)]


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)
