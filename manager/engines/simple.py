"""SimpleEngine: for engines of other packages that answer chats in the service's own process."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from typing import Final

import orjson

from manager.engines import Activity, EngineExit, UpstreamRequest, UpstreamResponse
from manager.engines.answer import LocalAnswer
from manager.engines.simple_chat import Body, ChatAnswer, refuse_others, text_of
from manager.entry import ModelEntry
from manager.errors import (
    ContextLengthExceeded,
    EndpointUnsupported,
    HerdError,
    InvalidRequest,
    Unavailable,
    UpstreamConnectError,
)
from manager.logbuf import LogBuffer

__all__ = ["SIMPLE_PATHS", "Body", "SimpleEngine", "text_of"]

logger = logging.getLogger(__name__)

CHAT: Final = "/v1/chat/completions"
COUNT: Final = "/v1/chat/completions/input_tokens"
# For EngineKind.paths.
SIMPLE_PATHS: Final = frozenset({CHAT, COUNT, "/props"})
# The window of an engine that has none.
BOUNDLESS: Final = 2**31 - 1
# How long a stop may take, in seconds: the answers end, then `unload`, which has the shorter time in any case.
PATIENCE: Final = 30.0
PATIENCE_FORCED: Final = 1.0
# The bytes of an answer that may wait for their reader before the next piece is asked for.
UNREAD: Final = 64 * 1024


class SimpleEngine(ABC):
    """See `manager.engines.Engine`. Who derives from it says how a chat is answered, and how a text is counted.

    All methods but `count` run on the service's event loop: what computes or blocks belongs into `asyncio.to_thread`.
    `fields`: those of a request that `answer` honours, or that can't change what it answers; others are refused by
    name, but for the ones that SimpleEngine sees to itself. `window`: most tokens of prompt and answer together.
    """

    fields: frozenset[str] = frozenset()
    window: int | None = None

    def __init__(self, entry: ModelEntry) -> None:
        self.entry = entry
        self.log = LogBuffer()
        self.pid: int | None = None
        self.progress: float | None = None
        self._ended: asyncio.Future[EngineExit] = asyncio.get_running_loop().create_future()
        self._stopping: asyncio.Task[None] | None = None
        self._answering: dict[asyncio.Task[None], LocalAnswer] = {}
        self._due: dict[LocalAnswer, float] = {}  # since when an answer has had no piece (time.monotonic)
        self._paths: dict[tuple[str, str], Callable[[LocalAnswer, Body], Awaitable[None]]] = {
            ("GET", "/props"): self._tell_props,
            ("POST", CHAT): self._chat,
            ("POST", COUNT): self._tell_count,
        }

    # What an author writes.

    @abstractmethod
    def answer(self, body: Body) -> AsyncGenerator[str, None]:
        """The answer to a chat of OpenAI's form, piece by piece; each piece counts as one token.

        The messages of `body` have been checked. A HerdError (see manager/errors.py) with a status below 500, or 503,
        is the client's answer, with its code; any other is a 500 with its message, and any other exception a 500 that
        tells only its type. It is closed where the client leaves, or has had its `max_tokens`, and asked for no more
        while the client does not read. A piece is due within `limits.hang_timeout`: an engine that has none for
        longer is taken to hang, and ended.
        """

    @abstractmethod
    def count(self, text: str) -> int:
        """How many tokens a text has. Called in threads, by several at once, maybe still while it is unloaded."""

    async def load(self) -> None:  # noqa: B027  not all have something to load
        """Get ready. Raises LoadFailed with the reason; cancelled where the model is unloaded meanwhile."""

    async def unload(self) -> None:  # noqa: B027
        """Give everything back, also what a `load` that failed or was cancelled has left.

        No answer runs any more, unless one could not be closed in time; what an answer began in a thread may.
        """

    async def measure(self) -> Mapping[str, int]:
        """Bytes that it takes now by device ("host", "gpu0", …); empty where that can't be told.

        Asked whenever another model is to be loaded, so it must be quick: after a second it counts as empty.
        """
        return {}

    def end(self, reason: str) -> None:
        """Say that it can't go on. The service stops it, and the next request loads it anew."""
        if not self._ended.done():
            self._ended.set_result(EngineExit(reason))

    # What the service calls.

    async def start(self) -> None:
        await self.load()
        self.progress = 1.0

    async def wait_exit(self) -> EngineExit:
        return await asyncio.shield(self._ended)

    async def stop(self, *, force: bool = False) -> None:
        if self._stopping is None:
            self._stopping = asyncio.create_task(self._stop(PATIENCE_FORCED if force else PATIENCE))
        await asyncio.shield(self._stopping)

    async def answers(self) -> bool:
        return not self._ended.done() and self._stopping is None

    async def activity(self) -> Activity:
        # The CPU time is that of the whole service and says nothing of this engine: only pieces count.
        return Activity(min(self._due.values(), default=time.monotonic()), 0.0)

    async def metrics(self) -> bytes | None:
        return None

    @contextlib.asynccontextmanager
    async def open(self, request: UpstreamRequest) -> AsyncIterator[UpstreamResponse]:
        if self._stopping is not None:
            raise UpstreamConnectError(f"The model '{self.entry.name}' is not there any more.")
        answer = LocalAnswer(lambda: self._leave(work))
        work = asyncio.create_task(self._work(request, answer))
        self._answering[work] = answer
        self._due[answer] = time.monotonic()
        work.add_done_callback(self._done)
        async with answer:
            yield answer

    def _leave(self, work: asyncio.Task[None]) -> None:
        if work is not asyncio.current_task():  # one that fails ends by itself
            work.cancel()

    def _done(self, work: asyncio.Task[None]) -> None:
        self._due.pop(self._answering.pop(work), None)

    async def _stop(self, patience: float) -> None:
        deadline = time.monotonic() + patience
        await self._end_answers(patience)
        try:
            async with asyncio.timeout(max(deadline - time.monotonic(), PATIENCE_FORCED)):
                await self.unload()
        except TimeoutError:
            logger.error("model=%s its engine did not end within %g s", self.entry.name, patience)
        except Exception:  # the code of another package
            logger.exception("model=%s its engine could not be stopped cleanly", self.entry.name)
        self.end("it was stopped")

    async def _end_answers(self, patience: float) -> None:
        """So that nobody uses what `unload` gives back."""
        works = list(self._answering)
        for answer in list(self._answering.values()):
            answer.break_off(f"The model '{self.entry.name}' was stopped.")
        if works:
            _, hanging = await asyncio.wait(works, timeout=patience)
            if hanging:
                logger.error("model=%s answers=%d did not end within %g s", self.entry.name, len(hanging), patience)

    async def _work(self, request: UpstreamRequest, answer: LocalAnswer) -> None:
        try:
            path = self._paths.get((request.method, request.path))
            if path is None:
                raise EndpointUnsupported(f"Its engine has no {request.method} {request.path}.")
            await path(answer, orjson.loads(request.body or b"{}"))
        except HerdError as error:
            _refuse(answer, error)
        except (Exception, SystemExit) as error:  # the code of another package; the text may quote a prompt
            logger.error("model=%s %s failed: %s", self.entry.name, request.path, type(error).__name__)
            logger.debug("with", exc_info=True)
            answer.fail(error)

    async def _tell_props(self, answer: LocalAnswer, _: Body) -> None:
        window = self.window or BOUNDLESS
        answer.finish(200, orjson.dumps({"default_generation_settings": {"n_ctx": window}}))

    async def _tell_count(self, answer: LocalAnswer, body: Body) -> None:
        told = {"input_tokens": await self._tokens_of(body), "object": "response.input_tokens"}
        answer.finish(200, orjson.dumps(told))

    async def _chat(self, answer: LocalAnswer, body: Body) -> None:
        refuse_others(body, self.fields)
        prompt = await self._tokens_of(body)
        room = BOUNDLESS if self.window is None else self.window - prompt
        if room <= 0:
            message = f"The prompt has {prompt} tokens; the window is {self.window}."
            raise ContextLengthExceeded(message, param="messages")
        chat = ChatAnswer(answer, body, self.entry, prompt, room)
        async with contextlib.aclosing(self.answer(body)) as pieces:
            while chat.left and (piece := await anext(pieces, None)) is not None:
                chat.put(piece)
                del self._due[answer]  # while its reader keeps us waiting, none is due
                await answer.read_down_to(UNREAD)
                self._due[answer] = time.monotonic()
                await asyncio.sleep(0)  # let the piece out: a generator need not await anything
        chat.end()

    async def _tokens_of(self, body: Body) -> int:
        return await asyncio.to_thread(lambda: sum(self.count(text_of(message)) for message in body["messages"]))


def _refuse(answer: LocalAnswer, error: HerdError) -> None:
    """Tell of an error that the engine chose. One that has no place on llama-server's wire is raised as it is."""
    fits = isinstance(error, InvalidRequest) or not (error.status < 500 or isinstance(error, Unavailable))
    if fits or answer.begun:
        answer.fail(error)
    else:
        answer.refuse(error)
