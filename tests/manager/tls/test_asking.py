"""Where clients must show a certificate, every connection has one checked, by the authorities of the moment."""

from __future__ import annotations

import asyncio
import gc
import socket
import ssl
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import pytest
import uvloop

from manager.settings_server import TlsSettings
from manager.tls import ServerTls
from manager.tls import context as contexts
from tests.manager.tls.pki import CLIENT, Folder, Issued, authority, issue, write
from tests.manager.tls.server import EchoServer, Loop, client, connected, showing

LOOPS = {"uvloop": uvloop.new_event_loop, "asyncio": asyncio.new_event_loop}
VERSIONS = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}

T = TypeVar("T")
Bob = Callable[[ssl.TLSVersion], ssl.SSLContext]

every_version = pytest.mark.parametrize("version", VERSIONS.values(), ids=list(VERSIONS))


@pytest.fixture(scope="module")
def staying() -> Issued:
    return authority("Staying")


@pytest.fixture(scope="module")
def going() -> Issued:
    return authority("Going")


@pytest.fixture
def tls(folder: Folder, root: Issued, staying: Issued, going: Issued) -> ServerTls:
    folder.put(issue("llm.test", root), root)
    write(folder.client_ca, staying.pem + going.pem)
    return ServerTls(folder.settings(client_ca=folder.client_ca))


@pytest.fixture(params=LOOPS.values(), ids=list(LOOPS))
def server(request: pytest.FixtureRequest, tls: ServerTls) -> Iterator[EchoServer]:
    loop: Loop = request.param
    with EchoServer(tls.context, loop) as running:
        yield running


@pytest.fixture
def bob(going: Issued, tmp_path: Path) -> Bob:
    """Makes the context of a client with a certificate of `going`."""
    issued = issue("bob", going, purposes=[CLIENT])
    return lambda version: showing(client(maximum_version=version), issued, tmp_path)


@every_version
def test_no_session_is_resumed(server: EchoServer, bob: Bob, version: ssl.TLSVersion) -> None:
    context = bob(version)
    with connected(server, context) as connection:
        assert connection.echo() == "hello"
        session = connection.ssl.session
        assert session is None or not session.has_ticket
    with connected(server, context, session=session) as connection:
        assert connection.echo() == "hello"
        assert not connection.ssl.session_reused


@every_version
def test_older_session_does_not_bring_a_client_in_again(
    tls: ServerTls, server: EchoServer, bob: Bob, folder: Folder, staying: Issued, version: ssl.TLSVersion
) -> None:
    context = bob(version)
    with connected(server, context) as connection:
        connection.echo()
        session = connection.ssl.session
        write(folder.client_ca, staying.pem)
        tls.reload()
        assert connection.echo("open ones live on") == "open ones live on"
    with pytest.raises(OSError), connected(server, context, session=session) as connection:  # noqa: PT011
        connection.echo()


@every_version
def test_handshake_that_waits_until_its_authority_is_gone_fails(
    tls: ServerTls, server: EchoServer, bob: Bob, folder: Folder, staying: Issued, version: ssl.TLSVersion
) -> None:
    with stalled(server, bob(version)) as waiting:
        write(folder.client_ca, staying.pem)
        tls.reload()
        with pytest.raises(OSError):  # noqa: PT011 whichever end sees it first
            waiting.echo()


@every_version
def test_handshake_that_waits_while_files_are_renewed_or_an_authority_is_added_succeeds(
    tls: ServerTls, server: EchoServer, bob: Bob, folder: Folder, root: Issued, version: ssl.TLSVersion
) -> None:
    with stalled(server, bob(version)) as waiting:
        folder.put(issue("llm.test", root), root)
        write(folder.client_ca, folder.client_ca.read_bytes() + authority("Coming").pem)
        tls.reload()
        assert waiting.echo() == "hello"


def test_context_of_a_connection_lives_on_for_a_second_first_message(
    tls: ServerTls, bob: Bob, monkeypatch: pytest.MonkeyPatch
) -> None:
    bare, made = contexts.bare_context, []

    def with_another_curve(settings: TlsSettings) -> ssl.SSLContext:
        context = bare(settings)
        context.set_ecdh_curve("secp521r1")  # clients begin with X25519, and have to begin again
        made.append(weakref.ref(context))
        return context

    monkeypatch.setattr(contexts, "bare_context", with_another_curve)
    loop, context = uvloop.new_event_loop, bob(ssl.TLSVersion.TLSv1_3)
    with EchoServer(tls.context, loop) as server, connected(server, context) as connection:
        assert connection.echo() == "hello"
        assert [one() is None for one in made] == [False]
    gc.collect()
    assert [one() is None for one in made] == [True]


class Stalled:
    """A client that has all of the server's first answer, and has not sent its own."""

    def __init__(self, plain: socket.socket, context: ssl.SSLContext) -> None:
        self._plain = plain
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname="llm.test")
        with pytest.raises(ssl.SSLWantReadError):
            self._tls.do_handshake()
        self._send()
        while not self._outgoing.pending:
            self._receive()
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                continue

    def echo(self) -> str:
        """What the server sends back, once the handshake is done. Raises OSError where it ends the connection."""
        self._done(self._tls.do_handshake)
        self._done(lambda: self._tls.write(b"hello\n"))
        return self._done(lambda: self._tls.read(6)).decode().rstrip("\n")

    def _done(self, step: Callable[[], T]) -> T:
        while True:
            try:
                result = step()
            except ssl.SSLWantReadError:
                self._send()
                self._receive()
            else:
                self._send()
                return result

    def _send(self) -> None:
        self._plain.sendall(self._outgoing.read())

    def _receive(self) -> None:
        part = self._plain.recv(65536)
        if not part:
            raise ConnectionResetError("the server has ended the connection")
        self._incoming.write(part)


@contextmanager
def stalled(server: EchoServer, context: ssl.SSLContext) -> Iterator[Stalled]:
    with socket.create_connection(server.address, timeout=10) as plain:
        yield Stalled(plain, context)
