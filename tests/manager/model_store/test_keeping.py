"""Models that are there: taken in, looked over, given away. Nothing of others is touched, and nothing half done."""

from __future__ import annotations

import asyncio
import hashlib
import threading
from collections.abc import Callable
from pathlib import Path

import gguf
import pytest

from manager.entry import ModelEntry
from manager.errors import HerdError
from manager.model_store import (
    BadSource,
    Removal,
    Way,
    import_file,
    manifests,
    plan_removal,
    pull,
    remove,
    resolve,
    suggested_entry,
    verify,
)
from manager.model_store.reading import Tell, in_thread
from manager.settings import Settings
from tests.gguf_files import write_header_only, write_tiny_gguf
from tests.manager.model_store.conftest import gguf_entry, hf_entry, names, write_all

HF = {"config.json": b"{}", "model.safetensors": b"s" * 100, "tokenizer.json": b"{}", "README.md": b"read me"}


@pytest.fixture
def mine(tmp_path: Path, tiny_bytes: bytes) -> Path:
    """A split model with its projector, somewhere else."""
    names = ["m-00001-of-00002.gguf", "m-00002-of-00002.gguf", "mmproj-m-f16.gguf"]
    return write_all(tmp_path / "mine", {name: tiny_bytes + bytes([number]) for number, name in enumerate(names)})


async def removal(settings: Settings, entry: ModelEntry, *others: ModelEntry) -> Removal:
    return await asyncio.to_thread(plan_removal, entry, settings, others)


@pytest.mark.parametrize("way", ["copy", "link", "symlink", "move"])
async def test_all_parts_and_the_projector_come_along(settings: Settings, models: Path, mine: Path, way: Way) -> None:
    before = {name: (mine / name).read_bytes() for name in names(mine)}
    told: list[tuple[int, int | None]] = []
    path = mine / "m-00002-of-00002.gguf"
    pulled = await import_file(path, settings, way=way, progress=lambda *numbers: told.append(numbers))
    assert {name: (models / name).read_bytes() for name in names(models)} == before
    assert names(mine) == ([] if way == "move" else sorted(before))
    assert (models / path.name).is_symlink() == (way == "symlink")
    if way == "link":
        assert (models / path.name).samefile(path)
    assert pulled.plan.model.name == "m-00001-of-00002.gguf"
    assert pulled.plan.mmproj == models / "mmproj-m-f16.gguf"
    assert pulled.came == sum(map(len, before.values()))
    assert told[-1] == (pulled.came, pulled.came)
    entry = gguf_entry(pulled.plan.model, mmproj=pulled.plan.mmproj)
    assert {check.state for check in await verify(entry, settings)} == {"ok"}


async def test_a_pull_of_a_path_is_an_import(settings: Settings, models: Path, mine: Path) -> None:
    plan = await resolve(str(mine / "m-00001-of-00002.gguf"), settings, mmproj=False, name="mine")
    assert (await pull(plan, settings)).plan.name == "mine"
    assert names(models) == ["m-00001-of-00002.gguf", "m-00002-of-00002.gguf"]


async def test_a_folder_is_imported_as_one(settings: Settings, models: Path, tmp_path: Path) -> None:
    folder = write_all(tmp_path / "tiny", {**HF, "pytorch_model.bin": b"pickled"})
    pulled = await import_file(folder, settings, way="move")
    assert names(models) == ["tiny/config.json", "tiny/model.safetensors", "tiny/tokenizer.json"]
    assert names(folder) == ["README.md", "pytorch_model.bin"]
    entry = await asyncio.to_thread(suggested_entry, pulled.plan)
    assert entry == ("tiny", {"engine": "hf", "params": {"model": "tiny"}})


async def test_what_lies_in_the_folder_of_models_gets_a_manifest_where_it_is(
    settings: Settings, models: Path, tiny_bytes: bytes
) -> None:
    path = write_all(models, {"a/m.gguf": tiny_bytes}) / "a/m.gguf"
    for way in ("move", "copy"):
        assert (await import_file(path, settings, way=way)).came == 0
    assert names(models) == ["a/m.gguf"]
    (manifest,) = await asyncio.to_thread(manifests, models)
    assert manifest.files[0].sha256 == hashlib.sha256(tiny_bytes).hexdigest()


