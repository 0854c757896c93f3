"""How an entry becomes an engine, and what stands for one whose package can't make it."""

from __future__ import annotations

import inspect
import logging
from collections.abc import AsyncGenerator
from typing import Final

import manager.engines.hf.engine
import manager.engines.llama.engine  # noqa: F401  both at the start, and not at the first load, on the event loop
from manager.engines import Engine
from manager.engines.kinds import FAULTS, Surroundings, kind_of
from manager.engines.simple import Body, SimpleEngine
from manager.entry import ModelEntry
from manager.errors import LoadFailed
from manager.logbuf import LogBuffer

logger = logging.getLogger(__name__)

METHODS: Final = ("start", "wait_exit", "stop", "answers", "activity", "measure", "metrics", "open")


def made(entry: ModelEntry, around: Surroundings) -> Engine:
    """The engine for one life of the model. Never raises: what went wrong, its load says."""
    try:
        engine = kind_of(entry).make(entry, around)
        lacks = _lacks(engine)
    except FAULTS as error:
        logger.exception("model=%s its engine can't be made", entry.name)
        return _Unmade(entry, type(error).__name__)
    if not lacks:
        return engine
    reason = f"{type(engine).__name__} has no {', '.join(lacks)}"
    logger.error("model=%s its engine can't be made: %s", entry.name, reason)
    _discard(engine)
    return _Unmade(entry, reason)


def _lacks(engine: object) -> list[str]:
    """What this object has not, of all that an engine has."""
    methods = [name for name in METHODS if not callable(getattr(engine, name, None))]
    values = [name for name in ("pid", "progress") if not hasattr(engine, name)]
    return [*([] if isinstance(getattr(engine, "log", None), LogBuffer) else ["log"]), *values, *methods]


def _discard(thing: object) -> None:
    if inspect.iscoroutine(thing):
        thing.close()  # or Python warns that nobody awaited it


class _Unmade(SimpleEngine):
    def __init__(self, entry: ModelEntry, reason: str) -> None:
        super().__init__(entry)
        self._reason = reason

    async def load(self) -> None:
        message = f"its engine ({self.entry.engine}) could not be made ({self._reason}); the service's log has more."
        raise LoadFailed(f"The model '{self.entry.name}' could not be loaded: {message}", should_retry=False)

    def count(self, text: str) -> int:
        raise NotImplementedError(text)

    def answer(self, body: Body) -> AsyncGenerator[str, None]:
        raise NotImplementedError(body)
