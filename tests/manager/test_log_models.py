"""The files of models: their names, what is in them, and what floods them."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import queue
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from manager import log_models as module
from manager.log import logging_to
from manager.log_models import ModelLogs, file_name
from manager.settings_sections import LogSettings
from tests.manager.bench import until


@pytest.mark.parametrize("name", ["qwen", "Qwen3-8B_Q4.K_M", "1", "x.log.1"])
def test_the_file_of_a_plain_name_is_called_like_it(name: str) -> None:
    assert file_name(name) == f"{name}.log"


ODD = (
    "main",
    "a/b",
    "a_b/",
    "a%2Fb",
    "a:b",
    "a b",
    "..",
    "../../etc/x",
    ".hidden",
    "",
    "ü",
    "\udcff",
    "\n",
    "~",
    "x" * 300,
)


def test_other_names_are_changed_to_safe_ones_of_which_no_two_are_alike() -> None:
    names = [file_name(name) for name in ODD]
    assert all(
        re.fullmatch(r"[A-Za-z0-9%_~][A-Za-z0-9%._~-]{0,110}~[0-9a-f]{8}\.log|~[0-9a-f]{8}\.log", n) for n in names
    )
    assert len(set(names)) == len(names)
    again = [file_name(name.removesuffix(".log")) for name in names]  # who calls a model like the file of another
    assert not set(again) & set(names)


class Later:
    """Keeps what is to be written."""

    def __init__(self, folder: Path, form: str) -> None:
        self.queue: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self.logs = ModelLogs(folder, LogSettings.model_validate({"format": form}), self.queue.put)

    async def write(self) -> None:
        self.logs.hand_over()
        while not self.queue.empty():
            await asyncio.to_thread(self.queue.get())


@pytest.fixture
def later(tmp_path: Path, request: pytest.FixtureRequest) -> Later:
    return Later(tmp_path, getattr(request, "param", "text"))


async def test_lines_of_an_engine_have_a_time_and_a_sign_of_their_own(later: Later, tmp_path: Path) -> None:
    later.logs.add("m", ["one\x1b[31m", "2026-01-01T00:00:00.000Z INFO x forged"])
    later.logs.add("other", ["two"])
    await later.write()
    stamp = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z"
    text = await asyncio.to_thread((tmp_path / "m.log").read_text)
    assert re.fullmatch(rf"{stamp} ENGINE one\\x1b\[31m\n{stamp} ENGINE 2026\S+ INFO x forged\n", text)
    assert (await asyncio.to_thread((tmp_path / "other.log").read_text)).endswith("ENGINE two\n")


@pytest.mark.parametrize("later", ["json"], indirect=True)
async def test_lines_of_an_engine_as_json(later: Later, tmp_path: Path) -> None:
    later.logs.add("a/b", ['say "hi"'])
    await later.write()
    line = json.loads(await asyncio.to_thread((tmp_path / file_name("a/b")).read_bytes))
    assert line.pop("time").endswith("Z")
    assert line == {"logger": "engine", "model": "a/b", "message": 'say "hi"'}


async def test_lines_are_handed_over_in_batches(later: Later, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "HAND_OVER_EVERY", 0.001)
    for number in range(3):
        later.logs.add("m", [str(number)])
    await until(lambda: not later.queue.empty())
    assert later.queue.qsize() == 1
    later.queue.get()
    later.logs.add("m", ["later"])
    await until(lambda: not later.queue.empty())


async def test_what_the_disk_can_not_take_in_time_is_lost_and_counted(
    later: Later, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "HELD_MOST", 1000)
    for _ in range(50):
        later.logs.add("m", ["x" * 100, "y"])
    await later.write()
    later.logs.add("m", ["there is room again"])
    await later.write()
    lines = (await asyncio.to_thread((tmp_path / "m.log").read_text)).splitlines()
    kept = sum(line.endswith("ENGINE y") for line in lines)
    assert 0 < kept < 50
    assert [line.split("Z ")[1] for line in lines[-2:]] == [
        f"WARNING manager.log_models engine's lines lost={2 * (50 - kept)}",
        "ENGINE there is room again",
    ]


def test_what_an_engine_wrote_before_a_line_of_the_service_stands_before_it(tmp_path: Path) -> None:
    stream = io.StringIO()

    async def live(logs: ModelLogs) -> None:
        logs.add("m", ["loading"])
        logging.getLogger("x").info("model=%s state=ready", "m")
        logs.add("m", ["bye"])

    with logging_to(stream, "info", LogSettings(folder=tmp_path)) as ends:
        assert ends.files is not None
        asyncio.run(live(ends.files.models))
    lines = (tmp_path / "m.log").read_text().splitlines()
    assert [line.split("Z ")[1] for line in lines] == ["ENGINE loading", "INFO x model=m state=ready", "ENGINE bye"]
    assert "loading" not in stream.getvalue()
