"""What can be wrong with one certificate. The texts go behind its file and its title."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from datetime import datetime
from typing import Final, TypeVar

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID

from manager.addresses import admits

LEAST_RSA_BITS: Final = 2048
CURVES: Final = frozenset({"secp256r1", "secp384r1", "secp521r1"})  # others are known to few clients
BROKEN_HASHES: Final = frozenset({"md5", "sha1"})

_Extension = TypeVar("_Extension", bound=x509.ExtensionType)


def wrong_dates(certificate: x509.Certificate, now: float) -> Iterator[str]:
    begins, ends = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if now >= ends.timestamp():
        yield f"it expired on {shown(ends)}: renew it."
    elif now < begins.timestamp():
        yield f"it is valid from {shown(begins)} on only: is the clock of this machine right?"


def weak_key(certificate: x509.Certificate) -> Iterator[str]:
    try:
        key = certificate.public_key()
    except UnsupportedAlgorithm:
        key = None
    if isinstance(key, rsa.RSAPublicKey):
        if key.key_size < LEAST_RSA_BITS:
            yield f"its RSA key of {key.key_size} bits is too short: make one of {LEAST_RSA_BITS} bits, or EC P-256."
    elif isinstance(key, ec.EllipticCurvePublicKey):
        if key.curve.name not in CURVES:
            yield f"its key is on the curve {key.curve.name}, which clients do not take: make one on P-256."
    elif not isinstance(key, (ed25519.Ed25519PublicKey, ed448.Ed448PublicKey)):
        yield "its key is neither RSA nor EC: make one on P-256."


def weak_signature(certificate: x509.Certificate) -> Iterator[str]:
    algorithm = certificate.signature_hash_algorithm
    digest = "" if algorithm is None else algorithm.name
    if digest in BROKEN_HASHES:
        yield f"its signature uses {digest.upper()}, which is broken: have it issued anew with SHA-256."


def wrong_purpose(certificate: x509.Certificate) -> Iterator[str]:
    """What keeps a server from using it."""
    extended = extension(certificate, x509.ExtendedKeyUsage)
    wanted = {ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE}
    if extended is not None and not wanted & set(extended):
        yield "it is not for servers (extended key usage without serverAuth): have one issued for this."
    usage = extension(certificate, x509.KeyUsage)
    if usage is not None and not usage.digital_signature:
        yield "its key may not sign (key usage without digitalSignature), which every handshake needs."


def is_authority(certificate: x509.Certificate) -> bool:
    constraints = extension(certificate, x509.BasicConstraints)
    return constraints is not None and constraints.ca


def names_of(certificate: x509.Certificate) -> tuple[str, ...]:
    """The host names and addresses that it is for, in lower case. The common name is none: no client looks at it."""
    names = extension(certificate, x509.SubjectAlternativeName)
    if names is None:
        return ()
    addresses = map(str, names.get_values_for_type(x509.IPAddress))
    return tuple(dict.fromkeys([*map(str.lower, names.get_values_for_type(x509.DNSName)), *addresses]))


def covers(names: tuple[str, ...], host: str) -> bool:
    """Whether a certificate with these names is for a host; `*.` stands for one label, of no address."""
    try:
        return str(ipaddress.ip_address(host)) in names
    except ValueError:
        return admits(host, names)


def extension(certificate: x509.Certificate, kind: type[_Extension]) -> _Extension | None:
    try:
        return certificate.extensions.get_extension_for_class(kind).value
    except x509.ExtensionNotFound:
        return None


def shown(when: datetime) -> str:
    return when.strftime("%Y-%m-%d %H:%M UTC")
