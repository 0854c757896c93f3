"""Whether the files of a certificate are right: what would end handshakes is found before the first one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes

from manager.errors import ConfigError
from manager.settings_server import TlsSettings
from manager.tls import certificate_checks as checks
from manager.tls import files as on_disk
from manager.tls import pem
from manager.tls.chain import Chain, order, valid
from manager.tls.files import Files, Versions

# What the parser raises where a part of a certificate makes no sense, each when that part is looked at.
MALFORMED: Final = (ValueError, UnsupportedAlgorithm, x509.DuplicateExtension, x509.UnsupportedGeneralNameType)


@dataclass(frozen=True, slots=True)
class Checked:
    """Files that are right, and what is in them; `seen` is their version from before they were read."""

    files: Files
    seen: Versions
    chain: Chain
    clients: tuple[x509.Certificate, ...]

    @property
    def names(self) -> tuple[str, ...]:
        return checks.names_of(self.chain.sent[0])


@dataclass(slots=True)
class Report:
    """What the files hold, as far as it could be read, and what is wrong with it.

    An error ends the start, a warning does not. `clients` are the authorities of client certificates.
    """

    files: Files | None = None
    seen: Versions = ()
    chain: Chain | None = None
    clients: tuple[x509.Certificate, ...] = ()
    errors: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    @property
    def names(self) -> tuple[str, ...]:
        """The host names and addresses of the certificate, none where it could not be read."""
        return () if self.chain is None else checks.names_of(self.chain.sent[0])

    def checked(self) -> Checked:
        """Raises ConfigError with all errors."""
        if self.errors or self.files is None or self.chain is None:
            raise ConfigError("\n".join(self.errors))
        return Checked(self.files, self.seen, self.chain, self.clients)


def examine(settings: TlsSettings, now: float) -> Report:
    """Find, read and check every file; `now` is in seconds since the epoch. Whatever is wrong is in the report."""
    report = Report()
    try:
        report.files = on_disk.find(settings)
        report.seen = on_disk.versions(report.files)
        _examine_own(report, report.files, settings, now)
    except ConfigError as error:
        report.errors.append(error.message)
    try:
        _examine_clients(report, settings, now)
    except ConfigError as error:
        report.errors.append(error.message)
    return report


def _examine_own(report: Report, files: Files, settings: TlsSettings, now: float) -> None:
    report.warnings += _open_files(files)
    key = _private_key(report, files, settings)
    own = pem.certificates(on_disk.read(files.certificate, "certificate"), files.certificate, "certificate")
    others = []
    if files.chain is not None:
        others = pem.certificates(on_disk.read(files.chain, "chain"), files.chain, "chain")
    try:
        leaf = _leaf(key, own, others, files)
        chain = order(leaf, [*own, *others], now)
        report.errors += _chain_errors(chain, set(own), files, now)
        report.warnings += _chain_warnings(chain, files)
        report.errors += _host_errors(leaf, files, settings)
    except MALFORMED as error:
        raise ConfigError(f"{files.certificate}: a part of the certificates can't be understood: {error}.") from None
    report.chain = chain


def _private_key(report: Report, files: Files, settings: TlsSettings) -> PrivateKeyTypes:
    passphrase = on_disk.passphrase(settings)
    text = on_disk.read(files.private_key, "private key")
    key = pem.private_key(text, files.private_key, passphrase)
    if passphrase is not None and not pem.encrypted(text):
        report.warnings.append(f"{files.private_key}: the private key is not encrypted; tls.passphrase is of no use.")
    return key


def _open_files(files: Files) -> Iterator[str]:
    for path in (files.private_key, files.passphrase_file):
        if path is not None and on_disk.open_to_others(path):
            yield f"{path}: every user of this machine can read it: chmod 600 {path}"


def _leaf(
    key: PrivateKeyTypes, own: list[x509.Certificate], others: list[x509.Certificate], files: Files
) -> x509.Certificate:
    """The certificate of the private key. Raises ConfigError, which says which file is another key's."""
    fitting = next((one for one in own if _fits(one, key)), None)
    if fitting is not None:
        return fitting
    if any(_fits(one, key) for one in others):
        raise ConfigError(
            f"{files.certificate} belongs to another key than {files.private_key}, whose certificate is in "
            f"{files.chain}: was one of them renewed alone? Copy all of them from the same issue."
        )
    raise ConfigError(
        f"{files.private_key} is the key of another certificate: {files.certificate} is for {pem.title(own[0])} "
        f"({', '.join(checks.names_of(own[0])) or 'no names'}), issued {checks.shown(own[0].not_valid_before_utc)}, "
        "and has another public key. Copy both from the same issue."
    )


