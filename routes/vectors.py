"""Embeddings of fewer dimensions than the model makes: each vector's first numbers, made length one again."""

from __future__ import annotations

import math
import sys
from array import array
from base64 import b64decode, b64encode
from collections.abc import Sequence
from typing import Any

from manager.errors import InvalidRequest
from routes.form import Form


def shortened(dimensions: int) -> Form:
    """The form of answers with vectors of that many numbers, in floats or base64 as they come.

    An answer with shorter vectors raises InvalidRequest.
    """

    def finish(answer: dict[str, Any]) -> dict[str, Any]:
        return {**answer, "data": [{**one, "embedding": cut(one["embedding"], dimensions)} for one in answer["data"]]}

    return Form(finish=finish)


def cut(vector: str | list[float], dimensions: int) -> str | list[float]:
    """The first numbers of a vector, or in base64 of its little-endian float32, with the length one."""
    if isinstance(vector, list):
        return _cut(vector, dimensions)
    return b64encode(_little_endian(array("f", _cut(_floats(vector), dimensions))).tobytes()).decode()


def _floats(text: str) -> array[float]:
    floats = array("f")
    floats.frombytes(b64decode(text))
    return _little_endian(floats)


def _little_endian(floats: array[float]) -> array[float]:
    if sys.byteorder == "big":
        floats.byteswap()
    return floats


def _cut(vector: Sequence[float], dimensions: int) -> list[float]:
    if dimensions > len(vector):
        raise InvalidRequest(
            f"'dimensions' is {dimensions}; this model's vectors have {len(vector)}.", param="dimensions"
        )
    first = vector[:dimensions]
    length = math.hypot(*first) or 1.0  # a vector of zeros stays one
    return [number / length for number in first]
