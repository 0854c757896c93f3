"""The service as a process: how it starts, refuses to start, reloads and ends, and what it writes."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import os
import re
import resource
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, Final

import psutil
import pytest

from manager.app import create_app
from manager.auth import KeyStore
from manager.errors import ConfigError
from manager.server import Server
from manager.settings_layers import EXACT_NAMES, PREFIX
from tests.conftest import MakeSettings
from tests.manager.tls.pki import issue
from tests.routes.stage import CHAT, Fake, Stage

# What start-up, a request, or an end may take on a machine that is busy with other things.
PATIENCE: Final = 15.0
DEATH_PATIENCE: Final = 3.0
# Starts the fake so that the death of the manager does not reach it, as on systems without PR_SET_PDEATHSIG.
ORPHAN: Final = """#!{python}
import ctypes, os, sys
ctypes.CDLL(None).prctl(1, 0)
os.execv("{binary}", sys.argv)
"""
EVERYWHERE: Final = "0.0.0.0"  # noqa: S104  a service without keys must not listen there


def wait_for(condition: Callable[[], Any], what: str, patience: float = PATIENCE) -> Any:
    """Its first true value; fails where none comes."""
    deadline = time.monotonic() + patience
    while not (value := condition()):
        assert time.monotonic() < deadline, f"{what} did not come about"
        time.sleep(0.005)
    return value


def alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


class Manager:
    """A running `llamaherd serve`."""

    def __init__(self, stage: Stage, variables: Mapping[str, str], stderr: int | None = None) -> None:
        """With another `stderr`, `log` is what its file has."""
        own = stage.folder / f"log-{time.monotonic_ns()}"
        self.log_file = own if stderr is None else stage.folder / "applogs" / "main.log"
        with own.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "manager.cli", "serve"],
                env={**variables, "PYTHONWARNINGS": "error"},
                cwd=stage.folder,
                stdout=log,
                stderr=log if stderr is None else stderr,
            )
        self.port = 0

    @property
    def log(self) -> str:
        return self.log_file.read_text() if self.log_file.exists() else ""

    def listen(self) -> None:
        """Wait until it listens."""
        self.port = wait_for(self._port, "listening")

    def _port(self) -> int:
        assert self.process.poll() is None, f"it ended: {self.log}"
        found = re.search(r"listening urls=https?://127\.0\.0\.1:(\d+)", self.log)
        return int(found[1]) if found else 0

    def says(self, text: str) -> None:
        """Wait until its log has this."""
        wait_for(lambda: text in self.log, f"{text!r} in the log")

    @contextmanager
    def send(
        self, method: str, path: str, body: Any = None, key: str | None = None
    ) -> Iterator[http.client.HTTPResponse]:
        """A request on a connection of its own; the answer's body is still to be read."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        try:
            connection.request(method, path, None if body is None else json.dumps(body), headers)
            with connection.getresponse() as response:
                yield response
        finally:
            connection.close()

    def get(self, path: str, key: str | None = None) -> Any:
        with self.send("GET", path, key=key) as response:
            assert response.status == 200
            return json.loads(response.read())

    def models(self, key: str | None = None) -> list[str]:
        """The names of its models."""
        return [model["id"] for model in self.get("/v1/models", key)["data"]]

    def chat(
        self, text: str, key: str | None = None, **fields: Any
    ) -> AbstractContextManager[http.client.HTTPResponse]:
        return self.send("POST", CHAT, {"messages": [{"role": "user", "content": text}], **fields}, key)

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def status(self) -> int:
        """Its exit status, when it has ended."""
        return self.process.wait(PATIENCE)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    return Stage(tmp_path)


@pytest.fixture
def variables(stage: Stage, short_folder: Path) -> dict[str, str]:
    """The environment of a manager: the stage's settings and none of whoever runs the tests."""
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith(PREFIX) and name not in EXACT_NAMES
    }
    root = str(Path(__file__).parent.parent)
    return {
        **kept,
        **stage.variables(),
        "PYTHONPATH": root,
        "LLAMAHERD_STORAGE__RUN_FOLDER": str(short_folder / "run"),
        "LLAMAHERD_LIMITS__STOP_GRACE": "2",
    }


