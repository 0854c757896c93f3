"""The settings with which the service runs."""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from typing import Any

from aiohttp import web

from manager.service import SERVICE
from manager.settings import Settings
from manager.settings_shown import shown_settings
from manager.strict_json import sendable
from routes.models import json_response


async def show_settings(request: web.Request) -> web.Response:
    """GET /admin/settings: every setting with its value, its default and where it comes from; secrets are masked."""
    return json_response(await asyncio.to_thread(_shown, request.app[SERVICE].settings))


def _shown(settings: Settings) -> dict[str, Any]:
    path = settings.config_path
    shown = {
        "config_path": None if path is None else str(path),
        "settings": [asdict(setting) for setting in shown_settings(settings)],
    }
    return {name: sendable(value) for name, value in shown.items()}
