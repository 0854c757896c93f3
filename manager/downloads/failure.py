"""Why a download failed, and what is tried again."""

from __future__ import annotations

from yarl import URL

from manager.errors import HerdError


class DownloadFailed(HerdError):
    """A file could not be had. `answered`: the HTTP status that the server gave, where that is the reason.

    `elsewhere`: whether another server with the same file may do better.
    """

    status = 502
    type = "upstream_error"
    code = "download_failed"

    def __init__(self, message: str, *, answered: int | None = None, elsewhere: bool = False) -> None:
        super().__init__(message)
        self.answered = answered
        self.elsewhere = elsewhere


class NoRoom(DownloadFailed):
    """The disk has too little room for it."""

    status = 507
    type = "server_error"
    code = "no_room"


class Broken(Exception):
    """Something that may pass: it is tried again. `asked`: seconds that the server wants us to wait.

    `unreached`: nobody was there, be it that the name is unknown or the connection was refused.
    """

    def __init__(
        self, says: str, *, answered: int | None = None, asked: float | None = None, unreached: bool = False
    ) -> None:
        super().__init__(says)
        self.says = says
        self.answered = answered
        self.asked = asked
        self.unreached = unreached


def plain(url: URL | str) -> str:
    """An address as a message or a file may have it: without user, password, and what signs it."""
    try:
        return str(URL(url).with_user(None).with_query(None).with_fragment(None))
    except ValueError:  # it is none
        return str(url).partition("?")[0].rpartition("@")[2]
