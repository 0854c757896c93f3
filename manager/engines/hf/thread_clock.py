"""How much CPU time one thread of this process has used, read by others."""

from __future__ import annotations

import os
import threading
from pathlib import Path


class ThreadClock:
    """Begun by the thread itself; 0 before that, where the system does not tell, and after the thread's end."""

    def __init__(self) -> None:
        self._stat: Path | None = None

    def begin(self) -> None:
        self._stat = Path(f"/proc/self/task/{threading.get_native_id()}/stat")

    @property
    def seconds(self) -> float:
        """CPU seconds, of the system's ticks (1/100 s)."""
        if self._stat is None:
            return 0.0
        try:
            # The name in brackets may have spaces; what follows it begins with the third field (proc_pid_stat(5)).
            fields = self._stat.read_text().rpartition(")")[2].split()
            return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
        except (OSError, ValueError, IndexError):
            return 0.0
