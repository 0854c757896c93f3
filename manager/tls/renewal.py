"""Renewed files are found while the service runs, and a certificate that nobody renews is told of."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final, NoReturn

from manager.errors import ConfigError

if TYPE_CHECKING:
    from manager.tls.context import ServerTls

logger = logging.getLogger(__name__)

LOOK_EVERY: Final = 5.0
DAY: Final = 86_400.0
WARN_BEFORE: Final = 14 * DAY


async def follow(tls: ServerTls, every: float = LOOK_EVERY, clock: Callable[[], float] = time.time) -> NoReturn:
    """Look at the files each `every` seconds until cancelled; `clock` tells the seconds since the epoch."""
    refused = ""
    warned = -DAY
    while True:
        # A look at the files and not an event: ACME clients replace links, and folders may be in a network.
        await asyncio.sleep(every)
        try:
            if await asyncio.to_thread(tls.reload_if_changed):
                logger.info("certificate read again names=%s expires=%s", ",".join(tls.names), _shown(tls.expires))
            refused = ""
        except ConfigError as error:
            if error.message != refused:
                logger.error("certificate not read again, the old one stays: %s", error.message)
            refused = error.message
        now = clock()
        warning = soon_over(tls.expires, now)
        if warning is not None and now - warned >= DAY:
            logger.warning("%s", warning)
            warned = now


def soon_over(ends: float, now: float) -> str | None:
    """What to say from two weeks before the end of a certificate; both times in seconds since the epoch."""
    if ends - now > WARN_BEFORE:
        return None
    if now >= ends:
        return f"the certificate has expired on {_shown(ends)}, and clients refuse it: renew it"
    return f"the certificate expires on {_shown(ends)}, in {(ends - now) / DAY:.0f} days: renew it"


def _shown(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M UTC")
