"""Imports never cost a model: not the only copy, not another one's file, and nothing is run that nobody allowed."""

from __future__ import annotations

import asyncio
import errno
import os
import tracemalloc
from pathlib import Path
from typing import Any, Final

import pytest

from manager.downloads import DownloadFailed
from manager.downloads.part import Part
from manager.errors import HerdError
from manager.model_store import BadSource, Pulled, Way, check_deletable, import_file, manifests, resolve
from manager.model_store.copying import copied
from manager.model_store.reading import git_blob
from manager.model_store.removal import Removal
from manager.model_store.suggest import suggested_entry
from manager.settings import Settings
from tests.manager.model_store.conftest import names, write_all

HF: Final = {"config.json": b"{}", "model.safetensors": b"s" * 100}
# git hash-object of 64,000,000 zero bytes
GIT_BLOB: Final = "ac8a519b014c871ae29f4ff30ad81dc1d2269b4b"


@pytest.fixture
def no_links(monkeypatch: pytest.MonkeyPatch) -> None:
    """As between two file systems."""

    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))

    monkeypatch.setattr(os, "link", refuse)


def nobody(count: int) -> None:
    """Who does not ask how far it is."""


@pytest.mark.parametrize("way", ["move", "copy"])
async def test_model_in_a_folder_of_models_that_is_a_link_stays_where_it_is(
    settings: Settings, tmp_path: Path, tiny_bytes: bytes, way: Way
) -> None:
    models, real = settings.storage.models_folder, tmp_path / "real"
    write_all(real, {"a/m.gguf": tiny_bytes, **{f"hf/{name}": data for name, data in HF.items()}})
    models.parent.mkdir(parents=True, exist_ok=True)
    models.symlink_to(real)
    for path, model in ((real / "a/m.gguf", models / "a/m.gguf"), (real / "hf", models / "hf")):
        pulled = await import_file(path, settings, way=way)
        assert (pulled.plan.model, pulled.came) == (model, 0)
    assert names(real) == ["a/m.gguf", "hf/config.json", "hf/model.safetensors"]
    assert len(await asyncio.to_thread(manifests, models)) == 2


async def test_folder_to_which_its_place_is_a_link_is_not_emptied(
    settings: Settings, models: Path, tmp_path: Path
) -> None:
    folder = write_all(tmp_path / "tiny", HF)
    (models / "tiny").symlink_to(folder)
    assert (await import_file(folder, settings, way="move")).came == 0
    assert names(folder) == sorted(HF)


@pytest.mark.parametrize("way", ["copy", "link", "symlink", "move"])
async def test_file_that_is_being_fetched_is_not_imported_over(
    settings: Settings, models: Path, tmp_path: Path, tiny_bytes: bytes, way: Way
) -> None:
    path = write_all(tmp_path / "in", {"m.gguf": tiny_bytes}) / "m.gguf"
    part = Part(models / "m.gguf")
    await asyncio.to_thread(part.open)
    await asyncio.to_thread(part.append, b"what came")
    with pytest.raises(DownloadFailed, match="already"):
        await import_file(path, settings, way=way)
    await asyncio.to_thread(part.append, b", and more")
    await asyncio.to_thread(part.close)
    assert (names(models), path.read_bytes()) == (["m.gguf.part"], tiny_bytes)
    await import_file(path, settings, way=way)
    assert (models / "m.gguf").read_bytes() == tiny_bytes
    assert part.path.read_bytes() == b"what came, and more"


@pytest.mark.usefixtures("no_links")
async def test_of_two_imports_of_one_name_at_once_one_is_refused_and_keeps_its_file(
    settings: Settings, models: Path, tmp_path: Path, tiny_bytes: bytes
) -> None:
    paths = [write_all(tmp_path / name, {"m.gguf": tiny_bytes + name.encode()}) / "m.gguf" for name in ("a", "b")]
    content = {path: path.read_bytes() for path in paths}
    results = await asyncio.gather(*(import_file(path, settings, way="move") for path in paths), return_exceptions=True)
    (moved,) = [path for path, result in zip(paths, results, strict=True) if isinstance(result, Pulled)]
    (kept,) = set(paths) - {moved}
    assert (models / "m.gguf").read_bytes() == content[moved]
    assert (kept.read_bytes(), moved.exists()) == (content[kept], False)
    (manifest,) = await asyncio.to_thread(manifests, models)
    assert manifest.source == str(moved)
    assert names(models) == ["m.gguf"]


def test_file_that_comes_during_a_copy_is_not_replaced(tmp_path: Path) -> None:
    real, target = tmp_path / "real.gguf", tmp_path / "m.gguf"
    real.write_bytes(b"mine")

    def come(count: int) -> None:
        target.write_bytes(b"another")

    with pytest.raises(FileExistsError):
        copied(real, target, come)
    assert target.read_bytes() == b"another"
    assert names(tmp_path) == ["m.gguf", "real.gguf"]


@pytest.mark.usefixtures("no_links")
def test_copy_without_hard_links_does_not_replace_either(tmp_path: Path) -> None:
    real, target = tmp_path / "real.gguf", tmp_path / "m.gguf"
    real.write_bytes(b"mine")

    def come(count: int) -> None:
        target.write_bytes(b"another")

    with pytest.raises(FileExistsError):
        copied(real, target, come)
    target.unlink()
    copied(real, target, nobody)
    assert target.read_bytes() == b"mine"


