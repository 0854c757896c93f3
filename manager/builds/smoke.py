"""Loads a small model with a new llama-server by the service's own code, and lets it say something."""

from __future__ import annotations

import asyncio
import json
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from manager.builds.failure import BuildFailed
from manager.engines import UpstreamRequest
from manager.engines.llama.engine import LlamaEngine
from manager.engines.llama.native import devices
from manager.entry import ModelEntry
from manager.errors import HerdError
from manager.params import LlamaParams
from manager.run_folder import RunFolder
from manager.settings import Settings

TOKENS: Final = 8
_LINES: Final = 15  # of the log, in the reason of a failure
_PROMPT: Final = "Once upon a time there was"
OFFLOADED: Final = re.compile(r"offloaded (\d+)/(\d+) layers to GPU")


@dataclass(frozen=True, slots=True)
class Smoke:
    """What was tried: the devices that the server sees, and how many layers of the model were on them."""

    devices: tuple[str, ...]
    offloaded: tuple[int, int] | None

    def __str__(self) -> str:
        if not self.devices:
            return "on the CPU"
        layers = "" if self.offloaded is None else f", {self.offloaded[0]} of {self.offloaded[1]} layers"
        return f"on {', '.join(self.devices)}{layers}"


def smoke_test(binary: Path, model: Path, settings: Settings) -> Smoke:
    """Load the model, on GPUs where the server has any, and generate a few tokens. Blocks.

    Raises BuildFailed with the reason and the end of the server's log.
    """
    with tempfile.TemporaryDirectory(prefix="lh-") as folder:
        return asyncio.run(_try(binary, model, settings, RunFolder(Path(folder))))


async def _try(binary: Path, model: Path, settings: Settings, run_folder: RunFolder) -> Smoke:
    found = await asyncio.to_thread(devices, binary) or ()
    params = LlamaParams(model=str(model), ctx_size=256, parallel=1, gpu_layers=-1)
    engine = LlamaEngine(ModelEntry("smoke-test", model, params), _settings(settings, binary), run_folder)
    try:
        async with asyncio.timeout(settings.limits.load_timeout):
            await engine.start()
            await _generate(engine)
    except TimeoutError:
        raise _failed(engine, f"no answer within {settings.limits.load_timeout:.0f} s") from None
    except HerdError as error:
        raise _failed(engine, error.message) from error
    finally:
        await engine.stop()
    log = "\n".join(engine.log.tail(1000))
    layers = OFFLOADED.search(log)
    smoke = Smoke(found, (int(layers[1]), int(layers[2])) if layers else None)
    if found and smoke.offloaded is not None and smoke.offloaded[0] < smoke.offloaded[1]:
        raise _failed(engine, f"only {layers and layers[0]}: is the memory of the GPU taken by others?")
    return smoke


async def _generate(engine: LlamaEngine) -> None:
    body = {"prompt": _PROMPT, "max_tokens": TOKENS, "temperature": 0}
    request = UpstreamRequest(
        "POST", "/v1/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    async with engine.open(request) as answer:
        status, content = answer.status, await answer.read()
    if status != 200 or not _tokens(content):
        raise HerdError(f"it generated nothing: status {status}, {content[:200].decode('utf-8', 'replace')}")


def _tokens(content: bytes) -> int:
    try:
        answer: Any = json.loads(content)
        return int(answer["usage"]["completion_tokens"]) if answer["choices"][0]["text"] else 0
    except (ValueError, KeyError, IndexError, TypeError):
        return 0


def _settings(settings: Settings, binary: Path) -> Settings:
    """The user's, with this server, and with nothing kept of what is said."""
    llama = settings.llama.model_copy(update={"launcher": "native", "binary": binary})
    storage = settings.storage.model_copy(update={"slots_budget": 0})
    return settings.model_copy(update={"llama": llama, "storage": storage})


def _failed(engine: LlamaEngine, reason: str) -> BuildFailed:
    log = "\n".join(engine.log.tail(_LINES))
    return BuildFailed(f"The smoke test failed, so the build is not kept: {reason}\nThe end of its log:\n{log}")
