"""Certificates in the order in which a server sends them: each signed by the next."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm


@dataclass(frozen=True, slots=True)
class Chain:
    """`sent` begins with the server's own certificate and ends before the root. `complete`: up to a root of the files.

    `strangers` have not signed any of them, not even by way of another.
    """

    sent: tuple[x509.Certificate, ...]
    complete: bool
    strangers: tuple[x509.Certificate, ...]

    @property
    def expires(self) -> float:
        """When the first of those that are sent is over: seconds since the epoch."""
        return min(one.not_valid_after_utc.timestamp() for one in self.sent)


def order(leaf: x509.Certificate, others: Iterable[x509.Certificate], now: float) -> Chain:
    """Sort `others`, in any order and with duplicates, behind `leaf`; `now` (epoch s) prefers what is valid."""
    pool = [one for one in dict.fromkeys(others) if one != leaf]
    sent = [leaf]
    while not is_self_signed(sent[-1]):
        issuers = [one for one in pool if one not in sent and is_issued_by(sent[-1], one)]
        if not issuers:
            break
        # A root that another one has signed, too, is sent as that: who knows either can follow.
        sent.append(max(issuers, key=lambda one: (valid(one, now), not is_self_signed(one), one.not_valid_after_utc)))
    complete = is_self_signed(sent[-1])
    path = tuple(sent[:-1]) if complete and len(sent) > 1 else tuple(sent)
    return Chain(path, complete, _strangers(sent, pool))


def is_issued_by(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
        return False
    return True


def is_self_signed(certificate: x509.Certificate) -> bool:
    return is_issued_by(certificate, certificate)


def valid(certificate: x509.Certificate, now: float) -> bool:
    return certificate.not_valid_before_utc.timestamp() <= now < certificate.not_valid_after_utc.timestamp()


def _strangers(path: Sequence[x509.Certificate], pool: Sequence[x509.Certificate]) -> tuple[x509.Certificate, ...]:
    family = list(path)
    for member in family:  # grows
        family += [one for one in pool if one not in family and is_issued_by(member, one)]
    return tuple(one for one in pool if one not in family)
