"""deploy/Containerfile and deploy/compose.yml, as far as they can be tried without a container engine."""

from __future__ import annotations

import http.server
import os
import re
import shutil
import ssl
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import pytest
import yaml

from manager.settings import Settings
from manager.settings_layers import variable_names
from tests.deploy.serving import DEPLOY, serving
from tests.e2e.conftest import _left_children_fail as _left_children_fail
from tests.e2e.test_https import tls

ROOT: Final = DEPLOY.parent
CONTAINERFILE: Final = DEPLOY / "Containerfile"
COMPOSE: Final = DEPLOY / "compose.yml"
# What podman-compose asks before it reads a file; nothing more of Podman is needed for `config`.
PODMAN: Final = '#!/bin/sh\n[ "$1" = --version ] && echo "podman version 5.0.0"\n'


def tool(name: str) -> str:
    """A program of the extra `test`."""
    found = shutil.which(name, path=str(Path(sys.executable).parent))
    if found is None:
        pytest.skip(f"{name} is not installed: pip install -e .[test]")
    return found


def test_hadolint_has_nothing_to_say_of_the_containerfile() -> None:
    done = subprocess.run([tool("hadolint"), str(CONTAINERFILE)], capture_output=True, text=True)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_what_is_copied_into_a_build_is_there_and_gets_past_dockerignore() -> None:
    copied = {
        source
        for line in re.findall(r"^COPY (?!--from)(.+)$", CONTAINERFILE.read_text(), re.MULTILINE)
        for source in line.split()[:-1]
    }
    let_in = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert copied <= let_in
    assert let_in - copied == {"deploy"}  # the way to a file in it
    for source in copied:
        assert (ROOT / source).exists(), source


def test_the_image_sets_only_settings_that_there_are() -> None:
    known = variable_names(Settings).keys()
    named = set(re.findall(r"(?:LLAMAHERD|GGUF|HF)_[A-Z_]+(?==)", CONTAINERFILE.read_text()))
    assert named - known == {"HF_HOME"}


@pytest.fixture
def podman(tmp_path: Path) -> dict[str, str]:
    """An environment in which podman-compose runs."""
    program = tmp_path / "bin" / "podman"
    program.parent.mkdir()
    program.write_text(PODMAN)
    program.chmod(0o755)
    plain = {name: value for name, value in os.environ.items() if not name.startswith(("LLAMAHERD_", "COMPOSE_"))}
    return {**plain, "PATH": f"{program.parent}:{os.environ['PATH']}"}


def composed(environment: dict[str, str], variables: str) -> subprocess.CompletedProcess[str]:
    """The compose file as podman-compose understands it with that .env, on stdout as YAML."""
    env_file = Path(environment["PATH"].partition(":")[0]) / ".env"
    env_file.write_text(variables)
    command = [tool("podman-compose"), "--env-file", str(env_file), "--file", str(COMPOSE), "config"]
    return subprocess.run(command, env=environment, capture_output=True, text=True)


def services(environment: dict[str, str], variables: str) -> dict[str, Any]:
    done = composed(environment, variables)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = yaml.safe_load(done.stdout)["services"]
    return found


def filled_in(profile: str = "cpu", **values: str) -> str:
    """The example of .env with a value for each secret."""
    example = (
        (DEPLOY / "compose.env.example").read_text().replace("COMPOSE_PROFILES=cpu", f"COMPOSE_PROFILES={profile}")
    )
    return re.sub(
        r"^(\w+)=$", lambda line: f"{line[1]}={values.get(line[1], f'secret-{line[1]}')}", example, flags=re.MULTILINE
    )


