"""The service under systemd: its unit files, what it tells on the way, and sockets that are passed to it."""

from __future__ import annotations

import configparser
import contextlib
import ctypes.util
import http.client
import json
import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

import psutil
import pytest

from manager.settings import Settings, load_settings
from manager.settings_layers import EXACT_NAMES, PREFIX, variable_names
from tests.manager.tls.pki import issue
from tests.routes.stage import CHAT, Fake, Stage

ROOT: Final = Path(__file__).parent.parent.parent
DEPLOY: Final = ROOT / "deploy"
UNITS: Final = ("llamaherd.service", "llamaherd.socket", "llamaherd-http.socket")
# What systemd-analyze finds, from 0 to 10: GPUs, the network, and code that is compiled while it runs remain.
MOST_EXPOSED: Final = 1.8
PATIENCE: Final = 20.0
EVERYWHERE: Final = "0.0.0.0"  # noqa: S104  a service without keys must not listen there
# What systemd does between fork and exec: sockets from descriptor 3 on, and the variables that say so.
LAUNCHER: Final = """
import fcntl, os, sys
given = [int(part) for part in sys.argv[1].split(",")]
copies = [fcntl.fcntl(one, fcntl.F_DUPFD, 100) for one in given]  # out of the way of each other
for place, copy in enumerate(copies, 3):
    os.dup2(copy, place)
os.environ |= {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": str(len(given)), "LISTEN_FDNAMES": sys.argv[2]}
os.execv(sys.executable, [sys.executable, "-m", "manager.cli", "serve"])
"""


# Unit files


@pytest.fixture(scope="session")
def analyze() -> str:
    program = shutil.which("systemd-analyze")
    if program is None:
        pytest.skip("there is no systemd-analyze (Debian: systemd)")
    return program


@pytest.fixture
def units(tmp_path: Path) -> list[str]:
    """The units, with a program that exists on every machine in place of the one that is installed."""
    for name in UNITS:
        text = (DEPLOY / name).read_text()
        (tmp_path / name).write_text(re.sub(r"(?m)^ExecStart=\S+", f"ExecStart={sys.executable}", text))
    return [str(tmp_path / name) for name in UNITS]


def run(*command: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, env={**os.environ, **variables}, capture_output=True, text=True, timeout=PATIENCE, check=False
    )


