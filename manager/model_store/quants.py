"""The GGUF files of a repository: which belong together, what quantisation they are, and which one is taken."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from manager.gguf_file import split_name
from manager.model_store.choices import BadSource, Choice, ChoiceNeeded
from manager.model_store.hub import HubFile

# The number format in a file's name: Q4_K_M, IQ2_XXS, UD-Q4_K_XL, Q4_0_4_4, TQ1_0, MXFP4_MOE, BF16, ...
_QUANT: Final = re.compile(
    r"(?<![a-z0-9])((?:ud-)?(?:i?q\d(?:_(?:\d|k|nl|xxs|xs|s|m|l|xl|xxl))*|tq\d_\d|(?:mx|nv)fp4(?:_moe)?|b?f16|f32|fp16|fp32))"
    r"(?![a-z0-9])",
    re.IGNORECASE,
)
# What is taken where nobody says: the best that is still small, then what is larger, then what is smaller.
PREFERRED: Final = (
    "Q4_K_M", "UD-Q4_K_XL", "Q4_K_XL", "Q5_K_M", "Q4_K_S", "Q4_K_L", "Q5_K_S", "MXFP4", "MXFP4_MOE", "IQ4_NL", "IQ4_XS",
    "Q4_1", "Q4_0", "Q5_1", "Q5_0", "Q6_K", "Q8_0", "Q3_K_L", "Q3_K_M",
)  # fmt: skip
_PROJECTOR: Final = re.compile(r"(?<![a-z0-9])mmproj(?![a-z0-9])", re.IGNORECASE)
_NO_MODEL: Final = re.compile(r"(?<![a-z0-9])imatrix(?![a-z0-9])|^ggml-vocab", re.IGNORECASE)
# Words that models of all sorts share: sizes, and what they are tuned for.
_COMMON: Final = re.compile(r"\d*[bmx]?|instruct|chat|it")
_HALF: Final = ("F16", "BF16", "F32")


@dataclass(frozen=True, slots=True)
class Model:
    """One model in GGUF files, in the order of its parts. `stem`: its path without part number and suffix."""

    stem: str
    quant: str | None
    files: tuple[HubFile, ...]

    @property
    def size(self) -> int:
        return sum(file.size for file in self.files)

    @property
    def folder(self) -> str:
        return self.files[0].path.rpartition("/")[0]


def is_gguf(path: str) -> bool:
    return path.lower().endswith(".gguf")


def models_of(files: Iterable[HubFile]) -> list[Model]:
    """The models of a repository that are whole. Raises BadSource where there are only others."""
    groups: defaultdict[tuple[str, int], list[HubFile]] = defaultdict(list)
    for file in files:
        if _is_model(file.path):
            split = split_name(file.path.rpartition("/")[2])
            groups[(_stem(file.path), split.total if split else 1)].append(file)
    models = [
        Model(stem, quant_of(stem), tuple(sorted(parts, key=lambda file: file.path)))
        for (stem, total), parts in sorted(groups.items())
        if len(parts) == total
    ]
    if groups and not models:
        (stem, total), parts = next(iter(groups.items()))
        raise BadSource(f"{stem}: of its {total} parts the source has only {len(parts)}", param="source")
    return models


def _is_model(path: str) -> bool:
    name = path.rpartition("/")[2]
    return is_gguf(name) and not _PROJECTOR.search(name) and not _NO_MODEL.search(name)


def _stem(path: str) -> str:
    folder, slash, name = path.rpartition("/")
    split = split_name(name)
    return folder + slash + (name[: -len(".gguf")] if split is None else split.stem)


def quant_of(stem: str) -> str | None:
    """The quantisation that a name tells, else its folder; None where neither does."""
    for part in reversed(stem.split("/")):
        found = _QUANT.findall(part)
        if found:
            return str(found[-1]).upper()
    return None


def choices_of(models: Sequence[Model]) -> tuple[Choice, ...]:
    """What there is to choose from, by size. Where several models have the same quantisation their names tell them."""
    quants = [model.quant for model in models]
    return tuple(
        Choice(_label(model, quants), model.size, tuple(file.path for file in model.files))
        for model in sorted(models, key=lambda model: model.size)
    )


def _label(model: Model, quants: Sequence[str | None]) -> str:
    return model.quant if model.quant is not None and quants.count(model.quant) == 1 else model.stem


def choose(models: Sequence[Model], quant: str | None, repo: str) -> Model:
    """The model of this quantisation (or with this name), else the preferred one. Raises ChoiceNeeded."""
    if quant is not None:
        return _asked_for(models, quant, repo)
    if len(models) == 1:
        return models[0]
    for name in PREFERRED:
        found = [model for model in models if model.quant == name]
        if len(found) == 1:
            return found[0]
        if found:
            raise _needed(models, f"{repo} holds several models as {name}; name one")
    names = [_without_quant(model.stem) for model in models]
    if len(set(names)) > 1:
        raise _needed(models, f"{repo} holds several models; name one")
    return min(models, key=lambda model: model.size)


def _asked_for(models: Sequence[Model], quant: str, repo: str) -> Model:
    wanted = quant.lower().removesuffix(".gguf")
    for names in (
        lambda model: {str(model.quant).lower()},
        lambda model: {str(model.quant).lower().removeprefix("ud-")},
        lambda model: {model.stem.lower(), model.stem.rpartition("/")[2].lower()},
    ):
        found = [model for model in models if wanted in names(model)]
        if len(found) == 1:
            return found[0]
        if found:
            raise _needed(models, f"{repo} holds several models as {quant}; name one")
    raise _needed(models, f"{repo} has no quantisation {quant}")


def _needed(models: Sequence[Model], says: str) -> ChoiceNeeded:
    choices = choices_of(models)
    listed = ", ".join(f"{choice.quant} ({(choice.size or 0) / 1e9:.1f} GB)" for choice in choices)
    return ChoiceNeeded(f"{says}. There are: {listed}", choices)


def _without_quant(stem: str) -> str:
    return _QUANT.sub("", stem.rpartition("/")[2]).strip("-_.").lower()


def projector_of(model: Model, files: Iterable[HubFile]) -> HubFile | None:
    """The projector that goes with a model: of its own folder before others, half precision before others."""
    found = [file for file in files if is_gguf(file.path) and _PROJECTOR.search(file.path.rpartition("/")[2])]

    def rank(file: HubFile) -> tuple[bool, int, int, str]:
        quant = quant_of(file.path.rpartition("/")[2])
        shared = len(_words(file.path) & _words(model.stem))
        order = _HALF.index(quant) if quant in _HALF else len(_HALF)
        return file.path.rpartition("/")[0] != model.folder, -shared, order, file.path

    return min(found, key=rank, default=None)


def belongs(projector: HubFile, model: Model, files: Iterable[HubFile]) -> bool:
    """Whether a projector is the model's, and not that of another one among the files, by their names."""
    stems = {_stem(file.path) for file in files if _is_model(file.path)}
    others = [stem for stem in stems if _without_quant(stem) != _without_quant(model.stem)]
    told, shared = _words(projector.path), _words(projector.path) & _words(model.stem)
    if not others:
        return True
    if all(_COMMON.fullmatch(word) for word in shared):
        return False
    return all(len(told & _words(other)) <= len(shared) for other in others)


def _words(path: str) -> set[str]:
    words = re.split(r"[-_. ]+", _QUANT.sub("", path.rpartition("/")[2].lower()))
    return set(words) - {"", "mmproj", "gguf", "model"}
