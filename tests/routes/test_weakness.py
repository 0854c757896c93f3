"""A setting that would let strangers in, or show them keys, ends the start: nothing weakens silently."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest

from manager.app import create_app
from manager.errors import ConfigError
from manager.service import SERVICE
from tests.conftest import MakeSettings
from tests.routes.stage import Fake, Stage

MakeKey = Callable[..., str]
OUTSIDE = ["0.0.0.0", "::", "192.168.1.5", "llm.example.org", "127.0.0.1.example.org"]  # noqa: S104  nothing is bound


@pytest.fixture
def begin(stage: Stage, fake: Fake, make_settings: MakeSettings) -> Callable[..., None]:
    """Makes the application of these settings of the server."""

    def make(**server: Any) -> None:
        create_app(make_settings(**stage.sections({"server": server})))

    return make


@pytest.mark.parametrize("host", OUTSIDE)
def test_without_keys_nobody_from_outside_gets_in(begin: Callable[..., None], host: str) -> None:
    with pytest.raises(ConfigError, match="no API key is stored") as refusal:
        begin(host=host)
    assert "llamaherd key create" in refusal.value.message
    with pytest.raises(ConfigError, match="no API key is stored"):
        begin(host=host, dangerously_send_keys_in_clear=True)  # that is for something else


@pytest.mark.parametrize(
    "server", [{"trusted_proxies": ["127.0.0.1"]}, {"allowed_hosts": ["localhost", "llm.example.org"]}]
)
def test_behind_a_proxy_a_key_is_needed_too(
    begin: Callable[..., None], make_key: MakeKey, server: dict[str, Any]
) -> None:
    with pytest.raises(ConfigError, match="no API key is stored"):
        begin(**server)
    begin(**server, dangerously_serve_without_keys=True)
    make_key("k")
    begin(**server)


def test_a_key_that_is_made_later_is_told_of_where_it_travels_in_clear(
    stage: Stage, fake: Fake, make_key: MakeKey, make_settings: MakeSettings, caplog: pytest.LogCaptureFixture
) -> None:
    server = {"host": "192.168.1.5", "dangerously_serve_without_keys": True}
    service = create_app(make_settings(**stage.sections({"server": server})))[SERVICE]
    make_key("k")
    service.keys.load()
    service.reloader._keys_read()
    assert service.keys_required
    assert "API keys travel in clear to 192.168.1.5" in caplog.text


def test_a_network_of_everybody_is_no_network_of_proxies(
    begin: Callable[..., None], make_key: MakeKey, caplog: pytest.LogCaptureFixture
) -> None:
    make_key("k")
    begin(trusted_proxies=["10.0.0.0/8"])
    assert "trusted_proxies" not in caplog.text
    begin(trusted_proxies=["0.0.0.0/0"])
    assert "server.trusted_proxies has 0.0.0.0/0" in caplog.text


@pytest.mark.parametrize("host", OUTSIDE)
def test_keys_do_not_travel_in_clear(begin: Callable[..., None], make_key: MakeKey, host: str) -> None:
    make_key("k")
    with pytest.raises(ConfigError, match="keys would travel over plain HTTP") as refusal:
        begin(host=host)
    assert "tls.host" in refusal.value.message
    with pytest.raises(ConfigError, match="keys would travel over plain HTTP"):
        begin(host=host, dangerously_serve_without_keys=True)


def test_tls_turned_off_beside_a_certificate_is_no_tls(
    stage: Stage, fake: Fake, make_key: MakeKey, make_settings: MakeSettings
) -> None:
    make_key("k")
    sections = stage.sections({"server": {"host": "192.168.1.5"}, "tls": {"enabled": False, "host": "a.example.org"}})
    with pytest.raises(ConfigError, match="keys would travel over plain HTTP"):
        create_app(make_settings(**sections))


def test_the_settings_with_ugly_names_are_heeded_and_logged(
    begin: Callable[..., None], make_key: MakeKey, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        begin(host="192.168.1.5", dangerously_serve_without_keys=True)
        make_key("k")
        begin(host="192.168.1.5", dangerously_send_keys_in_clear=True)
    assert [record.getMessage().split(":")[0] for record in caplog.records if record.name == "manager.exposure"] == [
        "API keys travel in clear to 192.168.1.5",
    ]


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost", "127.1.2.3"])
def test_this_machine_needs_neither(begin: Callable[..., None], make_key: MakeKey, host: str) -> None:
    begin(host=host)
    make_key("k")
    begin(host=host)
