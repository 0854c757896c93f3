"""A store that keeps a key which administers: what it refuses, and what it does not."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import Final

import pytest

from manager import key_file
from manager.auth import ApiKey, KeyStore
from manager.errors import ConfigError, HerdError, InvalidRequest
from manager.key_rules import KeyNotFound, LastAdminKey
from tests.manager.bench import Clock

START: Final = 1_800_000_000.0
DAY: Final = 86_400.0
BOTH: Final = ("inference", "admin")


@pytest.fixture
def clock() -> Clock:
    return Clock(START)


@pytest.fixture
def store(tmp_path: Path, clock: Clock) -> KeyStore:
    return KeyStore(tmp_path / "keys.json", keep_admin=True, clock=clock)


LESS: Final[dict[str, Callable[[KeyStore], ApiKey]]] = {
    "revoked": lambda store: store.revoke("boss"),
    "demoted": lambda store: store.change("boss", scopes=["inference"]),
    "ends": lambda store: store.change("boss", expires=START + DAY),
}


@pytest.mark.parametrize("less", LESS.values(), ids=LESS)
def test_the_last_key_that_administers_stays(store: KeyStore, less: Callable[[KeyStore], ApiKey]) -> None:
    store.create("boss", "", BOTH)
    store.create("user", "", ["inference"])
    before = store.path.read_bytes()
    with pytest.raises(LastAdminKey) as caught:
        less(store)
    assert (caught.value.status, caught.value.code) == (409, "last_admin_key")
    assert store.path.read_bytes() == before


@pytest.mark.parametrize("less", LESS.values(), ids=LESS)
def test_it_goes_where_another_one_administers(store: KeyStore, less: Callable[[KeyStore], ApiKey]) -> None:
    store.create("boss", "", BOTH)
    store.create("other", "", ["admin"])
    assert less(store).name == "boss"


@pytest.mark.parametrize("less", LESS.values(), ids=LESS)
def test_a_key_that_ends_sooner_is_no_other_one(store: KeyStore, less: Callable[[KeyStore], ApiKey]) -> None:
    store.create("boss", "", BOTH)
    store.create("other", "", ["admin"], START + DAY - 1)
    with pytest.raises(LastAdminKey):
        less(store)


def test_of_keys_that_end_the_one_that_lasts_longest_stays(store: KeyStore) -> None:
    by_hand = KeyStore(store.path, clock=Clock(START))
    for name, days in (("short", 1), ("long", 2), ("as long", 2)):
        by_hand.create(name, "", ["admin"], START + days * DAY)
    store.revoke("long")
    with pytest.raises(LastAdminKey, match="as long as 'as long': it can't be revoked"):
        store.revoke("as long")
    store.revoke("short")


def test_neither_of_two_steps_leads_to_nobody(store: KeyStore) -> None:
    store.create("one", "", ["admin"])
    store.create("two", "", ["admin"])
    store.change("one", expires=START + 2)
    with pytest.raises(LastAdminKey):
        store.change("two", expires=START + 3)
    with pytest.raises(LastAdminKey):
        store.revoke("two")


@pytest.mark.parametrize("less", LESS.values(), ids=LESS)
def test_a_key_that_has_expired_is_no_other_one(
    store: KeyStore, clock: Clock, less: Callable[[KeyStore], ApiKey]
) -> None:
    store.create("boss", "", BOTH)
    store.create("other", "", ["admin"], START + 1)
    clock.now += 2
    with pytest.raises(LastAdminKey):
        less(store)


def test_keys_that_do_not_administer_or_have_expired_may_go(store: KeyStore, clock: Clock) -> None:
    store.create("boss", "", BOTH)
    store.create("user", "", ["inference"])
    store.create("old", "", ["admin"], START + 1)
    clock.now += 2
    for name in ("user", "old"):
        store.revoke(name)
    assert [key.name for key in store.list()] == ["boss"]


def test_the_last_one_may_last_longer_and_change_otherwise(store: KeyStore) -> None:
    KeyStore(store.path, clock=Clock(START)).create("other", "", ["admin"], START + DAY)
    with pytest.raises(LastAdminKey, match="can't end sooner"):
        store.change("other", expires=START + DAY - 1)
    assert store.change("other", expires=START + 2 * DAY).expires == START + 2 * DAY
    assert store.change("other", expires=None, at_once=3, scopes=BOTH).at_once == 3
    assert store.rotate("other", 0.0)[1].name == "other"


def test_the_first_key_administers_and_does_not_expire(store: KeyStore) -> None:
    for scopes, expires, param in ((["inference"], None, "scopes"), (BOTH, START + DAY, "expires")):
        with pytest.raises(InvalidRequest) as caught:
            store.create("first", "", scopes, expires)
        assert caught.value.param == param
    assert not store.path.exists()
    store.create("first", "", ["admin"])
    store.create("second", "", ["inference"], START + DAY)


def test_the_command_line_may_do_all_of_it(tmp_path: Path) -> None:
    store = KeyStore(tmp_path / "keys.json", clock=Clock(START))
    store.create("first", "", ["inference"], START + DAY)
    store.create("boss", "", BOTH)
    store.change("boss", expires=START + DAY)
    store.change("boss", scopes=["inference"])
    store.revoke("boss")


def test_of_two_who_would_revoke_each_other_one_stays(store: KeyStore) -> None:
    names = ("one", "two")
    for name in names:
        store.create(name, "", ["admin"])

    def revoke(name: str) -> str | None:
        try:
            return store.revoke(name).name
        except HerdError as error:
            return error.code

    with ThreadPoolExecutor(2) as threads:
        outcomes = set(threads.map(revoke, names))
    (left,) = store.list()
    assert outcomes == {"last_admin_key", *names} - {left.name}


def test_keys_made_at_the_same_time_are_all_there(store: KeyStore) -> None:
    store.create("boss", "", BOTH)
    with ThreadPoolExecutor(8) as threads:
        tokens = [token for token, _ in threads.map(lambda n: store.create(f"k{n}", "", BOTH), range(16))]
    assert {store.authenticate(token).name for token in tokens} == {f"k{n}" for n in range(16)}
    assert len(key_file.read(store.path)[0]) == 17


def test_an_older_reading_does_not_come_after_a_newer_one(store: KeyStore, monkeypatch: pytest.MonkeyPatch) -> None:
    store.create("boss", "", BOTH)
    store.create("gone", "", ["inference"])
    read = key_file.read
    with ThreadPoolExecutor(1) as thread:

        def slow(path: Path) -> tuple[tuple[ApiKey, ...], key_file.Version | None]:
            monkeypatch.setattr(key_file, "read", read)
            found = read(path)
            # It has the time to overtake this reading, which it must wait for.
            wait([thread.submit(store.revoke, "gone")], timeout=0.2)
            return found

        monkeypatch.setattr(key_file, "read", slow)
        store.load()
    assert [key.name for key in store.list()] == ["boss"]


def test_a_file_that_has_gone_is_not_begun_anew(store: KeyStore) -> None:
    token, _ = store.create("boss", "", BOTH)
    store.path.unlink()
    for work in (lambda: store.create("new", "", BOTH), lambda: store.revoke("boss"), lambda: store.rotate("boss", 0)):
        with pytest.raises(ConfigError, match="the file has gone"):
            work()
    assert not store.path.exists()
    assert store.authenticate(token).name == "boss"


def test_an_unknown_key_is_not_found(store: KeyStore) -> None:
    with pytest.raises(KeyNotFound) as caught:
        store.revoke("nobody")
    assert (caught.value.status, caught.value.code) == (404, "key_not_found")