def test_what_a_killed_copy_left_goes_with_the_next_one(tmp_path: Path) -> None:
    write_all(tmp_path, {"real.gguf": b"mine", ".m.gguf.0123abcd.new": b"left", ".m.gguf.metadata": b"another's"})
    copied(tmp_path / "real.gguf", tmp_path / "m.gguf", nobody)
    assert names(tmp_path) == [".m.gguf.metadata", "m.gguf", "real.gguf"]


async def test_file_that_comes_during_a_move_is_not_replaced(
    settings: Settings, models: Path, tmp_path: Path, tiny_bytes: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_all(tmp_path / "in", {"m.gguf": tiny_bytes}) / "m.gguf"
    link = os.link

    def late(source: Path, target: Path) -> None:
        target.write_bytes(b"another")
        link(source, target)

    monkeypatch.setattr(os, "link", late)
    with pytest.raises(BadSource, match="is there already and is another file"):
        await import_file(path, settings, way="move")
    assert (path.read_bytes(), (models / "m.gguf").read_bytes()) == (tiny_bytes, b"another")


@pytest.mark.parametrize(
    ("model", "others", "projector", "taken"),
    [
        ("llama3-8b-Q4_K_M", ["Qwen2-VL-Q4_K_M"], "mmproj-Qwen2-VL-f16", False),
        ("Qwen2-VL-Q4_K_M", ["llama3-8b-Q4_K_M"], "mmproj-Qwen2-VL-f16", True),
        ("llama3-8b-instruct", ["Qwen2-VL"], "mmproj-gemma-8b-instruct", False),
        ("Qwen2-VL-2b-Q8_0", ["Qwen2-VL-7b-Q8_0"], "mmproj-Qwen2-VL-7b", False),
        ("Qwen2-VL-Q8_0", ["Qwen2-VL-Q4_K_M"], "mmproj-F16", True),
        ("Qwen2-VL-Q8_0", ["llama3-8b-Q4_K_M"], "mmproj-F16", False),
        ("Qwen2-VL-Q8_0", [], "mmproj-F16", True),
    ],
)
async def test_projector_of_another_model_stays_with_it(
    settings: Settings, models: Path, tmp_path: Path, tiny_bytes: bytes, model: str, others: list[str],
    projector: str, taken: bool,
) -> None:  # fmt: skip
    folder = write_all(tmp_path / "in", {f"{name}.gguf": tiny_bytes for name in (model, projector, *others)})
    pulled = await import_file(folder / f"{model}.gguf", settings, way="move")
    assert pulled.plan.mmproj == (models / f"{projector}.gguf" if taken else None)
    assert (folder / f"{projector}.gguf").exists() is not taken


async def test_pickled_weights_are_refused_unless_they_are_allowed(
    settings: Settings, models: Path, tmp_path: Path
) -> None:
    folder = write_all(tmp_path / "tiny", {"config.json": b"{}", "pytorch_model.bin": b"pickled"})
    with pytest.raises(BadSource, match="--allow-pickle"):
        await import_file(folder, settings)
    with pytest.raises(BadSource, match="--allow-pickle"):
        await resolve(str(folder), settings)
    assert names(models) == []
    plan = await resolve(str(folder), settings, allow_pickle=True)
    pulled = await import_file(folder, settings, allow_pickle=True)
    assert pulled.plan == plan
    assert (await asyncio.to_thread(suggested_entry, plan))[1]["params"] == {"model": "tiny", "allowPickle": True}


@pytest.mark.parametrize("allowed", [False, True])
async def test_code_in_a_folder_is_run_only_where_that_is_said(
    settings: Settings, models: Path, tmp_path: Path, allowed: bool
) -> None:
    folder = write_all(tmp_path / "tiny", {**HF, "modeling_tiny.py": b"print()"})
    pulled = await import_file(folder, settings, trust_remote_code=allowed)
    assert names(models) == ["tiny/config.json", "tiny/model.safetensors", "tiny/modeling_tiny.py"]
    _, entry = await asyncio.to_thread(suggested_entry, pulled.plan)
    assert entry["params"] == {"model": "tiny", **({"trustRemoteCode": True} if allowed else {})}


async def test_comma_in_a_file_name_is_none_in_the_entry_s(
    settings: Settings, models: Path, tmp_path: Path, tiny_bytes: bytes
) -> None:
    path = write_all(tmp_path / "in", {"a,b.gguf": tiny_bytes}) / "a,b.gguf"
    pulled = await import_file(path, settings)
    assert (pulled.plan.name, names(models)) == ("a_b", ["a,b.gguf"])


def test_folder_that_can_not_be_written_to_is_told_before_anything_goes(
    models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_all(models, {"m.gguf": b"model"}) / "m.gguf"
    found = Removal((path,), (), 5, (), (models,))
    check_deletable(found)
    monkeypatch.setattr(os, "access", lambda folder, _: folder != models)  # root may write everywhere
    with pytest.raises(HerdError, match="nothing was removed"):
        check_deletable(found)


def test_git_s_name_of_a_large_file_takes_no_memory(tmp_path: Path) -> None:
    path = tmp_path / "large"
    with path.open("wb") as file:
        file.truncate(64_000_000)
    tracemalloc.start()
    try:
        assert git_blob(path) == GIT_BLOB
        assert tracemalloc.get_traced_memory()[1] < 32_000_000
    finally:
        tracemalloc.stop()
