"""What UpstreamClient promises, against a server in the test that sends exactly what a test says."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from pathlib import Path

import pytest

from manager.engines import UpstreamRequest, UpstreamResponse
from manager.engines.llama import upstream as module
from manager.engines.llama import upstream as upstream_module
from manager.engines.llama.connection import HIGH_WATER
from manager.engines.llama.upstream import UpstreamClient
from manager.errors import UpstreamClosed, UpstreamConnectError, UpstreamError
from tests.manager.bench import lines_of, soon, turn, until
from tests.manager.conftest import LlamaFakes

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
CHUNKED = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"7\r\ndata: 1\r\n2\r\n\n\n\r\n9\r\ndata: 2\n\n\r\n0\r\n\r\n"
)
SIZED = b"HTTP/1.1 200 OK\r\nX-One: a\r\nContent-Length: 18\r\n\r\ndata: 1\n\ndata: 2\n\n"
ENDS_WITH_CONNECTION = b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\ndata: 1\n\ndata: 2\n\n"
INFORMED = b"HTTP/1.1 100 Continue\r\n\r\n" + SIZED
HEAD_OF_STREAM = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\ndata: 1\n\n\r\n"
BODY = b"data: 1\n\ndata: 2\n\n"
GET = UpstreamRequest("GET", "/props")


class Peer:
    """The server's side of one connection."""

    def __init__(self, number: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.number = number  # 1 for the first connection
        self.requests = 0
        self._reader = reader
        self._writer = writer

    async def read(self) -> bytes:
        """The next request; empty where the client has left."""
        try:
            head = await self._reader.readuntil(b"\r\n\r\n")
        except (asyncio.IncompleteReadError, ConnectionError):
            return b""
        _, _, length = head.lower().partition(b"content-length: ")
        self.requests += 1
        return head + await self._reader.readexactly(int(length.split(b"\r\n")[0]))

    async def send(self, *pieces: bytes) -> None:
        """Each piece in a turn of its own, so that the client gets them one by one."""
        for piece in pieces:
            self._writer.write(piece)
            await self._writer.drain()
            if len(pieces) > 1:
                await turn()

    async def until_client_leaves(self) -> None:
        with suppress(ConnectionError):
            assert await self._reader.read(1) == b""

    def close(self) -> None:
        self._writer.close()


Answer = Callable[[Peer], Awaitable[None]]


class Server:
    """Calls `answer` for each request. `seen` has (number of the connection, request) in order."""

    def __init__(self, path: Path, answer: Answer) -> None:
        self.path = path
        self.seen: list[tuple[int, bytes]] = []
        self.client = UpstreamClient(str(path), "k")
        self.changed = asyncio.Event()
        self.ended = 0
        self._answer = answer
        self._peers: list[Peer] = []
        self._server: asyncio.AbstractServer | None = None

    async def start(self, backlog: int) -> None:
        self._server = await asyncio.start_unix_server(self._serve, self.path, backlog=backlog)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer = Peer(len(self._peers) + 1, reader, writer)
        self._peers.append(peer)
        with suppress(ConnectionError):
            while request := await peer.read():
                self.seen.append((peer.number, request))
                await self._answer(peer)
        peer.close()
        self.ended += 1
        self.changed.set()

    @property
    def connections(self) -> list[int]:
        return [number for number, _ in self.seen]

    async def has_ended(self, count: int) -> None:
        """Wait until that many connections are over."""
        async with asyncio.timeout(5):
            while self.ended < count:
                self.changed.clear()
                await self.changed.wait()

    async def close(self) -> None:
        self.client.close()
        assert self._server is not None
        self._server.close()
        await self.has_ended(len(self._peers))


Serve = Callable[..., Awaitable[Server]]


@pytest.fixture
async def serve(short_folder: Path) -> AsyncIterator[Serve]:
    servers: list[Server] = []

    async def make(answer: Answer, backlog: int = 100) -> Server:
        server = Server(short_folder / "s.sock", answer)
        servers.append(server)
        await server.start(backlog)
        return server

    yield make
    for server in servers:
        await server.close()


async def ok(peer: Peer) -> None:
    await peer.send(OK)


def sends(*pieces: bytes, close: bool = False) -> Answer:
    async def answer(peer: Peer) -> None:
        await peer.send(*pieces)
        if close:
            peer.close()

    return answer


async def ask(client: UpstreamClient, request: UpstreamRequest = GET) -> bytes:
    async with asyncio.timeout(5), client.open(request) as response:
        return await response.read()


# requests


async def test_request_is_sent_as_it_is_with_the_key(serve: Serve) -> None:
    server = await serve(ok)
    body = b'{"a":  1}\x00\xff'
    await ask(server.client, UpstreamRequest("POST", "/v1/chat/completions?x=1", body, {"X-Trace": "t"}))
    head, _, sent = server.seen[0][1].partition(b"\r\n\r\n")
    first, *headers = head.decode().split("\r\n")
    assert first == "POST /v1/chat/completions?x=1 HTTP/1.1"
    assert sorted(headers) == [
        "Authorization: Bearer k",
        f"Content-Length: {len(body)}",
        "Content-Type: application/json",
        "Host: localhost",
        "X-Trace: t",
    ]
    assert sent == body


async def test_same_head_twice_carries_each_its_own_body(serve: Serve) -> None:
    server = await serve(ok)
    for body in (b"one", b"three"):
        await ask(server.client, UpstreamRequest("POST", "/tokenize", body))
    assert [request.partition(b"\r\n\r\n")[2] for _, request in server.seen] == [b"one", b"three"]


# answers, however their bytes are split


@pytest.mark.parametrize("size", [1, 2, 3, 7, 16, 50, 10_000])
@pytest.mark.parametrize(
    ("answer", "close"),
    [(CHUNKED, False), (SIZED, False), (INFORMED, False), (ENDS_WITH_CONNECTION, True)],
    ids=["chunked", "sized", "after 100 Continue", "ends with the connection"],
)
async def test_answer_is_the_same_however_it_is_split(serve: Serve, answer: bytes, close: bool, size: int) -> None:
    pieces = [answer[start : start + size] for start in range(0, len(answer), size)]
    server = await serve(sends(*pieces, close=close))
    async with asyncio.timeout(5), server.client.open(GET) as response:
        assert response.status == 200
        assert b"".join([chunk async for chunk in response.chunks()]) == BODY


async def test_answer_is_the_same_wherever_it_is_cut_in_two(serve: Serve) -> None:
    cut = iter(range(1, len(CHUNKED)))

    async def answer(peer: Peer) -> None:
        at = next(cut)
        await peer.send(CHUNKED[:at], CHUNKED[at:])

    server = await serve(answer)
    for _ in range(1, len(CHUNKED)):
        assert await ask(server.client) == BODY
    assert set(server.connections) == {1}


async def test_names_of_headers_are_in_lower_case(serve: Serve) -> None:
    server = await serve(sends(SIZED))
    async with server.client.open(GET) as response:
        assert response.headers == {"x-one": "a", "content-length": "18"}


async def test_status_of_an_error_is_handed_on_with_its_body(serve: Serve) -> None:
    server = await serve(sends(b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 7\r\n\r\nLoading"))
    async with server.client.open(GET) as response:
        assert (response.status, await response.read()) == (503, b"Loading")


async def test_answer_without_a_body_is_whole(serve: Serve) -> None:
    server = await serve(sends(b"HTTP/1.1 204 No Content\r\n\r\n"))
    async with server.client.open(GET) as response:
        assert response.whole == b""
    assert await ask(server.client) == b""
    assert server.connections == [1, 1]


async def test_body_that_came_with_its_head_is_whole(serve: Serve) -> None:
    server = await serve(sends(SIZED))
    async with server.client.open(GET) as response:
        assert response.whole == BODY


async def test_body_that_is_still_on_its_way_is_not_whole(serve: Serve) -> None:
    gate = asyncio.Event()

    async def answer(peer: Peer) -> None:
        await peer.send(SIZED[:-1])
        await gate.wait()
        await peer.send(SIZED[-1:])

    server = await serve(answer)
    async with server.client.open(GET) as response:
        assert response.whole is None
        gate.set()
        assert await soon(response.read()) == BODY


async def test_huge_header_is_read(serve: Serve) -> None:
    head = b"HTTP/1.1 200 OK\r\nX-Huge: " + b"h" * 300_000 + b"\r\nContent-Length: 2\r\n\r\nok"
    server = await serve(sends(head))
    async with asyncio.timeout(5), server.client.open(GET) as response:
        assert len(response.headers["x-huge"]) == 300_000
        assert await response.read() == b"ok"


async def test_answer_above_the_limit_is_refused(serve: Serve) -> None:
    server = await serve(sends(SIZED))
    async with server.client.open(GET) as response:
        with pytest.raises(UpstreamError, match="longer than 17 bytes"):
            await response.read(limit=17)
    async with server.client.open(GET) as response:
        assert await response.read(limit=18) == BODY


# connections


async def test_connection_is_used_again(serve: Serve) -> None:
    server = await serve(ok)
    for _ in range(5):
        assert await ask(server.client) == b"ok"
    assert server.connections == [1] * 5


async def test_connection_is_used_again_where_nobody_read_the_answer(serve: Serve) -> None:
    server = await serve(ok)
    for _ in range(3):
        async with server.client.open(GET):
            pass
    assert await ask(server.client) == b"ok"
    assert server.connections == [1] * 4


async def test_connection_reads_on_after_a_large_answer_that_nobody_read(serve: Serve) -> None:
    large = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (HIGH_WATER + 1) + bytes(HIGH_WATER + 1)

    async def answer(peer: Peer) -> None:
        await peer.send(large if peer.requests == 1 else OK)

    server = await serve(answer)
    async with asyncio.timeout(5), server.client.open(GET) as response:
        connection = response._live()
        await until(lambda: connection.complete)
    assert await ask(server.client) == b"ok"
    assert server.connections == [1, 1]


async def test_requests_at_once_have_connections_of_their_own(serve: Serve) -> None:
    both = asyncio.Barrier(2)

    async def answer(peer: Peer) -> None:
        if peer.requests == 1:
            await both.wait()
        await ok(peer)

    server = await serve(answer)
    await asyncio.gather(ask(server.client), ask(server.client))
    await ask(server.client)
    assert sorted(server.connections[:2]) == [1, 2]
    assert len(set(server.connections)) == 2


async def test_connection_that_the_engine_wants_closed_is_not_used_again(serve: Serve) -> None:
    server = await serve(sends(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok"))
    for _ in range(3):
        assert await ask(server.client) == b"ok"
    assert server.connections == [1, 2, 3]
    await server.has_ended(3)


async def test_idle_connection_that_was_closed_is_not_used(serve: Serve) -> None:
    server = await serve(sends(OK, close=True))
    await ask(server.client)
    await server.has_ended(1)
    await turn()
    assert await ask(server.client) == b"ok"
    assert server.connections == [1, 2]


async def test_bytes_that_nobody_asked_for_spoil_an_idle_connection(serve: Serve) -> None:
    async def answer(peer: Peer) -> None:
        await peer.send(OK, OK if peer.number == 1 else b"")

    server = await serve(answer)
    await ask(server.client)
    await turn()
    await turn()
    assert await ask(server.client) == b"ok"
    assert server.connections == [1, 2]


async def test_idle_connections_above_the_most_are_closed(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_IDLE", 2)
    all_at_once = asyncio.Barrier(5)

    async def answer(peer: Peer) -> None:
        await all_at_once.wait()
        await ok(peer)

    server = await serve(answer)
    await asyncio.gather(*(ask(server.client) for _ in range(5)))
    await server.has_ended(3)


async def test_many_connects_at_once_work_on_a_small_backlog(serve: Serve) -> None:
    server = await serve(ok, backlog=3)
    answers = await asyncio.gather(*(ask(server.client) for _ in range(200)))
    assert answers == [b"ok"] * 200


@pytest.mark.parametrize("there", [False, True])
async def test_nobody_who_listens_is_a_connect_error(short_folder: Path, there: bool) -> None:
    path = short_folder / "s.sock"
    if there:
        with socket.socket(socket.AF_UNIX) as bound:
            bound.bind(str(path))
    with pytest.raises(UpstreamConnectError):
        await ask(UpstreamClient(str(path), "k"))


async def test_closed_client_ends_what_is_in_flight_and_connects_no_more(serve: Serve) -> None:
    server = await serve(sends(SIZED[:-1]))
    async with server.client.open(GET) as response:
        reading = asyncio.create_task(response.read())
        await turn()
        server.client.close()
        with pytest.raises(UpstreamClosed):
            await soon(reading)
    with pytest.raises(UpstreamConnectError):
        await ask(server.client)


async def test_closed_client_keeps_no_idle_connection(serve: Serve) -> None:
    server = await serve(ok)
    await ask(server.client)
    server.client.close()
    await server.has_ended(1)


# the one retry


async def test_reused_connection_that_closes_before_a_byte_costs_one_retry(serve: Serve) -> None:
    async def answer(peer: Peer) -> None:
        if (peer.number, peer.requests) == (1, 2):
            peer.close()
        else:
            await ok(peer)

    server = await serve(answer)
    body = UpstreamRequest("POST", "/tokenize", b"{}")
    assert await ask(server.client) == b"ok"
    assert await ask(server.client, body) == b"ok"
    assert server.connections == [1, 1, 2]
    assert server.seen[1][1] == server.seen[2][1]


async def test_request_that_was_in_work_when_its_connection_closed_is_not_sent_again(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upstream_module, "BEGUN_AFTER", 0.01)
    worked = asyncio.Event()

    async def answer(peer: Peer) -> None:
        if peer.requests == 1:
            await ok(peer)
        else:
            await worked.wait()
            peer.close()

    server = await serve(answer)
    await ask(server.client)
    asyncio.get_running_loop().call_later(0.05, worked.set)
    with pytest.raises(UpstreamClosed):
        await ask(server.client)
    assert server.connections == [1, 1]


async def test_retry_that_closes_too_is_not_repeated(serve: Serve) -> None:
    async def answer(peer: Peer) -> None:
        if (peer.number, peer.requests) == (1, 1):
            await ok(peer)
        else:
            peer.close()

    server = await serve(answer)
    await ask(server.client)
    with pytest.raises(UpstreamConnectError):
        await ask(server.client)
    assert server.connections == [1, 1, 2]


async def test_new_connection_that_closes_before_a_byte_is_not_retried(serve: Serve) -> None:
    server = await serve(sends(close=True))
    with pytest.raises(UpstreamConnectError):
        await ask(server.client)
    assert server.connections == [1]


@pytest.mark.parametrize("begun", [b"H", OK[:20], SIZED[:-1]])
async def test_request_is_not_sent_again_after_a_byte_has_come(serve: Serve, begun: bytes) -> None:
    async def answer(peer: Peer) -> None:
        await peer.send(OK if peer.requests == 1 else begun)
        if peer.requests == 2:
            peer.close()

    server = await serve(answer)
    await ask(server.client)
    with pytest.raises(UpstreamClosed):
        await ask(server.client)
    assert server.connections == [1, 1]


@pytest.mark.parametrize("silently", [False, True])
async def test_engine_that_closes_after_every_third_request_loses_none(llama: LlamaFakes, silently: bool) -> None:
    engine = llama.engine(close_after=3, close_silently=silently)
    await soon(engine.start())
    for _ in range(30):
        async with engine.open(GET) as response:
            assert response.status == 200
            await response.read()


async def test_engine_that_drops_requests_on_used_connections_loses_none(llama: LlamaFakes) -> None:
    engine = llama.engine(drop_after=2)
    await soon(engine.start())
    for _ in range(30):
        async with engine.open(GET) as response:
            assert response.status == 200
            await response.read()


# answers that break off


async def until_it_breaks_off(response: UpstreamResponse) -> bytes:
    """What came before the UpstreamClosed that must end it."""
    got = b""
    try:
        async for chunk in response.chunks():
            got += chunk
    except UpstreamClosed:
        return got
    raise AssertionError("the answer counts as whole")


@pytest.mark.parametrize(
    "begun", [SIZED[:-1], CHUNKED[:-1], CHUNKED[:-5], CHUNKED[:100]], ids=["sized", "last byte", "last chunk", "half"]
)
async def test_truncated_body_is_upstream_closed_after_what_came(serve: Serve, begun: bytes) -> None:
    server = await serve(sends(begun, close=True))
    async with asyncio.timeout(5), server.client.open(GET) as response:
        got = await until_it_breaks_off(response)
    assert got
    assert BODY.startswith(got)
    assert server.client.take_idle() is None


@pytest.mark.parametrize(
    "answer",
    [b"\x16\x03 this is not HTTP\r\n\r\n", b"HTTP/9.9 hello\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n"],
)
async def test_head_that_is_not_http_is_upstream_closed(serve: Serve, answer: bytes) -> None:
    server = await serve(sends(answer))
    with pytest.raises(UpstreamClosed, match="no valid HTTP"):
        await ask(server.client)
    assert server.connections == [1]
    await server.has_ended(1)


async def test_body_that_is_not_http_is_upstream_closed(serve: Serve) -> None:
    server = await serve(sends(CHUNKED[: CHUNKED.index(b"2\r\n\n")], b"zz\r\n"))
    async with asyncio.timeout(5), server.client.open(GET) as response:
        with pytest.raises(UpstreamClosed, match="no valid HTTP"):
            await response.read()
    await server.has_ended(1)


async def test_engine_that_dies_in_a_stream_is_upstream_closed(llama: LlamaFakes) -> None:
    engine = llama.engine(die_mid_stream=2)
    await soon(engine.start())
    body = b'{"stream": true, "messages": [{"role": "user", "content": "one two three"}]}'
    async with asyncio.timeout(5), engine.open(UpstreamRequest("POST", "/v1/chat/completions", body)) as response:
        got = await until_it_breaks_off(response)
    assert b'" two"' in got
    assert b"three" not in got.rpartition(b'" two"')[2]


async def test_engine_with_a_truncated_body_is_upstream_closed(llama: LlamaFakes) -> None:
    engine = llama.engine(truncated_body=True)
    await soon(engine.start())
    async with asyncio.timeout(5), engine.open(UpstreamRequest("POST", "/tokenize", b"{}")) as response:
        with pytest.raises(UpstreamClosed):
            await response.read()


# clients that leave, clients that are slow


async def test_leaving_early_closes_the_connection(serve: Serve) -> None:
    async def answer(peer: Peer) -> None:
        if peer.number == 1:
            await peer.send(CHUNKED[:100])
            await peer.until_client_leaves()
        else:
            await ok(peer)

    server = await serve(answer)
    async with asyncio.timeout(5), server.client.open(GET) as response:
        async for _ in response.chunks():
            break
    await server.has_ended(1)
    assert await ask(server.client) == b"ok"
    assert server.connections == [1, 2]


async def test_leaving_before_the_head_closes_the_connection(serve: Serve) -> None:
    server = await serve(Peer.until_client_leaves)
    asking = asyncio.create_task(ask(server.client))
    await until(lambda: server.seen)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    await server.has_ended(1)


async def test_engine_notices_a_client_that_leaves_a_stream(llama: LlamaFakes, tmp_path: Path) -> None:
    log = tmp_path / "left"
    engine = llama.engine(stall_stream_after=1, disconnect_log=log)
    await soon(engine.start())
    body = b'{"stream": true, "messages": [{"role": "user", "content": "one two"}]}'
    async with asyncio.timeout(5):
        async with engine.open(UpstreamRequest("POST", "/v1/chat/completions", body)) as response:
            async for _ in response.chunks():
                break
        await until(lambda: lines_of(log))


async def test_slow_reader_stops_the_engine_and_loses_nothing(serve: Serve) -> None:
    piece, count, sent = bytes(range(256)) * 256, 256, 0

    async def answer(peer: Peer) -> None:
        nonlocal sent
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (len(piece) * count))
        for _ in range(count):
            await peer.send(piece)
            sent += 1

    server = await serve(answer)
    async with asyncio.timeout(10), server.client.open(GET) as response:
        before = -1
        while before < sent:  # until the engine gets no further
            before = sent
            for _ in range(50):
                await asyncio.sleep(0)
        assert sent < count / 4
        connection = response._live()
        most = 0
        got = bytearray()
        async for chunk in response.chunks():
            most = max(most, len(chunk), connection.buffered)
            got += chunk
    # One read of the loop may come on top of what was there.
    assert most <= HIGH_WATER + 256 * 1024
    assert got == piece * count


async def test_exchange_that_is_not_open_has_no_answer(serve: Serve) -> None:
    server = await serve(ok)
    exchange = server.client.open(GET)
    with pytest.raises(RuntimeError, match="not open"):
        _ = exchange.status
    async with exchange:
        pass
    with pytest.raises(RuntimeError, match="not open"):
        _ = exchange.headers


# what is due


async def test_nothing_is_due_before_a_request_and_after_its_answer(serve: Serve) -> None:
    server = await serve(ok)
    assert server.client.due_since is None
    async with server.client.open(GET) as response:
        assert await response.read() == b"ok"
        assert server.client.due_since is None
    assert server.client.connections == 1
    assert server.client.due_since is None


async def test_an_answer_is_due_since_its_request_and_then_since_its_last_byte(serve: Serve) -> None:
    more = asyncio.Event()

    async def answer(peer: Peer) -> None:
        await more.wait()
        await peer.send(HEAD_OF_STREAM)
        await peer.until_client_leaves()

    server = await serve(answer)
    loop = asyncio.get_running_loop()
    began = loop.time()
    asking = asyncio.create_task(stream_of(server))
    await until(lambda: server.seen)
    asked = server.client.due_since
    assert asked is not None
    assert began <= asked <= loop.time()
    await asyncio.sleep(0.01)
    more.set()
    await until(lambda: (server.client.due_since or 0) > asked)
    asking.cancel()
    await asyncio.wait({asking})


async def test_pings_of_a_silent_stream_are_no_sign_of_work(serve: Serve) -> None:
    ping = asyncio.Event()

    async def answer(peer: Peer) -> None:
        await peer.send(HEAD_OF_STREAM)
        await ping.wait()
        await peer.send(b"3\r\n:\n\n\r\n")
        await peer.until_client_leaves()

    server = await serve(answer)
    async with server.client.open(GET) as response:
        chunks = response.chunks()
        assert await soon(anext(chunks)) == b"data: 1\n\n"
        heard = server.client.due_since
        await asyncio.sleep(0.01)
        ping.set()
        assert await soon(anext(chunks)) == b":\n\n"
        assert server.client.due_since == heard


async def test_a_reader_that_lags_owes_and_is_owed_nothing(serve: Serve) -> None:
    async def answer(peer: Peer) -> None:
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 4000000\r\n\r\n")
        with suppress(ConnectionError):
            await peer.send(bytes(3_999_999))
        await peer.until_client_leaves()

    server = await serve(answer)
    async with server.client.open(GET) as response:
        await until(lambda: server.client.due_since is None)
        with suppress(TimeoutError):
            async with asyncio.timeout(0.2):
                await response.read()
        assert server.client.due_since is not None


async def stream_of(server: Server) -> None:
    async with server.client.open(GET) as response:
        await response.read()
