"""Which policy loads least: traces of requests for models that don't all fit are replayed, with time simulated.

The bound is what no policy can get below, though it knew all requests beforehand. To find that optimum itself is
NP-hard where sizes differ; a relaxation of it is not. Whoever loads a model at one request and still has it at the
next saves a load, and uses its size of the memory at all requests between the two. Let each use cost a price per
share of memory, another one at each request: the most that savings less prices can be, plus what all the memory costs,
is at least what can be saved, whatever the prices are (Lagrangian duality). Good prices make it a close bound.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import random
import statistics
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from rich import box
from rich.console import Console
from rich.progress import track
from rich.table import Table

from manager.policy import Candidate, Policy, Usage, choose, make_policy

MODELS: Final = 20
GB: Final = 1000**3
LARGEST: Final = 40 * GB
MEMORY: Final = (0.15, 0.25, 0.5)  # shares of the size of all models
BYTES_PER_SECOND: Final = 2 * GB
START_SECONDS: Final = 1.0  # of a load, whatever the size
GAP: Final = 60.0  # mean seconds between requests, so long that to wait is mostly to load
SERVICE: Final = 0.5  # seconds of an answer

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Model:
    """size in bytes, load in seconds."""

    name: str
    size: int
    load: float


@dataclass(frozen=True, slots=True)
class Request:
    at: float
    model: Model


@dataclass(frozen=True, slots=True)
class Kind:
    """Of trace: the exponent of the popularity's Zipf law; how often it is dealt anew; mean requests in a row."""

    exponent: float
    shifts: int = 0
    burst: int = 1

    def __str__(self) -> str:
        shifts = f", {self.shifts} shift{'s' if self.shifts > 1 else ''}" if self.shifts else ""
        return f"zipf {self.exponent}{shifts}{f', bursts of {self.burst}' if self.burst > 1 else ''}"


KINDS: Final = (Kind(0.6), Kind(1.0), Kind(1.4), Kind(1.0, shifts=1), Kind(1.4, shifts=7), Kind(1.0, burst=10))


@dataclass(frozen=True, slots=True)
class Outcome:
    """Means over the seeds. wait: mean seconds from a request's arrival until its model was ready for it."""

    wait: float
    loads: float
    load_seconds: float


class Plain:
    """GDSF as it was published: the count is that of this load, and never gets old."""

    def __init__(self) -> None:
        self._level = 0.0
        self._seen: dict[str, int] = {}
        self._worth: dict[str, float] = {}

    def rank(self, loaded: Iterable[Usage]) -> Mapping[str, float]:
        for one in loaded:
            if self._seen.get(one.name) != one.uses:
                self._seen[one.name] = one.uses
                self._worth[one.name] = self._level + one.uses * one.cost / one.size
        return self._worth

    def evicted(self, name: str) -> None:
        self._level = max(self._level, self._worth.pop(name))
        del self._seen[name]


POLICIES: Final[Mapping[str, Callable[[], Policy]]] = {
    "gdsf": lambda: make_policy("gdsf"),
    "lru": lambda: make_policy("lru"),
    "plain": Plain,
}
BOUND: Final = "bound"


def make_models(rng: random.Random) -> list[Model]:
    """Sizes evenly spread over the orders of magnitude."""
    sizes = [int(GB * math.exp(rng.uniform(0, math.log(LARGEST / GB)))) for _ in range(MODELS)]
    return [Model(f"m{n:02}", size, START_SECONDS + size / BYTES_PER_SECOND) for n, size in enumerate(sizes)]


def make_trace(models: Sequence[Model], kind: Kind, count: int, rng: random.Random) -> Iterator[Request]:
    weights = [1 / rank**kind.exponent for rank in range(1, len(models) + 1)]
    ranked = rng.sample(models, len(models))
    period = math.ceil(count / (kind.shifts + 1))
    at, model = 0.0, None
    for number in range(count):
        if number and number % period == 0:
            ranked = rng.sample(models, len(models))
        if model is None or rng.random() < 1 / kind.burst:
            (model,) = rng.choices(ranked, weights)
        at += rng.expovariate(1 / GAP)
        yield Request(at, model)


class Machine:
    """Memory with models in it, and a policy that says which of them go. Its clock is that of the requests."""

    def __init__(self, memory: int, policy: Policy) -> None:
        self._memory, self._policy = memory, policy
        self._loaded: dict[str, tuple[Model, int, float]] = {}  # with uses and last use
        self._ready = 0.0

    def ask(self, request: Request) -> tuple[float, bool]:
        """Seconds that the request waits, and whether its model was loaded for it."""
        now, model = max(request.at, self._ready), request.model
        load = model.name not in self._loaded
        if load:
            self._make_room(model)
            now += model.load
        uses = 0 if load else self._loaded[model.name][1]
        self._loaded[model.name] = (model, uses + 1, now)
        self._ready = now + SERVICE
        return now - request.at, load

    def _make_room(self, model: Model) -> None:
        lacking = model.size + sum(other.size for other, _, _ in self._loaded.values()) - self._memory
        if lacking <= 0:
            return
        worth = self._policy.rank(
            Usage(name, uses, other.load, other.size / self._memory, used_at)
            for name, (other, uses, used_at) in self._loaded.items()
        )
        candidates = [Candidate(name, {"host": one.size}, worth[name]) for name, (one, _, _) in self._loaded.items()]
        names = choose(candidates, {"host": lacking})
        if names is None:
            raise ValueError(f"{model.name} is larger than the memory")
        for name in names:
            self._policy.evicted(name)
            del self._loaded[name]


