"""models.json, changed in place: an entry comes or goes, and every other byte stays as its owner wrote it."""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, Protocol

from manager.errors import ConfigError
from manager.json_text import outermost, with_member, without_member
from manager.key_file import locked
from manager.mistakes import Mistakes, shown
from manager.models_file import FileEntry, read_models_file
from manager.private_file import Place, place_of

LOCK_WITHIN: Final = 10.0  # seconds
EMPTY: Final = "{}\n"  # a file without entries


class NameTaken(ConfigError):
    """The name is another model's already. On the wire a mistake of the request."""

    status = 400
    type = "invalid_request_error"
    code = "name_taken"


class FileChanged(ConfigError):
    """The file is not the one any more that was to be changed."""

    status = 409
    type = "invalid_request_error"
    code = "models_file_changed"


class NotWritten(ConfigError):
    """The file can't be written, or another process keeps it for itself. It is as before."""

    status = 409
    code = "models_file_not_written"


def add_entry(models_file: Path, name: str, entry: Mapping[str, Any]) -> None:
    """Write the entry (JSON, as models.json has it) behind the last one, indented like it. Blocks.

    A missing file is made. Raises NameTaken, and ConfigError where the file is broken, would be with the entry, or
    can't be written: then it is as before.
    """
    with editing(models_file) as (text, entries):
        owner = owner_of(name, entries)
        if owner is not None:
            raise NameTaken(f"{models_file}: the name {shown(name)} is taken by {owner}", param="name")
        text_with = text or EMPTY
        replace_text(models_file, text, with_member(text_with, outermost(text_with), name, entry))


def remove_entry(models_file: Path, name: str) -> bool:
    """Cut the entry and its comma out; whether there was one. Blocks. Raises ConfigError as add_entry does."""
    with editing(models_file) as (text, entries):
        if name not in entries:
            return False
        replace_text(models_file, text, without_member(text, outermost(text), name))
    return True


class _Named(Protocol):
    """What an entry is asked for by, beside its name: an entry of the file, or of the catalog."""

    @property
    def aliases(self) -> Collection[str]: ...
    @property
    def profiles(self) -> Collection[str]: ...
    @property
    def personalities(self) -> Collection[str]: ...


def owner_of(name: str, entries: Mapping[str, _Named]) -> str | None:
    """What has the name already, in words; None where it is free. `entries` by their names."""
    for known, entry in entries.items():
        names = (known, *entry.aliases)
        if name == known:
            return f"the entry {shown(known)}"
        if name in entry.aliases:
            return f"an alias of the entry {shown(known)}"
        if name in {f"{used}:{profile}" for used in names for profile in entry.profiles}:
            return f"a profile of the entry {shown(known)}"
        if name in {f"{used}:{personality}" for used in names for personality in entry.personalities}:
            return f"a personality of the entry {shown(known)}"
    return None


@contextlib.contextmanager
def editing(models_file: Path) -> Iterator[tuple[str, dict[str, FileEntry]]]:
    """The text (empty: there is no file) and its entries, while no other process of ours changes it. Blocks.

    Raises Mistakes where the file is broken, else NotWritten and FileChanged.
    """
    with locked_file(models_file):
        text = written_text(models_file)
        entries = read_models_file(models_file)
        _check_unchanged(models_file, text)
        yield text, entries


@contextlib.contextmanager
def locked_file(models_file: Path) -> Iterator[None]:
    """No other process of ours changes the file meanwhile. Blocks. Raises NotWritten, also for every OSError in it."""
    try:
        with locked(models_file, LOCK_WITHIN):
            yield
    except ConfigError as error:
        if type(error) is ConfigError:
            raise NotWritten(error.message) from error
        raise


def written_text(models_file: Path) -> str:
    """With its byte order mark and line ends; empty where there is no file. Raises OSError."""
    try:
        # What is not UTF-8 is for read_models_file to tell.
        return models_file.read_bytes().decode(errors="replace")
    except FileNotFoundError:
        return ""


def _check_unchanged(models_file: Path, text: str) -> None:
    """An editor knows nothing of our lock, and what it saved must not be lost."""
    if written_text(models_file) != text:
        raise FileChanged(f"{models_file}: it was changed while we were about to; nothing was written. Try again")


def replace_text(models_file: Path, old: str, new: str, *, judged: bool = False) -> None:
    """Put the new text in place of the old one, once it is whole on the disk and has been read without a mistake.

    What was `judged` is not read again. The caller holds the lock. Raises Mistakes, FileChanged, OSError.
    """
    with place_of(models_file) as place:  # where the name is a link, the link stays
        temporary = f".{place.name}-{secrets.token_hex(8)}"
        try:
            with os.fdopen(_create(place, temporary), "wb") as file:
                file.write(new.encode(errors="backslashreplace"))  # half a character becomes its escape
                file.flush()
                os.fsync(file.fileno())
            if not judged:
                _check(models_file, Path(os.path.realpath(models_file)).with_name(temporary))
            _check_unchanged(models_file, old)
            os.replace(temporary, place.name, src_dir_fd=place.folder, dst_dir_fd=place.folder)
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary, dir_fd=place.folder)
            raise


def _create(place: Place, name: str) -> int:
    """A descriptor of a new file with the mode and the owner of the old one, or as the umask and the folder have it."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
    handle = os.open(name, flags, 0o666, dir_fd=place.folder)
    old = place.status()
    like = old or os.fstat(place.folder)
    if os.geteuid() == 0:
        os.fchown(handle, like.st_uid, like.st_gid)
    if old is not None:
        os.fchmod(handle, stat.S_IMODE(old.st_mode))
    return handle


def _check(models_file: Path, written: Path) -> None:
    try:
        read_models_file(written)
    except Mistakes as error:
        raise Mistakes(replace(mistake, file=models_file) for mistake in error.mistakes) from None
