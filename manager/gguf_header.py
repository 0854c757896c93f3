"""Parses the header of a GGUF file. Never touches tensor data, and needs no numpy.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path
from struct import Struct
from typing import BinaryIO, Final

from manager.errors import LoadFailed

MAGIC: Final = b"GGUF"
VERSIONS: Final = (2, 3)

# Elements and bytes of one block, by ggml type number (ggml.h, ggml-common.h).
BLOCK_SIZES: Final[dict[int, tuple[int, int]]] = {
    0: (1, 4),  # F32
    1: (1, 2),  # F16
    2: (32, 18),  # Q4_0
    3: (32, 20),  # Q4_1
    6: (32, 22),  # Q5_0
    7: (32, 24),  # Q5_1
    8: (32, 34),  # Q8_0
    9: (32, 40),  # Q8_1
    10: (256, 84),  # Q2_K
    11: (256, 110),  # Q3_K
    12: (256, 144),  # Q4_K
    13: (256, 176),  # Q5_K
    14: (256, 210),  # Q6_K
    15: (256, 292),  # Q8_K
    16: (256, 66),  # IQ2_XXS
    17: (256, 74),  # IQ2_XS
    18: (256, 98),  # IQ3_XXS
    19: (256, 50),  # IQ1_S
    20: (32, 18),  # IQ4_NL
    21: (256, 110),  # IQ3_S
    22: (256, 82),  # IQ2_S
    23: (256, 136),  # IQ4_XS
    24: (1, 1),  # I8
    25: (1, 2),  # I16
    26: (1, 4),  # I32
    27: (1, 8),  # I64
    28: (1, 8),  # F64
    29: (256, 56),  # IQ1_M
    30: (1, 2),  # BF16
    34: (256, 54),  # TQ1_0
    35: (256, 66),  # TQ2_0
    39: (32, 17),  # MXFP4
}

_U32 = Struct("<I")
_U64 = Struct("<Q")
# Value types of the metadata; 8 is a string, 9 an array.
_SCALARS: Final = {
    number: Struct("<" + code)
    for number, code in {
        0: "B",
        1: "b",
        2: "H",
        3: "h",
        4: "I",
        5: "i",
        6: "f",
        7: "?",
        10: "Q",
        11: "q",
        12: "d",
    }.items()
}
_STRING: Final = 8
_ARRAY: Final = 9
# Far above any real model; garbage that begins with the magic must not keep us busy.
_MOST_KEYS: Final = 1 << 16
_MOST_TENSORS: Final = 1 << 20
# Arrays with a value for each layer are kept; those with one for each token are not.
_LONGEST_ARRAY: Final = 1 << 10
_LONGEST_KEY: Final = 1 << 16
_LARGEST_HEADER: Final = 1 << 28
_CHUNK: Final = 1 << 20


Scalar = str | int | float | bool


@dataclass(frozen=True, slots=True)
class Tensor:
    """`kind` is its ggml type; `size` is in bytes, 0 where the type is newer than BLOCK_SIZES."""

    name: str
    kind: int
    shape: tuple[int, ...]
    size: int


@dataclass(frozen=True, slots=True)
class GgufHeader:
    """What a header says. Of the metadata's arrays only short ones of numbers are kept; sizes are in bytes."""

    version: int
    metadata: dict[str, Scalar]
    arrays: dict[str, tuple[int | float | bool, ...]]
    infos: tuple[Tensor, ...]
    data_start: int
    needed: int  # the smallest size of a whole file with this header

    @property
    def tensors(self) -> int:
        return len(self.infos)


def read_header(path: Path) -> GgufHeader:
    """Parse the header. Raises LoadFailed where it is no whole GGUF header, OSError where the file can't be read."""
    with path.open("rb") as file:
        reader = _Reader(file, os.fstat(file.fileno()).st_size, path.name)
        return _parse(reader)


