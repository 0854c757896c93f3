from __future__ import annotations

import http.client
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import IO

import pytest
import typer

from manager.auth import KeyStore
from manager.cli.options import expiry, size
from tests.conftest import MakeSettings
from tests.manager.conftest import Run

KEY = re.compile(r"sk-lh-[A-Za-z0-9_-]{43}")
LLAMAHERD = (sys.executable, "-m", "manager.cli")


def stored() -> KeyStore:
    store = KeyStore(Path("data/keys.json"))
    store.load()
    return store


def test_created_key_is_alone_on_standard_output(run: Run) -> None:
    code, out, err = run("key", "create", "web", "--description", "the web app")
    assert code == 0
    assert KEY.fullmatch(out.rstrip("\n"))
    key = stored().authenticate(out.strip())
    assert (key.name, key.description, set(key.scopes)) == ("web", "the web app", {"inference"})
    assert key.id in err
    assert not KEY.search(err)


def test_created_key_as_json_has_scopes_and_expiry(run: Run) -> None:
    code, out, _ = run(
        *("key", "create", "web", "--scope", "inference", "--scope", "admin", "--expires", "2100-01-02", "--json")
    )
    assert code == 0
    shown = json.loads(out)
    assert shown["scopes"] == ["inference", "admin"]
    assert shown["expires"] == "2100-01-02T00:00:00Z"
    assert "digest" not in shown
    assert stored().authenticate(shown["key"]).id == shown["id"]


def test_priority_of_a_key_is_kept_and_listed(run: Run) -> None:
    _, out, err = run("key", "create", "batch", "--priority", "-42")
    assert "priority -42" in err
    assert stored().authenticate(out.strip()).priority == -42
    assert "-42" in run("key", "list")[1]
    assert json.loads(run("key", "list", "--json")[1])[0]["priority"] == -42


def test_list_shows_neither_key_nor_digest(run: Run) -> None:
    _, token, _ = run("key", "create", "web", "--description", "[red]not markup")
    digest = stored().list()[0].digest
    for arguments in (["key", "list"], ["key", "list", "--json"]):
        code, out, err = run(*arguments)
        assert code == 0
        assert "web" in out
        assert "[red]not markup" in out
        for secret in (token.strip(), digest):
            assert secret not in out + err


def test_list_without_keys_says_so(run: Run) -> None:
    assert run("key", "list") == (0, "No key is stored.\n", "")


def test_revoked_key_is_gone(run: Run) -> None:
    run("key", "create", "web")
    code, out, _ = run("key", "revoke", "web")
    assert code == 0
    assert "'web'" in out
    assert len(stored()) == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["key", "revoke", "nobody"], "llamaherd: No key has the id or the name 'nobody'.\n"),
        (["key", "create", "  "], "llamaherd: The name of a key is 1 to 100 printable characters.\n"),
        (
            ["key", "create", "old", "--expires", "2001-01-01"],
            "llamaherd: The expiry of a key must lie in the future.\n",
        ),
    ],
)
def test_what_can_not_be_done_is_one_line_and_exit_1(run: Run, arguments: list[str], message: str) -> None:
    assert run(*arguments) == (1, "", message)


@pytest.mark.parametrize("arguments", [["key", "list"], ["key", "create", "x"], ["serve", "--port", "0"]])
def test_mistake_in_the_key_file_is_exit_2_with_file_and_place(run: Run, arguments: list[str]) -> None:
    Path("data").mkdir()
    Path("data/keys.json").write_text('{"keys": [{}]}')
    Path("data/keys.json").chmod(0o600)
    code, out, err = run(*arguments)
    assert code == 2
    assert out == ""
    assert err == f"llamaherd: {Path('data/keys.json').absolute()}: keys.0.id: Field required.\n"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["serve", "--port", "70000"], ["command line: server.port"]),
        (["serve", "--config", "none.yml"], ["none.yml"]),
        (["key", "list", "--config", "none.yml"], ["none.yml"]),
        (["serve", "--launcher", "magic"], ["magic", "embedded"]),
        (["key", "create", "x", "--scope", "root"], ["root", "inference"]),
        (["key", "create", "x", "--expires", "soon"], ["soon"]),
        (["key", "create", "x", "--priority", "101"], ["--priority", "100"]),
        (["key", "create", "x", "--priority", "high"], ["--priority", "integer"]),
        (["no-such-verb"], ["no-such-verb"]),
    ],
)
def test_mistake_in_options_is_exit_2_without_a_traceback(run: Run, arguments: list[str], words: list[str]) -> None:
    code, out, err = run(*arguments)
    assert code == 2
    assert out == ""
    assert "Traceback" not in err
    for word in words:
        assert word in err


def test_config_option_names_the_yaml_file(run: Run) -> None:
    Path("own.yml").write_text("storage:\n  data_folder: elsewhere\n")
    assert run("key", "create", "web", "--config", "own.yml")[0] == 0
    assert Path("elsewhere/keys.json").exists()
    assert run("key", "create", "web", "--config", "own.yml", "--data-folder", "here")[0] == 0
    assert Path("here/keys.json").exists()


