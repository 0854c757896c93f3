"""Images from the internet, fetched from a real host that stands for it; and all that must not be reached so."""

from __future__ import annotations

import asyncio
import base64
import gzip
import os
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from manager.public_hosts import is_public
from manager.remote_images import ENCODED_AT_ONCE, MOST_OF_KEY, ImageRefused, RemoteImages, Room
from manager.settings_sections import MediaSettings
from tests.https_host import DATA_URL, NAME, PNG, HttpsHost, answer, https_host, redirect

HOME = "127.0.0.1"
KINDS = {
    "png": PNG,
    "jpeg": b"\xff\xd8\xff\xe0 and so on",
    "webp": b"RIFF\x10\0\0\0WEBPVP8 and so on",
    "gif": b"GIF89a and so on",
    "bmp": b"BM" + bytes(12) + b"\x28\0\0\0 and so on",
}
CHUNKED = "HTTP/1.1 200 OK\r\nContent-Type: image/png\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
ANSWERS = {
    "/png": answer(PNG),
    "/once": redirect("/png"),
    "/twice": redirect("once"),
    "/thrice": redirect("/twice"),
    "/four-times": redirect("/thrice"),
    **{f"/kind/{kind}": answer(data) for kind, data in KINDS.items()},
}


class Names:
    """A resolver that knows what a test tells it, and counts how often it is asked."""

    def __init__(self) -> None:
        self.known: dict[str, Sequence[str]] = {NAME: [HOME]}
        self.asked: list[str] = []

    async def __call__(self, host: str, port: int) -> Sequence[str]:
        self.asked.append(host)
        if host not in self.known:
            raise OSError("no such name")
        return self.known[host]


def home_is_public(address: str) -> bool:
    """The host of these tests counts as one of the internet; nothing else is changed."""
    return address == HOME or is_public(address)


@pytest.fixture
def names() -> Names:
    return Names()


@pytest.fixture
async def host(tmp_path: Path) -> AsyncIterator[HttpsHost]:
    async with https_host(tmp_path, ANSWERS) as host:
        yield host


@asynccontextmanager
async def client(host: HttpsHost, names: Names, **settings: Any) -> AsyncIterator[RemoteImages]:
    chosen = MediaSettings(remote=True, **{"timeout": 5.0, **settings})
    async with RemoteImages(chosen, lookup=names, public=home_is_public, trust=host.trust) as images:
        yield images


@pytest.fixture
async def images(host: HttpsHost, names: Names) -> AsyncIterator[RemoteImages]:
    async with client(host, names) as images:
        yield images


def room() -> Room:
    return Room(10**6)


async def refusal(images: RemoteImages, url: str) -> str:
    """What the refusal of this URL tells."""
    with pytest.raises(ImageRefused) as refused:
        await images.fetch(url, room())
    return refused.value.tells


async def test_an_image_comes_as_a_data_url(images: RemoteImages, host: HttpsHost, names: Names) -> None:
    assert await images.fetch(host.url("/png"), room()) == DATA_URL
    assert names.asked == [NAME]


async def test_its_kind_is_that_of_its_bytes(images: RemoteImages, host: HttpsHost) -> None:
    for kind, data in KINDS.items():
        encoded = base64.b64encode(data).decode()
        assert await images.fetch(host.url(f"/kind/{kind}"), room()) == f"data:image/{kind};base64,{encoded}"


