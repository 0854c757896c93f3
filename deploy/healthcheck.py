"""Exit 0 where the service of this container answers. Its settings tell where: environment, .env, CONFIG_PATH."""

from __future__ import annotations

import http.client
import ssl
import sys

from manager.errors import ConfigError
from manager.settings import Settings, load_settings

TIMEOUT = 5.0  # seconds
ANYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104  what is listened on, to what is asked


def answers(settings: Settings) -> bool:
    """Whether GET /health is answered with 200. Raises OSError where nobody listens."""
    connection = _connection(settings)
    try:
        connection.request("GET", "/health", headers={"Host": "localhost"})
        return connection.getresponse().status == http.client.OK
    except ssl.SSLError:
        # A service that asks for client certificates is there to refuse this one.
        return settings.tls.client_ca is not None
    finally:
        connection.close()


def _connection(settings: Settings) -> http.client.HTTPConnection:
    host, port = ANYWHERE.get(settings.server.host, settings.server.host), settings.server.port
    if not settings.tls.wanted:
        return http.client.HTTPConnection(host, port, timeout=TIMEOUT)
    # The certificate is for a public name, and nothing secret is sent.
    anyone = ssl._create_unverified_context()  # noqa: S323
    return http.client.HTTPSConnection(host, port, timeout=TIMEOUT, context=anyone)


if __name__ == "__main__":
    try:
        sys.exit(0 if answers(load_settings()) else "the service does not answer with 200")
    except (OSError, http.client.HTTPException, ConfigError) as error:
        sys.exit(f"the service does not answer: {error}")
