"""Whom the client asks, and who gets what secret: redirects, proxies, hosts that are not public."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from manager.downloads import Client, DownloadFailed, Fetched, fetch
from manager.settings_sections import HubSettings
from tests.fakes.hub import Fault, Hub, running_hub
from tests.https_host import HttpsHost, answer, https_host, redirect
from tests.manager.downloads.conftest import DATA, PATH, Downloads

TOKEN = {"Authorization": "Bearer hf_secret"}


async def failure(downloads: Downloads, url: str) -> str:
    with pytest.raises(DownloadFailed) as caught:
        await downloads.fetch(url, headers=TOKEN)
    return caught.value.message


async def test_a_token_stays_with_its_host(downloads: Downloads, hub: Hub) -> None:
    async with running_hub() as elsewhere:  # another port is another host
        elsewhere.files["/cdn/a.gguf"] = DATA
        hub.fail("/start", Fault(status=302, headers={"Location": PATH}))
        hub.fail(PATH, Fault(status=307, headers={"Location": elsewhere.url("/cdn/a.gguf") + "?signed=1"}))
        assert (await downloads.fetch(hub.url("/start"), headers=TOKEN)).size == len(DATA)
        assert [request.headers.get("authorization") for request in hub.requests] == [TOKEN["Authorization"]] * 2
        (request,) = elsewhere.requests
        assert "authorization" not in request.headers
        assert request.query == "signed=1"


async def test_a_token_does_not_follow_when_a_redirect_leads_back_through_another_host(
    downloads: Downloads, hub: Hub
) -> None:
    async with running_hub() as elsewhere:
        hub.fail("/start", Fault(status=302, headers={"Location": elsewhere.url("/back")}))
        elsewhere.fail("/back", Fault(status=302, headers={"Location": hub.url(PATH)}))
        await downloads.fetch(hub.url("/start"), headers=TOKEN)
        assert "authorization" not in elsewhere.requests[0].headers


async def test_the_range_goes_along_to_where_a_redirect_leads(downloads: Downloads, hub: Hub) -> None:
    hub.fail("/start", Fault(status=302, headers={"Location": PATH}, stays=True))
    hub.fail(PATH, Fault(cut_after=100_000))
    await downloads.fetch(hub.url("/start"))
    assert [request.range for request in hub.asked(PATH)] == [None, "bytes=100000-"]


async def test_redirects_end(downloads: Downloads, hub: Hub) -> None:
    hub.fail("/loop", Fault(status=302, headers={"Location": "/loop"}, stays=True))
    assert "redirects more than 10 times" in await failure(downloads, hub.url("/loop"))
    assert len(hub.requests) == 11


@pytest.mark.parametrize("target", ["", "file:///etc/passwd", "ftp://127.0.0.1/a.gguf", "http://[::1/"])
async def test_a_redirect_leads_to_http_alone(downloads: Downloads, hub: Hub, target: str) -> None:
    hub.fail("/start", Fault(status=302, headers={"Location": target}))
    assert "redirects to what is no http or https address" in await failure(downloads, hub.url("/start"))


@pytest.mark.parametrize("url", ["a.gguf", "file:///etc/passwd", "ftp://host/a.gguf", "https://", "http://[::1/"])
async def test_only_http_addresses_are_asked(downloads: Downloads, url: str) -> None:
    assert "is not a valid http or https address" in await failure(downloads, url)


async def test_a_password_in_the_address_reaches_its_host(downloads: Downloads, hub: Hub) -> None:
    await downloads.fetch(hub.url(PATH).replace("//", "//user:word@"))
    assert hub.requests[0].headers["authorization"].startswith("Basic ")


async def test_the_proxy_of_the_environment_is_used(
    downloads: Downloads, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", hub.address)
    hub.files["http://models.test/a.gguf"] = DATA  # a proxy is asked for the whole address
    hub.files["/a.gguf"] = DATA
    await downloads.fetch("http://models.test/a.gguf")
    assert hub.requests[0].headers["host"] == "models.test"


async def test_a_host_that_is_to_be_asked_without_a_proxy_is(
    downloads: Downloads, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    assert (await downloads.fetch()).size == len(DATA)


async def test_a_proxy_that_can_not_be_used_is_named(downloads: Downloads, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("all_proxy", "socks5://127.0.0.1:1080")
    assert "is no http proxy" in await failure(downloads, "http://models.test/a.gguf")


async def test_a_certificate_that_is_not_accepted_is_said_and_not_tried_again(
    downloads: Downloads, tmp_path: Path
) -> None:
    folder = tmp_path / "host"
    folder.mkdir()
    async with https_host(folder, {"/a.gguf": answer(DATA)}, name="localhost") as host:
        assert "certificate is not accepted" in await failure(downloads, host.url("/a.gguf", "localhost"))
    assert downloads.pauses == []


NAMES = {"models.test": ["127.0.0.1"], "private.test": ["10.1.2.3"], "both.test": ["127.0.0.1", "10.1.2.3"]}


async def look_up(host: str, port: int) -> Sequence[str]:
    if host not in NAMES:
        raise OSError("no such host")
    return NAMES[host]


@asynccontextmanager
async def public(trust: ssl.SSLContext | None = None, endpoint: str = "https://hub.test") -> AsyncIterator[Client]:
    """A client for addresses that strangers chose; to it 127.0.0.1 alone is public."""
    hub = HubSettings(endpoint=endpoint)
    async with Client(
        hub, public_only=True, lookup=look_up, public=lambda address: address == "127.0.0.1", trust=trust
    ) as client:
        yield client


async def grab(client: Client, url: str, folder: Path) -> Fetched:
    return await fetch(url, folder / "a.gguf", settings=client.settings, client=client)


@pytest.fixture
async def host(tmp_path: Path) -> AsyncIterator[HttpsHost]:
    folder = tmp_path / "host"
    folder.mkdir()
    async with https_host(folder, {"/a.gguf": answer(DATA, Content_Type="")}, name="models.test") as host:
        yield host


async def test_strangers_may_name_a_public_host(downloads: Downloads, host: HttpsHost, tmp_path: Path) -> None:
    async with public(host.trust) as client:
        assert (await grab(client, host.url("/a.gguf", "models.test"), tmp_path)).size == len(DATA)


@pytest.mark.parametrize(
    "url",
    [
        "http://models.test/a.gguf",
        "https://private.test/a.gguf",
        "https://both.test/a.gguf",
        "https://10.1.2.3/a.gguf",
        "https://[::1]/a.gguf",
        "https://2130706433/a.gguf",
        "https://0x7f.1/a.gguf",
        "https://user:word@models.test/a.gguf",
    ],
)
async def test_strangers_may_not_name_others(downloads: Downloads, host: HttpsHost, tmp_path: Path, url: str) -> None:
    says = "is no host of the public internet|only https addresses without a user"
    host.answers["/away"] = redirect(url)
    async with public(host.trust) as client:
        with pytest.raises(DownloadFailed, match=says):
            await grab(client, url, tmp_path)
        with pytest.raises(DownloadFailed, match=says):
            await grab(client, host.url("/away", "models.test"), tmp_path)
    assert downloads.pauses == []


async def test_strangers_may_use_the_hub_of_the_settings_wherever_it_is(downloads: Downloads, tmp_path: Path) -> None:
    hub = downloads.hub
    async with public(endpoint=hub.address) as client:
        assert (await grab(client, hub.url(PATH), tmp_path)).size == len(DATA)


async def test_a_proxy_does_not_lead_strangers_to_what_is_known_to_be_private(
    downloads: Downloads, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("https_proxy", downloads.hub.address)
    async with public() as client:
        with pytest.raises(DownloadFailed, match=r"private\.test is no host of the public internet"):
            await grab(client, "https://private.test/a.gguf", tmp_path)
    assert downloads.hub.requests == []


async def test_strangers_may_ask_no_other_port_of_the_hubs_host(downloads: Downloads, tmp_path: Path) -> None:
    async with running_hub() as elsewhere, public(endpoint=downloads.hub.address) as client:
        elsewhere.files["/a.gguf"] = DATA
        downloads.hub.fail("/away", Fault(status=302, headers={"Location": elsewhere.url("/a.gguf")}, stays=True))
        for url in (elsewhere.url("/a.gguf"), downloads.hub.url("/away")):
            with pytest.raises(DownloadFailed, match="only https addresses"):
                await grab(client, url, tmp_path)
        assert elsewhere.requests == []


@pytest.mark.parametrize(("endpoint", "port"), [("https://private.test", 8443), ("http://private.test:8443", 8443)])
async def test_strangers_may_ask_the_hubs_host_for_nothing_but_the_hub(
    downloads: Downloads, host: HttpsHost, tmp_path: Path, endpoint: str, port: int
) -> None:
    async with public(host.trust, endpoint=endpoint) as client:
        with pytest.raises(DownloadFailed, match="is no host of the public internet"):
            await grab(client, f"https://private.test:{port}/a.gguf", tmp_path)


async def test_strangers_may_not_ask_the_host_of_the_proxy(
    downloads: Downloads, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "http://private.test:3128")
    async with public() as client:
        for port in (443, 3128):
            with pytest.raises(DownloadFailed, match="is no host of the public internet"):
                await grab(client, f"https://private.test:{port}/a.gguf", tmp_path)
