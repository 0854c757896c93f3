"""What every test shares: the event loop of production, watchers for what a test must not do, settings and files."""

from __future__ import annotations

import asyncio
import gc
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable, Generator, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, Protocol

import psutil
import pytest
import uvloop
from blockbuster import BlockBuster
from hypothesis.configuration import set_hypothesis_home_dir

from manager.settings import Settings, load_settings
from manager.settings_layers import EXACT_NAMES, PREFIX
from manager.starter_model import starter_path
from tests.hf_models import kept_smollm2, tiny_encoder, tiny_text, tiny_vision
from tests.vision_gguf import kept_vision_gguf

# A header that passes for whole: no tensors, no metadata (gguf.md: magic, version, both counts).
EMPTY_GGUF: Final = b"GGUF" + (3).to_bytes(4, "little") + bytes(16)

# What may block in service code while a loop runs, and why.
MAY_BLOCK: Final = (
    # They run before the loop in the service; tests call them in their own.
    ("manager/settings.py", "load_settings"),
    ("manager/app.py", "create_app"),
    # The last lines, at the end of the service, when nobody is served any more.
    ("manager/log.py", "_write"),
)


set_hypothesis_home_dir(Path(tempfile.gettempdir()) / "llamaherd-hypothesis")  # else one is made in the repository


def pytest_collection_finish() -> None:
    """What was imported stays: without this each collection of garbage looks at 400,000 objects of torch's."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(wrapper=True)
def pytest_report_to_serializable() -> Generator[None, Any, Any]:
    """What a test logged or said may have half a character, which xdist can't send: the worker would end."""
    return _whole((yield))


def _whole(value: Any) -> Any:
    match value:
        case str():
            return value.encode("utf-8", "backslashreplace").decode()
        case dict():
            return {_whole(key): _whole(one) for key, one in value.items()}
        case list() | tuple():
            return type(value)(map(_whole, value))
    return value


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    return {"uvloop": uvloop.new_event_loop}


@pytest.fixture(scope="session")
def _detector() -> BlockBuster:
    # Only what service code calls is judged; a test may read files as it likes.
    detector = BlockBuster(["manager", "routes"])
    for function in detector.functions.values():
        for file, name in MAY_BLOCK:
            function.can_block_in(file, name)
    return detector


@pytest.fixture(autouse=True)
def _blocking_fails(_detector: BlockBuster) -> Iterator[None]:
    """A test fails where service code blocks the running event loop."""
    _detector.activate()
    yield
    _detector.deactivate()


@pytest.fixture(autouse=True)
async def _left_children_fail() -> AsyncIterator[None]:
    """A test fails where it leaves child processes behind. They are killed, for the sake of the next test.

    On the test's own loop, because uvloop never ends closing one whose child still runs.
    """
    before = _children()
    yield
    left = _children() - before
    if left:
        described = ", ".join(f"{child.pid} {child.name()} ({child.status()})" for child in left)
        for child in left:
            child.kill()
        with suppress(TimeoutError):
            async with asyncio.timeout(5):
                # The loop reaps those that it started; nobody tells when.
                while any(child.is_running() for child in left):  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
        pytest.fail(f"child processes are left: {described}")


def _children() -> set[psutil.Process]:
    """All processes that descend from this one. Where there are none, the kernel says so in a tenth of the time."""
    lists = [*Path("/proc/self/task").glob("*/children")]  # by thread; not every kernel has them
    if lists and not any(map(_text_of, lists)):
        return set()
    return set(psutil.Process().children(recursive=True))


def _text_of(file: Path) -> str:
    with suppress(FileNotFoundError, ProcessLookupError):  # the thread has ended
        return file.read_text()
    return ""


@pytest.fixture
def short_folder() -> Iterator[Path]:
    """A new folder whose path leaves room for the name of a Unix socket, as tmp_path need not."""
    folder = Path(tempfile.mkdtemp(prefix="lh-", dir="/tmp"))
    yield folder
    shutil.rmtree(folder)


class MakeSettings(Protocol):
    """Settings with everything in the test's own folders; sections are given as dictionaries."""

    def __call__(self, **sections: Mapping[str, Any]) -> Settings: ...


@pytest.fixture
def make_settings(tmp_path: Path, short_folder: Path, monkeypatch: pytest.MonkeyPatch) -> MakeSettings:
    """Neither variables nor a .env of whoever runs the tests count."""
    for name in list(_settings_in_environment()):
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    defaults: dict[str, dict[str, Any]] = {
        "server": {"port": 0, "drain_timeout": 5.0},
        "storage": {
            "data_folder": tmp_path / "data",
            "run_folder": short_folder / "run",
            "cache_folder": tmp_path / "cache",
        },
        "limits": {"load_timeout": 15.0, "wait_timeout": 15.0, "stop_grace": 5.0},
    }

    def make(**sections: Mapping[str, Any]) -> Settings:
        names = defaults.keys() | sections.keys()
        return load_settings({name: {**defaults.get(name, {}), **sections.get(name, {})} for name in names})

    return make


def _settings_in_environment() -> Iterator[str]:
    for name in os.environ:
        if name.upper().startswith(PREFIX) or name in EXACT_NAMES:
            yield name


@pytest.fixture
def tiny_gguf(tmp_path: Path) -> Path:
    """A GGUF file that passes for whole and holds nothing: enough for the fake llama-server."""
    path = tmp_path / "tiny.gguf"
    path.write_bytes(EMPTY_GGUF)
    return path


@pytest.fixture(scope="session")
def tiny_text_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random chat model, a token a byte."""
    _need_transformers()
    return tiny_text(tmp_path_factory.mktemp("hf") / "tiny-text")


@pytest.fixture(scope="session")
def tiny_vision_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model of images and text, a token a byte."""
    _need_transformers()
    pytest.importorskip("PIL", reason="Pillow is not installed, which makes images into numbers")
    return tiny_vision(tmp_path_factory.mktemp("hf") / "tiny-vision")


@pytest.fixture(scope="session")
def tiny_encoder_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model of embeddings: the mean of the tokens, of length 1."""
    _need_transformers()
    return tiny_encoder(tmp_path_factory.mktemp("hf") / "tiny-encoder")


@pytest.fixture(scope="session")
def smollm2_folder() -> Path:
    """SmolLM2 in bfloat16, made of the starter model's GGUF once and kept."""
    _need_transformers()
    settings = load_settings()
    gguf = Path(os.environ.get("STARTER_MODEL") or starter_path(settings))
    if not gguf.is_file():
        pytest.skip(f"there is no {gguf}: llamaherd model fetch-starter")
    return kept_smollm2(settings.storage.cache_folder / "tests", gguf)


def _need_transformers() -> None:
    pytest.importorskip("transformers", reason="the extra hf is not installed")


@pytest.fixture(scope="session")
def vision_gguf_folder(smollm2_folder: Path) -> Path:
    """A random vision model and its projector as GGUF files, made with llama.cpp's converter once and kept."""
    pytest.importorskip("PIL", reason="Pillow is not installed, which makes images into numbers")
    return kept_vision_gguf(load_settings().storage.cache_folder / "tests", smollm2_folder)
