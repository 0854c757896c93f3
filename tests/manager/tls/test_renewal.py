from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager

import pytest

from manager.tls import ServerTls, follow
from manager.tls.renewal import DAY, soon_over
from tests.manager.tls.pki import Folder, Issued, issue, write

EVERY = 0.001


@pytest.fixture
def tls(folder: Folder, root: Issued) -> ServerTls:
    folder.put(issue("llm.test", root), root)
    return ServerTls(folder.settings())


class Looks:
    """Counts how often the files were looked at, and tells when it is enough."""

    def __init__(self, tls: ServerTls, monkeypatch: pytest.MonkeyPatch) -> None:
        self._loop = asyncio.get_running_loop()
        self._look = tls.reload_if_changed
        self._looked: asyncio.Queue[None] = asyncio.Queue()
        monkeypatch.setattr(tls, "reload_if_changed", self._counted)

    def _counted(self) -> bool:
        try:
            return self._look()
        finally:
            self._loop.call_soon_threadsafe(self._looked.put_nowait, None)

    async def more(self) -> None:
        """Until what happened before this call has been looked at, and the one after it has begun."""
        while not self._looked.empty():
            self._looked.get_nowait()
        for _ in range(3):  # the first may have begun before; with the third the second is over
            await self._looked.get()


@asynccontextmanager
async def following(work: Awaitable[None]) -> AsyncIterator[None]:
    task = asyncio.ensure_future(work)
    yield
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


def logged(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [f"{record.levelname} {record.getMessage()}" for record in caplog.records if record.name.endswith("renewal")]


async def test_renewed_files_are_read_again_and_a_refusal_is_logged_once(
    tls: ServerTls, folder: Folder, root: Issued, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    renewed = issue("llm.test", root, ends=200)
    looks = Looks(tls, monkeypatch)
    async with following(follow(tls, EVERY)):
        await looks.more()
        assert logged(caplog) == []
        write(folder.key, renewed.key_pem, 0o600)
        await looks.more()
        await looks.more()
        refused = logged(caplog)
        assert len(refused) == 1
        assert refused[0].startswith(f"ERROR certificate not read again, the old one stays: {folder.key} is the key of")
        write(folder.certificate, renewed.pem)
        await looks.more()
        assert tls.expires == renewed.certificate.not_valid_after_utc.timestamp()
        until = f"{renewed.certificate.not_valid_after_utc:%Y-%m-%d %H:%M} UTC"
        assert logged(caplog)[1:] == [f"INFO certificate read again names=llm.test expires={until}"]
        write(folder.key, issue("llm.test", root).key_pem, 0o600)
        await looks.more()
        assert len(logged(caplog)) == 3  # the same refusal, but a new one


async def test_end_is_told_of_once_a_day_from_two_weeks_before(
    tls: ServerTls, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    now = tls.expires - 14.1 * DAY
    looks = Looks(tls, monkeypatch)
    async with following(follow(tls, EVERY, lambda: now)):
        await looks.more()
        assert logged(caplog) == []
        for count, days in enumerate((13.9, 12.8, 0.1, -1.0), 1):
            now = tls.expires - days * DAY
            await looks.more()
            now += DAY / 2
            await looks.more()
            assert len(logged(caplog)) == count
    assert "in 14 days: renew it" in logged(caplog)[0]
    assert "has expired on" in logged(caplog)[-1]


@pytest.mark.parametrize(("days", "says"), [(15, None), (13.2, "in 13 days"), (0, "has expired"), (-3, "has expired")])
def test_what_is_said_of_the_end(days: float, says: str | None) -> None:
    now = time.time()
    said = soon_over(now + days * DAY, now)
    assert said is None if says is None else said is not None and says in said
