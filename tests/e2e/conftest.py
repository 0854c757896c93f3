"""Real models, and the running service for each launcher. It is shared: a test that ends it takes one of its own."""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Final

import aiohttp
import psutil
import pytest
from openai import AsyncOpenAI, OpenAI

from manager.settings import load_settings
from manager.starter_model import provide_starter
from tests.e2e.service import PATIENCE, Service, running
from tests.gguf_files import write_tiny_gguf
from tests.gguf_rerank import write_tiny_reranker
from tests.launchers import launchers, native_binary

# Set by scripts/test, which has fetched the model.
STARTER: Final = "STARTER_MODEL"
TEACHER: Final = "You are a geography teacher. You answer in one short sentence."
# Its answers begin with reasoning, as a template says of which llama.cpp finds that out.
THINKING: Final = """\
{%- for message in messages -%}
{{ '<|im_start|>' + message['role'] + '\\n' }}
{%- if message['reasoning_content'] -%}
{{ '<think>\\n' + message['reasoning_content'] + '\\n</think>\\n\\n' }}
{%- endif -%}
{{ message['content'] + '<|im_end|>\\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\\n<think>\\n' }}{%- endif -%}
"""
# Knows tools, and shows by examples how one is called.
TOOLS: Final = Path(__file__).parent.parent / "clients" / "tools.jinja"
PIRATE: Final = "You are a pirate."

Start = Callable[[], AbstractContextManager[Service]]


@pytest.fixture(scope="session")
def starter() -> Path:
    """SmolLM2, fetched where it is not there yet."""
    known = os.environ.get(STARTER)
    return Path(known) if known else provide_starter(load_settings(), quiet=True)


@pytest.fixture(scope="session", params=launchers())
def launcher(request: pytest.FixtureRequest) -> dict[str, str]:
    """The settings that choose the launcher; every test here runs with each one that there is."""
    if request.param == "embedded":
        return {"LLAMAHERD_LLAMA__LAUNCHER": "embedded"}
    return {"LLAMAHERD_LLAMA__LAUNCHER": "native", "LLAMAHERD_LLAMA__BINARY": str(native_binary())}


