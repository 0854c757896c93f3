"""A loaded model and the thread that generates with it: what an engine holds between its start and its stop."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from PIL import Image

from manager.engines.hf import footprint
from manager.engines.hf.batch.cache import KeyValues
from manager.engines.hf.batch.counters import Limits
from manager.engines.hf.batch.forward import Apart, Piece
from manager.engines.hf.batch.loop import Delivery, Generator
from manager.engines.hf.batch.packing import pack
from manager.engines.hf.batch.trial import choose_forward
from manager.engines.hf.embedding_queue import EmbeddingQueue
from manager.engines.hf.images import prepare
from manager.engines.hf.loading.load import LoadedModel, failure_of, load
from manager.entry import ModelEntry
from manager.params import HfParams

logger = logging.getLogger(__name__)

# How much of a load is reading weights; what remains is packing them and a trial.
READING: Final = 0.7
# Tokens of prompts that one step may read, where the entry does not say.
CHUNK: Final = 512


@dataclass(frozen=True, slots=True)
class Tell:
    """How the thread reaches the event loop: with what a step brought, with a call, and with its own end."""

    deliver: Callable[[Delivery], None]
    call: Callable[[Callable[[], None]], None]
    ended: Callable[[BaseException | None], None]


class Residence:
    """Made by `load`, in the thread that is to run `thread`; `release` gives all back, once that has ended.

    One of `generator` and `embeddings` is there.
    """

    def __init__(
        self, entry: ModelEntry, loaded: LoadedModel, thread: Generator | EmbeddingQueue, description: str
    ) -> None:
        self.entry = entry
        self.loaded = loaded
        self.generator = thread if isinstance(thread, Generator) else None
        self.embeddings = thread if isinstance(thread, EmbeddingQueue) else None
        self.description = description
        self.thread = thread
        self._weights = footprint.storage_bytes(loaded.model)
        self._released = False

    @classmethod
    def load(cls, entry: ModelEntry, progress: Callable[[float], None], tell: Tell) -> Residence:
        """Blocks. Raises LoadFailed; `progress` may raise to end the load. After an error nothing is held."""
        loaded = load(entry, lambda part: progress(READING * part))
        try:
            about = _about(loaded)
            packed = pack(loaded.model, lambda part: progress(READING + (1 - READING) * 0.9 * part))
            footprint.own(loaded.model)
            thread, how = _thread(entry, loaded, tell)
            return cls(entry, loaded, thread, f"{about}, {packed} layers packed, {how}")
        except Exception as error:
            failure = failure_of(entry, error)
        footprint.release(loaded.model)
        raise failure  # out here, so that the first error and its frames are gone

    def memory(self) -> dict[str, int]:
        """Bytes by device: weights, and the caches as they are now."""
        sizes = dict(self._weights)
        for device, size in _shares(sizes, self.thread.counters.cache_bytes).items():
            sizes[device] = sizes.get(device, 0) + size
        return sizes

    def release(self) -> None:
        """Give everything back. Blocks."""
        if not self._released:
            self._released = True
            footprint.release(self.loaded.model)


def _thread(entry: ModelEntry, loaded: LoadedModel, tell: Tell) -> tuple[Generator | EmbeddingQueue, str]:
    """What the thread is to do, and how it does it, in words. Blocks for a trial."""
    params = entry.hf
    if loaded.kind == "encoder":
        batch = params.batch_size
        return EmbeddingQueue(loaded, _threads(params), tell.call, tell.ended, batch_tokens=batch), "embeddings"
    forward = choose_forward(loaded, entry.name, _sample(loaded) if loaded.kind == "vision" else None)
    how = "one sequence at a time" if isinstance(forward, Apart) else "sequences together"
    return Generator(loaded, forward, _limits(params, loaded), tell.deliver, tell.ended), how


def _sample(loaded: LoadedModel) -> Piece:
    """A prompt with a picture of two colours."""
    picture = Image.new("RGB", (64, 48), (200, 30, 30))
    picture.paste((20, 60, 220), (0, 0, 32, 48))
    content = [{"type": "image"}, {"type": "text", "text": "What is this?"}]
    tokens, media = prepare(loaded, [{"role": "user", "content": content}], [picture])
    return Piece(KeyValues(0), tokens, wanted=True, media=media)


def _limits(params: HfParams, loaded: LoadedModel) -> Limits:
    return Limits(
        window=loaded.window,
        sequences=params.parallel,
        cache=params.cache_tokens or 2 * loaded.window,
        chunk=params.batch_size or CHUNK,
        threads=_threads(params),
    )


def _threads(params: HfParams) -> int:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return params.threads if params.threads and params.threads > 0 else cores


def _about(loaded: LoadedModel) -> str:
    model: Any = loaded.model
    count = sum(one.numel() for one in model.parameters())
    return f"{type(model).__name__}, {count:,} parameters, {model.dtype}, {loaded.device}, window {loaded.window}"


def _shares(weights: dict[str, int], size: int) -> dict[str, int]:
    """Where caches lie: with the layers, so as these are spread over the devices."""
    total = sum(weights.values()) or 1
    return {device: size * part // total for device, part in weights.items()}
