"""Who has a port: whether it can be bound, which process listens there, and whether that is the service itself."""

from __future__ import annotations

import errno
import http.client
import socket
import ssl
import time
from typing import Final

import psutil

from manager.addresses import callable_at
from manager.settings import Settings
from manager.settings_server import TlsSettings

PING_TIMEOUT: Final = 1.0  # for each of connecting, the handshake, and the whole answer
LONGEST_ANSWER: Final = 4096
NO_SUCH_FAMILY: Final = {errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT}
# Somebody may be there: a user without the right to low ports is told of that, and not of who listens.
PERHAPS_TAKEN: Final = {errno.EADDRINUSE, errno.EACCES}


def runs(settings: Settings) -> bool:
    """Whether the service of these settings runs and answers."""
    host, port, tls = settings.server.host, settings.server.port, settings.tls
    try:
        if port == 0 or bound(host, port) not in PERHAPS_TAKEN:
            return False
    except (OSError, UnicodeError):  # no name that can be looked up
        return False
    if tls.wanted and tls.client_ca is not None:
        return _shows_ours(host, port, tls)
    status, _, body = _answer(host, port, tls.wanted)
    return status == http.client.OK and body == b"pong"


def redirects(host: str, port: int) -> bool:
    """Whether it sends clients to HTTPS, as the port for plain HTTP does."""
    status, head, _ = _answer(host, port, False)
    return status == http.client.PERMANENT_REDIRECT and b"\r\nlocation: https://" in head.lower()


def bound(host: str, port: int) -> int | None:
    """Try to bind as the service would: the error's number, None where nothing is in the way. Raises socket.gaierror.

    Nothing is listened to: nobody can come in meanwhile.
    """
    tried: list[int | None] = []
    for family, kind, _, _, address in dict.fromkeys(
        socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    ):
        try:
            with socket.socket(family, kind) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                if family == socket.AF_INET6:
                    probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                probe.bind(address)
                tried.append(None)
        except OSError as failure:
            if failure.errno not in NO_SUCH_FAMILY:
                return failure.errno
            tried.append(failure.errno)
    return None if None in tried else next(iter(tried), None)


def listener(port: int) -> str | None:
    """Name and number of the process that listens, as far as this user may see it."""
    try:
        sockets = psutil.net_connections(kind="tcp")
    except psutil.Error:
        return None
    pids = (one.pid for one in sockets if one.status == psutil.CONN_LISTEN and one.laddr and one.laddr.port == port)
    pid = next((pid for pid in pids if pid is not None), None)
    if pid is None:
        return None
    try:
        return f"{psutil.Process(pid).name()}, process {pid}"
    except psutil.Error:
        return f"process {pid}"


def _shows_ours(host: str, port: int, tls: TlsSettings) -> bool:
    """Whether the certificate of the settings is shown there: all that one without a certificate comes to see."""
    from cryptography.hazmat.primitives.serialization import Encoding

    from manager.tls.check import examine

    chain = examine(tls, time.time()).chain
    if chain is None:
        return False
    try:
        # In TLS 1.3 the client is done before the server refuses it.
        with _connected(host, port) as plain, _context().wrap_socket(plain) as connection:
            return connection.getpeercert(binary_form=True) == chain.sent[0].public_bytes(Encoding.DER)
    except OSError:
        return False


def _answer(host: str, port: int, tls: bool) -> tuple[int | None, bytes, bytes]:
    """Status, head and body of the answer to /ping, as far as it came in time; no status where there was none."""
    said = b""
    try:
        with _connected(host, port) as plain, _context().wrap_socket(plain) if tls else plain as connection:
            until = time.monotonic() + PING_TIMEOUT
            connection.sendall(b"GET /ping HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            while len(said) < LONGEST_ANSWER and (left := until - time.monotonic()) > 0:
                connection.settimeout(left)
                more = connection.recv(LONGEST_ANSWER)
                if not more:
                    break
                said += more
    except OSError:
        pass  # what was said before that may do
    head, _, body = said.partition(b"\r\n\r\n")
    version, _, rest = head.partition(b" ")
    status = rest[:3]
    return int(status) if version.startswith(b"HTTP/1.") and status.isdigit() else None, head, body.strip()


def _connected(host: str, port: int) -> socket.socket:
    return socket.create_connection((callable_at(host), port), timeout=PING_TIMEOUT)


def _context() -> ssl.SSLContext:
    """Only asked who it is: whose certificate that is does not matter."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context
