"""Addresses: who a client is behind proxies, what counts as one client, and how hosts are named."""

from __future__ import annotations

import pytest

from manager.addresses import UNKNOWN, Proxies, admits, host_of, is_loopback, one_address

PROXIES = Proxies(["10.0.0.0/8", "2001:db8:ffff::/48"])


@pytest.mark.parametrize(
    ("peer", "forwarded", "client"),
    [
        ("203.0.113.5", [], "203.0.113.5"),
        ("203.0.113.5", ["198.51.100.7"], "203.0.113.5"),  # no proxy of ours: anybody can write that
        ("10.0.0.1", [], "10.0.0.1"),
        ("10.0.0.1", ["198.51.100.7"], "198.51.100.7"),
        ("10.0.0.1", ["1.1.1.1, 198.51.100.7"], "198.51.100.7"),  # what the client wrote itself comes first
        ("10.0.0.1", ["1.1.1.1", "198.51.100.7, 10.0.0.9"], "198.51.100.7"),
        ("10.0.0.1", ["10.0.0.7, 10.0.0.9"], "10.0.0.7"),
        ("10.0.0.1", ["198.51.100.7, unknown"], "10.0.0.1"),
        ("10.0.0.1", ["198.51.100.7, _hidden, 10.0.0.9"], "10.0.0.9"),
        ("10.0.0.1", [""], "10.0.0.1"),
        ("10.0.0.1", ["198.51.100.7:4711"], "198.51.100.7"),
        ("10.0.0.1", ["[2001:db8::5]:4711"], "2001:db8::5"),
        ("2001:db8:ffff::1", ["[2001:db8::5]"], "2001:db8::5"),
        ("::ffff:10.0.0.1", ["198.51.100.7"], "198.51.100.7"),
        (None, ["198.51.100.7"], UNKNOWN),
    ],
)
def test_the_client_is_the_last_address_that_is_no_proxy(peer: str | None, forwarded: list[str], client: str) -> None:
    assert PROXIES.client_of(peer, forwarded) == client


def test_without_proxies_nobody_else_is_believed() -> None:
    assert Proxies([]).client_of("127.0.0.1", ["198.51.100.7"]) == "127.0.0.1"


@pytest.mark.parametrize(
    ("address", "one"),
    [
        ("203.0.113.5", "203.0.113.5"),
        ("::ffff:203.0.113.5", "203.0.113.5"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        (UNKNOWN, UNKNOWN),
    ],
)
def test_a_network_of_ipv6_counts_as_one_client(address: str, one: str) -> None:
    assert one_address(address) == one


@pytest.mark.parametrize(
    ("authority", "host"),
    [
        ("LLM.Example.org", "llm.example.org"),
        ("llm.example.org.:443", "llm.example.org"),
        ("127.0.0.1:8000", "127.0.0.1"),
        ("[::1]:8000", "::1"),
        ("[::1]", "::1"),
        ("[::1]x", None),
        ("[nonsense]", None),
        ("[::1", None),
        ("a:b", None),
        ("a:", None),
        ("a:1:2", None),
        ("", None),
        (":80", None),
    ],
)
def test_the_host_of_an_authority(authority: str, host: str | None) -> None:
    assert host_of(authority) == host


@pytest.mark.parametrize(
    ("host", "admitted"),
    [
        ("llm.example.org", True),
        ("a.home.arpa", True),
        ("a.b.home.arpa", False),  # as with certificates, a star is one label
        ("home.arpa", False),
        ("example.org", False),
        ("xllm.example.org", False),
        ("192.0.2.7", True),
        ("192.0.2.8", False),
    ],
)
def test_names_and_stars(host: str, *, admitted: bool) -> None:
    assert admits(host, ["llm.example.org", "*.home.arpa", "192.0.2.7"]) is admitted


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("localhost", True),
        ("LOCALHOST", True),
        ("127.8.9.1", True),
        ("::1", True),
        ("::ffff:127.0.0.1", True),
        ("0.0.0.0", False),  # noqa: S104  nothing is bound
        ("::", False),
        ("192.168.1.1", False),
        ("localhost.example.org", False),
    ],
)
def test_what_only_this_machine_can_reach(host: str, *, loopback: bool) -> None:
    assert is_loopback(host) is loopback
