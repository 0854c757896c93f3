"""`llamaherd model pull | import | verify | remove`: a hub in a thread, and files."""

from __future__ import annotations

import asyncio
import io
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any, Final

import pytest

from manager.cli import transfer
from manager.cli.transfer import shown_progress
from manager.downloads import Patience
from tests.conftest import EMPTY_GGUF
from tests.fakes.hub import Fault, Hub, running_hub
from tests.manager.conftest import Run

REPO: Final = "org/tiny-GGUF"
FILE: Final = "tiny-Q4_K_M.gguf"
MODELS: Final = Path("data/models.json")


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, run: Run) -> Iterator[Hub]:
    """With one repository, in a thread of its own: a command has an event loop to itself."""
    ready: Future[tuple[Hub, asyncio.AbstractEventLoop, asyncio.Event]] = Future()

    async def serve() -> None:
        over = asyncio.Event()
        async with running_hub() as hub:
            hub.add_repository(REPO, {FILE: EMPTY_GGUF})
            ready.set_result((hub, asyncio.get_running_loop(), over))
            await over.wait()

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    hub, loop, over = ready.result(10)
    monkeypatch.setenv("LLAMAHERD_HUB__ENDPOINT", hub.address)
    yield hub
    loop.call_soon_threadsafe(over.set)
    thread.join()


def entries() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(MODELS.read_text())
    return found


def write_models(models: dict[str, Any]) -> None:
    MODELS.parent.mkdir(exist_ok=True)
    MODELS.write_text(json.dumps(models))


def listed(run: Run) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(run("model", "list", "--json")[1])
    return found


def test_pulled_model_is_named_on_standard_output_and_listed(run: Run, hub: Hub) -> None:
    code, out, err = run("model", "pull", REPO)
    assert code == 0, err
    (name,) = entries()
    assert out == f"{name}\n"
    for words in (REPO, "Q4_K_M", f"as '{name}'", "a service that runs notices", "/v1/chat/completions"):
        assert words in err
    (model,) = listed(run)
    assert (model["name"], model["unavailable"], model["exists"]) == (name, None, True)
    assert Path(model["path"]).read_bytes() == EMPTY_GGUF


def test_second_pull_fetches_nothing_and_lists_nothing_twice(run: Run, hub: Hub) -> None:
    run("model", "pull", REPO, "--name", "mine")
    before = MODELS.read_bytes()
    code, out, err = run("model", "pull", REPO)
    assert (code, out) == (0, "mine\n")
    assert "all of it was there" in err
    assert MODELS.read_bytes() == before


def test_name_revision_and_quant_count(run: Run, hub: Hub) -> None:
    files = {"one-Q4_K_M.gguf": EMPTY_GGUF, "two-Q4_K_M.gguf": EMPTY_GGUF}
    hub.add_repository("org/two-GGUF", files, revision="v2")
    code, out, err = run("model", "pull", "org/two-GGUF", "--revision", "v2", "--quant", "two-q4_k_m", "--name", "zwei")
    assert (code, out) == (0, "zwei\n"), err
    assert entries()["zwei"]["params"]["model"].endswith("two-Q4_K_M.gguf")


def test_choice_that_must_be_made_is_a_table_and_exit_2(run: Run, hub: Hub) -> None:
    hub.add_repository("org/two-GGUF", {"one-Q4_K_M.gguf": EMPTY_GGUF, "two-Q4_K_M.gguf": EMPTY_GGUF})
    code, out, err = run("model", "pull", "org/two-GGUF")
    assert (code, out) == (2, "")
    assert "Quantisation" in err
    assert "two-Q4_K_M" in err
    assert "one-Q4_K_M" in err
    assert not MODELS.exists()


def test_pull_as_json_and_without_an_entry(run: Run, hub: Hub) -> None:
    code, out, _ = run("model", "pull", REPO, "--no-entry", "--json")
    told = json.loads(out)
    assert (code, told["name"], told["bytes"], told["quant"]) == (0, None, len(EMPTY_GGUF), "Q4_K_M")
    assert Path(told["path"]).exists()
    assert not MODELS.exists()
    assert run("model", "pull", REPO, "--no-entry")[1] == f"{told['path']}\n"


def test_name_that_is_taken_is_told_before_anything_comes(run: Run, hub: Hub, tiny_gguf: Path) -> None:
    MODELS.parent.mkdir()
    MODELS.write_text(json.dumps({"mine": {"params": {"model": str(tiny_gguf)}}}))
    code, _, err = run("model", "pull", REPO, "--name", "mine")
    assert (code, "'mine' is taken" in err) == (2, True)
    assert not [request for request in hub.requests if request.path.endswith(FILE)]