def test_the_compose_file_follows_the_specification() -> None:
    command = [tool("check-jsonschema"), "--builtin-schema", "vendor.compose-spec", str(COMPOSE)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(("profile", "own"), [("cpu", "llamaherd"), ("gpu", "llamaherd-gpu")])
def test_each_profile_has_one_llamaherd_and_only_two_ports_of_this_machine(
    podman: dict[str, str], profile: str, own: str
) -> None:
    there = services(podman, filled_in(profile))
    assert there.keys() == {own, "librechat", "mongodb"}
    assert {port for one in there.values() for port in one.get("ports", [])} == {
        "127.0.0.1:8000:8000",
        "127.0.0.1:3080:3080",
    }
    assert there["mongodb"]["networks"] == ["inside"]
    known = variable_names(Settings)
    assert there[own]["environment"].keys() <= known.keys()
    assert there["librechat"]["environment"]["LLAMAHERD_KEY"] == "secret-LLAMAHERD_KEY"
    assert "secret" not in str(there[own])  # no secret of LibreChat's, not even its key, is in llamaherd's container
    stages = re.findall(r"^FROM \S+ AS (\S+)$", CONTAINERFILE.read_text(), re.MULTILINE)
    assert there[own]["build"]["target"] in stages


def test_a_secret_without_a_value_ends_the_start_and_names_it(podman: dict[str, str]) -> None:
    done = composed(podman, filled_in(JWT_SECRET=""))
    assert done.returncode != 0
    assert "JWT_SECRET" in done.stderr


def test_the_key_may_be_missing_as_the_service_makes_it(podman: dict[str, str]) -> None:
    there = services(podman, filled_in(LLAMAHERD_KEY=""))
    assert there["librechat"]["environment"]["LLAMAHERD_KEY"] == ""


def test_librechat_asks_the_name_and_port_of_the_service_with_its_key() -> None:
    (endpoint,) = yaml.safe_load((DEPLOY / "librechat.yaml").read_text())["endpoints"]["custom"]
    asked = urlsplit(endpoint["baseURL"])
    gpu = yaml.safe_load(COMPOSE.read_text())["services"]["llamaherd-gpu"]
    assert [asked.hostname] == gpu["networks"]["inside"]["aliases"] == ["llamaherd"]
    assert f"EXPOSE {asked.port}\n" in CONTAINERFILE.read_text()
    assert endpoint["apiKey"] == "${LLAMAHERD_KEY}"


def health(folder: Path, port: int, **settings: str) -> subprocess.CompletedProcess[str]:
    """The health check of the image, in that folder and with those settings."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "LLAMAHERD_SERVER__PORT": str(port), **settings}
    command = [sys.executable, str(DEPLOY / "healthcheck.py")]
    return subprocess.run(command, env=environment, capture_output=True, text=True, cwd=folder)


class Answer(http.server.BaseHTTPRequestHandler):
    """Answers every GET with the status of its server."""

    def do_GET(self) -> None:
        assert isinstance(self.server, Stub)
        self.send_response(self.server.status)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


class Stub(http.server.HTTPServer):
    """Something on a port that is not the service."""

    def __init__(self, status: int, context: ssl.SSLContext | None = None) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.status = status
        if context is not None:
            self.socket = context.wrap_socket(self.socket, server_side=True)

    def __enter__(self) -> Stub:
        threading.Thread(target=self.serve_forever, args=(0.01,)).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self.server_close()

    def handle_error(self, request: object, client_address: object) -> None:
        pass


@pytest.fixture(scope="module")
def certified(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a certificate for llm.test in it."""
    folder = tmp_path_factory.mktemp("certified")
    tls(folder, "self-signed", "llm.test")
    return folder


def test_a_service_with_https_is_healthy_while_it_runs_and_not_after_that(certified: Path) -> None:
    https = {"LLAMAHERD_TLS__HOST": "llm.test"}
    with serving(certified, https) as service:
        port = urlsplit(service.url).port or 0
        done = health(certified, port, **https)
        assert (done.returncode, done.stderr) == (0, "")
    done = health(certified, port, **https)
    assert done.returncode == 1
    assert "does not answer" in done.stderr


@pytest.mark.parametrize(("status", "expected"), [(200, 0), (503, 1)])
def test_only_an_answer_of_200_is_healthy(tmp_path: Path, status: int, expected: int) -> None:
    with Stub(status) as stub:
        assert health(tmp_path, stub.server_port).returncode == expected


def test_to_be_refused_for_want_of_a_client_certificate_is_healthy(certified: Path) -> None:
    authority = certified / "ssl" / "llamaherd-ca.pem"
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=authority)
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_cert_chain(certified / "ssl" / "llm.test-crt.pem", certified / "ssl" / "llm.test-key.pem")
    with Stub(200, context) as stub:
        https = {"LLAMAHERD_TLS__HOST": "llm.test"}
        assert health(certified, stub.server_port, **https).returncode == 1
        done = health(certified, stub.server_port, **https, LLAMAHERD_TLS__CLIENT_CA=str(authority))
        assert (done.returncode, done.stderr) == (0, "")
