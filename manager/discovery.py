"""Finds models in folders: GGUF files (split ones as one, projectors with their models) and Hugging Face folders.

It looks at names only; whether a file is whole is judged in gguf_file, or when a folder is loaded.
"""

from __future__ import annotations

import logging
import os
import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Final

from manager.gguf_file import split_name

logger = logging.getLogger(__name__)

_PROJECTOR = re.compile(r"^mmproj|(?<![a-z0-9])mmproj(?![a-z0-9])", re.IGNORECASE)
_SEPARATORS = re.compile(r"[-_. ]+")
# Name parts that tell a file's number format and not its model: Q4, K, M, IQ2, XXS, F16, UD, ...
_FORMAT = re.compile(r"i?q\d+|tq\d|[fb]f?(16|32)|fp(8|16|32)|mxfp\d|[kslm01]|x{1,3}[sl]|nl|ud|imat|gguf", re.IGNORECASE)
HF_CONFIG: Final = "config.json"
_SAFETENSORS: Final = ("model.safetensors", "model.safetensors.index.json")
_PICKLED: Final = ("pytorch_model.bin", "pytorch_model.bin.index.json")
# One of several files with weights: its number, and how many there are.
_SHARD = re.compile(r"(?:pytorch_)?model-(?P<number>\d{5,6})-of-(?P<count>\d{5,6})\.(?:safetensors|bin)")
# What the libraries read of a folder: settings, weights, vocabularies, templates, and code where that is allowed.
_READ: Final = frozenset({".json", ".safetensors", ".bin", ".pt", ".model", ".tiktoken", ".txt", ".jinja", ".py"})


@dataclass(frozen=True, slots=True)
class FoundModel:
    """A model in a folder; `path` is the GGUF file (of a split one the first part) or the Hugging Face folder."""

    name: str
    path: Path
    root: Path
    mmproj: Path | None = None


def find_gguf_models(root: Path) -> list[FoundModel]:
    """Every model below `root`, in the order of their paths. Raises OSError where `root` can't be read."""
    models = []
    for folder, _, files in _walk(root):
        names = sorted(name for name in files if name.lower().endswith(".gguf"))
        projectors = [name for name in names if _PROJECTOR.search(name)]
        firsts = list(_first_parts(name for name in names if name not in projectors))
        pairs = _pair(firsts, projectors)
        for name in firsts:
            mmproj = pairs.get(name)
            models.append(FoundModel(_model_id(name), folder / name, root, None if mmproj is None else folder / mmproj))
    return sorted(models, key=lambda model: model.path.relative_to(root).parts)


def find_hf_models(root: Path) -> list[FoundModel]:
    """Every folder below `root` that holds a config.json. Raises OSError where `root` can't be read."""
    models = []
    for folder, subfolders, files in _walk(root):
        if HF_CONFIG in files and folder != root:
            models.append(FoundModel(folder.name, folder, root))
            subfolders.clear()  # what lies inside a model belongs to it
    return sorted(models, key=lambda model: model.path.relative_to(root).parts)


def hf_files(folder: Path) -> list[Path]:
    """What a loading model may read of its folder, and of the folders right inside (pooling, more templates)."""
    return [path for one in (folder, *_visible(folder)) for path in _visible(one) if path.suffix in _READ]


def hf_problem(folder: Path, shown: str, *, pickle: bool) -> str | None:
    """Why the folder holds no model that can be loaded, for people; None where nothing is known against it.

    `pickle`: weights that are no safetensors are welcome too.
    """
    try:
        names = {path.name for path in folder.iterdir() if path.is_file()}
    except FileNotFoundError:
        return f"{shown} does not exist"
    except NotADirectoryError:
        return f"{shown} is no folder; a model of the engine hf is a folder with {HF_CONFIG} and the weights"
    except OSError as error:
        return f"{shown} can't be read: {error.strerror}"
    if HF_CONFIG not in names:
        return f"{shown} holds no {HF_CONFIG}"
    kind = next((kind for kind in (_SAFETENSORS, _PICKLED) if not names.isdisjoint(kind)), None)
    if kind is None:
        return f"{shown} holds no weights: neither {_SAFETENSORS[0]} nor {_SAFETENSORS[1]}"
    if kind is _PICKLED and not pickle:
        return (
            f"{shown} holds no safetensors, and pytorch_model.bin can run code when it is loaded; "
            "allow_pickle in its params allows that"
        )
    return None if kind[0] in names else _lacking(names, shown, Path(kind[0]).suffix)


