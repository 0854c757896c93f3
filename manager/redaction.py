"""Redaction: keys, passwords and cookies taken out of what is kept of a request and its answer."""

from __future__ import annotations

import base64
import binascii
import re
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping
from typing import Final
from urllib.parse import unquote

from manager.api_key import PREFIX

REDACTED: Final = "[redacted]"
PATH_MOST: Final = 2048  # characters that are shown
HEADERS_MOST: Final = 6144  # the same, of all names and values together
SECRETS_MOST: Final = 16  # of one request; more would make every body of it expensive to look through
# Characters: what is shorter is no secret, but a word that a text may have for other reasons ("ollama").
_SHORTEST: Final = 12
_SHORTEST_UNNAMED: Final = 16  # where the name of its header does not say that it is one
_SHORTEST_PASSWORD: Final = 8

# Whatever else a client sends may be a secret: names of such headers can't be listed.
_SHOWN: Final = frozenset(
    {
        *("accept", "accept-charset", "accept-encoding", "accept-language", "accept-ranges", "age", "allow"),
        *("alt-svc", "anthropic-beta", "anthropic-dangerous-direct-browser-access", "anthropic-version"),
        *("cache-control", "connection", "content-disposition", "content-encoding", "content-language"),
        *("content-length", "content-security-policy", "content-type", "cross-origin-opener-policy"),
        *("cross-origin-resource-policy", "date", "deprecation", "dnt", "etag", "expect", "expires", "forwarded"),
        *("host", "if-modified-since", "if-none-match", "keep-alive", "last-event-id", "last-modified", "link"),
        *("openai-beta", "openai-model", "openai-organization", "openai-processing-ms", "openai-project"),
        *("openai-version", "origin", "permissions-policy", "pragma", "priority", "range", "referrer-policy"),
        *("retry-after", "server", "strict-transport-security", "sunset", "te", "traceparent", "tracestate"),
        *("trailer", "transfer-encoding", "upgrade", "upgrade-insecure-requests", "user-agent", "vary", "via"),
        *("www-authenticate", "x-accel-buffering", "x-content-type-options", "x-forwarded-for", "x-forwarded-host"),
        *("x-forwarded-port", "x-forwarded-proto", "x-frame-options", "x-real-ip", "x-request-id"),
        *("x-requested-with", "x-should-retry", "x-title"),
    }
)
_SHOWN_PREFIXES: Final = ("access-control-", "sec-ch-", "sec-fetch-", "x-ratelimit-", "x-stainless-")
# URLs of other pages, of which only the query may hold a secret.
_REFERRERS: Final = frozenset({"referer", "http-referer"})
_SECRET_HEADER: Final = re.compile(r"auth|cookie|credential|jwt|key|pass|secret|signature|token", re.IGNORECASE)
_SECRET_PARAMETER: Final = re.compile(
    r"(?:auth|authorization|bearer|cookie|credentials?|jwt|key|pass|passphrase|passw(?:or)?d|secret|sig|signature|token)$",
    re.IGNORECASE,
)

