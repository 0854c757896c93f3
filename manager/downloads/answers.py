"""What an answer of a server means for a download: go on, try again, or give up."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from email.utils import parsedate_to_datetime
from typing import Final

import aiohttp

from manager.downloads.failure import Broken, DownloadFailed, plain

_PASSING: Final = frozenset({408, 425, 429})
_MOST_DIGITS: Final = 9


def judge(response: aiohttp.ClientResponse) -> None:
    """Nothing for 2xx. Raises Broken where it may pass, else DownloadFailed."""
    status, url = response.status, plain(response.url)
    if 200 <= status < 300:
        return
    if status in _PASSING or status >= 500:
        says = f"the server answered {status} {response.reason or ''}".rstrip()
        raise Broken(says, answered=status, asked=_retry_after(response.headers.get("Retry-After")))
    raise DownloadFailed(f"{url}: {_refusal(status, response)}", answered=status)


def _refusal(status: int, response: aiohttp.ClientResponse) -> str:
    if response.headers.get("X-Error-Code") == "GatedRepo":
        return (
            f"access is restricted ({status}): accept the model's terms on its page at the hub, and set hub.token "
            "(HF_TOKEN) to a token of that account"
        )
    if status in (401, 403):
        return (
            f"access denied ({status}): it needs a token that may read it, in hub.token (HF_TOKEN), or for a gated "
            "model its terms accepted on its page; a hub says the same of what does not exist"
        )
    if status in (404, 410):
        return f"does not exist ({status})"
    return f"the server answered {status} {response.reason or ''}".rstrip()


def _retry_after(value: str | None) -> float | None:
    """Seconds, from a number of them or a date; None where it says nothing."""
    if value is None:
        return None
    value = value.strip()
    if value.isascii() and value.isdecimal():
        return float(value[:_MOST_DIGITS])
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
    except (ValueError, OverflowError, OSError):
        return None


@contextmanager
def translated(url: str) -> Iterator[None]:
    """Errors of the client inside become Broken, or DownloadFailed where trying again is no use."""
    try:
        yield
    except aiohttp.ClientConnectorCertificateError as error:
        says = getattr(error.certificate_error, "verify_message", "") or "it can't be verified"
        raise DownloadFailed(
            f"{plain(url)}: the server's certificate is not accepted: {says}", elsewhere=True
        ) from None
    except (aiohttp.InvalidURL, aiohttp.NonHttpUrlClientError) as error:
        raise DownloadFailed(f"{plain(url)}: is not a valid address") from error
    except TimeoutError as error:
        raise Broken("the server sent nothing for too long") from error
    except aiohttp.ClientConnectorError as error:
        if isinstance(error.os_error, NotPublic):
            raise DownloadFailed(f"{plain(url)}: {error.host} is no host of the public internet") from None
        says = f"no connection to {error.host}: {error.os_error.strerror or error.os_error}"
        raise Broken(says, unreached=True) from error
    except aiohttp.ClientPayloadError as error:
        raise Broken("the answer broke off") from error
    except (aiohttp.ClientError, OSError) as error:
        raise Broken(f"the connection failed ({type(error).__name__})") from error


class NotPublic(OSError):
    """A host that may not be asked: it has an address that is not public."""
