"""One file over HTTP into one place, to be trusted: resumed where it broke off, checked, and whole or not there."""

from manager.downloads.answers import judge
from manager.downloads.client import Client
from manager.downloads.failure import Broken, DownloadFailed, NoRoom, plain
from manager.downloads.fetch import Fetched, fetch
from manager.downloads.part import check_room, disk_errors
from manager.downloads.patience import Patience, Tries
from manager.downloads.progress import Meter, Note, Progress

__all__ = [
    "Broken",
    "Client",
    "DownloadFailed",
    "Fetched",
    "Meter",
    "NoRoom",
    "Note",
    "Patience",
    "Progress",
    "Tries",
    "check_room",
    "disk_errors",
    "fetch",
    "judge",
    "plain",
]
