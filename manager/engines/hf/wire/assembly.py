"""From the updates of a request's sequences to its answer, and to its error where one can't be made."""

from __future__ import annotations

import asyncio
import logging
import traceback
from pathlib import Path

from manager.engines.answer import LocalAnswer
from manager.engines.hf.generation import Update
from manager.engines.hf.wire.answers import StreamedAnswer, WholeAnswer

logger = logging.getLogger(__name__)


class Assembly:
    """Puts the answer together from what the sequences of its request bring. `model`: its name, for the log."""

    def __init__(self, to: LocalAnswer, made: WholeAnswer | StreamedAnswer, model: str = "") -> None:
        self._to = to
        self._made = made
        self._model = model
        self.writing: asyncio.Future[bytes] | None = None

    def take(self, index: int, update: Update) -> None:
        """An update of choice `index`, on the event loop. Raises nothing, as others' updates come after it.

        The first error ends the answer; what comes after its end is dropped.
        """
        if self._to.over:
            return
        try:
            if update.error is not None:
                self._to.fail(update.error)
            else:
                self._put(index, update)
        except Exception as error:
            self._fail(error)

    def _put(self, index: int, update: Update) -> None:
        data = self._made.take(index, update)
        if isinstance(self._made, StreamedAnswer):
            if not self._to.begun:
                self._to.begin()
            self._to.put(data)
            if self._made.done:
                self._to.end()
        elif not self._made.done:
            return
        elif self._made.long:
            self.writing = asyncio.get_running_loop().run_in_executor(None, self._made.body)
            self.writing.add_done_callback(self._note_written)
        else:
            self._to.finish(200, self._made.body())

    def _note_written(self, writing: asyncio.Future[bytes]) -> None:
        if writing.cancelled():
            self._to.break_off("the service is ending")
        elif (error := writing.exception()) is not None:
            self._fail(error)
        else:
            self._to.finish(200, writing.result())

    def _fail(self, error: BaseException) -> None:
        logger.error("model=%s an answer could not be made: %s", self._model, place_of(error))
        self._to.fail(error if isinstance(error, Exception) else RuntimeError())


def place_of(error: BaseException) -> str:
    """An error for the log: its type, and where it was raised. What it says may quote a prompt."""
    frames = traceback.extract_tb(error.__traceback__)
    return type(error).__name__ + (f" at {Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else "")
