"""What a Hugging Face folder says of itself beside its weights, in JSON files. No torch in here."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, Literal

from manager.errors import LoadFailed

logger = logging.getLogger(__name__)

CONFIG: Final = "config.json"
MODULES: Final = "modules.json"
Mode = Literal["cls", "max", "mean", "mean_sqrt_len", "weightedmean", "last"]

# generation_config.json's names: llama.cpp's, and what its values may be.
_SAMPLING: Final = MappingProxyType(
    {
        "temperature": ("temperature", 0, 1e6),
        "top_k": ("top_k", -1, 2**31 - 1),
        "top_p": ("top_p", 0, 1),
        "min_p": ("min_p", 0, 1),
        "typical_p": ("typical_p", 0, 1),
        "repetition_penalty": ("repeat_penalty", 1e-6, 1e6),
    }
)
# sentence-transformers' names of the ways of pooling, in the order in which it puts their results side by side.
_MODES: Final[Mapping[str, Mode]] = MappingProxyType(
    {
        "cls_token": "cls",
        "max_tokens": "max",
        "mean_tokens": "mean",
        "mean_sqrt_len_tokens": "mean_sqrt_len",
        "weightedmean_tokens": "weightedmean",
        "lasttoken": "last",
    }
)


@dataclass(frozen=True, slots=True)
class Recipe:
    """How token embeddings become one: each of `modes`, side by side, then of length 1 where `normalize` says so.

    `limit`: most tokens of an input, None: as many as the model takes. `lower`: texts are made lower case first.
    """

    modes: tuple[Mode, ...]
    normalize: bool = True
    limit: int | None = None
    lower: bool = False


def read(path: Path) -> Any:
    """The JSON in a file; None where there is no such file. Raises LoadFailed naming the file."""
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except OSError as error:
        raise wrong(path, f"can't be read: {error.strerror}") from None
    except (ValueError, RecursionError):
        raise wrong(path, "holds no JSON") from None


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file; empty where there is no such file. Raises LoadFailed naming the file."""
    value = read(path)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise wrong(path, "holds no JSON object")
    return value


def sampling_defaults(folder: Path) -> dict[str, float | int]:
    """What generation_config.json really says of sampling, under llama.cpp's names.

    A value that can't be used is left out, and the log says so. Raises LoadFailed for a file that can't be read.
    """
    path = folder / "generation_config.json"
    found: dict[str, float | int] = {}
    given = read_object(path)
    for name, (ours, least, most) in _SAMPLING.items():
        value = given.get(name)
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
            logger.warning("%s/%s: %s can't be used and is left out", folder.name, path.name, name)
        else:
            found[ours] = int(value) if ours == "top_k" else value
    if given.get("do_sample") is False:
        found["temperature"] = 0
    return found


def has_recipe(folder: Path) -> bool:
    """Whether sentence-transformers made this folder: a model of embeddings."""
    return (folder / MODULES).is_file()


def embedding_recipe(folder: Path) -> Recipe | None:
    """What sentence-transformers' files say; None without such files. Raises LoadFailed for what can't be followed."""
    modules = read(folder / MODULES)
    if modules is None:
        return None
    try:
        if not isinstance(modules, list):
            raise TypeError
        steps = [(str(module["type"]).rpartition(".")[2], str(module["path"])) for module in modules]
    except (TypeError, KeyError):
        raise wrong(folder / MODULES, "is no list of modules") from None
    modes: tuple[Mode, ...] = ("mean",)
    for kind, place in steps:
        if kind == "Pooling":
            modes = _modes(folder / place / CONFIG)
        elif kind not in {"Transformer", "Normalize"}:
            raise wrong(folder / MODULES, f"has a module {kind}, which is not supported")
    limits = read_object(folder / "sentence_bert_config.json")
    limit = limits.get("max_seq_length")
    return Recipe(
        modes=modes,
        normalize=any(kind == "Normalize" for kind, _ in steps),
        limit=limit if isinstance(limit, int) and limit > 0 else None,
        lower=limits.get("do_lower_case") is True,
    )


def _modes(path: Path) -> tuple[Mode, ...]:
    config = read_object(path)
    named = config.get("pooling_mode")  # newer files have a name, older ones a flag for each
    found = tuple(
        mode for name, mode in _MODES.items() if config.get(f"pooling_mode_{name}") is True or named in {mode, name}
    )
    if not found:
        raise wrong(path, "names no way of pooling that is supported")
    return found


def wrong(path: Path, what: str) -> LoadFailed:
    """The error for a file that can't be used: its folder's name, its own, and what is wrong."""
    return LoadFailed(f"{path.parent.name}/{path.name} {what}", should_retry=False)
