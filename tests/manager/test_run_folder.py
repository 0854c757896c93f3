"""The run folder's privacy and names, and whom its sweep kills, with real processes."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import orjson
import psutil
import pytest
from blockbuster import BlockingError

from manager.errors import ConfigError
from manager.run_folder import SOCKET_PATH_MOST, RunFolder
from tests.manager.bench import watched

ROOT = Path(__file__).parents[2]
# A manager that records a child and is gone at once, without the kernel's help that its real one has.
MANAGER = """
import os, subprocess, sys
from pathlib import Path
from manager.run_folder import RunFolder

folder = RunFolder(Path(sys.argv[1]))
child = subprocess.Popen(["/bin/sleep", "60"], start_new_session=True, stdout=subprocess.DEVNULL)
folder.record(folder.new_socket(), child.pid)
print(child.pid, flush=True)
os._exit(1)
"""


@pytest.fixture
def folder(short_folder: Path) -> RunFolder:
    return RunFolder(short_folder / "run")


@contextmanager
def sleeping() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(["/bin/sleep", "60"], start_new_session=True) as child:
        try:
            yield child
        finally:
            child.kill()


def recorded(folder: RunFolder, pid: int) -> tuple[Path, Path]:
    """A socket and its record, as they are while the child runs."""
    socket = folder.new_socket()
    socket.touch()
    folder.record(socket, pid)
    return socket, socket.with_suffix(".json")


def born_earlier(record: Path, *whose: str) -> None:
    """Make the record tell of a process that had the same number before."""
    content: dict[str, Any] = orjson.loads(record.read_bytes())
    for name in whose:
        content[name]["started"] -= 1000
    record.write_bytes(orjson.dumps(content))


def test_folder_is_private(short_folder: Path) -> None:
    for name in ("new", "open"):
        path = short_folder / name
        if name == "open":
            path.mkdir(mode=0o755)
        assert stat.S_IMODE(RunFolder(path).path.stat().st_mode) == 0o700


def test_an_open_folder_with_other_files_is_refused_and_left_as_it_is(short_folder: Path) -> None:
    path = short_folder / "data"
    path.mkdir(mode=0o755)
    (path / "models.json").write_text("{}")
    with pytest.raises(ConfigError, match="holds other files"):
        RunFolder(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o755


def test_sweep_leaves_files_alone_that_are_not_its_own(folder: RunFolder) -> None:
    strange = folder.path / "keys.json"
    strange.write_text("not a record")
    assert folder.sweep() == 0
    assert strange.exists()


def test_record_from_before_a_new_start_of_the_machine_kills_nobody(folder: RunFolder) -> None:
    with sleeping() as child:
        socket, record = recorded(folder, child.pid)
        born_earlier(record, "manager")
        content = orjson.loads(record.read_bytes())
        record.write_bytes(orjson.dumps({**content, "boot": "another"}))
        assert folder.sweep() == 0
        assert child.poll() is None
    assert not socket.exists()
    assert not record.exists()


def test_sockets_have_names_of_their_own(folder: RunFolder) -> None:
    sockets = {folder.new_socket() for _ in range(100)}
    assert len(sockets) == 100
    assert all(socket.parent == folder.path and socket.suffix == ".sock" for socket in sockets)


def test_long_path_falls_back_to_a_short_one_that_stays_the_same(tmp_path: Path) -> None:
    wanted = tmp_path / ("x" * 100)
    first, second, other = RunFolder(wanted), RunFolder(wanted), RunFolder(tmp_path / ("y" * 100))
    try:
        assert first.path == second.path != other.path
        assert len(os.fsencode(first.new_socket())) <= SOCKET_PATH_MOST
        assert stat.S_IMODE(first.path.stat().st_mode) == 0o700
        assert not wanted.exists()
    finally:
        shutil.rmtree(first.path)
        shutil.rmtree(other.path)


def test_path_that_just_fits_is_used(short_folder: Path) -> None:
    room = SOCKET_PATH_MOST - len(os.fsencode(short_folder)) - len("/") - len("/0123456789abcdef.sock")
    for length, fits in ((room, True), (room + 1, False)):
        folder = RunFolder(short_folder / ("z" * length))
        assert (folder.path.parent == short_folder) is fits
        shutil.rmtree(folder.path)


def test_link_in_place_of_the_folder_is_refused(short_folder: Path) -> None:
    (short_folder / "real").mkdir()
    (short_folder / "link").symlink_to("real")
    (short_folder / "dangling").symlink_to("nowhere")
    for name in ("link", "dangling"):
        with pytest.raises(ConfigError, match=name):
            RunFolder(short_folder / name)
    assert stat.S_IMODE((short_folder / "real").stat().st_mode) != 0o700


def test_file_in_place_of_the_folder_is_refused(short_folder: Path) -> None:
    (short_folder / "run").touch()
    with pytest.raises(ConfigError, match="run"):
        RunFolder(short_folder / "run")


def test_folder_of_somebody_else_is_refused(short_folder: Path) -> None:
    path = short_folder / "run"
    if os.getuid() == 0:
        path.mkdir()
        os.chown(path, 12345, 12345)
    else:
        path = Path("/usr")
    with pytest.raises(ConfigError, match="not a folder of ours"):
        RunFolder(path)


def test_sweep_kills_the_child_of_a_dead_manager(folder: RunFolder) -> None:
    argv = [sys.executable, "-c", MANAGER, str(folder.path)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, cwd=ROOT, text=True) as manager:
        assert manager.stdout is not None
        pid = int(manager.stdout.readline())
    with watched(pid) as child:
        assert not child.ends(within=0)
        assert folder.sweep() == 1
        assert child.ends()
    assert list(folder.path.iterdir()) == []
    assert folder.sweep() == 0


def test_sweep_kills_what_a_dead_child_left_of_its_group(folder: RunFolder) -> None:
    argv = ["/bin/sh", "-c", "sleep 60 & echo $!; read line"]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True) as child:
        assert child.stdout is not None
        grandchild_pid = int(child.stdout.readline())
        _, record = recorded(folder, child.pid)
    born_earlier(record, "manager")
    with watched(grandchild_pid) as grandchild:
        assert not grandchild.ends(within=0)
        assert folder.sweep() == 1
        assert grandchild.ends()


def test_sweep_leaves_the_child_of_a_living_manager_alone(folder: RunFolder) -> None:
    with sleeping() as child:
        files = recorded(folder, child.pid)
        assert folder.sweep() == 0
        assert child.poll() is None
        assert set(folder.path.iterdir()) == set(files)


def test_number_of_the_dead_manager_may_have_come_again(folder: RunFolder) -> None:
    with sleeping() as child:
        _, record = recorded(folder, child.pid)
        born_earlier(record, "manager")
        assert folder.sweep() == 1
        assert child.wait(timeout=5) == -9


def test_process_that_got_the_childs_number_is_not_killed(folder: RunFolder) -> None:
    with sleeping() as child:
        _, record = recorded(folder, child.pid)
        born_earlier(record, "manager", "child")
        assert folder.sweep() == 0
        assert child.poll() is None
    assert list(folder.path.iterdir()) == []


def test_files_of_a_dead_manager_and_a_dead_child_are_removed(folder: RunFolder) -> None:
    with sleeping() as child:
        _, record = recorded(folder, child.pid)
    born_earlier(record, "manager")
    assert folder.sweep() == 0
    assert list(folder.path.iterdir()) == []


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"{}", b'{"manager": 1, "child": 2}', b'{"manager": {"pid": "x"}, "child": {}}']
)
def test_record_that_cannot_be_read_is_removed(
    folder: RunFolder, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    (folder.path / "0123456789abcdef.json").write_bytes(content)
    (folder.path / "0123456789abcdef.sock").touch()
    assert folder.sweep() == 0
    assert list(folder.path.iterdir()) == []
    assert "0123456789abcdef.json" in caplog.text


def test_child_that_has_ended_already_is_not_recorded(folder: RunFolder) -> None:
    with sleeping() as child:
        pass
    assert not psutil.pid_exists(child.pid)
    folder.record(folder.new_socket(), child.pid)
    assert list(folder.path.iterdir()) == []


def test_forget_removes_socket_and_record_and_may_come_twice(folder: RunFolder) -> None:
    socket, _ = recorded(folder, os.getpid())
    folder.forget(socket)
    folder.forget(socket)
    assert list(folder.path.iterdir()) == []


async def test_sweep_on_the_running_loop_is_noticed(folder: RunFolder) -> None:
    # Of the watcher in tests/conftest.py: without it, blocking calls of service code would pass unseen.
    (folder.path / "0123456789abcdef.json").touch()
    with pytest.raises(BlockingError):
        folder.sweep()
