from __future__ import annotations

import asyncio
import os
import shutil
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from watchfiles.main import FileChange

from manager.settings_sections import StorageSettings
from manager.watch import Watcher
from tests.conftest import MakeSettings

# For what comes about by itself on a machine that is busy with other things.
PATIENCE = 15.0


class Reader:
    """Is called after changes; remembers what models.json held then. `hold` keeps a call from ending."""

    def __init__(self, file: Path) -> None:
        self.texts: list[str] = []
        self.may_end = asyncio.Event()
        self.may_end.set()
        self.running = self.most_at_once = 0
        self._file = file
        self._called = asyncio.Condition()

    @property
    def calls(self) -> int:
        return len(self.texts)

    async def changed(self) -> None:
        self.running += 1
        self.most_at_once = max(self.most_at_once, self.running)
        self.texts.append(await asyncio.to_thread(lambda: self._file.read_text() if self._file.exists() else ""))
        async with self._called:
            self._called.notify_all()
        await self.may_end.wait()
        self.running -= 1

    async def until(self, condition: Callable[[], object]) -> None:
        """Wait for a call after which that is true."""
        async with asyncio.timeout(PATIENCE), self._called:
            await self._called.wait_for(condition)

    async def next(self) -> None:
        calls = self.calls
        await self.until(lambda: self.calls > calls)


@pytest.fixture
def storage(make_settings: MakeSettings, tmp_path: Path) -> StorageSettings:
    for folder in ("data", "gguf", "hf"):
        tmp_path.joinpath(folder).mkdir()
    folders = {"gguf_models_dir": tmp_path / "gguf", "hf_models_dir": tmp_path / "hf"}
    return make_settings(storage={**folders, "models_folder": tmp_path / "mounted" / "models"}).storage


@pytest.fixture
def gguf(storage: StorageSettings) -> Path:
    assert storage.gguf_models_dir is not None
    return storage.gguf_models_dir


@asynccontextmanager
async def watching(storage: StorageSettings, settle: float = 0.1, settle_models: float = 0.1) -> AsyncIterator[Reader]:
    """A watcher that listens and has made its first call; it must end at once with the context."""
    reader = Reader(storage.models_file)
    task = asyncio.create_task(
        Watcher(storage, reader.changed, settle=settle, settle_models=settle_models).run(), name="watcher"
    )
    try:
        await reader.until(lambda: reader.calls)
        yield reader
    finally:
        began = time.monotonic()
        task.cancel()
        await asyncio.wait({task})
        assert task.cancelled()
        assert time.monotonic() - began < 0.9  # it gives up on its thread after a second
        assert "watch" not in [thread.name for thread in threading.enumerate()]


async def test_the_first_call_is_for_what_changed_before_it_listens(storage: StorageSettings) -> None:
    async with watching(storage) as reader:
        assert reader.texts == [""]


async def test_a_models_file_that_did_not_exist_is_seen(storage: StorageSettings) -> None:
    async with watching(storage) as reader:
        storage.models_file.write_text("new")
        await reader.next()
        assert reader.texts[-1] == "new"


async def test_a_models_file_in_a_folder_that_did_not_exist_is_seen(storage: StorageSettings) -> None:
    storage.data_folder.rmdir()
    async with watching(storage) as reader:
        storage.data_folder.mkdir()
        storage.models_file.write_text("new")
        await reader.until(lambda: reader.texts[-1] == "new")


async def test_a_models_file_that_goes_is_seen(storage: StorageSettings) -> None:
    storage.models_file.write_text("old")
    async with watching(storage) as reader:
        assert reader.texts == ["old"]
        storage.models_file.unlink()
        await reader.until(lambda: reader.texts[-1] == "")


async def test_an_editor_that_renames_over_the_file_is_seen_each_time(storage: StorageSettings) -> None:
    async with watching(storage) as reader:
        for text in ("one", "two", "six"):
            fresh = storage.data_folder / ".models.json.swp"
            fresh.write_text(text)
            fresh.replace(storage.models_file)
            await reader.until(lambda text=text: reader.texts[-1] == text)  # type: ignore[misc]


