from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from threading import Event
from typing import Any

import psutil
import pytest

from manager.cli.llama_progress import Watch
from tests.manager.builds.conftest import Keep, program
from tests.manager.conftest import Run


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    # `run` has cleared the environment of settings; these are for it.
    monkeypatch.setenv("LLAMAHERD_STORAGE__CACHE_FOLDER", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")


def listed(run: Run) -> dict[str, dict[str, Any]]:
    code, out, err = run("llama", "list", "--json")
    assert (code, err) == (0, "")
    return {row["name"]: row for row in json.loads(out)}


def test_build_prints_where_the_server_is_and_how_it_goes(run: Run, toolbox: Path, tree: Path, folder: Path) -> None:
    arguments = ("--source", str(tree), "--backend", "cpu", "--portable", "--no-smoke-test")
    code, out, err = run("llama", "build", *arguments)
    assert code == 0, err
    assert out == f"{folder / 'b4321-cpu-portable' / 'llama-server'}\n"
    assert str(folder / "logs" / "b4321-cpu-portable.log") in err
    assert "Compiling: 4 of 4" in err
    assert run("llama", "build", *arguments)[:2] == (0, out)


def test_build_is_made_even_where_the_chosen_one_is_gone(run: Run, toolbox: Path, tree: Path, folder: Path) -> None:
    folder.mkdir(parents=True)
    (folder / "chosen").write_text("gone\n")
    code, out, err = run("llama", "build", "--source", str(tree), "--backend", "cpu", "--no-smoke-test")
    assert code == 0
    assert out.endswith("/llama-server\n")
    assert "No model can be loaded yet" in err
    assert "no build 'gone'" in err


class Terminal(io.StringIO):
    """Somebody who types."""

    def isatty(self) -> bool:
        return True


class Lines(io.StringIO):
    """Standard error of a job without a terminal. `enough` is set with the third line."""

    def __init__(self) -> None:
        super().__init__()
        self.enough = Event()

    def write(self, text: str) -> int:
        written = super().write(text)
        if self.getvalue().count("\n") >= 3:
            self.enough.set()
        return written


def test_without_a_terminal_a_line_comes_again_and_again_while_nothing_happens(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lines = Lines()
    monkeypatch.setattr(sys, "stderr", lines)
    with Watch("Compiling", every=0.001) as watch:
        watch.progress(40, 358)
        assert lines.enough.wait(20)
    assert "Compiling: 40 of 358, after 0 min\n" in lines.getvalue()
    told = lines.getvalue()
    assert not [thread for thread in threading.enumerate() if thread.name == "progress"]
    assert lines.getvalue() == told


def test_failed_build_is_exit_1_with_the_reason(
    run: Run, toolbox: Path, tree: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_CMAKE", "fails")
    code, out, err = run("llama", "build", "--source", str(tree), "--backend", "cpu", "--no-smoke-test")
    assert (code, out) == (1, "")
    assert "error: expected a semicolon" in err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["build", "--backend", "opencl"], "--backend: 'opencl' is none of cpu, cuda"),
        (["build", "--backend", "cpu", "--source", "nowhere"], "--source: nowhere does not exist"),
        (["build", "--backend", "cpu", "--cmake-option", "x"], "NAME=VALUE"),
        (["install", "https://example.org/x.zip"], "--sha256 is missing"),
        (["use", "none"], "no build 'none'"),
        (["remove", "none", "--yes"], "no build 'none'"),
    ],
)
def test_mistake_is_exit_2(arguments: list[str], says: str, run: Run, toolbox: Path) -> None:
    code, out, err = run("llama", *arguments)
    assert (code, out) == (2, "")
    assert says in err


