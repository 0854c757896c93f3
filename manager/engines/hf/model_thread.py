"""What the threads that compute with a model have in common: what is known of them from outside, and their failures."""

from __future__ import annotations

import threading
import time

import torch

from manager.engines.hf.batch.counters import Counters
from manager.engines.hf.thread_clock import ThreadClock
from manager.errors import GenerationFailed, HerdError, InsufficientMemory


class ModelThread:
    """Seen from other threads. Whoever runs in it begins `_clock`, keeps `counters`, and sets `_over` at its end."""

    def __init__(self) -> None:
        self.counters = Counters()
        self._clock = ThreadClock()
        self._over = threading.Event()

    @property
    def alive(self) -> bool:
        return not self._over.is_set()

    @property
    def cpu(self) -> float:
        """CPU seconds that it has used; those of torch's own threads are as many again. Reads a file."""
        return self._clock.seconds

    @property
    def heard_at(self) -> float:
        """When the last step ended; now, where nobody waits for one. By time.monotonic."""
        counters = self.counters
        return counters.stepped_at if counters.running or counters.waiting else time.monotonic()

    def join(self, timeout: float) -> bool:
        """Whether `run` has come to its end; waits for it. Blocks."""
        return self._over.wait(timeout)


def told(error: Exception) -> HerdError:
    """What is told of a failure of the model: not its text, which may quote the request."""
    if is_out_of_memory(error):
        return InsufficientMemory("There is not enough memory to answer this request.", retry_after=5)
    if isinstance(error, HerdError):
        return error
    return GenerationFailed(f"The model failed ({type(error).__name__}).", should_retry=False)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a device, or the host, had no memory left; torch says it of the host in the text of a RuntimeError."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and "alloc" in str(error).lower()
    )


def raise_if_broken(error: BaseException) -> None:
    """A device that met a fault stays so: no further step can work, and the model must be started anew."""
    if not is_out_of_memory(error) and "cuda" in str(error).lower():
        raise error
