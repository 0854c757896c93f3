"""What no client of ours sends: broken, hostile and slow bytes against the running service, over plain sockets."""

from __future__ import annotations

import contextlib
import gzip
import json
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain, islice, repeat
from pathlib import Path
from typing import Final

import pytest

from tests.e2e.raw import Raw, raw
from tests.e2e.service import Service, running, seconds_until
from tests.routes.stage import CHAT, Fake, Stage

# Seconds that the service gives here; what waits for them is slower by what a busy machine takes.
TIMEOUT: Final = 0.5
SLACK: Final = 5.0
MAX_BODY: Final = 8 * 1024**2
BODY: Final = b'{"content": "a b"}'
TOKENS: Final = {"tokens": [0, 1]}
LENGTH: Final = b"Content-Length: %d\r\n" % len(BODY)
CHUNKED: Final = b"Transfer-Encoding: chunked\r\n"
LAST: Final = b"0\r\n\r\n"
CHUNKS: Final = b"%x\r\n%b\r\n" % (len(BODY), BODY) + LAST
ORIGIN: Final = "https://chat.example.org"
START: Final = b"HOST_AND_KEY"  # what a request begins with, after its first line


@dataclass(frozen=True)
class Target:
    """The service, and how to speak to it."""

    service: Service
    fake: Fake  # whose streams stop after their first token

    @property
    def port(self) -> int:
        return int(self.service.url.rpartition(":")[2])

    def filled(self, data: bytes) -> bytes:
        return data.replace(START, b"Host: localhost\r\nAuthorization: Bearer %b" % self.service.key.encode())

    def request(self, first: bytes, headers: bytes = b"", body: bytes = b"") -> bytes:
        return self.filled(b"%b HTTP/1.1\r\n%b\r\n%b\r\n%b" % (first, START, headers, body))

    def post(self, path: str, body: object) -> bytes:
        data = json.dumps(body).encode()
        return self.request(b"POST " + path.encode(), b"Content-Length: %d\r\n" % len(data), data)

    def is_well(self) -> None:
        """A normal request on a new connection is answered."""
        with raw(self.port) as client:
            client.send(self.request(b"POST /tokenize", LENGTH, BODY))
            assert client.answer().status == 200

    def running(self) -> int:
        """How many requests are in flight."""
        with raw(self.port) as client:
            client.send(self.request(b"GET /admin/requests"))
            return len(json.loads(client.answer().body)["requests"])


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    folder = tmp_path_factory.mktemp("raw")
    stage = Stage(folder)
    stage.model("alpha").knobs()
    held = stage.model("held")
    held.hold_streams()
    environment = {
        **stage.variables(),
        "LLAMAHERD_SERVER__HEADER_TIMEOUT": str(TIMEOUT),
        "LLAMAHERD_SERVER__BODY_TIMEOUT": str(TIMEOUT),
        "LLAMAHERD_SERVER__WRITE_TIMEOUT": "1",
        "LLAMAHERD_SERVER__MAX_BODY": str(MAX_BODY),
        "LLAMAHERD_MODEL__NAME": "alpha",
        "LLAMAHERD_CORS__ALLOWED_ORIGINS": ORIGIN,
        "PYTHONPATH": str(Path(__file__).parent.parent.parent),
    }
    with running(folder, environment) as service:
        target = Target(service, held)
        target.is_well()
        yield target
        log = service.log
    assert "Traceback" not in log
    assert service.key[6:] not in log


@pytest.fixture(autouse=True)
def _stays_well(target: Target) -> Iterator[None]:
    yield
    target.is_well()


def everything(target: Target, data: bytes) -> bytes:
    """What comes until the service closes, which it does by itself."""
    with raw(target.port) as client:
        client.send(target.filled(data))
        return client.rest()


def status_of(said: bytes) -> int:
    """The status of the one answer there is, which ends the connection, is an error in our form, and has no key."""
    assert len(re.findall(rb"HTTP/\d\.\d \d{3} ", said)) == 1, said[:1000]
    head, _, body = said.partition(b"\r\n\r\n")
    error = json.loads(body)["error"]
    assert error["type"] == "invalid_request_error"
    assert b"nosniff" in head
    assert b"sk-lh-" not in said
    return int(head.split()[1])


