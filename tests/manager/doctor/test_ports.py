from __future__ import annotations

import errno
import os
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from manager.doctor import Level, ports, probe
from tests.gguf_files import write_tiny_gguf
from tests.manager.doctor.conftest import Look
from tests.manager.tls.pki import Folder, authority, issue, write


class Pong(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/ping" else 404)
        self.end_headers()
        self.wfile.write(b"pong")

    def log_message(self, format: str, *args: object) -> None:
        pass


class ToHttps(Pong):
    def do_GET(self) -> None:
        self.send_response(308)
        self.send_header("Location", f"https://llm.lan{self.path}")
        self.end_headers()


class Quiet(HTTPServer):
    def handle_error(self, request: object, client_address: object) -> None:
        pass  # a client without a certificate


@contextmanager
def pong(handler: type[Pong] = Pong, context: ssl.SSLContext | None = None) -> Iterator[int]:
    """What answers as the service does, on the port that is yielded."""
    with Quiet(("127.0.0.1", 0), handler) as server:
        if context is not None:
            server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            thread.join()


def test_port_that_is_free_is_fine_and_stays_so(look: Look) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    for _ in range(2):
        found = look("ports", server={"port": port})["server.port"]
        assert (found.level, found.text) == (Level.OK, f"127.0.0.1:{port} is free")
    assert look("ports")["server.port"].text == "any free port of 127.0.0.1"


def test_port_that_another_process_has_is_an_error_with_its_name(look: Look, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "PING_TIMEOUT", 0.05)
    with socket.create_server(("127.0.0.1", 0)) as server:  # it takes the question and says nothing
        found = look("ports", server={"port": server.getsockname()[1]})["server.port"]
    assert found.level is Level.ERROR
    assert f", process {os.getpid()}." in found.text
    assert "set server.port to another port" in str(found.advice)


def test_service_that_runs_already_is_no_error(look: Look) -> None:
    with pong() as port:
        found = look("ports", server={"port": port})["server.port"]
    assert found.level is Level.OK
    assert "llamaherd is running there" in found.text


def test_port_for_plain_http_is_looked_at_too(look: Look) -> None:
    with pong() as port:
        found = look("ports", tls={"host": "llm.lan", "http_port": port})["tls.http_port"]
    assert found.level is Level.ERROR  # whoever answers there is not this service's redirect
    assert "set tls.http_port" in str(found.advice)


def test_address_of_another_machine_is_an_error_of_the_host(look: Look) -> None:
    found = look("ports", server={"host": "192.0.2.1", "port": 8000})["server.host"]
    assert (found.level, "No network of this machine has" in found.text) == (Level.ERROR, True)


def test_host_that_is_no_name_is_an_error_of_the_host(look: Look) -> None:
    found = look("ports", server={"host": "no.such.name.invalid", "port": 8000})["server.host"]
    assert (found.level, "is neither an address nor a name" in found.text) == (Level.ERROR, True)


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    """A certificate of ours, and the authority of clients."""
    ca = authority("Our CA")
    made = Folder(tmp_path / "ssl")
    made.put(issue("llm.test", ca), ca)
    write(made.client_ca, ca.pem)
    return made


def https(folder: Folder) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder.certificate, folder.key)
    return context


def test_redirect_of_a_service_that_runs_is_no_error(look: Look, folder: Folder) -> None:
    with pong(context=https(folder)) as port, pong(ToHttps) as plain, pong() as other:
        tls = {"host": "llm.test", "folder": folder.path}
        found = look("ports", server={"port": port}, tls={**tls, "http_port": plain})
        assert {one.level for one in found.values()} == {Level.OK}
        assert "llamaherd is running there" in found["tls.http_port"].text
        assert look("ports", tls={**tls, "http_port": plain})["tls.http_port"].level is Level.ERROR
        found = look("ports", server={"port": port}, tls={**tls, "http_port": other})
        assert found["tls.http_port"].level is Level.ERROR


def test_service_that_asks_for_certificates_of_clients_is_known_by_its_own(look: Look, folder: Folder) -> None:
    context = https(folder)
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(folder.client_ca)
    tls = {"host": "llm.test", "folder": folder.path, "client_ca": folder.client_ca}
    with pong(context=context) as port:
        found = look("ports", server={"port": port}, tls=tls)["server.port"]
        assert (found.level, "llamaherd is running there" in found.text) == (Level.OK, True), found
        folder.put(issue("llm.test", authority("Another CA")))
        assert look("ports", server={"port": port}, tls=tls)["server.port"].level is Level.ERROR


def test_service_that_runs_on_a_port_that_this_user_may_not_have_is_no_error(
    look: Look, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (ports, probe):
        monkeypatch.setattr(module, "bound", lambda host, port: errno.EACCES)
    with pong() as port:
        assert look("ports", server={"port": port})["server.port"].level is Level.OK
    assert "may not listen" in look("ports", server={"port": port})["server.port"].text


def test_one_that_drips_its_answer_is_not_waited_for(look: Look, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "PING_TIMEOUT", 0.1)
    hung_up = threading.Event()

    class Dripping(Pong):
        def do_GET(self) -> None:
            self.wfile.write(b"HTTP/1.0 200 OK\r\nX-Long: ")
            try:
                for _ in range(500):
                    self.wfile.write(b"x")
                    hung_up.wait(0.01)
            except OSError:
                hung_up.set()

    with pong(Dripping) as port:
        found = look("ports", server={"port": port})["server.port"]
        assert hung_up.wait(10)  # by the doctor, before the end
    assert found.level is Level.ERROR


def test_fit_of_the_default_model_is_not_judged_beside_a_service_that_runs(
    look: Look, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    models = tmp_path / "data" / "models"
    models.mkdir(parents=True)
    write_tiny_gguf(models / "tiny.gguf", file_type=None)
    (models.parent / "models.json").write_text('{"a": {"params": {"model": "tiny.gguf"}}}')
    with pong() as port:
        found = look("memory", server={"port": port})["default model"]
    assert (found.level, "a fits now is not judged" in found.text) == (Level.NOTE, True)