@pytest.fixture(scope="session")
def model_files(tmp_path_factory: pytest.TempPathFactory, starter: Path) -> Path:
    """A folder of models as an administrator would have it, good ones and bad ones."""
    folder = tmp_path_factory.mktemp("models")
    (folder / "smol.gguf").symlink_to(starter)
    tiny = write_tiny_gguf(folder / "tiny.gguf")
    write_tiny_gguf(folder / "filler.gguf", fills_in=True)
    write_tiny_reranker(folder / "ranker.gguf")
    whole = tiny.read_bytes()
    (folder / "broken.gguf").write_bytes(whole[: len(whole) // 2])
    write_tiny_gguf(folder / "alien.gguf", architecture="alien")
    (folder / "text.gguf").write_text("This is no model.")
    (folder / "hub" / "some-hf-model").mkdir(parents=True)
    (folder / "hub" / "some-hf-model" / "config.json").write_text('{"architectures": ["LlamaForCausalLM"]}')
    return folder


def catalog() -> dict[str, Any]:
    """models.json. One thread: several wait for each other, which on a busy machine takes most of the time.

    Tests that look at a process or count its starts have an entry of their own.
    """
    smol = {"model": "smol.gguf", "ctxSize": 2048, "parallel": 2, "threads": 1, "nPredict": 64}
    tiny = {"model": "tiny.gguf", "threads": 1, "nPredict": 16}
    return {
        "smol": {
            "params": smol,
            "template": "chatml",
            "personalities": {"geography teacher": TEACHER, "pirate": PIRATE},
            "aliases": ["gpt-4o-mini"],
        },
        "smol-one": {"params": {**smol, "parallel": 1}, "template": "chatml"},
        "smol-cold": {"params": smol, "template": "chatml"},
        "smol-thinking": {"params": smol, "template": "thinking"},
        "smol-tools": {"params": smol, "template": "tools"},
        "tiny": {"params": tiny},
        "tiny-cold": {"params": tiny},
        "tiny-small-window": {"params": {**tiny, "ctxSize": 256, "parallel": 1}},
        "tiny-greedy": {"params": {**tiny, "temperature": 0, "nPredict": 40}},
        "filler": {"params": {**tiny, "model": "filler.gguf"}},
        "ranker": {"params": {"model": "ranker.gguf", "reranking": True, "ctxSize": 128, "threads": 1}},
        "broken": {"params": {"model": "broken.gguf"}},
        "alien": {"params": {"model": "alien.gguf"}},
        "text": {"params": {"model": "text.gguf"}},
    }


@pytest.fixture(scope="session")
def start(tmp_path_factory: pytest.TempPathFactory, model_files: Path, launcher: Mapping[str, str]) -> Start:
    """Start a service in a new folder."""

    def begin() -> AbstractContextManager[Service]:
        folder = tmp_path_factory.mktemp("service")
        (folder / "data" / "templates").mkdir(parents=True)
        (folder / "data" / "templates" / "thinking.jinja").write_text(THINKING)
        (folder / "data" / "templates" / "tools.jinja").symlink_to(TOOLS)
        (folder / "data" / "models.json").write_text(json.dumps(catalog()))
        environment = {
            "LLAMAHERD_STORAGE__MODELS_FOLDER": str(model_files),
            "LLAMAHERD_LIMITS__STREAM_HEARTBEAT": "0.02",
            "LLAMAHERD_SERVER__DRAIN_TIMEOUT": str(PATIENCE),
            "HF_MODELS_DIR": str(model_files / "hub"),
            **launcher,
        }
        return running(folder, environment)

    return begin


@pytest.fixture(scope="session")
def service(start: Start) -> Iterator[Service]:
    """The service that tests share."""
    with start() as service:
        yield service


@pytest.fixture(scope="session")
def hf_service(
    tmp_path_factory: pytest.TempPathFactory,
    smollm2_folder: Path,
    tiny_text_folder: Path,
    tiny_vision_folder: Path,
    tiny_encoder_folder: Path,
) -> Iterator[Service]:
    """A service with Hugging Face models, and a GGUF model beside them."""
    folder = tmp_path_factory.mktemp("hf-service")
    hub = folder / "hub"
    for path in (folder / "data", hub):
        path.mkdir()
    for one in (tiny_text_folder, tiny_vision_folder, tiny_encoder_folder):
        (hub / one.name).symlink_to(one)
    write_tiny_gguf(folder / "tiny.gguf")
    smol = {"model": str(smollm2_folder), "ctxSize": 8192, "device_map": "cpu"}
    models = {
        "smollm": {"engine": "hf", "params": smol, "personalities": {"pirate": PIRATE}},
        "smollm-cold": {"engine": "hf", "params": smol},
        "tiny": {"params": {"model": "tiny.gguf", "threads": 1}},
    }
    (folder / "data" / "models.json").write_text(json.dumps(models))
    environment = {
        "LLAMAHERD_LLAMA__LAUNCHER": "embedded",
        "LLAMAHERD_SERVER__DRAIN_TIMEOUT": str(PATIENCE),
        "LLAMAHERD_STORAGE__MODELS_FOLDER": str(folder),
        "HF_MODELS_DIR": str(hub),
    }
    with running(folder, environment) as service:
        yield service


@pytest.fixture
def fresh_service(start: Start) -> Iterator[Service]:
    """A service for one test, with nothing loaded."""
    with start() as service:
        yield service


@pytest.fixture
def client(service: Service) -> Iterator[OpenAI]:
    """The official client. It does not retry, so that no failure stays unseen."""
    with OpenAI(base_url=service.openai_url, api_key=service.key, max_retries=0, timeout=PATIENCE) as client:
        yield client


@pytest.fixture
async def async_client(service: Service) -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(base_url=service.openai_url, api_key=service.key, max_retries=0, timeout=PATIENCE) as client:
        yield client


@pytest.fixture
async def http(service: Service) -> AsyncIterator[aiohttp.ClientSession]:
    """Plain HTTP with the key that may do everything."""
    async with plain_http(service) as session:
        yield session


def plain_http(service: Service) -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        service.url,
        headers={"Authorization": f"Bearer {service.key}"},
        timeout=aiohttp.ClientTimeout(total=PATIENCE),
    )


@pytest.fixture(autouse=True)
def _left_children_fail() -> Iterator[None]:
    """As for all tests, but of services only: the shared one starts models in whichever test asks for them first.

    That a service leaves no process of its own is checked wherever one ends.
    """
    own = psutil.Process()
    before = set(own.children())
    yield
    left = set(own.children()) - before
    for child in left:
        child.kill()
    psutil.wait_procs(left, timeout=PATIENCE)
    assert not left
