"""Plain HTTP beside HTTPS: where it sends clients, what it serves, and what it says to a key."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Final

import pytest

from manager.connections import ConnectionServer
from manager.listener import Listener
from manager.places import Places
from manager.redirect import CHALLENGES, MAX_CHALLENGE, Redirect
from manager.settings_server import ServerSettings, TlsSettings

Ask = Callable[..., Awaitable[tuple[int, dict[str, str], bytes]]]
TOKEN: Final = "evaGxfADs6pSRb2LAv9IZf17Dt3juxGJ-PCt92wr_oA"


@contextlib.asynccontextmanager
async def serving(port: int = 8443, webroot: Path | None = None) -> AsyncIterator[Ask]:
    """Asks it in raw bytes; the answer's status, headers and body. Every connection is closed after its answer."""
    settings = ServerSettings(max_connections=1)
    redirect = Redirect(port, webroot, lambda host: host != "evil.example")
    server = ConnectionServer(redirect, settings)
    listener = Listener(server, Places(settings))
    await listener.start("127.0.0.1", 0)

    async def ask(
        target: str, method: str = "GET", host: str = "llm.example.org", more: str = ""
    ) -> tuple[int, dict[str, str], bytes]:
        async with asyncio.timeout(10):
            reader, writer = await asyncio.open_connection("127.0.0.1", listener.port)
            writer.write(f"{method} {target} HTTP/1.1\r\nHost: {host}\r\n{more}\r\n".encode("latin-1"))
            head, _, body = (await reader.read()).partition(b"\r\n\r\n")
            writer.close()
            await writer.wait_closed()
        first, *lines = head.decode().split("\r\n")
        return int(first.split()[1]), dict(line.split(": ", 1) for line in lines), body

    try:
        yield ask
    finally:
        await listener.close()
        await server.shutdown(1.0)


@pytest.fixture
def webroot(tmp_path: Path) -> Path:
    """With one challenge, and a file beside the folder of challenges."""
    folder = tmp_path / "web" / CHALLENGES
    folder.mkdir(parents=True)
    (folder / TOKEN).write_text(f"{TOKEN}.digest")
    (tmp_path / "secret").write_text("sk-lh-secret")
    return tmp_path / "web"


@pytest.mark.parametrize(
    ("port", "host", "location"),
    [
        (8443, "llm.example.org", "https://llm.example.org:8443/a/b?c=d&e=%20"),
        (8443, "llm.example.org:80", "https://llm.example.org:8443/a/b?c=d&e=%20"),
        (443, "LLM.example.org:80", "https://llm.example.org/a/b?c=d&e=%20"),
        (443, "192.0.2.1", "https://192.0.2.1/a/b?c=d&e=%20"),
        (8443, "[2001:db8::1]:80", "https://[2001:db8::1]:8443/a/b?c=d&e=%20"),
    ],
)
@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "OPTIONS"])
async def test_everything_is_sent_to_https_by_the_name_that_was_called(
    method: str, port: int, host: str, location: str
) -> None:
    async with serving(port) as ask:
        status, headers, body = await ask("/a/b?c=d&e=%20", method, host, "Content-Length: 0\r\n")
    assert (status, headers["Location"], body) == (308, location, b"")
    assert headers["Connection"] == "close"
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Server"] == "llamaherd"


