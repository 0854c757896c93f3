"""A loaded model and the thread that generates with it: what an engine holds between its start and its stop."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

from PIL import Image

from manager.engines.hf import footprint
from manager.engines.hf.batch.cache import KeyValues
from manager.engines.hf.batch.counters import Counters, Limits
from manager.engines.hf.batch.forward import Apart, Piece, choose_forward
from manager.engines.hf.batch.loop import Delivery, Generator
from manager.engines.hf.batch.packing import pack
from manager.engines.hf.embedding import Embedder, Vector
from manager.engines.hf.images import prepare
from manager.engines.hf.loading.load import LoadedModel, load
from manager.entry import ModelEntry
from manager.params import HfParams

logger = logging.getLogger(__name__)

# How much of a load is reading weights; what remains is packing them and a trial.
READING: Final = 0.7
# Tokens of prompts that one step may read, where the entry does not say.
CHUNK: Final = 512


class Residence:
    """Made by `load`, in the thread that is to `run` it; `release` gives all back, once that thread has ended."""

    def __init__(self, entry: ModelEntry, loaded: LoadedModel, generator: Generator | None, description: str) -> None:
        self.entry = entry
        self.loaded = loaded
        self.generator = generator
        self.embedder = Embedder(loaded, entry.hf.batch_size) if generator is None else None
        self._embedding = ThreadPoolExecutor(1, f"embed {entry.name}")
        self.description = description
        self._weights = footprint.storage_bytes(loaded.model)
        self._released = False

    @classmethod
    def load(
        cls,
        entry: ModelEntry,
        progress: Callable[[float], None],
        deliver: Callable[[Delivery], None],
        ended: Callable[[BaseException | None], None],
    ) -> Residence:
        """Blocks. Raises LoadFailed; `progress` may raise to end the load. After an error nothing is held."""
        loaded = load(entry, lambda part: progress(READING * part))
        try:
            about = _about(loaded)
            packed = pack(loaded.model, lambda part: progress(READING + (1 - READING) * 0.9 * part))
            footprint.own(loaded.model)
            generator = None
            how = "embeddings"
            if loaded.kind != "encoder":
                forward = choose_forward(loaded, entry.name, _sample(loaded) if loaded.kind == "vision" else None)
                how = "one sequence at a time" if isinstance(forward, Apart) else "sequences together"
                generator = Generator(loaded, forward, _limits(entry.hf, loaded), deliver, ended)
            return cls(entry, loaded, generator, f"{about}, {packed} layers packed, {how}")
        except BaseException:
            footprint.release(loaded.model)
            raise

    def run(self) -> None:
        """Generate until `close`; for the thread in which it was loaded. One with embeddings has nothing to do."""
        if self.generator is not None:
            self.generator.run()

    @property
    def alive(self) -> bool:
        return self.generator is None or self.generator.alive

    @property
    def counters(self) -> Counters | None:
        return None if self.generator is None else self.generator.counters

    @property
    def heard_at(self) -> float:
        """When the last step ended; now, where nobody waits for one. By time.monotonic."""
        counters = self.counters
        if counters is None or not (counters.running or counters.waiting):
            return time.monotonic()
        return counters.stepped_at

    @property
    def cpu(self) -> float:
        """CPU seconds of the thread that generates; those of torch's own threads are as many again."""
        return 0.0 if self.generator is None else self.generator.cpu

    def memory(self) -> dict[str, int]:
        """Bytes by device: weights, and the caches as they are now."""
        sizes = dict(self._weights)
        if self.counters is not None:
            for device, size in _shares(sizes, self.counters.cache_bytes).items():
                sizes[device] = sizes.get(device, 0) + size
        return sizes

    async def embed(self, inputs: Sequence[str | Sequence[int]]) -> list[tuple[Vector, int]]:
        """See `Embedder.embed`; one request after another."""
        assert self.embedder is not None  # noqa: S101  the caller has looked
        return await asyncio.get_running_loop().run_in_executor(self._embedding, self.embedder.embed, inputs)

    def close(self) -> None:
        if self.generator is not None:
            self.generator.close()

    def join(self, timeout: float) -> bool:
        """Whether nothing is computed any more. Blocks."""
        self._embedding.shutdown(cancel_futures=True)
        return self.generator is None or self.generator.join(timeout)

    def release(self) -> None:
        """Give everything back. Blocks."""
        if not self._released:
            self._released = True
            footprint.release(self.loaded.model)


def _sample(loaded: LoadedModel) -> Piece:
    """A prompt with a picture of two colours."""
    picture = Image.new("RGB", (64, 48), (200, 30, 30))
    picture.paste((20, 60, 220), (0, 0, 32, 48))
    content = [{"type": "image"}, {"type": "text", "text": "What is this?"}]
    tokens, media = prepare(loaded, [{"role": "user", "content": content}], [picture])
    return Piece(KeyValues(0), tokens, wanted=True, media=media)


def _limits(params: HfParams, loaded: LoadedModel) -> Limits:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return Limits(
        window=loaded.window,
        sequences=params.parallel,
        cache=params.cache_tokens or 2 * loaded.window,
        chunk=params.batch_size or CHUNK,
        threads=params.threads if params.threads and params.threads > 0 else cores,
    )


def _about(loaded: LoadedModel) -> str:
    model: Any = loaded.model
    count = sum(one.numel() for one in model.parameters())
    return f"{type(model).__name__}, {count:,} parameters, {model.dtype}, {loaded.device}, window {loaded.window}"


def _shares(weights: dict[str, int], size: int) -> dict[str, int]:
    """Where caches lie: with the layers, so as these are spread over the devices."""
    total = sum(weights.values()) or 1
    return {device: size * part // total for device, part in weights.items()}
