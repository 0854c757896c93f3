"""What a model's tensors take, by device, and how they are given back without waiting for the garbage collector.

Caches of keys and values are counted where they are kept; what the libraries themselves took stays with the process.
"""

from __future__ import annotations

import ctypes
from bisect import bisect_right
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import torch
from torch import nn

from manager.memory import HOST

_MAPS: Final = Path("/proc/self/maps")


def storage_bytes(model: nn.Module) -> dict[str, int]:
    """Bytes of parameters, buffers and packed weights by our names of devices, the host first; each storage once.

    Cheap enough to be asked again and again: it looks at every tensor and copies nothing.
    """
    sizes: dict[str, int] = {HOST: 0}
    seen: set[tuple[str, int]] = set()
    for tensor in _tensors(model):
        device, place, size = _storage(tensor)
        if size and (device, place) not in seen:
            seen.add((device, place))
            sizes[device] = sizes.get(device, 0) + size
    return sizes


def own(model: nn.Module) -> int:
    """Copy what still lies in mapped files to memory of our own; returns how many bytes that were. Blocks.

    To be called when loading is done: what that left behind is given back to the system.
    Somebody who cuts off a file that is mapped would end the whole service with SIGBUS at the next look at it. And the
    kernel calls mapped pages free, so a model would be counted with them and they would be there for others as well.
    """
    mapped = _mapped_ranges()
    # With the originals, so that no address comes again meanwhile.
    copies: dict[int, tuple[torch.UntypedStorage, torch.UntypedStorage]] = {}
    with torch.no_grad():
        for tensor in _tensors(model):
            if tensor.device.type != "cpu" or tensor.is_mkldnn or _is_made_of_others(tensor):
                continue
            storage = tensor.untyped_storage()
            place = storage.data_ptr()
            if not storage.nbytes() or not _is_within(mapped, place):
                continue
            if place not in copies:
                copies[place] = storage, _copied(storage)
            twin = torch.empty(0, dtype=tensor.dtype)
            twin.set_(copies[place][1], tensor.storage_offset(), tensor.shape, tensor.stride())
            tensor.data = twin
    size = sum(copy.nbytes() for _, copy in copies.values())
    copies.clear()
    trim()
    return size


def release(model: nn.Module) -> None:
    """Give back the memory of every tensor of `model` now, whoever still refers to it. Blocks. The model is void then.

    Nothing may be computed with it meanwhile.
    """
    for module in list(model.modules()):
        for owned in (module._parameters, module._buffers, module.__dict__):
            for name, value in list(owned.items()):
                if isinstance(value, torch.Tensor):
                    _empty(value)
                    del owned[name]
        # Accelerate's hooks keep what was moved to another device.
        for name in ("_hf_hook", "_old_forward"):
            module.__dict__.pop(name, None)
        module._modules.clear()
    trim()


def trim() -> None:
    """Have the allocators give back to the system what nobody uses. Blocks."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    with suppress(OSError, AttributeError):  # another C library than glibc keeps less, and has no such function
        ctypes.CDLL(None).malloc_trim(ctypes.c_size_t(0))


def _tensors(model: nn.Module) -> Iterator[torch.Tensor]:
    """All that modules hold, packed weights included, which are neither parameters nor buffers."""
    for module in model.modules():
        for owned in (module._parameters, module._buffers, module.__dict__):
            for value in owned.values():
                if isinstance(value, torch.Tensor):
                    yield from _parts(value)


def _parts(tensor: torch.Tensor) -> Iterator[torch.Tensor]:
    """The tensor; of one that is made of others, as quantised ones are, these."""
    if not _is_made_of_others(tensor):
        yield tensor
        return
    whole: Any = tensor
    names, _ = whole.__tensor_flatten__()
    for name in names:
        yield from _parts(getattr(whole, name))


def _is_made_of_others(tensor: torch.Tensor) -> bool:
    return hasattr(tensor, "__tensor_flatten__")


def _storage(tensor: torch.Tensor) -> tuple[str, int, int]:
    """Device, address and bytes of what a tensor's values lie in."""
    device = _device_name(tensor.device)
    if tensor.is_mkldnn:  # it has no storage that could be looked at
        return device, id(tensor), tensor.numel() * tensor.element_size()
    if tensor.device.type == "meta":
        return device, 0, 0
    storage = tensor.untyped_storage()
    return device, storage.data_ptr(), storage.nbytes()


def _copied(storage: torch.UntypedStorage) -> torch.UntypedStorage:
    whole = torch.empty(0, dtype=torch.uint8).set_(storage)
    return whole.clone().untyped_storage()


def _device_name(device: torch.device) -> str:
    if device.type in ("cpu", "meta", "mps"):
        return HOST
    return f"{'gpu' if device.type == 'cuda' else device.type}{device.index or 0}"


def _empty(tensor: torch.Tensor) -> None:
    for part in _parts(tensor):
        # A packed weight has no values that could be replaced: it goes with its last reference.
        if not part.is_mkldnn:
            part.data = torch.empty(0, dtype=part.dtype, device=part.device)


def _mapped_ranges() -> list[tuple[int, int]]:
    """Addresses of mapped files, in order. Empty where the system does not tell."""
    ranges = []
    with suppress(OSError):
        for line in _MAPS.read_text().splitlines():
            fields = line.split(maxsplit=5)
            if fields[4] != "0":  # its inode
                start, _, end = fields[0].partition("-")
                ranges.append((int(start, 16), int(end, 16)))
    return ranges


def _is_within(ranges: list[tuple[int, int]], place: int) -> bool:
    number = bisect_right(ranges, (place, 1 << 64)) - 1
    return number >= 0 and place < ranges[number][1]
