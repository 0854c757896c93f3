"""Secrets that are taken out: those of the request, whatever their form, and those whose name or shape tells."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping

import pytest
from multidict import CIMultiDict

from manager.api_key import PREFIX
from manager.redaction import HEADERS_MOST, PATH_MOST, REDACTED, SECRETS_MOST, Redactor

KEY = PREFIX + "kAQc8FfhTV7-1NtV_DSMPu5dEHKYtY3wP6FSYg5s0Zs"
SECRET = "q9Zl/3kf+Ab0xYz81mnO"
NO_SECRETS = Redactor({})


def redacted(text: str, headers: Mapping[str, str] | None = None, path: str = "") -> str:
    return Redactor(headers or {}, path).body(text.encode()).decode()


def basic(text: str) -> dict[str, str]:
    return {"Authorization": f"Basic {base64.b64encode(text.encode()).decode()}"}


def escaped(text: str) -> str:
    """Each character as JSON may escape it."""
    return "".join(f"\\u{ord(character):04x}" for character in text)


# headers


@pytest.mark.parametrize(
    "name",
    [
        *("Authorization", "authorization", "X-Api-Key", "API-KEY", "apikey", "Cookie", "Set-Cookie", "DPoP"),
        *("X-AuthToken", "X-Apikeys", "X-Amzn-Oidc-Data", "X-Forwarded-Access-Token", "X.Api.Key", "Passphrase"),
        *("X-Sessionid", "x-litellm-apikey", "Ocp-Apim-Subscription-Key", "X_API_KEY", "X-Ms-Client-Principal"),
        *("Referer", "X-Whatever", "OpenAI-Key", "Anthropic-Key", "Sec-WebSocket-Key"),
    ],
)
def test_headers_that_are_not_known_to_be_harmless_are_redacted_and_looked_for_in_bodies(name: str) -> None:
    value = f"http://h/?token={SECRET}" if name == "Referer" else SECRET
    assert NO_SECRETS.headers({name: "abc", "Accept": "*/*"}) == {name: REDACTED, "Accept": "*/*"}
    assert redacted(f"hello {SECRET}!", {name: value}) == f"hello {REDACTED}!"


@pytest.mark.parametrize(
    "name",
    [
        *("x-ratelimit-remaining-tokens", "Content-Type", "X-Request-ID", "User-Agent", "Keep-Alive", "Host", "Accept"),
        *("X-Stainless-Retry-Count", "Content-Length", "Origin", "OpenAI-Organization", "anthropic-version"),
    ],
)
def test_harmless_headers_are_told(name: str) -> None:
    assert NO_SECRETS.headers({name: "abc"}) == {name: "abc"}


def test_a_harmless_header_with_a_key_in_it_is_redacted() -> None:
    assert NO_SECRETS.headers({"X-Request-ID": f"mine-{KEY}"}) == {"X-Request-ID": REDACTED}
    foreign = Redactor({"X-Api-Key": "some-other-key"})
    assert foreign.headers({"User-Agent": "it is some-other-key"}) == {"User-Agent": REDACTED}


def test_headers_that_come_twice_are_told_together() -> None:
    headers = CIMultiDict([("Accept", "a"), ("Accept", "b"), ("Cookie", "x"), ("Cookie", "y")])
    assert NO_SECRETS.headers(headers) == {"Accept": "a, b", "Cookie": REDACTED}


def test_header_bytes_that_are_no_text_can_be_told() -> None:
    assert json.dumps(NO_SECRETS.headers({"User-Agent": "\udcff"})).isascii()


@pytest.mark.parametrize("name", ["User-Agent", "X-Other"])
def test_of_many_headers_only_so_much_is_told(name: str) -> None:
    shown = NO_SECRETS.headers(CIMultiDict((f"{name}{number or ''}", "v" * 8000) for number in range(100)))
    assert shown.keys() >= {name}
    assert sum(len(key) + len(value) for key, value in shown.items()) <= HEADERS_MOST + len("…" + REDACTED)


def test_a_header_of_a_very_long_name_is_left_out() -> None:
    assert NO_SECRETS.headers({"Accept": "a", "X" * 8000: "b"}) == {"Accept": "a"}


# the path


@pytest.mark.parametrize("name", ["api_key", "API-KEY", "key", "token", "access_token", "X-Amz-Signature", "api%5Fkey"])
def test_values_of_a_query_whose_names_are_of_secrets_are_taken_out(name: str) -> None:
    path = f"/v1/x?a=b&{name}=abcdefabcdefabcd&model=alpha"
    assert NO_SECRETS.path(path) == f"/v1/x?a=b&{name}={REDACTED}&model=alpha"
    assert redacted("so abcdefabcdefabcd", path=path) == f"so {REDACTED}"


def test_other_values_stay() -> None:
    for path in ("/v1/models", "/chat/ask?question=a%20b&max_tokens=5&x", "/x?a=b=c", "/x?", "/x?token="):
        assert NO_SECRETS.path(path) == path


def test_the_key_of_the_caller_is_taken_out_of_the_path_escaped_or_not() -> None:
    redactor = Redactor({"Authorization": f"Bearer {SECRET}"})
    for said in (SECRET, SECRET.replace("/", "%2F").replace("+", "%2B"), KEY, KEY.replace("-", "%2D")):
        assert redactor.path(f"/x?question={said}") == f"/x?question={REDACTED}"


def test_a_long_path_is_cut() -> None:
    assert NO_SECRETS.path("/" + "x" * 8000) == "/" + "x" * (PATH_MOST - 1) + "…"


# the request's own secrets in bodies


@pytest.mark.parametrize("scheme", ["Bearer ", "bearer ", "Token ", ""])
def test_the_key_of_the_caller_is_taken_out(scheme: str) -> None:
    assert redacted(f"it is {SECRET}, really", {"Authorization": scheme + SECRET}) == f"it is {REDACTED}, really"


@pytest.mark.parametrize(
    "said",
    [
        SECRET.replace("/", r"\/"),
        escaped(SECRET),
        escaped(SECRET).upper().replace(r"\U", r"\u"),
        json.dumps(escaped(SECRET))[1:-1],
        json.dumps(SECRET.replace("/", r"\/"))[1:-1],
        "".join(f"%{ord(character):02X}" for character in SECRET),
        SECRET.replace("/", "%2f"),
        SECRET.replace("/", "%252F"),
    ],
)
def test_so_it_is_however_it_is_escaped_and_what_is_around_it_stays(said: str) -> None:
    around = r" \u0041 \/ \n %20 \\ "
    assert redacted(f"{around}{said}{around}", {"X-Api-Key": SECRET}) == f"{around}{REDACTED}{around}"


@pytest.mark.parametrize("said", [KEY, KEY.replace("-", r"\u002d"), KEY.replace("-", "%2D")])
def test_keys_of_ours_are_taken_out_whosever_they_are(said: str) -> None:
    assert redacted(f"use {said}!") == f"use {REDACTED}!"


def test_values_of_cookies_are_taken_out() -> None:
    cookie = {"Cookie": 'theme=dark; session="abcdef0123456789"; x=1'}
    assert redacted("dark 1 abcdef0123456789", cookie) == f"dark 1 {REDACTED}"


def test_so_are_name_and_password_of_basic() -> None:
    headers = basic("a-long-account-name:hunter2-long")
    token = headers["Authorization"].partition(" ")[2]
    assert redacted(f"{token} hunter2-long a-long-account-name", headers) == f"{REDACTED} {REDACTED} {REDACTED}"
    assert redacted("ask ollama", basic("ollama:x")) == "ask ollama"
    assert redacted("fine", {"Authorization": "Basic \udcff%"}) == "fine"


@pytest.mark.parametrize(
    "headers", [{"Authorization": "Bearer ollama"}, {"Session_id": "conversation"}, {"Referer": "http://ask.example/"}]
)
def test_a_word_in_place_of_a_secret_stays_in_texts(headers: dict[str, str]) -> None:
    said = "ask ollama at http://ask.example/ in a conversation"
    assert redacted(said, headers) == said


def test_the_surest_secrets_are_looked_for_where_there_are_very_many() -> None:
    many = {f"X-Other-{number}": f"value-of-a-header-{number}" for number in range(SECRETS_MOST)}
    cookies = {"Cookie": "; ".join(f"c{number}=value-of-a-cookie-{number}" for number in range(SECRETS_MOST))}
    assert redacted(SECRET, {**many, **cookies, "Authorization": f"Bearer {SECRET}"}) == REDACTED


def test_secrets_that_overlap_are_one() -> None:
    assert redacted("=abcdefabcdefabcdef=", {"X-Api-Key": "abcdefabcdef", "Cookie": "fabcdefabcdef"}) == f"={REDACTED}="


# secrets of others in bodies


@pytest.mark.parametrize(
    "name",
    [
        *("authorization", "Authorization", "api_key", "apiKey", "api-key", "x-api-key", "access_token", "password"),
        *("secret", "client_secret", "clientSecret", "secret_access_key", "private_key", "passwd", "credentials"),
        *("bearer", "Set-Cookie", "token"),
    ],
)
@pytest.mark.parametrize("levels", [0, 1, 2])
def test_members_of_json_with_names_of_secrets_are_taken_out_at_any_level(name: str, levels: int) -> None:
    said: object = {"a": "b", name: SECRET, "c": "d"}
    shown: object = {"a": "b", name: REDACTED, "c": "d"}
    for _ in range(levels):
        said, shown = {"arguments": json.dumps(said)}, {"arguments": json.dumps(shown)}
    assert json.loads(redacted(json.dumps(said))) == shown
    compact = json.dumps(said, separators=(",", ":"))
    assert json.loads(redacted(compact)) == shown


def test_values_with_escapes_are_taken_out_whole() -> None:
    assert redacted(r'{"password": "a\"b\\c\u0022d", "x": "y"}') == f'{{"password": "{REDACTED}", "x": "y"}}'


def test_so_are_those_that_the_end_of_the_data_cuts() -> None:
    assert redacted('{"password": "abc') == f'{{"password": "{REDACTED}'
    assert redacted('{"password": "abc\\') == f'{{"password": "{REDACTED}\\'


@pytest.mark.parametrize(
    "said",
    [
        '{"token": " responsibilities", "logprob": -0.1, "bytes": [32]}, {"token": "fox"}',
        '{"bos_token": "<|begin_of_text|>", "max_tokens": 5, "total_tokens": 7}',
        '{"properties": {"password": {"type": "string"}}, "required": ["password"]}',
        '{"prompt_cache_key": "abc", "key": "value", "password": null, "secret": ""}',
        "a bearer of responsibility; f(api_key=api_key, token=token)",
        "https://example.org/@user, mail me@example.org, http://h?x=a@b",
    ],
)
def test_what_is_no_secret_stays(said: str) -> None:
    assert redacted(said) == said


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("https://user:pass1234@host/a.png", f"https://{REDACTED}@host/a.png"),
        (r"https:\/\/user:pass1234@host\/a.png", rf"https:\/\/{REDACTED}@host\/a.png"),
        ("https://h/?access_token=abcdef012345&x=1", f"https://h/?access_token={REDACTED}&x=1"),
        ("curl -H 'Authorization: Bearer sk-proj-0123456789'", f"curl -H 'Authorization: Bearer {REDACTED}'"),
    ],
)
def test_secrets_in_urls_and_commands_are_taken_out(said: str, shown: str) -> None:
    assert redacted(said) == shown


def test_bytes_that_are_no_text_stay() -> None:
    assert NO_SECRETS.body(bytes(range(256)) * 4) == bytes(range(256)) * 4