async def test_the_file_behind_a_link_is_seen(storage: StorageSettings, tmp_path: Path) -> None:
    real = tmp_path / "elsewhere.json"
    real.write_text("one")
    storage.models_file.symlink_to(real)
    async with watching(storage) as reader:
        real.write_text("two more")
        await reader.until(lambda: reader.texts[-1] == "two more")


async def test_two_hundred_rapid_edits_are_a_few_calls_and_the_last_state_wins(storage: StorageSettings) -> None:
    async with watching(storage, settle=0.5) as reader:
        for number in range(200):
            storage.models_file.write_text(f"edit {number}")
            await asyncio.sleep(0.001)
        await reader.until(lambda: reader.texts[-1] == "edit 199")
        storage.models_file.write_text("end")
        await reader.until(lambda: reader.texts[-1] == "end")
        # By the first, by listening, by the edits, by the end; the edits may look like two where the disk is slow.
        assert reader.calls <= 4
        assert reader.most_at_once == 1


async def test_edits_during_a_call_lead_to_exactly_one_more(storage: StorageSettings, gguf: Path) -> None:
    async with watching(storage) as reader:
        reader.may_end.clear()
        storage.models_file.write_text("one")
        await reader.next()
        before = reader.calls
        for number in range(20):
            storage.models_file.write_text(f"edit {number}")
            gguf.joinpath(f"{number}.gguf").write_text("x")
            await asyncio.sleep(0.01)
        # Time for a watcher that does not wait for the end of a call to make another.
        await asyncio.sleep(0.6)
        assert reader.calls == before
        reader.may_end.set()
        await reader.until(lambda: reader.texts[-1] == "edit 19")
        await asyncio.sleep(0.6)
        assert reader.calls == before + 1
        assert reader.most_at_once == 1


async def test_a_file_that_is_being_copied_in_is_left_alone_until_it_is_whole(
    storage: StorageSettings, gguf: Path
) -> None:
    model = gguf / "big.gguf"
    async with watching(storage, settle_models=1.0) as reader:
        before = reader.calls
        with model.open("wb") as file:
            for _ in range(60):
                file.write(b"x" * 4096)
                file.flush()
                await asyncio.sleep(0.03)
            assert reader.calls == before
        await reader.next()
        assert reader.calls == before + 1


async def test_an_edit_counts_while_a_model_is_being_copied_in(storage: StorageSettings, gguf: Path) -> None:
    async with watching(storage, settle_models=60.0) as reader:
        gguf.joinpath("big.gguf").write_bytes(b"x")
        storage.models_file.write_text("edit")
        await reader.until(lambda: reader.texts[-1] == "edit")


def make(folder: Path) -> None:
    folder.mkdir(parents=True)


@pytest.mark.parametrize("folder", ["templates_folder", "models_folder", "gguf_models_dir", "hf_models_dir"])
async def test_each_folder_is_watched_to_its_bottom_also_when_it_comes_later(
    storage: StorageSettings, folder: str
) -> None:
    root: Path = getattr(storage, folder)
    async with watching(storage) as reader:
        if folder in ("templates_folder", "models_folder"):  # the fixture has made the others
            make(root)
            await reader.next()
        deep = root / "a" / "b"
        make(deep)
        await reader.next()
        deep.joinpath("m.gguf").write_text("x")
        await reader.next()
        deep.joinpath("m.gguf").unlink()
        await reader.next()
        shutil.rmtree(root / "a")
        await reader.next()


async def test_a_folder_that_vanishes_and_comes_back_is_watched_again(
    storage: StorageSettings, gguf: Path, tmp_path: Path
) -> None:
    async with watching(storage) as reader:
        for _ in range(2):
            shutil.rmtree(gguf)
            await reader.next()
            make(gguf)
            await reader.next()
        shutil.move(gguf, tmp_path / "aside")
        await reader.next()
        shutil.move(tmp_path / "aside", gguf)
        await reader.next()
        gguf.joinpath("config.json").write_text("{}")
        await reader.next()