@pytest.mark.parametrize("name", ["mine", "my", "mine:fast", "my:fast", "mine:calm", " mine"])
def test_name_that_can_not_be_given_is_told_before_anything_comes(
    run: Run, hub: Hub, tiny_gguf: Path, name: str
) -> None:
    variants = {"aliases": ["my"], "profiles": {"fast": {}}, "personalities": {"calm": "Be calm."}}
    write_models({"mine": {"params": {"model": str(tiny_gguf)}, **variants}})
    for command in (("pull", REPO), ("import", "tiny.gguf")):
        code, out, err = run("model", *command, "--name", name)
        assert (code, out) == (2, ""), err
    assert not [request for request in hub.requests if request.path.endswith(FILE)]
    assert not [path for path in Path("data/models").rglob("*") if path.is_file()]


def test_alias_of_the_same_file_is_no_name_for_it(run: Run, tiny_gguf: Path) -> None:
    run("model", "import", "tiny.gguf", "--name", "mine")
    written = entries()
    write_models({"mine": written["mine"] | {"aliases": ["my"]}})
    before = MODELS.read_bytes()
    assert run("model", "import", "tiny.gguf", "--name", "mine")[:2] == (0, "mine\n")
    assert run("model", "import", "tiny.gguf", "--name", "my")[0] == 2
    assert MODELS.read_bytes() == before


def test_what_holds_a_pull_up_is_told(run: Run, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Patience, "pause", lambda *_: 0.001)
    (path,) = [path for path in hub.files if path.endswith(FILE)]
    hub.fail(path, Fault(status=503))
    code, _, err = run("model", "pull", REPO)
    assert (code, "waiting 1 s: " in err) == (0, True), err


def test_what_is_not_there_is_one_line_and_no_traceback(run: Run, hub: Hub) -> None:
    code, out, err = run("model", "pull", "org/none")
    assert (code in {1, 2}, out) == (True, "")
    assert err.startswith("llamaherd: ")
    assert "Traceback" not in err


def test_interrupted_pull_says_how_it_goes_on_and_does(run: Run, hub: Hub) -> None:
    hub.add_repository(REPO, {FILE: EMPTY_GGUF + bytes(2_000_000)})
    (path,) = [path for path in hub.files if path.endswith(FILE)]
    hub.fail(path, Fault(stall_after=1_500_000))
    command = [sys.executable, "-m", "manager.cli", "model", "pull", REPO]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as child:
        wait_for(lambda: any(part.stat().st_size for part in Path("data").rglob("*.part")))
        child.send_signal(signal.SIGINT)
        out, err = child.communicate(timeout=10)
    assert (child.returncode, out) == (130, "")
    assert "the same command goes on from there" in err
    assert "Traceback" not in err
    assert run("model", "pull", REPO)[0] == 0
    assert [request.range is None for request in hub.asked(path)] == [True, False]


def wait_for(condition: Callable[[], bool]) -> None:
    over = threading.Event()
    for _ in range(1000):
        if condition():
            return
        over.wait(0.01)
    raise TimeoutError