def test_terminated_build_ends_its_compilers_and_leaves_nothing(
    toolbox: Path, tree: Path, folder: Path, tmp_path: Path
) -> None:
    # The fakes lie beside what passes for this Python.
    main = f"import sys; sys.executable = {sys.executable!r}; from manager.cli import main; main()"
    command = [sys.executable, "-c", main, "llama", "build", "--source", str(tree), "--backend", "cpu"]
    environment = {**os.environ, "FAKE_CMAKE": "hangs", "PYTHONPATH": str(Path(__file__).parents[3])}
    with subprocess.Popen(
        [*command, "--no-smoke-test"], env=environment, stderr=subprocess.PIPE, text=True, cwd=tmp_path
    ) as process:
        assert process.stderr is not None
        assert any("3 of 4" in line for line in process.stderr)
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 128 + signal.SIGTERM
    pids = map(int, (tmp_path / "pids").read_text().split())
    assert not any(psutil.pid_exists(pid) and psutil.Process(pid).status() != "zombie" for pid in pids)
    assert {path.name for path in folder.iterdir()} == {"logs", ".lock"}


def test_list_says_which_one_runs_models_and_why(run: Run, keep: Keep, tmp_path: Path) -> None:
    assert {row["kind"] for row in listed(run).values()} <= {"embedded"}
    keep("old", made_at=1000)
    keep("new", made_at=2000, cpu="avx2", features=["avx9000"])
    rows = listed(run)
    assert rows["old"]["why"] == "the newest that fits"
    assert (rows["new"]["why"], rows["new"]["unfit"], rows["new"]["cpu"]) == (None, ["avx9000"], "avx2")
    assert rows["old"]["made_at"] == "1970-01-01T00:16:40+00:00"
    on_path = program(tmp_path / "bin" / "llama-server", "echo 'version: 0.6.0 (build 9, commit x)'")
    rows = listed(run)
    assert (rows[str(on_path)]["kind"], rows[str(on_path)]["why"]) == ("path", "on PATH")
    assert rows[str(on_path)]["version"] == "0.6.0 (build 9, commit x)"
    assert rows["old"]["why"] is None
    code, out, err = run("llama", "list")
    assert (code, err) == (0, "")
    assert "yes: on PATH" in out
    assert "can't: no avx9000 here" in out


def test_use_goes_before_path_and_auto_goes_back(run: Run, keep: Keep, tmp_path: Path) -> None:
    keep("mine")
    program(tmp_path / "bin" / "llama-server", "echo")
    code, out, err = run("llama", "use", "mine")
    assert (code, err) == (0, "")
    assert "mine is chosen" in out
    assert "until it is loaded again" in out
    assert listed(run)["mine"]["why"] == "chosen with llamaherd llama use"
    code, out, err = run("llama", "use", "auto")
    assert code == 0
    assert "goes before it (on PATH)" in err
    assert listed(run)["mine"]["why"] is None


def test_setting_that_goes_before_the_choice_is_told(
    run: Run, keep: Keep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep("mine")
    set_one = program(tmp_path / "set", "echo")
    monkeypatch.setenv("LLAMAHERD_LLAMA__BINARY", str(set_one))
    assert "the setting llama.binary" in run("llama", "use", "mine")[2]
    assert listed(run)[str(set_one)]["why"] == "the setting llama.binary"
    monkeypatch.setenv("LLAMAHERD_LLAMA__LAUNCHER", "embedded")
    assert "llama.launcher is embedded" in run("llama", "use", "mine")[2]
    assert all(row["why"] is None for row in listed(run).values() if row["kind"] != "embedded")


def test_choice_that_is_gone_is_told_beside_the_list(run: Run, keep: Keep, folder: Path) -> None:
    keep("mine")
    run("llama", "use", "mine")
    (folder / "mine" / "llama-server").unlink()
    code, out, err = run("llama", "list", "--json")
    assert code == 0
    assert all(row["why"] is None for row in json.loads(out))
    assert "no build 'mine'" in err


def test_remove_asks_unless_told_not_to(run: Run, keep: Keep, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keep("mine")
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    code, _, err = run("llama", "remove", "mine")
    assert code == 2
    assert "nobody to ask" in err
    monkeypatch.setattr(sys, "stdin", Terminal("n\n"))
    code, _, err = run("llama", "remove", "mine")
    assert code == 1
    assert str(folder / "mine") in err
    assert (folder / "mine").exists()
    assert run("llama", "remove", "mine", "--yes")[:2] == (0, "Removed mine.\n")
    assert not (folder / "mine").exists()
