"""Which files hold the certificate, its key and its chain, under the names that ACME clients give them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeAlias

from manager.errors import ConfigError
from manager.settings_server import TlsSettings

# The certificate goes to whoever asks, but its key must not.
OTHERS: Final = 0o007

Version: TypeAlias = tuple[int, int, int]
Versions: TypeAlias = tuple[Version | None, ...]


@dataclass(frozen=True, slots=True)
class Files:
    """Where things are; None is what there is not. `chain` may hold the certificate, too, or its root."""

    certificate: Path
    private_key: Path
    chain: Path | None = None
    client_ca: Path | None = None
    passphrase_file: Path | None = None

    def __iter__(self) -> Iterator[Path]:
        every = (self.certificate, self.private_key, self.chain, self.client_ca, self.passphrase_file)
        return (path for path in every if path is not None)


def find(settings: TlsSettings) -> Files:
    """Raises ConfigError that lists what was looked for."""
    if settings.certificate is not None and settings.private_key is not None:
        own = Files(settings.certificate, settings.private_key, settings.chain)
    elif settings.host is not None:
        own = _of_host(settings.folder, settings.host)
    else:
        own = _only_one(settings.folder)
    return Files(own.certificate, own.private_key, own.chain, settings.client_ca, settings.passphrase_file)


def stem(host: str) -> str:
    """How a host is called in names of files: `*` is `_`, as win-acme has it."""
    return host.replace("*", "_")


def read(path: Path, what: str) -> bytes:
    """Raises ConfigError with the file, and what should be in it."""
    try:
        return path.read_bytes()
    except OSError as error:
        hint = " Give the service's user the right to read it." if isinstance(error, PermissionError) else ""
        raise ConfigError(f"{path} ({what}): can't read: {error.strerror or error}.{hint}") from None


def passphrase(settings: TlsSettings) -> bytes | None:
    """Raises ConfigError where its file can't be read."""
    if settings.passphrase is not None:
        given = settings.passphrase.get_secret_value().encode()
    elif settings.passphrase_file is not None:
        given = read(settings.passphrase_file, "passphrase").rstrip(b"\r\n")
    else:
        given = b""
    return given or None


def open_to_others(path: Path) -> bool:
    """Whether every user of this machine can read or change a file. False where it can't be looked at."""
    try:
        return bool(path.stat().st_mode & OTHERS)
    except OSError:
        return False


def versions(files: Files) -> Versions:
    """What differs once a file was written or replaced, behind links too; None is a file that is missing."""
    return tuple(map(_version, files))


def _version(path: Path) -> Version | None:
    try:
        stat = path.stat()
    except OSError:  # reading it says what is wrong
        return None
    return stat.st_ino, stat.st_mtime_ns, stat.st_size


def _of_host(folder: Path, host: str) -> Files:
    # certbot keeps *.example.org in a folder example.org.
    lineage = folder / host.removeprefix("*.")
    sets = (*_win_acme(folder, stem(host)), *_certbot(lineage), *_certbot(folder))
    for files in sets:
        if _is_file(files.certificate) and _is_file(files.private_key):
            return files
    looked = dict.fromkeys(path for files in sets for path in (files.certificate, files.private_key))
    listed = "\n".join(f"  {path}{' (there)' if _is_file(path) else ''}" for path in looked)
    raise ConfigError(
        f"tls.host is {host}, and no certificate and key of it are in {folder}; looked for:\n{listed}\n"
        "Put them there, set tls.certificate and tls.private_key, or make them: llamaherd tls self-signed " + host
    )


def _only_one(folder: Path) -> Files:
    found = dict(_hosts(folder))
    if len(found) == 1:
        return next(iter(found.values()))
    if not found:
        raise ConfigError(
            f"tls.enabled is on, and no certificate is in {folder}; looked for <host>-crt.pem with <host>-key.pem, and "
            "fullchain.pem with privkey.pem there and in its folders. Set tls.host, or tls.certificate and "
            "tls.private_key, or make them: llamaherd tls self-signed HOST"
        )
    raise ConfigError(
        f"tls.enabled is on, and several certificates are in {folder}: {', '.join(found)}. "
        "Set tls.host to the one to use."
    )


def _hosts(folder: Path) -> Iterator[tuple[str, Files]]:
    """Every certificate of the folder, by the name to show. Raises ConfigError."""
    try:
        inside = sorted(folder.iterdir())
    except FileNotFoundError:
        return
    except OSError as error:
        raise ConfigError(f"{folder} (tls.folder): can't read: {error.strerror or error}.") from None
    for path in inside:
        if path.name.endswith("-key.pem"):
            name = path.name.removesuffix("-key.pem")
            sets = _win_acme(folder, name)
        elif path.name == "privkey.pem":
            name, sets = path.name, _certbot(folder)
        elif _is_file(path / "privkey.pem"):
            name, sets = path.name, _certbot(path)
        else:
            continue
        whole = next((files for files in sets if _is_file(files.certificate)), None)
        if whole is not None:
            yield name, whole


def _win_acme(folder: Path, name: str) -> Iterator[Files]:
    chains = (folder / f"{name}-chain.pem", folder / f"{name}-chain-only.pem")
    chain = next(filter(_is_file, chains), None)
    yield Files(folder / f"{name}-crt.pem", folder / f"{name}-key.pem", chain)


def _certbot(folder: Path) -> Iterator[Files]:
    key = folder / "privkey.pem"
    yield Files(folder / "fullchain.pem", key)
    chain = folder / "chain.pem"
    yield Files(folder / "cert.pem", key, chain if _is_file(chain) else None)


def _is_file(path: Path) -> bool:
    """Raises ConfigError where the folder is closed to this user."""
    try:
        return path.is_file()
    except OSError as error:
        raise ConfigError(
            f"{path}: can't look at it: {error.strerror or error}. "
            "Give the service's user the right to enter its folder."
        ) from None
