"""Sockets that systemd passes: which are taken, for what, and what is refused. Processes: tests/deploy."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Final

import pytest

from manager import activation
from manager.activation import PassedSocket, PassedSockets, passed_sockets
from manager.errors import ConfigError
from tests.conftest import MakeSettings

# Where the passed sockets begin here: descriptor 3 is pytest's own.
FIRST: Final = 200
EVERYWHERE: Final = "0.0.0.0"  # noqa: S104  what listens there accepts nothing
Pass = Callable[..., dict[str, str]]


@pytest.fixture
def passing(monkeypatch: pytest.MonkeyPatch) -> Iterator[Pass]:
    """Puts sockets where systemd would, to be inherited; returns the variables."""
    monkeypatch.setattr(activation, "FIRST", FIRST)
    with ExitStack() as stack:

        def put(*sockets: socket.socket, names: str | None = None) -> dict[str, str]:
            for descriptor, one in enumerate(sockets, FIRST):
                os.dup2(one.fileno(), descriptor, inheritable=True)
                stack.callback(os.close, descriptor)
                one.close()
            named = {} if names is None else {"LISTEN_FDNAMES": names}
            return {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": str(len(sockets)), **named}

        yield put


def listening(host: str = "127.0.0.1", family: socket.AddressFamily = socket.AF_INET) -> socket.socket:
    return socket.create_server((host, 0), family=family)


def test_names_say_what_a_socket_is_for_and_an_unnamed_one_is_for_the_api(passing: Pass) -> None:
    made = [listening(), listening("::1", socket.AF_INET6), listening(), listening(), listening()]
    ports = [one.getsockname()[1] for one in made]
    passed = passed_sockets(passing(*made, names="https:main:http:llamaherd.socket:unknown"))
    assert [(one.host, one.port) for one in passed.main] == [
        ("127.0.0.1", ports[0]),
        ("::1", ports[1]),
        ("127.0.0.1", ports[3]),
        ("127.0.0.1", ports[4]),
    ]
    assert passed.http == (PassedSocket(FIRST + 2, "127.0.0.1", ports[2]),)


def test_without_names_all_are_for_the_api_and_no_child_inherits_them(passing: Pass) -> None:
    passed = passed_sockets(passing(listening(), listening()))
    assert [one.descriptor for one in passed.main] == [FIRST, FIRST + 1]
    assert [os.get_inheritable(one.descriptor) for one in passed.main] == [False, False]


def test_the_variables_are_taken_out_also_where_they_are_for_another_process(passing: Pass) -> None:
    variables = {**passing(listening(), names="https"), "LISTEN_PID": "1", "PATH": "/bin"}
    assert passed_sockets(variables) == PassedSockets()
    assert variables == {"PATH": "/bin"}


def test_without_variables_there_are_none() -> None:
    assert passed_sockets({}) == PassedSockets()


def unix() -> socket.socket:
    one = socket.socket(socket.AF_UNIX)
    one.bind(f"\0llamaherd-test-activation-{os.getpid()}")
    one.listen()
    return one


def not_listening() -> socket.socket:
    one = socket.socket()
    one.bind(("127.0.0.1", 0))
    return one


def datagrams() -> socket.socket:
    one = socket.socket(type=socket.SOCK_DGRAM)
    one.bind(("127.0.0.1", 0))
    return one


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (unix, "is a Unix socket: ListenStream must be a port"),
        (not_listening, "does not listen for TCP"),
        (datagrams, "does not listen for TCP"),
    ],
)
def test_what_can_not_be_listened_on_is_refused_with_its_name(
    passing: Pass, make: Callable[[], socket.socket], why: str
) -> None:
    with pytest.raises(ConfigError, match=rf"descriptor {FIRST} \(https\) {why}"):
        passed_sockets(passing(make(), names="https"))


def test_a_name_that_means_nothing_is_refused(passing: Pass) -> None:
    with pytest.raises(ConfigError, match="named 'htpp': FileDescriptorName must be"):
        passed_sockets(passing(listening(), names="htpp"))


def test_what_is_promised_and_not_there_is_refused(passing: Pass) -> None:
    variables = {**passing(), "LISTEN_FDS": "1"}
    with pytest.raises(ConfigError, match=f"descriptor {FIRST} is none"):
        passed_sockets(variables)


@pytest.mark.parametrize("variables", [{"LISTEN_FDS": "two"}, {"LISTEN_FDS": ""}, {"LISTEN_FDNAMES": "https:http"}])
def test_variables_that_make_no_sense_are_refused(passing: Pass, variables: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match=next(iter(variables))):
        passed_sockets({**passing(listening()), **variables})


def test_the_address_that_counts_is_that_of_the_socket_which_others_reach(make_settings: MakeSettings) -> None:
    settings = make_settings(server={"host": "127.0.0.1", "port": 1})
    own, public = PassedSocket(3, "127.0.0.1", 8000), PassedSocket(4, EVERYWHERE, 443)
    server = PassedSockets((own, public)).applied_to(settings).server
    assert (server.host, server.port) == (EVERYWHERE, 443)
    server = PassedSockets((own,)).applied_to(make_settings(server={"host": EVERYWHERE})).server
    assert (server.host, server.port) == ("127.0.0.1", 8000)


def test_without_a_socket_for_the_api_the_settings_count(make_settings: MakeSettings) -> None:
    settings = make_settings(tls={"host": "llm.example.org"})
    assert PassedSockets().applied_to(settings) is settings
    assert PassedSockets(http=(PassedSocket(3, EVERYWHERE, 80),)).applied_to(settings) is settings


def test_a_socket_for_plain_http_is_refused_where_there_is_no_https(make_settings: MakeSettings) -> None:
    with pytest.raises(ConfigError, match="HTTPS is off: name a certificate"):
        PassedSockets(http=(PassedSocket(3, EVERYWHERE, 80),)).applied_to(make_settings())
