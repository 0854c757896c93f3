"""LlamaEngine over the fake llama-server: what counts as ready, why a load fails, and that nothing is left."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from manager.engines import UpstreamRequest
from manager.engines.llama import engine as module
from manager.engines.llama import vitals
from manager.engines.llama.engine import LlamaEngine
from manager.engines.llama.environment import child_environment
from manager.engines.llama.slots import SlotStore
from manager.engines.llama.upstream import UpstreamClient
from manager.entry import LlamaParams, ModelEntry
from manager.errors import InsufficientMemory, LoadFailed, LoadTimeout, UpstreamConnectError
from tests.conftest import EMPTY_GGUF, MakeSettings
from tests.manager.bench import is_running, lines_of, make_entry, soon, turn, until, watched
from tests.manager.conftest import LlamaFakes

PROPS = UpstreamRequest("GET", "/props")
KILLED = "killed by signal 9, as the kernel does when memory is short"


async def failure(llama: LlamaFakes, **knobs: object) -> LoadFailed:
    """Why an engine with these knobs does not start; it is stopped, and nothing is left of it."""
    engine = llama.engine(**knobs)  # type: ignore[arg-type]
    with pytest.raises(LoadFailed) as caught:
        await soon(engine.start())
    await soon(engine.stop())
    assert list(llama.run_folder.path.iterdir()) == []
    return caught.value


# the start


async def test_start_returns_when_the_model_answers(llama: LlamaFakes) -> None:
    engine = llama.engine(load_seconds=0.05)
    await soon(engine.start())
    assert [str(engine.pid)] == lines_of(llama.starts)
    async with engine.open(PROPS) as response:
        assert response.status == 200
        assert b'"model_alias": "m"' in await response.read()


async def test_start_waits_for_a_slow_bind_and_a_slow_load(llama: LlamaFakes, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    engine = llama.engine(bind_delay=0.05, gate=gate)
    starting = asyncio.create_task(engine.start())
    await until(lambda: any("loading model" in line for line in engine.log.tail()))
    assert not starting.done()
    gate.touch()
    await soon(starting)


async def test_slow_probe_does_not_fail_a_start(llama: LlamaFakes) -> None:
    engine = llama.engine(probe_delay=0.05)
    await soon(engine.start())


async def test_probe_without_an_answer_is_neither_ready_nor_a_failure(
    llama: LlamaFakes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vitals, "PROBE_TIMEOUT", 0.01)
    engine = llama.engine(probe_delay=60, requests_log=tmp_path / "requests")
    starting = asyncio.create_task(engine.start())
    await until(lambda: len(lines_of(tmp_path / "requests")) >= 3)
    assert not starting.done()
    starting.cancel()
    await asyncio.wait({starting})


async def test_running_child_has_a_socket_and_a_record(llama: LlamaFakes) -> None:
    engine = llama.engine()
    await soon(engine.start())
    assert sorted(path.suffix for path in llama.run_folder.path.iterdir()) == [".json", ".sock"]
    assert await asyncio.to_thread(llama.run_folder.sweep) == 0


async def test_every_life_has_a_key_and_a_socket_of_its_own(llama: LlamaFakes, tmp_path: Path) -> None:
    log = tmp_path / "requests"
    for _ in range(2):
        engine = llama.engine(requests_log=log)
        await soon(engine.start())
        async with engine.open(UpstreamRequest("POST", "/tokenize", b"{}")) as response:
            assert response.status == 200
    keys = {line.partition('"authorization": "')[2].split('"')[0] for line in lines_of(log) if "/tokenize" in line}
    assert len(keys) == 2
    assert len(list(llama.run_folder.path.glob("*.sock"))) == 2


async def test_child_sees_nothing_of_our_settings(llama: LlamaFakes, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LLAMAHERD_SERVER__PORT", "LLAMA_ARG_CTX_SIZE", "MODEL_PATH", "HF_TOKEN", "CUDA_VISIBLE_DEVICES"):
        monkeypatch.setenv(name, "1")
    engine = llama.engine()
    # The settings were made before; what they leave of the environment is not what counts here.
    monkeypatch.setenv("LLAMAHERD_SERVER__PORT", "1")
    monkeypatch.setenv("MODEL_PATH", "1")
    await soon(engine.start())
    names = {entry.partition("=")[0] for entry in environ_of(engine.pid).split("\0")}
    assert "LLAMA_API_KEY" in names
    assert names.isdisjoint({"LLAMAHERD_SERVER__PORT", "LLAMA_ARG_CTX_SIZE", "MODEL_PATH", "HF_TOKEN"})


def environ_of(pid: int | None) -> str:
    return Path(f"/proc/{pid}/environ").read_text()


def test_environment_of_a_child_has_what_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_HOME", "/cuda")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    given = child_environment("k", None)
    assert given["PATH"] == os.environ["PATH"]
    assert (given["CUDA_HOME"], given["CUDA_VISIBLE_DEVICES"], given["LLAMA_API_KEY"]) == ("/cuda", "1", "k")
    assert child_environment("k", "0,2")["CUDA_VISIBLE_DEVICES"] == "0,2"
    assert child_environment("k", "")["CUDA_VISIBLE_DEVICES"] == ""


@pytest.mark.parametrize("name", ["OMP_WAIT_POLICY", "GOMP_SPINCOUNT"])
def test_the_environment_says_how_threads_of_a_child_wait_or_we_do(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for one in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT"):
        monkeypatch.delenv(one, raising=False)
    ours = child_environment("k", None)
    assert (ours["OMP_WAIT_POLICY"], ours["GOMP_SPINCOUNT"]) == ("ACTIVE", "300")
    monkeypatch.setenv(name, "given")
    kept = child_environment("k", None)
    assert {one: kept[one] for one in kept if one in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")} == {name: "given"}


async def test_embedded_child_imports_nothing_from_the_current_folder(
    llama: LlamaFakes, make_settings: MakeSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = tmp_path / "here"
    here.mkdir()
    decoy = "import pathlib\npathlib.Path(__file__).with_name('ran').touch()\n"
    (here / "xllamacpp.py").write_text(decoy)
    (here / "json.py").write_text(decoy)
    monkeypatch.chdir(here)
    engine = LlamaEngine(llama.entry, make_settings(llama={"launcher": "embedded"}), llama.run_folder)
    with pytest.raises(LoadFailed):  # its model has no tensors
        await soon(engine.start())
    await soon(engine.stop())
    assert not (here / "ran").exists()


# the progress of a load


async def test_progress_is_what_the_child_tells(llama: LlamaFakes, tmp_path: Path) -> None:
    engine = llama.engine(load_progress=(0.25, 0.5), gate=tmp_path / "gate")
    assert engine.progress is None
    starting = asyncio.create_task(engine.start())
    await until(lambda: engine.progress == 0.5)
    (tmp_path / "gate").touch()
    await soon(starting)
    await until(lambda: engine.progress == 1.0)
    assert not any("cmd_child" in line for line in engine.log.tail(400))


async def test_progress_of_a_projector_counts_by_its_size(llama: LlamaFakes, tmp_path: Path) -> None:
    projector = tmp_path / "mmproj.gguf"
    projector.write_bytes(EMPTY_GGUF + bytes(2 * len(EMPTY_GGUF)))
    entry = make_entry(llama.entry.path, mmproj=projector)
    parts = (1.0, ["mmproj_model", 0.5])
    engine = llama.engine(entry=entry, load_progress=parts, never_ready=True)
    starting = asyncio.create_task(engine.start())
    await until(lambda: engine.progress == 0.25 + 0.75 / 2)
    starting.cancel()
    await asyncio.wait({starting})


async def test_progress_of_a_child_that_maps_its_file_is_told_by_its_memory(
    llama: LlamaFakes, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = iter([100, 106, 112])
    monkeypatch.setattr(module, "resident_bytes", lambda pid: next(sizes, 112))
    engine = llama.engine(load_progress=(0.0,), never_ready=True)
    starting = asyncio.create_task(engine.start())
    await until(lambda: engine.progress == 0.5)  # of a file of 24 bytes
    starting.cancel()
    await asyncio.wait({starting})


# why a load fails


async def test_exit_at_the_start_tells_line_and_status(llama: LlamaFakes) -> None:
    error = await failure(llama, exit_on_start={"code": 3, "lines": ["error: unknown model architecture: 'x'"]})
    assert "unknown model architecture: 'x'" in error.message
    assert "exit status 3" in error.message
    assert error.exit_code == 3
    assert error.code == "model_load_failed"
    assert error.should_retry is None


async def test_exit_during_the_load_tells_line_and_status(llama: LlamaFakes) -> None:
    lines = ["ggml_aligned_malloc: insufficient memory (attempted to allocate 9000 MB)"]
    error = await failure(llama, exit_during_load={"after": 0.02, "code": 1, "lines": lines})
    assert "insufficient memory" in error.message
    assert error.exit_code == 1
    assert isinstance(error, InsufficientMemory)


async def test_kill_while_loading_is_a_lack_of_memory(llama: LlamaFakes) -> None:
    engine = llama.engine(never_ready=True)
    starting = asyncio.create_task(engine.start())
    await until(lambda: engine.pid)
    assert engine.pid is not None
    os.kill(engine.pid, 9)
    with pytest.raises(InsufficientMemory, match=f"{KILLED}$") as caught:
        await soon(starting)
    assert caught.value.exit_code == -9
    await soon(engine.stop())


@pytest.mark.parametrize(
    "params", [lambda path: {"draft_model": path}, lambda path: {"lora": [path]}], ids=["draft model", "adapter"]
)
async def test_other_files_of_an_entry_are_looked_at_too(
    llama: LlamaFakes, tmp_path: Path, params: Callable[[str], dict[str, Any]]
) -> None:
    path = tmp_path / "broken.gguf"
    path.write_bytes(EMPTY_GGUF[:-1])
    given = LlamaParams.model_validate({"model": "m", **params(str(path))})
    entry = ModelEntry(name="m", path=llama.entry.path, params=given)
    assert "broken.gguf is cut off" in (await failure(llama, entry=entry)).message
    assert lines_of(llama.starts) == []


async def test_process_in_place_of_ours_is_not_taken_for_it(llama: LlamaFakes) -> None:
    error = await failure(llama, foreign=True)
    assert "something else answers" in error.message


async def test_process_with_another_key_is_not_taken_for_ours(llama: LlamaFakes, tmp_path: Path) -> None:
    binary = tmp_path / "other-key" / "llama-server"
    binary.parent.mkdir()
    llama.factory()  # writes the program that this one calls
    binary.write_text(f'#!/bin/sh\nLLAMA_API_KEY=other exec {tmp_path}/llama-server "$@"\n')
    binary.chmod(0o755)
    assert "does not accept its key" in (await failure(llama, binary=binary)).message


async def test_binary_that_cannot_run_is_named(llama: LlamaFakes, tmp_path: Path) -> None:
    binary = tmp_path / "broken-server"
    binary.write_text("#!/nowhere/sh\n")
    binary.chmod(0o755)
    assert f"{binary} can't be started" in (await failure(llama, binary=binary)).message


async def test_missing_binary_of_the_settings_will_not_come_by_retrying(llama: LlamaFakes, tmp_path: Path) -> None:
    error = await failure(llama, binary=tmp_path / "nowhere")
    assert "llama.binary" in error.message
    assert error.should_retry is False


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "does not exist"),
        (b"", "is empty"),
        (EMPTY_GGUF[:-1], "cut off"),
        (b"<!doctype html>" + bytes(100), "not a GGUF file"),
    ],
    ids=["missing", "empty", "truncated", "something else"],
)
async def test_file_that_is_no_whole_gguf_starts_nothing(
    llama: LlamaFakes, tmp_path: Path, content: bytes | None, reason: str
) -> None:
    path = tmp_path / "broken.gguf"
    if content is not None:
        path.write_bytes(content)
    for entry in (make_entry(path), make_entry(llama.entry.path, mmproj=path)):
        error = await failure(llama, entry=entry)
        assert reason in error.message
        assert "broken.gguf" in error.message
        assert error.should_retry is False
    assert lines_of(llama.starts) == []


async def test_entry_of_another_engine_says_why_it_is_unavailable(llama: LlamaFakes) -> None:
    error = await failure(llama, entry=make_entry(llama.entry.path, engine="hf", unavailable="it is Tuesday"))
    assert "it is Tuesday" in error.message
    assert error.should_retry is False


async def test_reason_against_an_entry_that_is_over_does_not_count(llama: LlamaFakes) -> None:
    await soon(llama.engine(entry=make_entry(llama.entry.path, unavailable="tiny.gguf does not exist")).start())


async def test_load_that_never_ends_is_ended_by_the_instance(llama: LlamaFakes) -> None:
    bench = llama.bench(load=0.2, never_ready=True)
    with pytest.raises(LoadTimeout):
        await soon(bench.instance.lease(10))
    await bench.instance.unload()
    assert not any(is_running(int(pid)) for pid in lines_of(llama.starts))
    assert list(llama.run_folder.path.iterdir()) == []


# the end


async def test_exit_of_a_running_engine_tells_its_signal(llama: LlamaFakes) -> None:
    engine = llama.engine()
    await soon(engine.start())
    assert engine.pid is not None
    os.kill(engine.pid, 9)
    exit_ = await soon(engine.wait_exit())
    assert exit_.code == -9
    assert "signal 9" in exit_.reason


async def test_end_of_an_engine_that_served_is_not_blamed_on_what_it_survived(llama: LlamaFakes) -> None:
    stamp = b"0.00.079.874 E "
    engine = llama.engine()
    await soon(engine.start())
    assert engine.pid is not None
    engine.log.feed(stamp + b"srv  update_slots: failed to find free space in the KV cache, n_batch = 1\n")
    engine.log.feed(stamp + b"mtmd_helper_eval: failed to decode image\n")
    os.kill(engine.pid, 9)
    assert (await soon(engine.wait_exit())).reason == KILLED
    engine.log.feed(b"/src/ggml.c:98: GGML_ASSERT(n > 0) failed\n")
    assert (await soon(engine.wait_exit())).reason.endswith(f"GGML_ASSERT(n > 0) failed ({KILLED})")


async def test_lack_of_a_gpus_memory_is_told_as_the_reason_of_a_crash(llama: LlamaFakes) -> None:
    engine = llama.engine()
    await soon(engine.start())
    assert engine.pid is not None
    line = "E ggml_cuda: allocating 512.00 MiB on device 0: cudaMalloc failed: out of memory"
    engine.log.feed(f"0.00.079.874 {line}\n".encode())
    os.kill(engine.pid, 6)
    assert "cudaMalloc failed: out of memory (killed by signal 6)" in (await soon(engine.wait_exit())).reason


async def test_child_that_somebody_else_asks_to_end_may_end(llama: LlamaFakes) -> None:
    engine = llama.engine()
    await soon(engine.start())
    assert engine.pid is not None
    ended = asyncio.create_task(engine.wait_exit())
    os.kill(engine.pid, 15)
    assert (await soon(ended)).code == 0


async def test_prompt_in_the_log_ends_nobody(llama: LlamaFakes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LEAVING", (0.0, 0.0))
    engine = llama.engine()
    await soon(engine.start())
    ended = asyncio.create_task(engine.wait_exit())
    await turn()
    for _ in range(2):
        engine.log.feed(b"0.01.0.0 D prompt: operator(): cleaning up before exit...\n")
        await until(lambda: not engine._log.ending.is_set())
        assert await engine.answers()
    assert not ended.done()
    ended.cancel()


async def test_gentle_stop_of_a_child_that_waits_for_leave_is_quick_and_clean(llama: LlamaFakes) -> None:
    engine = llama.engine(grace=600.0)
    await soon(engine.start())
    await soon(engine.stop())
    assert (await soon(engine.wait_exit())).code == 0


async def test_forced_stop_asks_for_nothing_and_kills(llama: LlamaFakes, tmp_path: Path) -> None:
    engine = llama.engine(ignore_sigterm=True, grace=600.0, requests_log=tmp_path / "requests")
    await soon(engine.start())
    asked = len(lines_of(tmp_path / "requests"))
    await soon(engine.stop(force=True))
    assert (await soon(engine.wait_exit())).reason == "killed by signal 9"
    assert len(lines_of(tmp_path / "requests")) == asked
    assert list(llama.run_folder.path.iterdir()) == []


async def test_forced_stop_speeds_up_one_that_waits_for_the_process(llama: LlamaFakes) -> None:
    engine = llama.engine(ignore_sigterm=True, grace=600.0)
    await soon(engine.start())
    gentle = asyncio.create_task(engine.stop())
    await turn()
    assert not gentle.done()
    await soon(engine.stop(force=True))
    await soon(gentle)
    assert list(llama.run_folder.path.iterdir()) == []


async def test_forced_stop_speeds_up_one_that_saves_slots(llama: LlamaFakes, tmp_path: Path) -> None:
    engine = llama.engine()
    await soon(engine.start())
    slots = SlowSlots(tmp_path, "m", "0" * 32, 1)
    engine._slots = slots
    gentle = asyncio.create_task(engine.stop())
    await soon(slots.saving.wait())
    await soon(engine.stop(force=True))
    await soon(gentle)
    assert (await soon(engine.wait_exit())).code == -9


async def test_forced_stop_of_a_start_leaves_nothing(llama: LlamaFakes) -> None:
    engine = llama.engine(never_ready=True, ignore_sigterm=True, grace=600.0)
    starting = asyncio.create_task(engine.start())
    await until(lambda: engine.pid)
    starting.cancel()
    await asyncio.wait({starting})
    await soon(engine.stop(force=True))
    assert list(llama.run_folder.path.iterdir()) == []


class SlowSlots(SlotStore):
    def __init__(self, root: Path, name: str, fingerprint: str, budget: int) -> None:
        super().__init__(root, name, fingerprint, budget)
        self.saving = asyncio.Event()

    async def save(self, client: UpstreamClient) -> None:
        self.saving.set()
        await asyncio.Event().wait()


async def test_stop_leaves_nothing_and_may_come_from_many(llama: LlamaFakes, tmp_path: Path) -> None:
    engine = llama.engine(ignore_sigterm=True, grace=0.1, fork_grandchild=tmp_path / "grandchild")
    await soon(engine.start())
    assert engine.pid is not None
    with watched(int(lines_of(tmp_path / "grandchild")[0])) as grandchild:
        await soon(asyncio.gather(*(engine.stop() for _ in range(5))))
        assert grandchild.ends()
    assert not is_running(engine.pid)
    assert list(llama.run_folder.path.iterdir()) == []
    with pytest.raises(UpstreamConnectError):
        async with engine.open(PROPS):
            pass


async def test_stop_ends_the_process_whatever_becomes_of_its_files(
    llama: LlamaFakes, caplog: pytest.LogCaptureFixture
) -> None:
    engine = llama.engine()
    await soon(engine.start())
    assert engine.pid is not None
    engine._socket.unlink()
    (engine._socket / "in-the-way").mkdir(parents=True)
    await soon(engine.stop())
    assert not is_running(engine.pid)
    assert caplog.records
    (engine._socket / "in-the-way").rmdir()
    engine._socket.rmdir()


class OddSlots(SlotStore):
    async def save(self, client: UpstreamClient) -> None:
        raise TypeError("odd")


async def test_stop_ends_the_process_where_its_slots_can_not_be_saved(
    llama: LlamaFakes, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    engine = llama.engine()
    await soon(engine.start())
    engine._slots = OddSlots(tmp_path, "m", "0" * 32, 1)
    await soon(engine.stop())
    assert engine.pid is not None
    assert not is_running(engine.pid)
    assert list(llama.run_folder.path.iterdir()) == []
    assert "could not save its slots" in caplog.text


async def test_stop_of_an_engine_that_never_started_does_nothing(llama: LlamaFakes) -> None:
    await soon(llama.engine().stop())
    assert lines_of(llama.starts) == []


@pytest.mark.parametrize("turns", [*range(8), 20, 40, 80])
async def test_start_that_is_cancelled_anywhere_leaves_nothing(llama: LlamaFakes, turns: int) -> None:
    engine = llama.engine(never_ready=True, grace=0.1)
    starting = asyncio.create_task(engine.start())
    for _ in range(turns):
        await asyncio.sleep(0.0005)
    starting.cancel()
    await asyncio.wait({starting})
    await soon(engine.stop())
    await turn()
    assert engine.pid is None or not is_running(engine.pid)
    assert list(llama.run_folder.path.iterdir()) == []


async def test_start_that_is_cancelled_after_the_spawn_leaves_nothing(llama: LlamaFakes) -> None:
    engine = llama.engine(never_ready=True)
    starting = asyncio.create_task(engine.start())
    await until(lambda: engine.pid)
    starting.cancel()
    await asyncio.wait({starting})
    assert engine.pid is not None
    assert is_running(engine.pid)
    await soon(engine.stop())
    assert not is_running(engine.pid)
    assert list(llama.run_folder.path.iterdir()) == []


async def test_full_disk_does_not_fail_a_load(llama: LlamaFakes, caplog: pytest.LogCaptureFixture) -> None:
    engine = llama.engine()
    # A folder in the record's place: writing it fails, as on a full disk.
    engine._socket.with_suffix(".json").mkdir()
    await soon(engine.start())
    assert "can't be recorded" in caplog.text
    engine._socket.with_suffix(".json").rmdir()
