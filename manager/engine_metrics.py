"""What engines count themselves, with the name of their model as a label."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Iterable, Mapping
from typing import Final

from prometheus_client.core import Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from manager.engines import Engine

logger = logging.getLogger(__name__)

# A page of metrics waits so long for its engines, in seconds; one that computes a long prompt answers later.
PATIENCE: Final = 1.0
OURS: Final = "llamaherd_"
# The library adds "_total" to the name of every counter. One that is named otherwise keeps its name without its type.
_ODD_COUNTERS: Final = re.compile(r"^(# TYPE \S+(?<!_total)) counter[ \t]*$", re.MULTILINE)


async def ask(engines: Mapping[str, Engine], patience: float = PATIENCE) -> list[Metric]:
    """The metrics of all engines, by the models' names, each family once.

    Who does not answer within `patience` seconds is left out.
    """
    texts = await asyncio.gather(*(_text_of(model, engine, patience) for model, engine in engines.items()))
    families: dict[str, Metric] = {}
    for model, text in zip(engines, texts, strict=True):
        if text:
            _merge(families, model, text)
    return list(families.values())


async def _text_of(model: str, engine: Engine, patience: float) -> str:
    try:
        async with asyncio.timeout(patience):
            answer = await engine.metrics()
    except TimeoutError:
        return ""
    except Exception:  # one engine must not cost the metrics of all
        logger.exception("model=%s its metrics can't be had", model)
        return ""
    return (answer or b"").decode(errors="replace")


def _merge(families: dict[str, Metric], model: str, text: str) -> None:
    try:
        parsed = list(text_string_to_metric_families(_ODD_COUNTERS.sub(r"\1 untyped", text)))
    except Exception as error:  # the parser meets what is no metric with IndexError and others
        logger.warning("model=%s its metrics can't be read (%s)", model, type(error).__name__)
        return
    for family in parsed:
        if family.name.startswith(OURS):
            continue
        known = families.setdefault(family.name, Metric(family.name, family.documentation, family.type))
        _add(known, family.samples, model)


def _add(family: Metric, samples: Iterable[Sample], model: str) -> None:
    for name, labels, value, *_ in samples:
        family.add_sample(name, {**labels, "model": model}, value)
