"""What is known of a model that is not loaded: its window, what it takes and what it can be asked for."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import gguf
import pytest

from manager.description import Description, context_length, describe, input_modalities, tasks_of
from manager.engines import kinds
from manager.engines.kinds import EngineKind, EngineKinds
from manager.entry import HfParams, LlamaParams, ModelEntry, ModelParams
from tests.gguf_files import write_tiny_gguf
from tests.hf_models import tiny_text


def llama(path: Path, **params: Any) -> ModelEntry:
    return ModelEntry(name="m", path=path, params=LlamaParams(model=str(path), **params))


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """Trained with a window of 2048 tokens."""
    return write_tiny_gguf(tmp_path / "tiny.gguf", context=2048)


@pytest.mark.parametrize(
    ("params", "length"),
    [
        ({}, 2048),  # the setting's 4096 is more than it was trained with
        ({"ctx_size": 512}, 512),
        ({"ctx_size": 512, "parallel": 8}, 512),  # each of the slots has as much
        ({"ctx_size": 512, "parallel": 8, "kv_unified": True}, 512),
        ({"ctx_size": 0, "parallel": 4}, 2048),
        ({"ctx_size": 9000}, 2048),
    ],
)
def test_a_conversation_has_the_window_of_a_slot(tiny: Path, params: dict[str, Any], length: int) -> None:
    entry = llama(tiny, **params)
    assert context_length(entry, describe(entry)) == length


def test_a_window_that_no_file_tells_is_that_of_the_entry_or_not_known(tmp_path: Path) -> None:
    missing = tmp_path / "missing.gguf"
    for params, length in (({"ctx_size": 0}, None), ({"ctx_size": 300}, 300)):
        entry = llama(missing, **params)
        assert context_length(entry, describe(entry)) == length


def test_a_folder_tells_its_window(tmp_path: Path) -> None:
    pytest.importorskip("transformers", reason="the extra hf is not installed")
    folder = tiny_text(tmp_path / "text", window=1024)
    for given, length in ((None, 1024), (256, 256), (0, 1024)):
        params = HfParams(model=str(folder), ctx_size=given)
        entry = ModelEntry(name="m", path=folder, params=params, engine="hf")
        known = describe(entry)
        assert context_length(entry, known) == length
        assert (input_modalities(known), tasks_of(entry, known)) == (["text"], ["chat", "completion"])


def projector(path: Path, **flags: bool) -> Path:
    writer = gguf.GGUFWriter(path, "clip")
    for name, value in flags.items():
        writer.add_bool(f"clip.{name}", value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    return path


@pytest.mark.parametrize(
    ("flags", "sees"),
    [
        ({}, True),
        ({"has_vision_encoder": True}, True),
        ({"has_vision_encoder": True, "has_audio_encoder": True}, True),
        ({"has_audio_encoder": True}, False),
        ({"has_vision_encoder": False, "has_audio_encoder": True}, False),
    ],
)
def test_images_are_taken_where_the_projector_is_for_them(
    tiny: Path, tmp_path: Path, flags: Mapping[str, bool], sees: bool
) -> None:
    mmproj = projector(tmp_path / "mmproj.gguf", **flags)
    entry = ModelEntry(name="m", path=tiny, params=LlamaParams(model=str(tiny)), mmproj=mmproj)
    assert input_modalities(describe(entry)) == (["text", "image"] if sees else ["text"])


def test_a_projector_that_can_not_be_read_hides_nothing_of_the_model(tiny: Path, tmp_path: Path) -> None:
    entry = ModelEntry(name="m", path=tiny, params=LlamaParams(model=str(tiny)), mmproj=tmp_path / "gone.gguf")
    known = describe(entry)
    assert (known.window, known.sees) == (2048, True)


@pytest.mark.parametrize(
    ("params", "tasks"),
    [
        ({}, ["chat", "completion"]),
        ({"instruct": False}, ["completion"]),
        ({"embedding": True}, ["embedding"]),
        ({"reranking": True}, ["rerank"]),
    ],
)
def test_the_entry_says_what_a_gguf_model_is_for(params: dict[str, Any], tasks: list[str]) -> None:
    assert tasks_of(llama(Path("/m.gguf"), **params), Description("gguf")) == tasks


def test_a_folder_that_generates_nothing_makes_vectors() -> None:
    entry = ModelEntry(name="m", path=Path("/m"), params=HfParams(model="/m"), engine="hf")
    assert tasks_of(entry, Description("safetensors", generates=False)) == ["embedding"]


@pytest.mark.parametrize(
    ("paths", "tasks"),
    [
        (None, ["chat", "completion"]),
        (frozenset({"/v1/embeddings", "/v1/rerank"}), ["embedding", "rerank"]),
        (frozenset({"/v1/audio/speech"}), []),
        (frozenset({"/v1/chat/completions"}), ["chat"]),
    ],
)
def test_an_engine_of_ones_own_says_what_it_is_for(
    monkeypatch: pytest.MonkeyPatch, paths: frozenset[str] | None, tasks: list[str]
) -> None:
    own = EngineKinds()
    monkeypatch.setattr(
        own, "_known", MappingProxyType({"own": EngineKind(params=ModelParams, make=_never, paths=paths)})
    )
    monkeypatch.setattr(kinds, "KINDS", own)
    for given in (None, 77):
        entry = ModelEntry(name="m", path=Path("m"), params=ModelParams(model="m", ctx_size=given), engine="own")
        known = describe(entry)
        assert tasks_of(entry, known) == tasks
        assert context_length(entry, known) == given


def _never(*_: object) -> Any:
    raise AssertionError