async def test_the_host_learns_nothing_but_the_url(
    images: RemoteImages, host: HttpsHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:1")
    host.answers["/png"] = answer(PNG, Set_Cookie="seen=before")
    for _ in range(2):
        await images.fetch(host.url("/png"), room())
    names = {line.partition(":")[0].lower() for head in host.heads for line in head.splitlines()[1:] if line}
    assert names <= {"host", "accept", "accept-encoding", "user-agent", "connection"}
    assert "accept-encoding: identity" in host.heads[0].lower()


@pytest.mark.parametrize("addresses", [["10.0.0.1"], [HOME, "10.0.0.1"], ["::ffff:10.0.0.1", HOME], []])
async def test_one_private_address_of_a_name_is_enough_to_refuse_it(
    images: RemoteImages, host: HttpsHost, names: Names, addresses: list[str]
) -> None:
    names.known[NAME] = addresses
    assert await refusal(images, host.url("/png")) == ""
    assert host.heads == []


async def test_the_connection_goes_to_the_address_that_was_looked_at(
    images: RemoteImages, host: HttpsHost, names: Names
) -> None:
    """A name server that says something else when it is asked again is not asked again."""
    asked = iter([[HOME], ["10.0.0.1"], ["10.0.0.1"]])

    async def rebinding(name: str, port: int) -> Sequence[str]:
        names.asked.append(name)
        return next(asked)

    images._resolver._lookup = rebinding
    assert await images.fetch(host.url("/png"), room()) == DATA_URL
    assert names.asked == [NAME]


LITERALS = [
    *("10.0.0.1", "169.254.169.254", "0.0.0.0", "0", "127.1", "2130706433", "0x7f.1", "0x7f000001", "017700000001"),  # noqa: S104
    *("010.0.0.1", "127.0.0.1.", "0xa.0.0.1", "[::1]", "[::ffff:10.0.0.1]", "[::ffff:a00:1]", "[64:ff9b::a00:1]"),
    *("[fe80::1%25eth0]", "[fec0::1]", "①⓪.0.0.1", "10。0。0。1", "1.2.3.0x4", "name.7"),
]


async def test_no_way_to_write_a_private_address_gets_past(host: HttpsHost, names: Names) -> None:
    async with RemoteImages(MediaSettings(remote=True), lookup=names, trust=host.trust) as images:
        for literal in LITERALS:
            told = await refusal(images, f"https://{literal}:{host.port}/png")
            assert told == "names no host of the public internet", literal
    assert (host.heads, names.asked) == ([], [])


NOT_PLAIN = [
    *(
        "http://{host}/png",
        "HTTPS://{host}/png",
        " https://{host}/png",
        "https://{host}/png ",
        "file:///etc/passwd",
    ),
    *("https://{host}/p\tng", "https://{host}/png\n", "https:/{host}/png", "https:{host}/png", "//{host}/png"),
    *("https://{host}\\@10.0.0.1/png", "https://\x00{host}/png", "https://", "https:///png", "ftp://{host}/png"),
    *("https://@{host}/png", "https://@@{host}/png", "https://a@b@{host}/png", "https://@{host}?", "https://:@{host}#"),
    *("https://user@{host}/png", "https://user:word@{host}/png", "https://:@{host}/png", "https://{name}:0/png"),
    *(
        "https://{name}:70000/png",
        "https://[::1/png",
        "https://{name}:x/png",
        "gopher://{host}/",
        "https://{host}/\x85",
    ),
]


async def test_only_plain_https_urls_without_a_user_are_asked_for(
    images: RemoteImages, host: HttpsHost, names: Names
) -> None:
    for url in NOT_PLAIN:
        assert await refusal(images, url.format(host=f"{NAME}:{host.port}", name=NAME)), url
    assert (host.heads, names.asked) == ([], [])


async def test_three_redirects_are_followed_and_no_fourth(images: RemoteImages, host: HttpsHost) -> None:
    assert await images.fetch(host.url("/thrice"), room()) == DATA_URL
    assert host.paths == ["/thrice", "/twice", "/once", "/png"]
    host.heads.clear()
    assert await refusal(images, host.url("/four-times")) == ""
    assert host.paths == ["/four-times", "/thrice", "/twice", "/once"]


@pytest.mark.parametrize(
    "target",
    [
        *("https://10.0.0.1/x", "https://2130706433/x", "https://[::1]/x", "http://{host}/png", "file:///etc/passwd"),
        *(
            "https://168.63.129.16/x",
            "https://inner.test/x",
            "https://user:word@{host}/png",
            "//10.0.0.1/x",
            "data:image/png;base64,AAAA",
            "",
        ),
        "https://{host}:x/",
    ],
)
async def test_a_redirect_leads_nowhere_that_the_request_could_not_name(
    images: RemoteImages, host: HttpsHost, names: Names, target: str
) -> None:
    names.known["inner.test"] = ["10.0.0.1"]
    host.answers["/away"] = redirect(target.format(host=f"{NAME}:{host.port}"))
    assert await refusal(images, host.url("/away")) == ""
    assert set(host.paths) == {"/away"}


TOO_LONG = PNG + bytes(2000)


@pytest.mark.parametrize(
    "raw",
    [
        pytest.param(answer(TOO_LONG), id="says it is too long"),
        pytest.param(
            CHUNKED.encode() + f"{len(TOO_LONG):x}\r\n".encode() + TOO_LONG + b"\r\n0\r\n\r\n", id="is too long"
        ),
        pytest.param(answer(TOO_LONG, Content_Length=""), id="ends with the connection"),
        pytest.param(answer(PNG, Content_Length=str(len(PNG) + 1)), id="is shorter than it says"),
        pytest.param(answer(gzip.compress(PNG), Content_Encoding="gzip"), id="compressed"),
        pytest.param(answer(gzip.compress(bytes(10**7)), Content_Encoding="deflate"), id="a bomb"),
        pytest.param(answer(PNG, Content_Type="text/html"), id="no image by its type"),
        pytest.param(answer(PNG, Content_Type=""), id="no type"),
        pytest.param(answer(b"<svg/>", Content_Type="image/svg+xml"), id="an image of no known kind"),
        pytest.param(answer(b"#EXTM3U\nhttp://10.0.0.1/"), id="no image by its bytes"),
        pytest.param(answer(b""), id="nothing"),
        pytest.param(answer(PNG, "404 Not Found"), id="not found"),
        pytest.param(answer(PNG, "206 Partial Content"), id="a part"),
        pytest.param(answer(PNG, "304 Not Modified"), id="not modified"),
        pytest.param(b"SSH-2.0-OpenSSH_9.6\r\n", id="another protocol"),
        pytest.param(b"", id="closed"),
    ],
)
async def test_whatever_is_wrong_with_an_answer_the_refusal_is_the_same(
    host: HttpsHost, names: Names, raw: bytes
) -> None:
    host.answers["/wrong"] = raw
    async with client(host, names, max_size=1024) as images:
        assert await refusal(images, host.url("/wrong")) == ""


async def test_a_host_that_refuses_is_told_like_one_that_must_not_be_reached(
    images: RemoteImages, host: HttpsHost, names: Names, unused_tcp_port: int
) -> None:
    names.known["inner.test"] = ["10.0.0.1"]
    for url in (f"https://{NAME}:{unused_tcp_port}/", "https://inner.test/", "https://nowhere.test/"):
        assert await refusal(images, url) == ""


async def test_a_certificate_must_be_of_that_host_and_of_a_known_authority(
    images: RemoteImages, host: HttpsHost, names: Names
) -> None:
    names.known["other.test"] = [HOME]
    assert await refusal(images, host.url("/png", "other.test")) == ""
    async with RemoteImages(MediaSettings(remote=True), lookup=names, public=home_is_public) as strict:
        assert await refusal(strict, host.url("/png")) == ""
    assert host.heads == []


async def test_whoever_takes_too_long_is_given_up(host: HttpsHost, names: Names) -> None:
    async with client(host, names, timeout=0.05) as images:
        async with asyncio.timeout(5):
            assert await refusal(images, host.url("/never")) == ""


async def test_all_images_of_a_request_share_its_room_as_base64(images: RemoteImages, host: HttpsHost) -> None:
    encoded = len(base64.b64encode(PNG))
    room = Room(2 * encoded)
    for _ in range(2):
        await images.fetch(host.url("/png"), room)
    assert room.left == 0
    with pytest.raises(ImageRefused):
        await images.fetch(host.url("/png"), room)


async def test_an_image_takes_room_for_every_part_that_it_goes_into(images: RemoteImages, host: HttpsHost) -> None:
    room = Room(3 * len(base64.b64encode(PNG)))
    assert await images.fetch(host.url("/png"), room, times=3) == DATA_URL
    assert room.left == 0
    with pytest.raises(ImageRefused):
        await images.fetch(host.url("/png"), Room(3 * len(base64.b64encode(PNG))), times=4)


async def test_while_a_large_image_is_encoded_others_get_their_turn(
    host: HttpsHost, names: Names, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = PNG + os.urandom(4 * ENCODED_AT_ONCE)
    async with client(host, names) as images:
        monkeypatch.setattr(images, "_follow", content_of(data))
        fetching = asyncio.create_task(images.fetch(host.url("/large"), room()))
        turns = 0
        while not fetching.done():
            await asyncio.sleep(0)
            turns += 1
        assert fetching.result() == f"data:image/png;base64,{base64.b64encode(data).decode()}"
        assert turns >= 5


def content_of(data: bytes) -> Callable[..., Awaitable[bytearray]]:
    async def content(*_: object) -> bytearray:
        return bytearray(data)

    return content


async def test_one_key_holds_only_so_many_connections_and_others_get_through(host: HttpsHost, names: Names) -> None:
    async with client(host, names) as images, asyncio.timeout(10):
        slow = [
            asyncio.create_task(images.fetch(host.url(f"/never/{n}"), room(), key="greedy"))
            for n in range(MOST_OF_KEY + 2)
        ]
        while len(host.heads) < MOST_OF_KEY:  # noqa: ASYNC110  nobody tells when the host has them
            await asyncio.sleep(0.001)
        assert await images.fetch(host.url("/png"), room(), key="other") == DATA_URL
        assert await images.fetch(host.url("/png"), room()) == DATA_URL
        assert len(host.heads) == MOST_OF_KEY + 2, "nor do these two wait for the greedy one"
        slow[0].cancel()
        while len(host.heads) < MOST_OF_KEY + 3:  # noqa: ASYNC110  its next one has its turn
            await asyncio.sleep(0.001)
        for task in slow:
            task.cancel()
        await asyncio.gather(*slow, return_exceptions=True)


async def test_closing_ends_what_is_being_fetched_and_what_comes_later(host: HttpsHost, names: Names) -> None:
    async with client(host, names) as images:
        fetching = asyncio.create_task(refusal(images, host.url("/never")))
        async with asyncio.timeout(5):
            while not host.heads:  # noqa: ASYNC110  nobody tells when the host has it
                await asyncio.sleep(0.001)
            await images.close()
            assert await fetching == ""
    assert await refusal(images, host.url("/png")) == ""


async def test_the_systems_own_resolver_and_authorities_are_what_counts_in_the_service() -> None:
    """With nothing put in their places: this machine's own name is refused, before anything is sent."""
    async with RemoteImages(MediaSettings(remote=True)) as images:
        assert images._trust.verify_mode is ssl.CERT_REQUIRED
        assert images._trust.check_hostname
        assert await refusal(images, "https://localhost/") == ""
