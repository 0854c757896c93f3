"""Clients that must show a certificate: each connection has one checked, by the authorities of its last moment."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from typing import Self, cast

Newest = Callable[[], ssl.SSLContext]


class AskingContext(ssl.SSLContext):
    """Listens where no session may be resumed, because that would not check the client's certificate again.

    Tickets are an option. The sessions of TLS 1.2, though, OpenSSL remembers in the context, and Python has no switch
    for it: so each connection gets a context of its own from `bare` (0.2 ms, 13 KiB), which remembers nothing yet.
    `newest` tells the context that a handshake would take now. For `wrap_bio`, which is what event loops use; a socket
    that is wrapped itself finds no certificate here.
    """

    def __new__(cls, *_: object) -> Self:
        return super().__new__(cls, ssl.PROTOCOL_TLS_SERVER)

    def __init__(self, bare: Callable[[], ssl.SSLContext], newest: Newest) -> None:
        self._bare = bare
        self._newest = newest

    def wrap_bio(
        self,
        incoming: ssl.MemoryBIO,
        outgoing: ssl.MemoryBIO,
        server_side: bool = False,
        server_hostname: str | bytes | None = None,
        session: ssl.SSLSession | None = None,
    ) -> ssl.SSLObject:
        own = self._bare()
        own.sslobject_class = _AskingConnection
        made = own.wrap_bio(incoming, outgoing, server_side, server_hostname, session)
        connection = cast(_AskingConnection, made)
        connection.own = own
        connection.newest = self._newest
        return connection


class _AskingConnection(ssl.SSLObject):
    # OpenSSL may call back into it (sni_callback) after the connection has changed to another, and holds no reference.
    own: ssl.SSLContext
    newest: Newest

    def do_handshake(self) -> None:
        """As ever. Raises SSLError also where an authority has been taken out since the client's first message."""
        super().do_handshake()
        newest = self.newest()
        if self.context is not newest and _authorities(self.context) - _authorities(newest):
            raise ssl.SSLError("an authority of clients was taken out during the handshake")


def _authorities(context: ssl.SSLContext) -> set[bytes]:
    return set(context.get_ca_certs(binary_form=True))
