"""`llamaherd tls`: look whether the certificate is right, and make certificates for a local network."""

from __future__ import annotations

import json
import re
import shlex
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from manager.cli.options import ConfigOption, JsonOption, settings_from

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cryptography import x509

    from manager.tls.authority import Authority, Issued
    from manager.tls.check import Report

app = typer.Typer(help="Check the certificate, and make ones for a local network.", no_args_is_help=True)

# Longer, and some clients refuse it: Apple's more than 825 days, even of an authority of one's own.
MOST_DAYS: Final = 825
NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")

FolderOption = Annotated[
    Path | None, typer.Option(metavar="FOLDER", help="Where the files go. [default: the setting tls.folder]")
]
DaysOption = Annotated[int, typer.Option(min=1, max=MOST_DAYS, help="How long it is valid.")]
ForceOption = Annotated[bool, typer.Option("--force", help="Replace the files that are there.")]


@app.command()
def check(config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Look whether the files of the settings are right. Exit 0: HTTPS can be spoken; 1: it can't."""
    settings = settings_from(config, {}).tls
    if not settings.wanted:
        typer.echo("HTTPS is off: set tls.host, or tls.certificate and tls.private_key, or tls.enabled.", err=True)
        raise typer.Exit(1)
    from manager.tls.check import examine
    from manager.tls.context import make_context
    from manager.tls.renewal import soon_over

    now = datetime.now(UTC).timestamp()
    report = examine(settings, now)
    if not report.errors:
        from manager.errors import ConfigError

        try:
            make_context(settings, report.checked())
        except ConfigError as error:
            report.errors.append(error.message)
    if report.chain is not None and not report.errors and (warning := soon_over(report.chain.expires, now)):
        report.warnings.append(warning)
    if as_json:
        typer.echo(json.dumps(_as_json(report), indent=2, ensure_ascii=False))
    else:
        for line in _lines(report):
            typer.echo(line)
    raise typer.Exit(1 if report.errors else 0)


@app.command("self-signed")
def self_signed(
    hosts: Annotated[list[str], typer.Argument(metavar="HOST...", help="Names and addresses, wildcards too.")],
    folder: FolderOption = None,
    days: DaysOption = 397,
    force: ForceOption = False,
    config: ConfigOption = None,
) -> None:
    """Make a certificate by a local authority, which is made, too, where the folder has none."""
    from manager.tls.authority import Authority

    names = list(map(_host, hosts))
    authority = Authority(_folder(folder, config), datetime.now(UTC))
    issued = authority.issue_server(names, days, replace=force)
    _say_made(authority, issued)
    typer.echo(_how_to_use(authority, issued, names[0]))


@app.command()
def client(
    name: Annotated[str, typer.Argument(help="Whose certificate it is.")],
    folder: FolderOption = None,
    days: DaysOption = 397,
    force: ForceOption = False,
    config: ConfigOption = None,
) -> None:
    """Make a certificate that a client shows, by the same authority."""
    if not NAME.fullmatch(name):
        raise typer.BadParameter(f"{name!r}: letters, digits, dots, hyphens and underscores make a name.")
    from manager.tls.authority import Authority

    authority = Authority(_folder(folder, config), datetime.now(UTC))
    issued = authority.issue_client(name, days, replace=force)
    _say_made(authority, issued)
    typer.echo(
        f"\nAsk every client for a certificate of this authority with this setting:\n\n"
        f"  tls.client_ca: {authority.path}\n\n"
        f"A client shows it so: curl --cert {_quoted(issued.certificate)} --key {_quoted(issued.private_key)} ..."
    )


def _host(text: str) -> str:
    from pydantic import TypeAdapter, ValidationError

    from manager.settings_server import HostName

    try:
        return TypeAdapter[str](HostName).validate_python(text)
    except ValidationError:
        raise typer.BadParameter(
            f"{text!r} is no host: write a name such as llm.example.org or *.example.org, or an address."
        ) from None


def _folder(folder: Path | None, config: Path | None) -> Path:
    return settings_from(config, {"tls": {"folder": folder}}).tls.folder


def _say_made(authority: Authority, issued: Issued) -> None:
    typer.echo(f"{'Made' if authority.made else 'Used'} the local authority {authority.path}")
    typer.echo(f"Made {issued.certificate}, valid until {issued.expires:%Y-%m-%d}")
    typer.echo(f"     {issued.private_key}\n     {issued.chain}")


def _how_to_use(authority: Authority, issued: Issued, host: str) -> str:
    ca = _quoted(authority.path)
    target = "/usr/local/share/ca-certificates/llamaherd-ca.crt"
    return f"""
Settings for the service:

  tls.folder: {issued.certificate.parent}
  tls.host: "{host}"

Clients must know the authority. Copy {authority.path.name} to them, never {authority.path.stem}-key.pem. Then:

  curl                          curl --cacert {ca} https://...
  Python (openai, httpx)        SSL_CERT_FILE={ca}
  Node.js                       NODE_EXTRA_CA_CERTS={ca}
  Debian, Ubuntu                sudo cp {ca} {target} && sudo update-ca-certificates
  Firefox                       Settings, Certificates, Authorities, Import
  Chrome, Edge                  Settings, Security, Manage certificates; on Windows and macOS those of the system

When it ends: the same command with --force. A running service takes the new one by itself."""


def _quoted(path: Path) -> str:
    return shlex.quote(str(path))


def _as_json(report: Report) -> dict[str, Any]:
    files = report.files
    names = ("certificate", "private_key", "chain", "client_ca", "passphrase_file")
    paths = {name: None if files is None else getattr(files, name) for name in names}
    chain = () if report.chain is None else report.chain.sent
    return {
        "files": {name: None if path is None else str(path) for name, path in paths.items()},
        "names": list(report.names),
        "expires": None if report.chain is None else _iso(datetime.fromtimestamp(report.chain.expires, UTC)),
        "chain": [_described(one) for one in chain],
        "client_authorities": [_described(one) for one in report.clients],
        "errors": report.errors,
        "warnings": report.warnings,
    }


def _described(certificate: x509.Certificate) -> dict[str, str]:
    from cryptography.hazmat.primitives.hashes import SHA256

    return {
        "subject": certificate.subject.rfc4514_string(),
        "issuer": certificate.issuer.rfc4514_string(),
        "not_before": _iso(certificate.not_valid_before_utc),
        "not_after": _iso(certificate.not_valid_after_utc),
        "sha256": certificate.fingerprint(SHA256()).hex(),
    }


def _lines(report: Report) -> Iterator[str]:
    facts = _as_json(report)
    for name, path in facts["files"].items():
        if path is not None:
            yield f"{name.replace('_', ' ') + ':':<17}{path}"
    if report.chain is not None:
        yield f"{'names:':<17}{', '.join(report.names) or 'none'}"
        for place, one in enumerate(facts["chain"]):
            yield f"{'chain:' if place == 0 else '':<17}{one['subject'] or '(no subject)'}"
            yield f"{'':<17}  by {one['issuer']}, {one['not_before']} to {one['not_after']}"
    for one in facts["client_authorities"]:
        yield f"{'clients by:':<17}{one['subject']}, until {one['not_after']}"
    yield from (f"warning: {text}" for text in report.warnings)
    yield from (f"error: {text}" for text in report.errors)
    if not report.errors:
        yield "HTTPS can be spoken."


def _iso(when: datetime) -> str:
    return when.strftime("%Y-%m-%dT%H:%M:%SZ")
