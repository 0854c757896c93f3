"""What the service knows of one model before it runs: its parameters, template, personalities and file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

from manager.errors import ModelNotFound
from manager.mistakes import did_you_mean, shown
from manager.params import CacheType, HfParams, LlamaParams, Lora, ModelParams
from manager.variants import Profile, RequestFilter

__all__ = ["CacheType", "HfParams", "LlamaParams", "Lora", "ModelEntry", "ModelParams", "Template"]


@dataclass(frozen=True, slots=True)
class Template:
    """A chat template: a name that llama.cpp knows, or a Jinja file; exactly one of the two.

    `changed`: when the file was, in nanoseconds since the epoch, so that a file with a new text is another template.
    """

    builtin: str | None = None
    file: Path | None = None
    changed: int = 0

    def __post_init__(self) -> None:
        if (self.builtin is None) == (self.file is None):
            raise ValueError("a template is a built-in name or a file")


@dataclass(frozen=True, slots=True)
class ModelEntry:
    """One model that can be served. Paths are absolute; `created` is in seconds since the epoch.

    `request`: what is done to requests for it, and `profiles`: its variants for clients, by name.
    `ttl`: seconds without a request after which it is unloaded, None where only somebody's wish unloads it.
    `concurrency`: most requests at once, None where the engine queues by itself; `queue`: most that wait.
    `stamps`: of each of its files when it was changed and its size, so that an entry with other files is another one.
    `unavailable` says why it can't be loaded here; None where nothing is known against it.
    """

    name: str
    path: Path
    params: ModelParams
    engine: str = "llama"
    template: Template | None = None
    personalities: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    request: RequestFilter = field(default_factory=RequestFilter)
    profiles: Mapping[str, Profile] = field(default_factory=lambda: MappingProxyType({}))
    aliases: tuple[str, ...] = ()
    mmproj: Path | None = None
    description: str | None = None
    ttl: float | None = None
    pinned: bool = False
    preload: bool = False
    concurrency: int | None = None
    queue: int | None = None
    source: str = "models.json"
    created: int = 0
    stamps: tuple[tuple[int, int], ...] = ()
    unavailable: str | None = None

    @property
    def llama(self) -> LlamaParams:
        """The parameters of a GGUF model. Raises TypeError where it is none."""
        if not isinstance(self.params, LlamaParams):
            raise TypeError(f"{self.name} is no GGUF model: its engine is {self.engine}")
        return self.params

    @property
    def hf(self) -> HfParams:
        """The parameters of a Hugging Face model. Raises TypeError where it is none."""
        if not isinstance(self.params, HfParams):
            raise TypeError(f"{self.name} is no Hugging Face model: its engine is {self.engine}")
        return self.params

    def personality(self, name: str) -> str:
        """The system prompt of that personality. Raises ModelNotFound with the nearest name."""
        text = self.personalities.get(name)
        if text is None:
            raise ModelNotFound(
                f"The model {shown(self.name)} has no personality {shown(name)}"
                f"{did_you_mean(name, self.personalities)}",
                param="personality",
            )
        return text
