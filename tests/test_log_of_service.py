"""What a running service writes into its folder of logs."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from tests.routes.stage import CHAT, Stage
from tests.test_server import PATIENCE, Manager, wait_for

Serve = Callable[..., Manager]
MESSAGES: Final = [{"role": "user", "content": "one two three"}]


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    return Stage(tmp_path)


@pytest.fixture
def serve(stage: Stage, short_folder: Path) -> Iterator[Serve]:
    """Starts the service; keywords are settings of its log, and where its standard error goes."""
    managers: list[Manager] = []

    def start(stderr: int | None = None, **settings: str) -> Manager:
        variables = stage.variables() | {f"LLAMAHERD_LOG__{name.upper()}": value for name, value in settings.items()}
        variables |= {
            "PYTHONPATH": str(Path(__file__).parent.parent),
            "LLAMAHERD_STORAGE__RUN_FOLDER": str(short_folder / "run"),
            "LLAMAHERD_STORAGE__WATCH": "false",
        }
        managers.append(Manager(stage, variables, stderr))
        return managers[-1]

    yield start
    for manager in managers:
        manager.kill()


def asked(manager: Manager, path: str, request_id: str, **body: Any) -> http.client.HTTPConnection:
    connection = http.client.HTTPConnection("127.0.0.1", manager.port, timeout=PATIENCE)
    connection.request("POST", path, json.dumps(body), {"X-Request-ID": request_id})
    return connection


def objects(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def test_every_line_is_an_object_in_the_files_and_on_standard_error(stage: Stage, serve: Serve) -> None:
    """A request that loads a model and goes on: its own lines have its id, those of what is done for all have none."""
    fake = stage.model("alpha")
    fake.hold_streams()
    manager = serve(format="json")
    manager.listen()
    with contextlib.closing(asked(manager, CHAT, "chat-1", stream=True, messages=MESSAGES)) as chat:
        assert chat.getresponse().read(1)
        stage.model("beta")
        with contextlib.closing(asked(manager, "/admin/reload?secret=1", "reload-1")) as reload:
            assert reload.getresponse().status == 200
        fake.release_streams()
        wait_for(lambda: "chat-1" in manager.log, "the line of the request")
    manager.signal(signal.SIGTERM)
    assert manager.status() == 0

    logs = stage.folder / "applogs"
    written = objects(manager.log)
    assert sorted(map(str, objects((logs / "main.log").read_text()))) == sorted(map(str, written))
    assert "secret" not in manager.log
    assert [line["message"] for line in written if line.get("request") == "reload-1" and "message" in line] == [
        "reloaded models=2 keys=0"
    ]
    access = {line["request"]: (line["method"], line["path"], line["status"]) for line in written if "path" in line}
    assert access == {
        "chat-1": ("POST", "/v1/chat/completions", 200),
        "reload-1": ("POST", "/admin/reload", 200),
    }

    of_model = objects((logs / "alpha.log").read_text())
    assert {line["model"] for line in of_model} == {"alpha"}
    assert not any("request" in line for line in of_model)
    states = [line["message"].split()[1] for line in of_model if line["logger"] == "manager.instance"]
    assert states == [f"state={state}" for state in ("starting", "ready", "draining", "stopping", "stopped")]
    engine = [line["message"] for line in of_model if line["logger"] == "engine"]
    assert any("model loaded" in line for line in engine)
    assert "cleaning up before exit" in engine[-1]
    assert {stat.S_IMODE(file.stat().st_mode) for file in logs.iterdir()} == {0o600}


@pytest.mark.parametrize("form", ["text", "json"])
def test_the_last_lines_are_told_over_http_without_files_too(stage: Stage, serve: Serve, form: str) -> None:
    manager = serve(format=form, folder="")
    manager.listen()
    with manager.send("GET", "/admin/logs?tail=1000") as response:
        told = response.read().decode()
    first, *_ = [line for line in told.splitlines() if " INFO manager.server listening urls=" in line]
    assert " models=0 keys=0" in first
    if form == "text":
        wait_for(lambda: manager.log.startswith(told), "the same lines on standard error")
    assert not (stage.folder / "applogs").exists()
    with manager.send("GET", "/admin/logs?follow=true") as following:
        manager.signal(signal.SIGTERM)
        events = following.read().decode()
    assert 'event: log\ndata: {"n":1,' in events
    assert f'"message":"{first.partition(" manager.server ")[2]}"' in events
    assert manager.status() == 0


def test_a_start_that_fails_is_told_by_the_file_too(stage: Stage, serve: Serve) -> None:
    stage.models_file.write_text("{")
    manager = serve()
    assert manager.status() == 2
    assert manager.log.startswith("llamaherd: ")
    (line,) = (stage.folder / "applogs" / "main.log").read_text().splitlines()
    assert f" CRITICAL manager.log ended: {manager.log.removeprefix('llamaherd: ').splitlines()[0]}" in line


def test_a_request_for_what_is_not_there_is_logged_with_its_path(serve: Serve) -> None:
    manager = serve()
    manager.listen()
    for path in ("/v1/nothing?secret=1", "/api/nothing", "/nothing"):
        with manager.send("GET", path) as response:
            assert response.status == 404
    manager.signal(signal.SIGTERM)
    assert manager.status() == 0
    paths = [line.split(" GET ")[1].split(" ms=")[0] for line in manager.log.splitlines() if " ACCESS " in line]
    assert paths == ["'/v1/nothing' status=404", "'/api/nothing' status=404", "'/nothing' status=404"]


@contextlib.contextmanager
def full_disk() -> Iterator[int]:
    with open("/dev/full", "wb") as full:  # noqa: PTH123  a device
        yield full.fileno()


@contextlib.contextmanager
def unread() -> Iterator[int]:
    """A pipe that is full and that nobody reads."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(writer, b"x" * 4096)
    os.set_blocking(writer, True)
    try:
        yield writer
    finally:
        os.close(reader)
        os.close(writer)


@pytest.mark.parametrize("stderr", [full_disk, unread])
def test_where_standard_error_takes_nothing_the_file_has_all_and_the_service_ends_well(
    serve: Serve, stderr: Callable[[], contextlib.AbstractContextManager[int]]
) -> None:
    with stderr() as descriptor:
        manager = serve(descriptor)
        manager.listen()
        for _ in range(3):
            with manager.send("GET", "/ping") as response:
                assert response.read() == b"pong"
        manager.signal(signal.SIGTERM)
        assert manager.status() == 0
    lines = manager.log.splitlines()
    assert sum(" ACCESS " in line for line in lines) == 3
    assert "dropped" not in manager.log
    assert lines[-1].endswith(" INFO manager.server ended")
