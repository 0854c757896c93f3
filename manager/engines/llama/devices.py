"""Whether an entry asks for devices that there are, before llama.cpp ends for a reason that is hard to find."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from manager.entry import LlamaParams
from manager.errors import ConfigError
from manager.mistakes import shown

_NO_DEVICE: Final = "none"  # the word for no device at all


def check_devices(params: LlamaParams, there: Sequence[str] | None) -> None:
    """Raise ConfigError naming the key where it asks for others. `there`: llama-server's names, None: not known."""
    split = params.tensor_split
    if split and not any(split):
        raise ConfigError("params.tensor_split gives no device a share; leave it out, or say more than 0 for one")
    if there is None:
        return
    named = [] if params.device is None else [name.strip() for name in params.device.split(",")]
    if named == [_NO_DEVICE]:
        return
    known = {name.lower() for name in there}
    missing = next((name for name in named if name.lower() not in known), None)
    if missing is not None:
        raise ConfigError(f"params.device: there is no {shown(missing)}; {_listed(there)}")
    used = named or there
    if split and len(split) > max(1, len(used)):  # where there is none, [1] does no harm
        raise ConfigError(f"params.tensor_split has {len(split)} shares for {len(used)} devices; {_listed(used)}")
    if params.main_gpu and params.main_gpu >= len(used):
        raise ConfigError(f"params.main_gpu: there is no device {params.main_gpu}, 0 is the first; {_listed(used)}")


def _listed(names: Sequence[str]) -> str:
    return f"llama-server can use {', '.join(names)}" if names else "this llama-server finds no GPU"