def test_models_are_listed_with_the_reason_why_one_is_unavailable(run: Run, tiny_gguf: Path) -> None:
    Path("data").mkdir()
    models = {"whole": str(tiny_gguf), "lost": "no/such.gguf"}
    Path("data/models.json").write_text(
        json.dumps({name: {"params": {"model": path}} for name, path in models.items()})
    )
    code, out, _ = run("model", "list", "--json")
    assert code == 0
    whole, lost = json.loads(out)
    assert (whole["name"], whole["unavailable"], whole["bytes"]) == ("whole", None, tiny_gguf.stat().st_size)
    assert (lost["name"], lost["bytes"]) == ("lost", None)
    assert lost["unavailable"]
    code, out, _ = run("model", "list")
    assert code == 0
    assert "whole (default)" in out
    assert lost["unavailable"] in out


def test_list_without_models_names_the_file_and_the_way_to_one(run: Run) -> None:
    code, out, _ = run("model", "list")
    assert code == 0
    assert "data/models.json" in out
    assert "fetch-starter" in out


def test_mistake_in_models_file_is_exit_2_with_the_file(run: Run) -> None:
    Path("data").mkdir()
    Path("data/models.json").write_text("[")
    code, _, err = run("model", "list")
    assert code == 2
    assert "data/models.json" in err


def test_version_is_that_of_the_package(run: Run) -> None:
    code, out, _ = run("--version")
    assert code == 0
    assert re.fullmatch(r"llamaherd \d+\.\d+\.\d+\n", out)


def test_help_imports_nothing_that_takes_time() -> None:
    code = (
        "import sys, manager.cli; print(*{'pydantic', 'aiohttp', 'yaml', 'gguf', 'numpy', 'uvloop'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90m", 90 * 60),
        ("12h", 12 * 3600),
        ("30d", 30 * 86400),
        ("2w", 14 * 86400),
        ("2026-01-02", 86400),
        ("2026-01-01T06:00", 6 * 3600),
        ("2026-01-01T06:00+02:00", 4 * 3600),
    ],
)
def test_expiry_is_a_span_or_a_time(text: str, seconds: float) -> None:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    assert expiry(text, now) == now.timestamp() + seconds


@pytest.mark.parametrize("text", ["", "d", "30", "-3d", "3y", "1.5h", "tomorrow", "9999999999999d", "2026-13-01", "²d"])
def test_other_expiries_are_refused(text: str) -> None:
    with pytest.raises(typer.BadParameter):
        expiry(text, datetime.now(UTC))


@pytest.mark.parametrize(
    ("count", "text"), [(None, "?"), (0, "0.0 MB"), (98_362_432, "98.4 MB"), (4_368_439_584, "4.4 GB")]
)
def test_sizes_are_shown_for_people(count: int | None, text: str) -> None:
    assert size(count) == text


@contextmanager
def serving(*arguments: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The service as a process of its own, and its address."""
    process = subprocess.Popen(
        [*LLAMAHERD, "serve", "--port", "0", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    assert process.stderr is not None
    try:
        yield process, address(process.stderr)
    finally:
        process.kill()
        process.communicate()


def address(log: IO[str]) -> str:
    seen = []
    for line in log:
        if found := re.search(r"urls=(\S+)", line):
            return found[1]
        seen.append(line)
    raise AssertionError("".join(seen))


def status_of(url: str, token: str | None) -> int:
    connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=10)
    try:
        connection.request("GET", "/v1/models", headers={"Authorization": f"Bearer {token}"} if token else {})
        return connection.getresponse().status
    finally:
        connection.close()


def within(seconds: float, holds: Callable[[], bool]) -> bool:
    until = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > until:
            return False
    return True


@pytest.fixture
def no_models(make_settings: MakeSettings) -> None:
    """A models.json that lists none: nothing is fetched."""
    Path("data").mkdir()
    Path("data/models.json").write_text("{}")


@pytest.mark.usefixtures("no_models")
def test_first_start_makes_one_key_that_works_and_later_starts_none() -> None:
    with serving("--first-start") as (process, url):
        assert process.stdout is not None
        out = read_card(process.stdout)
        (token,) = set(KEY.findall(out))
        assert "curl http://127.0.0.1:" in out
        assert status_of(url, token) == 200
        assert status_of(url, None) == 401
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0
    (key,) = stored().list()
    assert set(key.scopes) == {"inference", "admin"}
    assert key.last_used is not None
    with serving("--first-start") as (process, url):
        process.send_signal(signal.SIGTERM)
        out, _ = process.communicate(timeout=10)
        assert out == ""


def read_card(out: IO[str]) -> str:
    """All between the two rules around the first key."""
    lines: list[str] = []
    while sum(line.startswith("───") for line in lines) < 2:
        line = out.readline()
        assert line, lines
        lines.append(line)
    return "".join(lines)


@pytest.mark.usefixtures("no_models")
def test_key_made_or_revoked_on_the_command_line_counts_in_the_running_service(run: Run) -> None:
    run("key", "create", "first")
    with serving() as (_, url):
        _, token, _ = run("key", "create", "second")
        assert within(5, lambda: status_of(url, token.strip()) == 200)
        run("key", "revoke", "second")
        assert within(5, lambda: status_of(url, token.strip()) == 401)


@pytest.mark.usefixtures("no_models")
def test_port_in_use_is_exit_2_with_the_port(run: Run) -> None:
    with serving() as (_, url):
        port = url.rpartition(":")[2]
        done = subprocess.run(
            [*LLAMAHERD, "serve", "--port", port], capture_output=True, text=True, check=False, timeout=20
        )
    assert done.returncode == 2
    assert port in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
