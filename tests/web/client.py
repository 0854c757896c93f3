"""A client of the service beside the browser."""

from __future__ import annotations

import http.client

from tests.e2e.service import Service
from tests.web.browser import PATIENCE


def status_of(
    service: Service, method: str, path: str, body: str | None = None, *, key: str | None = None, **headers: str
) -> int:
    """The status of a request's whole answer; `key`: another than that which may do everything."""
    connection = http.client.HTTPConnection("127.0.0.1", service.port, timeout=PATIENCE)
    try:
        connection.request(method, path, body, {"Authorization": f"Bearer {key or service.key}", **headers})
        response = connection.getresponse()
        response.read()
        return response.status
    finally:
        connection.close()
