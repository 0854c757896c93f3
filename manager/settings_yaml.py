"""Reading YAML, with mistakes that name file and line and show nothing of what stands there: it may be a secret."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Final

import yaml

from manager.errors import ConfigError

# What PyYAML says of *x, &x and !x, with which a passphrase may begin.
_NAME: Final = re.compile(r"\b(alias|anchor|tag|tag handle) '.*'")


def composed(path: Path) -> yaml.Node | None:
    """The document of the file, None where it is empty. Raises ConfigError."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise ConfigError(f"{path}: the configuration file (CONFIG_PATH) does not exist") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: can't be read: {getattr(error, 'strerror', None) or error}") from None
    try:
        return yaml.compose(text, yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = "" if mark is None else f", line {mark.line + 1}, column {mark.column + 1}"
        raise ConfigError(f"{path}{place}: not valid YAML: {_without_names(error)}") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not valid YAML: {error}") from None


def python(node: yaml.Node, place: str) -> Any:
    """The value of a node. Raises ConfigError, with `place`."""
    loader = yaml.SafeLoader("")
    try:
        return loader.construct_document(node)
    except yaml.MarkedYAMLError as error:
        what = _without_names(error)
    except (AttributeError, KeyError, ValueError) as error:  # PyYAML's, where a tag and its value don't go together
        # "month must be in 1..12" shows nothing; "invalid literal for int() with base 10: 'x'" does.
        harmless = isinstance(error, ValueError) and "'" not in str(error)
        what = str(error) if harmless else f"no {node.tag.rpartition(':')[2]}"
    finally:
        loader.dispose()
    raise ConfigError(f"{place}: not a value that can be read: {what}")


def _without_names(error: yaml.MarkedYAMLError) -> str:
    """What is wrong, without the line of the file that PyYAML's own message has."""
    return _NAME.sub(r"\1", error.problem or error.context or "")
