"""Who may change keys is judged when the file is locked and read anew, whatever the service knew when it was asked."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest

from manager.auth import ApiKey, KeyStore
from manager.errors import HerdError, InvalidKey, PermissionDenied
from manager.key_rules import Asker, NoKey
from tests.manager.bench import Clock

START: Final = 1_800_000_000.0
NOBODY: Final = Asker(None)

CHANGES: Final[dict[str, Callable[[KeyStore, Asker], object]]] = {
    "create": lambda store, asker: store.create("new", "", ["admin"], asker=asker),
    "change": lambda store, asker: store.change("web", at_once=1, asker=asker),
    "rotate": lambda store, asker: store.rotate("web", 0, asker=asker),
    "revoke": lambda store, asker: store.revoke("web", asker=asker),
}
every_change = pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
Change = Callable[[KeyStore, Asker], object]


@pytest.fixture
def clock() -> Clock:
    return Clock(START)


@pytest.fixture
def by_hand(tmp_path: Path, clock: Clock) -> KeyStore:
    """The command line's."""
    return KeyStore(tmp_path / "keys.json", clock=clock)


@pytest.fixture
def store(by_hand: KeyStore, clock: Clock) -> KeyStore:
    """The service's, which has read "boss" and "web"."""
    by_hand.create("web", "", ["inference"])
    store = KeyStore(by_hand.path, keep_admin=True, clock=clock)
    store.load()
    return store


@pytest.fixture
def boss(by_hand: KeyStore, store: KeyStore) -> Asker:
    token, _ = by_hand.create("boss", "", ["admin"], START + 100)
    store.load()
    return Asker(token)


def assert_refused(store: KeyStore, change: Change, asker: Asker, kind: type[HerdError]) -> None:
    before = store.path.read_bytes()
    with pytest.raises(kind) as caught:
        change(store, asker)
    assert type(caught.value) is kind
    assert store.path.read_bytes() == before


@every_change
def test_an_administrator_may(store: KeyStore, boss: Asker, change: Change) -> None:
    before = store.path.read_bytes()
    change(store, boss)
    assert store.path.read_bytes() != before


@every_change
def test_a_key_that_was_revoked_meanwhile_may_not(
    by_hand: KeyStore, store: KeyStore, boss: Asker, change: Change
) -> None:
    by_hand.revoke("boss")
    assert_refused(store, change, boss, InvalidKey)


@every_change
def test_a_key_that_ended_or_was_demoted_meanwhile_may_not(
    by_hand: KeyStore, store: KeyStore, boss: Asker, clock: Clock, change: Change
) -> None:
    by_hand.change("boss", scopes=["inference"])
    assert_refused(store, change, boss, PermissionDenied)
    clock.now += 100
    assert_refused(store, change, boss, InvalidKey)


@every_change
def test_a_key_that_was_replaced_may_not_even_while_it_is_valid(
    by_hand: KeyStore, store: KeyStore, boss: Asker, change: Change
) -> None:
    token, _ = by_hand.rotate("boss", 50)
    assert_refused(store, change, boss, PermissionDenied)
    assert isinstance(store.authenticate(boss.token or ""), ApiKey)
    change(store, Asker(token))


@every_change
def test_without_a_key_nobody_may_once_there_is_one(store: KeyStore, change: Change) -> None:
    assert_refused(store, change, NOBODY, NoKey)


def test_without_a_key_one_makes_the_first_and_no_second(tmp_path: Path, by_hand: KeyStore) -> None:
    store = KeyStore(by_hand.path, keep_admin=True)
    store.load()
    by_hand.create("first", "", ["admin"])
    with pytest.raises(NoKey):
        store.create("second", "", ["admin"], asker=NOBODY)
    assert [key.name for key in store.list()] == ["first"]  # by now it is asked for
    other = KeyStore(tmp_path / "other.json", keep_admin=True)
    assert other.create("first", "", ["admin"], asker=NOBODY)[1].name == "first"


def test_the_key_is_not_in_what_is_shown_of_the_asker() -> None:
    assert "secret" not in repr(Asker("secret"))