@pytest.fixture
def fake(stage: Stage) -> Fake:
    return stage.model("alpha", personalities={"pirate": "Talk like a pirate."})


StartManager = Callable[..., Manager]


@pytest.fixture
def start(stage: Stage, variables: dict[str, str]) -> Iterator[StartManager]:
    """Starts managers; more variables are given by their names without the prefix, in lower case."""
    managers: list[Manager] = []

    def begin(**more: str) -> Manager:
        prefixed = {f"{PREFIX}{name.upper()}": value for name, value in more.items()}
        manager = Manager(stage, {**variables, **prefixed})
        managers.append(manager)
        manager.listen()
        return manager

    yield begin
    for manager in managers:
        manager.kill()


@contextmanager
def held_stream(manager: Manager, fake: Fake, key: str | None = None) -> Iterator[http.client.HTTPResponse]:
    """A stream that has brought its first token and waits for `fake.release_streams`."""
    with manager.chat("one two three", key, stream=True) as response:
        assert response.status == 200
        while b'"one"' not in response.readline():
            pass
        yield response


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """A certificate for localhost that signs itself, with its key."""
    issued = issue("localhost")
    file = tmp_path / "localhost.pem"
    file.write_bytes(issued.pem + issued.key_pem)
    file.chmod(0o600)
    return file


def https(certificate: Path) -> dict[str, str]:
    """The settings of a service that speaks HTTPS."""
    return {"tls__certificate": str(certificate), "tls__private_key": str(certificate)}


def trusting(certificate: Path) -> ssl.SSLContext:
    """The context of a client that trusts it."""
    context = ssl.create_default_context(cafile=certificate)
    context.verify_flags &= ~getattr(ssl, "VERIFY_X509_STRICT", 0)  # it is its own authority
    return context


# Starts that are refused


def refusal(stage: Stage, variables: Mapping[str, str], **more: str) -> str:
    """What a start that is refused says; it must be short, and the exit status 2."""
    manager = Manager(stage, {**variables, **{f"{PREFIX}{name.upper()}": value for name, value in more.items()}})
    try:
        assert manager.status() == 2, manager.log
    finally:
        manager.kill()
    assert "Traceback" not in manager.log
    assert "never retrieved" not in manager.log
    said = [line for line in manager.log.splitlines() if line.startswith("llamaherd: ")]
    assert len(said) == 1, manager.log
    return said[0]