_OUR_KEYS: Final = re.compile(re.escape(PREFIX).encode() + rb"[\w-]{16,}")
# A character in another form: as JSON may escape it, that JSON within JSON, or as URLs do.
_ESCAPE: Final = re.compile(rb"\\(?:\\{0,2}u00([2-7][0-9A-Fa-f])|\\{0,2}(/))|%(?:25){0,3}([2-7][0-9A-Fa-f])")
# Ends of names whose values are secrets. They are found one by one: that takes a tenth of what one pattern would.
_WORDS: Final = (
    *(b"authorization", b"bearer", b"cookie", b"credential", b"key", b"passphrase", b"passwd", b"password"),
    *(b"secret", b"token"),
)
_KINDS_OF_KEYS: Final = re.compile(rb"(?:access|account|api|auth|private|secret|signing|subscription)[_-]?\Z", re.I)
_KIND_MOST: Final = 13
# What follows such a word: the value of a member of JSON, or of JSON within a text of JSON; or of a query.
_MEMBER: Final = re.compile(
    rb's?(?:"\s{0,9}:\s{0,9}"([^"\\]*(?:\\.[^"\\]*)*)|(\\{1,7})"\s{0,9}:\s{0,9}\2"([^"\\]*(?:\\{1,7}[^"\\]+)*))', re.S
)
_ASSIGNED: Final = re.compile(rb"=(?=[\w.~+/%-]*\d)([\w.~+/%-]{12,}=*)")
_BEARER: Final = re.compile(rb"[ \t]{1,9}(?=[\w.~+/=-]*\d)([\w.~+/=-]{16,})")
# Models tell tokens of theirs under the name of "token" ("logprobs", "bos_token"); none of those looks like this.
_TOKEN: Final = re.compile(rb"(?:\w+ )?[\w.~+/=-]{20,}")
_USER_OF_URL: Final = re.compile(rb":(?:\\{0,3}/){2}([^\s/\"'@\\?#]+)@")

Span = tuple[int, int]


class Redactor:
    """Takes the secrets of one request out of what is kept of it: its own, and whatever looks like one."""

    def __init__(self, headers: Mapping[str, str], path: str = "") -> None:
        """`headers` and `path`: those of the request, which hold its secrets."""
        found = dict.fromkeys(secret for _, secret in sorted(_secrets(headers, path), key=lambda ranked: ranked[0]))
        self._secrets = tuple(_encoded(secret) for secret in found)[:SECRETS_MOST]

    def body(self, data: bytes) -> bytes:
        """`data` without them. Takes about 20 ms for a MiB, in any thread."""
        users = (match.span(1) for match in _USER_OF_URL.finditer(data))
        return _without(data, (*_by_name(data), *users, *self._known(data)))

    def text(self, text: str) -> str:
        return self.body(_encoded(text)).decode(errors="replace")

    def path(self, path: str) -> str:
        """A path with its query, without values whose names say that they are secrets, and cut."""
        before, mark, query = path.partition("?")
        shown = self.text(before + mark + "&".join(map(_without_secret, query.split("&"))))
        return _cut(shown, PATH_MOST)

    def headers(self, headers: Mapping[str, str]) -> dict[str, str]:
        """By name, as many as HEADERS_MOST allows; those that come more than once with commas between."""
        shown: dict[str, str] = {}
        left = HEADERS_MOST
        for key, value in headers.items():
            name = str(key)  # one of its own kind would be no key of JSON
            left -= len(name)
            if left <= 0:
                break
            text = self.text(value) if _is_shown(name) else REDACTED
            text = REDACTED if REDACTED in text else _cut(text, left)
            left -= len(text)
            told = shown.get(name)
            shown[name] = text if told is None or text == REDACTED else f"{told}, {text}"
        return shown

    def _known(self, data: bytes) -> Iterator[Span]:
        """Where the secrets of the request are, and keys of ours."""
        plain, places = _unescaped(data)
        for secret in self._secrets:
            at = plain.find(secret)
            while at >= 0:
                yield places.of(at), places.of(at + len(secret))
                at = plain.find(secret, at + len(secret))
        for match in _OUR_KEYS.finditer(plain):
            yield places.of(match.start()), places.of(match.end())


class _Places:
    """Where characters of a text lay before it was unescaped."""

    def __init__(self) -> None:
        self._after = [0]
        self._before = [0]

    def mark(self, after: int, before: int) -> None:
        """From here on they are that far apart."""
        self._after.append(after)
        self._before.append(before)

    def of(self, after: int) -> int:
        last = bisect_right(self._after, after) - 1
        return self._before[last] + after - self._after[last]


