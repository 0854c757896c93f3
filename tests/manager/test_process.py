"""What ChildProcess promises, with real children of this process and of a manager that is killed."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from manager import process as module
from manager.logbuf import LogBuffer
from manager.process import ChildProcess
from tests.manager.bench import is_running, soon, turn, watched

ROOT = Path(__file__).parents[2]
SLEEP = ["/bin/sleep", "60"]
# Says when it ignores SIGTERM; that stays so in what it becomes.
STUBBORN = ["/bin/sh", "-c", "trap '' TERM; echo ready; exec sleep 60"]
# A grandchild that ignores SIGTERM and holds the log pipe; its parent tells its pid and ends.
LEAVES_GRANDCHILD = ["/bin/sh", "-c", "(trap '' TERM; exec sleep 60) & echo $!; {last}"]

MANAGER = """
import asyncio, os, sys
from manager.logbuf import LogBuffer
from manager.process import ChildProcess

async def main():
    child = await ChildProcess.spawn(["/bin/sleep", "60"], env={}, cwd=None, log=LogBuffer())
    print(child.pid, flush=True)
    await child.wait()

asyncio.run(main())
"""


class Lines(LogBuffer):
    """A log that tells when its first line has come."""

    def __init__(self) -> None:
        super().__init__()
        self.first = asyncio.Event()

    def feed(self, data: bytes) -> list[str]:
        lines = super().feed(data)
        if lines:
            self.first.set()
        return lines


async def spawn(argv: list[str], log: LogBuffer | None = None) -> ChildProcess:
    return await ChildProcess.spawn(argv, env={"PATH": os.defpath}, cwd=None, log=log or LogBuffer())


def descriptors() -> set[str]:
    return {path.name for path in Path("/proc/self/fd").iterdir()}


async def test_output_of_both_streams_is_in_the_log_at_the_exit() -> None:
    log = LogBuffer()
    child = await spawn(["/bin/sh", "-c", "echo one; echo two >&2; printf three"], log)
    assert await soon(child.wait()) == 0
    assert log.tail() == ("one", "two", "three")
    await child.stop(1)


@pytest.mark.parametrize(("script", "code"), [("exit 3", 3), ("kill -9 $$", -9)])
async def test_exit_code_is_negative_for_a_signal(script: str, code: int) -> None:
    child = await spawn(["/bin/sh", "-c", script])
    assert await soon(child.wait()) == code
    assert child.returncode == code
    await child.stop(1)


async def test_child_has_the_given_environment_and_folder_and_no_input(tmp_path: Path) -> None:
    log = LogBuffer()
    child = await ChildProcess.spawn(
        ["/bin/sh", "-c", "pwd; echo $A; cat"], env={"A": "b", "PATH": os.defpath}, cwd=tmp_path, log=log
    )
    await soon(child.wait())
    assert log.tail() == (str(tmp_path), "b")
    await child.stop(1)


async def test_child_leads_a_session_of_its_own() -> None:
    child = await spawn(SLEEP)
    assert os.getsid(child.pid) == child.pid
    await soon(child.stop(1))


async def test_stop_asks_first() -> None:
    child = await spawn(SLEEP)
    await soon(child.stop(60))
    assert child.returncode == -signal.SIGTERM
    assert not is_running(child.pid)


async def test_group_is_killed_where_it_ignores_the_request() -> None:
    log = Lines()
    child = await spawn(STUBBORN, log)
    await soon(log.first.wait())
    await soon(child.stop(0.05))
    assert child.returncode == -signal.SIGKILL
    with pytest.raises(ProcessLookupError):
        os.killpg(child.pid, 0)


async def test_no_grace_kills_without_asking() -> None:
    child = await spawn(SLEEP)
    await soon(child.stop(0))
    assert child.returncode == -signal.SIGKILL
    assert child.killed


async def test_no_grace_speeds_up_a_patient_stop() -> None:
    log = Lines()
    child = await spawn(STUBBORN, log)
    await soon(log.first.wait())
    patient = asyncio.create_task(child.stop(600))
    await turn()
    assert not patient.done()
    await soon(child.stop(0))
    await soon(patient)
    assert child.returncode == -signal.SIGKILL


async def test_kill_by_somebody_else_is_none_of_ours() -> None:
    child = await spawn(["/bin/sh", "-c", "kill -9 $$"])
    await soon(child.wait())
    await soon(child.stop(0))
    assert not child.killed


async def test_stdout_can_go_another_way_than_the_log() -> None:
    log, heard = LogBuffer(), bytearray()
    child = await ChildProcess.spawn(
        ["/bin/sh", "-c", "echo one; echo two >&2; printf three"], env={}, cwd=None, log=log, on_stdout=heard.extend
    )
    await soon(child.wait())
    assert log.tail() == ("two",)
    assert heard == b"one\nthree"
    await child.stop(1)


async def test_farewell_is_said_to_a_child_that_waits_for_it() -> None:
    log = Lines()
    child = await farewell_child("trap '' TERM; echo ready; read line; echo got $line; exit 7", log)
    await soon(log.first.wait())
    await soon(child.stop(600))
    assert child.returncode == 7
    assert log.tail() == ("ready", "got bye")


async def test_farewell_to_a_child_that_reads_nothing_does_no_harm() -> None:
    child = await farewell_child("exec <&-; exec sleep 60", LogBuffer())
    await soon(child.stop(600))
    assert child.returncode is not None


async def farewell_child(script: str, log: LogBuffer) -> ChildProcess:
    return await ChildProcess.spawn(
        ["/bin/sh", "-c", script], env={"PATH": os.defpath}, cwd=None, log=log, farewell=b"bye\n"
    )


async def test_stop_kills_what_a_clean_exit_left_of_the_group() -> None:
    log = Lines()
    child = await spawn([*LEAVES_GRANDCHILD[:2], LEAVES_GRANDCHILD[2].format(last="exec sleep 60")], log)
    await soon(log.first.wait())
    with watched(int(log.tail()[0])) as grandchild:
        await soon(child.stop(60))
        assert grandchild.ends()


async def test_grandchild_that_holds_the_pipe_does_not_hang_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PIPE_LINGER", 0.01)
    await soon((await spawn(["/bin/true"])).stop(1))  # what the loop opens with its first child stays open
    before = descriptors()
    log = Lines()
    child = await spawn([*LEAVES_GRANDCHILD[:2], LEAVES_GRANDCHILD[2].format(last="exit 0")], log)
    assert await soon(child.wait()) == 0
    await turn()
    assert descriptors() == before
    with watched(int(log.tail()[0])) as grandchild:
        assert not grandchild.ends(within=0)
        await soon(child.stop(60))
        assert grandchild.ends()


async def test_many_stops_at_once_end_together() -> None:
    child = await spawn(SLEEP)
    await soon(asyncio.gather(*(child.stop(60) for _ in range(10))))
    await soon(child.stop(60))
    assert child.returncode == -signal.SIGTERM


async def test_stop_goes_on_where_its_caller_is_cancelled() -> None:
    log = Lines()
    child = await spawn(STUBBORN, log)
    await soon(log.first.wait())
    stopping = asyncio.create_task(child.stop(0.05))
    await asyncio.sleep(0)
    stopping.cancel()
    assert await soon(child.wait()) == -signal.SIGKILL
    await soon(child.stop(0.05))


async def test_cancelled_wait_leaves_the_child_alone() -> None:
    child = await spawn(SLEEP)
    waiting = asyncio.create_task(child.wait())
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.wait({waiting})
    assert is_running(child.pid)
    await soon(child.stop(60))


async def test_log_keeps_the_end_of_a_flood() -> None:
    log = LogBuffer(max_lines=10)
    child = await spawn(["/bin/sh", "-c", "i=0; while [ $i -lt 5000 ]; do echo $i; i=$((i+1)); done"], log)
    await soon(child.wait())
    assert log.tail(20) == tuple(str(number) for number in range(4990, 5000))
    await child.stop(1)


@pytest.mark.parametrize("argv", [["/nowhere/llama-server"], ["/etc/passwd"]])
async def test_program_that_cannot_run_raises_and_leaks_nothing(argv: list[str]) -> None:
    child = await spawn(["/bin/true"])  # what the loop opens with its first child stays open
    await soon(child.stop(1))
    before = descriptors()
    with pytest.raises(OSError, match=r"\[Errno (2|13)\]"):
        await spawn(argv)
    with pytest.raises(OSError, match=r"\[Errno (2|13)\]"):
        await ChildProcess.spawn(argv, env={}, cwd=None, log=LogBuffer(), on_stdout=print, farewell=b"bye")
    assert descriptors() == before


async def test_ended_child_leaves_no_descriptor() -> None:
    child = await spawn(["/bin/true"])
    await soon(child.stop(1))
    before = descriptors()
    for stdout in (None, None, print):
        child = await ChildProcess.spawn(
            ["/bin/true"], env={}, cwd=None, log=LogBuffer(), on_stdout=stdout, farewell=stdout and b"bye"
        )
        await soon(child.wait())
        await soon(child.stop(1))
    await asyncio.sleep(0)  # a closed transport lets go of its pipe in the next turn
    assert descriptors() == before


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere only the sweep ends such children")
def test_killed_manager_takes_its_child_with_it() -> None:
    with subprocess.Popen([sys.executable, "-c", MANAGER], stdout=subprocess.PIPE, cwd=ROOT, text=True) as manager:
        assert manager.stdout is not None
        with watched(int(manager.stdout.readline())) as child:
            assert not child.ends(within=0)
            manager.kill()
            assert child.ends()
