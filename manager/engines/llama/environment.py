"""What a llama.cpp child finds in its environment."""

from __future__ import annotations

import os
from pathlib import Path
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
    "GOMP_",
    "PYTHONPATH",
)

# llama.cpp's OpenMP threads wait for each other at every operation: awake for some microseconds, then asleep. Awake for
# milliseconds, as is GNU's default, they use up the time of the very core that one of them waits for: beside a Hugging
# Face model on two cores SmolLM2 then gives 0.3 tokens a second, with this 24, and alone 62 and 66.
_WAITING: Final = {"OMP_WAIT_POLICY": "ACTIVE", "GOMP_SPINCOUNT": "300"}

# In here are an ffmpeg and an ffprobe that open nothing but their standard input. llama.cpp starts them for films, WebP
# images, and whatever a request calls an image that it can't read itself; if that is a playlist (of DASH, say), a plain
# ffmpeg fetches the URLs in it. `embedded.py` reads the variable, too.
FFMPEG_VARIABLE: Final = "LLAMA_ARG_VIDEO_FFMPEG_DIR"
FFMPEG_FOLDER: Final = Path(__file__).with_name("ffmpeg")


def child_environment(key: str, cuda_visible_devices: str | None) -> dict[str, str]:
    """The environment of a child that accepts requests with `key`."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if name in ENVIRONMENT or name.startswith(ENVIRONMENT_PREFIXES)
    }
    # Else CUDA puts the fastest GPU first, and what is known of GPUs is by their order on the bus.
    kept.setdefault("CUDA_DEVICE_ORDER", "PCI_BUS_ID")
    if not _WAITING.keys() & kept.keys():
        kept.update(_WAITING)
    if cuda_visible_devices is not None:
        kept["CUDA_VISIBLE_DEVICES"] = cuda_visible_devices
    return {**kept, **ASK, FFMPEG_VARIABLE: str(FFMPEG_FOLDER), "LLAMA_API_KEY": key}