@pytest.mark.parametrize(
    ("enabled", "message"),
    [(True, "public_port is where clients are sent by http_port"), (None, "public_port is set, but HTTPS is off")],
)
def test_a_port_that_nobody_would_be_sent_to_is_a_mistake(enabled: bool | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TlsSettings(public_port=443, enabled=enabled)


@pytest.mark.parametrize("target", ["/ping", "/health", "/v1/models", "//evil.example/a", "/%0d%0aSet-Cookie:a=b", "/"])
async def test_no_route_of_the_service_is_answered_and_no_path_is_read_as_a_host(target: str) -> None:
    async with serving() as ask:
        status, headers, _ = await ask(target)
    assert (status, headers["Location"]) == (308, f"https://llm.example.org:8443{target}")


async def test_a_url_with_a_host_is_sent_to_the_name_of_the_header() -> None:
    async with serving() as ask:
        _, headers, _ = await ask("http://evil.example/a?b")
    assert headers["Location"] == "https://llm.example.org:8443/a?b"


@pytest.mark.parametrize(
    "host", ["evil.example", "a b", "a/b", "a@b", "a\\b", "a?b", "a:b", "[::1", "[x]", "", "a" * 300, "ä", "a%0d"]
)
async def test_a_host_that_is_not_admitted_or_no_host_at_all_is_a_400(host: str) -> None:
    async with serving() as ask:
        status, headers, body = await ask("/a", host=host)
    assert status == 400
    assert "Location" not in headers
    assert json.loads(body)["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize(("method", "target"), [("OPTIONS", "*"), ("CONNECT", "llm.example.org:443")])
async def test_what_has_no_path_is_a_400(method: str, target: str) -> None:
    async with serving() as ask:
        assert (await ask(target, method))[0] == 400


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_a_key_is_told_to_be_replaced_and_not_sent_on(method: str) -> None:
    async with serving() as ask:
        status, headers, body = await ask("/v1/models", method, more="Authorization: Bearer sk-lh-abc\r\n")
    error = json.loads(body)["error"]
    assert (status, error["type"], error["code"]) == (403, "permission_error", "key_sent_in_clear")
    assert "Location" not in headers
    assert "https://llm.example.org:8443/v1/models" in error["message"]
    assert "llamaherd key rotate" in error["message"]
    assert b"sk-lh-abc" not in body


async def test_challenges_are_answered_as_text(webroot: Path) -> None:
    async with serving(webroot=webroot) as ask:
        status, headers, body = await ask(f"/{CHALLENGES}/{TOKEN}", host="evil.example")
        assert (status, headers["Content-Type"], body.decode()) == (200, "text/plain", f"{TOKEN}.digest")
        status, headers, body = await ask(f"/{CHALLENGES}/{TOKEN}", "HEAD")
        assert (status, headers["Content-Length"], body) == (200, str(len(TOKEN) + 7), b"")
        assert (await ask(f"/{CHALLENGES}/{TOKEN}", "POST"))[0] == 308


async def test_what_is_no_challenge_of_webroot_is_not_served(webroot: Path, tmp_path: Path) -> None:
    folder = webroot / CHALLENGES
    (folder / "link").symlink_to(tmp_path / "secret")
    (folder / "folder").mkdir()
    (folder / "large").write_bytes(bytes(MAX_CHALLENGE + 1))
    os.mkfifo(folder / "pipe")
    async with serving(webroot=webroot) as ask:
        for name in ("link", "folder", "large", "pipe", "missing"):
            status, _, body = await ask(f"/{CHALLENGES}/{name}")
            assert (status, json.loads(body)["error"]["code"]) == (404, "not_found"), name
        # What can be no token is no challenge.
        for name in ("", "..", "../../../secret", "%2e%2e/%2e%2e/%2e%2e/secret", "a.b", "a%00", "a" * 129):
            assert (await ask(f"/{CHALLENGES}/{name}"))[0] in {308, 400}, name


async def test_challenges_in_a_folder_that_leads_out_of_webroot_are_not_served(webroot: Path, tmp_path: Path) -> None:
    folder = webroot / CHALLENGES
    folder.rename(tmp_path / "elsewhere")
    folder.symlink_to(tmp_path / "elsewhere")
    async with serving(webroot=webroot) as ask:
        assert (await ask(f"/{CHALLENGES}/{TOKEN}"))[0] == 404
    folder.unlink()
    (tmp_path / "elsewhere").rename(webroot / "inside")
    folder.symlink_to(webroot / "inside")
    async with serving(webroot=webroot) as ask:
        assert (await ask(f"/{CHALLENGES}/{TOKEN}"))[0] == 200


async def test_without_a_webroot_challenges_are_sent_to_https_too() -> None:
    async with serving() as ask:
        assert (await ask(f"/{CHALLENGES}/{TOKEN}"))[0] == 308
