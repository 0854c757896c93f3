"""An authority of one's own for certificates in a local network: its files, and what it issues."""

from __future__ import annotations

import ipaddress
import os
import socket
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID, ObjectIdentifier

from manager.errors import ConfigError
from manager.tls import files, pem

AUTHORITY_DAYS: Final = 3652  # ten years
# Clients whose clocks go a little wrong should take it, too.
BACKDATED: Final = timedelta(hours=1)
LONGEST_COMMON_NAME: Final = 64  # X.520


@dataclass(frozen=True, slots=True)
class Issued:
    """The files of a certificate. `chain` holds the authority's own."""

    certificate: Path
    private_key: Path
    chain: Path
    expires: datetime


class Authority:
    """The authority of a folder; made where there is none. `made` tells which.

    Raises ConfigError where its files are incomplete, can't be read or written, or are over.
    """

    def __init__(self, folder: Path, now: datetime) -> None:
        self.path = folder / "llamaherd-ca.pem"
        self._key_path = folder / "llamaherd-ca-key.pem"
        self._folder = folder
        self._now = now
        self.made = not self.path.exists() and not self._key_path.exists()
        if self.made:
            self._key, self._certificate = _make_authority(now)
            _write(self._key_path, _key_pem(self._key), private=True)
            _write(self.path, pem.as_pem((self._certificate,)))
        else:
            self._key, self._certificate = self._read()

    def issue_server(self, hosts: Sequence[str], days: int, *, replace: bool = False) -> Issued:
        """A certificate for these names and addresses, in files that are called after the first."""
        stem = files.stem(hosts[0])
        paths = [self._folder / f"{stem}-{part}.pem" for part in ("crt", "key", "chain")]
        names = x509.SubjectAlternativeName(list(map(_general_name, hosts)))
        return self._issue(hosts[0], names, ExtendedKeyUsageOID.SERVER_AUTH, days, paths, replace)

    def issue_client(self, name: str, days: int, *, replace: bool = False) -> Issued:
        """A certificate that a client shows: tls.client_ca is then the authority's."""
        stem = files.stem(name)
        paths = [self._folder / f"{stem}-client{part}.pem" for part in ("", "-key", "-chain")]
        names = x509.SubjectAlternativeName([x509.DNSName(name)])
        return self._issue(name, names, ExtendedKeyUsageOID.CLIENT_AUTH, days, paths, replace)

    def _issue(
        self,
        name: str,
        names: x509.SubjectAlternativeName,
        purpose: ObjectIdentifier,
        days: int,
        paths: list[Path],
        replace: bool,
    ) -> Issued:
        there = [path for path in paths if path.exists()]
        if there and not replace:
            raise ConfigError(f"there already: {', '.join(map(str, there))}. With --force they are replaced.")
        key = ec.generate_private_key(ec.SECP256R1())
        begins = max(self._now - BACKDATED, self._certificate.not_valid_before_utc)
        ends = min(self._now + timedelta(days=days), self._certificate.not_valid_after_utc)
        identifier = self._certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
        certificate = (
            _builder(_named(name), self._certificate.subject, key.public_key(), begins, ends)
            .add_extension(names, critical=False)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(sign_certificates=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier), critical=False)
            .sign(self._key, SHA256())
        )
        _write(paths[1], _key_pem(key), private=True)
        _write(paths[2], pem.as_pem((self._certificate,)))
        _write(paths[0], pem.as_pem((certificate,)))
        return Issued(paths[0], paths[1], paths[2], ends)

    def _read(self) -> tuple[ec.EllipticCurvePrivateKey, x509.Certificate]:
        again = f"Bring it back, or remove {self.path} and {self._key_path} to make a new authority."
        for path in (self.path, self._key_path):
            if not path.exists():
                raise ConfigError(f"{path}: the local authority is incomplete, this file is missing. {again}")
        certificate = pem.certificates(files.read(self.path, "local authority"), self.path, "local authority")[0]
        key = pem.private_key(files.read(self._key_path, "private key"), self._key_path, None)
        if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != certificate.public_key():
            raise ConfigError(f"{self._key_path}: it is not the key of {self.path}. {again}")
        if self._now >= certificate.not_valid_after_utc:
            raise ConfigError(f"{self.path}: the local authority has expired. {again}")
        return key, certificate


def _make_authority(now: datetime) -> tuple[ec.EllipticCurvePrivateKey, x509.Certificate]:
    key = ec.generate_private_key(ec.SECP256R1())
    name = _named(f"llamaherd CA of {socket.gethostname()}")
    certificate = (
        _builder(name, name, key.public_key(), now - BACKDATED, now + timedelta(days=AUTHORITY_DAYS))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(sign_certificates=True), critical=True)
        .sign(key, SHA256())
    )
    return key, certificate


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, begins: datetime, ends: datetime
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(begins.astimezone(UTC))
        .not_valid_after(ends.astimezone(UTC))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _usage(*, sign_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not sign_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=sign_certificates,
        crl_sign=sign_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name[:LONGEST_COMMON_NAME])])


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _write(path: Path, text: bytes, *, private: bool = False) -> None:
    """Replace a file whole; a private one is never open to others. Raises ConfigError."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")  # made with mode 0600
        temporary = Path(name)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(text)
                file.flush()
                os.fsync(handle)
            if not private:
                temporary.chmod(0o644)
            if os.geteuid() == 0:  # else `sudo llamaherd tls` would leave a key that the service can't read
                owner = (path if path.exists() else path.parent).stat()
                os.chown(temporary, owner.st_uid, owner.st_gid)
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise ConfigError(f"{path}: can't write: {error.strerror or error}.") from None
