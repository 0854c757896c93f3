from __future__ import annotations

import mmap
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from manager.memory_free import Gpus
from manager.memory_measured import anonymous, measure
from tests.fakes.nvml import FakeNvml, Gpu

MIB = 1 << 20
GIB = 1 << 30
NO_GPUS = Gpus(FakeNvml(Gpu(used={})))

# Takes memory of its own, maps a file, has a child that takes as much, and says when all is there.
PROGRAM = """
import mmap, os, sys
taken = bytearray(b"x") * (int(sys.argv[1]) << 20)
with open(sys.argv[2], "rb") as file:
    mapped = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
read = sum(mapped[place] for place in range(0, len(mapped), mmap.PAGESIZE))
if sys.argv[3] == "parent":
    import subprocess
    child = subprocess.Popen([sys.executable, *sys.orig_argv[1:-1], "child"], stdin=subprocess.PIPE)
else:
    print("ready", flush=True)
sys.stdin.read()
"""

pytestmark = pytest.mark.skipif(not psutil.LINUX, reason="proportional sizes of processes are known on Linux only")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "mapped"
    path.write_bytes(b"m" * 16 * MIB)
    return path


@contextmanager
def running(mib: int, file: Path, kind: str) -> Iterator[int]:
    """A process with `mib` of its own and a mapped file; a "parent" has a child with as much. Yields its pid."""
    program = [sys.executable, "-c", PROGRAM, str(mib), str(file), kind]
    with subprocess.Popen(program, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield process.pid


def test_mapped_files_and_children_are_measured(file: Path) -> None:
    with running(20, file, "alone") as pid:
        alone = measure(pid, nvidia=NO_GPUS)
    with running(20, file, "parent") as pid:
        both = measure(pid, nvidia=NO_GPUS)
    assert alone.keys() == both.keys() == {"host"}
    assert 36 * MIB < alone["host"] < 60 * MIB
    # Twice its own, but the pages of the file once.
    assert 20 * MIB < both["host"] - alone["host"] < 32 * MIB


def test_pages_of_a_mapped_file_are_not_what_comes_free(file: Path) -> None:
    with running(20, file, "alone") as pid:
        measured = measure(pid, nvidia=NO_GPUS)["host"]
        assert 20 * MIB < anonymous(pid) < measured - 14 * MIB


def test_locked_pages_of_a_file_come_free_too(file: Path) -> None:
    with file.open("r+b") as opened, mmap.mmap(opened.fileno(), 0) as mapped:
        before = anonymous(os.getpid())
        if _mlock(mapped) != 0:
            pytest.skip("no memory may be locked here")
        assert anonymous(os.getpid()) - before > 15 * MIB


def test_gpus_are_measured_for_the_process_and_its_children(file: Path) -> None:
    with running(1, file, "parent") as pid:
        child = psutil.Process(pid).children()[0].pid
        nvidia = Gpus(FakeNvml(Gpu(used={pid: GIB, 1: 5}), Gpu(used={child: MIB, pid: MIB})))
        measured = measure(pid, "0,1", nvidia=nvidia)
    assert (measured["gpu0"], measured["gpu1"]) == (GIB, 2 * MIB)


def test_what_is_gone_takes_nothing() -> None:
    process = subprocess.Popen([sys.executable, "-c", ""])
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    # It has ended, but waits to be reaped.
    assert (measure(process.pid, nvidia=NO_GPUS), anonymous(process.pid)) == ({}, 0)
    process.wait()
    assert (measure(process.pid, nvidia=NO_GPUS), anonymous(process.pid)) == ({}, 0)


def _mlock(mapped: mmap.mmap) -> int:
    import ctypes

    address = ctypes.addressof(ctypes.c_char.from_buffer(mapped))
    result: int = ctypes.CDLL(None).mlock(ctypes.c_void_p(address), ctypes.c_size_t(len(mapped)))
    # The pages have to be there for this process, and the export has to end before the map does.
    return result