async def test_another_file_keeps_its_place_and_nothing_is_left_of_the_import(
    settings: Settings, models: Path, mine: Path
) -> None:
    write_all(models, {"mmproj-m-f16.gguf": b"another"})
    for way in ("copy", "move", "link"):
        with pytest.raises(BadSource, match="is there already and is another file"):
            await import_file(mine / "m-00001-of-00002.gguf", settings, way=way)
        assert names(models) == ["mmproj-m-f16.gguf"]
        assert len(names(mine)) == 3
    assert (models / "mmproj-m-f16.gguf").read_bytes() == b"another"


@pytest.mark.parametrize(
    ("name", "says"), [("none.gguf", "does not exist"), ("notes.txt", "neither a .gguf"), ("bad.gguf", "not a GGUF")]
)
async def test_what_is_no_model_is_not_imported(
    settings: Settings, models: Path, tmp_path: Path, name: str, says: str
) -> None:
    write_all(tmp_path, {"notes.txt": b"text", "bad.gguf": b"no model"})
    with pytest.raises(BadSource, match=says):
        await import_file(tmp_path / name, settings)
    assert names(models) == []


async def test_cancelling_ends_the_thread_that_reads() -> None:
    begun, ended = threading.Event(), threading.Event()

    def read(tell: Tell) -> None:
        begun.set()
        try:
            while True:
                tell(1)
        finally:
            ended.set()

    task = asyncio.create_task(in_thread(read))
    await asyncio.get_running_loop().run_in_executor(None, begun.wait)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ended.is_set()


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-9] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("harm", "state"),
    [
        (flip, "changed"),
        (lambda path: path.write_bytes(path.read_bytes()[:-1]), "changed"),
        (Path.unlink, "missing"),
    ],
)
async def test_what_happened_to_a_file_is_found(
    settings: Settings, models: Path, mine: Path, harm: Callable[[Path], object], state: str
) -> None:
    pulled = await import_file(mine / "m-00001-of-00002.gguf", settings)
    harm(models / "m-00002-of-00002.gguf")
    checks = {check.path.name: check for check in await verify(pulled.plan.model, settings)}
    assert checks["m-00002-of-00002.gguf"].state == state
    assert checks["m-00002-of-00002.gguf"].bad
    assert checks["m-00001-of-00002.gguf"].state == "ok"


async def test_a_file_that_is_gone_from_a_folder_is_missed(settings: Settings, models: Path, tmp_path: Path) -> None:
    await import_file(write_all(tmp_path / "tiny", HF), settings)
    (models / "tiny" / "tokenizer.json").unlink()
    write_all(models, {"tiny/added.json": b"{}"})
    states = {check.path.name: check.state for check in await verify(hf_entry(models / "tiny"), settings)}
    assert states == {
        "config.json": "ok",
        "model.safetensors": "ok",
        "tokenizer.json": "missing",
        "added.json": "unknown",
    }


async def test_without_a_manifest_only_the_form_is_judged(settings: Settings, models: Path, tiny_bytes: bytes) -> None:
    write_all(models, {"whole.gguf": tiny_bytes, "cut.gguf": tiny_bytes[:-2000]})
    (whole,) = await verify(models / "whole.gguf", settings)
    assert (whole.state, whole.says) == ("unknown", "looks whole, but no checksum of it is known")
    (cut,) = await verify(models / "cut.gguf", settings)
    assert cut.state == "broken"
    assert "cut off" in cut.says
    with pytest.raises(BadSource):
        await verify(models / "whole.txt", settings)


async def test_a_broken_manifest_is_as_none(settings: Settings, models: Path, tiny_bytes: bytes) -> None:
    pulled = await import_file(write_all(models, {"m.gguf": tiny_bytes}) / "m.gguf", settings)
    pulled.manifest.write_text('{"source": 1}')
    (check,) = await verify(pulled.plan.model, settings)
    assert check.state == "unknown"


async def test_a_model_goes_with_its_files_manifest_and_empty_folders(
    settings: Settings, models: Path, tiny_bytes: bytes
) -> None:
    files = {"org/repo/m.gguf": tiny_bytes, "org/repo/mmproj-m.gguf": tiny_bytes, "org/repo/m.gguf.part": b"left"}
    write_all(models, {**files, "other.gguf": b"other"})
    pulled = await import_file(models / "org/repo/m.gguf", settings)
    found = await removal(settings, gguf_entry(pulled.plan.model, mmproj=pulled.plan.mmproj))
    assert found.kept == ()
    assert found.size == 2 * len(tiny_bytes) + 4
    assert await asyncio.to_thread(remove, found) == found.size
    assert names(models) == ["other.gguf"]
    assert not (models / "org").exists()
    assert await asyncio.to_thread(manifests, models) == []
    assert await asyncio.to_thread(remove, found) == 0  # once more does no harm


