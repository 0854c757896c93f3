from __future__ import annotations

import asyncio
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import uvloop
from cryptography import x509

from manager.errors import ConfigError
from manager.tls import ServerTls
from manager.tls.check import examine
from manager.tls.context import make_context
from tests.manager.tls.pki import CLIENT, Folder, Issued, authority, issue, write
from tests.manager.tls.server import EchoServer, Loop, client, connected, showing

LOOPS = {"uvloop": uvloop.new_event_loop, "asyncio": asyncio.new_event_loop}
VERSIONS = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}


@pytest.fixture(params=LOOPS.values(), ids=list(LOOPS))
def loop(request: pytest.FixtureRequest) -> Loop:
    factory: Loop = request.param
    return factory


@pytest.fixture
def tls(folder: Folder, root: Issued) -> ServerTls:
    folder.put(issue("llm.test", root), root)
    return ServerTls(folder.settings())


@pytest.fixture
def server(tls: ServerTls, loop: Loop) -> Iterator[EchoServer]:
    with EchoServer(tls.context, loop) as running:
        yield running


def renew(folder: Folder, root: Issued) -> x509.Certificate:
    renewed = issue("llm.test", root)
    folder.put(renewed, root)
    return renewed.certificate


@pytest.mark.parametrize("host", ["llm.test", None], ids=["with SNI", "without SNI"])
@pytest.mark.parametrize("version", VERSIONS.values(), ids=list(VERSIONS))
def test_new_connections_get_the_renewed_certificate_and_open_ones_live_on(
    tls: ServerTls, server: EchoServer, folder: Folder, root: Issued, version: ssl.TLSVersion, host: str | None
) -> None:
    context = client(maximum_version=version)
    before = tls.context
    with connected(server, context, host=host) as old:
        assert old.echo("before") == "before"
        renewed = renew(folder, root)
        assert tls.reload_if_changed()
        assert old.echo("after") == "after"
        with connected(server, context, host=host) as new:
            assert new.echo() == "hello"
            assert new.certificate == renewed != old.certificate
        assert old.echo("and later") == "and later"
    assert tls.context is before


@pytest.mark.parametrize("version", VERSIONS.values(), ids=list(VERSIONS))
def test_session_of_before_a_renewal_is_resumed_and_others_see_the_new_certificate(
    tls: ServerTls, server: EchoServer, folder: Folder, root: Issued, version: ssl.TLSVersion
) -> None:
    context = client(maximum_version=version)
    with connected(server, context) as old:
        old.echo()  # the tickets of TLS 1.3 come with the first data
        session = old.ssl.session
    renewed = renew(folder, root)
    tls.reload()
    with connected(server, context, session=session) as resumed:
        assert resumed.echo() == "hello"
        assert resumed.ssl.session_reused
        later = resumed.ssl.session
    with connected(server, context, session=later) as again:
        assert again.echo() == "hello"
        assert again.ssl.session_reused
    with connected(server, context) as new:
        assert new.echo() == "hello"
        assert not new.ssl.session_reused
        assert new.certificate == renewed


def test_minimum_version_and_alpn_hold_after_a_renewal(folder: Folder, root: Issued, loop: Loop) -> None:
    renew(folder, root)
    tls = ServerTls(folder.settings(minimum_version="1.3"))
    renew(folder, root)
    tls.reload()
    with EchoServer(tls.context, loop) as running:
        assert running.refusal(client(maximum_version=ssl.TLSVersion.TLSv1_2)) == "UNSUPPORTED_PROTOCOL"
        context = client()
        context.set_alpn_protocols(["h2", "http/1.1"])
        with connected(running, context) as connection:
            assert connection.echo() == "hello"
            assert connection.ssl.selected_alpn_protocol() == "http/1.1"


def test_weak_ciphers_are_refused_after_a_renewal(
    tls: ServerTls, server: EchoServer, folder: Folder, root: Issued
) -> None:
    renew(folder, root)
    tls.reload()
    context = client(maximum_version=ssl.TLSVersion.TLSv1_2)
    context.set_ciphers("ECDHE-ECDSA-AES128-SHA256:@SECLEVEL=0")
    assert server.refusal(context) == "NO_SHARED_CIPHER"


@pytest.mark.parametrize("version", VERSIONS.values(), ids=list(VERSIONS))
def test_clients_must_show_a_certificate_after_a_renewal_too(
    folder: Folder, root: Issued, loop: Loop, tmp_path: Path, version: ssl.TLSVersion
) -> None:
    first, second = authority("First"), authority("Second")
    shown = {one: issue("bob", one, purposes=[CLIENT]) for one in (first, second)}
    renew(folder, root)
    write(folder.client_ca, first.pem)
    tls = ServerTls(folder.settings(client_ca=folder.client_ca))

    def is_served(by: Issued | None) -> bool:
        context = client(maximum_version=version)
        if by is not None:
            showing(context, shown[by], tmp_path)
        try:
            with connected(running, context) as connection:
                return connection.echo() == "hello"
        except OSError:
            return False

    with EchoServer(tls.context, loop) as running:
        assert [is_served(by) for by in (first, second, None)] == [True, False, False]
        renew(folder, root)
        assert tls.reload_if_changed()
        assert [is_served(by) for by in (first, second, None)] == [True, False, False]
        write(folder.client_ca, second.pem)  # the first is trusted no longer
        assert tls.reload_if_changed()
        assert [is_served(by) for by in (first, second, None)] == [False, True, False]


