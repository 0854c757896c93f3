"""deploy/nginx.conf and deploy/Caddyfile, run by the real programs before the real service."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import socket
import ssl
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import pytest

from manager.settings_server import ServerSettings
from tests.deploy.serving import DEPLOY, serving
from tests.e2e.conftest import _left_children_fail as _left_children_fail  # the model starts in whichever test is first
from tests.e2e.service import PATIENCE, Service, seconds_until
from tests.e2e.test_https import tls

HOST: Final = "localhost"
CLIENT: Final = "127.0.0.2"  # an address that the service does not trust
STRANGER: Final = "203.0.113.9"  # whom a client claims to be
MAIN: Final = """\
{user}
daemon off;
pid {folder}/nginx.pid;
events {{}}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    include {site};
}}
"""


def replaced(sample: str, **changes: str) -> str:
    """The sample's text with what is particular to the test in it; all that is to be replaced must be there."""
    text = (DEPLOY / sample).read_text()
    for old, new in changes.items():
        assert old in text, f"{sample} has no {old!r}"
        text = text.replace(old, new)
    return text


def nginx(folder: Path, port: int, upstream: str) -> list[str]:
    """Its command, with all that it needs written into `folder`."""
    letsencrypt = "/etc/letsencrypt/live/llm.example.org"
    changes = {
        "server 127.0.0.1:8000;": f"server {upstream};",
        "listen [::]:443 ssl;": "",  # not every machine has IPv6
        "listen [::]:80;": "",
        "listen 443 ssl;": f"listen 127.0.0.1:{port} ssl;",
        "listen 80;": f"listen unix:{folder}/plain.sock;",
        f"{letsencrypt}/fullchain.pem": f"{folder}/ssl/{HOST}-crt.pem",
        f"{letsencrypt}/privkey.pem": f"{folder}/ssl/{HOST}-key.pem",
    }
    site, main = folder / "site.conf", folder / "nginx.conf"
    site.write_text(replaced("nginx.conf", **changes))
    main.write_text(MAIN.format(user="user root;" if os.geteuid() == 0 else "", folder=folder, site=site))
    return ["nginx", "-p", str(folder), "-e", "stderr", "-c", str(main)]


def caddy(folder: Path, port: int, upstream: str) -> list[str]:
    """Its command, with all that it needs written into `folder`."""
    site = f"https://{HOST}:{port} {{\n\ttls {folder}/ssl/{HOST}-crt.pem {folder}/ssl/{HOST}-key.pem\n"
    changes = {"llm.example.org {": site, "reverse_proxy 127.0.0.1:8000": f"reverse_proxy {upstream}"}
    alone = f"{{\n\tadmin off\n\tauto_https disable_redirects\n\tstorage file_system {folder}/caddy\n}}\n"
    text = replaced("Caddyfile", **changes)
    file = folder / "Caddyfile"
    file.write_text(alone + text)
    return ["caddy", "run", "--config", str(file), "--adapter", "caddyfile"]


COMMANDS: Final[dict[str, Callable[[Path, int, str], list[str]]]] = {"nginx": nginx, "caddy": caddy}


class Proxy:
    """A proxy that runs before the service, and what is to happen in it."""

    def __init__(self, port: int, folder: Path, service: Service) -> None:
        self.port, self.folder, self.service = port, folder, service
        self.gate = folder / "gate"
        self._trusting = ssl.create_default_context(cafile=folder / "ssl" / "llamaherd-ca.pem")

    @contextmanager
    def asked(self, path: str, body: dict[str, Any], **headers: str) -> Iterator[http.client.HTTPResponse]:
        """The answer to a POST through it, from CLIENT."""
        plain = socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE, source_address=(CLIENT, 0))
        with closing(http.client.HTTPConnection(HOST, self.port)) as connection:
            connection.sock = self._trusting.wrap_socket(plain, server_hostname=HOST)
            sent = {"Authorization": f"Bearer {self.service.key}", "Content-Type": "application/json", **headers}
            connection.request("POST", path, json.dumps(body), sent)
            with connection.getresponse() as answer:
                yield answer

    def answers(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The service's, with a certificate for the proxies in it."""
    folder = tmp_path_factory.mktemp("proxies")
    tls(folder, "self-signed", HOST)
    return folder


@pytest.fixture(scope="module")
def service(folder: Path) -> Iterator[Service]:
    with serving(folder, {"LLAMAHERD_SERVER__TRUSTED_PROXIES": "127.0.0.1"}, stream_gate=folder / "gate") as service:
        yield service


@pytest.fixture(scope="module", params=COMMANDS)
def proxy(request: pytest.FixtureRequest, folder: Path, service: Service) -> Iterator[Proxy]:
    if shutil.which(request.param) is None:
        pytest.skip(f"{request.param} is not installed (Debian: {request.param})")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = int(free.getsockname()[1])
    proxy = Proxy(port, folder, service)
    command = COMMANDS[request.param](folder, port, urlsplit(service.url).netloc)
    with (folder / f"{request.param}.log").open("w") as log:
        process = subprocess.Popen(command, stderr=log, env={**os.environ, "HOME": str(folder)})
        try:
            seconds_until(lambda: proxy.answers() or process.poll() is not None)
            assert process.poll() is None, Path(log.name).read_text()
            yield proxy
        finally:
            process.terminate()
            process.wait(timeout=PATIENCE)


def chat(text: str, **fields: object) -> dict[str, Any]:
    return {"model": "fake", "messages": [{"role": "user", "content": text}], **fields}


def words_of(answer: http.client.HTTPResponse) -> Iterator[str]:
    """The pieces of text of a stream, as they come; AssertionError where it has no proper end."""
    for line in iter(answer.readline, b""):
        if line.startswith(b"data: {"):
            texts = (choice["delta"].get("content") for choice in json.loads(line[6:])["choices"])
            yield from (text for text in texts if text)
        if line.startswith(b"data: [DONE]"):
            return
    pytest.fail("the stream has no end")


def test_the_first_token_comes_through_before_the_second_is_made(proxy: Proxy) -> None:
    proxy.gate.unlink(missing_ok=True)
    with proxy.asked("/v1/chat/completions", chat("one two", stream=True)) as answer:
        words = words_of(answer)
        assert next(words).strip() == "one"
        proxy.gate.touch()  # only now the model goes past its first token
        assert [word.strip() for word in words] == ["two"]


def test_a_large_body_comes_through(proxy: Proxy) -> None:
    proxy.gate.touch()
    text = "x" * (8 * 1024**2)  # nginx's own limit is 1 MiB
    with proxy.asked("/v1/chat/completions", chat(text)) as answer:
        assert json.loads(answer.read())["choices"][0]["message"]["content"].strip() == text


def test_the_samples_take_bodies_as_large_as_the_service_does() -> None:
    most = ServerSettings().max_body // 1024**2
    assert f"client_max_body_size {most}m;" in (DEPLOY / "nginx.conf").read_text()
    assert f"max_size {most}MiB" in (DEPLOY / "Caddyfile").read_text()


def test_the_clients_own_address_counts_and_not_the_one_it_claims(proxy: Proxy) -> None:
    mark = f"by-{proxy.port}"
    headers = {"X-Forwarded-For": STRANGER, "X-Request-ID": mark}
    with proxy.asked("/admin/reload", {}, **headers) as answer:
        assert answer.status == 200
    audit = proxy.folder / "data" / "audit.log"
    seconds_until(lambda: mark in audit.read_text())
    (noted,) = (event for line in audit.read_text().splitlines() if (event := json.loads(line))["request"] == mark)
    assert noted["address"] == CLIENT
