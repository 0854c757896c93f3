"""HTTPS: whether the certificate is right; and whether others could reach the service in a way that it refuses."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Final

from manager.addresses import is_loopback
from manager.doctor.case import Case
from manager.doctor.finding import Finding, error, ok, warning
from manager.errors import ConfigError
from manager.exposure import refuse_weakness

CHECK: Final = "'llamaherd tls check' shows what was read"


def certificate(case: Case) -> Iterator[Finding]:
    settings = case.settings.tls
    if not settings.wanted:
        who = "only this machine can reach it" if is_loopback(case.settings.server.host) else "see exposure"
        yield ok("HTTPS", f"off; {who}")
        return
    from manager.tls.check import examine
    from manager.tls.context import make_context
    from manager.tls.renewal import soon_over

    now = time.time()
    report = examine(settings, now)
    if not report.errors:
        try:
            make_context(settings, report.checked())
        except ConfigError as refused:
            report.errors.append(refused.message)
    for text in report.errors:
        yield error("HTTPS", text, CHECK)
    if report.chain is not None and not report.errors:
        until = datetime.fromtimestamp(report.chain.expires, UTC)
        yield ok("HTTPS", f"{', '.join(report.names) or 'no names'}, until {until:%Y-%m-%d}")
        if soon := soon_over(report.chain.expires, now):
            how = "renew it; a running service takes the new one by itself"
            yield warning("HTTPS", f"{soon[0].upper()}{soon[1:]}.", how)
    for text in report.warnings:
        yield warning("HTTPS", text, CHECK)


def exposure(case: Case) -> Iterator[Finding]:
    """What would end the start, because others could reach the service without a key, or read keys on their way."""
    try:
        refuse_weakness(case.settings, case.keys)
    except ConfigError as refused:
        yield error("exposure", refused.message)
        return
    host, keys = case.settings.server.host, len(case.keys)
    yield ok("exposure", f"on {host}, {f'keys: {keys}' if keys else 'without keys'}")


CHECKS: Final = (certificate, exposure)
