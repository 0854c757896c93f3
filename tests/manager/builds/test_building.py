from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any

import psutil
import pytest
from filelock import FileLock

from manager.builds.failure import BuildFailed
from manager.builds.kept import builds, chosen
from manager.errors import ConfigError
from manager.package_index import Pinned
from tests.fakes import write_binary
from tests.manager.builds.conftest import Keep, MakeBuild, Watcher, program


def commands(tmp_path: Path) -> list[str]:
    return (tmp_path / "cmake.log").read_text().splitlines()


def left(folder: Path) -> set[str]:
    """What is there besides the logs and the lock."""
    return {path.name for path in folder.iterdir()} - {"logs", ".lock"}


def test_build_gets_into_the_list_with_what_is_known_of_it(
    make_build: MakeBuild, folder: Path, watcher: Watcher, tmp_path: Path
) -> None:
    made = make_build(portable=True)
    assert made == chosen(folder)
    assert made.name == "b4321-cpu-portable"
    assert sorted(path.name for path in made.folder.iterdir()) == [
        "LICENSE",
        "build.json",
        "ggml-rpc-server",
        "llama-server",
    ]
    about = json.loads((made.folder / "build.json").read_text())
    assert (about["version"], about["backend"], about["cpu"]) == ("b4321", "cpu", "portable")
    assert about["source"] == str(tmp_path / "llama.cpp-b4321")
    assert about["options"]["GGML_NATIVE"] == "OFF"
    assert watcher.steps == [(number, 4) for number in (1, 2, 3, 4)]
    assert left(folder) == {made.name}


def test_cmake_is_told_what_is_wanted(make_build: MakeBuild, tmp_path: Path) -> None:
    make_build(jobs=3, extra=("GGML_LTO=ON", "GGML_RPC=OFF"), name="mine")
    configure, compile_ = commands(tmp_path)
    for option in ("LLAMA_BUILD_NUMBER=4321", "GGML_NATIVE=ON", "LLAMA_OPENSSL=OFF", "GGML_LTO=ON", "GGML_RPC=OFF"):
        assert f"-D{option}" in configure.split()
    assert "-G Ninja" in configure
    assert "-DGGML_RPC=ON" not in configure
    assert compile_.endswith("--target llama-server ggml-rpc-server --parallel 3")


def test_log_is_named_at_the_start_and_holds_all_that_was_said(
    make_build: MakeBuild, folder: Path, watcher: Watcher
) -> None:
    make_build(name="mine")
    log = folder / "logs" / "mine.log"
    assert str(log) in watcher.said[-1]
    said = [line for line in log.read_text().splitlines() if not line.startswith("$ ")]
    assert said == ["-- Generating done", *(f"[{step}/4] Building CXX object {step}.o" for step in (1, 2, 3, 4))]


def test_build_that_is_there_is_not_made_again_unless_forced(
    make_build: MakeBuild, folder: Path, watcher: Watcher, tmp_path: Path
) -> None:
    first = make_build()
    assert make_build() == first
    assert "is there already" in watcher.said[-1]
    assert len(commands(tmp_path)) == 2
    assert make_build(again=True).made_at > first.made_at
    assert len(commands(tmp_path)) == 4
    assert left(folder) == {first.name}


def test_build_for_another_cpu_is_not_taken_for_the_same(make_build: MakeBuild, keep: Keep) -> None:
    keep("mine", features=["avx9000"])
    with pytest.raises(ConfigError, match=r"avx9000.*--name.*--force"):
        make_build(name="mine")


@pytest.mark.parametrize(
    ("order", "what"),
    [
        ({"extra": ("GGML_LTO=ON",)}, "GGML_LTO"),
        ({"extra": ("GGML_CUDA_NO_VMM=ON",)}, "GGML_CUDA_NO_VMM"),
        ({"portable": True}, "CPU, GGML_NATIVE"),
    ],
)
def test_build_that_was_made_otherwise_is_not_taken_for_what_is_ordered(
    order: dict[str, Any], what: str, make_build: MakeBuild, folder: Path
) -> None:
    before = make_build(name="mine")
    with pytest.raises(ConfigError, match=rf"made otherwise \({what}\).*--name.*--force"):
        make_build(name="mine", **order)
    assert builds(folder) == [before]
    assert make_build(name="mine", again=True, **order).name == "mine"
    with pytest.raises(ConfigError, match="made otherwise"):
        make_build(name="mine")


def test_source_that_was_edited_is_not_taken_for_what_was_compiled(make_build: MakeBuild, tree: Path) -> None:
    make_build()
    (tree / "tools/server/main.cpp").write_text("int main() { return 1; }\n")
    with pytest.raises(ConfigError, match=r"made otherwise \(source\)"):
        make_build()


