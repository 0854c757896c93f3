"""The faults of the fake llama-server, and what it writes for tests to read."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Knobs:
    """Times are in seconds, paths are strings; a knob that is not given does nothing."""

    # The start.
    bind_delay: float = 0.0  # before the socket exists
    load_seconds: float = 0.0  # 503 "Loading model" that long
    gate: str | None = None  # the load ends only when this file exists
    load_progress: tuple[Any, ...] = ()  # tells these parts of its load: a number, or [stage, number]
    never_ready: bool = False
    exit_on_start: dict[str, Any] | None = None  # {"code", "lines"}: exits before it binds
    exit_during_load: dict[str, Any] | None = None  # {"after", "code", "lines"}: exits after `after` seconds
    foreign: bool = False  # takes any key and is never loading: something that is not our child
    probe_delay: float = 0.0  # before each answer of a probe
    health_hangs: bool = False  # /health gets no answer
    devices: tuple[str, ...] = ()  # those of --list-devices
    # The process.
    ignore_sigterm: bool = False  # nor does it hear what comes on its stdin
    fork_grandchild: bool | str = False  # a child that holds stdout, ignores SIGTERM; a path receives its pid
    log_flood: int = 0  # lines a second to stderr
    log_partial: str = ""  # a text without newline at the end of the first lines
    # The answers.
    chunks: int | None = None  # tokens of an answer; default: the words of the last user message
    timings: bool = False  # of an only choice too, made up
    chunk_delay: float = 0.0  # before each token, streamed or not
    stream_gate: str | None = None  # goes past its first token only when this file exists, streamed or not
    slow_head: float = 0.0  # before the head of an answer
    stall_stream_after: int | None = None  # silent for ever after that many tokens
    die_mid_stream: int | None = None  # kills itself (SIGKILL) after that many tokens
    cut_stream_after: int | None = None  # closes the connection after that many tokens
    error_stream_after: int | None = None  # an error frame after that many tokens, then the end
    error_status: int = 0  # answers this status with an error object
    truncated_body: bool = False  # Content-Length tells of more than is sent, then closes
    huge_header: int = 0  # bytes of one more header
    bad_http: bool = False  # something that is not HTTP, then closes
    faults_on: tuple[str, ...] = ()  # the paths that these faults are for; default: all but the probes
    faulty_requests: int = 0  # only that many requests get them (0: all)
    slots_refused: bool = False  # can't save or restore a slot
    # The connection.
    close_after: int = 0  # answers that many requests, then closes it, with `Connection: close` in the last
    close_silently: bool = False  # without that header
    drop_after: int = 0  # reads one request more than that many, and closes it without a byte of answer
    idle_close: float = 0.0  # closes it, without a word, when nothing came for that long
    # What tests read.
    start_counter: str | None = None  # appends its pid at each start
    faulty_starts: int = 0  # from the start after that many on (by start_counter) it is healthy (0: never)
    requests_log: str | None = None  # JSON lines: method, path, headers (lower case), body, connection
    disconnect_log: str | None = None  # appends time.time() when a client leaves before it has its answer


KEPT_BY_THE_HEALTHY = ("chunks", "chunk_delay", "start_counter", "requests_log", "disconnect_log")


def knobs_from_environment() -> Knobs:
    knobs = Knobs(**json.loads(os.environ.get("FAKE_LLAMA") or "{}"))
    if knobs.start_counter:
        append(knobs.start_counter, str(os.getpid()))
        with open(knobs.start_counter) as file:  # noqa: PTH123 - pathlib is slow to import
            starts = len(file.readlines())
        if 0 < knobs.faulty_starts < starts:
            return Knobs(**{name: getattr(knobs, name) for name in KEPT_BY_THE_HEALTHY})
    return knobs


def append(path: str, line: str) -> None:
    """Add a line in one write, so that lines of several threads and processes don't mix."""
    handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(handle, f"{line}\n".encode())
    os.close(handle)
