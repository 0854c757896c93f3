from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from manager.doctor import Level, ports
from tests.manager.doctor.conftest import Look


class Pong(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/ping" else 404)
        self.end_headers()
        self.wfile.write(b"pong")

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def pong() -> Iterator[int]:
    """What answers as the service does, on the port that is yielded."""
    with HTTPServer(("127.0.0.1", 0), Pong) as server:
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
    monkeypatch.setattr(ports, "PING_TIMEOUT", 0.05)
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
