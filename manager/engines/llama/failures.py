"""Finds in a llama.cpp log why the process ended. It knows lines, neither processes nor models."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Final

# "0.00.003.885 E llama_model_load: …", "0.00.004.045 E srv    load_model: …": time, level, component, function.
_LOGGED: Final = re.compile(r"\d+\.\d\d\.\d{3}\.\d{3} (?P<level>[A-Z]) (?:[a-z]{2,5} +(?=[\w()]+: ))?(?:[\w()]+: )?")
_NOISE_AHEAD: Final = re.compile(
    r"(?:(?:error|error loading model|llama_model_loader|init|embedded|what\(\)): )+", re.I
)
# What ends the process at once, whenever it comes.
_FATAL: Final = re.compile(
    r"GGML_ASSERT|GGML_ABORT|CUDA error|ROCm error|\bwhat\(\):|Segmentation fault|vk::\w+Error|^\w+Error: "
)
# Without a log prefix only these are about a failure; the rest is usage text and the like.
_BARE: Final = re.compile(r"\berror\b|^embedded: |No module named|can't open file", re.I)
_STARTED: Final = "listening on"
# Consequences and advice: true, but the line that tells the cause is another.
_CONSEQUENCE: Final = re.compile(
    r"failed to load model(?! from)|exiting due to|fit params to free device memory"
    r"|failed to create.?context|failed to initialize the context|failed to initialize chat template"
    r"|please consider disabling jinja|for example: |failed to get memory usage|failed to apply template"
    r"|failed to allocate compute|failed to allocate .*buffer of size|Failed to init server"
    r"|Does this file exist|chat template parsing error|failed to initialize CUDA"
)
# Errors of single requests, after which the server goes on.
_REQUEST: Final = re.compile(r"send_error|got exception|failed to (?:parse|launch|process)|invalid request")
_MEMORY: Final = re.compile(
    r"insufficient memory|out of memory|OutOf(?:Device|Host)Memory|failed to allocate|bad_alloc|cudaMalloc failed", re.I
)
_MOST_LINES: Final = 2
_LAST_WORDS: Final = 5


def explain_failure(log_tail: Sequence[str]) -> str:
    """The telling lines of the log's end, without their prefixes, on one line; "" where none tells anything."""
    fatal = _fatal(log_tail)
    if fatal:
        return _joined(map(_bare, fatal))
    started = max((number for number, line in enumerate(log_tail) if _STARTED in line), default=-1)
    errors = [line for line in log_tail[started + 1 :] if _is_error(line)]
    if started >= 0:
        errors = [line for line in errors if not _REQUEST.search(line)]
    causes = [_bare(line) for line in errors if not _CONSEQUENCE.search(line)]
    return _joined(causes or [_bare(line) for line in errors])


def explain_crash(log_tail: Sequence[str]) -> str:
    """The same for a process that has served requests: only what ends a process at once can be the reason.

    That, or a lack of memory that was the last thing it said.
    """
    short = [line for line in log_tail[-_LAST_WORDS:] if _MEMORY.search(line) and _is_error(line)]
    return _joined(map(_bare, _fatal(log_tail) or short))


def ran_out_of_memory(log_tail: Iterable[str]) -> bool:
    """Whether an error of llama.cpp says that it did not get the memory it needs, of the host or of a GPU."""
    return any(_MEMORY.search(line) and (_is_error(line) or _FATAL.search(line)) for line in log_tail)


def _fatal(lines: Iterable[str]) -> list[str]:
    return [line for line in lines if _FATAL.search(line)]


def _is_error(line: str) -> bool:
    logged = _LOGGED.match(line)
    if logged is None:
        return bool(_BARE.search(line))
    return logged["level"] == "E"


def _bare(line: str) -> str:
    logged = _LOGGED.match(line)
    text = line[logged.end() :] if logged else line
    text = text.strip()
    noise = _NOISE_AHEAD.match(text)
    return text[noise.end() :].strip() if noise else text


def _joined(lines: Iterable[str]) -> str:
    different = list(dict.fromkeys(line for line in lines if line))
    return "; ".join(different[:_MOST_LINES])