async def test_a_folder_that_is_replaced_at_once_is_watched(
    storage: StorageSettings, gguf: Path, tmp_path: Path
) -> None:
    async with watching(storage) as reader:
        shutil.move(gguf, tmp_path / "aside")
        make(gguf)
        await reader.next()
        await settled(reader)
        gguf.joinpath("config.json").write_text("{}")
        await reader.next()


async def test_a_folder_that_is_linked_in_is_watched(storage: StorageSettings, gguf: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    async with watching(storage) as reader:
        gguf.joinpath("link").symlink_to(elsewhere)
        await reader.next()
        await settled(reader)
        elsewhere.joinpath("m.gguf").write_text("x")
        await reader.next()


async def settled(reader: Reader) -> None:
    """Until nothing has been called for a while."""
    calls = -1
    while calls != reader.calls:
        calls = reader.calls
        await asyncio.sleep(0.7)


async def test_thousands_of_files_are_a_few_calls_and_do_not_hold_the_loop(
    storage: StorageSettings, gguf: Path
) -> None:

    def unpack() -> None:
        for number in range(3000):
            folder = gguf / f"d{number % 50}"
            folder.mkdir(exist_ok=True)
            folder.joinpath(f"{number}.gguf").write_bytes(b"x")

    longest = 0.0
    async with watching(storage, settle=0.5, settle_models=1.0) as reader:
        before = reader.calls
        unpacking = asyncio.create_task(asyncio.to_thread(unpack))
        while not unpacking.done() or reader.calls == before:
            began = time.monotonic()
            await asyncio.sleep(0.005)
            longest = max(longest, time.monotonic() - began)
        await unpacking
        await settled(reader)
        assert reader.calls - before <= 10
    assert longest < 1.0


async def test_folders_that_can_not_be_watched_are_said_once_and_the_file_is_still_seen(
    storage: StorageSettings, caplog: pytest.LogCaptureFixture
) -> None:
    class Deaf(Watcher):
        """As where the system has no watches left."""

        def _listen(self, folders: list[Path]) -> Iterator[set[FileChange]]:
            raise OSError(28, "OS file watch limit reached.")

    reader = Reader(storage.models_file)
    task = asyncio.create_task(Deaf(storage, reader.changed, settle=0.1).run())
    try:
        await reader.until(lambda: reader.calls)
        storage.models_file.write_text("edit")
        await reader.until(lambda: reader.texts[-1] == "edit")
    finally:
        task.cancel()
        await asyncio.wait({task})
    (said,) = [record.message for record in caplog.records if record.name == "manager.watch"]
    assert "watch limit reached" in said


@pytest.mark.parametrize(
    ("path", "counts"),
    [
        ("m.gguf", True),
        ("", True),
        ("a/b/config.json", True),
        (".cache/m.gguf", False),
        ("a/.hidden", False),
        ("m.gguf.part", False),
        ("m.gguf.incomplete", False),
        ("m.gguf.tmp", False),
        ("m.gguf.download", False),
        ("partial/m.gguf", True),
    ],
)
def test_what_is_hidden_or_not_whole_does_not_count(
    storage: StorageSettings, gguf: Path, path: str, counts: bool
) -> None:
    watcher = Watcher(storage, Reader(storage.models_file).changed)
    assert watcher._counts(os.fspath(gguf / path)) is counts


def test_own_files_do_not_count_where_the_data_folder_is_a_model_folder(make_settings: MakeSettings) -> None:
    data = Path("data").absolute()
    storage = make_settings(storage={"gguf_models_dir": data, "run_folder": data / "run"}).storage
    watcher = Watcher(storage, Reader(storage.models_file).changed)
    for own in ("run/a.sock", "slots/m-01234567/0.bin", "keys.json", "keys.json.lock", ".keys.json-x", "memory.json"):
        assert not watcher._counts(f"{data}/{own}")
    assert watcher._counts(f"{data}/slots2/m.gguf")


def test_a_hidden_folder_may_be_a_model_folder(make_settings: MakeSettings, tmp_path: Path) -> None:
    root = tmp_path / ".cache" / "hub"
    watcher = Watcher(make_settings(storage={"hf_models_dir": root}).storage, Reader(root).changed)
    assert watcher._counts(f"{root}/m/config.json")
