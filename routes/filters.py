"""What an entry or a profile does to the fields of a request (`request` in models.json)."""

from __future__ import annotations

from typing import Any

from aiohttp import web

from manager.catalog import Found
from routes.body import BODY, OWN_FIELDS

Body = dict[str, Any]


def filtered(
    request: web.Request, found: Found, body: Body, raw: bytes | None, *, chat: bool = True
) -> tuple[Body, bytes | None]:
    """The body with its fields changed, and its bytes, None where they are others now.

    Of what isn't a chat nothing is asked that only chats can have: a budget that the entry sets is left out.
    """
    rules = found.request
    changed = rules.applied(body) if rules else None
    if changed is None:
        return body, raw
    if not chat:
        changed = {name: value for name, value in changed.items() if name not in OWN_FIELDS or name in body}
    request[BODY] = changed
    return changed, None