def test_systemd_finds_nothing_wrong_with_the_units(analyze: str, units: list[str], tmp_path: Path) -> None:
    # The units of this machine stay out of it: theirs are others' mistakes.
    done = run(
        analyze,
        "verify",
        "--man=no",
        "--recursive-errors=one",
        *units,
        SYSTEMD_UNIT_PATH=f"{tmp_path}:/lib/systemd/system",
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_systemd_finds_mistakes_in_units(analyze: str, units: list[str], tmp_path: Path) -> None:
    service = Path(units[0])
    service.write_text(service.read_text().replace("NoNewPrivileges=yes", "NoNewPriviliges=yes"))
    done = run(analyze, "verify", "--man=no", *units, SYSTEMD_UNIT_PATH=f"{tmp_path}:/lib/systemd/system")
    assert "NoNewPriviliges" in done.stderr


def test_the_service_is_exposed_as_little_as_its_work_allows(
    analyze: str, units: list[str], record_property: Callable[[str, object], None]
) -> None:
    most = f"--threshold={round(MOST_EXPOSED * 10)}"
    done = run(analyze, "security", "--offline=true", "--no-pager", most, units[0])
    found = re.search(r"Overall exposure level for llamaherd.service: (\S+)", done.stdout)
    assert found, done.stderr
    record_property("exposure", found[1])
    assert done.returncode == 0, done.stdout
    assert float(found[1]) <= MOST_EXPOSED


def assigned(unit: str) -> configparser.ConfigParser:
    parser = configparser.ConfigParser(strict=False, interpolation=None)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read(DEPLOY / unit)
    return parser


def test_systemd_waits_longer_for_the_end_than_the_service_takes() -> None:
    settings = load_settings()
    assert int(assigned("llamaherd.service")["Service"]["TimeoutStopSec"]) > (
        settings.server.drain_timeout + settings.limits.stop_grace + 2
    )


def calls(analyze: str, group: str) -> set[str]:
    """The system calls of a group such as @system-service."""
    found: set[str] = set()
    for line in run(analyze, "syscall-filter", group).stdout.splitlines()[1:]:
        name = line.strip()
        if name.startswith("@"):
            found |= calls(analyze, name)
        elif name and not name.startswith("#"):
            found.add(name)
    return found


def allowed_calls(analyze: str) -> str:
    """What the unit lets the service call."""
    text = (DEPLOY / "llamaherd.service").read_text()
    allowed: set[str] = set()
    for group in re.findall(r"(?m)^SystemCallFilter=(.+)$", text):
        allowed = allowed - calls(analyze, group[1:]) if group.startswith("~") else allowed | calls(analyze, group)
    assert len(allowed) > 200
    return ",".join(allowed)


def variables_of(text: str) -> dict[str, str]:
    return dict(line.split("=", 1) for line in text.splitlines() if line and not line.startswith("#"))


def test_every_variable_of_the_environment_file_is_a_setting(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ours():
        monkeypatch.delenv(name)
    text = (DEPLOY / "llamaherd.env").read_text()
    for name, value in variables_of(text).items():
        monkeypatch.setenv(name, value)
    settings = load_settings()
    assert (settings.server.port, settings.tls.host) == (443, "llm.example.org")
    assert re.findall(r"(?m)^#(LLAMAHERD_\w+)=", text), "none is there as an example"
    assert set(re.findall(r"(?m)^#?([A-Z_]+)=", text)) <= variable_names(Settings).keys()


def test_a_shell_reads_the_environment_file_as_systemd_does() -> None:
    file = DEPLOY / "llamaherd.env"
    done = run("/bin/sh", "-c", f"set -a; . {file}; exec env")
    said = dict(line.partition("=")[::2] for line in done.stdout.splitlines())
    given = variables_of(file.read_text())
    assert {name: said.get(name) for name in given} == given


def test_the_folders_of_the_environment_file_are_those_that_systemd_makes() -> None:
    given = variables_of((DEPLOY / "llamaherd.env").read_text())
    service = assigned("llamaherd.service")["Service"]
    assert given["LLAMAHERD_STORAGE__DATA_FOLDER"] == f"/var/lib/{service['StateDirectory']}"
    assert given["LLAMAHERD_STORAGE__CACHE_FOLDER"] == f"/var/cache/{service['CacheDirectory']}"
    assert given["LLAMAHERD_STORAGE__RUN_FOLDER"] == f"/run/{service['RuntimeDirectory']}"
    assert given["LLAMAHERD_LOG__FOLDER"] == f"/var/log/{service['LogsDirectory']}"
    assert service["EnvironmentFile"] == "-/etc/llamaherd/llamaherd.env"


# A running service


class Started:
    """A service as a process, with sockets passed to it."""

    def __init__(self, stage: Stage, command: Sequence[str], variables: Mapping[str, str], pass_fds: Sequence[int]):
        self.log_file = stage.folder / "log"
        with self.log_file.open("wb") as log:
            self.process = subprocess.Popen(
                command, env=variables, cwd=stage.folder, stdout=log, stderr=log, pass_fds=pass_fds
            )

    @property
    def log(self) -> str:
        return self.log_file.read_text()

    def says(self, text: str) -> None:
        """Wait until its log has this."""
        deadline = time.monotonic() + PATIENCE
        while text not in self.log:
            assert self.process.poll() is None, self.log
            assert time.monotonic() < deadline, self.log
            time.sleep(0.005)

    def end(self) -> int:
        self.process.terminate()
        return self.process.wait(PATIENCE)


def ours() -> Iterator[str]:
    return (name for name in list(os.environ) if name.startswith(PREFIX) or name in EXACT_NAMES)


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    return Stage(tmp_path)


@pytest.fixture
def fake(stage: Stage) -> Fake:
    return stage.model("alpha")


@pytest.fixture
def variables(stage: Stage, fake: Fake, short_folder: Path) -> dict[str, str]:
    hidden = set(ours())
    return {
        **{name: value for name, value in os.environ.items() if name not in hidden},
        **stage.variables(),
        "PYTHONPATH": str(ROOT),
        "LLAMAHERD_STORAGE__RUN_FOLDER": str(short_folder / "run"),
        # A socket that is passed goes before both.
        "LLAMAHERD_SERVER__HOST": "192.0.2.1",
        "LLAMAHERD_SERVER__PORT": "1",
    }


Start = Callable[..., Started]


@pytest.fixture
def start(stage: Stage, variables: dict[str, str]) -> Iterator[Start]:
    """Starts a service with these sockets, as systemd would; `names` as in LISTEN_FDNAMES."""
    started: list[Started] = []

    def begin(sockets: Sequence[socket.socket], names: str, **more: str) -> Started:
        descriptors = [one.fileno() for one in sockets]
        command = [sys.executable, "-c", LAUNCHER, ",".join(map(str, descriptors)), names]
        started.append(Started(stage, command, {**variables, **more}, descriptors))
        return started[-1]

    yield begin
    for one in started:
        one.process.kill()
        one.process.wait()


def get(port: int, context: ssl.SSLContext | None = None) -> tuple[int, str | None, bytes]:
    """Status, Location and body of /ping; over HTTPS where there is a context."""
    connection = (
        http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
        if context is None
        else http.client.HTTPSConnection("localhost", port, timeout=PATIENCE, context=context)
    )
    with contextlib.closing(connection):
        connection.request("GET", "/ping", headers={"Host": "localhost"})
        response = connection.getresponse()
        return response.status, response.headers.get("Location"), response.read()


@pytest.fixture
def systemd(short_folder: Path) -> Iterator[socket.socket]:
    """What listens at NOTIFY_SOCKET."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(str(short_folder / "notify"))
        listening.settimeout(PATIENCE)
        yield listening


def hear(systemd: socket.socket, wanted: str) -> list[str]:
    """The first message that has this line, or one that begins so."""
    while True:
        lines = systemd.recv(4096).decode().splitlines()
        if any(line.startswith(wanted) for line in lines):
            return lines


def test_it_tells_systemd_of_its_life_from_start_to_end(systemd: socket.socket, fake: Fake, start: Start) -> None:
    telling = {"NOTIFY_SOCKET": systemd.getsockname(), "WATCHDOG_USEC": "400000"}
    fake.hold_streams()
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        service = start([listening], "https", **telling)
    assert systemd.recv(4096) == b"STATUS=Starting\nEXTEND_TIMEOUT_USEC=300000000"
    hear(systemd, "READY=1")
    assert get(port)[0] == 200
    assert hear(systemd, "STATUS=") == ["STATUS=1 models, 0 loaded, 0 requests"]
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    with contextlib.closing(connection):
        connection.request("POST", CHAT, json.dumps({"messages": [{"role": "user", "content": "a b"}], "stream": True}))
        stream = connection.getresponse()
        hear(systemd, "STATUS=1 models, 1 loaded, 1 requests")
        service.process.send_signal(signal.SIGHUP)
        state, when = hear(systemd, "RELOADING=1")
        assert (state, when.partition("=")[0]) == ("RELOADING=1", "MONOTONIC_USEC")
        hear(systemd, "READY=1")
        service.process.send_signal(signal.SIGTERM)
        assert hear(systemd, "STOPPING=1") == ["STOPPING=1", "STATUS=Stopping", "EXTEND_TIMEOUT_USEC=65000000"]
        hear(systemd, "WATCHDOG=1")  # also while it drains
        fake.release_streams()
        stream.read()
    assert service.process.wait(PATIENCE) == 0
    assert "Traceback" not in service.log


def test_a_service_that_hangs_is_silent_and_says_where_when_the_watchdog_ends_it(
    systemd: socket.socket, start: Start
) -> None:
    telling = {"NOTIFY_SOCKET": systemd.getsockname(), "WATCHDOG_USEC": "200000"}
    with socket.create_server(("127.0.0.1", 0)) as listening:
        service = start([listening], "https", PYTHONFAULTHANDLER="1", **telling)
    hear(systemd, "READY=1")
    hear(systemd, "WATCHDOG=1")
    service.process.send_signal(signal.SIGSTOP)
    os.waitid(os.P_PID, service.process.pid, os.WSTOPPED | os.WNOWAIT)
    systemd.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        while systemd.recv(4096):
            pass
    systemd.settimeout(0.4)  # twice the time of the watchdog
    with pytest.raises(TimeoutError):
        systemd.recv(4096)
    service.process.send_signal(signal.SIGCONT)
    systemd.settimeout(PATIENCE)
    hear(systemd, "WATCHDOG=1")
    service.process.send_signal(signal.SIGABRT)  # as systemd does
    assert service.process.wait(PATIENCE) == -signal.SIGABRT
    assert "Fatal Python error: Aborted" in service.log
    assert "manager/server.py" in service.log


def test_sockets_of_both_families_and_of_plain_http_are_served(
    systemd: socket.socket, stage: Stage, start: Start
) -> None:
    issued = issue("localhost")
    certificate = stage.folder / "localhost.pem"
    certificate.write_bytes(issued.pem + issued.key_pem)
    certificate.chmod(0o600)
    trusting = ssl.create_default_context(cafile=certificate)
    trusting.verify_flags &= ~getattr(ssl, "VERIFY_X509_STRICT", 0)  # it is its own authority
    tls = {"LLAMAHERD_TLS__CERTIFICATE": str(certificate), "LLAMAHERD_TLS__PRIVATE_KEY": str(certificate)}
    with (
        socket.create_server(("127.0.0.1", 0)) as one,
        socket.create_server(("::1", one.getsockname()[1]), family=socket.AF_INET6) as other,
        socket.create_server(("127.0.0.1", 0)) as plain,
    ):
        port, http_port = one.getsockname()[1], plain.getsockname()[1]
        service = start([one, plain, other], "https:http:https", NOTIFY_SOCKET=systemd.getsockname(), **tls)
    hear(systemd, "READY=1")
    service.says(f"listening urls=https://127.0.0.1:{port},https://[::1]:{port} ")
    assert get(port, context=trusting)[0] == 200
    assert get(http_port)[:2] == (308, f"https://localhost:{port}/ping")
    client = socket.create_connection(("::1", port), PATIENCE)
    with trusting.wrap_socket(client, server_hostname="localhost") as secure:
        secure.sendall(b"GET /ping HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        assert secure.recv(100).startswith(b"HTTP/1.1 200 ")
    assert service.end() == 0


def test_it_is_ready_when_it_listens_and_serves_with_the_system_calls_that_the_unit_leaves_it(
    systemd: socket.socket, analyze: str, stage: Stage, variables: dict[str, str]
) -> None:
    if ctypes.util.find_library("seccomp") is None:
        pytest.skip("there is no libseccomp (Debian: libseccomp2)")
    port_of_its_own = {"LLAMAHERD_SERVER__HOST": "127.0.0.1", "LLAMAHERD_SERVER__PORT": "0"}
    telling = {"NOTIFY_SOCKET": systemd.getsockname()}
    filtered = [sys.executable, str(Path(__file__).with_name("under_filter.py")), allowed_calls(analyze)]
    command = [*filtered, sys.executable, "-m", "manager.cli", "serve"]
    service = Started(stage, command, {**variables, **port_of_its_own, **telling}, ())
    try:
        hear(systemd, "READY=1")
        # At this moment it listens: no waiting here.
        (port,) = (
            one.laddr.port
            for one in psutil.Process(service.process.pid).net_connections("tcp")
            if one.status == psutil.CONN_LISTEN
        )
        body = json.dumps({"messages": [{"role": "user", "content": "hi"}]})
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)) as connection:
            connection.request("POST", CHAT, body)
            assert connection.getresponse().status == 200
        assert service.end() == 0
    finally:
        service.process.kill()
        service.process.wait()


def test_a_public_socket_is_refused_without_keys_whatever_the_settings_say(start: Start) -> None:
    with socket.create_server((EVERYWHERE, 0)) as listening:
        service = start([listening], "https", LLAMAHERD_SERVER__HOST="127.0.0.1")
        assert service.process.wait(PATIENCE) == 2
    assert f"it listens on {EVERYWHERE}" in service.log
    assert "no API key is stored" in service.log


def test_systemd_starts_it_with_the_first_connection(stage: Stage, variables: dict[str, str]) -> None:
    program = shutil.which("systemd-socket-activate")
    if program is None:
        pytest.skip("there is no systemd-socket-activate (Debian: systemd)")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    passed = [f"--setenv={name}={value}" for name, value in variables.items() if name.startswith((PREFIX, "PYTHON"))]
    command = [program, f"--listen=127.0.0.1:{port}", "--fdname=https", *passed]
    service = Started(stage, [*command, sys.executable, "-m", "manager.cli", "serve"], variables, ())
    try:
        service.says("Listening on")
        assert get(port)[::2] == (200, b"pong")  # the connection waits until it is up
        service.says(f"listening urls=http://127.0.0.1:{port} ")
        assert service.end() == 0
    finally:
        service.process.kill()
        service.process.wait()
