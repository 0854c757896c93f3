"""What a test of the HTTP face stands on: a folder with models, a fake llama-server for each, and settings over it."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from tests.fakes import write_binary

# A GGUF header without tensors or keys: whole, as far as headers tell.
EMPTY_GGUF: Final = struct.pack("<4sIQQ", b"GGUF", 3, 0, 0)
CHAT: Final = "/v1/chat/completions"

# Starts the fake of the model that it is asked to load; exec keeps the process.
DISPATCHER: Final = """#!/bin/sh
for argument do
    test "$previous" = --model && model=${{argument##*/}}
    previous=$argument
done
exec "{fakes}/${{model%.gguf}}/llama-server" "$@"
"""


class Fake:
    """The fake llama-server of one model: its faults, and what it saw."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.gate = folder / "gate"
        self.stream_gate = folder / "stream_gate"
        self.knobs()

    def knobs(self, **knobs: Any) -> None:
        """Its faults from the next start on."""
        self.folder.mkdir(parents=True, exist_ok=True)
        logs = {name: self.folder / name for name in ("start_counter", "requests_log", "disconnect_log")}
        write_binary(self.folder, **logs, **knobs)

    def close_gate(self, **knobs: Any) -> None:
        """It loads until `open_gate`."""
        self.knobs(gate=self.gate, **knobs)

    def open_gate(self) -> None:
        self.gate.touch()

    def hold_streams(self, **knobs: Any) -> None:
        """Its answers stop after their first token until `release_streams`."""
        self.knobs(stream_gate=self.stream_gate, **knobs)

    def release_streams(self) -> None:
        self.stream_gate.touch()

    def requests(self, path: str | None = CHAT) -> list[dict[str, Any]]:
        """What came, in order, without its probes; of every path where `path` is None."""
        seen: list[dict[str, Any]] = [json.loads(line) for line in self._lines("requests_log")]
        return [request for request in seen if path is None or request["path"] == path]

    def starts(self) -> list[int]:
        """The process ids of its lives so far."""
        return [int(line) for line in self._lines("start_counter")]

    def disconnects(self) -> list[float]:
        """When clients left before they had their answer, in seconds since the epoch."""
        return [float(line) for line in self._lines("disconnect_log")]

    def _lines(self, name: str) -> list[str]:
        file = self.folder / name
        return file.read_text().splitlines() if file.exists() else []


class Stage:
    """A data folder in the making."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.data = folder / "data"
        self.models_file = self.data / "models.json"
        self.keys_file = self.data / "keys.json"
        self.fakes = folder / "fakes"
        self.binary = folder / "llama-server"
        self._entries: dict[str, Any] = {}
        (self.data / "models").mkdir(parents=True)
        self.binary.write_text(DISPATCHER.format(fakes=self.fakes))
        self.binary.chmod(0o755)
        self.write_models()

    def model(self, name: str, file: str | None = None, ctx_size: int | None = None, **entry: Any) -> Fake:
        """Add a model; `entry` are more keys of its entry in models.json."""
        stem = file or name
        (self.data / "models" / f"{stem}.gguf").write_bytes(EMPTY_GGUF)
        params: dict[str, Any] = {"model": f"{stem}.gguf", "parallel": 1, **entry.pop("params", {})}
        if ctx_size is not None:
            params["ctxSize"] = ctx_size
        self._entries[name] = {"params": params, **entry}
        self.write_models()
        return Fake(self.fakes / stem)

    def forget(self, name: str) -> None:
        del self._entries[name]
        self.write_models()

    def write_models(self) -> None:
        self.models_file.write_text(json.dumps(self._entries))

    def variables(self) -> dict[str, str]:
        """The settings that every service of this stage has, as environment variables."""
        return {
            "LLAMAHERD_SERVER__PORT": "0",
            "LLAMAHERD_STORAGE__DATA_FOLDER": str(self.data),
            "LLAMAHERD_STORAGE__CACHE_FOLDER": str(self.folder / "cache"),
            "LLAMAHERD_LLAMA__BINARY": str(self.binary),
        }

    def sections(self, given: Mapping[str, Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
        """The settings of a service in this process: those that every one of this stage has, `given` over them."""
        own: dict[str, dict[str, Any]] = {
            "llama": {"binary": self.binary},
            "limits": {"stop_grace": 2.0},
            "storage": {"watch": False},  # a test that wants its files seen says so
        }
        return {name: {**own.get(name, {}), **given.get(name, {})} for name in own.keys() | given.keys()}
