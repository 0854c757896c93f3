"""A generator with a tiny model, and somebody who listens to what its thread brings."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import MappingProxyType
from typing import Any

from manager.engines.hf.batch.counters import Limits
from manager.engines.hf.batch.forward import Forward
from manager.engines.hf.batch.loop import Delivery, Generator
from manager.engines.hf.batch.packing import pack
from manager.engines.hf.batch.sequence import Sequence
from manager.engines.hf.batch.trial import choose_forward
from manager.engines.hf.generation import Ending, Generation, Sampling, Score, Update
from manager.engines.hf.loading.load import LoadedModel, load
from manager.engines.hf.runtime import bring_in
from manager.entry import ModelEntry
from manager.params import HfParams

PATIENCE = 30.0
GREEDY = Sampling(temperature=0.0)


def load_folder(folder: Path, **params: Any) -> LoadedModel:
    bring_in()
    entry = ModelEntry(name=folder.name, path=folder, params=HfParams(model=str(folder), **params), engine="hf")
    loaded = load(entry, lambda _: None)
    pack(loaded.model)
    return loaded


class Heard:
    """What one sequence brought."""

    def __init__(self) -> None:
        self.text = ""
        self.scores: list[Score] = []
        self.end: Ending | None = None
        self.error: Exception | None = None
        self.updates = 0
        self._changed = threading.Condition()

    def take(self, update: Update) -> None:
        with self._changed:
            self.text += update.text
            self.scores += update.scores
            self.end = update.end or self.end
            self.error = update.error or self.error
            self.updates += 1
            self._changed.notify_all()

    def until(self, what: Callable[[Heard], object]) -> Heard:
        with self._changed:
            assert self._changed.wait_for(lambda: what(self), PATIENCE), "nothing of the kind came"
        return self

    def over(self) -> Heard:
        return self.until(lambda heard: heard.end or heard.error)

    @property
    def ending(self) -> Ending:
        assert self.end is not None, self.error
        return self.end


class Table:
    """Whom a generator serves."""

    def __init__(self, generator: Generator, ends: list[BaseException | None]) -> None:
        self.generator = generator
        self.ends = ends  # what its thread said at its end

    def ask(self, generation: Generation) -> tuple[Heard, Sequence]:
        heard = Heard()
        sequence = self.generator.make(generation, heard.take)
        self.generator.begin(sequence)
        return heard, sequence

    def all(self, *generations: Generation) -> list[Heard]:
        """Asked for at once, and over."""
        heard = [self.ask(generation)[0] for generation in generations]
        return [one.over() for one in heard]


@contextlib.contextmanager
def generating(
    loaded: LoadedModel,
    *,
    forward: Forward | None = None,
    limits: MappingProxyType[str, int] | dict[str, int] | None = None,
) -> Iterator[Table]:
    ends: list[BaseException | None] = []

    def deliver(news: Delivery) -> None:
        for sink, update in news:
            sink(update)

    given = {"window": loaded.window, "sequences": 16, "cache": 2 * loaded.window, "chunk": 512, "threads": 2}
    generator = Generator(
        loaded,
        forward or choose_forward(loaded, "test"),
        Limits(**(given | dict(limits or {}))),
        deliver,
        ends.append,
    )
    threading.Thread(target=generator.run, daemon=True).start()
    try:
        yield Table(generator, ends)
    finally:
        generator.close()
        assert generator.join(PATIENCE)
