"""A client of the service beside the browser."""

from __future__ import annotations

import http.client
import json
from typing import Any

from tests.e2e.service import Service
from tests.web.browser import PATIENCE


def status_of(
    service: Service, method: str, path: str, body: str | None = None, *, key: str | None = None, **headers: str
) -> int:
    """The status of a request's whole answer; `key`: another than that which may do everything."""
    return _answer(service, method, path, body, key or service.key, headers)[0]


def json_of(
    service: Service, path: str, method: str = "GET", body: object = None, *, key: str | None = None
) -> dict[str, Any]:
    """The JSON object that a request is answered with; AssertionError where that is an error."""
    status, text = _answer(service, method, path, None if body is None else json.dumps(body), key or service.key, {})
    assert status < 300, f"{method} {path}: {status} {text!r}"
    answer: dict[str, Any] = json.loads(text)
    return answer


def _answer(
    service: Service, method: str, path: str, body: str | None, key: str, headers: dict[str, str]
) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", service.port, timeout=PATIENCE)
    try:
        connection.request(method, path, body, {"Authorization": f"Bearer {key}", **headers})
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()
