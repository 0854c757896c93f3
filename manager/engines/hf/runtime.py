"""Brings torch and transformers into the process, once, and holds up its event loop as little as can be."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import importlib.util
import logging
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from manager.errors import LoadFailed

logger = logging.getLogger(__name__)

# torch's shared libraries whose relocation takes long, in the order in which they need each other.
_LIBRARIES: Final = ("libgomp.so.1", "libc10.so", "libtorch_cpu.so", "libtorch.so", "libtorch_python.so")
# About 0.1 ms. Where there are more threads than cores (two models), GNU's OpenMP spins 1,000 times, if ACTIVE is set.
# A step of SmolLM2 took 51 ms without spinning, 36 with no end of it, 32 with this, 36 with 1,000 and 40 with 300.
_WAITING: Final = {"OMP_WAIT_POLICY": "ACTIVE", "GOMP_SPINCOUNT": "10000"}
_lock = threading.Lock()
_loaded = False


def bring_in() -> None:
    """Import the libraries, where that was not done yet. Blocks for seconds. Raises LoadFailed.

    Importing holds the interpreter's lock for up to 240 ms at a time; with what is done here, for up to 35 ms.
    """
    global _loaded
    with _lock:
        if _loaded:
            return
        os.environ.setdefault("HF_HUB_OFFLINE", "1")
        os.environ.setdefault("CUDA_DEVICE_ORDER", "PCI_BUS_ID")  # NVML's order, by which a GPU is chosen
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        enabled = gc.isenabled()
        gc.disable()
        try:
            with _brief_spinning():
                _open_libraries()
                import torch
            import transformers
            from transformers import AttentionInterface

            from manager.engines.hf.batch import attention

            AttentionInterface.register(attention.NAME, attention.attend)
            transformers.utils.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
            logger.info("torch=%s transformers=%s brought in", torch.__version__, transformers.__version__)
        except ImportError as error:
            raise LoadFailed(f"Hugging Face models can't be run: {error}", should_retry=False) from error
        finally:
            # A collection would look at each of their 400,000 objects, and hold the lock for 180 ms every time.
            gc.freeze()
            if enabled:
                gc.enable()
        _loaded = True


@contextlib.contextmanager
def _brief_spinning() -> Iterator[None]:
    """Tell OpenMP, which reads its environment when it is opened, how its threads are to wait for each other.

    Threads that spin take the cores from llama.cpp's children and from the event loop; threads that sleep at once are
    woken hundreds of times a step. So they spin from one op to the next only. Children are started with the
    environment as it was: with the policy alone they would spin for ever.
    """
    ours = {} if _WAITING.keys() & os.environ.keys() else _WAITING
    os.environ.update(ours)
    try:
        yield
    finally:
        for name in ours:
            del os.environ[name]


def _open_libraries() -> None:
    """Open torch's libraries before `import` does, which would hold the interpreter's lock all the while."""
    spec = importlib.util.find_spec("torch")
    if spec is None or not spec.submodule_search_locations:
        return
    folder = Path(spec.submodule_search_locations[0]) / "lib"
    dlopen: Any = ctypes.CDLL(None).dlopen  # called as a foreign function: without the lock
    dlopen.argtypes, dlopen.restype = (ctypes.c_char_p, ctypes.c_int), ctypes.c_void_p
    for name in _LIBRARIES:
        path = folder / name
        if path.exists():
            dlopen(os.fsencode(path), os.RTLD_NOW | os.RTLD_GLOBAL)
