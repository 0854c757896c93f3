"""Which files of a Hugging Face repository a model needs."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from manager.model_store.choices import PICKLES, BadSource
from manager.model_store.hub import HubFile

CONFIG: Final = "config.json"
_SETTINGS: Final = (".json", ".jinja", ".model", ".tiktoken", ".txt")
# Files of text that no library reads.
_PAPERS: Final = re.compile(r"(readme|licen[cs]e|notice|requirements|use_policy|acceptable).*\.txt", re.IGNORECASE)
# Folders of which files are read: pooling and dense layers of sentence encoders, and more templates.
_FOLDERS: Final = re.compile(r"\d+_[A-Za-z]+|additional_chat_templates")
_PICKLED: Final = re.compile(r"pytorch_model(-\d+-of-\d+)?\.bin")
# The same weights once more, in another form or precision.
_COPIES: Final = re.compile(r"consolidated.*|model\.(fp16|bf16|fp32|int8)(-\d+-of-\d+)?\.safetensors(\.index.*)?")
_OTHERS: Final = re.compile(r"(pytorch_model|tf_model|flax_model|rust_model)\b.*\.json", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class HfChoice:
    """The files in the order in which they are to come: config.json, which makes a folder a model, last."""

    files: tuple[HubFile, ...]
    pickled: bool
    code: bool


def choose_hf(files: Sequence[HubFile], repo: str, *, allow_pickle: bool, trust_remote_code: bool) -> HfChoice:
    """Raises BadSource where they are no model, or only one that runs code when it is loaded."""
    names = {file.path for file in files}
    if CONFIG not in names:
        raise BadSource(f"{repo} holds no model: neither GGUF files nor a {CONFIG}", param="source")
    weights = [file for file in files if _is_weights(file.path, names)]
    pickled = not weights
    if pickled:
        weights = [file for file in files if _PICKLED.fullmatch(file.path)]
        if not weights:
            raise BadSource(f"{repo} holds no weights: neither safetensors nor pytorch_model.bin", param="source")
        if not allow_pickle:
            raise BadSource(
                f"{repo} holds no safetensors, and pytorch_model.bin can run code when it is loaded; {PICKLES}",
                param="source",
            )
    index = "pytorch_model.bin.index.json"
    code = [file for file in files if trust_remote_code and "/" not in file.path and file.path.endswith(".py")]
    rest = [file for file in files if _is_setting(file.path) or (pickled and file.path == index)]
    ordered = sorted([*weights, *rest, *code], key=lambda file: (file.path == CONFIG, -file.size, file.path))
    return HfChoice(tuple(ordered), pickled, bool(code))


def _is_weights(path: str, names: set[str]) -> bool:
    folder, _, name = path.rpartition("/")
    if not name.endswith(".safetensors") or (folder and not _FOLDERS.fullmatch(folder)):
        return False
    plain = {"model.safetensors", "model.safetensors.index.json"} & names
    return not (plain and _COPIES.fullmatch(name))


def _is_setting(path: str) -> bool:
    folder, _, name = path.rpartition("/")
    if folder and not _FOLDERS.fullmatch(folder):
        return False
    if name.startswith(".") or not name.endswith(_SETTINGS):
        return False
    return not (_PAPERS.fullmatch(name) or _COPIES.fullmatch(name) or _OTHERS.fullmatch(name))
