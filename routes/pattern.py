"""The patterns of paths, as people see them."""

from __future__ import annotations

import re


def plain_path(path: str) -> str:
    """A pattern of aiohttp's as OpenAPI writes it: `{id:.+}` is `{id}`."""
    return re.sub(r"{(\w+)[^}]*}", r"{\1}", path)
