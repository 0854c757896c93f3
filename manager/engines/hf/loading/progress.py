"""How far a model is loaded, by bytes of its weights, told through the hook of transformers' progress bars.

from_pretrained runs over its tensors in a bar, "Loading weights". The hook (transformers.utils.logging.set_tqdm_hook)
is one for the process; which load a bar belongs to is told by its thread.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import torch
from transformers.utils import logging as bars

_BAR: Final = "Loading weights"
_PAGE: Final = 4096
_loads = threading.local()


@contextmanager
def told(folder: Path, progress: Callable[[float], None]) -> Iterator[None]:
    """While this lasts, loads of this thread tell `progress`, from this thread: 0 to 1, never less than before."""
    sizes = _sizes(folder)
    _loads.current = sizes, progress
    bars.set_tqdm_hook(_hook)
    try:
        yield
    finally:
        del _loads.current


def _hook(bar: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    current = getattr(_loads, "current", None)
    if current is not None and kwargs.get("desc") == _BAR:
        return _counted(args[0], *current)
    return bar(*args, **kwargs)


def _counted(
    items: Iterable[tuple[str, Any]], sizes: Mapping[str, int], progress: Callable[[float], None]
) -> Iterator[tuple[str, Any]]:
    """The tensors as they come. Each is read from the file before it is given on, since mapping alone reads nothing."""
    pending = list(items)
    shares = [sum(sizes.get(name, 1) for names in one.layer_targets.values() for name in names) for _, one in pending]
    total, done = sum(shares) or 1, 0
    for item, share in zip(pending, shares, strict=True):
        for futures in item[1].collected_tensors.values():
            for future in futures:
                if isinstance(future, Future):
                    _touch(future.result())
        yield item
        done += share
        progress(done / total)


def _touch(tensor: Any) -> None:
    """Have the pages of a mapped tensor read, outside the interpreter's lock."""
    if isinstance(tensor, torch.Tensor) and tensor.device.type == "cpu" and tensor.is_contiguous():
        tensor.reshape(-1).view(torch.uint8)[::_PAGE].sum()


def _sizes(folder: Path) -> dict[str, int]:
    """Bytes of each tensor in the folder's safetensors. What can't be read is for the load itself to tell."""
    sizes: dict[str, int] = {}
    for path in folder.glob("*.safetensors"):
        try:
            with path.open("rb") as file:
                length = int.from_bytes(file.read(8), "little")
                tensors = json.loads(file.read(min(length, 100_000_000)))
            for name, tensor in tensors.items():
                if name != "__metadata__":
                    start, end = tensor["data_offsets"]
                    sizes[name] = end - start
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            continue
    return sizes
