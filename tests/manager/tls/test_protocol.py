"""What the service speaks, seen from clients that speak something else."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest
import uvloop
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import ObjectIdentifier

from manager.tls import ServerTls
from tests.manager.tls.pki import CLIENT, SERVER, Folder, Issued, authority, issue, write
from tests.manager.tls.server import EchoServer, client, connected, showing

V1_0, V1_1, V1_2, V1_3 = (getattr(ssl.TLSVersion, name) for name in ("TLSv1", "TLSv1_1", "TLSv1_2", "TLSv1_3"))


def serve(folder: Folder, **settings: object) -> EchoServer:
    return EchoServer(ServerTls(folder.settings(**settings)).context, uvloop.new_event_loop)


def old_client(version: ssl.TLSVersion, ciphers: str = "ALL:@SECLEVEL=0") -> ssl.SSLContext:
    """One that would speak what is weak, so that it is the server that refuses."""
    context = client(minimum_version=min(version, V1_2), maximum_version=version)
    context.set_ciphers(ciphers)
    return context


@pytest.fixture(scope="module")
def rsa_folder(tmp_path_factory: pytest.TempPathFactory, root: Issued) -> Folder:
    """With an RSA key, which ciphers without forward secrecy need."""
    folder = Folder(tmp_path_factory.mktemp("ssl"))
    folder.put(issue("llm.test", root, key=rsa.generate_private_key(65537, 2048)), root)
    return folder


@pytest.fixture(scope="module")
def server(rsa_folder: Folder) -> Iterator[EchoServer]:
    with serve(rsa_folder) as running:
        yield running


@pytest.mark.parametrize("version", [V1_0, V1_1])
def test_old_versions_are_refused(server: EchoServer, version: ssl.TLSVersion) -> None:
    assert server.refusal(old_client(version)) == "UNSUPPORTED_PROTOCOL"


@pytest.mark.parametrize("version", [V1_2, V1_3])
def test_current_versions_are_spoken(server: EchoServer, version: ssl.TLSVersion, root: Issued) -> None:
    context = client(root, minimum_version=version, maximum_version=version)
    with connected(server, context) as connection:
        assert connection.echo() == "hello"
        assert connection.ssl.version() == {V1_2: "TLSv1.2", V1_3: "TLSv1.3"}[version]
        assert connection.ssl.compression() is None


def test_minimum_version_is_that_of_the_settings(rsa_folder: Folder) -> None:
    with serve(rsa_folder, minimum_version="1.3") as running:
        assert running.refusal(client(maximum_version=V1_2)) == "UNSUPPORTED_PROTOCOL"
        with connected(running) as connection:
            assert connection.echo() == "hello"


@pytest.mark.parametrize(
    "cipher",
    [
        "ECDHE-RSA-AES128-SHA256",  # CBC
        "ECDHE-RSA-AES256-SHA",  # CBC, SHA-1
        "AES128-GCM-SHA256",  # RSA key exchange: no forward secrecy
        "AES256-SHA",
        "DHE-RSA-AES128-GCM-SHA256",
        "ECDHE-RSA-NULL-SHA",
        "AECDH-AES128-SHA",  # anonymous
    ],
)
def test_weak_ciphers_are_refused(server: EchoServer, cipher: str) -> None:
    context = old_client(V1_2, f"{cipher}:@SECLEVEL=0")
    assert server.refusal(context) == "NO_SHARED_CIPHER"


@pytest.mark.parametrize("cipher", ["ECDHE-RSA-AES128-GCM-SHA256", "ECDHE-RSA-CHACHA20-POLY1305"])
def test_authenticated_ciphers_with_forward_secrecy_are_spoken(server: EchoServer, cipher: str) -> None:
    with connected(server, old_client(V1_2, cipher)) as connection:
        assert connection.echo() == "hello"
        used = connection.ssl.cipher()
        assert used is not None
        assert used[0] == cipher


@pytest.mark.parametrize(("offered", "chosen"), [(["h2", "http/1.1"], "http/1.1"), (["h2"], None), ([], None)])
def test_http_1_1_is_chosen_where_the_client_asks(server: EchoServer, offered: list[str], chosen: str | None) -> None:
    context = client()
    if offered:
        context.set_alpn_protocols(offered)
    with connected(server, context) as connection:
        assert connection.echo() == "hello"
        assert connection.ssl.selected_alpn_protocol() == chosen


def test_plain_http_on_the_port_ends_the_connection(server: EchoServer) -> None:
    with socket.create_connection(server.address, timeout=10) as plain:
        plain.sendall(b"GET / HTTP/1.1\r\nHost: llm.test\r\nAuthorization: Bearer key\r\n\r\n")
        received = b""
        try:
            while part := plain.recv(4096):
                received += part
        except ConnectionResetError:
            pass
    assert received[:1] in (b"", b"\x15")  # nothing, or an alert of TLS; no answer of HTTP


def test_chain_is_sent_without_its_root(tmp_path: Path, root: Issued, intermediate: Issued) -> None:
    folder = Folder(tmp_path)
    folder.put(issue("llm.test", intermediate), root, intermediate)
    with serve(folder) as running, connected(running, client(root)) as connection:  # it knows the root alone
        assert connection.echo() == "hello"


# Certificates of clients.


@pytest.fixture(scope="module")
def clients() -> Issued:
    return authority("Clients")


@pytest.fixture(scope="module")
def asking(tmp_path_factory: pytest.TempPathFactory, rsa_folder: Folder, clients: Issued) -> Iterator[EchoServer]:
    path = tmp_path_factory.mktemp("clients") / "clients.pem"
    write(path, clients.pem)
    with serve(rsa_folder, client_ca=path) as running:
        yield running


VERSIONS = pytest.mark.parametrize("version", [V1_2, V1_3])


@VERSIONS
def test_client_without_certificate_is_refused(asking: EchoServer, version: ssl.TLSVersion) -> None:
    assert asking.refusal(client(maximum_version=version)) == "PEER_DID_NOT_RETURN_A_CERTIFICATE"


@VERSIONS
@pytest.mark.parametrize("issuer", ["Clients", "Foreign"])
def test_client_with_a_foreign_certificate_is_refused(
    asking: EchoServer, version: ssl.TLSVersion, tmp_path: Path, issuer: str
) -> None:
    foreign = authority(issuer)  # the right name does not help
    context = showing(client(maximum_version=version), issue("bob", foreign, purposes=[CLIENT]), tmp_path)
    assert asking.refusal(context) == "CERTIFICATE_VERIFY_FAILED"


@VERSIONS
def test_client_with_a_right_certificate_is_served(
    asking: EchoServer, version: ssl.TLSVersion, tmp_path: Path, clients: Issued
) -> None:
    context = showing(client(maximum_version=version), issue("bob", clients, purposes=[CLIENT]), tmp_path)
    with connected(asking, context) as connection:
        assert connection.echo() == "hello"


@pytest.mark.parametrize(("purpose", "ends"), [(SERVER, 90.0), (CLIENT, -0.5)])
def test_server_certificate_or_one_that_is_over_is_refused(
    asking: EchoServer, tmp_path: Path, clients: Issued, purpose: ObjectIdentifier, ends: float
) -> None:
    context = showing(client(), issue("bob", clients, purposes=[purpose], ends=ends), tmp_path)
    assert asking.refusal(context) == "CERTIFICATE_VERIFY_FAILED"


def test_authority_below_a_root_may_be_the_trusted_one(
    rsa_folder: Folder, tmp_path: Path, root: Issued, intermediate: Issued
) -> None:
    path = tmp_path / "clients.pem"
    write(path, intermediate.pem)
    with serve(rsa_folder, client_ca=path) as running:
        context = showing(client(), issue("bob", intermediate, purposes=[CLIENT]), tmp_path)
        with connected(running, context) as connection:
            assert connection.echo() == "hello"
        context = showing(client(), issue("bob", root, purposes=[CLIENT]), tmp_path)
        assert running.refusal(context) == "CERTIFICATE_VERIFY_FAILED"
