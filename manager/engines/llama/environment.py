"""What a llama.cpp child finds in its environment."""

from __future__ import annotations

import os
from typing import Final

from manager.engines.llama.progress import ASK

# What a child may see of our environment: never our own settings (they can hold secrets) nor LLAMA_ARG_*,
# which would change what the entry says.
ENVIRONMENT: Final = frozenset({"PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "TZ", "LD_LIBRARY_PATH", "VIRTUAL_ENV"})
ENVIRONMENT_PREFIXES: Final = (
    "CUDA_",
    "GGML_",
    "NVIDIA_",
    "HIP_",
    "ROCR_",
    "HSA_",
    "VK_",
    "OMP_",
    "PYTHONPATH",
)


def child_environment(key: str, cuda_visible_devices: str | None) -> dict[str, str]:
    """The environment of a child that accepts requests with `key`."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if name in ENVIRONMENT or name.startswith(ENVIRONMENT_PREFIXES)
    }
    # Else CUDA puts the fastest GPU first, and what is known of GPUs is by their order on the bus.
    kept.setdefault("CUDA_DEVICE_ORDER", "PCI_BUS_ID")
    if cuda_visible_devices is not None:
        kept["CUDA_VISIBLE_DEVICES"] = cuda_visible_devices
    return {**kept, **ASK, "LLAMA_API_KEY": key}
