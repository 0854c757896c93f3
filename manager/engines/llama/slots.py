"""Warm swap: the KV caches of a child's slots, saved before it stops and restored after the next start."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import logging
import re
import shutil
from collections.abc import Iterable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import orjson

from manager.engines import UpstreamRequest
from manager.engines.llama.arguments import LlamaArgs
from manager.engines.llama.upstream import UpstreamClient
from manager.errors import UpstreamError

logger = logging.getLogger(__name__)

# Saving is worth a moment's wait, not a stop that hangs: a slot that is busy answers only when it is free again.
SAVE_TIMEOUT: Final = 10.0
BUSY_PATIENCE: Final = 1.0
RESTORE_TIMEOUT: Final = 10.0
# What decides whether a cache fits: of the options those that shape it. Sampling, threads and such don't.
SHAPING: Final = (
    *("cache_type_k", "cache_type_v", "context_shift", "ctx_size", "device", "draft_model", "flash_attn", "jinja"),
    *("kv_unified", "lora", "mmproj", "model", "parallel", "rope_freq_base", "rope_freq_scale", "template"),
    "template_file",
)
# The names of folders of saved slots, as `fingerprint` makes them.
OURS: Final = re.compile(r"[0-9a-f]{32}")
FILES: Final = ("model", "mmproj", "draft_model", "template_file")


class SlotStore:
    """The saved slots of one model in one shape. Another shape of it has another folder, and the old one goes.

    Whatever goes wrong here is logged and leaves the model cold; it never fails a load or a stop. The files hold
    conversations: the folders are 0700 and the files 0600.
    """

    def __init__(self, root: Path, name: str, fingerprint: str, budget: int) -> None:
        self._root = root
        self._model = model_folder(root, name)
        self.folder = self._model / fingerprint
        self._name = name
        self._budget = budget

    def prepare(self) -> None:
        """Make the folder, which a child must find at its start. Blocks."""
        for folder in (self._root, self._model, self.folder):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for broken in self.folder.glob("slot-*.part"):
            broken.unlink(missing_ok=True)
        for other in self._model.iterdir():
            if other != self.folder:
                shutil.rmtree(other, ignore_errors=True)

    async def restore(self, client: UpstreamClient) -> None:
        """Give the child what was saved."""
        saved = await asyncio.to_thread(lambda: sorted(self.folder.glob("slot-*.bin")))
        tokens = 0
        try:
            async with asyncio.timeout(RESTORE_TIMEOUT):
                for file in saved:
                    slot = file.stem.removeprefix("slot-")
                    answer = await _ask(client, "POST", f"/slots/{slot}?action=restore", {"filename": file.name})
                    if answer is None:
                        await asyncio.to_thread(file.unlink, missing_ok=True)
                    else:
                        tokens += int(answer["n_restored"])
        except (UpstreamError, TimeoutError, ValueError, KeyError, OSError) as error:
            logger.warning("model=%s slots not restored: %s", self._name, type(error).__name__)
        except Exception:  # an answer that makes no sense
            logger.exception("model=%s slots not restored", self._name)
        if saved:
            logger.info("model=%s slots restored=%d tokens=%d", self._name, len(saved), tokens)

    async def save(self, client: UpstreamClient) -> None:
        """Save every slot that holds something; a busy one only where it is free again in a moment."""
        tokens: list[int] = []
        try:
            async with asyncio.timeout(SAVE_TIMEOUT):
                slots = await _ask(client, "GET", "/slots", None) or []
                for slot in sorted(slots, key=lambda slot: bool(slot["is_processing"])):
                    # An answer is sent a little before its slot is free: what has just been used is worth most.
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(BUSY_PATIENCE if slot["is_processing"] else None):
                            tokens.append(await self._save_slot(client, slot["id"]))
            await asyncio.to_thread(self._keep_within_budget)
        except (UpstreamError, TimeoutError, ValueError, KeyError, OSError) as error:
            logger.warning("model=%s slots not saved: %s", self._name, type(error).__name__)
            return
        except Exception:  # an answer that makes no sense
            logger.exception("model=%s slots not saved", self._name)
            return
        logger.info("model=%s slots saved=%d tokens=%d", self._name, sum(map(bool, tokens)), sum(tokens))

    async def _save_slot(self, client: UpstreamClient, slot: int) -> int:
        """Save one slot under another name first: a broken file must never be restored. Returns its tokens."""
        part, whole = self.folder / f"slot-{slot}.part", self.folder / f"slot-{slot}.bin"
        answer = await _ask(client, "POST", f"/slots/{slot}?action=save", {"filename": part.name})
        tokens = int(answer["n_saved"]) if answer else 0
        await asyncio.to_thread(_settle, part, whole if tokens else None)
        return tokens

    def _keep_within_budget(self) -> None:
        """Remove the oldest files of all models until the rest is within the budget."""
        files = sorted(self._root.glob("*/*/slot-*.bin"), key=lambda file: file.stat().st_mtime, reverse=True)
        total = 0
        for file in files:
            total += file.stat().st_size
            if total > self._budget:
                logger.info("slots file=%s removed: over the budget of %d bytes", file.name, self._budget)
                file.unlink(missing_ok=True)


def model_folder(root: Path, name: str) -> Path:
    """Where the slots of a model are, under a name that is safe as a file's and can be read."""
    plain = quote(name, safe="")[:80]
    return root / f"{plain}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def forget_others(root: Path, names: Iterable[str]) -> None:
    """Remove what was saved of models that are no more. Folders that are none of ours are left alone. Blocks."""
    wanted = {model_folder(root, name) for name in names}
    for folder in root.glob("*-????????"):
        if folder not in wanted and all(OURS.fullmatch(inner.name) for inner in folder.iterdir()):
            shutil.rmtree(folder, ignore_errors=True)


def fingerprint(args: LlamaArgs, binary: Path | None) -> str:
    """What a saved cache must agree with: the options that shape it, the files, and the llama.cpp. Blocks."""
    options = {name: args.options[name] for name in SHAPING if name in args.options}
    if "device" in options:  # its kind: on which GPU of several it ran last makes no difference to a cache
        options["device"] = re.sub(r"\d+", "", str(options["device"]))
    paths = [Path(str(options[name])) for name in FILES if name in options]
    paths += [Path(path) for path, _ in options.get("lora", ())]
    engine: Any = version("xllamacpp") if binary is None else _identities([binary])
    described = [options, _identities(paths), engine, list(args.extra_args)]
    return hashlib.sha256(json.dumps(described, sort_keys=True, default=str).encode()).hexdigest()[:32]


def _identities(paths: Iterable[Path]) -> list[tuple[str, int, int]]:
    return [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in paths]


def _settle(part: Path, whole: Path | None) -> None:
    if whole is None:
        part.unlink(missing_ok=True)
    else:
        part.chmod(0o600)
        part.replace(whole)


async def _ask(client: UpstreamClient, method: str, path: str, body: Mapping[str, Any] | None) -> Any:
    """The child's answer; None where it can't do that, which its log tells more of."""
    raw = b"" if body is None else orjson.dumps(body)
    async with client.open(UpstreamRequest(method, path, raw)) as answer:
        content = await answer.read()
        return orjson.loads(content) if answer.status == 200 else None