def test_progress_is_a_line_now_and_then_without_a_terminal(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(transfer, "SAY_EVERY", 0.0)
    with shown_progress("tiny") as tell:
        tell(1_000_000, 4_000_000)
        tell(2_000_000, None)
    first, second = capfd.readouterr().err.splitlines()
    assert first.startswith("tiny: 1.0 MB of 4.0 MB, 0.0 MB/s")
    assert second.startswith("tiny: 2.0 MB, ")


@pytest.mark.parametrize("way", ["--copy", "--link", "--symlink", "--move"])
def test_imported_model_is_listed_and_served_from_the_folder_of_models(run: Run, tiny_gguf: Path, way: str) -> None:
    code, out, err = run("model", "import", "tiny.gguf", way, "--name", "mine")
    assert (code, out) == (0, "mine\n"), err
    (model,) = listed(run)
    assert Path(model["path"]).is_relative_to(Path("data/models").absolute())
    assert (model["unavailable"], Path(model["path"]).is_symlink()) == (None, way == "--symlink")
    assert tiny_gguf.exists() is (way != "--move")


def test_import_takes_one_way_only(run: Run, tiny_gguf: Path) -> None:
    code, _, err = run("model", "import", str(tiny_gguf), "--move", "--link")
    assert (code, "Only one of" in err) == (2, True)
    assert tiny_gguf.exists()


def test_import_says_what_comes_along_and_what_may_run_code(run: Run, tiny_gguf: Path) -> None:
    Path("mmproj-tiny.gguf").write_bytes(tiny_gguf.read_bytes())
    assert "Its projector for images: mmproj-tiny.gguf" in run("model", "import", "tiny.gguf")[2]
    folder = Path("folder")
    folder.mkdir()
    for name in ("config.json", "pytorch_model.bin", "modeling.py"):
        (folder / name).write_text("{}")
    for verb in ("import", "pull"):
        code, _, err = run("model", verb, "./folder")
        assert (code, "--allow-pickle" in err) == (2, True)
    code, _, err = run("model", "pull", "./folder", "--allow-pickle", "--name", "a")
    assert (code, "(modeling.py) is not run" in err) == (0, True), err
    assert entries()["a"]["params"] == {"model": "folder", "allowPickle": True}
    run("model", "import", "./folder", "--allow-pickle", "--trust-remote-code", "--name", "b")
    assert entries()["b"]["params"] == {"model": "folder", "allowPickle": True, "trustRemoteCode": True}


def test_import_of_what_is_no_model_is_exit_2(run: Run) -> None:
    Path("notes.gguf").write_text("no model")
    for path in ("notes.gguf", "nothing.gguf"):
        code, out, err = run("model", "import", path)
        assert (code, out, Path(path).name in err) == (2, "", True)
    assert not MODELS.exists()


def test_verify_says_what_is_well_and_what_is_not(run: Run, hub: Hub) -> None:
    run("model", "pull", REPO, "--name", "mine")
    code, out, _ = run("model", "verify", "--json")
    (check,) = json.loads(out)
    assert (code, check["model"], check["state"], check["bytes"]) == (0, "mine", "ok", len(EMPTY_GGUF))
    with Path(check["path"]).open("r+b") as file:
        file.seek(8)
        file.write(b"\1")
    code, out, _ = run("model", "verify", "mine")
    assert (code, "changed" in out, FILE in out) == (1, True, True)
    Path(check["path"]).unlink()
    assert "missing" in run("model", "verify")[1]
    assert run("model", "verify", "nobody")[0] == 1


def test_verify_without_models_is_well(run: Run) -> None:
    assert run("model", "verify") == (0, "There is no model.\n", "")


def test_removed_model_is_out_of_the_file_and_off_the_disk(run: Run, hub: Hub) -> None:
    run("model", "pull", REPO, "--name", "mine")
    path = Path(listed(run)[0]["path"])
    code, out, err = run("model", "remove", "mine", "--yes")
    assert (code, out) == (0, "")
    assert f"Deleted: {path}" in err
    assert (path.exists(), entries()) == (False, {})


def test_removed_entry_may_leave_its_files(run: Run, hub: Hub) -> None:
    run("model", "pull", REPO, "--name", "mine")
    path = Path(listed(run)[0]["path"])
    assert run("model", "remove", "mine", "--yes", "--keep-files")[0] == 0
    assert (path.exists(), entries()) == (True, {})


def test_nothing_is_removed_where_nobody_can_be_asked(run: Run, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    run("model", "pull", REPO, "--name", "mine")
    path = Path(listed(run)[0]["path"])
    monkeypatch.setattr("sys.stdin", io.StringIO())
    code, _, err = run("model", "remove", "mine")
    assert (code, "--yes" in err) == (2, True)
    assert str(path) in err
    assert (path.exists(), list(entries())) == (True, ["mine"])


@pytest.mark.parametrize("change", ["rename", "move"])
def test_what_was_changed_while_it_was_asked_is_not_removed(
    run: Run, hub: Hub, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    run("model", "pull", REPO, "--name", "mine")
    (path,) = Path("data/models").rglob(FILE)
    entry = entries()["mine"]
    now = {"yours": entry} if change == "rename" else {"mine": {"params": {"model": "x.gguf"}}, "yours": entry}

    def answer(*_: object, **__: object) -> bool:
        write_models(now)
        return True

    stdin = io.StringIO()
    monkeypatch.setattr(stdin, "isatty", lambda: True)
    monkeypatch.setattr("sys.stdin", stdin)
    monkeypatch.setattr("typer.confirm", answer)
    code, out, _ = run("model", "remove", "mine")
    assert (code, out, path.exists(), entries()) == (2, "", True, now)


def test_removal_that_can_not_be_done_leaves_the_entry(run: Run, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    run("model", "pull", REPO, "--name", "mine")
    (path,) = Path("data/models").rglob(FILE)
    # As on a disk that is mounted read-only; root may write everywhere else.
    monkeypatch.setattr(os, "access", lambda folder, _: Path(folder) != path.parent.absolute())
    code, _, err = run("model", "remove", "mine", "--yes")
    assert (code, "nothing was removed" in err) == (1, True)
    assert (path.exists(), list(entries())) == (True, ["mine"])


def test_removal_of_what_is_not_there_is_exit_2(run: Run) -> None:
    code, _, err = run("model", "remove", "nobody", "--yes")
    assert (code, "'nobody' does not exist" in err) == (2, True)


def test_model_of_the_settings_is_not_removed(run: Run, tiny_gguf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODEL_PATH", str(tiny_gguf))
    code, _, err = run("model", "remove", "tiny", "--yes")
    assert (code, "MODEL_PATH" in err) == (2, True)
    assert tiny_gguf.exists()


def test_list_tells_whether_files_are_there(run: Run, tiny_gguf: Path) -> None:
    MODELS.parent.mkdir()
    models = {"whole": str(tiny_gguf), "lost": "no/such.gguf"}
    MODELS.write_text(json.dumps({name: {"params": {"model": path}} for name, path in models.items()}))
    assert [model["exists"] for model in listed(run)] == [True, False]
    table = run("model", "list")[1]
    assert "there" in table
    assert "missing" in table
