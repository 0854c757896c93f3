"""GET /admin/usage: who has used how much."""

from __future__ import annotations

import asyncio
import time

from aiohttp import web

from manager.service import SERVICE
from manager.usage_report import ROWS_MOST, query_of, report
from routes.models import json_response


async def usage(request: web.Request) -> web.Response:
    """Requests and tokens by `by` (key, model, day, hour), `since` and `until` a time, of a `key`, of a `model`."""
    service = request.app[SERVICE]
    names = {key.id: key.name for key in service.keys.list()}
    query = query_of(request.query, names, time.time())
    rows = await service.usage.rows(query, ROWS_MOST + 1)
    # In a thread: thousands of rows would hold up every other request.
    return json_response(await asyncio.to_thread(report, query, rows, names))