def _lacking(names: Iterable[str], shown: str, suffix: str) -> str | None:
    """What is missing of weights in several files, where their names tell: model-00001-of-00002.safetensors."""
    numbers: defaultdict[int, set[int]] = defaultdict(set)
    for name in names:
        found = _SHARD.fullmatch(name)
        if found is not None and name.endswith(suffix):
            numbers[int(found["count"])].add(int(found["number"]))
    if not numbers:
        named_otherwise = any(name.endswith(suffix) for name in names)
        return None if named_otherwise else f"{shown} holds no weights, only the index of their files"
    if any(len(there) >= count for count, there in numbers.items()):
        return None
    count, there = max(numbers.items())
    missing = [str(number) for number in range(1, count + 1) if number not in there]
    few = ", ".join(missing[:8]) + (", …" if len(missing) > 8 else "")
    return f"{shown}: of the {count} files of its weights these are missing: {few}"


def _visible(folder: Path) -> list[Path]:
    """What lies in it, without hidden names; nothing where it is no folder, or can't be read."""
    try:
        return sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    except OSError:
        return []


def distinct(
    models: Iterable[FoundModel], taken: Iterable[str], kept: Collection[str] = ()
) -> Iterator[tuple[str, FoundModel]]:
    """Each model with an id of its own: its name, else folder/name, else with more folders, else with a number.

    A model whose name is in `taken` is left out: who took the name wins. But not where the name is one of `kept`: who
    has that is a model that was found, too, and would have it anyway.
    """
    taken = frozenset(taken)
    used = set(taken)
    for model in models:
        if model.name in taken and model.name not in kept:
            continue
        name = next(candidate for candidate in _candidates(model) if candidate not in used)
        used.add(name)
        yield name, model


def _candidates(model: FoundModel) -> Iterator[str]:
    yield model.name
    folders = model.path.relative_to(model.root).parts[:-1] or (model.root.name,)
    for count in range(1, len(folders) + 1):
        yield "/".join((*folders[-count:], model.name))
    longest = "/".join((*folders, model.name))
    number = 2
    while True:
        yield f"{longest}-{number}"
        number += 1


def _walk(root: Path) -> Iterator[tuple[Path, list[str], list[str]]]:
    """os.walk through links, without hidden names, each folder once; clearing the second list stops the descent."""
    seen: set[tuple[int, int]] = set()
    with os.scandir(root):
        pass  # os.walk would be silent where the root itself can't be read
    for folder, subfolders, files in os.walk(root, followlinks=True, onerror=_unreadable):
        identity = _identity(folder)
        if identity is None or identity in seen:
            subfolders.clear()
            continue
        seen.add(identity)
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        yield Path(folder), subfolders, [name for name in files if not name.startswith(".")]


def _identity(folder: str) -> tuple[int, int] | None:
    try:
        stat = Path(folder).stat()
    except OSError:
        return None  # it went away while we looked
    return stat.st_dev, stat.st_ino


def _unreadable(error: OSError) -> None:
    logger.warning("folder=%s skipped=%s", error.filename, error.strerror)


def _first_parts(names: Iterable[str]) -> Iterator[str]:
    """Single files as they are, and of each split file its first part, whether or not that part is there."""
    seen = set()
    for name in names:
        split = split_name(name)
        first = name if split is None else split.sibling(1)
        if first not in seen:
            seen.add(first)
            yield first


def _model_id(file_name: str) -> str:
    split = split_name(file_name)
    return file_name[: -len(".gguf")] if split is None else split.stem


def _pair(models: list[str], projectors: list[str]) -> dict[str, str]:
    """Which projector goes with which model of the same folder.

    Files of one model in several formats count as one model. Where a folder holds one model, every projector is
    its; else a projector goes to the model that shares the longest beginning of its name with it.
    """
    by_model: defaultdict[tuple[str, ...], list[str]] = defaultdict(list)
    for name in models:
        by_model[_words(_model_id(name))].append(name)
    pairs: dict[str, str] = {}
    for projector in sorted(projectors, key=_preference):
        words = _words(projector)
        shared = {model: _shared_beginning(model, words) for model in by_model}
        longest = max(shared.values(), default=0)
        for model, names in by_model.items():
            if len(by_model) == 1 or (longest and shared[model] == longest):
                for name in names:
                    pairs.setdefault(name, projector)
    return pairs


def _shared_beginning(one: tuple[str, ...], other: tuple[str, ...]) -> int:
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))


def _words(name: str) -> tuple[str, ...]:
    words = _SEPARATORS.split(name.lower())
    return tuple(word for word in words if word and word not in {"mmproj", "gguf"} and not _FORMAT.fullmatch(word))


def _preference(projector: str) -> tuple[int, str]:
    """Half precision first: what llama.cpp's own converter makes, and what all its devices can run."""
    formats = ("f16", "bf16", "f32")
    words = _SEPARATORS.split(projector.lower())
    return next((number for number, name in enumerate(formats) if name in words), len(formats)), projector