async def test_what_others_use_stays(settings: Settings, models: Path, tiny_bytes: bytes) -> None:
    write_all(models, {"a.gguf": tiny_bytes, "b.gguf": tiny_bytes, "mmproj-F16.gguf": tiny_bytes})
    projector = models / "mmproj-F16.gguf"
    first = gguf_entry(models / "a.gguf", "a", projector)
    found = await removal(settings, first, first, gguf_entry(models / "b.gguf", "b", projector))
    assert found.files == (models / "a.gguf",)
    assert found.kept == ((projector, "the model b uses it, too"),)
    alias = await removal(settings, first, gguf_entry(models / "a.gguf", "again"))
    assert models / "a.gguf" not in alias.files


async def test_what_another_manifest_names_stays(settings: Settings, models: Path, tiny_bytes: bytes) -> None:
    write_all(models, {"a-Q4_0.gguf": tiny_bytes, "a-Q8_0.gguf": tiny_bytes, "mmproj-F16.gguf": tiny_bytes})
    for name in ("a-Q4_0.gguf", "a-Q8_0.gguf"):
        await import_file(models / name, settings)
    found = await removal(settings, gguf_entry(models / "a-Q4_0.gguf"))
    assert found.files == (models / "a-Q4_0.gguf",)
    ((path, reason),) = found.kept
    assert path.name == "mmproj-F16.gguf"
    assert "belongs to another model" in reason
    assert len(found.manifests) == 1


async def test_what_lies_outside_is_only_left_alone(settings: Settings, models: Path, mine: Path) -> None:
    path = mine / "m-00001-of-00002.gguf"
    found = await removal(settings, gguf_entry(path))
    assert found.files == ()
    assert {reason for _, reason in found.kept} == {"it lies outside of the folders of models"}
    (models / "elsewhere").symlink_to(mine)  # nor does a link make it ours
    assert (await removal(settings, gguf_entry(models / "elsewhere" / path.name))).files == ()


async def test_of_a_link_the_link_goes_and_what_it_leads_to_stays(settings: Settings, models: Path, mine: Path) -> None:
    pulled = await import_file(mine / "m-00001-of-00002.gguf", settings, way="symlink")
    found = await removal(settings, gguf_entry(pulled.plan.model))
    assert found.size == 0
    await asyncio.to_thread(remove, found)
    assert names(models) == []
    assert len(names(mine)) == 3


async def test_a_folder_goes_as_a_whole_but_never_a_folder_of_models(
    settings: Settings, models: Path, tmp_path: Path
) -> None:
    folder = write_all(models / "org/tiny", HF)
    precious = write_all(tmp_path / "precious", {"file": b"precious"})
    (folder / "link").symlink_to(precious)
    assert (await removal(settings, hf_entry(models))).files == ()
    await asyncio.to_thread(remove, await removal(settings, hf_entry(folder)))
    assert not (models / "org").exists()
    assert names(precious) == ["file"]


async def test_what_can_not_be_deleted_is_named_and_the_rest_goes(models: Path) -> None:
    write_all(models, {"folder.gguf/file": b"", "m.gguf": b"model"})
    found = Removal((models / "folder.gguf", models / "m.gguf"), (), 5, (), (models,))
    with pytest.raises(HerdError, match=r"folder\.gguf can't be deleted"):
        await asyncio.to_thread(remove, found)
    assert names(models) == ["folder.gguf/file"]


@pytest.mark.parametrize(
    ("pooling", "params"), [(None, {}), (0, {}), (1, {"embedding": True}), (4, {"reranking": True})]
)
async def test_an_encoder_is_suggested_as_one(
    settings: Settings, models: Path, pooling: int | None, params: dict[str, bool]
) -> None:
    path = models / "m.gguf"
    writer = gguf.GGUFWriter(path, "qwen3")
    if pooling is not None:
        writer.add_uint32("qwen3.pooling_type", pooling)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    pulled = await import_file(path, settings)
    name, entry = await asyncio.to_thread(suggested_entry, pulled.plan)
    assert (name, entry) == ("m", {"params": {"model": "m.gguf", **params}})


async def test_bert_needs_no_word_about_pooling(settings: Settings, models: Path) -> None:
    path = write_tiny_gguf(models / "m.gguf", architecture="nomic-bert")
    pulled = await import_file(path, settings)
    assert (await asyncio.to_thread(suggested_entry, pulled.plan))[1]["params"]["embedding"] is True
    write_header_only(path)
    assert (await asyncio.to_thread(suggested_entry, pulled.plan))[1] == {"params": {"model": "m.gguf"}}
