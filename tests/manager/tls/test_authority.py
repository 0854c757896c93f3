from __future__ import annotations

import ipaddress
import os
import ssl
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import uvloop
from cryptography import x509

from manager.errors import ConfigError
from manager.settings_server import TlsSettings
from manager.tls import ServerTls
from manager.tls.authority import Authority
from tests.manager.tls.server import EchoServer, client, connected

NOW = datetime.now(UTC).replace(microsecond=0)


def loaded(path: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate(path.read_bytes())


def strict(authority: Path) -> ssl.SSLContext:
    """As clients of newer Pythons check."""
    context = client(verify_mode=ssl.CERT_NONE)
    context.verify_mode = ssl.CERT_REQUIRED
    context.check_hostname = True
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    context.load_verify_locations(authority)
    return context


@pytest.mark.parametrize("host", ["llm.lan", "a.llm.lan", "127.0.0.1", "::1"])
def test_who_knows_the_authority_trusts_each_name_of_the_certificate(tmp_path: Path, host: str) -> None:
    authority = Authority(tmp_path, NOW)
    authority.issue_server(["llm.lan", "*.llm.lan", "127.0.0.1", "::1"], 397)
    tls = ServerTls(TlsSettings(folder=tmp_path, host="llm.lan"))
    assert tls.names == ("llm.lan", "*.llm.lan", "127.0.0.1", "::1")
    with EchoServer(tls.context, uvloop.new_event_loop) as server:
        with connected(server, strict(authority.path), host=host) as connection:
            assert connection.echo() == "hello"
        with (
            pytest.raises(ssl.SSLCertVerificationError, match="mismatch"),
            connected(server, strict(authority.path), host="other.lan"),
        ):
            pass


def test_client_certificate_is_taken_where_its_authority_is_set(tmp_path: Path) -> None:
    authority = Authority(tmp_path, NOW)
    authority.issue_server(["llm.lan"], 397)
    bob = authority.issue_client("bob", 30)
    tls = ServerTls(TlsSettings(folder=tmp_path, enabled=True, client_ca=authority.path))
    with EchoServer(tls.context, uvloop.new_event_loop) as server:
        context = strict(authority.path)
        assert server.refusal(client()) == "PEER_DID_NOT_RETURN_A_CERTIFICATE"
        context.load_cert_chain(bob.certificate, bob.private_key)
        with connected(server, context, host="llm.lan") as connection:
            assert connection.echo() == "hello"


def test_authority_is_made_once_and_used_again(tmp_path: Path) -> None:
    first = Authority(tmp_path / "ssl", NOW)
    before = {path: path.read_bytes() for path in (tmp_path / "ssl").iterdir()}
    second = Authority(tmp_path / "ssl", NOW + timedelta(days=300))
    assert (first.made, second.made) == (True, False)
    issued = second.issue_server(["llm.lan"], 397)
    assert issued.chain.read_bytes() == before[first.path]
    assert {path: path.read_bytes() for path in before} == before
    assert loaded(first.path).not_valid_after_utc - NOW == timedelta(days=3652)


def test_private_keys_are_closed_to_others_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        authority = Authority(tmp_path, NOW)
        issued = authority.issue_server(["llm.lan"], 397)
        client = authority.issue_client("bob", 30)
    finally:
        os.umask(before)
    modes = {path.name: path.stat().st_mode & 0o777 for path in tmp_path.iterdir()}
    private = {"llamaherd-ca-key.pem", issued.private_key.name, client.private_key.name}
    assert {name for name, mode in modes.items() if mode == 0o600} == private
    assert {mode for name, mode in modes.items() if name not in private} == {0o644}


def test_files_are_called_after_the_first_host_and_kept_unless_forced(tmp_path: Path) -> None:
    authority = Authority(tmp_path, NOW)
    issued = authority.issue_server(["*.lan", "llm.lan"], 397)
    assert issued.certificate.name == "_.lan-crt.pem"
    before = issued.private_key.read_bytes()
    with pytest.raises(ConfigError, match=r"there already: .*_\.lan-crt\.pem.*With --force they are replaced"):
        authority.issue_server(["*.lan"], 397)
    issued.certificate.unlink()
    with pytest.raises(ConfigError, match=r"there already: .*_\.lan-key\.pem"):
        authority.issue_server(["*.lan"], 397)
    assert issued.private_key.read_bytes() == before
    authority.issue_server(["*.lan"], 397, replace=True)
    assert issued.private_key.read_bytes() != before
    ServerTls(TlsSettings(folder=tmp_path, host="*.lan"))


def test_certificate_lasts_as_long_as_asked_and_no_longer_than_its_authority(tmp_path: Path) -> None:
    issued = Authority(tmp_path, NOW).issue_server(["a"], 10)
    assert loaded(issued.certificate).not_valid_after_utc == issued.expires == NOW + timedelta(days=10)
    late = Authority(tmp_path, NOW + timedelta(days=3651)).issue_server(["b"], 397)
    assert late.expires == loaded(tmp_path / "llamaherd-ca.pem").not_valid_after_utc == NOW + timedelta(days=3652)


def test_addresses_are_names_of_their_own_kind(tmp_path: Path) -> None:
    issued = Authority(tmp_path, NOW).issue_server(["10.0.0.1", "llm.lan"], 10)
    names = loaded(issued.certificate).extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.IPAddress) == [ipaddress.ip_address("10.0.0.1")]
    assert names.get_values_for_type(x509.DNSName) == ["llm.lan"]


MISTAKES: dict[str, Callable[[Path, Path], object]] = {
    "this file is missing": lambda certificate, key: key.unlink(),
    "the local authority is incomplete": lambda certificate, key: certificate.unlink(),
    "it is not the key of": lambda certificate, key: (
        Authority(key.parent / "other", NOW) and (key.parent / "other" / key.name).replace(key)
    ),
    "no private key in PEM": lambda certificate, key: key.write_text(""),
}


@pytest.mark.parametrize("says", MISTAKES)
def test_broken_authority_is_refused_and_left_as_it_is(tmp_path: Path, says: str) -> None:
    Authority(tmp_path, NOW)
    certificate, key = tmp_path / "llamaherd-ca.pem", tmp_path / "llamaherd-ca-key.pem"
    MISTAKES[says](certificate, key)
    before = [path.exists() and path.read_bytes() for path in (certificate, key)]
    with pytest.raises(ConfigError, match=says):
        Authority(tmp_path, NOW)
    assert [path.exists() and path.read_bytes() for path in (certificate, key)] == before


def test_authority_that_is_over_is_refused(tmp_path: Path) -> None:
    Authority(tmp_path, NOW)
    with pytest.raises(ConfigError, match="the local authority has expired"):
        Authority(tmp_path, NOW + timedelta(days=3652))


def test_folder_that_can_not_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"file/ssl/llamaherd-ca-key\.pem: can't write: Not a directory"):
        Authority(tmp_path / "file" / "ssl", NOW)


def test_nothing_half_written_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ConfigError, match="can't write: No space left on device"):
        Authority(tmp_path, NOW)
    assert list(tmp_path.iterdir()) == []
