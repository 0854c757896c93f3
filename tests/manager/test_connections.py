"""Connections and their limits: how many there may be, and how long a client may take."""

from __future__ import annotations

import asyncio
import contextlib
import json
import resource
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest
import uvloop
from aiohttp import web

from manager import listener as listening
from manager import places as counting
from manager.connections import MAX_HEAD, WRITE_BUFFER, ConnectionServer
from manager.listener import Listener
from manager.places import Places
from manager.settings_server import ServerSettings
from tests.manager.tls.pki import issue

GET: Final = b"GET /a HTTP/1.1\r\nHost: x\r\n\r\n"
PATIENCE: Final = 10.0
LOOPS: Final = {"uvloop": uvloop.new_event_loop, "asyncio": asyncio.new_event_loop}
Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


@dataclass
class Door:
    """A listener, and what is behind it."""

    port: int
    places: Places
    server: ConnectionServer

    @contextlib.asynccontextmanager
    async def connect(
        self, context: ssl.SSLContext | None = None
    ) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
        name = "localhost" if context else None
        async with asyncio.timeout(PATIENCE):
            reader, writer = await asyncio.open_connection("127.0.0.1", self.port, ssl=context, server_hostname=name)
        try:
            yield reader, writer
        finally:
            writer.transport.abort()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    async def until_taken(self, number: int) -> None:
        async with asyncio.timeout(PATIENCE):
            while self.places.taken != number:  # noqa: ASYNC110  the sockets of others tell nobody
                await asyncio.sleep(0.002)


async def pong(_: web.BaseRequest) -> web.StreamResponse:
    return web.Response(text="pong")


@contextlib.asynccontextmanager
async def serving(handler: Handler = pong, tls: ssl.SSLContext | None = None, **settings: Any) -> AsyncIterator[Door]:
    limits = ServerSettings(**settings)
    server, places = ConnectionServer(handler, limits), Places(limits)
    door = Listener(server, places, tls)
    await door.start("127.0.0.1", 0)
    try:
        yield Door(door.port, places, server)
    finally:
        await door.close()
        await server.shutdown(1.0)


@pytest.fixture(scope="module")
def contexts(tmp_path_factory: pytest.TempPathFactory) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """Of a server with a certificate of its own, and of a client that trusts it."""
    issued = issue("localhost")
    file: Path = tmp_path_factory.mktemp("tls") / "both.pem"
    file.write_bytes(issued.pem + issued.key_pem)
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(file)
    client = ssl.create_default_context(cadata=issued.pem.decode())
    client.verify_flags &= ~getattr(ssl, "VERIFY_X509_STRICT", 0)  # it is its own authority
    return server, client


async def whole(reader: asyncio.StreamReader) -> bytes:
    """All that comes until the server closes."""
    async with asyncio.timeout(PATIENCE):
        return await reader.read()


async def answer(reader: asyncio.StreamReader) -> bytes:
    """The text of the next answer."""
    async with asyncio.timeout(PATIENCE):
        head = await reader.readuntil(b"\r\n\r\n")
        length = next(int(line[16:]) for line in head.split(b"\r\n") if line.startswith(b"Content-Length: "))
        return await reader.readexactly(length)


def error_of(raw: bytes) -> tuple[int, dict[str, Any]]:
    """The status and the error of an answer that ends its connection."""
    head, _, body = raw.partition(b"\r\n\r\n")
    assert b"\r\nConnection: close" in head or head.startswith(b"HTTP/1.0")
    assert b"\r\nX-Content-Type-Options: nosniff" in head
    assert b"\r\nCache-Control: no-store" in head
    return int(head.split()[1]), json.loads(body)["error"]


# How many


async def test_places_are_counted_in_all_and_by_address() -> None:
    places = Places(ServerSettings(max_connections=4, max_connections_per_address=2))
    first = places.take("192.0.2.1")
    assert first is not None
    assert places.take("192.0.2.1") is not None
    assert places.take("192.0.2.1") is None
    assert places.take("192.0.2.2") is not None
    assert places.take("192.0.2.3") is not None
    assert places.take("192.0.2.4") is None
    first.leave()
    first.leave()
    assert places.taken == 3
    assert places.take("192.0.2.1") is not None
    assert places.take("192.0.2.5") is None