def _fits(certificate: x509.Certificate, key: PrivateKeyTypes) -> bool:
    try:
        return certificate.public_key() == key.public_key()
    except UnsupportedAlgorithm:
        return False


def _chain_errors(chain: Chain, own: set[x509.Certificate], files: Files, now: float) -> Iterator[str]:
    for place, one in enumerate(chain.sent):
        where = files.certificate if one in own or files.chain is None else files.chain
        faults = [*checks.wrong_dates(one, now), *checks.weak_key(one), *checks.weak_signature(one)]
        if place == 0:
            faults += checks.wrong_purpose(one)
        elif not checks.is_authority(one):
            faults.append("it has signed another one and is no authority's (basic constraints).")
        yield from (f"{where}: {pem.title(one)}: {fault}" for fault in faults)
    for one in chain.strangers:
        where = files.certificate if one in own or files.chain is None else files.chain
        yield (
            f"{where}: {pem.title(one)} does not belong to the chain of {pem.title(chain.sent[0])}: take it out, "
            "or take the chain that came with the certificate."
        )


def _chain_warnings(chain: Chain, files: Files) -> Iterator[str]:
    leaf = chain.sent[0]
    if not checks.names_of(leaf):
        yield (
            f"{files.certificate}: {pem.title(leaf)} has no names (subject alternative names): clients of today refuse "
            "it; have it issued with them."
        )
    if checks.is_authority(leaf):
        yield f"{files.certificate}: {pem.title(leaf)} is an authority's own certificate, which some browsers refuse."
    if len(chain.sent) == 1 and not chain.complete:
        yield (
            f"{files.certificate}: the certificate of its issuer {leaf.issuer.rfc4514_string()} is missing: most "
            "clients will not find it by themselves. Put it into the chain file (tls.chain), or behind the certificate."
        )


def _host_errors(leaf: x509.Certificate, files: Files, settings: TlsSettings) -> Iterator[str]:
    names = checks.names_of(leaf)
    if settings.host is not None and not checks.covers(names, settings.host):
        yield (
            f"{files.certificate} is not for tls.host, which is {settings.host}: it is for "
            f"{', '.join(names) or 'no name'}. Set another host, or have a certificate issued for this one."
        )


def _examine_clients(report: Report, settings: TlsSettings, now: float) -> None:
    path = settings.client_ca
    if path is None:
        return
    what = "tls.client_ca"
    authorities = pem.certificates(on_disk.read(path, what), path, what)
    try:
        for one in authorities:
            if not checks.is_authority(one):
                report.errors.append(
                    f"{path} ({what}): {pem.title(one)} is no authority's (basic constraints): take it out."
                )
            report.errors += (f"{path} ({what}): {pem.title(one)}: {fault}" for fault in checks.weak_key(one))
            report.warnings += (f"{path} ({what}): {pem.title(one)}: {fault}" for fault in checks.wrong_dates(one, now))
        if not any(valid(one, now) for one in authorities):
            report.errors.append(f"{path} ({what}): none of its certificates is valid now: no client could come in.")
    except MALFORMED as error:
        raise ConfigError(f"{path} ({what}): a part of the certificates can't be understood: {error}.") from None
    report.clients = tuple(authorities)
