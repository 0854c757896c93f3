"""What children are held to, seen from outside of real ones."""

from __future__ import annotations

import asyncio
import os
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from manager import confinement as module
from manager.confinement import Confinement
from manager.errors import ConfigError
from manager.logbuf import LogBuffer
from manager.process import ChildProcess
from manager.settings_sections import ChildSettings
from tests.manager.bench import soon

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="most of it is Linux's")

SLEEP = ["/bin/sleep", "60"]
ROOT = Path(__file__).parent.parent.parent


def confined(**settings: Any) -> Confinement:
    return Confinement(ChildSettings(**settings))


@asynccontextmanager
async def running(rules: Confinement) -> AsyncIterator[ChildProcess]:
    """A child that is held to these rules."""
    child = await ChildProcess.spawn(SLEEP, env={}, cwd=None, log=LogBuffer(), confinement=rules)
    try:
        yield child
    finally:
        await soon(child.stop(0))


async def said(script: str, rules: Confinement) -> str:
    """What a script of the shell writes, which is held to these rules."""
    log = LogBuffer()
    child = await ChildProcess.spawn(
        ["/bin/sh", "-c", script], env={"PATH": os.defpath}, cwd=None, log=log, confinement=rules
    )
    await soon(child.wait())
    await child.stop(0)
    return "\n".join(log.tail())


def text_of(file: Path) -> str:
    return file.read_text()


def descriptors(pid: int) -> set[str]:
    return {path.name for path in Path(f"/proc/{pid}/fd").iterdir()}


def status(child: ChildProcess, field: str) -> str:
    lines = text_of(Path(f"/proc/{child.pid}/status")).splitlines()
    return next(line.partition(":")[2].strip() for line in lines if line.startswith(f"{field}:"))


def limits(child: ChildProcess, kind: int) -> tuple[int, int]:
    return resource.prlimit(child.pid, kind)


async def test_children_gain_no_rights_and_leave_no_image_where_nothing_else_is_said() -> None:
    log = LogBuffer()
    child = await ChildProcess.spawn(SLEEP, env={}, cwd=None, log=log)
    assert status(child, "NoNewPrivs") == "1"
    assert limits(child, resource.RLIMIT_CORE) == (0, 0)
    await soon(child.stop(0))


async def test_both_can_be_had_back() -> None:
    async with running(confined(no_new_privileges=False, core_dumps=True)) as child:
        assert status(child, "NoNewPrivs") == "0"
        assert limits(child, resource.RLIMIT_CORE) == resource.getrlimit(resource.RLIMIT_CORE)


async def test_limits_are_those_of_the_settings_and_the_child_can_not_raise_them() -> None:
    async with running(confined(open_files=123, address_space=2**33)) as child:
        assert limits(child, resource.RLIMIT_NOFILE) == (123, 123)
        assert limits(child, resource.RLIMIT_AS) == (2**33, 2**33)
    # uid 0 may raise any limit of its own.
    if os.getuid():
        assert "124" not in await said("ulimit -n 124; ulimit -n", confined(open_files=123))


async def test_the_service_itself_is_held_to_nothing() -> None:
    kinds = (resource.RLIMIT_CORE, resource.RLIMIT_NOFILE, resource.RLIMIT_AS)
    before = [resource.getrlimit(kind) for kind in kinds]
    async with running(confined(open_files=123, address_space=2**33)):
        pass
    assert [resource.getrlimit(kind) for kind in kinds] == before
    assert "NoNewPrivs:\t0" in text_of(Path("/proc/self/status"))


async def test_memory_beyond_the_limit_is_not_to_be_had() -> None:
    script = f"exec {sys.executable} -c 'bytearray(2**30)'"
    assert "MemoryError" in await said(script, confined(address_space=2**29))
    assert await said(script, confined(address_space=2**33)) == ""


async def test_no_descriptor_of_the_service_goes_along() -> None:
    ends = os.pipe()
    high = os.dup2(ends[0], 200)
    for descriptor in (*ends, high):
        os.set_inheritable(descriptor, True)
    try:
        async with running(confined()) as child:
            assert descriptors(child.pid) == {"0", "1", "2"}
    finally:
        for descriptor in (*ends, high):
            os.close(descriptor)


async def test_a_child_dies_with_the_service() -> None:
    """Its death signal is read back by the child's own program."""
    ask = "import ctypes; n = ctypes.c_int(); ctypes.CDLL(None).prctl(2, ctypes.byref(n)); print(n.value)"
    assert await said(f"exec {sys.executable} -c '{ask}'", confined()) == str(int(signal.SIGKILL))


@pytest.fixture
def cgroup(tmp_path: Path) -> Path:
    """A folder that looks like a cgroup's; what is written to its file of members stays there to be read."""
    folder = tmp_path / "models.slice"
    folder.mkdir()
    for name in ("cgroup.procs", "cgroup.controllers"):
        (folder / name).touch()
    return folder


@pytest.fixture
def joining(cgroup: Path) -> Confinement:
    """The rules of a service whose children go there. Made and checked at its start, before the loop runs."""
    rules = confined(cgroup=cgroup)
    rules.check()
    return rules