async def test_a_network_of_ipv6_is_one_client() -> None:
    places = Places(ServerSettings(max_connections_per_address=1))
    assert places.take("2001:db8:1:2::1") is not None
    assert places.take("2001:db8:1:2:ffff::1") is None
    assert places.take("2001:db8:1:3::1") is not None


async def test_this_machine_and_proxies_have_no_limit_of_their_own() -> None:
    places = Places(ServerSettings(max_connections=7, max_connections_per_address=1, trusted_proxies=["10.0.0.0/8"]))
    for address in ("127.0.0.1", "127.0.0.1", "::1", "::1", "10.1.2.3", "10.1.2.3", "192.0.2.1"):
        assert places.take(address) is not None, address
    assert places.take("127.0.0.1") is None


async def test_refusals_are_logged_once_a_minute_with_their_number(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(counting, "REPORT_EVERY", 0.05)
    places = Places(ServerSettings(max_connections=1))
    places.take("192.0.2.1")
    for _ in range(3):
        assert places.take("192.0.2.1") is None
    assert [record.getMessage() for record in caplog.records] == ["connections refused=1 open=1"]
    await asyncio.sleep(0.06)
    assert places.take("192.0.2.1") is None
    assert [record.getMessage() for record in caplog.records][1:] == ["connections refused=3 open=1"]


async def test_one_connection_too_many_is_told_so_and_the_next_gets_the_place_of_one_that_left() -> None:
    async with serving(max_connections=1) as door:
        async with door.connect():
            await door.until_taken(1)
            async with door.connect() as (reader, _):
                raw = await whole(reader)
                assert error_of(raw)[0] == 503
                assert error_of(raw)[1]["code"] == "too_many_connections"
                assert b"\r\nRetry-After: 5\r\n" in raw
        await door.until_taken(0)
        async with door.connect() as (reader, writer):
            writer.write(GET)
            assert await answer(reader) == b"pong"


async def test_one_connection_too_many_costs_no_handshake(contexts: tuple[ssl.SSLContext, ssl.SSLContext]) -> None:
    server, client = contexts
    async with serving(tls=server, max_connections=1) as door:
        async with door.connect(client):
            with pytest.raises((ConnectionError, ssl.SSLError)):
                async with door.connect(client):
                    pass
            assert door.places.taken == 1
        await door.until_taken(0)


async def test_who_never_ends_the_handshake_holds_a_place_but_not_for_long(
    contexts: tuple[ssl.SSLContext, ssl.SSLContext], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listening, "TLS_HANDSHAKE", 0.2)
    async with serving(tls=contexts[0]) as door, door.connect() as (reader, writer):
        await door.until_taken(1)
        writer.write(b"\x16\x03\x01\x02\x00")
        await door.until_taken(0)
        assert await whole(reader) == b""


async def test_what_is_no_tls_is_closed_and_gives_its_place_back(
    contexts: tuple[ssl.SSLContext, ssl.SSLContext],
) -> None:
    async with serving(tls=contexts[0]) as door, door.connect() as (reader, writer):
        writer.write(GET)
        with contextlib.suppress(ConnectionError):
            await whole(reader)
        await door.until_taken(0)


async def test_no_file_left_is_waited_out(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listening, "REST", 0.02)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    async with serving() as door:
        with socket.socket() as client, socket.socket() as spare:
            client.setblocking(False)
            resource.setrlimit(resource.RLIMIT_NOFILE, (spare.fileno() + 1, hard))
            try:
                await asyncio.get_running_loop().sock_connect(client, ("127.0.0.1", door.port))
                async with asyncio.timeout(PATIENCE):
                    while not caplog.records:  # noqa: ASYNC110  only the log tells
                        await asyncio.sleep(0.002)
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            assert "Too many open files" in caplog.records[0].getMessage()
            await door.until_taken(1)
            client.send(GET)
            assert (await asyncio.get_running_loop().sock_recv(client, 100)).startswith(b"HTTP/1.1 200 ")


# How long to send


async def test_who_says_nothing_is_cut_off() -> None:
    async with serving(header_timeout=0.1) as door, door.connect() as (reader, _writer):
        status, error = error_of(await whole(reader))
        assert (status, error["code"]) == (408, "request_timeout")
        await door.until_taken(0)


@pytest.mark.parametrize("before", [b"", GET])
async def test_a_head_that_comes_byte_by_byte_is_cut_off_on_a_new_connection_and_on_one_that_was_used(
    before: bytes,
) -> None:
    async with serving(header_timeout=0.2) as door, door.connect() as (reader, writer):
        if before:
            writer.write(before)
            assert await answer(reader) == b"pong"
        trickle = asyncio.create_task(send_slowly(writer, GET))
        began = asyncio.get_running_loop().time()
        assert error_of(await whole(reader))[0] == 408
        assert 0.15 < asyncio.get_running_loop().time() - began < 1.0
        trickle.cancel()


async def send_slowly(writer: asyncio.StreamWriter, data: bytes) -> None:
    """Longer than any timeout here."""
    for byte in data * 1000:
        writer.write(bytes([byte]))
        await asyncio.sleep(0.05)


async def test_a_connection_without_a_request_stays_longer_than_a_head_may_take() -> None:
    async with serving(header_timeout=0.1) as door, door.connect() as (reader, writer):
        for _ in range(2):
            writer.write(GET[:10])
            await asyncio.sleep(0.02)
            writer.write(GET[10:])
            assert await answer(reader) == b"pong"
            await asyncio.sleep(0.15)


async def test_an_answer_may_take_longer_than_a_head() -> None:
    async def slow(_: web.BaseRequest) -> web.StreamResponse:
        await asyncio.sleep(0.2)
        return web.Response(text="late")

    async with serving(slow, header_timeout=0.05) as door, door.connect() as (reader, writer):
        writer.write(GET)
        assert await answer(reader) == b"late"


async def test_a_connection_without_a_request_is_closed_in_the_end() -> None:
    async with serving(keepalive_timeout=0.1) as door, door.connect() as (reader, writer):
        writer.write(GET)
        assert await answer(reader) == b"pong"
        assert await whole(reader) == b""


async def test_a_head_of_many_headers_has_a_limit() -> None:
    async with serving(header_timeout=PATIENCE) as door, door.connect() as (reader, writer):
        writer.write(GET[:-2])
        for number in range(MAX_HEAD // 8000 + 1):
            await asyncio.sleep(0.01)  # in pieces; what comes in one read is bounded by that
            writer.write(b"X-%d: %b\r\n" % (number, b"a" * 7990))
        status, error = error_of(await whole(reader))
        assert (status, error["code"]) == (431, "head_too_large")


# How long to read


def run(loop: str, work: Coroutine[Any, Any, None]) -> None:
    with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
        runner.run(work)


@pytest.mark.parametrize("secure", [False, True])
@pytest.mark.parametrize("loop", LOOPS)
def test_who_does_not_take_its_answer_is_cut_off_and_its_handler_cancelled(
    contexts: tuple[ssl.SSLContext, ssl.SSLContext], monkeypatch: pytest.MonkeyPatch, loop: str, secure: bool
) -> None:
    monkeypatch.delattr(socket, "TCP_USER_TIMEOUT")  # the system would do it too
    run(loop, refuse_to_read(*(contexts if secure else (None, None))))


async def refuse_to_read(tls: ssl.SSLContext | None, client: ssl.SSLContext | None) -> None:
    ended = asyncio.Event()

    async def endless(request: web.BaseRequest) -> web.StreamResponse:
        response = web.StreamResponse()
        try:
            await response.prepare(request)
            while True:
                await response.write(b"x" * 65536)
        finally:
            ended.set()

    async with serving(endless, tls, write_timeout=0.3) as door, door.connect(client) as (_, writer):
        writer.write(GET)
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        await asyncio.sleep(0.15)
        for connection in door.server.connections:
            assert connection.transport is not None
            assert connection.transport.get_write_buffer_size() < 3 * WRITE_BUFFER
        async with asyncio.timeout(PATIENCE):
            await ended.wait()
        await door.until_taken(0)


async def test_who_takes_its_answer_slowly_gets_it_whole() -> None:
    size = 4_000_000

    async def long(_: web.BaseRequest) -> web.StreamResponse:
        return web.Response(body=b"x" * size)

    async with serving(long, write_timeout=0.3) as door, door.connect() as (reader, writer):
        writer.write(GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
        got = 0
        while data := await reader.read(200_000):
            got += len(data)
            await asyncio.sleep(0.02)
        assert got > size


async def test_a_peer_that_vanished_is_noticed_by_the_system() -> None:
    seen: list[int] = []

    async def look(request: web.BaseRequest) -> web.StreamResponse:
        assert request.transport is not None
        own = request.transport.get_extra_info("socket")
        seen.append(own.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT))
        seen.append(own.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE))
        seen.append(own.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE))
        return web.Response()

    async with (
        serving(look, write_timeout=1e9) as _,
        serving(look, write_timeout=7.5) as door,
        door.connect() as (reader, writer),
    ):
        writer.write(GET)
        await answer(reader)
    assert seen == [7000, 7, 1]