def _unescaped(data: bytes) -> tuple[bytes, _Places]:
    places = _Places()
    if not (b"%" in data or b"\\u00" in data or b"\\/" in data):
        return data, places
    plain = bytearray()
    end = 0
    for match in _ESCAPE.finditer(data):
        plain += data[end : match.start()]
        places.mark(len(plain), match.start())
        code = match[1] or match[3]
        plain += bytes((int(code, 16),)) if code else match[2]
        end = match.end()
        places.mark(len(plain), end)
    return bytes(plain + data[end:]), places


def _secrets(headers: Mapping[str, str], path: str) -> Iterator[tuple[int, str]]:
    """What must not be told, each with its rank: the surest first."""
    for name, value in headers.items():
        if name.lower() in _REFERRERS:
            yield from ((1, secret) for secret in _secrets_of_query(value))
        elif _is_shown(name):
            continue
        elif _SECRET_HEADER.search(name):
            rank = 2 if "cookie" in name.lower() else 0
            yield from ((rank, secret) for secret in (*_parts(value, _SHORTEST), *_of_basic(value)))
        else:
            yield from ((3, secret) for secret in _parts(value, _SHORTEST_UNNAMED))
    yield from ((1, secret) for secret in _secrets_of_query(path))


def _parts(value: str, least: int) -> list[str]:
    """Those of a header's value that are at least so long, or all of it: "Bearer abc", "a=b; c=d"."""
    pieces = re.split(r"[\s;,]+", value)
    rights = (piece.partition("=")[2].strip('"=') for piece in pieces)
    return [part for part in (*pieces, *rights) if len(part) >= least] or [value] * (len(value) >= least)


def _of_basic(value: str) -> Iterator[str]:
    scheme, _, token = value.partition(" ")
    if scheme.lower() != "basic":
        return
    try:
        user, _, password = base64.b64decode(token).decode(errors="surrogateescape").partition(":")
    except (binascii.Error, ValueError):
        return
    if len(password) >= _SHORTEST_PASSWORD:
        yield password
    if len(user) >= _SHORTEST:
        yield user


def _secrets_of_query(url: str) -> Iterator[str]:
    for parameter in url.partition("?")[2].split("&"):
        name, _, value = parameter.partition("=")
        if len(value) >= _SHORTEST and _is_secret_parameter(name):
            yield unquote(value)


def _without_secret(parameter: str) -> str:
    name, mark, value = parameter.partition("=")
    return f"{name}={REDACTED}" if value and _is_secret_parameter(name) else name + mark + value


def _is_secret_parameter(name: str) -> bool:
    return _SECRET_PARAMETER.search(unquote(name)) is not None


def _is_shown(name: str) -> bool:
    name = name.lower()
    return name in _SHOWN or name.startswith(_SHOWN_PREFIXES)


def _by_name(data: bytes) -> Iterator[Span]:
    """Where values are whose names say that they are secrets."""
    lower = data.lower()
    for word in _WORDS:
        at = lower.find(word)
        while at >= 0:
            end = at + len(word)
            if word != b"key" or _KINDS_OF_KEYS.search(data[max(0, at - _KIND_MOST) : at]):
                span = _value_after(word, data, end)
                if span is not None:
                    yield span
            at = lower.find(word, end)


def _value_after(word: bytes, data: bytes, at: int) -> Span | None:
    if (member := _MEMBER.match(data, at)) is not None:
        group = member.lastindex or 0
        return member.span(group) if word != b"token" or _TOKEN.fullmatch(member[group]) else None
    found = _ASSIGNED.match(data, at) or (_BEARER.match(data, at) if word == b"bearer" else None)
    return found.span(1) if found else None


def _without(data: bytes, spans: Iterable[Span]) -> bytes:
    kept: list[bytes] = []
    end = 0
    for start, stop in sorted(span for span in spans if span[0] < span[1]):
        if start >= end:
            kept += (data[end:start], REDACTED.encode())
        end = max(end, stop)
    return b"".join((*kept, data[end:])) if kept else data


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else text[:most] + "…"


def _encoded(text: str) -> bytes:
    """Header bytes that are no UTF-8 arrive as surrogates."""
    return text.encode("utf-8", "surrogateescape")
