"""What the thread that generates has done so far, what it has before it, and within which limits."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """`window`: tokens of one sequence; `sequences`: that run at once; `cache`: tokens of all; `chunk`: of a step."""

    window: int
    sequences: int
    cache: int
    chunk: int
    threads: int


@dataclass(slots=True)
class Counters:
    """Read by other threads. A step that reads prompts while others generate counts its seconds for both."""

    prompt_tokens: int = 0
    prompt_seconds: float = 0.0
    tokens: int = 0
    seconds: float = 0.0
    steps: int = 0
    stepped_at: float = 0.0  # time.monotonic of the last step's end, or of the first work after a rest
    running: int = 0
    waiting: int = 0
    cache_tokens: int = 0
    cache_bytes: int = 0
