"""The paths of llama-server that a model of this process answers, with the same fields and the same errors."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

import orjson

from manager.engines import UpstreamRequest, UpstreamResponse
from manager.engines.answer import LocalAnswer, error_answer
from manager.engines.hf.generation import Ending, Update
from manager.engines.hf.wire.answers import Head, StreamedAnswer, WholeAnswer
from manager.engines.hf.wire.assembly import Assembly, place_of
from manager.engines.hf.wire.prompts import Prompts
from manager.errors import EndpointUnsupported, HerdError, InvalidRequest, UpstreamClosed

if TYPE_CHECKING:
    from manager.engines.hf.batch.loop import Generator
    from manager.engines.hf.batch.sequence import Sequence
    from manager.engines.hf.residence import Residence
    from manager.engines.hf.wire.prompts import Asked
    from manager.entry import ModelEntry

logger = logging.getLogger(__name__)

Body = Mapping[str, Any]
CHAT: Final = "/v1/chat/completions"


class Api:
    """For the event loop. What computes for longer than a moment goes to threads."""

    def __init__(self, entry: ModelEntry, residence: Residence) -> None:
        self._entry = entry
        self.residence = residence
        self._prompts = Prompts(entry, residence)
        self._paths: dict[tuple[str, str], Callable[[Body], Awaitable[LocalAnswer]]] = {
            ("GET", "/health"): self._health,
            ("GET", "/props"): self._props,
            ("POST", CHAT): functools.partial(self._generate, True),
            ("POST", "/v1/completions"): functools.partial(self._generate, False),
            ("POST", "/v1/embeddings"): self._embed,
            ("POST", f"{CHAT}/input_tokens"): self._in_thread(self._prompts.counted),
            ("POST", "/apply-template"): self._in_thread(self._prompts.rendered),
            ("POST", "/tokenize"): self._in_thread(self._prompts.tokenized),
            ("POST", "/detokenize"): self._in_thread(self._prompts.detokenized),
        }

    @contextlib.asynccontextmanager
    async def open(self, request: UpstreamRequest) -> AsyncIterator[UpstreamResponse]:
        """See `manager.engines.Engine.open`."""
        async with await self._answer(request) as answer:
            yield answer

    async def _answer(self, request: UpstreamRequest) -> LocalAnswer:
        try:
            answer = self._paths.get((request.method, request.path))
            if answer is None:
                raise EndpointUnsupported(f"Hugging Face models have no {request.method} {request.path}.")
            return await answer(_object(request.body))
        except UpstreamClosed:
            raise
        except HerdError as error:
            return LocalAnswer.ready(*error_answer(error))
        except Exception as error:
            logger.error("model=%s %s failed: %s", self._entry.name, request.path, place_of(error))
            return LocalAnswer.ready(*error_answer(error))

    def _in_thread(self, work: Callable[[Body], Mapping[str, Any]]) -> Callable[[Body], Awaitable[LocalAnswer]]:
        async def answer(body: Body) -> LocalAnswer:
            return LocalAnswer.ready(200, orjson.dumps(await asyncio.to_thread(work, body)))

        return answer

    async def _health(self, _: Body) -> LocalAnswer:
        return LocalAnswer.ready(200, b'{"status":"ok"}')

    async def _props(self, _: Body) -> LocalAnswer:
        loaded = self.residence.loaded
        told = {
            "default_generation_settings": {"n_ctx": loaded.window},
            "total_slots": self._entry.hf.parallel,
            "model_alias": self._entry.name,
            "chat_template": loaded.template or "",
            "modalities": {"vision": loaded.kind == "vision", "audio": False},
        }
        return LocalAnswer.ready(200, orjson.dumps(told))

    async def _embed(self, body: Body) -> LocalAnswer:
        from manager.engines.hf.embedding import embedding_request, embeddings_answer

        if self.residence.embeddings is None:
            raise EndpointUnsupported("It makes no embeddings (params.embedding).")
        asked = embedding_request(body)
        vectors = await self.residence.embeddings.embed(asked.inputs)
        return LocalAnswer.ready(
            200,
            await asyncio.to_thread(embeddings_answer, self._name(body), vectors, as_base64=asked.base64),
        )

    async def _generate(self, chat: bool, body: Body) -> LocalAnswer:
        generator = self.residence.generator
        if generator is None:
            raise EndpointUnsupported("It makes embeddings only.")
        # Whoever leaves now leaves nothing behind: no sequence runs before it has begun.
        answer, sequences = await asyncio.to_thread(self._prepared, generator, Head(chat, self._name(body)), body)
        try:
            for sequence in sequences:
                generator.begin(sequence)
        except UpstreamClosed:
            _cancel(generator, sequences)
            raise
        return answer

    def _prepared(self, generator: Generator, head: Head, body: Body) -> tuple[LocalAnswer, list[Sequence]]:
        """The answer, and what is to begin for it. Blocks."""
        asked = self._prompts.read(head.chat, body)
        sequences: list[Sequence] = []
        answer = LocalAnswer(functools.partial(_cancel, generator, sequences))
        assembly = Assembly(answer, _form(asked, head, generator), self._entry.name)
        for index, generation in enumerate(asked.generations):
            if generation.max_tokens == 0:
                assembly.take(index, Update(end=Ending("length", len(generation.prompt), 0, 0, 0.0, 0.0)))
            else:
                sequences.append(generator.make(generation, functools.partial(assembly.take, index)))
        return answer, sequences

    def _name(self, body: Body) -> str:
        """As the answer calls the model: as its request did."""
        name = body.get("model")
        return name if isinstance(name, str) and name else self._entry.name


def _form(asked: Asked, head: Head, generator: Generator) -> WholeAnswer | StreamedAnswer:
    prompts, n, usage = len(asked.prompts), asked.limits.n, asked.limits.include_usage
    if asked.limits.stream:
        return StreamedAnswer(head, generator.pieces, prompts=prompts, n=n, include_usage=usage, deltas=asked.deltas)
    return WholeAnswer(head, generator.pieces, prompts=prompts, n=n, deltas=asked.deltas)


def _cancel(generator: Generator, sequences: list[Sequence]) -> None:
    for sequence in sequences:
        generator.cancel(sequence)


def _object(raw: bytes) -> Body:
    if not raw:
        return {}
    try:
        body = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise InvalidRequest(f"The body is not valid JSON: {error.msg}") from None
    if not isinstance(body, dict):
        raise InvalidRequest("The body must be a JSON object.")
    return body
