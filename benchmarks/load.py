"""Load by wrk: one case driven at one target, and what was measured."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psutil

SCRIPT: Final = Path(__file__).with_name("post.lua")
REQUEST_TIMEOUT: Final = 10  # seconds until wrk counts a request as timed out

ERRORS: Final = ("status", "connect", "read", "write", "timeout")


@dataclass(frozen=True, slots=True)
class Target:
    """Something that answers: its address without a path, its key, and its process."""

    name: str
    url: str
    key: str
    pid: int


@dataclass(frozen=True, slots=True)
class Case:
    """One kind of request. `tokens` is how many one answer generates.

    `close` asks for a new connection per request, for targets that close theirs after an answer without saying so:
    wrk would count that as an error.
    """

    name: str
    path: str
    body: str
    tokens: int = 0
    close: bool = False


@dataclass(frozen=True, slots=True)
class Sample:
    """What one run of wrk saw. `errors`: answers of status 400 and more, broken connections by kind, timeouts."""

    requests: int
    seconds: float
    p50_ms: float
    p99_ms: float
    worst_ms: float
    cpu_seconds: float  # of the target's process, without its children
    errors: Mapping[str, int]

    @property
    def failed(self) -> int:
        return sum(self.errors.values())

    @property
    def rate(self) -> float:
        """Answers per second, failed ones left out."""
        return max(0, self.requests - self.failed) / self.seconds

    @property
    def cpu_us(self) -> float:
        """Microseconds of the target's CPU time for one answer: what other load on the machine changes least."""
        return self.cpu_seconds / max(1, self.requests) * 1e6


def find_wrk() -> str | None:
    return shutil.which("wrk")


def drive(target: Target, case: Case, *, connections: int, seconds: int) -> Sample:
    """Send `case` over so many connections for so long. RuntimeError where wrk fails. Blocks."""
    wrk = find_wrk()
    if wrk is None:
        raise RuntimeError("wrk is not installed (Debian: apt-get install wrk)")
    process = psutil.Process(target.pid)
    before = process.cpu_times()
    done = subprocess.run(
        [
            *(wrk, "--threads", "1", "--connections", str(connections), "--duration", f"{seconds}s"),
            *("--timeout", f"{REQUEST_TIMEOUT}s", "--script", str(SCRIPT), target.url + case.path),
        ],
        env={
            **os.environ,
            "BENCH_BODY": case.body,
            "BENCH_KEY": target.key,
            "BENCH_CONNECTION": "close" if case.close else "keep-alive",
        },
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=seconds + REQUEST_TIMEOUT + 10,
        check=False,
    )
    after = process.cpu_times()
    lines = done.stdout.splitlines()
    if done.returncode or not lines or not lines[-1].startswith("{"):
        raise RuntimeError(f"wrk failed ({done.returncode}): {done.stderr or done.stdout}")
    seen = json.loads(lines[-1])
    return Sample(
        requests=seen["requests"],
        seconds=seen["seconds"],
        p50_ms=seen["p50_ms"],
        p99_ms=seen["p99_ms"],
        worst_ms=seen["worst_ms"],
        cpu_seconds=after.user + after.system - before.user - before.system,
        errors={kind: seen[kind] for kind in ERRORS},
    )
