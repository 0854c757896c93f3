"""The engines' own metrics on one page, and engines that spoil theirs."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, cast

import pytest

from manager import engine_metrics
from manager.engines import Engine
from manager.metrics import Metrics
from tests.manager.bench import soon

# As llama-server writes it; one of its counters has not the ending of a counter.
LLAMA = b"""# HELP llamacpp:prompt_tokens_total Number of prompt tokens processed, excluding cached tokens
# TYPE llamacpp:prompt_tokens_total counter
llamacpp:prompt_tokens_total 45
# HELP llamacpp:n_tokens_max Largest observed sequence length (prompt + generation)
# TYPE llamacpp:n_tokens_max counter
llamacpp:n_tokens_max 34
# HELP llamacpp:prompt_tokens_seconds Average prompt throughput in tokens/s
# TYPE llamacpp:prompt_tokens_seconds gauge
llamacpp:prompt_tokens_seconds 113.467
"""


class Told:
    """An engine as far as its metrics go."""

    def __init__(self, text: bytes | None = None, error: Exception | None = None, *, late: bool = False) -> None:
        self._text = text
        self._error = error
        self._late = late
        self.asked = asyncio.Event()
        self.given_up = False

    async def metrics(self) -> bytes | None:
        self.asked.set()
        if self._error is not None:
            raise self._error
        try:
            while self._late:
                await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.given_up = True
            raise
        return self._text


async def page(engines: Mapping[str, Told], patience: float = 5.0) -> str:
    families = await soon(engine_metrics.ask(cast(Mapping[str, Engine], engines), patience))
    text = Metrics().render(more=families).decode()
    return text[text.index("# HELP llamacpp") :] if "# HELP llamacpp" in text else ""


async def test_every_sample_has_its_model_and_every_family_comes_once() -> None:
    assert await page({"a": Told(LLAMA), "b": Told(LLAMA.replace(b" 45", b" 46"))}) == (
        "# HELP llamacpp:prompt_tokens_total Number of prompt tokens processed, excluding cached tokens\n"
        "# TYPE llamacpp:prompt_tokens_total counter\n"
        'llamacpp:prompt_tokens_total{model="a"} 45.0\n'
        'llamacpp:prompt_tokens_total{model="b"} 46.0\n'
        "# HELP llamacpp:n_tokens_max Largest observed sequence length (prompt + generation)\n"
        "# TYPE llamacpp:n_tokens_max untyped\n"
        'llamacpp:n_tokens_max{model="a"} 34.0\n'
        'llamacpp:n_tokens_max{model="b"} 34.0\n'
        "# HELP llamacpp:prompt_tokens_seconds Average prompt throughput in tokens/s\n"
        "# TYPE llamacpp:prompt_tokens_seconds gauge\n"
        'llamacpp:prompt_tokens_seconds{model="a"} 113.467\n'
        'llamacpp:prompt_tokens_seconds{model="b"} 113.467\n'
    )


async def test_labels_of_the_engine_stay_and_none_of_them_passes_for_the_model() -> None:
    text = b'# HELP llamacpp:x x\n# TYPE llamacpp:x gauge\nllamacpp:x{slot="0",model="/path/m.gguf"} 1\n'
    assert 'llamacpp:x{model="a",slot="0"} 1.0\n' in await page({"a": Told(text)})


async def test_without_engines_there_is_nothing() -> None:
    assert await engine_metrics.ask({}) == []


@pytest.mark.parametrize(
    "broken",
    [
        Told(None),
        Told(b""),
        Told(b"<html>what?</html>"),
        Told(b"\xff\xfe{{{"),
        Told(b"# TYPE llamacpp:x counter\nllamacpp:x{a=} one\n"),
        Told(b"llamacpp:x\n"),
        Told(error=RuntimeError("broken")),
    ],
    ids=["none", "empty", "html", "binary", "labels", "no value", "raises"],
)
async def test_an_engine_that_spoils_its_metrics_is_left_out_alone(broken: Any) -> None:
    assert await page({"broken": broken, "well": Told(LLAMA)}) == await page({"well": Told(LLAMA)})


async def test_no_engine_passes_its_metrics_off_as_ours() -> None:
    text = b"# HELP llamaherd_requests_in_flight x\n# TYPE llamaherd_requests_in_flight gauge\n"
    families = await engine_metrics.ask(cast(Any, {"a": Told(text + b"llamaherd_requests_in_flight 7\n")}))
    assert families == []


async def test_all_are_asked_at_once_and_who_is_late_is_left_out() -> None:
    late = [Told(late=True), Told(late=True)]
    began = asyncio.get_running_loop().time()
    text = await page({"late": late[0], "later": late[1], "well": Told(LLAMA)}, patience=0.05)
    assert asyncio.get_running_loop().time() - began < 1.0
    assert 'model="well"' in text
    assert "late" not in text
    assert [engine.given_up for engine in late] == [True, True]


async def test_a_reader_that_leaves_ends_the_asking() -> None:
    late = Told(late=True)
    asking = asyncio.create_task(engine_metrics.ask(cast(Any, {"late": late})))
    await soon(late.asked.wait())
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    assert late.given_up