def test_port_in_use_is_refused_with_the_address(stage: Stage, fake: Fake, variables: dict[str, str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        said = refusal(stage, variables, server__port=str(port))
    assert f"127.0.0.1 port {port}" in said
    assert "server.port" in said
    assert "in use" in said


def test_syntax_error_in_models_json_is_refused_with_its_place(stage: Stage, variables: dict[str, str]) -> None:
    stage.models_file.write_text('{\n  "alpha": {"params" {}}\n}')
    assert f"{stage.models_file}, line 2, column 22: not valid JSON" in refusal(stage, variables)


def test_unknown_key_in_models_json_is_refused_with_its_place(stage: Stage, variables: dict[str, str]) -> None:
    stage.model("alpha", params={"temprature": 1})
    said = refusal(stage, variables)
    assert f"{stage.models_file}: alpha.params.temprature: unknown key" in said
    assert "temperature" in said


def test_broken_keys_file_is_refused_with_its_place(stage: Stage, fake: Fake, variables: dict[str, str]) -> None:
    stage.keys_file.write_text("[]")
    assert str(stage.keys_file) in refusal(stage, variables)


def test_port_of_plain_http_in_use_is_refused_with_its_setting(
    stage: Stage, fake: Fake, variables: dict[str, str], certificate: Path
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        said = refusal(stage, variables, **https(certificate), tls__http_port=str(port))
    assert f"127.0.0.1 port {port}" in said
    assert "tls.http_port" in said


def test_missing_binary_is_refused_with_its_path(stage: Stage, fake: Fake, variables: dict[str, str]) -> None:
    said = refusal(stage, variables, llama__binary="/nowhere/llama-server")
    assert "llama.binary" in said
    assert "/nowhere/llama-server" in said


def test_unknown_setting_is_refused_with_the_nearest(stage: Stage, variables: dict[str, str]) -> None:
    said = refusal(stage, variables, server__prot="1")
    assert "LLAMAHERD_SERVER__PROT" in said
    assert "LLAMAHERD_SERVER__PORT" in said


def test_address_that_others_reach_is_refused_without_keys(stage: Stage, fake: Fake, variables: dict[str, str]) -> None:
    said = refusal(stage, variables, server__host=EVERYWHERE)
    assert EVERYWHERE in said
    assert "key" in said


def test_a_host_that_can_be_none_is_refused_with_its_setting(
    stage: Stage, fake: Fake, variables: dict[str, str]
) -> None:
    said = refusal(stage, variables, server__host="a..b", server__dangerously_serve_without_keys="true")
    assert "can't listen on a..b" in said
    assert "server.host" in said


async def test_a_name_of_this_machine_that_others_can_reach_is_refused(
    stage: Stage, fake: Fake, make_settings: MakeSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def everywhere(*_: object, **__: object) -> list[tuple[Any, ...]]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (EVERYWHERE, 0))]

    settings = make_settings(**stage.sections({"server": {"host": "localhost"}}))
    server = Server(create_app(settings), settings)
    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", everywhere)
    with pytest.raises(ConfigError, match=rf"server\.host is localhost, .* that is {re.escape(EVERYWHERE)}"):
        await server.start()


# A running service


def test_a_hangup_before_it_listens_does_not_end_it(
    stage: Stage, fake: Fake, variables: dict[str, str], short_folder: Path
) -> None:
    """It waits in the middle of its start, for a models.json that is a pipe."""
    text = stage.models_file.read_text()
    stage.models_file.unlink()
    os.mkfifo(stage.models_file)
    manager = Manager(stage, {**variables, "LLAMAHERD_STORAGE__WATCH": "false"})
    try:
        with stage.models_file.open("w") as pipe:  # waits until it reads
            manager.signal(signal.SIGHUP)
            pipe.write(text)
        manager.listen()
        assert manager.models() == ["alpha"]
    finally:
        manager.kill()


def test_it_says_where_it_listens_and_that_nobody_needs_a_key(fake: Fake, start: StartManager) -> None:
    manager = start()
    assert manager.get("/health") == {"status": "ok", "default_model": "alpha", "models": ["alpha"]}
    manager.says("no API key is stored")


def test_hangup_reads_good_files_again_and_refuses_broken_ones_whole(
    stage: Stage, fake: Fake, start: StartManager
) -> None:
    manager = start(storage__watch="false")
    stage.model("beta")
    manager.signal(signal.SIGHUP)
    wait_for(lambda: manager.models() == ["alpha", "beta"], "the new model")
    good = stage.models_file.read_text()
    stage.models_file.write_text(good.replace('"beta"', '"gamma"')[:-1])
    manager.signal(signal.SIGHUP)
    manager.says("reload refused")
    assert f"{stage.models_file}, line 1" in manager.log
    assert manager.models() == ["alpha", "beta"]
    with manager.chat("hi", model="beta") as response:
        assert response.status == 200
    stage.forget("beta")
    manager.signal(signal.SIGHUP)
    wait_for(lambda: manager.models() == ["alpha"], "the removal")
    wait_for(lambda: manager.get("/models") == [], "the unloading of the removed model")


def test_edits_count_without_a_signal_and_a_broken_one_says_where_it_is_broken(
    stage: Stage, fake: Fake, start: StartManager
) -> None:
    manager = start()
    with manager.chat("hi") as response:
        assert response.status == 200
    stage.model("beta")
    wait_for(lambda: manager.models() == ["alpha", "beta"], "the new model")
    good = stage.models_file.read_text()
    stage.models_file.write_text(good.replace('"params"', '"parms"'))
    manager.says("reload refused, what was there stays")
    assert f"{stage.models_file}: alpha.parms: unknown key" in manager.log
    assert manager.models() == ["alpha", "beta"]
    stage.models_file.write_text(good)
    wait_for(lambda: manager.log.count("reloaded models=2") == 2, "the mended file")
    stage.forget("alpha")
    wait_for(lambda: manager.models() == ["beta"], "the removal")
    wait_for(lambda: not alive(fake.starts()[0]), "the end of the removed model")


def test_rapid_edits_are_few_reloads_and_start_nothing_twice(stage: Stage, fake: Fake, start: StartManager) -> None:
    manager = start()
    with manager.chat("hi") as response:
        assert response.status == 200
    entries = json.loads(stage.models_file.read_text())
    for number in range(200):
        entries["alpha"]["description"] = f"edit {number}"
        stage.models_file.write_text(json.dumps(entries | {f"beta-{number}": entries["alpha"]}))
        time.sleep(0.002)
    wait_for(lambda: manager.models() == ["alpha", "beta-199"], "the last state")
    stage.models_file.write_text(json.dumps(entries))
    wait_for(lambda: manager.models() == ["alpha"], "the end")
    assert manager.log.count("reloaded") <= 5
    with manager.chat("hi") as response:
        assert response.status == 200
    assert len(fake.starts()) == 1


def test_logs_have_no_key_no_prompt_and_no_query(stage: Stage, fake: Fake, start: StartManager) -> None:
    key, _ = KeyStore(stage.keys_file).create("k", "", ["inference", "admin"])
    manager = start(server__log_level="debug")
    secret = "xyzzy-secret"
    for request in (
        manager.chat(secret, key, stream=False, user=secret),
        manager.chat(secret, key, stream=True),
        manager.chat(secret, key, temperature=secret),
        manager.chat(secret, key, model="nobody"),
        manager.send("GET", f"/chat/ask?question={secret}", key=key),
        manager.send("GET", f"/chat/ask?question={secret}&stream=1", key=key),
        manager.send("POST", CHAT, secret, key),
        manager.send("POST", "/loadModel", {"model": "alpha", "personality": "pirate"}, key),
        manager.send("GET", "/v1/models", key=f"sk-lh-{secret}"),
    ):
        with request as response:
            response.read()
    manager.signal(signal.SIGTERM)
    assert manager.status() == 0
    log = manager.log
    assert "GET '/chat/ask' status=200" in log
    assert "POST '/v1/chat/completions' status=400" in log
    assert "GET '/v1/models' status=401" in log
    assert "model=alpha state=ready" in log
    for hidden in (key, key[6:], secret, "question", "Talk like a pirate"):
        assert hidden not in log


def test_log_has_no_bytes_of_a_request_that_is_no_valid_http(fake: Fake, start: StartManager) -> None:
    manager = start()
    with socket.create_connection(("127.0.0.1", manager.port), PATIENCE) as connection:
        connection.sendall(b"GET /ping HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer sk-lh-xyzzy\x01\r\n\r\n")
        assert b" 400 " in connection.recv(100)
        wait_for(lambda: "not a valid request" in manager.log, "the line of the bad request")
    assert "xyzzy" not in manager.log
    assert "Traceback" not in manager.log


def test_hangup_with_a_broken_key_file_keeps_the_old_models_too(stage: Stage, fake: Fake, start: StartManager) -> None:
    key, _ = KeyStore(stage.keys_file).create("k", "", ["inference", "admin"])
    manager = start(storage__watch="false")
    stage.model("beta")
    stage.keys_file.write_text("{")
    manager.signal(signal.SIGHUP)
    manager.says("reload refused")
    assert manager.models(key) == ["alpha"]


def test_with_a_certificate_it_speaks_https_and_plain_http_is_sent_there(
    stage: Stage, fake: Fake, start: StartManager, certificate: Path
) -> None:
    webroot = stage.folder / "web"
    challenges = webroot / ".well-known" / "acme-challenge"
    challenges.mkdir(parents=True)
    (challenges / "token").write_text("token.digest")
    manager = start(**https(certificate), tls__http_port="0", tls__webroot=str(webroot))
    assert f"listening urls=https://127.0.0.1:{manager.port} " in manager.log
    secure = http.client.HTTPSConnection("localhost", manager.port, timeout=PATIENCE, context=trusting(certificate))
    plain = http.client.HTTPConnection(
        "127.0.0.1", int(re.findall(r"sending plain HTTP to HTTPS urls=http://127\.0\.0\.1:(\d+)", manager.log)[0])
    )
    with contextlib.closing(secure), contextlib.closing(plain):
        secure.request("GET", "/ping")
        assert secure.getresponse().read() == b"pong"
        plain.request("GET", "/ping?a=b", headers={"Host": "localhost"})
        sent = plain.getresponse()
        assert (sent.status, sent.headers["Location"]) == (308, f"https://localhost:{manager.port}/ping?a=b")
        plain.request("GET", "/.well-known/acme-challenge/token")
        assert plain.getresponse().read() == b"token.digest"
        manager.signal(signal.SIGTERM)
        assert manager.status() == 0
    assert "Traceback" not in manager.log


def test_plain_http_is_sent_to_the_port_that_clients_use(fake: Fake, start: StartManager, certificate: Path) -> None:
    manager = start(**https(certificate), tls__http_port="0", tls__public_port="443")
    port = int(re.findall(r"sending plain HTTP to HTTPS urls=http://127\.0\.0\.1:(\d+)", manager.log)[0])
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)) as connection:
        connection.request("GET", "/ping", headers={"Host": "llm.example.org"})
        assert connection.getresponse().headers["Location"] == "https://llm.example.org/ping"


