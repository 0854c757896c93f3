"""Connections and their limits: how many there may be, and how long a client may take."""

from __future__ import annotations

import asyncio
import contextlib
import json
import resource
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest
import uvloop
from aiohttp import web

from manager import listener as listening
from manager import places as counting
from manager import stall
from manager.connection import MAX_HEAD, WRITE_BUFFER
from manager.connections import ConnectionServer
from manager.listener import Listener
from manager.places import RESERVE, Places
from manager.settings_server import ServerSettings, TlsSettings
from manager.short_answers import SECURITY, always
from tests.manager.tls.pki import issue

GET: Final = b"GET /a HTTP/1.1\r\nHost: x\r\n\r\n"
PATIENCE: Final = 10.0
SECURE: Final = always(TlsSettings(enabled=True, hsts=60))
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
        self, context: ssl.SSLContext | None = None, receive_buffer: int | None = None
    ) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
        name = "localhost" if context else None
        own = socket.socket()
        own.setblocking(False)
        if receive_buffer is not None:
            own.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        async with asyncio.timeout(PATIENCE):
            await asyncio.get_running_loop().sock_connect(own, ("127.0.0.1", self.port))
            reader, writer = await asyncio.open_connection(
                sock=own, ssl=context, server_hostname=name, limit=receive_buffer or 65536
            )
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
async def serving(
    handler: Handler = pong,
    tls: ssl.SSLContext | None = None,
    headers: Mapping[str, str] = SECURITY,
    **settings: Any,
) -> AsyncIterator[Door]:
    limits = ServerSettings(**settings)
    server, places = ConnectionServer(handler, limits, headers), Places(limits)
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


async def test_the_ipv6_network_of_a_home_is_one_client() -> None:
    places = Places(ServerSettings(max_connections_per_address=1))
    assert places.take("2001:db8:1:200::1") is not None
    assert places.take("2001:db8:1:2ff:ffff::1") is None
    assert places.take("2001:db8:1:300::1") is not None


@pytest.mark.parametrize(
    ("soft", "hard", "raised", "most"),
    [
        (2000, 2000, None, 1000),
        (1000, 5000, 1000 + RESERVE, 1000),
        (1000, resource.RLIM_INFINITY, 1000 + RESERVE, 1000),
        (resource.RLIM_INFINITY, resource.RLIM_INFINITY, None, 1000),
        (500, 900, 900, 900 - RESERVE),
        (300, 300, None, 150),
    ],
)
async def test_there_are_as_many_connections_as_files_may_be_open(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    soft: int,
    hard: int,
    raised: int | None,
    most: int,
) -> None:
    set_to: list[tuple[int, int]] = []
    places = Places(ServerSettings(max_connections=1000))
    with monkeypatch.context() as patch:
        patch.setattr(resource, "getrlimit", lambda _: (soft, hard))
        patch.setattr(resource, "setrlimit", lambda _, limits: set_to.append(limits))
        places.fit_open_files()
    assert set_to == ([] if raised is None else [(raised, hard)])
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == (most < 1000)
    assert not said or f"only {most} connections at a time" in said[0]
    for _ in range(most):
        assert places.take("127.0.0.1") is not None
    assert places.take("127.0.0.1") is None


async def test_a_limit_of_files_that_can_not_be_raised_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise ValueError

    places = Places(ServerSettings(max_connections=1000))
    with monkeypatch.context() as patch:
        patch.setattr(resource, "getrlimit", lambda _: (300, resource.RLIM_INFINITY))
        patch.setattr(resource, "setrlimit", refuse)
        places.fit_open_files()
    assert sum(places.take("127.0.0.1") is not None for _ in range(200)) == 150


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


@contextlib.contextmanager
def held() -> Iterator[tuple[Handler, asyncio.Event]]:
    """A handler whose answers wait for the event, and then are the path and what came as the body."""
    event = asyncio.Event()

    async def handler(request: web.BaseRequest) -> web.StreamResponse:
        await event.wait()
        return web.Response(text=f"{request.path} {len(await request.read())}")

    yield handler, event
    event.set()


