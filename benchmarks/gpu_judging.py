"""What is right of a model on a GPU, beside the same model on the CPU. Pure: it measures nothing."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

MIB: Final = 1 << 20
# How far two computations in 16 bits may be apart in the logarithm of a probability. Another order of additions gives
# a few hundredths; a kernel that is wrong gives whole numbers.
LOGPROB_TOLERANCE: Final = 0.15
# Two tokens so close are taken to be equally good: either may come, and what follows is another text.
NEAR_TIE: Final = 2 * LOGPROB_TOLERANCE
# Of a token that is not among the likeliest.
UNLIKELY: Final = -99.0
# What the estimate may be off, of what was measured.
ESTIMATE_UNDER: Final = 0.05
ESTIMATE_OVER: Final = 0.30
# Until memory is free again, and how much of it the driver may keep.
FREED_WITHIN: Final = 2.0
FREED_SLACK: Final = 32 * MIB
# How much of its speed more streams together may lose.
LOSS_OF_MORE: Final = 0.9
# How much of the file has to be on the GPU: the token embeddings stay on the host.
LEAST_ON_GPU: Final = 0.6


@dataclass(frozen=True, slots=True)
class Token:
    """One token of an answer: its logarithm of a probability, and those of the likeliest at its place."""

    text: str
    logprob: float
    likeliest: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Agreement:
    """Two answers to one prompt. `same`: tokens that agree from the start on, of `of`. `wrong`: why that is not right.

    `apart`: how far the first tokens' logarithms are apart.
    """

    same: int
    of: int
    apart: float
    wrong: str | None = None


@dataclass(frozen=True, slots=True)
class OnGpu:
    """What NVML and the log say of the model on the GPU, in bytes and seconds; None where that is not known.

    `free_before`: before the load. `taken`: by its process, or what is missing. `freed_after`: None, not in time.
    """

    estimate: int
    taken: int | None
    file_size: int
    layers: tuple[int, int] | None
    freed_after: float | None


def agreement(cpu: Sequence[Token], gpu: Sequence[Token]) -> Agreement:
    """Of the answers to one prompt at temperature 0.

    They may part where the CPU was nearly undecided between its token and the GPU's. What follows is not compared.
    """
    of = min(len(cpu), len(gpu))
    if not of:
        return Agreement(0, 0, 0.0, "one of the answers is empty")
    pairs = enumerate(zip(cpu, gpu, strict=False))
    same = next((place for place, (one, other) in pairs if one.text != other.text), of)
    apart = abs(cpu[0].logprob - gpu[0].logprob) if same else _gap(cpu[0], gpu[0].text)
    wrong = None
    if same < of and _gap(cpu[same], gpu[same].text) > NEAR_TIE:
        wrong = f"token {same + 1} is {gpu[same].text!r}, and the CPU is sure of {cpu[same].text!r}"
    elif same > 0 and apart > LOGPROB_TOLERANCE:
        wrong = f"the first token's logprob is {apart:.3f} off, and may be {LOGPROB_TOLERANCE}"
    return Agreement(same, of, apart, wrong)


def _gap(sure: Token, other: str) -> float:
    """How much less likely than its own token another one was to it."""
    return sure.logprob - sure.likeliest.get(other, UNLIKELY)


def wrong_speeds(cpu: Mapping[int, float], gpu: Mapping[int, float] | None) -> Iterator[str]:
    """Tokens per second by the number of streams. `gpu`: None where there is none."""
    for name, speeds in (("CPU", cpu), ("GPU", gpu or {})):
        yield from (f"{streams} streams on the {name} gave nothing" for streams, speed in speeds.items() if speed <= 0)
    fast = gpu or {}
    for few, many in itertools.pairwise(sorted(fast)):
        if fast[many] < LOSS_OF_MORE * fast[few]:
            yield f"{many} streams on the GPU give {fast[many]:.1f} tokens/s, {few} give {fast[few]:.1f}"
    for streams in cpu.keys() & fast.keys():
        if fast[streams] <= cpu[streams]:
            yield f"{streams} streams are no faster on the GPU ({fast[streams]:.1f} tokens/s) than on the CPU"


def wrong_on_gpu(found: OnGpu) -> Iterator[str]:
    """What is not right of layers and memory."""
    if found.layers is None and found.taken is None:
        yield "neither the log nor NVML tells whether the layers are on the GPU"
    if found.layers is not None and found.layers[0] < found.layers[1]:
        yield f"only {found.layers[0]} of {found.layers[1]} layers are on the GPU"
    if found.taken is None:
        yield "NVML does not tell what the model takes"
        return
    if found.taken < LEAST_ON_GPU * found.file_size:
        yield f"{_mib(found.taken)} on the GPU can't be the model: its file has {_mib(found.file_size)}"
    elif not -ESTIMATE_UNDER <= off(found) <= ESTIMATE_OVER:
        yield f"the estimate of the GPU's memory is {off(found):+.0%} off ({_mib(found.estimate)}, {_mib(found.taken)})"
    if found.freed_after is None:
        yield f"the GPU's memory was not free again {FREED_WITHIN:g} s after the unload"


def off(found: OnGpu) -> float:
    """By how much the estimate is above what was taken, of that."""
    return (found.estimate - found.taken) / found.taken if found.taken else 0.0


def _mib(size: int) -> str:
    return f"{size / MIB:.0f} MiB"
