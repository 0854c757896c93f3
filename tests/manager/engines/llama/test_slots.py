"""Warm swap over the fake llama-server: what is saved, what is restored, and what must not be."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest

from manager.engines import UpstreamRequest
from manager.engines.llama.engine import LlamaEngine
from manager.engines.llama.slots import SlotStore, forget_others, model_folder
from manager.engines.llama.upstream import UpstreamClient
from manager.entry import ModelEntry
from tests.conftest import MakeSettings
from tests.fakes import write_binary
from tests.manager.bench import make_entry, soon
from tests.manager.conftest import LlamaFakes

MakeEngine = Callable[..., LlamaEngine]


@pytest.fixture
def make_engine(llama: LlamaFakes, make_settings: MakeSettings, tmp_path: Path) -> MakeEngine:
    def make(entry: ModelEntry | None = None, *, storage: dict[str, Any] | None = None, **knobs: Any) -> LlamaEngine:
        binary = write_binary(tmp_path, **knobs)
        os.utime(binary, (0, 0))  # written anew, and yet the same llama.cpp
        settings = make_settings(llama={"binary": binary}, storage=storage or {})
        return LlamaEngine(entry or llama.entry, settings, llama.run_folder)

    return make


def saved_files(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / "data" / "slots").glob("*/*/*"))


async def chat(engine: LlamaEngine, words: str = "one two three") -> None:
    body = orjson.dumps({"messages": [{"role": "user", "content": words}]})
    async with engine.open(UpstreamRequest("POST", "/v1/chat/completions", body)) as answer:
        await answer.read()


async def live(engine: LlamaEngine, *, chats: bool = True) -> None:
    await soon(engine.start())
    if chats:
        await chat(engine)
    await soon(engine.stop())


async def test_slots_are_saved_at_the_stop_and_restored_after_the_next_start(
    make_engine: MakeEngine, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    await live(make_engine())
    (file,) = saved_files(tmp_path)
    assert file.name == "slot-0.bin"
    assert file.stat().st_mode & 0o777 == 0o600
    assert file.parent.stat().st_mode & 0o777 == 0o700
    await live(make_engine(), chats=False)
    assert "slots restored=1 tokens=5" in caplog.text


async def test_empty_slots_leave_no_file(make_engine: MakeEngine, tmp_path: Path) -> None:
    await live(make_engine(), chats=False)
    assert saved_files(tmp_path) == []


@pytest.mark.parametrize("change", [{"ctx_size": 512}, {"cache_type_k": "q8_0"}, {"parallel": 1}])
async def test_another_shape_of_the_model_begins_cold_and_removes_the_old_files(
    make_engine: MakeEngine, llama: LlamaFakes, tmp_path: Path, caplog: pytest.LogCaptureFixture, change: dict[str, Any]
) -> None:
    caplog.set_level("INFO")
    await live(make_engine())
    entry = replace(llama.entry, params=llama.entry.params.model_copy(update=change))
    await live(make_engine(entry), chats=False)
    assert "restored" not in caplog.text
    assert saved_files(tmp_path) == []


async def test_a_changed_model_file_begins_cold(
    make_engine: MakeEngine, llama: LlamaFakes, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    await live(make_engine())
    llama.entry.path.write_bytes(llama.entry.path.read_bytes() + b"\0")
    await live(make_engine(), chats=False)
    assert "restored" not in caplog.text


async def test_a_changed_draft_model_begins_cold(
    make_engine: MakeEngine, llama: LlamaFakes, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    draft = tmp_path / "draft.gguf"
    draft.write_bytes(llama.entry.path.read_bytes())
    entry = replace(llama.entry, params=llama.entry.params.model_copy(update={"draft_model": str(draft)}))
    await live(make_engine(entry))
    await live(make_engine(entry), chats=False)
    assert "slots restored=1" in caplog.text
    caplog.clear()
    draft.write_bytes(draft.read_bytes() + b"\0")
    await live(make_engine(entry), chats=False)
    assert "restored" not in caplog.text


@pytest.mark.parametrize("field", ["temperature", "threads", "seed"])
async def test_what_does_not_shape_the_cache_keeps_it(
    make_engine: MakeEngine, llama: LlamaFakes, caplog: pytest.LogCaptureFixture, field: str
) -> None:
    caplog.set_level("INFO")
    await live(make_engine())
    entry = replace(llama.entry, params=llama.entry.params.model_copy(update={field: 1}))
    await live(make_engine(entry), chats=False)
    assert "slots restored=1" in caplog.text


async def test_a_slot_that_can_not_be_restored_is_removed_and_the_model_starts(
    make_engine: MakeEngine, tmp_path: Path
) -> None:
    await live(make_engine())
    (file,) = saved_files(tmp_path)
    file.write_text("broken")
    engine = make_engine()
    await soon(engine.start())
    assert saved_files(tmp_path) == []
    await soon(engine.stop())


async def test_a_llama_cpp_that_can_not_save_slots_falls_back_cold(make_engine: MakeEngine, tmp_path: Path) -> None:
    await live(make_engine(slots_refused=True))
    assert saved_files(tmp_path) == []


async def test_a_process_that_died_is_not_asked_to_save(make_engine: MakeEngine, tmp_path: Path) -> None:
    engine = make_engine(die_mid_stream=1)
    await soon(engine.start())
    body = orjson.dumps({"messages": [{"role": "user", "content": "a b c"}], "stream": True})
    with pytest.raises(Exception, match="closed"):
        async with engine.open(UpstreamRequest("POST", "/v1/chat/completions", body)) as answer:
            await answer.read()
    await soon(engine.wait_exit())
    await soon(engine.stop())
    assert saved_files(tmp_path) == []


async def test_a_budget_of_nothing_turns_it_off(make_engine: MakeEngine, tmp_path: Path) -> None:
    await live(make_engine(storage={"slots_budget": 0}))
    assert not (tmp_path / "data" / "slots").exists()


async def test_oldest_files_go_first_where_the_budget_is_full(make_engine: MakeEngine, tmp_path: Path) -> None:
    other = make_entry(tmp_path / "tiny.gguf", "other")
    await live(make_engine())
    await live(make_engine(other, storage={"slots_budget": 1}))
    (file,) = saved_files(tmp_path)
    assert file.parent.parent.name.startswith("other-")


@pytest.mark.parametrize("answer", [b"7", b'{"a": 1}', b"[[]]", b'[{"is_processing": false}]', b"nonsense"])
async def test_answers_that_make_no_sense_fail_neither_a_save_nor_a_restore(
    answer: bytes, short_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def reply(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(answer), answer))
        writer.close()

    store = SlotStore(tmp_path, "m", "0" * 32, 1)
    await asyncio.to_thread(store.prepare)
    await asyncio.to_thread((store.folder / "slot-0.bin").touch)
    async with await asyncio.start_unix_server(reply, short_folder / "odd.sock"):
        for work in (store.save, store.restore):
            client = UpstreamClient(str(short_folder / "odd.sock"), "key")
            await soon(work(client))
            client.close()
    assert "slots not saved" in caplog.text
    assert "slots not restored" in caplog.text


def test_files_of_models_that_are_no_more_are_removed_and_nothing_else(tmp_path: Path) -> None:
    for name in ("kept", "gone"):
        SlotStore(tmp_path, name, "0" * 32, 1).prepare()
    strange = tmp_path / "photos-abcdefgh"
    (strange / "holiday").mkdir(parents=True)
    forget_others(tmp_path, ["kept"])
    assert model_folder(tmp_path, "kept").is_dir()
    assert not model_folder(tmp_path, "gone").exists()
    assert (strange / "holiday").is_dir()


@pytest.mark.parametrize("name", ["a/b", "..", "x" * 300, "modèle: 7b"])
def test_a_models_name_can_not_leave_the_folder(tmp_path: Path, name: str) -> None:
    folder = model_folder(tmp_path, name)
    assert folder.parent == tmp_path
    SlotStore(tmp_path, name, "0" * 32, 1).prepare()
    assert folder.is_dir()