async def test_a_child_joins_its_cgroup_before_its_program_begins(cgroup: Path, joining: Confinement) -> None:
    assert await said(f"cat {cgroup}/cgroup.procs", joining) == "0", "which means: who writes it"


@pytest.fixture
def real_cgroup() -> Iterator[Path]:
    folder = Path(f"/sys/fs/cgroup/llamaherd-test-{os.getpid()}")
    try:
        if not (folder.parent / "cgroup.procs").exists():
            pytest.skip("there is no cgroup (v2) here")
        folder.mkdir()
    except OSError as error:
        pytest.skip(f"no cgroup may be made here: {error.strerror}")
    yield folder
    folder.rmdir()


@pytest.fixture
def really_joining(real_cgroup: Path) -> Confinement:
    rules = confined(cgroup=real_cgroup)
    rules.check()
    return rules


async def test_a_real_cgroup_has_the_child(real_cgroup: Path, really_joining: Confinement) -> None:
    async with running(really_joining) as child:
        assert text_of(real_cgroup / "cgroup.procs").split() == [str(child.pid)]


@pytest.mark.parametrize("missing", ["cgroup.procs", "cgroup.controllers"])
def test_a_folder_that_is_no_cgroup_is_a_mistake_that_names_the_setting(cgroup: Path, missing: str) -> None:
    (cgroup / missing).unlink()
    with pytest.raises(ConfigError, match=r"^children\.cgroup: .*models\.slice is no folder of a cgroup \(v2\)"):
        confined(cgroup=cgroup).check()


def test_a_cgroup_of_others_is_a_mistake(cgroup: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Root, who may run this, writes everywhere.
    monkeypatch.setattr(os, "access", lambda path, mode: (path, mode) != (cgroup / "cgroup.procs", os.W_OK))
    with pytest.raises(ConfigError, match=r"^children\.cgroup: .* can't be written"):
        confined(cgroup=cgroup).check()


@pytest.mark.parametrize(
    ("name", "kind"), [("open_files", resource.RLIMIT_NOFILE), ("address_space", resource.RLIMIT_AS)]
)
def test_more_than_the_service_may_have_is_a_mistake(name: str, kind: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda asked: (2**20, 2**20) if asked == kind else (0, 0))
    confined(**{name: 2**20}).check()
    with pytest.raises(ConfigError, match=rf"^children\.{name} is 1048577, but the service itself may have 1048576"):
        confined(**{name: 2**20 + 1}).check()


async def test_nothing_begins_where_a_rule_can_not_be_kept(cgroup: Path, joining: Confinement, tmp_path: Path) -> None:
    members, begun = cgroup / "cgroup.procs", tmp_path / "begun"
    await said("true", joining)  # what the loop opens with its first child stays open
    before = descriptors(os.getpid())
    members.unlink()
    with pytest.raises(OSError, match=r"children\.cgroup can't be done \(No such file or directory\)"):
        await said(f"touch {begun}", joining)
    members.symlink_to("/dev/full")
    assert await said(f"touch {begun}", joining) == "error: children.cgroup can't be done"
    with pytest.raises(FileNotFoundError):
        text_of(begun)
    assert descriptors(os.getpid()) == before


def test_elsewhere_only_what_was_asked_for_and_can_not_be_done_is_a_mistake(
    cgroup: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "ON_LINUX", False)
    confined().check()
    confined(open_files=64, core_dumps=True).check()
    for name, value in (("address_space", 2**30), ("cgroup", cgroup)):
        with pytest.raises(ConfigError, match=rf"^children\.{name} needs Linux"):
            confined(**{name: value}).check()


async def test_rights_that_the_service_was_given_for_itself_do_not_go_along() -> None:
    """As AmbientCapabilities of systemd gives them, which else every program that is started inherits."""
    setpriv = shutil.which("setpriv")
    if setpriv is None or os.geteuid() != 0:
        pytest.skip("needs root and setpriv, to be given a right")
    code = (
        "import asyncio, os\n"
        "from manager.confinement import Confinement\n"
        "from manager.logbuf import LogBuffer\n"
        "from manager.process import ChildProcess\n"
        "from manager.settings_sections import ChildSettings\n"
        "async def main():\n"
        "    log = LogBuffer()\n"
        "    held = Confinement(ChildSettings())\n"
        "    argv = ['/bin/grep', 'CapAmb', '/proc/self/status']\n"
        "    child = await ChildProcess.spawn(argv, env={}, cwd=None, log=log, confinement=held)\n"
        "    await child.wait()\n"
        "    print(open('/proc/self/status').read().partition('CapAmb:')[2].split()[0], *log.tail())\n"
        "asyncio.run(main())\n"
    )
    command = [setpriv, "--inh-caps", "+net_bind_service", "--ambient-caps", "+net_bind_service"]
    done = await asyncio.to_thread(
        subprocess.run, [*command, sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=30
    )
    assert done.stdout.split() == ["0000000000000400", "CapAmb:", "0000000000000000"], done.stderr
