"""models.json, changed in place: an entry comes or goes, and every other byte stays as its owner wrote it."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import stat
from collections.abc import Collection, Iterator, Mapping
from itertools import takewhile
from pathlib import Path
from typing import Any, Final, NamedTuple, Protocol

from manager.errors import ConfigError
from manager.key_file import locked
from manager.mistakes import shown
from manager.models_file import FileEntry, read_models_file
from manager.private_file import Place, place_of

LOCK_WITHIN: Final = 10.0  # seconds
_SPACE: Final = " \t\r\n"
_STEP: Final = "  "
_EMPTY: Final = "{}\n"


class NameTaken(ConfigError):
    """The name is another model's already. On the wire a mistake of the request."""

    status = 400
    type = "invalid_request_error"
    code = "name_taken"


class _Member(NamedTuple):
    """A member of the outermost object: `start` is where its name begins, `end` where its value has ended."""

    name: str
    start: int
    end: int


def add_entry(models_file: Path, name: str, entry: Mapping[str, Any]) -> None:
    """Write the entry (JSON, as models.json has it) behind the last one, indented like it. Blocks.

    A missing file is made. Raises NameTaken, and ConfigError where the file is broken, would be with the entry, or
    can't be written: then it is as before.
    """
    with _editing(models_file) as (text, entries):
        owner = owner_of(name, entries)
        if owner is not None:
            raise NameTaken(f"{models_file}: the name {shown(name)} is taken by {owner}", param="name")
        _replace(models_file, text, _with(text or _EMPTY, name, entry))


def remove_entry(models_file: Path, name: str) -> bool:
    """Cut the entry and its comma out; whether there was one. Blocks. Raises ConfigError as add_entry does."""
    with _editing(models_file) as (text, entries):
        if name not in entries:
            return False
        _replace(models_file, text, _without(text, name))
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
def _editing(models_file: Path) -> Iterator[tuple[str, dict[str, FileEntry]]]:
    """The text (empty: there is no file) and its entries, while no other process of ours changes it."""
    with locked(models_file, LOCK_WITHIN):
        text = _text(models_file)
        entries = read_models_file(models_file)
        _check_unchanged(models_file, text)
        yield text, entries


def _text(models_file: Path) -> str:
    """With its byte order mark and line ends; empty where there is no file."""
    try:
        # What is not UTF-8 is for read_models_file to tell.
        return models_file.read_bytes().decode(errors="replace")
    except FileNotFoundError:
        return ""


def _check_unchanged(models_file: Path, text: str) -> None:
    """An editor knows nothing of our lock, and what it saved must not be lost."""
    if _text(models_file) != text:
        raise ConfigError(f"{models_file}: it was changed while we were about to; nothing was written. Try again")


def _members(text: str) -> tuple[int, list[_Member]]:
    """Where the inside of the outermost object begins, and its members in their order. `text` is valid."""
    decoder = json.JSONDecoder()
    inside = at = text.index("{") + 1
    members: list[_Member] = []
    while text[at := _skip(text, at)] != "}":
        start = _skip(text, at + 1) if members else at
        name, colon = decoder.raw_decode(text, start)
        _, at = decoder.raw_decode(text, _skip(text, _skip(text, colon) + 1))
        members.append(_Member(name, start, at))
    return inside, members


def _skip(text: str, at: int) -> int:
    while text[at] in _SPACE:
        at += 1
    return at


def _with(text: str, name: str, entry: Mapping[str, Any]) -> str:
    inside, members = _members(text)
    newline = "\r\n" if "\r\n" in text else "\n"
    if not members:
        at = text.index("}", inside)
        return text[:inside] + f"{newline}{_STEP}{_written(name, entry, newline + _STEP, _STEP)}{newline}" + text[at:]
    last = members[-1]
    before = text[: last.start]
    space = before[len(before.rstrip(_SPACE)) :]
    if "\n" not in space:
        return f"{text[: last.end]}, {_written(name, entry)}{text[last.end :]}"
    indent = space.rpartition("\n")[2]
    return f"{text[: last.end]},{space}{_written(name, entry, newline + indent, indent or _STEP)}{text[last.end :]}"


def _written(name: str, entry: Mapping[str, Any], newline: str = "", step: str | None = None) -> str:
    """The member as JSON: on one line, or indented by `step`, with `newline` at the beginning of each further line."""
    value = json.dumps(entry, indent=step, ensure_ascii=False)
    return f"{json.dumps(name, ensure_ascii=False)}: {value.replace(chr(10), newline)}"


def _without(text: str, name: str) -> str:
    inside, members = _members(text)
    number = sum(1 for _ in takewhile(lambda member: member.name != name, members))
    member = members[number]
    if len(members) == 1:
        return text[:inside] + text[text.index("}", member.end) :]
    if number == len(members) - 1:
        return text[: members[-2].end] + text[member.end :]
    return text[: member.start] + text[members[number + 1].start :]


def _replace(models_file: Path, old: str, new: str) -> None:
    """Put the new text in place of the old one, once it is whole on the disk and has been read without a mistake."""
    with place_of(models_file) as place:  # where the name is a link, the link stays
        temporary = f".{place.name}-{secrets.token_hex(8)}"
        try:
            with os.fdopen(_create(place, temporary), "wb") as file:
                file.write(new.encode(errors="backslashreplace"))  # half a character becomes its escape
                file.flush()
                os.fsync(file.fileno())
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
    except ConfigError as error:
        raise ConfigError(error.message.replace(str(written), str(models_file))) from None
