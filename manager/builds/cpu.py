"""Which instructions this CPU has, as far as compilers use them, and a short word for them."""

from __future__ import annotations

import platform
import re
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Final

CPUINFO: Final = Path("/proc/cpuinfo")

# Of what Linux lists only this: the rest is about the kernel, and changes with it on the same CPU.
_INSTRUCTIONS: Final = re.compile(
    r"pni|ssse3|sse4\w+|popcnt|abm|movbe|aes|pclmulqdq|f16c|fma4?|xop|bmi[12]|adx|avx\w*|amx_\w+|sha_ni|gfni|vaes"
    r"|vpclmulqdq|asimd\w*|fphp|fcma|atomics|i8mm|bf16|sve\w*|sme(?!p)\w*"
)
# The best of each family first.
_WORDS: Final = (
    ("avx512f", "avx512"),
    ("avx2", "avx2"),
    ("avx", "avx"),
    ("sse4_2", "sse4.2"),
    ("sve2", "armv9"),
    ("i8mm", "armv8.6"),
    ("asimddp", "armv8.2"),
    ("asimd", "armv8"),
)

PORTABLE: Final = "portable"
# What llama.cpp compiles for where it is not told to look at the CPU (ggml/CMakeLists.txt, INS_ENB); for ARM nothing
# beyond what every 64-bit one has.
_PORTABLE_X86: Final = ("avx", "avx2", "bmi2", "f16c", "fma", "sse4_2")


@cache
def flags(cpuinfo: Path = CPUINFO) -> frozenset[str]:
    """All that the system says of this machine's CPU; empty where it does not tell. Blocks."""
    try:
        text = cpuinfo.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return frozenset()
    line = re.search(r"^(?:flags|Features)\s*:(.*)$", text, re.MULTILINE)
    return frozenset(line[1].split()) if line else frozenset()


def instructions(cpuinfo: Path = CPUINFO) -> tuple[str, ...]:
    """Of this machine's CPU, sorted; empty where the system does not tell. Blocks."""
    return tuple(sorted(filter(_INSTRUCTIONS.fullmatch, flags(cpuinfo))))


def portable_instructions(machine: str | None = None) -> tuple[str, ...]:
    """What a portable build needs."""
    return _PORTABLE_X86 if (machine or platform.machine()) in ("x86_64", "AMD64") else ()


def word(features: Iterable[str]) -> str:
    """A short name: avx512, avx2, armv8.2, ...; that of the machine where none fits."""
    there = set(features)
    return next((name for feature, name in _WORDS if feature in there), platform.machine() or "cpu")