def test_half_written_files_are_refused_and_the_old_ones_stay(
    tls: ServerTls, server: EchoServer, folder: Folder, root: Issued
) -> None:
    old, renewed = tls.expires, issue("llm.test", root, ends=200)
    with connected(server) as connection:
        served = connection.certificate
    steps = [
        (folder.key, renewed.key_pem, "is the key of another certificate"),
        (folder.certificate, renewed.pem[:200], "has no end"),
    ]
    for path, text, says in steps:
        write(path, text, 0o600)
        for reload in (tls.reload, tls.reload_if_changed):
            with pytest.raises(ConfigError, match=says):
                reload()
        assert tls.expires == old
        with connected(server) as connection:
            assert connection.echo() == "hello"
            assert connection.certificate == served
    write(folder.certificate, renewed.pem)
    assert tls.reload_if_changed()
    assert not tls.reload_if_changed()
    assert tls.expires == renewed.certificate.not_valid_after_utc.timestamp()
    with connected(server) as connection:
        assert connection.certificate == renewed.certificate


def test_missing_file_is_refused_and_the_old_ones_stay(tls: ServerTls, folder: Folder) -> None:
    folder.key.unlink()
    with pytest.raises(ConfigError, match=r"llm\.test-key\.pem\n"):
        tls.reload_if_changed()
    assert tls.names == ("llm.test",)


def test_files_that_did_not_change_are_not_read(tls: ServerTls, monkeypatch: pytest.MonkeyPatch) -> None:
    def read(path: Path) -> bytes:
        pytest.fail(f"{path} was read")

    monkeypatch.setattr(Path, "read_bytes", read)
    assert not tls.reload_if_changed()


@pytest.mark.parametrize("file", ["certificate", "key", "chain", "client_ca", "passphrase_file"])
def test_each_file_is_followed(folder: Folder, root: Issued, file: str) -> None:
    folder.put(issue("llm.test", root), root)
    write(folder.client_ca, root.pem)
    secret = folder.path / "pass"
    write(secret, b"opens", 0o600)
    tls = ServerTls(folder.settings(client_ca=folder.client_ca, passphrase_file=secret))
    path: Path = secret if file == "passphrase_file" else getattr(folder, file)
    write(path, path.read_bytes(), 0o600)
    assert tls.reload_if_changed()
    assert not tls.reload_if_changed()


def test_chain_file_that_comes_later_is_found(folder: Folder, root: Issued, intermediate: Issued, loop: Loop) -> None:
    folder.put(issue("llm.test", intermediate))
    tls = ServerTls(folder.settings())
    with EchoServer(tls.context, loop) as running:
        with pytest.raises(ssl.SSLCertVerificationError), connected(running, client(root)):
            pass
        write(folder.chain, intermediate.pem)
        assert tls.reload_if_changed()
        with connected(running, client(root)) as connection:
            assert connection.echo() == "hello"


def test_wrong_files_end_the_start_with_every_mistake(folder: Folder, root: Issued) -> None:
    folder.put(issue("other.test", root, ends=-0.5), root)
    with pytest.raises(ConfigError, match=r"(?s)expired.*is not for tls\.host"):
        ServerTls(folder.settings())


def test_warnings_are_logged(folder: Folder, intermediate: Issued, caplog: pytest.LogCaptureFixture) -> None:
    folder.put(issue("llm.test", intermediate))
    tls = ServerTls(folder.settings())
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "the certificate of its issuer CN=Intermediate is missing" in caplog.text
    tls.reload()
    assert len(caplog.records) == 2


def test_locked_key_is_opened_and_neither_it_nor_its_passphrase_is_shown(
    folder: Folder, root: Issued, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    leaf = issue("llm.test", root)
    folder.put(leaf, root)
    write(folder.key, leaf.locked_key(b"sesame"), 0o600)
    written = tmp_path / "temporary"
    written.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(written))
    tls = ServerTls(folder.settings(passphrase="sesame"))
    assert list(written.iterdir()) == []
    with EchoServer(tls.context, uvloop.new_event_loop) as running, connected(running, client(root)) as connection:
        assert connection.echo() == "hello"
    with pytest.raises(ConfigError) as refused:
        ServerTls(folder.settings(passphrase="simsim"))
    shown = f"{vars(tls)} {refused.value.message} {refused.value.__cause__} {caplog.text}"
    assert "sesame" not in shown
    assert "simsim" not in shown


def test_key_that_changes_after_the_check_is_a_mistake(folder: Folder, root: Issued) -> None:
    renew(folder, root)
    settings = folder.settings()
    checked = examine(settings, time.time()).checked()
    write(folder.key, issue("llm.test", root).key_pem, 0o600)
    with pytest.raises(ConfigError, match=r"llm\.test-key\.pem.*: can't be loaded: KEY_VALUES_MISMATCH\."):
        make_context(settings, checked)


def test_options_of_the_context(tls: ServerTls) -> None:
    assert tls.context.options & ssl.OP_NO_COMPRESSION
    assert tls.context.options & ssl.OP_NO_RENEGOTIATION
    assert all(cipher["aead"] for cipher in tls.context.get_ciphers())
    assert tls.context.verify_mode is ssl.CERT_NONE


def test_package_does_not_load_cryptography_before_it_is_used() -> None:
    code = "import sys, manager.tls, manager.cli; sys.exit('cryptography' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=30)
