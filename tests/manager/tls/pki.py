"""Certificates for tests: authorities and what they sign, with every mistake that one can have."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed25519, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID, ObjectIdentifier

from manager.settings_server import TlsSettings

Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | dsa.DSAPrivateKey | ed25519.Ed25519PrivateKey

SERVER: Final = ExtendedKeyUsageOID.SERVER_AUTH
CLIENT: Final = ExtendedKeyUsageOID.CLIENT_AUTH


def ec_key(curve: ec.EllipticCurve | None = None) -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(curve or ec.SECP256R1())


@dataclass(frozen=True)
class Issued:
    """A certificate with its key."""

    certificate: x509.Certificate
    key: Key

    @property
    def pem(self) -> bytes:
        return self.certificate.public_bytes(Encoding.PEM)

    @property
    def key_pem(self) -> bytes:
        return self.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())

    def locked_key(self, passphrase: bytes, form: PrivateFormat = PrivateFormat.PKCS8) -> bytes:
        encryption: KeySerializationEncryption = BestAvailableEncryption(passphrase)
        return self.key.private_bytes(Encoding.PEM, form, encryption)


def issue(
    name: str,
    by: Issued | None = None,
    *,
    names: Sequence[str] | None = None,
    authority: bool | None = False,
    purposes: Sequence[ObjectIdentifier] | None = (SERVER,),
    may_sign: bool = True,
    begins: float = -1.0,
    ends: float = 90.0,
    key: Key | None = None,
) -> Issued:
    """A certificate signed by `by`, or by itself. `begins` and `ends` are days from now.

    `names` are [name] unless given; none where empty. None for `authority` or `purposes` leaves the extension out.
    """
    key = key or ec_key()
    now = datetime.now(UTC)
    subject = named(name)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject if by is None else by.certificate.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + timedelta(days=begins))
        .not_valid_after(now + timedelta(days=ends))
        .add_extension(usage(may_sign), critical=True)
    )
    alternatives = [] if authority else list(map(_general, [name] if names is None else names))
    if alternatives:
        builder = builder.add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
    if authority is not None:
        builder = builder.add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
    if purposes is not None and not authority:
        builder = builder.add_extension(x509.ExtendedKeyUsage(list(purposes)), critical=False)
    signer = key if by is None else by.key
    return Issued(builder.sign(signer, None if isinstance(signer, ed25519.Ed25519PrivateKey) else SHA256()), key)


def authority(name: str, by: Issued | None = None, *, begins: float = -1.0, ends: float = 90.0) -> Issued:
    return issue(name, by, authority=True, begins=begins, ends=ends)


def labelled_sha1(issued: Issued) -> Issued:
    """The same certificate, which an RSA key has signed, but it says that the signature uses SHA-1."""
    pkcs1, sha256, sha1 = b"\x2a\x86\x48\x86\xf7\x0d\x01\x01", b"\x0b", b"\x05"
    der = issued.certificate.public_bytes(Encoding.DER)
    assert der.count(pkcs1 + sha256) == 2
    return Issued(x509.load_der_x509_certificate(der.replace(pkcs1 + sha256, pkcs1 + sha1)), issued.key)


def named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def usage(may_sign: bool) -> x509.KeyUsage:
    return x509.KeyUsage(may_sign, False, True, False, False, True, True, False, False)


def _general(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


class Folder:
    """A folder with the files of one host, as win-acme writes them; a file is left alone where nothing is given."""

    def __init__(self, path: Path, host: str = "llm.test") -> None:
        self.path = path
        self.host = host
        self.certificate = path / f"{host}-crt.pem"
        self.key = path / f"{host}-key.pem"
        self.chain = path / f"{host}-chain.pem"
        self.client_ca = path / "clients.pem"

    def put(self, issued: Issued, *chain: Issued) -> None:
        self.path.mkdir(exist_ok=True)
        write(self.certificate, issued.pem)
        write(self.key, issued.key_pem, 0o600)
        if chain:
            write(self.chain, b"".join(one.pem for one in chain))

    def settings(self, **others: object) -> TlsSettings:
        return TlsSettings.model_validate({"folder": self.path, "host": self.host, **others})


def write(path: Path, text: bytes, mode: int = 0o644) -> None:
    """Replace a file, as ACME clients do: a new one, and its name moved."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(f".{path.name}.new")
    new.write_bytes(text)
    new.chmod(mode)
    new.replace(path)
