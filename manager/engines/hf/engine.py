"""HfEngine: one Hugging Face model in the service's own process, from its load until its memory is given back."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Any, Final

from manager.engines import Activity, EngineExit, UpstreamRequest, UpstreamResponse
from manager.engines.hf.metrics import exposition
from manager.entry import ModelEntry
from manager.errors import HerdError, LoadAborted, LoadFailed, UpstreamConnectError
from manager.extras import missing_hf
from manager.logbuf import LogBuffer

if TYPE_CHECKING:  # they bring in torch, which a service without such models never needs
    from manager.engines.hf.batch.loop import Delivery
    from manager.engines.hf.residence import Residence
    from manager.engines.hf.wire.api import Api

logger = logging.getLogger(__name__)

# How long a thread that was asked to end may take for its step; one that hangs can't be ended.
PATIENCE: Final = 30.0
PATIENCE_FORCED: Final = 1.0


class HfEngine:
    """See `manager.engines.Engine`. It has no process: `pid` is None, and its memory is this process's."""

    def __init__(self, entry: ModelEntry) -> None:
        self.log = LogBuffer()
        self.pid: int | None = None
        self.progress: float | None = None
        self._entry = entry
        self._loop: asyncio.AbstractEventLoop | None = None
        self._loaded: asyncio.Future[Api] | None = None
        self._stopping: asyncio.Task[None] | None = None
        self._aborted = False
        self._api: Api | None = None
        self._residence: Residence | None = None
        self._ended: asyncio.Future[EngineExit] | None = None
        self._forced = asyncio.Event()

    async def start(self) -> None:
        # Not `entry.unavailable`, which is from when the catalog was read: it may have been installed since.
        missing = missing_hf()
        if missing is not None:
            raise LoadFailed(self._message(missing), should_retry=False)
        self._loop = asyncio.get_running_loop()
        self._ended = self._loop.create_future()
        self._loaded = self._loop.create_future()
        # It loads and then generates. Every thread that computes has threads of OpenMP for itself, and where these
        # are more than there are cores they sleep between two ops.
        threading.Thread(target=self._run, name=f"hf {self._entry.name}", daemon=True).start()
        try:
            # A thread can't be cancelled: stop() gives back what it brings.
            self._api = await asyncio.shield(self._loaded)
        except HerdError as error:
            error.message = self._message(error.message)
            raise
        self._residence = residence = self._api.residence
        self._say(residence.description)
        self.progress = 1.0

    async def wait_exit(self) -> EngineExit:
        assert self._ended is not None  # noqa: S101  only called after start()
        return await asyncio.shield(self._ended)

    async def stop(self, *, force: bool = False) -> None:
        self._aborted = True
        if force:
            self._forced.set()
        if self._stopping is None:
            self._stopping = asyncio.create_task(self._stop(), name=f"stop engine {self._entry.name}")
        await asyncio.shield(self._stopping)

    async def answers(self) -> bool:
        return self._residence is not None and self._residence.thread.alive

    async def activity(self) -> Activity:
        residence = self._residence
        if residence is None:
            return Activity(time.monotonic(), 0.0)
        return Activity(residence.thread.heard_at, await asyncio.to_thread(lambda: residence.thread.cpu))

    async def measure(self) -> Mapping[str, int]:
        return {} if self._residence is None else self._residence.memory()

    async def metrics(self) -> bytes | None:
        return None if self._residence is None else exposition(self._residence.thread.counters)

    def open(self, request: UpstreamRequest) -> AbstractAsyncContextManager[UpstreamResponse]:
        if self._api is None or self._aborted:
            raise UpstreamConnectError(f"The model '{self._entry.name}' is not there any more.")
        return self._api.open(request)

    def _run(self) -> None:
        """The thread, from the load to the end."""
        try:
            api = self._load()
        except Exception as error:
            self._tell(self._settle, None, error)
            return
        except BaseException as error:  # code of the folder can raise what would end the service
            failure = LoadFailed(
                f"{self._entry.path.name}: its code raised {type(error).__name__}.", should_retry=False
            )
            self._tell(self._settle, None, failure)
            return
        if self._aborted:  # too late for who waited for it; stop() may have given up to wait
            api.residence.thread.close()
            api.residence.thread.run()
            api.residence.release()
            self._tell(self._settle, None, LoadAborted(self._message("it was unloaded meanwhile.")))
            return
        self._tell(self._settle, api, None)
        api.residence.thread.run()

    def _load(self) -> Api:
        from manager.engines.hf.runtime import bring_in

        bring_in()
        from manager.engines.hf.residence import Residence, Tell
        from manager.engines.hf.wire.api import Api

        residence = Residence.load(self._entry, self._note_progress, Tell(self._deliver, self._tell, self._note_end))
        try:
            return Api(self._entry, residence)
        except BaseException:
            residence.release()
            raise

    def _settle(self, api: Api | None, error: BaseException | None) -> None:
        assert self._loaded is not None  # noqa: S101  made before the thread
        if api is not None:
            self._loaded.set_result(api)
        elif error is not None:
            self._loaded.set_exception(error)

    def _tell(self, what: Callable[..., None], *about: object) -> None:
        """Have the event loop do something; nothing where it is closed, as nobody is there to be told."""
        assert self._loop is not None  # noqa: S101  set before the thread is there
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(what, *about)

    def _note_progress(self, part: float) -> None:
        if self._aborted:
            raise LoadAborted(self._message("it was unloaded meanwhile."))
        self.progress = part

    def _deliver(self, news: Delivery) -> None:
        """From the thread that generates to whoever asked."""
        self._tell(_hand_out, news)

    def _note_end(self, failure: BaseException | None) -> None:
        reason = "its thread ended" if failure is None else f"its thread broke: {type(failure).__name__}: {failure}"
        self._tell(self._end, EngineExit(reason))

    def _end(self, end: EngineExit) -> None:
        if self._ended is not None and not self._ended.done():
            self._say(end.reason)
            self._ended.set_result(end)

    async def _stop(self) -> None:
        residence = await self._what_was_loaded()
        if residence is None:
            return
        try:
            residence.thread.close()
            gone = await self._gone(residence)
            if gone:
                # Nothing may be computed any more: the memory goes, whoever still holds a reference.
                await asyncio.to_thread(residence.release)
            else:
                logger.error("model=%s its thread hangs and can't be ended; its memory stays taken", self._entry.name)
        except Exception:
            logger.exception("model=%s its engine could not be stopped cleanly", self._entry.name)
        finally:
            self._residence = self._api = residence = None
            self._loaded = None
            await asyncio.to_thread(_collect)
            if self._ended is not None and not self._ended.done():
                self._ended.set_result(EngineExit("it was stopped"))

    async def _what_was_loaded(self) -> Residence | None:
        """None where nothing was, or where it does not come in good time: then the thread gives it back itself."""
        if self._loaded is None:
            return None
        if not await self._in_time(self._loaded):
            logger.error("model=%s its load hangs and can't be ended", self._entry.name)
            return None
        if self._loaded.cancelled() or self._loaded.exception() is not None:  # start() has said why
            return None
        return self._loaded.result().residence

    async def _in_time(self, what: asyncio.Future[Any]) -> bool:
        """Whether it comes within our patience, which is short where the stop is forced."""
        forced = asyncio.create_task(self._forced.wait())
        await asyncio.wait({what, forced}, timeout=PATIENCE, return_when=asyncio.FIRST_COMPLETED)
        if not what.done() and forced.done():
            await asyncio.wait({what}, timeout=PATIENCE_FORCED)
        forced.cancel()
        return what.done()

    async def _gone(self, residence: Residence) -> bool:
        """Whether the thread ends in good time, or at all where it hangs."""
        waiting = asyncio.create_task(asyncio.to_thread(residence.thread.join, PATIENCE))
        return await self._in_time(waiting) and waiting.result()

    def _say(self, line: str) -> None:
        self.log.feed(line.encode() + b"\n")

    def _message(self, reason: str) -> str:
        return f"The model '{self._entry.name}' could not be loaded: {reason}"


def _collect() -> None:
    """Tokenizer and modules refer to each other in circles: 15 MB that only the collector finds."""
    gc.collect()


def _hand_out(news: Delivery) -> None:
    for sink, update in news:
        try:
            sink(update)
        except Exception as error:  # one answer must not cost those of others; its text may quote a prompt
            logger.error("an update could not be taken: %s", type(error).__name__)
            logger.debug("by whom", exc_info=True)
