"""Whom the settings let reach the service. What lets others in needs a setting with an ugly name."""

from __future__ import annotations

import ipaddress
import logging
from typing import Final

from manager.addresses import is_loopback
from manager.auth import KeyStore
from manager.errors import ConfigError
from manager.settings import Settings

logger = logging.getLogger(__name__)

# Networks of proxies with fewer bits than this are a mistake, or soon will be one.
NARROWEST: Final = 8


def refuse_weakness(settings: Settings, keys: KeyStore) -> None:
    """Raise ConfigError where others could reach the service without a key, or read keys on their way to it."""
    server = settings.server
    _warn_of_wide_proxies(settings)
    reached = _reached(settings)
    if reached is None:
        return
    if not len(keys):
        if not server.dangerously_serve_without_keys:
            raise ConfigError(
                f"{reached}, and no API key is stored in {settings.storage.keys_file}: make one with 'llamaherd key "
                "create NAME', or listen on 127.0.0.1. (server.dangerously_serve_without_keys lets everyone in.)"
            )
    elif not settings.tls.wanted and not is_loopback(server.host):
        if not server.dangerously_send_keys_in_clear:
            raise ConfigError(
                f"{reached}, and keys would travel over plain HTTP, where others can read them: name a certificate "
                f"(tls.host, or make one with 'llamaherd tls self-signed NAME'), or listen on 127.0.0.1 behind a "
                "proxy that ends TLS. (server.dangerously_send_keys_in_clear sends them all the same.)"
            )
        warn_of_keys_in_clear(settings)


def warn_of_keys_in_clear(settings: Settings) -> None:
    """Say in the log where that is so."""
    if not settings.tls.wanted and not is_loopback(settings.server.host):
        logger.warning(
            "API keys travel in clear to %s: only safe where a proxy ends TLS before it", settings.server.host
        )


def _reached(settings: Settings) -> str | None:
    """How others than this machine can reach the service; None where they can't."""
    server = settings.server
    if not is_loopback(server.host):
        return f"it listens on {server.host} (server.host, or a socket that systemd passes), which others can reach"
    if server.trusted_proxies:
        return "server.trusted_proxies names proxies, which let others in"
    others = [name for name in server.allowed_hosts if not is_loopback(name)]
    return f"server.allowed_hosts has {others[0]}, by which others are to call it" if others else None


def _warn_of_wide_proxies(settings: Settings) -> None:
    for network in settings.server.trusted_proxies:
        if ipaddress.ip_network(network).prefixlen < NARROWEST:
            logger.warning("server.trusted_proxies has %s: whoever is in it may say that it is somebody else", network)