class _Reader:
    """A position in a file that is read from its start in growing steps.

    Not a memory map: a file that shrinks under a map (a download that starts again) kills the process with SIGBUS.
    """

    def __init__(self, file: BinaryIO, size: int, name: str) -> None:
        self._file = file
        self._buffer = b""
        self._position = 0
        self.size = size
        self.name = name

    @property
    def position(self) -> int:
        return self._position

    def fail(self, what: str) -> LoadFailed:
        return LoadFailed(f"{self.name} {what}", should_retry=False)

    def take(self, count: int) -> bytes:
        start = self._position
        self.skip(count)
        return self._buffer[start : self._position]

    def skip(self, count: int) -> None:
        self._fill(self._position + count)
        self._position += count

    def u32(self) -> int:
        value: int = _U32.unpack(self.take(4))[0]
        return value

    def u64(self) -> int:
        value: int = _U64.unpack(self.take(8))[0]
        return value

    def string(self, longest: int | None = None) -> str:
        length = self.u64()
        if longest is not None and length > longest:
            raise self.fail("is no readable GGUF: a name in its header is too long")
        return self.take(length).decode("utf-8", "replace")

    def skip_strings(self, count: int) -> None:
        """Vocabularies have hundreds of thousands of strings: this loop is what reading a header costs."""
        position, length_at = self._position, _U64.unpack_from
        while count:
            self._fill(position + 8)
            buffer, last = self._buffer, len(self._buffer) - 8
            while count and position <= last:
                position += 8 + length_at(buffer, position)[0]
                count -= 1
        self._fill(position)
        self._position = position

    def _fill(self, end: int) -> None:
        if end <= len(self._buffer):
            return
        if end > self.size:
            raise self.fail(f"is cut off in its header: {self.size:,} bytes")
        if end > _LARGEST_HEADER:
            raise self.fail(f"is no readable GGUF: its header claims more than {_LARGEST_HEADER:,} bytes")
        # Each step doubles what was read, so a long header is copied few times.
        wanted = min(self.size, max(end, 2 * len(self._buffer), _CHUNK))
        self._buffer += self._file.read(wanted - len(self._buffer))
        if end > len(self._buffer):
            raise self.fail("became shorter while it was read")


def _parse(reader: _Reader) -> GgufHeader:
    if reader.size == 0:
        raise reader.fail("is empty")
    if reader.size < len(MAGIC) or reader.take(len(MAGIC)) != MAGIC:
        raise reader.fail("is not a GGUF file")
    version = reader.u32()
    if version and version & 0xFFFF == 0:
        raise reader.fail("is a big-endian GGUF file, which can't be used here")
    if version not in VERSIONS:
        raise reader.fail(f"has GGUF version {version}; known are {VERSIONS[0]} and {VERSIONS[1]}")
    tensors, keys = reader.u64(), reader.u64()
    if keys > _MOST_KEYS or tensors > _MOST_TENSORS:
        raise reader.fail(f"is no readable GGUF: its header claims {tensors:,} tensors and {keys:,} keys")
    metadata: dict[str, Scalar] = {}
    arrays: dict[str, tuple[int | float | bool, ...]] = {}
    for _ in range(keys):
        key = reader.string(_LONGEST_KEY)
        value = _value(reader, reader.u32())
        if isinstance(value, tuple):
            arrays[key] = value
        elif value is not None:
            metadata[key] = value
    found = [_tensor(reader) for _ in range(tensors)]
    data_size = max((offset + tensor.size for tensor, offset in found), default=0)
    alignment = metadata.get("general.alignment", 32)
    if not isinstance(alignment, int) or alignment < 1:
        raise reader.fail("is no readable GGUF: its alignment is wrong")
    data_start = -(-reader.position // alignment) * alignment
    # Without tensors (a vocabulary, the first part of some splits) nothing has to follow the header.
    needed = data_start + data_size if data_size else reader.position
    infos = tuple(tensor for tensor, _ in found)
    return GgufHeader(version, metadata, arrays, infos, data_start, needed)


def _value(reader: _Reader, kind: int) -> Scalar | tuple[int | float | bool, ...] | None:
    """The next value; None for an array that is skipped."""
    scalar = _SCALARS.get(kind)
    if scalar is not None:
        value: int | float | bool = scalar.unpack(reader.take(scalar.size))[0]
        return value
    if kind == _STRING:
        return reader.string()
    if kind != _ARRAY:
        raise reader.fail(f"is no readable GGUF: its header has a value of the unknown type {kind}")
    item, count = reader.u32(), reader.u64()
    if item in _SCALARS:
        data = _SCALARS[item]
        if count <= _LONGEST_ARRAY:
            return tuple(one for (one,) in data.iter_unpack(reader.take(data.size * count)))
        reader.skip(data.size * count)
    elif item == _STRING:
        reader.skip_strings(count)
    else:
        raise reader.fail(f"is no readable GGUF: its header has an array of the unknown type {item}")
    return None


def _tensor(reader: _Reader) -> tuple[Tensor, int]:
    """The next tensor, and where its data begins, from the start of all tensor data."""
    name = reader.string(_LONGEST_KEY)
    dimensions = reader.u32()
    if dimensions > 8:
        raise reader.fail(f"is no readable GGUF: a tensor has {dimensions:,} dimensions")
    shape = tuple(reader.u64() for _ in range(dimensions))
    kind, offset = reader.u32(), reader.u64()
    # A type that is newer than this table counts as empty: the engine will judge it.
    block, size = BLOCK_SIZES.get(kind, (1, 0))
    return Tensor(name, kind, shape, -(-math.prod(shape) // block) * size), offset