def test_plain_http_is_sent_to_no_name_that_is_not_allowed(
    stage: Stage, fake: Fake, variables: dict[str, str], start: StartManager, certificate: Path
) -> None:
    config = stage.folder / "config.yml"
    config.write_text("server: {allowed_hosts: [llm.example.org]}")
    KeyStore(stage.keys_file).create("k", "", ["inference"])
    variables["CONFIG_PATH"] = str(config)
    manager = start(**https(certificate), tls__http_port="0")
    port = int(re.findall(r"sending plain HTTP to HTTPS urls=http://127\.0\.0\.1:(\d+)", manager.log)[0])
    statuses = {}
    for host in ("llm.example.org", "localhost", "evil.example"):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
        with contextlib.closing(connection):
            connection.request("GET", "/", headers={"Host": host})
            statuses[host] = connection.getresponse().status
    assert statuses == {"llm.example.org": 308, "localhost": 308, "evil.example": 400}


def test_connections_over_the_limit_are_refused_and_told_of_in_the_log(fake: Fake, start: StartManager) -> None:
    manager = start(server__max_connections="1")
    with socket.create_connection(("127.0.0.1", manager.port)) as first:
        first.sendall(b"GET /ping HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert first.recv(65536).startswith(b"HTTP/1.1 200 ")
        with socket.create_connection(("127.0.0.1", manager.port), PATIENCE) as second:
            assert second.recv(65536).startswith(b"HTTP/1.1 503 ")
    manager.says("connections refused=1 open=1")


def test_it_may_open_as_many_files_as_its_connections_need(fake: Fake, start: StartManager) -> None:
    own = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (512, own[1]))
        manager = start(server__max_connections="600")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, own)
    assert resource.prlimit(manager.process.pid, resource.RLIMIT_NOFILE) == (856, own[1])
    assert "server.max_connections" not in manager.log


