"""Takes a llama-server that others compiled, out of a release archive."""

from __future__ import annotations

import asyncio
import hashlib
import re
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote, urlsplit

from manager.builds.archive import ENDINGS, Archive, open_archive, unpack
from manager.builds.existing import kept_as
from manager.builds.failure import BuildFailed, Tell
from manager.builds.kept import BINARY_NAME, RPC_NAME, Build, builds_folder
from manager.builds.toolchain import run
from manager.builds.workshop import Model, admit, check_name, workshop
from manager.errors import ConfigError
from manager.settings import Settings

_MB: Final = 10**6
_SHA256: Final = re.compile(r"[0-9a-fA-F]{64}")
# Of `--version`: the second is what it said until 2026.
_NUMBER: Final = (re.compile(r"\(build (\d+), commit"), re.compile(r"^version: (\d+) \(", re.MULTILINE))
_NAMED: Final = re.compile(r"(?:^|[-_.])(b\d{3,6})(?:$|[-_.])")
# The library of each kind of GPU, by which a release says what it is for.
_BACKENDS: Final = (("cuda", "cuda"), ("hip", "rocm"), ("vulkan", "vulkan"), ("metal", "metal"))
_LAST: Final = 5  # lines of what a server says that does not run
_RELEASE: Final = "release"  # in place of a word for the CPU: releases choose among libraries when they start


def install(
    source: str,
    sha256: str | None,
    settings: Settings,
    tell: Tell,
    model: Model | None,
    *,
    name: str | None = None,
    again: bool = False,
) -> Build:
    """The build out of an archive at a URL, or in a file. `sha256` in hex: a must for a URL. Blocks.

    Raises ConfigError for a mistake in the arguments or an archive that is none, BuildFailed where it does not run.
    """
    if name is not None:
        check_name(name)
    if sha256 is not None and not _SHA256.fullmatch(sha256):
        raise ConfigError("--sha256: 64 hexadecimal digits are expected")
    url = urlsplit(source)
    remote = url.scheme in ("http", "https")
    if remote and sha256 is None:
        raise ConfigError("--sha256 is missing: what comes over the network is only run if it is what you expect")
    file_name = unquote(url.path).rpartition("/")[2] if remote else Path(source).name
    folder = builds_folder(settings)
    if remote and name and not again and (there := kept_as(folder, name, {"source_sha256": str(sha256).lower()}, tell)):
        return there
    with workshop(folder) as temporary:
        file = Path(source)
        if remote:
            file = temporary / "archive"
            _fetch(source, file, str(sha256).lower(), settings, tell)
        digest = _digest(file, sha256)
        made = temporary / "made"
        about = _unpack(file, made) | {"source": _shown(source) if remote else source, "source_sha256": digest}
        about["version"] = _version(made / about["binary"], file_name, digest)
        name = check_name(name or f"{about['version']}-{about['backend']}-{_RELEASE}")
        if not again and (there := kept_as(folder, name, {"source_sha256": digest}, tell)):
            return there
        return admit(made, name, about, settings, tell, None if model is None else model())


def _fetch(url: str, target: Path, sha256: str, settings: Settings, tell: Tell) -> None:
    from manager.downloads import fetch

    def progress(done: int, total: int | None) -> None:
        if total:
            tell.progress(done // _MB, max(1, total // _MB))

    tell.say(f"Fetching {_shown(url)} ...")
    asyncio.run(fetch(url, target, settings=settings.hub, sha256=sha256, size=None, headers={}, progress=progress))


def _shown(url: str) -> str:
    """Without a password, and without what signs it."""
    from manager.downloads import plain

    return plain(url)


def _digest(file: Path, sha256: str | None) -> str:
    try:
        with file.open("rb") as content:
            digest = hashlib.file_digest(content, "sha256").hexdigest()
    except OSError as error:
        raise ConfigError(f"{file}: {error.strerror}") from error
    if sha256 is not None and digest != sha256.lower():
        raise ConfigError(f"{file} is not what --sha256 says: its own is {digest}")
    return digest


def _unpack(file: Path, made: Path) -> dict[str, Any]:
    made.mkdir()
    with open_archive(file) as archive:
        binary = _binary(archive, file)
        # All of it: libraries are found by where they lie beside the program.
        unpack(archive, "", made)
    for name in (BINARY_NAME, RPC_NAME):
        program = made / binary.with_name(name)
        if program.is_file():
            program.chmod(0o755)  # a .zip need not say so
    libraries = {path.name for path in (made / binary).parent.iterdir()}
    backend = next((kind for part, kind in _BACKENDS if any(f"ggml-{part}" in name for name in libraries)), "cpu")
    return {"binary": str(binary), "backend": backend, "cpu": _RELEASE, "features": []}


def _binary(archive: Archive, file: Path) -> Path:
    found = [
        member.path for member in archive.members if Path(member.path).name == BINARY_NAME and member.kind == "file"
    ]
    if not found:
        raise ConfigError(
            f"{file} holds no program {BINARY_NAME}: is it a release for this system ({', '.join(ENDINGS)})?"
        )
    return Path(min(found, key=len).removeprefix("./"))


def _version(binary: Path, file_name: str, digest: str) -> str:
    status, told = run(binary, "--version")
    if status != 0 or not told:
        why = "\n".join(["", *told.splitlines()[-_LAST:]])
        raise BuildFailed(f"{BINARY_NAME} of the archive can't be run: is it for another system, or another CPU?{why}")
    number = next((found[1] for pattern in _NUMBER if (found := pattern.search(told))), "0")
    named = _NAMED.search(file_name)
    return f"b{number}" if int(number) else named[1] if named else f"release.{digest[:10]}"
