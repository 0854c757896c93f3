"""Loads a Hugging Face folder: tokenizer, processor, template, weights. It never asks a hub and never runs the folder's
code or unpickles its weights unless the entry says so.
"""

from __future__ import annotations

import gc
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
import transformers
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoModelForImageTextToText
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from manager.engines.hf.batch.attention import NAME as OUR_ATTENTION
from manager.engines.hf.batch.attention import can_use_ours, set_attention
from manager.engines.hf.loading import folder as files
from manager.engines.hf.loading import progress as bars
from manager.engines.hf.loading.facts import Kind, ends_of, kind_of, recipe_of, vocabulary_of, window_of
from manager.engines.hf.loading.tokenizing import read_template, read_tokenizer
from manager.entry import ModelEntry
from manager.errors import HerdError, InsufficientMemory, LoadFailed
from manager.params import HfParams

_AUTO: Final[Mapping[Kind, Any]] = {
    "text": AutoModelForCausalLM,
    "vision": AutoModelForImageTextToText,
    "encoder": AutoModel,
}
_TRUST: Final = (
    "'trust_remote_code': true in the entry's params lets it run, and then it can do whatever the service may do."
)
_LOOK_UP: Final = 0.1  # seconds between two looks whether a load that waits is still wanted
_one = threading.Lock()
_REASON_MOST: Final = 400  # characters of another library's message
# How torch and the system say on the host that there is no memory; on GPUs torch has an error of its own.
_NO_MEMORY: Final = re.compile(r"can't allocate memory|cannot allocate memory|out of memory", re.IGNORECASE)


@dataclass(slots=True)
class LoadedModel:
    """A model that is ready, in evaluation mode and without gradients.

    `window`: most tokens of one sequence; `vocabulary`: rows of the logits; `ends`: ids that end an answer;
    `defaults`: sampling fields of generation_config.json under llama.cpp's names; `template`: the chat template's text;
    `device`: where inputs go; `recipe`: of an encoder, how it makes embeddings.
    """

    model: Any
    tokenizer: Any
    processor: Any
    kind: Kind
    window: int
    vocabulary: int
    ends: frozenset[int]
    defaults: Mapping[str, float | int]
    template: str | None
    device: torch.device
    recipe: files.Recipe | None = None


def load(entry: ModelEntry, progress: Callable[[float], None]) -> LoadedModel:
    """Load the entry's folder. Blocks, for a thread; `progress` is told 0 to 1 from that thread.

    Raises LoadFailed with file and reason, or InsufficientMemory; or the HerdError with which `progress` ends the
    load. After a failure nothing is held any more.
    """
    _route_logs()
    stage = _Stage()
    try:
        return _load(entry, progress, stage)
    except Exception as error:
        failure = failure_of(entry, error, stage.what)
    # Out here the first error is gone, and with it its frames, which held what was loaded so far.
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    raise failure


@contextmanager
def _alone(progress: Callable[[float], None]) -> Iterator[None]:
    """One load at a time. Others wait, and can be ended by `progress` meanwhile.

    from_pretrained sets what counts for the whole process (torch's default dtype, PreTrainedModel.tie_weights) and sets
    it back; two that overlap would set back what the other one had set.
    """
    while not _one.acquire(timeout=_LOOK_UP):
        progress(0.0)
    try:
        yield
    finally:
        _one.release()


class _Stage:
    """What is being loaded, for the message where that fails."""

    what = "config.json"


def _load(entry: ModelEntry, progress: Callable[[float], None], stage: _Stage) -> LoadedModel:
    folder, params = entry.path, entry.hf
    raw = files.read_object(folder / files.CONFIG)
    _check(folder, raw, params)
    common: dict[str, Any] = {"local_files_only": True, "trust_remote_code": params.trust_remote_code}
    config: Any = AutoConfig.from_pretrained(folder, **common)  # nosec B615 # local files only
    kind = kind_of(folder, raw, config, params)
    defaults = files.sampling_defaults(folder)
    recipe = recipe_of(folder, raw, params) if kind == "encoder" else None
    stage.what = "the processor" if kind == "vision" else "the tokenizer"
    tokenizer, processor = read_tokenizer(folder, kind, common)
    template = read_template(entry, tokenizer, processor)
    stage.what = "the model"
    progress(0.0)
    with _alone(progress), bars.told(folder, progress):
        model = _weights(folder, kind, config, params, common)
    progress(1.0)
    return LoadedModel(
        model=model,
        tokenizer=tokenizer,
        processor=processor,
        kind=kind,
        window=window_of(params, model),
        vocabulary=vocabulary_of(model, kind),
        ends=ends_of(model, tokenizer),
        defaults=defaults,
        template=template,
        device=model.get_input_embeddings().weight.device,
        recipe=recipe,
    )


