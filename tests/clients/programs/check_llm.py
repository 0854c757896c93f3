"""llm, as its command: models of extra-openai-models.yaml, with the service's base URL and a key kept under a name."""

# mypy: disable-error-code="import-not-found"

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Protocol

import pytest
from click.testing import CliRunner
from llm.cli import cli

from tests.clients.programs.conftest import Herd

# By the name in llm: the name in the service, and what llm is told that it can do.
MODELS = {
    "smol": ("smol:exact", {"supports_schema": True}),
    "caller": ("smol", {"supports_tools": True}),
    "no": ("unknown", {}),
}


class Llm(Protocol):
    """The command with these arguments; its `exit_code`, `stdout` and `stderr`."""

    def __call__(self, *arguments: str) -> Any: ...


@pytest.fixture
def llm(herd: Herd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Llm:
    """It has a folder of its own, set up as docs/clients.md says."""
    monkeypatch.setenv("LLM_USER_PATH", str(tmp_path))
    entries = [
        {"model_id": name, "model_name": model, "api_base": herd.v1, "api_key_name": "herd", **more}
        for name, (model, more) in MODELS.items()
    ]
    (tmp_path / "extra-openai-models.yaml").write_text(json.dumps(entries))  # JSON is YAML too
    (tmp_path / "keys.json").write_text(json.dumps({"herd": herd.key}))
    return lambda *arguments: CliRunner().invoke(cli, arguments)


def said(done: Any) -> str:
    assert done.exit_code == 0, done.output
    return str(done.stdout)


def test_the_models_are_listed(llm: Llm) -> None:
    assert set(MODELS) <= {line.split()[-1] for line in said(llm("models", "list")).splitlines() if line}


def test_a_chat_is_answered_whole_and_streamed_with_its_usage(llm: Llm) -> None:
    ask = ("Name a colour.", "-m", "smol", "-o", "temperature", "0", "-o", "max_tokens", "16", "-o", "seed", "1", "-u")
    streamed, whole = llm(*ask), llm(*ask, "--no-stream")
    assert said(streamed) == said(whole) != "\n"
    assert "16 output" in streamed.stderr
    assert "16 output" in whole.stderr


def test_an_answer_fits_a_schema(llm: Llm) -> None:
    text = said(llm("Name a colour.", "-m", "smol", "--schema", "bright bool", "-o", "temperature", "0"))
    assert type(json.loads(text)["bright"]) is bool


def test_a_function_is_called(llm: Llm) -> None:
    code = 'def get_weather(city: str) -> str:\n    "The weather of a city."\n    return "Sunny"\n'
    done = llm("Call get_weather with Rome.", "-m", "caller", "--functions", code, "--td", "-o", "temperature", "0")
    assert said(done)
    assert "get_weather({'city': 'Rome'})" in done.stderr


def test_errors_are_told(llm: Llm) -> None:
    unknown = llm("Hi", "-m", "no")
    assert unknown.exit_code == 1
    assert "The model 'unknown' does not exist" in unknown.stderr
    denied = llm("Hi", "-m", "smol", "--key", "sk-lh-wrong")
    assert denied.exit_code == 1
    assert "401" in denied.stderr
