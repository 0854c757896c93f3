"""Home: loads one model again when nothing else has been in use for a while (setting scheduling.home)."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Final

from manager.errors import ModelNotFound
from manager.pool import ModelPool
from manager.state import SETTLED

logger = logging.getLogger(__name__)

# How often is looked while something is in use.
LOOK_EVERY: Final = 1.0


async def return_home(pool: ModelPool, name: str, after: float) -> None:
    """For ever: `after` seconds after the last request load `name`, where it is not loaded. Others may go for it."""
    while True:
        quiet = pool.quiet_since()
        left = LOOK_EVERY if quiet is None else quiet + after - time.time()
        if left > 0:
            await asyncio.sleep(left)
            continue
        await _load(pool, name)
        # Where it could not be loaded, the next attempt is as far away as the first was.
        await asyncio.sleep(max(after, LOOK_EVERY))


async def _load(pool: ModelPool, name: str) -> None:
    try:
        entry = pool.find(name).entry
    except ModelNotFound as error:
        logger.warning("scheduling.home: %s", error.message)
        return
    if pool.state(entry.name) in SETTLED:
        logger.info("model=%s loaded because nothing else is in use", entry.name)
        await pool.warm(entry, evicts=True)