# Its end


def test_terminate_lets_a_stream_end_whole_and_refuses_new_inference(fake: Fake, start: StartManager) -> None:
    fake.hold_streams()
    manager = start()
    with held_stream(manager, fake) as stream, manager.send("GET", "/status") as feed:
        manager.signal(signal.SIGTERM)
        manager.says("draining")
        feed.read()  # the feed has an end
        with manager.chat("more") as refused:
            assert refused.status == 503
            assert refused.headers["Retry-After"] == "5"
            assert json.loads(refused.read())["error"]["code"] == "shutting_down"
        assert manager.process.poll() is None
        fake.release_streams()
        rest = stream.read()
    assert b'" two"' in rest
    assert b'" three"' in rest
    assert rest.endswith(b"data: [DONE]\n\n")
    assert manager.status() == 0
    assert "Traceback" not in manager.log
    assert "never retrieved" not in manager.log
    assert not alive(fake.starts()[0])
    assert fake.disconnects() == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_idle_service_ends_at_once_and_leaves_nothing(
    fake: Fake, start: StartManager, short_folder: Path, number: signal.Signals
) -> None:
    manager = start()
    with manager.chat("hi") as response:
        assert response.status == 200
    (pid,) = fake.starts()
    began = time.monotonic()
    manager.signal(number)
    assert manager.status() == 0
    assert time.monotonic() - began < 5.0
    assert not alive(pid)
    assert list((short_folder / "run").iterdir()) == []
    assert "Traceback" not in manager.log


