"""The entry of models.json for a model that has come."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from manager.errors import LoadFailed
from manager.gguf_header import read_header
from manager.model_store.plan import Plan
from manager.model_store.targets import relative

# llama.cpp's pooling types that make one vector of a text (mean, cls, last), and the one that ranks.
_EMBEDS: Final = frozenset({1, 2, 3})
_RANKS: Final = 4


def suggested_entry(plan: Plan) -> tuple[str, dict[str, Any]]:
    """Name and entry, as JSON has it: the path (relative to the folder of models), the projector, the engine where it
    is hf, and embedding or reranking where the file says that the model is for that. Call it after `pull`: it reads
    the file. Blocks.
    """
    params: dict[str, Any] = {"model": _written(plan.model, plan)}
    if plan.mmproj is not None:
        params["mmproj"] = _written(plan.mmproj, plan)
    if plan.engine == "llama":
        params |= _purpose(plan.model)
        return plan.name, {"params": params}
    if plan.allow_pickle:
        params["allowPickle"] = True
    if plan.trust_remote_code:
        params["trustRemoteCode"] = True
    return plan.name, {"engine": plan.engine, "params": params}


def _written(path: Path, plan: Plan) -> str:
    return relative(path, plan.models_folder) or str(path)


def _purpose(path: Path) -> dict[str, bool]:
    """What else a model is for than to chat, by what its header says of pooling, or by its architecture."""
    try:
        metadata = read_header(path).metadata
    except (LoadFailed, OSError):
        return {}
    architecture = str(metadata.get("general.architecture", ""))
    pooling = metadata.get(f"{architecture}.pooling_type")
    if pooling == _RANKS:
        return {"reranking": True}
    if pooling in _EMBEDS or "bert" in architecture or architecture == "gemma-embedding":
        return {"embedding": True}
    return {}
