"""What the server of a file says of it before it is fetched."""

from __future__ import annotations

from yarl import URL

from manager.downloads import Broken, Client, DownloadFailed, Note, Tries, plain
from manager.model_store.hub import authorization


async def announced(client: Client, url: URL, note: Note | None) -> tuple[int | None, str | None]:
    """Size and ETag, where they are told. A server need not answer that, but it has to be there.

    Raises DownloadFailed where it is not, or has no such file.
    """
    tries = Tries(client.patience, plain(url), note, first=True)
    while True:
        try:
            return await _asked(client, url)
        except Broken as why:
            if not why.unreached:
                return None, None  # fetching it tries again, and will say
            await tries.failed(why)


async def _asked(client: Client, url: URL) -> tuple[int | None, str | None]:
    async with client.ask(str(url), {}, authorization(client.settings, str(url)), method="HEAD") as response:
        if response.status in (404, 410):
            raise DownloadFailed(f"{plain(url)}: does not exist ({response.status})", answered=response.status)
        if response.status != 200 or response.headers.get("Content-Encoding") is not None:
            return None, None
        return response.content_length or None, response.headers.get("ETag")
