"""How an entry becomes an engine, and what stands for one whose package can't make it."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator

import manager.engines.hf.engine
import manager.engines.llama.engine  # noqa: F401  both at the start, and not at the first load, on the event loop
from manager.engines import Engine
from manager.engines.kinds import Surroundings, kind_of
from manager.engines.simple import Body, SimpleEngine
from manager.entry import ModelEntry
from manager.errors import LoadFailed

logger = logging.getLogger(__name__)


def made(entry: ModelEntry, around: Surroundings) -> Engine:
    """The engine for one life of the model. Never raises: what went wrong, its load says."""
    try:
        return kind_of(entry).make(entry, around)
    except Exception as error:  # the code of another package
        logger.exception("model=%s its engine can't be made", entry.name)
        return _Unmade(entry, type(error).__name__)


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
