"""Settings of the front door: address, limits of connections, TLS, and the web pages that may use the API."""

from __future__ import annotations

import ipaddress
import re
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, model_validator

from manager.settings_types import AbsolutePath, Int, Origin, Seconds, Section, Text, lower

_HOST: Final = re.compile(r"(\*\.)?[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?(\.[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?)*")


def _host_name(value: str) -> str:
    value = value.lower()
    try:
        ipaddress.ip_address(value)
    except ValueError:
        if not _HOST.fullmatch(value):
            raise ValueError("must be a host name such as llm.example.org or *.example.org, or an address") from None
    return value


def _network(value: str) -> str:
    try:
        return str(ipaddress.ip_network(value))
    except ValueError:
        raise ValueError("must be an address or a network such as 10.0.0.0/8") from None


HostName = Annotated[str, AfterValidator(_host_name)]
Network = Annotated[str, AfterValidator(_network)]


class ServerSettings(Section):
    host: Text = Field(
        default="127.0.0.1", description="Address to listen on; other than loopback only with a key stored and TLS."
    )
    port: Int = Field(default=8000, ge=0, le=65535, description="Port to listen on; 0 takes a free one.")
    allowed_hosts: list[HostName] = Field(
        default_factory=list,
        description="Names by which the service may be called (Host header); loopback always may. Empty: any name, "
        "where a key is asked for.",
    )
    trusted_proxies: list[Network] = Field(
        default_factory=list,
        description="Addresses of reverse proxies, whose X-Forwarded-For tells who is asking.",
    )
    log_level: Annotated[Literal["debug", "info", "warning", "error", "critical"], BeforeValidator(lower)] = Field(
        default="info", description="Least level of log lines that are kept."
    )
    access_log: bool = Field(default=True, description="Whether every request gets a log line.")
    drain_timeout: Seconds = Field(
        default=30.0,
        description="Seconds that running requests may take to end when a model is unloaded or the service stops.",
    )
    max_body: Int = Field(default=32 * 1024 * 1024, ge=1024, description="Largest request body in bytes.")
    max_connections: Int = Field(
        default=8192, ge=1, description="Most connections at a time; each is an open file (LimitNOFILE)."
    )
    max_connections_per_address: Int = Field(
        default=128,
        ge=1,
        description="Most connections of one IPv4 address or IPv6 network (/56); loopback and trusted_proxies have no "
        "limit.",
    )
    header_timeout: Seconds = Field(default=10.0, description="Seconds that the head of a request may take to come.")
    body_timeout: Seconds = Field(
        default=30.0,
        description="Seconds that the body of a request may take to come, and one more for each 4 KiB of it.",
    )
    write_timeout: Seconds = Field(
        default=60.0, description="Seconds after which a client that takes nothing of its answer is cut off."
    )
    keepalive_timeout: Seconds = Field(
        default=75.0, description="Seconds that a connection stays open without a request."
    )
    dangerously_serve_without_keys: bool = Field(
        default=False, description="Whether everyone who reaches a public address may use the service without a key."
    )
    dangerously_send_keys_in_clear: bool = Field(
        default=False,
        description="Whether keys may travel over plain HTTP on a public address, as behind a proxy that ends TLS.",
    )


class TlsSettings(Section):
    enabled: bool | None = Field(
        default=None, description="Whether to speak HTTPS; left out: where a certificate is named below."
    )
    folder: AbsolutePath = Field(
        default=Path("ssl"), description="Folder of the files below, where they are not set by themselves."
    )
    host: HostName | None = Field(
        default=None,
        description="The host whose files in folder are used: <host>-crt.pem, <host>-key.pem, <host>-chain.pem, or "
        "certbot's fullchain.pem and privkey.pem.",
    )
    certificate: AbsolutePath | None = Field(default=None, description="Certificate (PEM), with or without its chain.")
    private_key: AbsolutePath | None = Field(default=None, description="Private key of the certificate (PEM).")
    chain: AbsolutePath | None = Field(default=None, description="Certificates between it and its root (PEM).")
    passphrase: SecretStr | None = Field(
        default=None, description="Passphrase of the private key; goes before passphrase_file."
    )
    passphrase_file: AbsolutePath | None = Field(default=None, description="File with that passphrase.")
    minimum_version: Literal["1.2", "1.3"] = Field(default="1.2", description="Oldest version of TLS that is spoken.")
    client_ca: AbsolutePath | None = Field(
        default=None, description="Authorities (PEM) whose certificates clients must show; else none is asked for."
    )
    hsts: Int = Field(
        default=15_552_000,
        ge=0,
        description="How long browsers are told to come over HTTPS only, in seconds; 0: they are not told.",
    )
    http_port: Int | None = Field(
        default=None, ge=0, le=65535, description="Port for plain HTTP (80), whose requests are sent to HTTPS."
    )
    public_port: Int | None = Field(
        default=None,
        ge=1,
        le=65535,
        description="Port that clients use for HTTPS, where it is passed on to server.port; for http_port.",
    )
    webroot: AbsolutePath | None = Field(
        default=None,
        description="Folder in which an ACME client puts .well-known/acme-challenge; http_port serves it.",
    )

    @property
    def wanted(self) -> bool:
        """Whether HTTPS is spoken."""
        if self.enabled is not None:
            return self.enabled
        return self.host is not None or self.certificate is not None or self.private_key is not None

    @model_validator(mode="after")
    def _complete(self) -> TlsSettings:
        if (self.certificate is None) != (self.private_key is None):
            raise ValueError("certificate and private_key belong together: set both, or neither")
        if self.chain is not None and self.certificate is None:
            raise ValueError("chain belongs to certificate and private_key, which are not set")
        if not self.wanted:
            for name in ("client_ca", "http_port", "public_port", "webroot", "passphrase", "passphrase_file"):
                if getattr(self, name) is not None:
                    raise ValueError(f"{name} is set, but HTTPS is off: name a certificate, or set enabled")
        for name, use in (("webroot", "served by"), ("public_port", "where clients are sent by")):
            if getattr(self, name) is not None and self.http_port is None:
                raise ValueError(f"{name} is {use} http_port, which is not set")
        return self


class CorsSettings(Section):
    allowed_origins: list[Origin] = Field(
        default_factory=list, description="Origins of web pages that may use the API; '*' is every one."
    )