async def test_who_ends_its_side_gets_what_is_answered_at_once_and_ends_what_is_not(
    contexts: tuple[ssl.SSLContext, ssl.SSLContext],
) -> None:
    ended = asyncio.Event()

    async def handler(request: web.BaseRequest) -> web.StreamResponse:
        if request.path == "/a":
            return web.Response(text="pong")
        try:
            await asyncio.sleep(PATIENCE)
        finally:
            ended.set()
        return web.Response()

    async with serving(handler) as door, door.connect() as (reader, writer):
        writer.write(GET + GET)
        writer.write_eof()
        assert (await whole(reader)).count(b"pong") == 2
        async with door.connect() as (reader, writer):
            writer.write(GET.replace(b"/a", b"/b"))
            writer.write_eof()
            assert await whole(reader) == b""
            assert ended.is_set()
            await door.until_taken(0)


async def test_what_is_no_request_is_answered_in_our_form_without_a_byte_of_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with serving() as door:
        for head in (b"Authorization: Bearer sk-lh-xyzzy\x01", b"sk-lh-xyzzy: " + b"a" * 9000, b"sk-lh-xyzzy"):
            async with door.connect() as (reader, writer):
                writer.write(GET[:-2] + head + b"\r\n\r\n")
                raw = await whole(reader)
                status, error = error_of(raw)
                assert (status, error["type"], error["code"]) == (400, "invalid_request_error", "invalid_request")
                assert b"xyzzy" not in raw
    caplog.clear()


async def test_a_mistake_of_ours_is_answered_in_our_form(caplog: pytest.LogCaptureFixture) -> None:
    async def broken(_: web.BaseRequest) -> web.StreamResponse:
        raise RuntimeError("secret")

    async with serving(broken) as door, door.connect() as (reader, writer):
        writer.write(GET)
        raw = await whole(reader)
        assert error_of(raw)[0] == 500
        assert b"secret" not in raw
    caplog.clear()


async def test_an_address_that_is_taken_is_an_error_and_leaves_nothing_open() -> None:
    async with serving() as door:
        second = Listener(door.server, door.places)
        with pytest.raises(OSError, match="in use"):
            await second.start("127.0.0.1", door.port)
        assert second.urls == ""


async def test_connections_that_have_not_begun_end_with_the_listener(
    contexts: tuple[ssl.SSLContext, ssl.SSLContext],
) -> None:
    async with serving(tls=contexts[0]) as door, door.connect() as (reader, _writer):
        await door.until_taken(1)
    assert await whole(reader) == b""
    assert door.places.taken == 0
