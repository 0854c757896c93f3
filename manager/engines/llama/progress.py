"""What a llama.cpp child tells of its own coming and going, read from what it writes. Knows no processes.

llama-server tells a router of its own about its load, on stdout, where it is told of one; see docs/engines.md.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping
from typing import Any, Final

from manager.logbuf import LogBuffer

# To be set in a child's environment. llama-server only looks whether it is there.
ASK: Final = {"LLAMA_SERVER_ROUTER_PORT": "0"}
# A child that was asked waits on its stdin for this or the end, also when a signal has ended all else.
FAREWELL: Final = b"cmd_router_to_child:exit\n"
PREFIX: Final = b"cmd_child_to_router:"
STATE: Final = b"cmd_child_to_router:state:"
# As llama-server names what it loads, in its order.
STAGES: Final = ("text_model", "spec_model", "mmproj_model")
# How far resident memory alone can bring it: what is read may have to go to a GPU still.
MOST_BY_MEMORY: Final = 0.9
# What llama-server logs when a signal has begun to end it.
ENDING: Final = "cleaning up before exit"
MOST_PENDING: Final = 64 * 1024


class ChildLog(LogBuffer):
    """A child's log, which sets `ending` at each line that says that the child is about to end."""

    def __init__(self) -> None:
        super().__init__()
        self.ending = asyncio.Event()

    def feed(self, data: bytes) -> list[str]:
        lines = super().feed(data)
        if any(ENDING in line for line in lines):
            self.ending.set()
        return lines


class LoadProgress:
    """The part of the load that is done, 0 to 1; None as long as nothing is known of it. It never falls.

    `sizes`: bytes by stage, of the files that are loaded in it. `other` gets the lines that tell no progress.
    """

    def __init__(self, sizes: Mapping[str, int], other: Callable[[bytes], object]) -> None:
        self.value: float | None = None
        self._sizes = {stage: max(1, sizes[stage]) for stage in STAGES if stage in sizes}
        self._left = list(self._sizes)
        self._other = other
        self._pending = b""
        self._resident: int | None = None  # at the first look
        self.mapping = False  # it has begun, and told of nothing that is done

    def feed(self, data: bytes) -> None:
        """Take bytes of the child's stdout as they come."""
        *lines, self._pending = (self._pending + data).split(b"\n")
        if len(self._pending) > MOST_PENDING:
            lines.append(self._pending)
            self._pending = b""
        for line in lines:
            if line.startswith(STATE):
                self._note(line[len(STATE) :])
            elif not line.startswith(PREFIX):
                self._other(line + b"\n")

    def note_resident(self, size: int) -> None:
        """Take in the child's resident memory, in bytes, as long as it is `mapping`: it tells nothing of that."""
        if self._resident is None:
            self._resident = size
        part = (size - self._resident) / max(1, sum(self._sizes.values()))
        self.value = max(self.value or 0.0, min(MOST_BY_MEMORY, part))

    def _note(self, text: bytes) -> None:
        report = _report(text)
        if report.get("state") == "ready":
            self.value = 1.0
            return
        payload = report.get("payload")
        if report.get("state") != "loading" or not isinstance(payload, dict):
            return
        stage, done = payload.get("current"), payload.get("value")
        # A projector is measured before the load proper, and reports that like its own load.
        if self._left and stage == self._left[0] and isinstance(done, int | float):
            self.value = max(self.value or 0.0, self._part(stage, min(1.0, max(0.0, done))))
            self.mapping = self.value == 0
            if done >= 1:
                self._left.pop(0)

    def _part(self, stage: str, done: float) -> float:
        before = sum(size for name, size in self._sizes.items() if name not in self._left)
        return (before + self._sizes[stage] * done) / sum(self._sizes.values())


def _report(text: bytes) -> dict[str, Any]:
    try:
        report = json.loads(text)
    except ValueError:
        return {}
    return report if isinstance(report, dict) else {}
