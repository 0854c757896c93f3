"""What a text of models.json may not bring with it over HTTP: code of others, and files that are no models.

Who can reach the service is not always who owns the machine.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from pydantic.alias_generators import to_camel

from manager.engines.kinds import BUILT_IN
from manager.errors import ConfigError
from manager.mistakes import Mistake
from manager.models_file import FileEntry, parse_models_file
from manager.params import Lora
from manager.settings import Settings

# Keys of params by which a model answers otherwise, or takes other memory, and nothing else happens.
_EVERYWHERE: Final = frozenset(
    {
        *("instruct", "temperature", "top_k", "top_p", "min_p", "typical_p", "repeat_penalty", "repeat_last_n"),
        *("presence_penalty", "frequency_penalty", "seed", "n_predict", "ctx_size", "threads", "batch_size"),
        *("embedding", "pooling", "parallel"),
    }
)
HARMLESS: Final[Mapping[str, frozenset[str]]] = {
    "llama": _EVERYWHERE
    | {
        *("kv_unified", "gpu_layers", "threads_batch", "ubatch_size", "cache_type_k", "cache_type_v", "flash_attn"),
        *("mlock", "mmap", "main_gpu", "split_mode", "tensor_split", "device", "rope_freq_base", "rope_freq_scale"),
        *("reranking", "cache_ram_mib", "context_shift", "jinja", "draft_max", "draft_min", "draft_gpu_layers"),
    },
    "hf": _EVERYWHERE | {"cache_tokens", "dtype", "device_map"},
}
# Keys whose values are paths: harmless within the folders of models.
PATHS: Final = ("model", "mmproj", "draft_model", "lora")
# Those of the attentions that transformers has itself; for others it may fetch code.
_ATTENTIONS: Final = ("eager", "sdpa", "flex_attention")

_CODE: Final = "could run code of others"
_ELSEWHERE: Final = "is outside of the folders of models"


class Powers:
    """Those that the file with the text `old` (None: none that can be read) gives its models already.

    A power is a key of params with its value, for an engine and a model: it may move to another entry for that model.
    """

    def __init__(self, settings: Settings, old: str | None) -> None:
        storage = settings.storage
        folders = (storage.models_folder, storage.gguf_models_dir, storage.hf_models_dir)
        self._folders = [folder for folder in folders if folder is not None]
        self._own = set(_own_engines(old))
        try:
            entries, _ = parse_models_file(old, storage.models_file, lambda *_: False)
        except ConfigError:  # very many mistakes
            entries = {}
        self._had = {_key(entry, field) for entry in entries.values() for field in entry.params.model_fields_set}

    def trusts(self, engine: str, params: Any) -> bool:
        """Whether the file has these params for this engine of another package, which alone knows what they do."""
        return _written(engine, params) in self._own

    def added(self, name: str, entry: FileEntry) -> Iterator[Mistake]:
        """Those of this entry that the file has not for its model."""
        if entry.engine not in BUILT_IN:
            return  # only a trusted one was read
        for field in sorted(entry.params.model_fields_set):
            reason = self._power(entry, field)
            if reason is not None and _key(entry, field) not in self._had:
                said = f"can't be given over HTTP, for it {reason}: write it into the file on the machine itself"
                yield Mistake(said, (name, "params", field))

    def _power(self, entry: FileEntry, field: str) -> str | None:
        """Why not everybody may give this field of params its value; None where everybody may."""
        value = getattr(entry.params, field)
        if field in PATHS:
            return None if all(map(self._within, _paths(value))) else _ELSEWHERE
        if field == "attn_implementation" and value in _ATTENTIONS:
            return None
        usual = type(entry.params).model_fields[field].default
        return None if field in HARMLESS[entry.engine] or value == usual else _CODE

    def _within(self, path: str) -> bool:
        """A relative path can't leave the folder of models; one with `..` is not looked at any further."""
        whole = Path(path)
        return not whole.is_absolute() or (
            ".." not in whole.parts and any(whole.is_relative_to(folder) for folder in self._folders)
        )


def spelled(params: Mapping[str, Any], field: str) -> str:
    """The key of the params that gives this field."""
    return field if field in params else to_camel(field)


def _paths(value: Any) -> list[str]:
    items = value if isinstance(value, tuple) else () if value is None else (value,)
    return [item.path if isinstance(item, Lora) else item for item in items]


def _own_engines(text: str | None) -> Iterator[str]:
    """The engines of other packages in the text, each with its params; none where it is no JSON."""
    try:
        data = json.loads("{}" if text is None else text)
    except (ValueError, RecursionError):
        return
    for entry in data.values() if isinstance(data, dict) else ():
        if isinstance(entry, dict) and isinstance(entry.get("engine"), str):
            yield _written(entry["engine"], entry.get("params"))


def _key(entry: FileEntry, field: str) -> str:
    value = entry.params.model_dump(mode="json", include={field})
    return _written(entry.engine, [entry.params.model, value])


def _written(*parts: Any) -> str:
    # Not compared as Python's values, to which true is 1.
    return json.dumps(parts, sort_keys=True)
