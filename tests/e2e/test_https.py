"""HTTPS as users meet it: a certificate of `llamaherd tls self-signed`, the openai client, a renewal under a stream."""

from __future__ import annotations

import http.client
import os
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import openai
import pytest
from openai import OpenAI

from tests.e2e.service import PATIENCE, Service, running, seconds_until

pytestmark = pytest.mark.timeout(180)

HOST: Final = "localhost"
CHALLENGE: Final = "/.well-known/acme-challenge/"


def tls(folder: Path, *arguments: str) -> None:
    """`llamaherd tls` in that folder."""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-m", "manager.cli", "tls", *arguments]
    subprocess.run(command, cwd=folder, check=True, capture_output=True, env=environment)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a certificate, a folder for challenges, and nothing else."""
    folder = tmp_path_factory.mktemp("https")
    tls(folder, "self-signed", HOST, "127.0.0.1")
    (folder / f"webroot{CHALLENGE}").mkdir(parents=True)
    (folder / f"webroot{CHALLENGE}token").write_text("token.thumbprint")
    return folder


@pytest.fixture(scope="module")
def service(place: Path, starter: Path) -> Iterator[Service]:
    environment = {
        "LLAMAHERD_LLAMA__LAUNCHER": "embedded",
        "LLAMAHERD_TLS__HOST": HOST,
        "LLAMAHERD_TLS__HTTP_PORT": "0",
        "LLAMAHERD_TLS__WEBROOT": "webroot",
        "MODEL_PATH": str(starter),
        "MODEL_NAME": "smol",
    }
    with running(place, environment) as service:
        yield service


@pytest.fixture
def trusting(place: Path) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=place / "ssl" / "llamaherd-ca.pem")


@pytest.fixture
def client(service: Service, trusting: ssl.SSLContext) -> Iterator[OpenAI]:
    with openai.DefaultHttpxClient(verify=trusting) as transport:
        yield OpenAI(base_url=service.openai_url, api_key=service.key, http_client=transport, max_retries=0)


def certificate(service: Service, trusting: ssl.SSLContext) -> bytes:
    """What a new connection is shown."""
    address = urlsplit(service.url)
    with (
        socket.create_connection(("127.0.0.1", address.port or 0), timeout=PATIENCE) as plain,
        trusting.wrap_socket(plain, server_hostname=HOST) as secure,
    ):
        return secure.getpeercert(binary_form=True) or b""


def test_the_openai_client_chats_over_https(service: Service, client: OpenAI) -> None:
    assert service.url.startswith("https://")
    answer = client.chat.completions.with_raw_response.create(
        model="smol", messages=[{"role": "user", "content": "Name a colour."}], max_tokens=8
    )
    assert answer.parse().choices[0].message.content
    assert answer.headers["strict-transport-security"] == "max-age=15552000"


def test_a_client_that_does_not_know_the_authority_sends_no_key(service: Service) -> None:
    stranger = OpenAI(base_url=service.openai_url, api_key=service.key, max_retries=0)
    with pytest.raises(openai.APIConnectionError):
        stranger.models.list()


def test_a_renewal_is_used_by_new_connections_and_drops_none(
    place: Path, service: Service, client: OpenAI, trusting: ssl.SSLContext
) -> None:
    before = certificate(service, trusting)
    with client.chat.completions.create(
        model="smol",
        messages=[{"role": "user", "content": "Count."}],
        max_tokens=1500,
        stream=True,
        extra_body={"ignore_eos": True},
    ) as stream:
        assert next(stream).choices
        tls(place, "self-signed", "--force", HOST, "127.0.0.1")
        service.process.send_signal(signal.SIGHUP)  # else it would look within five seconds
        seconds_until(lambda: certificate(service, trusting) != before)
        assert sum(1 for _, chunk in zip(range(20), stream, strict=False) if chunk.choices) == 20


def test_a_renewal_that_is_half_written_is_refused_and_the_old_certificate_stays(
    place: Path, service: Service, trusting: ssl.SSLContext
) -> None:
    file = place / "ssl" / f"{HOST}-crt.pem"
    before, good = certificate(service, trusting), file.read_bytes()
    file.write_bytes(good[:200])
    service.process.send_signal(signal.SIGHUP)
    service.wait_for_log(rf"reload refused.*{HOST}-crt\.pem")
    assert certificate(service, trusting) == before
    file.write_bytes(good)


def test_plain_http_is_sent_to_https_but_for_challenges(service: Service) -> None:
    plain = urlsplit(service.wait_for_log(r"sending plain HTTP to HTTPS urls=(\S+)")[1])
    connection = http.client.HTTPConnection("127.0.0.1", plain.port, timeout=PATIENCE)
    connection.request("GET", "/v1/models?a=b", headers={"Host": f"{HOST}:{plain.port}"})
    answer = connection.getresponse()
    answer.read()
    port = urlsplit(service.url).port
    assert (answer.status, answer.headers["Location"]) == (308, f"https://{HOST}:{port}/v1/models?a=b")
    connection.request("GET", f"{CHALLENGE}token")
    answer = connection.getresponse()
    assert (answer.status, answer.read()) == (200, b"token.thumbprint")
    connection.request("GET", "/v1/models", headers={"Authorization": f"Bearer {service.key}"})
    answer = connection.getresponse()
    said = answer.read().decode()
    assert answer.status in {400, 403}
    assert service.key not in said
    connection.close()


def test_plain_http_on_the_port_of_https_gets_nothing(service: Service) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", urlsplit(service.url).port, timeout=PATIENCE)
    connection.request("GET", "/ping")
    with pytest.raises((http.client.HTTPException, ConnectionError)):
        connection.getresponse()
    connection.close()
