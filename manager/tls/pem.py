"""Certificates and private keys out of PEM files, each refusal with the file and what to do."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key

from manager.errors import ConfigError

_KEY: Final = re.compile(rb"-----BEGIN ((?:RSA |EC |DSA |ENCRYPTED |)PRIVATE KEY)-----(.+?)-----END \1-----", re.DOTALL)
_BEGIN_CERTIFICATE: Final = b"-----BEGIN CERTIFICATE-----"
_END_CERTIFICATE: Final = b"-----END CERTIFICATE-----"


def certificates(text: bytes, path: Path, what: str) -> list[x509.Certificate]:
    """Every certificate of a file, at least one. Raises ConfigError."""
    begins = text.count(_BEGIN_CERTIFICATE)
    if begins == 0:
        hint = " It holds a private key: are the two files swapped?" if _KEY.search(text) else ""
        raise ConfigError(
            f"{path}: no certificate in PEM ({_BEGIN_CERTIFICATE.decode()}) is in it, and it should hold "
            f"the {what}.{hint or _der_hint(text)}"
        )
    # The parser passes over a last block without an end.
    if begins != text.count(_END_CERTIFICATE):
        raise ConfigError(f"{path} ({what}): a certificate in it has no end: was the file written whole?")
    try:
        return x509.load_pem_x509_certificates(text)
    except (ValueError, x509.InvalidVersion):
        raise ConfigError(f"{path} ({what}): a certificate in it is damaged: fetch or copy it again.") from None


def private_key(text: bytes, path: Path, passphrase: bytes | None) -> PrivateKeyTypes:
    """Raises ConfigError."""
    block = _KEY.search(text)
    if block is None:
        raise ConfigError(f"{path}: no private key in PEM is in it.{_no_key_hint(text)}")
    locked = encrypted(text)
    if locked and passphrase is None:
        raise ConfigError(
            f"{path}: the private key is encrypted, and there is no passphrase: set tls.passphrase_file, or "
            "tls.passphrase."
        )
    try:
        return load_pem_private_key(block[0], passphrase if locked else None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        if locked:
            message = "the passphrase (tls.passphrase, tls.passphrase_file) does not open the private key."
        else:
            message = "the private key is damaged, or of a kind that is not known here: fetch or make it again."
        raise ConfigError(f"{path}: {message}") from None


def encrypted(text: bytes) -> bool:
    """Whether the private key of a file is encrypted."""
    block = _KEY.search(text)
    return block is not None and (block[1].startswith(b"ENCRYPTED") or b"Proc-Type: 4,ENCRYPTED" in block[2])


def as_pem(chain: tuple[x509.Certificate, ...]) -> bytes:
    return b"".join(one.public_bytes(Encoding.PEM) for one in chain)


def title(certificate: x509.Certificate) -> str:
    """What to call a certificate in a message: its subject, or its serial number where that is empty."""
    return certificate.subject.rfc4514_string() or f"serial number {certificate.serial_number:x}"


def _no_key_hint(text: bytes) -> str:
    if b"-----BEGIN OPENSSH PRIVATE KEY-----" in text:
        return " It is one of OpenSSH's: rewrite it with ssh-keygen -p -m PEM -f FILE."
    if b"-----BEGIN " in text and b" PRIVATE KEY-----" in text:
        return " It was not written whole, or is of a kind that is not known here."
    if _BEGIN_CERTIFICATE in text:
        return " It holds a certificate: are the two files swapped?"
    return _der_hint(text)


def _der_hint(text: bytes) -> str:
    if not text.strip():
        return " It is empty."
    if text[:1] == b"\x30":  # an ASN.1 SEQUENCE
        return " It may be DER or PKCS #12: convert it to PEM with openssl."
    return ""
