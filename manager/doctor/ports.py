"""Whether the ports of the settings can be had, or who has them."""

from __future__ import annotations

import errno
import http.client
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import psutil

from manager.doctor.case import Case
from manager.doctor.finding import Finding, error, ok

PING_TIMEOUT: Final = 1.0
LOWEST_OPEN: Final = Path("sys/net/ipv4/ip_unprivileged_port_start")
NO_SUCH_FAMILY: Final = {errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT}


def ports(case: Case) -> Iterator[Finding]:
    settings = case.settings
    host = settings.server.host
    yield _port(case, "server.port", host, settings.server.port, settings.tls.wanted)
    if settings.tls.http_port is not None:
        yield _port(case, "tls.http_port", host, settings.tls.http_port, False)


def _port(case: Case, setting: str, host: str, port: int, tls: bool) -> Finding:
    where = f"{f'[{host}]' if ':' in host else host}:{port}"
    if port == 0:
        return ok(setting, f"any free port of {host}")
    try:
        failure = _bound(host, port)
    except (OSError, UnicodeError):  # no name that can be looked up
        return error("server.host", f"{host} is neither an address nor a name that is known here.", "set server.host")
    match failure:
        case None:
            return ok(setting, f"{where} is free")
        case errno.EADDRINUSE:
            return _taken(setting, where, host, port, tls)
        case errno.EACCES:
            return error(setting, f"This user may not listen on {where}.", _right(case, setting, port))
        case errno.EADDRNOTAVAIL:
            advice = "set server.host to an address of this machine ('ip address'), or to 0.0.0.0 for all"
            return error("server.host", f"No network of this machine has the address {host}.", advice)
        case number:
            return error(setting, f"{where} can't be had: {errno.errorcode.get(number, number)}.", f"set {setting}")


def _bound(host: str, port: int) -> int | None:
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


def _taken(setting: str, where: str, host: str, port: int, tls: bool) -> Finding:
    who = _listener(port)
    if setting == "server.port" and _answers(host, port, tls):
        return ok(setting, f"{where}: llamaherd is running there{f' ({who})' if who else ''}")
    by = f"by {who}" if who else "by a process of another user"
    return error(setting, f"{where} is taken {by}.", f"end that, or set {setting} to another port")


def _listener(port: int) -> str | None:
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


def _answers(host: str, port: int, tls: bool) -> bool:
    """Whether it is one of us."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104  no bind
    if tls:  # only asked who it is: whose certificate that is does not matter
        context = ssl._create_unverified_context()  # noqa: S323  see above
        connection: http.client.HTTPConnection = http.client.HTTPSConnection(
            host, port, timeout=PING_TIMEOUT, context=context
        )
    else:
        connection = http.client.HTTPConnection(host, port, timeout=PING_TIMEOUT)
    try:
        connection.request("GET", "/ping")
        answer = connection.getresponse()
        return answer.status == http.client.OK and answer.read(16).strip() == b"pong"
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _right(case: Case, setting: str, port: int) -> str:
    lowest = case.proc / LOWEST_OPEN
    known = lowest.read_text().strip() if lowest.is_file() else "1024"
    return (
        f"ports below {known} need a right: AmbientCapabilities=CAP_NET_BIND_SERVICE in the systemd unit, or "
        f"'sudo sysctl net.ipv4.ip_unprivileged_port_start={port}'; or set {setting} to {known} or above"
    )


CHECKS: Final = (ports,)
