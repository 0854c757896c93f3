"""The context that the service listens with: one object for its life, behind which the certificate changes."""

from __future__ import annotations

import logging
import ssl
import tempfile
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from manager.errors import ConfigError
from manager.settings_server import TlsSettings
from manager.tls import files as on_disk
from manager.tls.asking import AskingContext

if TYPE_CHECKING:
    from manager.tls.check import Checked

logger = logging.getLogger(__name__)

# What TLS 1.2 may use; 1.3 has nothing else. Forward secrecy, and no CBC, whose padding has told too much before.
CIPHERS: Final = "ECDHE+AESGCM:ECDHE+CHACHA20"
VERSIONS: Final = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}


class ServerTls:
    """The certificate of the service, read and checked. Raises ConfigError with everything that is wrong.

    `context` stays the same: sockets listen with it, and each handshake takes the newest certificate. Connections
    that are open keep theirs. `clock` tells the seconds since the epoch.
    """

    def __init__(self, settings: TlsSettings, clock: Callable[[], float] = time.time) -> None:
        self._settings = settings
        self._clock = clock
        self._lock = threading.Lock()
        self._checked = _checked(settings, clock())
        self._newest = make_context(settings, self._checked)
        if settings.client_ca is None:
            self.context = self._newest
            self.context.sni_callback = self._use_newest
        else:
            self.context = AskingContext(self._bare, lambda: self._newest)

    @property
    def names(self) -> tuple[str, ...]:
        """The host names and addresses of the certificate."""
        return self._checked.names

    @property
    def expires(self) -> float:
        """When the certificate, or one of its chain, is over: seconds since the epoch."""
        return self._checked.chain.expires

    def reload(self) -> None:
        """Read the files again. Raises ConfigError where they are not right; then the old ones stay."""
        with self._lock:
            self._reload()

    def reload_if_changed(self) -> bool:
        """Read the files again where one is not what was read; whether that was so. Raises ConfigError as reload()."""
        with self._lock:
            if on_disk.versions(on_disk.find(self._settings)) == self._checked.seen:
                return False
            self._reload()
            return True

    def _reload(self) -> None:
        checked = _checked(self._settings, self._clock())
        self._newest = make_context(self._settings, checked)
        self._checked = checked

    def _bare(self) -> ssl.SSLContext:
        context = bare_context(self._settings)
        context.sni_callback = self._use_newest
        return context

    def _use_newest(
        self, connection: ssl.SSLSocket | ssl.SSLObject, _name: str | None, _context: ssl.SSLContext
    ) -> None:
        """Called in every handshake, also where the client names no host."""
        # OpenSSL takes certificate, key, client authorities and ALPN from the context set here, and versions, ciphers,
        # options and whether a client must show a certificate from the one that listens: both are made alike.
        connection.context = self._newest


def make_context(settings: TlsSettings, checked: Checked) -> ssl.SSLContext:
    """Raises ConfigError where OpenSSL refuses what was found right."""
    from manager.tls import pem

    context = bare_context(settings)
    try:
        _load_certificate(context, settings, checked)
        if checked.clients:
            context.load_verify_locations(cadata=pem.as_pem(checked.clients).decode())
    except OSError as error:  # an SSLError is one
        reason = getattr(error, "reason", None) or error.strerror or error
        raise ConfigError(f"{', '.join(map(str, checked.files))}: can't be loaded: {reason}.") from None
    return context


def bare_context(settings: TlsSettings) -> ssl.SSLContext:
    """Everything but certificates."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = VERSIONS[settings.minimum_version]
    context.set_ciphers(CIPHERS)
    context.set_alpn_protocols(["http/1.1"])
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
    if settings.client_ca is not None:
        context.verify_mode = ssl.CERT_REQUIRED
        # An authority below a root may be the one that is trusted.
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        # Who resumes a session shows no certificate.
        context.options |= ssl.OP_NO_TICKET
        context.num_tickets = 0
    return context


def _load_certificate(context: ssl.SSLContext, settings: TlsSettings, checked: Checked) -> None:
    from manager.tls import pem

    passphrase = on_disk.passphrase(settings)
    # OpenSSL reads from files only. The sorted chain is public; the key is read where it lies.
    with tempfile.NamedTemporaryFile(suffix=".pem") as chain:
        chain.write(pem.as_pem(checked.chain.sent))
        chain.flush()
        # Never without a passphrase: OpenSSL would ask for it on the terminal.
        context.load_cert_chain(chain.name, checked.files.private_key, lambda: passphrase or b"")


def _checked(settings: TlsSettings, now: float) -> Checked:
    from manager.tls.check import examine

    report = examine(settings, now)
    checked = report.checked()
    for warning in report.warnings:
        logger.warning("%s", warning)
    return checked