def post(headers: bytes, body: bytes) -> bytes:
    return b"POST /tokenize HTTP/1.1\r\n" + START + b"\r\n" + headers + b"\r\n" + body


def get(headers: bytes = b"", target: bytes = b"/ping") -> bytes:
    return b"GET " + target + b" HTTP/1.1\r\n" + START + b"\r\n" + headers + b"\r\n"


BROKEN: Final = {
    "both lengths": post(LENGTH + CHUNKED, CHUNKS),
    "both lengths, the other way round": post(CHUNKED + LENGTH, CHUNKS),
    "two lengths": post(LENGTH + b"Content-Length: 5\r\n", BODY),
    "the same length twice": post(LENGTH + LENGTH, BODY),
    "a list of lengths": post(b"Content-Length: 18, 18\r\n", BODY),
    "a length with a sign": post(b"Content-Length: +18\r\n", BODY),
    "a negative length": post(b"Content-Length: -18\r\n", BODY),
    "a length with an underscore": post(b"Content-Length: 1_8\r\n", BODY),
    "a hexadecimal length": post(b"Content-Length: 0x12\r\n", BODY),
    "a length beyond 64 bits": post(b"Content-Length: 99999999999999999999\r\n", BODY),
    "a chunk size that is no number": post(CHUNKED, b"zz\r\n" + BODY),
    "a chunk size with 0x": post(CHUNKED, b"0x12\r\n" + BODY + b"\r\n" + LAST),
    "a negative chunk size": post(CHUNKED, b"-12\r\n" + BODY + b"\r\n" + LAST),
    "a chunk size beyond 64 bits": post(CHUNKED, b"f" * 17 + b"\r\n" + BODY),
    "a chunk size with a space": post(CHUNKED, b"12 \r\n" + BODY + b"\r\n" + LAST),
    "a chunk longer than its size": post(CHUNKED, b"5\r\n" + BODY + b"\r\n" + LAST),
    "a chunk extension with a line feed": post(CHUNKED, b"12;a\nb\r\n" + BODY + b"\r\n" + LAST),
    "chunks with bare line feeds": post(CHUNKED, b"12\n" + BODY + b"\n0\n\n"),
    "identity": post(b"Transfer-Encoding: identity\r\n", BODY),
    "xchunked": post(b"Transfer-Encoding: xchunked\r\n", CHUNKS),
    "chunked, identity": post(b"Transfer-Encoding: chunked, identity\r\n", CHUNKS),
    "chunked twice": post(CHUNKED + CHUNKED, CHUNKS),
    "chunked after a vertical tab": post(b"Transfer-Encoding: \x0bchunked\r\n", CHUNKS),
    "a space before the colon of Transfer-Encoding": post(b"Transfer-Encoding : chunked\r\n", CHUNKS),
    "a space before a colon": get(b"X-A : a\r\n"),
    "a folded header": get(b"X-A: a\r\n b\r\n"),
    "a folded first header": b"GET /ping HTTP/1.1\r\n X-A: a\r\n" + START + b"\r\n\r\n",
    "bare line feeds": get().replace(b"\r\n", b"\n"),
    "bare carriage returns": get().replace(b"\r\n", b"\r"),
    "a carriage return in a header": get(b"X-A: a\rX-B: b\r\n"),
    "a line feed in a header": get(b"X-A: a\nX-B: b\r\n"),
    "NUL in a header": get(b"X-A: a\0b\r\n"),
    "NUL in a header's name": get(b"X\0A: a\r\n"),
    "NUL in the URL": get(target=b"/pi\0ng"),
    "a header without a name": get(b": a\r\n"),
    "a header without a colon": get(b"sk-lh-abc\r\n"),
    "10,000 bytes in one header": get(b"X-A: sk-lh-" + b"a" * 10_000 + b"\r\n"),
    "10,000 bytes in a header's name": get(b"sk-lh-" + b"a" * 10_000 + b": a\r\n"),
    "10,000 bytes in 1,000 headers": get(b"".join(b"X-%d: sk-\r\n" % number for number in range(1000))),
    "a URL of 20,000 bytes": get(target=b"/sk-lh-" + b"a" * 20_000),
    "bytes in the URL that are no ASCII": get(target=b"/\xff\xfe"),
    "a space in the URL": get(target=b"/pi ng"),
    "a URL without a host": get(target=b"ftp:"),
    "an asterisk": get(target=b"*"),
    "an unknown method": get().replace(b"GET", b"BREW"),
    "a method in lower case": get().replace(b"GET", b"get"),
    "HTTP/1.2": get().replace(b"HTTP/1.1", b"HTTP/1.2"),
    "HTTP/3.0": get().replace(b"HTTP/1.1", b"HTTP/3.0"),
    "the preface of HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "no host": b"GET /ping HTTP/1.1\r\n\r\n",
    "two hosts": get(b"Host: example.org\r\n"),
    "a greeting of TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    "noise": b"\x00\xff\xfe\x01\r\n\r\n",
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_no_valid_request_is_a_400_and_what_follows_it_is_never_answered(target: Target, name: str) -> None:
    assert status_of(everything(target, BROKEN[name] + get(target=b"/v1/models"))) == 400


ENDING: Final = {
    "OPTIONS *": (get(target=b"*").replace(b"GET", b"OPTIONS"), 404),
    "CONNECT": (get(target=b"localhost:80").replace(b"GET", b"CONNECT"), 404),
    "an unknown expectation": (post(LENGTH + b"Expect: 200-ok\r\n", BODY), 417),
    "more than the limit": (post(b"Content-Length: %d\r\n" % (MAX_BODY + 1), b""), 413),
}


@pytest.mark.parametrize("name", ENDING)
def test_what_no_route_answers_for_ends_the_connection(target: Target, name: str) -> None:
    data, status = ENDING[name]
    with raw(target.port) as client:
        client.send(target.filled(data))
        if name == "more than the limit":
            client.end()  # else what is left is read for some seconds, so that the answer is not lost
        assert status_of(client.rest()) == status


ODD: Final = {
    "a chunk extension": post(CHUNKED, b"12;a=b\r\n" + BODY + b"\r\n" + LAST),
    "a trailer": post(CHUNKED, b"12\r\n" + BODY + b"\r\n0\r\nX-A: a\r\n\r\n"),
    "a tab before chunked": post(b"Transfer-Encoding:\tchunked\r\n", CHUNKS),
    "a chunk per byte": post(CHUNKED, b"".join(b"1\r\n%c\r\n" % byte for byte in BODY) + LAST),
    "50 headers of 200 bytes": post(b"".join(b"X-%d: %b\r\n" % (n, b"a" * 190) for n in range(50)) + LENGTH, BODY),
    "a URL with a host": post(LENGTH, BODY).replace(b"/tokenize", b"http://localhost/tokenize"),
    "empty lines before it": b"\r\n\r\n" + post(LENGTH, BODY),
    "another protocol offered": post(b"Connection: upgrade\r\nUpgrade: websocket\r\n" + LENGTH, BODY),
}


@pytest.mark.parametrize("name", ODD)
def test_odd_but_valid_requests_are_answered_and_so_is_the_next_one(target: Target, name: str) -> None:
    with raw(target.port) as client:
        for data in (ODD[name], post(LENGTH, BODY)):
            client.send(target.filled(data))
            answer = client.answer()
            assert (answer.status, json.loads(answer.body)) == (200, TOKENS)


@pytest.mark.parametrize("method", ["TRACE", "PROPFIND", "DELETE"])
def test_a_method_that_no_route_takes_is_a_405(target: Target, method: str) -> None:
    with raw(target.port) as client:
        client.send(target.filled(get().replace(b"GET", method.encode())))
        answer = client.answer()
        assert (answer.status, answer.headers["allow"]) == (405, "GET,HEAD")
        client.send(target.filled(get()))
        assert client.answer().body == b"pong"


def test_http_1_0_is_answered_and_closed(target: Target) -> None:
    assert everything(target, b"GET /ping HTTP/1.0\r\n\r\n").endswith(b"\r\n\r\npong")


@pytest.mark.parametrize("first", [b"GET /ping", b"GET /ping HTTP/0.9", b"GET /ping HTTP/2.0"])
def test_other_versions_are_a_505_and_closed(target: Target, first: bytes) -> None:
    said = everything(target, first + b"\r\n\r\n")
    assert said.startswith(b"HTTP/1.1 505 ")
    assert status_of(said) == 505


def test_what_a_browser_asks_for_in_advance_is_answered_with_the_headers_of_every_answer(target: Target) -> None:
    origin = b"Origin: " + ORIGIN.encode() + b"\r\nAccess-Control-Request-Method: POST\r\n"
    with raw(target.port) as client:
        client.send(target.filled(get(origin, b"/tokenize").replace(b"GET", b"OPTIONS")))
        headers = client.answer().headers
    assert headers["access-control-allow-methods"] == "POST"
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["server"] == "llamaherd"


def test_a_body_is_sent_on_request(target: Target) -> None:
    with raw(target.port) as client:
        client.send(target.request(b"POST /tokenize", LENGTH + b"Expect: 100-continue\r\n"))
        assert client.answer(has_body=False).status == 100
        client.send(BODY)
        assert json.loads(client.answer().body) == TOKENS


def test_pipelined_requests_are_answered_in_their_order(target: Target) -> None:
    with raw(target.port) as client:
        number = 100  # more than are parsed ahead
        for index in range(number):
            name = b"X-Request-ID: r%d\r\n" % index
            client.send(target.filled(get(name) if index % 3 else post(name + LENGTH, BODY)))
        answers = [client.answer() for _ in range(number)]
    assert [answer.headers["x-request-id"] for answer in answers] == [f"r{index}" for index in range(number)]
    assert [answer.body == b"pong" for answer in answers] == [bool(index % 3) for index in range(number)]


def test_a_request_in_the_body_of_another_is_no_request(target: Target) -> None:
    with raw(target.port) as client:
        inner = target.filled(get(target=b"/v1/models"))
        client.send(target.request(b"GET /ping", b"Content-Length: %d\r\n" % len(inner), inner))
        client.send(target.filled(get(b"Connection: close\r\n")))
        said = client.rest()
    assert said.count(b"pong") == said.count(b"HTTP/1.1 ") == 2


# Slow, silent and half-closed clients


@pytest.mark.parametrize("sent", [b"", b"GET /ping HTTP/1.1\r\nHost: local"])
def test_a_head_that_does_not_come_is_a_408(target: Target, sent: bytes) -> None:
    assert status_of(everything(target, sent)) == 408


def answer_to_trickle(client: Raw, sent: bytes) -> bytes:
    """What the service says while it gets a byte now and then, faster than any timeout; the last one for ever."""
    client.socket.settimeout(TIMEOUT / 10)
    for byte in islice(chain(sent, repeat(sent[-1])), 10 * int(SLACK / TIMEOUT)):
        client.send(bytes([byte]))
        with contextlib.suppress(TimeoutError):
            return client.socket.recv(65536)
    raise AssertionError("it waits for ever")


def test_a_head_that_never_ends_is_cut_off_on_a_used_connection_too(target: Target) -> None:
    with raw(target.port) as client:
        client.send(target.filled(get()))
        assert client.answer().body == b"pong"
        assert status_of(answer_to_trickle(client, b"GET /a")) == 408


@pytest.mark.parametrize(
    "data",
    [
        post(LENGTH, BODY[:-1]),
        post(CHUNKED, b"12\r\n" + BODY[:5]),
        post(CHUNKED, b"12\r\n" + BODY + b"\r\n"),
        post(LENGTH + b"Content-Encoding: gzip\r\n", gzip.compress(BODY)[:10]),
    ],
    ids=["a byte short", "within a chunk", "without the last chunk", "compressed"],
)
def test_a_body_that_does_not_come_is_a_408(target: Target, data: bytes) -> None:
    said = everything(target, data)
    assert status_of(said) == 408
    assert b"request_timeout" in said


def test_a_body_that_comes_byte_by_byte_is_a_408(target: Target) -> None:
    with raw(target.port) as client:
        client.send(target.filled(post(b"Content-Length: 5000\r\n", b"")))
        assert status_of(answer_to_trickle(client, b" ")) == 408


def test_a_body_that_is_no_body_halfway_is_not_waited_for(target: Target) -> None:
    with raw(target.port) as client:
        client.send(target.filled(post(CHUNKED, b"5\r\n" + BODY[:5] + b"\r\n")))
        client.send(b"zz\r\n" + BODY + get())
        assert status_of(client.rest()) in {400, 408}


def test_who_does_not_read_is_cut_off_and_frees_its_place(target: Target) -> None:
    body = {"model": "alpha", "stream": True, "messages": [{"role": "user", "content": "x" * (MAX_BODY - 1000)}]}
    with raw(target.port, receive_buffer=4096) as client:
        client.send(target.post(CHAT, body))
        assert client.line().startswith(b"HTTP/1.1 200 ")
        assert target.running() == 1
        assert seconds_until(lambda: target.running() == 0) < 1 + SLACK
        assert b"[DONE]" not in client.rest()


def test_who_ends_its_side_gets_what_is_answered_at_once(target: Target) -> None:
    with raw(target.port) as client:
        client.send(target.filled(get() + get(target=b"/v1/models")))
        client.end()
        said = client.rest()
    assert said.count(b"HTTP/1.1 200 ") == 2


def test_who_ends_its_side_of_a_stream_counts_as_gone(target: Target) -> None:
    with raw(target.port) as client:
        client.send(
            target.post(CHAT, {"model": "held", "stream": True, "messages": [{"role": "user", "content": "a b"}]})
        )
        while b'"a"' not in client.line():
            pass
        gone = len(target.fake.disconnects())
        client.end()
        assert client.seconds_until_closed() < SLACK
    assert seconds_until(lambda: len(target.fake.disconnects()) > gone) < SLACK
    assert target.running() == 0


def test_who_leaves_in_the_middle_of_a_body_leaves_nothing(target: Target) -> None:
    with raw(target.port) as client:
        client.send(target.filled(post(LENGTH, BODY[:5])))
        client.end()
        assert client.rest() == b""


# Bodies that are more than they seem


def bomb(size: int, wbits: int) -> bytes:
    """What inflates to so many zeros."""
    compressor = zlib.compressobj(1, zlib.DEFLATED, wbits)
    zeros = bytes(1024**2)
    return b"".join(compressor.compress(zeros) for _ in range(size // len(zeros))) + compressor.flush()


def peak_memory(service: Service) -> int:
    """The most bytes that the service ever had."""
    status = Path(f"/proc/{service.process.pid}/status").read_text()
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    assert found
    return int(found[1]) * 1024


@pytest.mark.parametrize(("encoding", "wbits"), [("gzip", 31), ("deflate", 15)])
@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("known", [True, False])
def test_a_small_body_that_inflates_is_a_413_in_bounded_memory(
    target: Target, encoding: str, wbits: int, chunked: bool, known: bool
) -> None:
    data = bomb(32 * MAX_BODY, wbits)
    assert len(data) < MAX_BODY
    before = peak_memory(target.service)
    kind = b"Content-Encoding: %b\r\n" % encoding.encode()
    length = CHUNKED if chunked else b"Content-Length: %d\r\n" % len(data)
    sent = target.filled(post(kind + length, b"%x\r\n%b\r\n" % (len(data), data) + LAST if chunked else data))
    if not known:
        sent = sent.replace(b"Bearer sk", b"Bearer xy")
    with raw(target.port) as client:
        client.send(sent)
        assert client.answer().status == (413 if known else 401)
        assert client.seconds_until_closed() < 2.0  # nobody inflates what is left
    assert peak_memory(target.service) - before < 4 * MAX_BODY


def test_a_chunked_body_over_the_limit_is_a_413(target: Target) -> None:
    with raw(target.port) as client:
        client.send(target.filled(post(CHUNKED, b"")))
        for _ in range(MAX_BODY // 2**20 + 1):
            client.send(b"100000\r\n" + bytes(2**20) + b"\r\n")
        assert client.answer().status == 413


@pytest.mark.parametrize("encoding", ["br", "zstd", "gzip"])
def test_a_body_that_is_not_in_its_encoding_is_a_400(target: Target, encoding: str) -> None:
    kind = b"Content-Encoding: %b\r\n" % encoding.encode()
    assert status_of(everything(target, post(kind + LENGTH, BODY))) == 400
