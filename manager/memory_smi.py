"""NVIDIA GPUs as nvidia-smi tells them, for where there is no NVML."""

from __future__ import annotations

import logging
import subprocess
from typing import Final

logger = logging.getLogger(__name__)

SMI: Final = "nvidia-smi"
_TIMEOUT: Final = 10.0
_COLUMNS: Final = ("index", "uuid", "memory.total", "memory.free", "name")


def smi_rows(program: str) -> list[list[str]]:
    """Number, UUID, MiB in all, MiB free and name of each GPU; none where it fails. Blocks."""
    query = [f"--query-gpu={','.join(_COLUMNS)}", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(  # noqa: S603  the program that PATH names
            [program, *query], stdin=subprocess.DEVNULL, capture_output=True, timeout=_TIMEOUT, check=True
        )
    except (OSError, subprocess.SubprocessError) as error:
        logger.debug("%s=failed: %s", SMI, error)
        return []
    lines = [line for line in done.stdout.decode("utf-8", "replace").splitlines() if line.count(",") > 3]
    return [[cell.strip() for cell in line.split(",", 4)] for line in lines]
