"""Every name of the contract (C5, A9, B2, D12), one by one: what is set under it arrives where it counts."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import aiohttp
import pytest
import yaml

from manager.app import create_app
from manager.catalog import load_catalog
from manager.engines.llama.engine import LlamaEngine
from manager.entry import HfParams, ModelEntry
from manager.errors import ConfigError, LoadFailed
from manager.run_folder import RunFolder
from manager.server import Server
from manager.settings import Settings, load_settings
from manager.settings_layers import EXACT_NAMES, sections_of
from tests.conftest import EMPTY_GGUF, MakeSettings
from tests.manager.tls.pki import authority, issue, write

HOST: Final = "127.0.0.2"  # loopback, and not the default
PAGE: Final = "https://chat.example.org"
ROOT: Final = Path(__file__).parents[2]


class Service:
    """The settings as they are now, and what the parts of the service make of them."""

    def __init__(self) -> None:
        self.settings = load_settings()

    async def entry(self, name: str) -> ModelEntry:
        return (await asyncio.to_thread(load_catalog, self.settings)).find(name).entry

    async def child(self, name: str) -> tuple[list[str], dict[str, str]]:
        """Arguments and environment of the process that is started for a model; it ends at once."""
        runs = await asyncio.to_thread(RunFolder, self.settings.storage.run_folder)
        engine = LlamaEngine(await self.entry(name), self.settings, runs)
        with pytest.raises(LoadFailed):
            await engine.start()
        await engine.stop()
        return _written("arguments"), dict(line.split("=", 1) for line in _written("environment") if "=" in line)

    async def option(self, name: str, model: str = "silent") -> str:
        """What the child of this model is told for a command line option."""
        arguments, _ = await self.child(model)
        return arguments[arguments.index(name) + 1]

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[Server]:
        server = Server(await asyncio.to_thread(create_app, self.settings), self.settings)
        await server.start()
        try:
            yield server
        finally:
            await server.close()


def _written(file: str) -> list[str]:
    return Path(file).read_text().splitlines()


Effect = Callable[[Service], Awaitable[None]]


@dataclass(frozen=True)
class Name:
    """A name, the value it is given, what shows that it counts, and what has to be set besides."""

    name: str
    value: Any
    effect: Effect
    also: dict[str, Any] = field(default_factory=dict)


def write_program(name: str) -> Path:
    """An executable that writes down its name, its arguments and its environment, and fails."""
    program, here = Path(name).absolute(), Path.cwd()
    record = f"printf '%s\\n' \"$0\" \"$@\" >'{here}/arguments'; env >'{here}/environment'; exit 1"
    program.write_text(f"#!/bin/sh\n{record}\n")
    program.chmod(0o755)
    return program


# What there is: a llama-server that writes down how it was started, and models.


@pytest.fixture(autouse=True)
def _machine(make_settings: MakeSettings, short_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a folder of its own, without variables. Of the models, `silent` says nothing of itself, `own` everything."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    here = Path.cwd()
    program = write_program("llama-server")
    for file in ("data/models/m.gguf", "found/discovered.gguf", "single.gguf", "mmproj.gguf", "other/m.gguf"):
        (here / file).parent.mkdir(parents=True, exist_ok=True)
        (here / file).write_bytes(EMPTY_GGUF)
    folder = here / "hub" / "folder-model"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    own = {"ctxSize": 128, "gpuLayers": 7, "batchSize": 32, "threads": 5, "temperature": 0.1, "nPredict": 9}
    params: dict[str, dict[str, Any]] = {"silent": {}, "own": own}
    entries = {name: {"params": {"model": "m.gguf", **values}} for name, values in params.items()}
    (here / "data/models.json").write_text(json.dumps(entries))
    (here / "settings.yml").write_text(json.dumps({"storage": {"run_folder": str(short_folder / "run")}}))
    monkeypatch.setenv("CONFIG_PATH", "settings.yml")
    monkeypatch.setenv("LLAMAHERD_LLAMA__BINARY", str(program))


def in_environment(monkeypatch: pytest.MonkeyPatch, names: dict[str, Any]) -> None:
    for name, value in names.items():
        monkeypatch.setenv(name, str(value))


def in_dotenv(names: dict[str, Any]) -> None:
    Path(".env").write_text("".join(f"{name}={value}\n" for name, value in names.items()), encoding="utf-8")


def in_yaml(names: dict[str, Any]) -> None:
    """Names are section.key."""
    path = Path("settings.yml")
    written = yaml.safe_load(path.read_text())
    for name, value in names.items():
        section, _, key = name.partition(".")
        written.setdefault(section, {})[key] = value
    path.write_text(json.dumps(written))  # which is YAML


# What shows that a name counts


def option(name: str, expected: str, own: str | None = None) -> Effect:
    """The child is told so for a model that says nothing, and `own` for the one that says everything."""

    async def shown(service: Service) -> None:
        assert await service.option(name) == expected
        if own is not None:
            assert await service.option(name, "own") == own

    return shown


async def window(service: Service) -> None:
    await option("--ctx-size", "1024", own="256")(service)  # of both slots
    folder = await service.entry("folder-model")
    assert isinstance(folder.params, HfParams)
    assert folder.params.ctx_size == 512


async def gguf_folder(service: Service) -> None:
    assert (await service.entry("discovered")).path == Path.cwd() / "found" / "discovered.gguf"


async def hf_folder(service: Service) -> None:
    entry = await service.entry("folder-model")
    assert (entry.engine, entry.path) == ("hf", Path.cwd() / "hub" / "folder-model")


async def visible_devices(service: Service) -> None:
    assert (await service.child("silent"))[1]["CUDA_VISIBLE_DEVICES"] == "1"


async def no_devices(service: Service) -> None:
    assert (await service.child("silent"))[1]["CUDA_VISIBLE_DEVICES"] == ""


async def with_vision(service: Service) -> None:
    entry = await service.entry("single")
    assert (entry.path, entry.mmproj) == (Path.cwd() / "single.gguf", Path.cwd() / "mmproj.gguf")
    assert await service.option("--mmproj", "single") == str(Path.cwd() / "mmproj.gguf")


async def text_only(service: Service) -> None:
    assert (await service.entry("single")).mmproj is None
    assert "--mmproj" not in (await service.child("single"))[0]


async def single_model(service: Service) -> None:
    assert await service.option("--model", "single") == str(Path.cwd() / "single.gguf")


async def named_and_default(service: Service) -> None:
    catalog = await asyncio.to_thread(load_catalog, service.settings)
    assert catalog.default == "seer"
    assert await service.option("--alias", "seer") == "seer"


async def listens_on_host(service: Service) -> None:
    async with service.listening() as server:
        assert server.urls.startswith(f"http://{HOST}:")


async def listens_on_port(service: Service) -> None:
    async with service.listening() as server:
        assert server.urls == f"http://127.0.0.1:{service.settings.server.port}"


async def origin_is_allowed(service: Service) -> None:
    async with service.listening() as server, aiohttp.ClientSession() as session:
        for origin, allowed in ((PAGE, PAGE), ("https://other.example.org", None)):
            async with session.get(f"{server.urls}/v1/models", headers={"Origin": origin}) as answer:
                assert answer.headers.get("Access-Control-Allow-Origin") == allowed


async def log_has_warnings_only(_: Service) -> None:
    lines = await asyncio.to_thread(_log_of_service)
    assert lines
    assert [line for line in lines if "listening" in line] == []


def _log_of_service() -> list[str]:
    """What `llamaherd serve` writes until it has told, in a warning, that there is no key."""
    command = [sys.executable, "-m", "manager.cli", "serve", "--port", "0"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    lines = []
    with subprocess.Popen(command, stderr=subprocess.PIPE, env=environment, text=True) as process:
        assert process.stderr is not None
        for line in process.stderr:
            lines.append(line)
            if "no API key is stored" in line:
                process.send_signal(signal.SIGTERM)
    assert process.returncode == 0
    return lines


C5: Final = (
    Name("server.host", HOST, listens_on_host, {"server.port": 0}),
    Name("server.port", "FREE", listens_on_port),
    Name("server.log_level", "warning", log_has_warnings_only),
    Name("cors.allowed_origins", [PAGE], origin_is_allowed, {"server.port": 0}),
    Name("model.path", "single.gguf", single_model),
    Name("model.name", "seer", named_and_default, {"model.path": "single.gguf"}),
    Name("model.ctx_size", 512, window, {"storage.hf_models_dir": "hub"}),
    Name("model.gpu_layers", 3, option("--gpu-layers", "3", own="7")),
    Name("generation.default_temperature", 0.5, option("--temp", "0.5", own="0.1")),
    Name("generation.default_max_tokens", 77, option("--n-predict", "77", own="9")),
)
A9: Final = (
    Name("GGUF_MODELS_DIR", "found", gguf_folder),
    Name("HF_MODELS_DIR", "hub", hf_folder),
    Name("LLAMA_N_CTX", 512, window, {"HF_MODELS_DIR": "hub"}),
    Name("LLAMA_N_GPU_LAYERS", -1, option("--gpu-layers", "all", own="7")),
    Name("LLAMA_N_BATCH", 64, option("--batch-size", "64", own="32")),
    Name("LLAMA_N_THREADS", 3, option("--threads", "3", own="5")),
    Name("LLAMA_LOG_LEVEL", "debug", option("--verbosity", "5")),
    Name("CUDA_VISIBLE_DEVICES", 1, visible_devices),
    Name("CUDA_VISIBLE_DEVICES", "", no_devices),
)
B2: Final = (
    Name("MODEL_TYPE", "VL", with_vision, {"MODEL_PATH": "single.gguf", "MMPROJ_PATH": "mmproj.gguf"}),
    Name("MODEL_TYPE", "LLM", text_only, {"MODEL_PATH": "single.gguf", "MMPROJ_PATH": "mmproj.gguf"}),
    Name("MODEL_PATH", "single.gguf", single_model),
    Name("MMPROJ_PATH", "mmproj.gguf", with_vision, {"MODEL_PATH": "single.gguf"}),
    Name("MODEL_NAME", "seer", named_and_default, {"MODEL_PATH": "single.gguf"}),
)


def _id(case: Name) -> str:
    return f"{case.name}={case.value}"


@pytest.mark.parametrize("case", C5, ids=_id)
async def test_key_of_the_yaml_file_arrives(case: Name) -> None:
    in_yaml({**case.also, case.name: _free_port() if case.value == "FREE" else case.value})
    await case.effect(Service())


@pytest.mark.parametrize("case", [*A9, *B2], ids=_id)
async def test_variable_arrives(case: Name, monkeypatch: pytest.MonkeyPatch) -> None:
    in_environment(monkeypatch, {**case.also, case.name: case.value})
    await case.effect(Service())


@pytest.mark.parametrize("case", [*A9, *B2], ids=_id)
def test_variable_in_dotenv_is_the_same_setting(case: Name, monkeypatch: pytest.MonkeyPatch) -> None:
    names, plain = {**case.also, case.name: case.value}, load_settings().model_dump()
    in_dotenv(names)
    settings = load_settings().model_dump()  # without the origins, which differ
    assert settings != plain
    Path(".env").unlink()
    in_environment(monkeypatch, names)
    assert load_settings().model_dump() == settings


def test_variables_of_the_contract_are_all_here() -> None:
    others = {"CONFIG_PATH", "HF_ENDPOINT", "HF_TOKEN"}  # ours
    assert {case.name for case in (*A9, *B2)} == EXACT_NAMES.keys() - others


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


# D12. Host and port are above.


@pytest.fixture
def certificates() -> Path:
    """Certificate, key with the passphrase "sesame", and what is between the certificate and its root."""
    folder = Path("certificates")
    folder.mkdir()
    root = authority("Our Root")
    between = authority("Our CA", root)
    issued = issue("llm.test", between)
    write(folder / "root.pem", root.pem)
    write(folder / "chain.pem", between.pem)
    write(folder / "crt.pem", issued.pem)
    write(folder / "key.pem", issued.locked_key(b"sesame"), 0o600)
    return folder


def tls_settings(folder: Path) -> dict[str, Any]:
    files = {"certificate": "crt", "private_key": "key", "chain": "chain"}
    return {f"tls.{name}": str(folder / f"{file}.pem") for name, file in files.items()} | {"tls.passphrase": "sesame"}


async def name_over_https(folder: Path) -> None:
    """A client that knows nothing but the root speaks with the service, and finds it to be llm.test."""
    context = ssl.create_default_context(cafile=folder / "root.pem")
    async with Service().listening() as server:
        port = int(server.urls.rpartition(":")[2])
        assert server.urls.startswith("https://")
        _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname="llm.test")
        writer.close()
        await writer.wait_closed()


async def test_certificate_key_chain_and_passphrase_arrive_and_make_https(certificates: Path) -> None:
    in_yaml({"server.port": 0, **tls_settings(certificates)})
    await name_over_https(certificates)


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("tls.certificate", "certificates/chain.pem", "chain.pem"),
        ("tls.private_key", "certificates/root.pem", "root.pem"),
        ("tls.passphrase", "wrong", "key.pem"),
        ("tls.chain", "certificates/nothing.pem", "nothing.pem"),
    ],
)
def test_each_file_of_https_and_the_passphrase_count(certificates: Path, name: str, value: str, says: str) -> None:
    in_yaml({"server.port": 0, **tls_settings(certificates), name: value})
    with pytest.raises(ConfigError, match=says):
        create_app(load_settings())


async def test_without_the_chain_clients_do_not_find_the_root(certificates: Path) -> None:
    names = tls_settings(certificates)
    del names["tls.chain"]
    in_yaml({"server.port": 0, **names})
    with pytest.raises(ssl.SSLCertVerificationError):
        await name_over_https(certificates)


async def test_https_can_be_turned_off(certificates: Path) -> None:
    names = tls_settings(certificates)
    del names["tls.passphrase"]
    in_yaml({"server.port": 0, **names, "tls.enabled": False})
    async with Service().listening() as server:
        assert server.urls.startswith("http://")


async def test_binary_of_llama_cpp_is_the_one_that_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LLAMAHERD_LLAMA__BINARY")
    other = write_program("another-server")
    in_yaml({"llama.binary": other.name})
    assert (await Service().child("silent"))[0][0] == str(other)


async def test_paths_of_models_are_relative_to_the_storage_folder() -> None:
    in_yaml({"storage.models_folder": "other"})
    assert await Service().option("--model") == str(Path.cwd() / "other" / "m.gguf")


# the order of origins


ORDER: Final = (
    ("server", "port", (1, 2, 3, 4)),
    ("tls", "hsts", (1, 2, 3, 4)),
    ("cors", "allowed_origins", (["https://a.b"], ["https://b.c"], ["https://c.d"], ["https://d.e"])),
    ("model", "ctx_size", (1, 2, 3, 4)),
    ("generation", "default_temperature", (0.1, 0.2, 0.3, 0.4)),
    ("storage", "usage_days", (1, 2, 3, 4)),
    ("children", "open_files", (65, 66, 67, 68)),
    ("media", "remote", (True, False, True, False)),
    ("llama", "log_level", ("error", "warning", "info", "trace")),
    ("memory", "host_budget", (1, 2, 3, 4)),
    ("scheduling", "home", ("a", "b", "c", "d")),
    ("limits", "queue", (1, 2, 3, 4)),
    ("hub", "endpoint", ("https://a.b", "https://b.c", "https://c.d", "https://d.e")),
    ("log", "keep", (1, 2, 3, 4)),
    ("activity", "history", (1, 2, 3, 4)),
)


@pytest.mark.parametrize(("section", "key", "values"), ORDER, ids=[row[0] for row in ORDER])
def test_command_line_over_environment_over_dotenv_over_yaml_over_default(
    section: str, key: str, values: tuple[Any, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    def now(overrides: dict[str, Any] | None = None) -> Any:
        return getattr(getattr(load_settings(overrides), section), key)

    file, dotenv, environment, command_line = values
    variable = f"LLAMAHERD_{section}__{key}".upper()
    assert now() not in (file, dotenv, environment) or section == "media"
    in_yaml({f"{section}.{key}": file})
    assert now() == file
    in_dotenv({variable: _text(dotenv)})
    assert now() == dotenv
    monkeypatch.setenv(variable, _text(environment))
    assert now() == environment
    assert now({section: {key: command_line}}) == command_line


def _text(value: Any) -> str:
    return ",".join(value) if isinstance(value, list) else str(value)


def test_order_is_shown_for_every_section() -> None:
    assert {row[0] for row in ORDER} == sections_of(Settings).keys()


@pytest.mark.parametrize("section", sorted(sections_of(Settings)))
def test_unknown_key_is_an_error_that_names_file_and_key(section: str) -> None:
    in_yaml({f"{section}.colour": "red"})
    with pytest.raises(ConfigError, match=rf"^settings\.yml, line 1: {section}\.colour: unknown key"):
        load_settings()
