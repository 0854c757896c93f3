"""Keys that are replaced or changed, with a clock that tests move."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import pytest

from manager.auth import KeyStore, digest_of
from manager.errors import InvalidKey, InvalidRequest
from manager.key_file import ApiKey
from tests.manager.bench import Clock

START: Final = 1_800_000_000.0
DAY: Final = 86_400.0
LIMITS: Final[dict[str, Any]] = {
    "models": frozenset({"qwen", "smollm2"}),
    "requests_per_minute": 60,
    "tokens_per_day": 1_000_000,
    "at_once": 4,
}


@pytest.fixture
def clock() -> Clock:
    return Clock(START)


@pytest.fixture
def store(tmp_path: Path, clock: Clock) -> KeyStore:
    return KeyStore(tmp_path / "keys.json", clock=clock)


def reread(store: KeyStore, clock: Clock) -> KeyStore:
    """Another store on the same file, as a service has it."""
    other = KeyStore(store.path, clock=clock)
    other.load()
    return other


def refusal(store: KeyStore, token: str) -> str:
    with pytest.raises(InvalidKey) as caught:
        store.authenticate(token)
    return caught.value.message


def test_limits_are_known_of_whoever_uses_the_key(store: KeyStore, clock: Clock) -> None:
    token, made = store.create("web", "", ["inference"], **LIMITS)
    assert {name: getattr(made, name) for name in LIMITS} == LIMITS
    assert store.authenticate(token) == reread(store, clock).authenticate(token) == made


def test_rotation_gives_a_new_key_with_everything_of_the_old_one(store: KeyStore, clock: Clock) -> None:
    old_token, old = store.create("web", "the web app", ["admin"], START + 9 * DAY, priority=3, **LIMITS)
    clock.now += 60
    token, new = store.rotate("web", DAY)
    assert new == replace(old, digest=digest_of(token), former=old.digest, former_until=clock.now + DAY)
    for each in (store, reread(store, clock)):
        assert each.authenticate(token) == each.authenticate(old_token) == new
        assert len(each) == 1


def test_old_key_ends_with_the_overlap_and_says_that_it_was_replaced(store: KeyStore, clock: Clock) -> None:
    old, _ = store.create("web", "", ["inference"])
    new, _ = store.rotate("web", 100)
    clock.now += 99.999
    store.authenticate(old)
    clock.now = START + 100
    for each in (store, reread(store, clock)):
        assert refusal(each, old) == "This API key has expired: another has replaced it."
        each.authenticate(new)


def test_rotation_without_overlap_ends_the_old_key_at_once(store: KeyStore, clock: Clock) -> None:
    clock.now += 0.5
    old, _ = store.create("web", "", ["inference"])
    new, made = store.rotate("web", 0)
    assert "expired" in refusal(store, old)
    assert not made.former_valid(clock.now)
    store.authenticate(new)


def test_rotation_within_the_overlap_drops_the_oldest_key(store: KeyStore) -> None:
    tokens = [store.create("web", "", ["inference"])[0]]
    tokens += [store.rotate("web", DAY)[0] for _ in range(2)]
    assert refusal(store, tokens[0]) == "Incorrect API key provided."
    store.authenticate(tokens[1])
    store.authenticate(tokens[2])


def test_expiry_holds_for_both_keys_of_a_rotation(store: KeyStore, clock: Clock) -> None:
    old, _ = store.create("web", "", ["inference"], START + 50)
    new, made = store.rotate("web", 100)
    clock.now += 50
    assert refusal(store, old) == refusal(store, new) == "This API key has expired."
    assert not made.former_valid(clock.now)


def test_expired_key_is_not_rotated(store: KeyStore, clock: Clock) -> None:
    token, _ = store.create("web", "", ["inference"], START + 50)
    clock.now += 50
    with pytest.raises(InvalidRequest, match="has expired"):
        store.rotate("web", 100)
    store.change("web", expires=None)
    store.authenticate(token)


def test_revocation_ends_both_keys_of_a_rotation(store: KeyStore) -> None:
    old, _ = store.create("web", "", ["inference"])
    new, _ = store.rotate("web", DAY)
    store.revoke("web")
    assert refusal(store, old) == refusal(store, new) == "Incorrect API key provided."


def test_lookup_of_a_former_key_is_not_enough_either(store: KeyStore) -> None:
    old, _ = store.create("web", "", ["inference"])
    _, made = store.rotate("web", DAY)
    store._by_digest = {digest_of(old): replace(made, former=digest_of("another"))}
    assert refusal(store, old) == "Incorrect API key provided."


def test_use_of_the_former_key_counts_as_use_of_the_key(store: KeyStore, clock: Clock) -> None:
    old, _ = store.create("web", "", ["inference"])
    store.rotate("web", DAY)
    clock.now += 7
    store.authenticate(old)
    store.flush()
    assert reread(store, clock).find("web").last_used == START + 7


@pytest.mark.parametrize("overlap", [-1, 367 * DAY, float("nan"), float("inf")])
def test_overlap_out_of_bounds_is_refused(store: KeyStore, overlap: float) -> None:
    token, _ = store.create("web", "", ["inference"])
    with pytest.raises(InvalidRequest, match="366 days") as caught:
        store.rotate("web", overlap)
    assert caught.value.param == "overlap"
    store.authenticate(token)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("description", "another"),
        ("scopes", frozenset({"inference", "admin"})),
        ("expires", START + DAY),
        ("expires", None),
        ("priority", -7),
        ("models", frozenset({"other"})),
        ("models", None),
        ("requests_per_minute", 1),
        ("requests_per_minute", None),
        ("tokens_per_day", 10**12),
        ("tokens_per_day", None),
        ("at_once", 10_000),
        ("at_once", None),
    ],
)
def test_change_is_of_that_field_alone(store: KeyStore, clock: Clock, field: Any, value: Any) -> None:
    token, made = store.create("web", "the web app", ["inference"], START + 2 * DAY, **LIMITS)
    expected = replace(made, **{field: value})
    assert expected != made
    assert store.change("web", **{field: value}) == expected
    assert reread(store, clock).authenticate(token) == expected


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("description", "d" * 501),
        ("description", "a\nb"),
        ("scopes", ()),
        ("scopes", ("root",)),
        ("expires", START),
        ("expires", START + 0.999),  # the file has whole seconds
        ("expires", float("-inf")),
        ("expires", 1e12),
        ("expires", float("nan")),
        ("priority", 101),
        ("models", ()),
        ("models", ("a", " ")),
        ("models", ("a\x1b",)),
        ("models", ("a" * 201,)),
        ("models", tuple(map(str, range(1_001)))),
        ("requests_per_minute", 0),
        ("requests_per_minute", 1_000_001),
        ("tokens_per_day", -1),
        ("tokens_per_day", 10**12 + 1),
        ("at_once", 0),
        ("at_once", 10_001),
    ],
)
def test_field_that_can_not_be_is_refused_in_a_new_key_and_in_an_old_one(
    store: KeyStore, field: str, value: Any
) -> None:
    _, made = store.create("web", "", ["inference"])
    before = store.path.read_bytes()
    with pytest.raises(InvalidRequest) as caught:
        store.change("web", **{field: value})
    assert caught.value.param == field
    with pytest.raises(InvalidRequest) as caught:
        store.create(**{"name": "new", "description": "", "scopes": ["inference"], field: value})
    assert caught.value.param == field
    assert store.path.read_bytes() == before
    assert store.list() == (made,)


def test_expired_key_is_not_revived_beside_its_namesake(store: KeyStore, clock: Clock) -> None:
    _, first = store.create("web", "", ["inference"], START + 1)
    clock.now += 1
    _, second = store.create("web", "", ["inference"])
    with pytest.raises(InvalidRequest, match=f"named 'web' already, with the id {second.id}") as caught:
        store.change(first.id, expires=None)
    assert caught.value.param == "expires"
    assert store.change(first.id, description="the first").expired(clock.now)


def test_id_of_a_key_goes_before_the_name_of_another(store: KeyStore) -> None:
    _, first = store.create("first", "", ["inference"])
    store.create(first.id, "", ["inference"])
    assert store.find(first.id) == first
    assert store.revoke(first.id) == first


def test_every_change_is_told_once_it_is_written(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    told: list[tuple[str, ApiKey, int]] = []

    def tell(event: str, key: ApiKey) -> None:
        told.append((event, key, path.read_text().count(key.digest)))

    store = KeyStore(path, on_change=tell)
    token, made = store.create("web", "", ["inference"])
    changed = store.change("web", at_once=2)
    store.authenticate(token)
    store.flush()
    _, rotated = store.rotate("web", 0)
    gone = store.revoke("web")
    assert [event for event, *_ in told] == ["created", "changed", "rotated", "revoked"]
    assert [key for _, key, _ in told] == [made, changed, rotated, gone]
    assert [written for *_, written in told] == [1, 1, 1, 0]


def test_refused_change_is_told_to_nobody(tmp_path: Path) -> None:
    told: list[str] = []
    store = KeyStore(tmp_path / "keys.json", on_change=lambda event, _: told.append(event))
    for refused in (lambda: store.revoke("web"), lambda: store.change("web"), lambda: store.rotate("web", 0)):
        with pytest.raises(InvalidRequest):
            refused()
    assert told == []


def test_file_of_keys_without_limits_stays_as_earlier_versions_had_it(store: KeyStore) -> None:
    store.create("web", "", ["inference"])
    (record,) = json.loads(store.path.read_text())["keys"]
    assert list(record) == [
        *("id", "name", "description", "digest", "scopes", "created", "expires", "last_used", "priority")
    ]