def _check(folder: Path, raw: Mapping[str, Any], params: HfParams) -> None:
    """What can be refused before anything of the folder is used."""
    if not raw:
        raise files.wrong(folder / files.CONFIG, "is missing or empty")
    if raw.get("auto_map") and raw.get("model_type") not in CONFIG_MAPPING and not params.trust_remote_code:
        raise files.wrong(folder / files.CONFIG, f"needs Python code of the folder (auto_map): {_TRUST}")
    if params.trust_remote_code:
        for path in sorted(folder.glob("*config.json")):
            if "--" in str(files.read_object(path).get("auto_map")):  # transformers would ask a hub for it
                raise files.wrong(path, "names Python code of another repository (auto_map), which is not fetched")
    if not params.allow_pickle and not any(folder.glob("*.safetensors")):
        raise LoadFailed(
            f"{folder.name} has no weights as safetensors. Others are unpickled, which can run any code: "
            "'allow_pickle': true in the entry's params allows it.",
            should_retry=False,
        )
    if isinstance(params.device_map, dict) and "disk" in params.device_map.values():
        raise LoadFailed("'device_map' must not send weights to the disk.", should_retry=False)


def _weights(folder: Path, kind: Kind, config: Any, params: HfParams, common: Mapping[str, Any]) -> Any:
    if kind == "encoder":
        config.use_cache = False  # decoders that make embeddings keep nothing
    options: dict[str, Any] = {
        "config": config,
        "dtype": params.dtype,
        "use_safetensors": None if params.allow_pickle else True,
        "device_map": _device_map(folder, params),
        "output_loading_info": True,
        "ignore_mismatched_sizes": True,  # to be told below, and better
        **common,
    }
    if params.attn_implementation is not None:
        options["attn_implementation"] = params.attn_implementation
        if kind != "encoder" and (part := _text_part(config)) is not None:  # towers keep theirs
            options["attn_implementation"] = {part: params.attn_implementation}
    if params.quantization is not None:
        options["quantization_config"] = transformers.quantizers.auto.AutoQuantizationConfig.from_dict(
            params.quantization
        )
    model, told = _AUTO[kind].from_pretrained(folder, **options)
    for name, stored, wanted in sorted(told["mismatched_keys"]):
        raise LoadFailed(
            f"{folder.name}: the tensor {name} is {list(stored)} and by config.json {list(wanted)}.", should_retry=False
        )
    missing = sorted(name for name in told["missing_keys"] if kind != "encoder" or "pooler." not in name)
    if missing:  # transformers would go on with random numbers
        raise LoadFailed(
            f"{folder.name}: {len(missing)} tensors are missing, such as {missing[0]}.", should_retry=False
        )
    placed = getattr(model, "hf_device_map", None) or {}
    if "disk" in placed.values():
        raise InsufficientMemory(f"{folder.name} fits neither on the GPUs nor in memory: a part would be on the disk.")
    if kind != "encoder" and params.attn_implementation is None and can_use_ours(model):
        set_attention(model, OUR_ATTENTION)
    model.requires_grad_(False)  # from_pretrained has put it into evaluation mode
    return model


def _device_map(folder: Path, params: HfParams) -> str | dict[str, int | str] | None:
    """None: all on the host, in plain memory. `auto` without a GPU would have accelerate put a part on the disk."""
    wanted = params.device_map
    if wanted == "cpu" or (wanted == "auto" and not torch.accelerator.is_available()):
        return None
    if wanted == "auto" and params.quantization is None:
        from accelerate.utils import get_max_memory  # type: ignore[import-untyped]  # it ships no types

        size = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
        room = sum(get_max_memory().values())
        if size > room:
            raise InsufficientMemory(
                f"{folder.name} has {size:,} bytes of weights; GPUs and memory together have room for {room:,}."
            )
    return wanted


def _text_part(config: Any) -> str | None:
    """The key of the text model's part of the config; None where that is the whole."""
    text = config.get_text_config()
    return next((key for key in config.sub_configs if getattr(config, key, None) is text), None)


def failure_of(entry: ModelEntry, error: Exception, what: str = "the model") -> HerdError:
    """What went wrong, in a line that names the folder but not where it lies. `what`: what was being loaded.

    LoadFailed or InsufficientMemory; a HerdError stays as it is. It holds no other error and no frame.
    """
    if isinstance(error, HerdError):  # ours, or what `progress` raised to end the load
        error.__cause__ = error.__context__ = None
        return error.with_traceback(None)
    reason = str(error).strip().split("\n\n", 1)[0].replace(str(entry.path), entry.path.name)
    reason = " ".join(reason.split())[:_REASON_MOST] or type(error).__name__
    if isinstance(error, MemoryError | torch.OutOfMemoryError) or _NO_MEMORY.search(reason):
        return InsufficientMemory(f"{entry.path.name}: no memory left while it was loaded: {reason}")
    if "trust_remote_code" in reason:
        return LoadFailed(f"{entry.path.name} needs Python code of its folder: {_TRUST}", should_retry=False)
    if isinstance(error, ImportError):
        return LoadFailed(
            f"{entry.path.name}: {what} needs a package that is not installed: {reason}", should_retry=False
        )
    return LoadFailed(
        f"{entry.path.name}: {what} can't be loaded: {type(error).__name__}: {reason}", should_retry=False
    )


def _route_logs() -> None:
    """Have transformers' log go where ours goes, and not to standard error."""
    transformers.utils.logging.disable_default_handler()
    transformers.utils.logging.enable_propagation()
