"""Socket activation: listening sockets that systemd has made and passes on, after the protocol of sd_listen_fds(3)."""

from __future__ import annotations

import os
import socket
from collections.abc import MutableMapping, Sequence
from dataclasses import dataclass
from typing import Final

from manager.addresses import is_loopback
from manager.errors import ConfigError
from manager.settings import Settings

FIRST: Final = 3  # SD_LISTEN_FDS_START
_VARIABLES: Final = ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "LISTEN_PIDFDID")
_MAIN: Final = frozenset({"https", "main", "unknown", ""})
_HTTP: Final = "http"
# Where a setting comes from that such a socket decides.
SOCKET: Final = "a socket of systemd"
# How systemd calls the sockets of a unit that gives them no name.
_UNNAMED: Final = ".socket"


@dataclass(frozen=True, slots=True)
class PassedSocket:
    """A listening TCP socket, by its descriptor, with the address that it is bound to."""

    descriptor: int
    host: str
    port: int


@dataclass(frozen=True, slots=True)
class PassedSockets:
    """For the API and, beside HTTPS, for plain HTTP. Where one of them is empty, the settings say where to listen."""

    main: tuple[PassedSocket, ...] = ()
    http: tuple[PassedSocket, ...] = ()

    def applied_to(self, settings: Settings) -> Settings:
        """The settings with the address that is really listened on: whom it lets in is judged by that.

        Raises ConfigError where there is a socket for plain HTTP and no HTTPS.
        """
        if self.http and not settings.tls.wanted:
            raise ConfigError(
                "systemd passes a socket named http, which sends clients to HTTPS, but HTTPS is off: name a "
                "certificate (tls.host), or disable llamaherd-http.socket"
            )
        if not self.main:
            return settings
        # Of several the one that lets others in: it decides what the service must ask for.
        widest = next((one for one in self.main if not is_loopback(one.host)), self.main[0])
        server = settings.server.model_copy(update={"host": widest.host, "port": widest.port})
        origins = {**settings.origins, **dict.fromkeys(("server.host", "server.port"), SOCKET)}
        return settings.model_copy(update={"server": server, "origins": origins})


def passed_sockets(environment: MutableMapping[str, str]) -> PassedSockets:
    """What LISTEN_* promise to this process. They are taken out, and no program that we start inherits a socket.

    Raises ConfigError for what is not a listening TCP socket, and for names that mean nothing here.
    """
    pid, number, names, _ = (environment.pop(name, "") for name in _VARIABLES)
    if pid != str(os.getpid()):  # they were meant for a process before us
        return PassedSockets()
    if not number.isdecimal():
        raise ConfigError(f"LISTEN_FDS is {number!r}: it must be the number of sockets that are passed")
    given = names.split(":") if names else [""] * int(number)
    if len(given) != int(number):
        raise ConfigError(f"LISTEN_FDNAMES has {len(given)} names for {number} sockets (LISTEN_FDS)")
    return _sorted(given)


def _sorted(names: Sequence[str]) -> PassedSockets:
    main, http = [], []
    for descriptor, name in enumerate(names, FIRST):
        if name == _HTTP:
            http.append(_looked_at(descriptor, name))
        elif name in _MAIN or name.endswith(_UNNAMED):
            main.append(_looked_at(descriptor, name))
        else:
            raise ConfigError(
                f"systemd passes a socket named {name!r}: FileDescriptorName must be https or main (for the API), or "
                "http (which sends clients to HTTPS)"
            )
    return PassedSockets(tuple(main), tuple(http))


def _looked_at(descriptor: int, name: str) -> PassedSocket:
    called = f"the socket that systemd passes as descriptor {descriptor}{f' ({name})' if name else ''}"
    try:
        os.set_inheritable(descriptor, False)
        opened = socket.socket(fileno=descriptor)
    except OSError as error:
        raise ConfigError(f"{called} is none: {error.strerror}") from None
    try:
        if opened.family == socket.AF_UNIX:
            raise ConfigError(f"{called} is a Unix socket: ListenStream must be a port, or an address with a port")
        tcp = opened.family in {socket.AF_INET, socket.AF_INET6} and opened.type == socket.SOCK_STREAM
        if not tcp or not opened.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            raise ConfigError(f"{called} does not listen for TCP: it needs ListenStream, and Accept=no")
        host, port = opened.getsockname()[:2]
        return PassedSocket(descriptor, host, port)
    finally:
        opened.detach()