def test_second_signal_skips_the_drain(fake: Fake, start: StartManager) -> None:
    fake.hold_streams()
    manager = start()
    with held_stream(manager, fake) as stream:
        manager.signal(signal.SIGTERM)
        manager.says("draining")
        began = time.monotonic()
        manager.signal(signal.SIGTERM)
        rest = read_to_the_end(stream)
        assert manager.status() == 0
        assert time.monotonic() - began < 10.0
    assert b"[DONE]" not in rest
    assert not alive(fake.starts()[0])


def test_drain_has_a_limit(fake: Fake, start: StartManager) -> None:
    fake.hold_streams()
    manager = start(server__drain_timeout="0.2")
    with held_stream(manager, fake) as stream:
        manager.signal(signal.SIGTERM)
        rest = read_to_the_end(stream)
        assert manager.status() == 0
    assert b"[DONE]" not in rest
    assert not alive(fake.starts()[0])


def test_terminate_while_a_model_loads_ends_with_the_second_signal(fake: Fake, start: StartManager) -> None:
    fake.close_gate()
    manager = start()
    with socket.create_connection(("127.0.0.1", manager.port)) as client:
        body = b'{"messages": [{"role": "user", "content": "hi"}]}'
        client.sendall(
            b"POST %b HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n%b" % (CHAT.encode(), len(body), body)
        )
        (pid,) = wait_for(fake.starts, "the child")
        manager.signal(signal.SIGTERM)
        manager.says("draining in_flight=1")
        manager.signal(signal.SIGTERM)
        assert manager.status() == 0
    assert not alive(pid)


def test_killed_manager_leaves_no_child(fake: Fake, start: StartManager) -> None:
    fake.hold_streams()
    manager = start()
    with held_stream(manager, fake):
        (pid,) = fake.starts()
        assert alive(pid)
        manager.kill()
        wait_for(lambda: not alive(pid), "the child's end", DEATH_PATIENCE)


def test_child_that_outlives_a_killed_manager_is_swept_by_the_next(
    stage: Stage, fake: Fake, start: StartManager, short_folder: Path
) -> None:
    dispatcher = stage.binary.rename(stage.folder / "dispatcher")
    stage.binary.write_text(ORPHAN.format(python=sys.executable, binary=dispatcher))
    stage.binary.chmod(0o755)
    fake.knobs(ignore_sigterm=True)  # nor does it look at its stdin, whose end tells that the manager is gone
    first = start()
    with first.chat("hi") as response:
        assert response.status == 200
    (pid,) = fake.starts()
    orphan = psutil.Process(pid)
    first.kill()
    assert alive(pid)
    try:
        second = start()
        second.says("killed children=1")
        wait_for(lambda: not alive(pid), "the orphan's end", DEATH_PATIENCE)
        assert list((short_folder / "run").iterdir()) == []
    finally:
        if alive(pid):
            orphan.kill()


def test_grandchild_that_outlives_a_killed_manager_is_swept_by_the_next(
    stage: Stage, fake: Fake, start: StartManager
) -> None:
    pid_file = stage.folder / "grandchild"
    fake.knobs(fork_grandchild=str(pid_file))
    first = start()
    with first.chat("hi") as response:
        assert response.status == 200
    grandchild = psutil.Process(int(pid_file.read_text()))
    first.kill()
    try:
        wait_for(lambda: not alive(fake.starts()[0]), "the child's end", DEATH_PATIENCE)
        start()
        wait_for(lambda: not alive(grandchild.pid), "the grandchild's end", DEATH_PATIENCE)
    finally:
        if alive(grandchild.pid):
            grandchild.kill()


def test_children_of_a_manager_that_lives_are_not_swept(fake: Fake, start: StartManager) -> None:
    first = start()
    with first.chat("hi") as response:
        assert response.status == 200
    start()
    (pid,) = fake.starts()
    assert alive(pid)
    with first.chat("hi") as response:
        assert response.status == 200
    assert fake.starts() == [pid]


def read_to_the_end(stream: http.client.HTTPResponse) -> bytes:
    """What is left of an answer, however it ends."""
    try:
        return stream.read()
    except (http.client.IncompleteRead, ConnectionError) as error:
        return getattr(error, "partial", b"")