def replay(trace: Sequence[Request], memory: int, policy: Policy) -> Outcome:
    machine = Machine(memory, policy)
    answers = [(*machine.ask(request), request.model) for request in trace]
    loads = [model.load for _, load, model in answers if load]
    return Outcome(statistics.fmean(wait for wait, _, _ in answers), len(loads), sum(loads))


def lower_bound(trace: Sequence[Request], memory: int, cost: Callable[[Model], float], rounds: int = 1000) -> float:
    """What the loads of the trace cost any policy at least, one that knows the future too.

    A model is loaded at its first request; the rest is by price, see above. Prices move against the free memory at
    each request by Adam's steps (Kingma and Ba, 2014), `rounds` times: more come closer, none makes the bound wrong.
    """
    last: dict[str, int] = {}
    kept: list[tuple[int, int, float, float]] = []  # first and last + 1 of the requests between, share, saving
    for number, request in enumerate(trace):
        model = request.model
        if model.name in last:
            kept.append((last[model.name] + 1, number, model.size / memory, cost(model)))
        last[model.name] = number
    total = sum(cost(request.model) for request in trace)
    if not kept:
        return total
    free = np.array([1 - request.model.size / memory for request in trace])  # beside the model asked for
    return total - _most_saved(np.array(kept), free, rounds)


def _most_saved(kept: Floats, free: Floats, rounds: int) -> float:
    starts, ends = kept[:, 0].astype(np.intp), kept[:, 1].astype(np.intp)
    shares, savings = kept[:, 2], kept[:, 3]
    prices, momentum, spread = np.zeros_like(free), np.zeros_like(free), np.zeros_like(free)
    least, step = math.inf, float(savings.mean()) / 5
    for round_ in range(rounds):
        paid = np.concatenate(([0.0], np.cumsum(prices)))
        gain = savings - shares * (paid[ends] - paid[starts])
        pays = gain > 0
        least = min(least, float(gain[pays].sum() + prices @ free))
        taken = np.bincount(starts[pays], shares[pays], len(free)) - np.bincount(ends[pays], shares[pays], len(free))
        slack = free - np.cumsum(taken)
        momentum = 0.9 * momentum + 0.1 * slack
        spread = 0.99 * spread + 0.01 * slack**2
        mean, square = momentum / (1 - 0.9 ** (round_ + 1)), spread / (1 - 0.99 ** (round_ + 1))
        prices = np.maximum(0, prices - step * (1 - round_ / rounds) * mean / (np.sqrt(square) + 1e-9))
    return least


def compare(kind: Kind, share: float, requests: int, seed: int) -> dict[str, Outcome]:
    """By policy, and the bound. Somebody waits for each load at least while it lasts, as nothing is loaded unasked."""
    rng = random.Random(f"{seed} {kind}")
    models = make_models(rng)
    trace = list(make_trace(models, kind, requests, rng))
    memory = max(int(share * sum(model.size for model in models)), *(model.size for model in models))
    outcomes = {name: replay(trace, memory, make()) for name, make in POLICIES.items()}
    seconds = lower_bound(trace, memory, lambda model: model.load)
    outcomes[BOUND] = Outcome(seconds / requests, lower_bound(trace, memory, lambda _: 1.0), seconds)
    return outcomes


def mean(outcomes: Sequence[Outcome]) -> Outcome:
    columns = zip(*((one.wait, one.loads, one.load_seconds) for one in outcomes), strict=True)
    return Outcome(*map(statistics.fmean, columns))


def show(console: Console, results: Mapping[tuple[Kind, float], Mapping[str, Outcome]]) -> None:
    names = (*POLICIES, BOUND)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    table.add_column("trace", no_wrap=True)
    for title in ("memory", *(f"{what}\n{name}" for what in ("wait", "loads", "load s") for name in names)):
        table.add_column(title, justify="right", no_wrap=True)
    for (kind, share), by_name in results.items():
        row = [by_name[name] for name in names]
        cells = [f"{one.wait:.1f}" for one in row] + [f"{one.loads:,.0f}" for one in row]
        table.add_row(str(kind), f"{share:.0%}", *cells, *(f"{one.load_seconds:,.0f}" for one in row))
    console.print(table)
    for name in POLICIES:
        ratios = [by_name[name].load_seconds / by_name["lru"].load_seconds for by_name in results.values()]
        console.print(
            f"{name}: load seconds to those of lru {statistics.geometric_mean(ratios):.2f} in the mean, "
            f"{min(ratios):.2f} to {max(ratios):.2f}"
        )


def parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.policy", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--requests", type=int, default=2000, metavar="N", help="in each trace [2000]")
    parser.add_argument("--seed", type=int, default=1, metavar="N", help="the first one [1]")
    parser.add_argument("--seeds", type=int, default=5, metavar="N", help="how many, one after another [5]")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write everything there")
    options = parser.parse_args(argv)
    if options.requests < 1 or options.seeds < 1:
        parser.error("--requests and --seeds: 1 at least")
    return options


def run(options: argparse.Namespace, console: Console) -> dict[str, Any]:
    seeds = range(options.seed, options.seed + options.seeds)
    results = {}
    for kind, share in track(list(itertools.product(KINDS, MEMORY)), "replaying", console=console, transient=True):
        outcomes = [compare(kind, share, options.requests, seed) for seed in seeds]
        results[kind, share] = {name: mean([one[name] for one in outcomes]) for name in outcomes[0]}
    show(console, results)
    rows = [
        {"trace": asdict(kind), "memory": share, "policy": name, **asdict(outcome)}
        for (kind, share), by_name in results.items()
        for name, outcome in by_name.items()
    ]
    return {"requests": options.requests, "seeds": list(seeds), "results": rows}


def main() -> None:
    options = parse(sys.argv[1:])
    result = run(options, Console())
    if options.json:
        options.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