async def test_a_head_behind_a_request_that_runs_is_waited_for_from_its_end_on() -> None:
    with held() as (handler, event):
        async with serving(handler, header_timeout=0.1) as door, door.connect() as (reader, writer):
            writer.write(GET)
            await asyncio.sleep(0.02)
            writer.write(GET[:9])
            await asyncio.sleep(0.15)
            event.set()
            assert await answer(reader) == b"/a 0"
            assert error_of(await whole(reader))[0] == 408


async def test_a_head_behind_a_request_that_runs_has_the_same_limit() -> None:
    with held() as (handler, event):
        async with serving(handler) as door, door.connect() as (reader, writer):
            writer.write(GET)
            for number in range(2 * MAX_HEAD // 8000):
                await asyncio.sleep(0.005)  # in pieces
                writer.write((b"" if number else GET[:-2]) + b"X-%d: %b\r\n" % (number, b"a" * 7990))
            await asyncio.sleep(0.02)
            writer.write(b"\r\n")  # too late: what came last was not kept
            await asyncio.sleep(0.02)
            event.set()
            assert await answer(reader) == b"/a 0"
            assert error_of(await whole(reader))[0] == 431


@pytest.mark.parametrize("offer", [b"", b"Connection: upgrade\r\nUpgrade: websocket\r\n"])
async def test_a_body_behind_a_request_that_runs_is_no_head(offer: bytes) -> None:
    size = 3 * MAX_HEAD
    post = b"POST /b HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % size
    with held() as (handler, event):
        async with serving(handler, header_timeout=0.2) as door, door.connect() as (reader, writer):
            writer.write(GET[:-2] + offer + b"\r\n" + post + b"x")
            await asyncio.sleep(0.02)
            if offer:  # what comes behind it is only looked at when its answer has declined it
                event.set()
                assert await answer(reader) == b"/a 0"
            for _ in range(2):
                writer.write(b"x" * (size // 2 - 1))
                await asyncio.sleep(0.01)
            writer.write(b"x")
            event.set()
            if not offer:
                assert await answer(reader) == b"/a 0"
            assert await answer(reader) == b"/b %d" % size
            await asyncio.sleep(0.25)
            writer.write(GET)
            assert await answer(reader) == b"/a 0"


async def test_what_comes_behind_the_offer_of_an_unknown_protocol_is_never_answered() -> None:
    offer = GET[:-2] + b"Connection: upgrade\r\nUpgrade: h2c\r\n\r\n"
    with held() as (handler, event):
        async with serving(handler) as door, door.connect() as (reader, writer):
            writer.write(offer + b"POST /b HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(GET))
            await asyncio.sleep(0.02)
            writer.write(GET.replace(b"/a", b"/c"))
            await asyncio.sleep(0.02)
            event.set()
            assert await answer(reader) == b"/a 0"
            assert await whole(reader) == b""


# Which HTTP, and what every answer says


@pytest.mark.parametrize("version", [b"HTTP/2.0", b"HTTP/0.9"])
async def test_other_versions_are_a_505_in_ours_after_what_came_before(version: bytes) -> None:
    async with serving() as door, door.connect() as (reader, writer):
        writer.write(GET + GET.replace(b"HTTP/1.1", version))
        assert await answer(reader) == b"pong"
        raw = await whole(reader)
        assert raw.startswith(b"HTTP/1.1 505 ")
        assert error_of(raw)[1]["code"] == "http_version_not_supported"


def headers_of(raw: bytes) -> dict[str, str]:
    head = raw.partition(b"\r\n\r\n")[0].decode()
    return dict(line.split(": ", 1) for line in head.split("\r\n")[1:])


async def test_answers_that_nobody_marked_say_what_every_answer_says() -> None:
    async def handler(request: web.BaseRequest) -> web.StreamResponse:
        if request.path == "/missing":
            raise web.HTTPNotFound
        return web.Response(text="pong", headers={"Server": "own"} if request.path == "/own" else None)

    assert SECURE["Strict-Transport-Security"] == "max-age=60"
    assert SECURE["Server"] == "llamaherd"
    asked = {path: GET.replace(b"/a", path) for path in (b"/a", b"/missing", b"/own")}
    asked |= {b"no request": b"GET\r\n\r\n", b"no version": GET.replace(b"1.1", b"2.0"), b"late": b"GET /"}
    async with serving(handler, headers=SECURE, header_timeout=0.1) as door:
        for name, data in asked.items():
            async with door.connect() as (reader, writer):
                writer.write(data.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
                headers = headers_of(await whole(reader))
            if name == b"/own":
                assert headers["Server"] == "own"
                assert "Cache-Control" not in headers
            else:
                assert headers.items() >= SECURE.items(), name


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

    async with serving(endless, tls, write_timeout=0.2) as door, door.connect(client) as (_, writer):
        writer.write(GET)
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        await asyncio.sleep(0.15)
        for connection in door.server.connections:
            assert connection.transport is not None
            assert connection.transport.get_write_buffer_size() < 3 * WRITE_BUFFER
        async with asyncio.timeout(PATIENCE):
            await ended.wait()
        await door.until_taken(0)


@pytest.mark.parametrize("secure", [False, True])
@pytest.mark.parametrize("loop", LOOPS)
def test_who_takes_its_answer_slowly_gets_it_whole(
    contexts: tuple[ssl.SSLContext, ssl.SSLContext], loop: str, secure: bool
) -> None:
    run(loop, read_slowly(*(contexts if secure else (None, None))))


async def test_who_takes_its_answer_slowly_gets_it_whole_where_the_system_does_not_tell_what_was_taken(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(stall, "_TCP_INFO", None)
    await read_slowly(None, None)


async def read_slowly(tls: ssl.SSLContext | None, client: ssl.SSLContext | None) -> None:
    """In several times as many seconds as an answer may lie still. With TLS the client takes it by 256 KiB."""
    size, timeout = (3_000_000, 0.25) if tls else (1_500_000, 0.1)

    async def long(request: web.BaseRequest) -> web.StreamResponse:
        assert request.transport is not None
        request.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 32768)
        return web.Response(body=b"x" * size)

    async with serving(long, tls, write_timeout=timeout) as door, door.connect(client, 32768) as (reader, writer):
        writer.write(GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
        got, began = 0, asyncio.get_running_loop().time()
        while data := await reader.read(16384):
            got += len(data)
            await asyncio.sleep(0.004)
        assert got > size
        assert asyncio.get_running_loop().time() - began > 2.5 * timeout


async def test_who_never_answers_the_end_of_tls_is_cut_off(contexts: tuple[ssl.SSLContext, ssl.SSLContext]) -> None:
    server, client = contexts
    with held() as (handler, event):
        async with serving(handler, server, write_timeout=0.1) as door, door.connect(client) as (_, writer):
            writer.write(GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
            writer.transport.pause_reading()  # type: ignore[attr-defined]
            await asyncio.sleep(0.02)
            event.set()
            await asyncio.sleep(0.02)
            assert door.places.taken == 1
            await door.until_taken(0)


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


@pytest.mark.parametrize("turns", [0, 1])
async def test_a_connection_that_was_accepted_a_moment_before_the_listener_ends_leaves_nothing(turns: int) -> None:
    async with serving() as door:
        last = Listener(door.server, door.places)
        await last.start("127.0.0.1", 0)
        loop = asyncio.get_running_loop()
        (own,) = last._sockets
        loop.remove_reader(own)
        with socket.socket() as client:
            client.setblocking(False)
            await loop.sock_connect(client, ("127.0.0.1", last.port))
            last._accept(own)
            assert door.places.taken == 1
            for _ in range(turns):
                await asyncio.sleep(0)
            assert last._beginning
            await last.close()
            assert not last._beginning
            await door.until_taken(0)
            async with asyncio.timeout(PATIENCE):
                assert await loop.sock_recv(client, 100) == b""