def test_what_this_machine_adds_by_itself_makes_no_other_build(make_build: MakeBuild) -> None:
    made = make_build(name="mine")
    about = json.loads((made.folder / "build.json").read_text())
    about["options"] |= {"CMAKE_CUDA_COMPILER": "/usr/bin/nvcc", "GGML_CUDA_NO_VMM": "ON"}
    (made.folder / "build.json").write_text(json.dumps(about))
    assert make_build(name="mine") == made


def test_pinned_source_is_compared_without_being_fetched(make_build: MakeBuild) -> None:
    made = make_build(name="mine")
    known = json.loads((made.folder / "build.json").read_text())["source_sha256"]
    assert make_build(name="mine", source=None, pinned=Pinned("none==1", known)) == made
    with pytest.raises(ConfigError, match=r"made otherwise \(source\)"):
        make_build(name="mine", source=None, pinned=Pinned("none==1", "0" * 64))


@pytest.mark.parametrize(
    ("fault", "what", "telling"),
    [
        ("misconfigured", "CMake's configuration failed", "Could NOT find it"),
        ("fails", "The compilation failed", "server.cpp:7: error: expected a semicolon"),
    ],
)
def test_failure_shows_the_telling_lines_and_leaves_the_list_as_it_was(
    fault: str, what: str, telling: str, make_build: MakeBuild, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = make_build(name="mine")
    monkeypatch.setenv("FAKE_CMAKE", fault)
    with pytest.raises(BuildFailed) as caught:
        make_build(name="mine", again=True)
    assert what in caught.value.message
    assert telling in caught.value.message
    assert "[1/4]" not in caught.value.message
    assert str(folder / "logs" / "mine.log") in caught.value.message
    assert builds(folder) == [before]
    assert left(folder) == {"mine"}


def test_interrupt_ends_every_process_and_leaves_nothing(
    make_build: MakeBuild,
    folder: Path,
    watcher: Watcher,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("FAKE_CMAKE", "hangs")
    watcher.raises, watcher.at = KeyboardInterrupt(), 3
    with pytest.raises(KeyboardInterrupt):
        make_build()
    pids = list(map(int, (tmp_path / "pids").read_text().split()))
    assert len(pids) == 2
    assert not any(psutil.pid_exists(pid) and psutil.Process(pid).status() != "zombie" for pid in pids)
    assert left(folder) == set()


def test_second_build_at_once_is_told(make_build: MakeBuild, folder: Path) -> None:
    folder.mkdir(parents=True)
    with FileLock(folder / ".lock"), pytest.raises(BuildFailed, match="Another build is being made"):
        make_build()


def test_rest_of_a_killed_build_is_swept(make_build: MakeBuild, folder: Path) -> None:
    for name in (".build-x", ".old-x"):
        (folder / name / "objects").mkdir(parents=True)
    made = make_build()
    assert left(folder) == {made.name}


def test_too_little_room_is_told_before_anything_is_done(
    make_build: MakeBuild, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("manager.builds.building._ROOM_ELSE", 10**18)
    with pytest.raises(BuildFailed, match=r"MB are free.*CACHE_FOLDER"):
        make_build()
    assert not (tmp_path / "cmake.log").exists()


def test_smoke_test_loads_a_model_and_generates(make_build: MakeBuild, watcher: Watcher) -> None:
    made = make_build(smoke_test=True)
    assert watcher.said[-1] == "It works, on the CPU."
    assert json.loads((made.folder / "build.json").read_text())["smoke_test"] == "on the CPU"


@pytest.mark.parametrize(
    ("knobs", "reason"),
    [
        ({"exit_on_start": {"code": 1, "lines": ["E error: illegal instruction"]}}, "illegal instruction"),
        ({"error_status": 500}, "generated nothing: status 500"),
        ({"chunks": 0}, "generated nothing"),
        ({"die_mid_stream": 0}, "smoke test failed"),
    ],
)
def test_build_that_fails_its_smoke_test_is_not_kept(
    knobs: dict[str, Any], reason: str, make_build: MakeBuild, folder: Path, tmp_path: Path
) -> None:
    write_binary(tmp_path / "product", **knobs)
    with pytest.raises(BuildFailed, match=reason):
        make_build(smoke_test=True)
    assert left(folder) == set()


def test_build_without_its_program_is_told(make_build: MakeBuild, toolbox: Path) -> None:
    script = (toolbox / "cmake").read_text().replace("ggml-rpc-server", "other")
    program(toolbox / "cmake", script)
    with pytest.raises(BuildFailed, match="made no ggml-rpc-server"):
        make_build()


@pytest.mark.parametrize("name", ["../x", ".x", "auto", "logs", "cublas-1", "a b", ""])
def test_odd_name_is_refused(name: str, make_build: MakeBuild) -> None:
    with pytest.raises(ConfigError, match="--name"):
        make_build(name=name)


def test_compiled_program_can_be_run(make_build: MakeBuild) -> None:
    binary = make_build().binary
    assert os.access(binary, os.X_OK)
    assert stat.S_ISREG(binary.stat().st_mode)
