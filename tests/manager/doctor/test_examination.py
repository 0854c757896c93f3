"""The doctor as a whole: what breaks, and the command."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from manager.cli.doctor import doctor
from manager.doctor import Finding, Level, examine
from manager.doctor.case import Case
from manager.doctor.finding import ok
from manager.errors import ConfigError, LoadFailed
from tests.manager.doctor.conftest import MakeCase, Nvml

SECRETS = {"LLAMAHERD_HUB__TOKEN": "hf_very_secret", "LLAMAHERD_TLS__PASSPHRASE": "opensesame"}


@pytest.fixture
def ask(monkeypatch: pytest.MonkeyPatch) -> Any:
    """`llamaherd doctor` in this process: exit status and standard output."""
    app = typer.Typer()
    app.command()(doctor)
    monkeypatch.setenv("LLAMAHERD_SERVER__PORT", "0")

    def call(*arguments: str) -> tuple[int, str]:
        done = CliRunner().invoke(app, arguments, catch_exceptions=False)
        return done.exit_code, done.stdout

    return call


def half_told(_: Case) -> Iterator[Finding]:
    yield ok("first", "is told")
    raise ValueError("a text that may hold a secret")


def test_check_that_breaks_is_a_finding_and_the_rest_goes_on(make_case: MakeCase) -> None:
    def no_file(_: Case) -> Iterator[Finding]:
        yield ok("size", str(Path("/nowhere").stat()))

    def refused(_: Case) -> Iterator[Finding]:
        raise ConfigError("the place: the mistake")

    def failed(_: Case) -> Iterator[Finding]:
        raise LoadFailed("it can't be loaded")

    found = examine(make_case(), {"a": (half_told, no_file), "b": (refused, failed)})
    assert [(one.area, one.name, one.level, one.text) for one in found] == [
        ("a", "first", Level.OK, "is told"),
        ("a", "half told", Level.WARNING, "Could not be told: ValueError."),
        ("a", "no file", Level.WARNING, "Could not be told: [Errno 2] No such file or directory: '/nowhere'."),
        ("b", "refused", Level.ERROR, "the place: the mistake"),
        ("b", "failed", Level.WARNING, "it can't be loaded"),
    ]


def test_library_of_nvidia_that_fails_everywhere_breaks_no_area(make_case: MakeCase) -> None:
    class Broken(Nvml):
        def nvmlDeviceGetCount(self) -> int:
            raise RuntimeError

    found = examine(make_case(nvml=Broken()))
    assert {"Could not be told: RuntimeError."} == {one.text for one in found if one.text.startswith("Could not")}
    assert {one.area for one in found} >= {"system", "models", "ports"}


def test_mistakes_in_settings_come_first_and_what_needs_none_is_still_told(
    ask: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLAMAHERD_SERVER__PORT", "many")
    monkeypatch.setenv("LLAMAHERD_LOG__KEEP", "-1")
    code, out = ask("--json")
    found = json.loads(out)
    assert code == 1
    assert [one["text"].partition(":")[0] for one in found[:2]] == ["LLAMAHERD_SERVER__PORT", "LLAMAHERD_LOG__KEEP"]
    assert {one["level"] for one in found[:2]} == {"error"}
    assert {one["advice"] for one in found[:2]} == {"mend it there, and look again: llamaherd config check"}
    assert {"Python", "clock"} <= {one["name"] for one in found}
    skipped = [one["area"] for one in found if one["text"] == "the settings have mistakes."]
    assert skipped == list(dict.fromkeys(skipped))  # once for each area
    assert {"models", "ports"} <= set(skipped)


def test_findings_are_grouped_by_area_with_marks_advice_and_a_summary(ask: Any) -> None:
    code, out = ask()
    lines = out.splitlines()
    assert code == 0
    assert [line for line in lines if line and not line.startswith(" ")][:3] == ["config", "system", "engine"]
    warned = next(at for at, line in enumerate(lines) if line.startswith("  ! models"))
    assert lines[warned].endswith("There is no model to serve.")
    assert lines[warned + 1].strip().startswith("do: fetch one: llamaherd model")
    assert lines[-1].startswith("ok: ")
    assert "errors" not in lines[-1]


def test_every_error_and_warning_says_what_to_do(ask: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLAMAHERD_LLAMA__BINARY", "/nowhere")
    monkeypatch.setenv("LLAMAHERD_SERVER__HOST", "192.0.2.1")
    monkeypatch.setenv("MODEL_NAME", "none")
    code, out = ask("--json")
    wrong = [one for one in json.loads(out) if one["level"] in ("warning", "error")]
    assert code == 1
    assert {one["name"] for one in wrong} >= {"launcher", "default model", "exposure"}
    # What exposure says is a message of the start, which has the command in it.
    assert [one["name"] for one in wrong if one["advice"] is None] == ["exposure"]
    assert "llamaherd key create" in next(one["text"] for one in wrong if one["name"] == "exposure")


def test_no_secret_is_shown_and_nothing_is_logged(
    ask: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("LLAMAHERD_TLS__HOST", "llm.lan")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "models.json").write_text(json.dumps({"a": {"params": {"model": "gone.gguf"}}}))
    with caplog.at_level(logging.DEBUG, "manager"):
        shown = ask()[1] + ask("--json")[1]
    assert "gone.gguf" in shown
    assert [value for value in SECRETS.values() if value in shown] == []
    assert caplog.records == []


def test_output_may_be_ascii_and_packages_that_are_slow_to_import_are_not_imported(tmp_path: Path) -> None:
    code = (
        "import sys, typer; from manager.cli.doctor import doctor; app = typer.Typer(); app.command()(doctor);"
        "app(standalone_mode=False); print(sorted(sys.modules.keys() & {'torch', 'transformers', 'xllamacpp'}))"
    )
    environment = {"PYTHONPATH": str(Path(__file__).parents[3]), "PYTHONIOENCODING": "ascii", "HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, timeout=30, check=False
    )
    assert b"  + Python" in done.stdout, done.stderr
    assert done.stdout.endswith(b"\n[]\n"), done.stderr
