"""Whether the ports of the settings can be had, or who has them."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from manager.doctor.case import Case
from manager.doctor.finding import Finding, error, ok
from manager.doctor.probe import PERHAPS_TAKEN, bound, listener, redirects

LOWEST_OPEN: Final = Path("sys/net/ipv4/ip_unprivileged_port_start")


def ports(case: Case) -> Iterator[Finding]:
    settings = case.settings
    host = settings.server.host
    yield _port(case, "server.port", host, settings.server.port)
    if settings.tls.http_port is not None:
        yield _port(case, "tls.http_port", host, settings.tls.http_port)


def _port(case: Case, setting: str, host: str, port: int) -> Finding:
    where = f"{f'[{host}]' if ':' in host else host}:{port}"
    if port == 0:
        return ok(setting, f"any free port of {host}")
    try:
        failure = bound(host, port)
    except (OSError, UnicodeError):  # no name that can be looked up
        return error("server.host", f"{host} is neither an address nor a name that is known here.", "set server.host")
    if failure in PERHAPS_TAKEN and _ours(case, setting, host, port):
        who = listener(port)
        return ok(setting, f"{where}: llamaherd is running there{f' ({who})' if who else ''}")
    match failure:
        case None:
            return ok(setting, f"{where} is free")
        case errno.EADDRINUSE:
            who = listener(port)
            by = f"by {who}" if who else "by a process of another user"
            return error(setting, f"{where} is taken {by}.", f"end that, or set {setting} to another port")
        case errno.EACCES:
            return error(setting, f"This user may not listen on {where}.", _right(case, setting, port))
        case errno.EADDRNOTAVAIL:
            advice = "set server.host to an address of this machine ('ip address'), or to 0.0.0.0 for all"
            return error("server.host", f"No network of this machine has the address {host}.", advice)
        case number:
            return error(setting, f"{where} can't be had: {errno.errorcode.get(number, number)}.", f"set {setting}")


def _ours(case: Case, setting: str, host: str, port: int) -> bool:
    """Whether it is the service of these settings that has it: where that does not run, a redirect is anybody's."""
    return case.running and (setting == "server.port" or redirects(host, port))


def _right(case: Case, setting: str, port: int) -> str:
    lowest = case.proc / LOWEST_OPEN
    known = lowest.read_text().strip() if lowest.is_file() else "1024"
    return (
        f"ports below {known} need a right: AmbientCapabilities=CAP_NET_BIND_SERVICE in the systemd unit, or "
        f"'sudo sysctl net.ipv4.ip_unprivileged_port_start={port}'; or set {setting} to {known} or above"
    )


CHECKS: Final = (ports,)
