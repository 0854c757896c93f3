"""The key store against a simple model of it, and against files and keys that nobody meant."""

from __future__ import annotations

import json
import shutil
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from manager import key_file
from manager.auth import EXPIRED_KEY, REPLACED_KEY, UNKNOWN_KEY, KeyStore
from manager.errors import ConfigError, InvalidKey, InvalidRequest
from manager.key_record import Record

START: Final = 1_800_000_000
QUICK: Final = settings(max_examples=150, deadline=None, derandomize=True, database=None)
NAMES: Final = st.sampled_from(["web", "batch", "phone"])
SPANS: Final = st.none() | st.integers(1, 20)
NUMBERS: Final = st.integers(0, 5)
STORES: Final = st.integers(0, 1)
CHANGES: Final = st.fixed_dictionaries(
    {},
    optional={
        "description": st.sampled_from(["", "for all"]),
        "scopes": st.sampled_from([frozenset({"inference"}), frozenset({"inference", "admin"})]),
        "priority": st.integers(-100, 100),
        "models": st.none() | st.frozensets(st.sampled_from("abc"), min_size=1),
        "requests_per_minute": st.none() | st.integers(1, 1_000_000),
        "tokens_per_day": st.none() | st.integers(1, 10**12),
        "at_once": st.none() | st.integers(1, 10_000),
    },
)


@dataclass(frozen=True)
class Known:
    """A key as the model has it: tokens instead of digests."""

    id: str
    name: str
    token: str
    expires: int | None
    fields: dict[str, Any]
    former: str | None = None
    former_until: int = 0
    used: int | None = None

    def expired(self, now: int) -> bool:
        return self.expires is not None and self.expires <= now


class KeyStores(RuleBasedStateMachine):
    """Two stores on one file, as a service and the command line have it; one sees what the other did when it reads."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.now = START
        self.stores = [KeyStore(self.folder / "keys.json", clock=lambda: self.now) for _ in range(2)]
        self.truth: dict[str, Known] = {}  # by id
        self.views = [self.truth, self.truth]  # what each store has read
        self.tokens: list[str] = []

    def teardown(self) -> None:
        shutil.rmtree(self.folder)

    def written_by(self, which: int, *keys: Known) -> None:
        self.truth = self.truth | {key.id: key for key in keys}
        self.views[which] = self.truth

    def pick(self, number: int) -> Known:
        return list(self.truth.values())[number % len(self.truth)]

    def taken(self, name: str, but: str | None = None) -> bool:
        return any(key.name == name and not key.expired(self.now) for key in self.truth.values() if key.id != but)

    @rule(which=STORES, name=NAMES, span=SPANS, fields=CHANGES)
    def create(self, which: int, name: str, span: int | None, fields: dict[str, Any]) -> None:
        expires = None if span is None else self.now + span
        arguments: dict[str, Any] = {"description": "", "scopes": ["inference"], **fields}
        if self.taken(name):
            with pytest.raises(InvalidRequest, match="already"):
                self.stores[which].create(name, expires=expires, **arguments)
            return
        token, made = self.stores[which].create(name, expires=expires, **arguments)
        assert token not in self.tokens
        self.tokens.append(token)
        arguments["scopes"] = frozenset(arguments["scopes"])
        self.written_by(which, Known(made.id, name, token, expires, arguments))

    @precondition(lambda self: self.truth)
    @rule(which=STORES, number=NUMBERS, overlap=st.integers(0, 20))
    def rotate(self, which: int, number: int, overlap: int) -> None:
        old = self.pick(number)
        if old.expired(self.now):
            with pytest.raises(InvalidRequest, match="expired"):
                self.stores[which].rotate(old.id, overlap)
            return
        token, _ = self.stores[which].rotate(old.id, overlap)
        self.tokens.append(token)
        self.written_by(which, replace(old, token=token, former=old.token, former_until=self.now + overlap))

    @precondition(lambda self: self.truth)
    @rule(which=STORES, number=NUMBERS, fields=CHANGES)
    def change(self, which: int, number: int, fields: dict[str, Any]) -> None:
        old = self.pick(number)
        self.stores[which].change(old.id, **fields)
        self.written_by(which, replace(old, fields=old.fields | fields))

    @precondition(lambda self: self.truth)
    @rule(which=STORES, number=NUMBERS, span=SPANS)
    def change_expiry(self, which: int, number: int, span: int | None) -> None:
        old = self.pick(number)
        expires = None if span is None else self.now + span
        if self.taken(old.name, but=old.id):
            with pytest.raises(InvalidRequest, match="already"):
                self.stores[which].change(old.id, expires=expires)
            return
        self.stores[which].change(old.id, expires=expires)
        self.written_by(which, replace(old, expires=expires))

    @precondition(lambda self: self.truth)
    @rule(which=STORES, number=NUMBERS)
    def revoke(self, which: int, number: int) -> None:
        gone = self.pick(number)
        self.stores[which].revoke(gone.id)
        self.truth = {id_: key for id_, key in self.truth.items() if id_ != gone.id}
        self.written_by(which)

    @rule(which=STORES)
    def read_again(self, which: int) -> None:
        assert self.stores[which].reload_if_changed() == (self.views[which] is not self.truth)
        self.views[which] = self.truth

    @rule(seconds=st.integers(1, 30))
    def time_passes(self, seconds: int) -> None:
        self.now += seconds

    @precondition(lambda self: self.tokens)
    @rule(which=STORES, number=NUMBERS)
    def use_and_flush(self, which: int, number: int) -> None:
        try:
            used = self.stores[which].authenticate(self.tokens[number % len(self.tokens)]).id
        except InvalidKey:
            return
        news = used in self.views[which] and self.views[which][used].used != self.now
        self.stores[which].flush()
        if used in self.truth and self.truth[used].used != self.now:
            self.written_by(which, replace(self.truth[used], used=self.now))
        elif news:
            self.views[which] = self.truth

    @invariant()
    def every_token_is_what_the_model_says(self) -> None:
        for store, view in zip(self.stores, self.views, strict=True):
            for token in self.tokens:
                assert seen_through(store, token) == expected_of(view, token, self.now)
            assert len(store) == len(view)


def seen_through(store: KeyStore, token: str) -> object:
    used = store._used.copy()
    try:
        key = store.authenticate(token)
    except InvalidKey as error:
        return error.message
    finally:
        store._used = used  # a look is no use
    fields = ("description", "scopes", "priority", "models", "requests_per_minute", "tokens_per_day", "at_once")
    return key.id, key.name, key.expires, {name: getattr(key, name) for name in fields}


def expected_of(view: dict[str, Known], token: str, now: int) -> object:
    key = next((key for key in view.values() if token in (key.token, key.former)), None)
    if key is None:
        return UNKNOWN_KEY
    if token == key.former and key.former_until <= now:
        return REPLACED_KEY
    if key.expired(now):
        return EXPIRED_KEY
    none = dict.fromkeys(("models", "requests_per_minute", "tokens_per_day", "at_once"))
    return key.id, key.name, key.expires, {"priority": 0, **none, **key.fields}


def test_stores_on_one_file_do_what_the_model_does() -> None:
    run_state_machine_as_test(KeyStores, settings=settings(QUICK, max_examples=40, stateful_step_count=30))


TIMES: Final = st.sampled_from(["2020-01-01T00:00:00Z", "9999-01-01T00:00:00+14:00", "1970-01-01T00:00:00.25-12:00"])
VALID: Final[dict[str, st.SearchStrategy[Any]]] = {
    "id": st.integers(0, 2**40).map("{:08x}".format),
    "name": st.text(min_size=1, max_size=5),
    "description": st.text(max_size=5),
    "digest": st.integers(0, 3).map("{:064x}".format),
    "scopes": st.lists(st.sampled_from(["inference", "admin"])),
    "created": TIMES,
    "expires": st.none() | TIMES,
    "last_used": st.none() | TIMES,
    "priority": st.integers(-100, 100),
    "models": st.none() | st.lists(st.sampled_from("abc"), min_size=1),
    "requests_per_minute": st.none() | st.integers(1, 1000),
    "tokens_per_day": st.none() | st.integers(1, 1000),
    "at_once": st.none() | st.integers(1, 1000),
}
FORMER: Final = st.fixed_dictionaries({"former": VALID["digest"], "former_until": TIMES})
ODD_TIMES: Final = st.sampled_from(["0001-01-01T00:00:00Z", "0001-01-01T00:00:00+14:00", "2020-01-01", "never"])
JSON: Final = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from([*VALID, "keys"]), inner, max_size=3),
    max_leaves=8,
)
# Whole records, some with one field that can be anything.
RECORDS: Final = st.builds(
    lambda record, former, odd: record | former | odd,
    st.fixed_dictionaries(VALID),
    st.just({}) | FORMER,
    st.just({}) | st.dictionaries(st.sampled_from(list(Record.model_fields)), JSON | ODD_TIMES, max_size=1),
)
FILES: Final = (
    st.binary(max_size=60)
    | JSON.map(lambda value: json.dumps(value).encode())
    | st.lists(RECORDS, max_size=3).map(lambda records: json.dumps({"keys": records}).encode())
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("keys")


@pytest.fixture(scope="module")
def good(folder: Path) -> tuple[Path, bytes, str]:
    """A file of keys, what is in it, and the token of its one key."""
    path = folder / "keys.json"
    token, _ = KeyStore(path).create("web", "", ["inference"])
    return path, path.read_bytes(), token


@settings(QUICK, max_examples=300)
@given(text=FILES)
def test_any_file_is_taken_whole_or_refused_whole(good: tuple[Path, bytes, str], text: bytes) -> None:
    path, before, token = good
    path.write_bytes(before)
    store = KeyStore(path)
    store.load()
    keys = store.list()
    path.write_bytes(text)
    try:
        store.load()
    except ConfigError:
        assert store.list() == keys
        store.authenticate(token)
        return
    taken = key_file.read(path)[0]
    assert len(store) == len(taken) == len({key.id for key in taken})
    digests = [digest for key in taken for digest in (key.digest, key.former) if digest is not None]
    assert len(set(digests)) == len(digests)
    with pytest.raises(InvalidKey):
        store.authenticate(token)
    key_file.write(path, taken)  # what was read can be written, and is what it was; to the second
    assert key_file.read(path)[0] == tuple(replace(key, **whole_seconds(key)) for key in taken)


def whole_seconds(key: key_file.ApiKey) -> dict[str, Any]:
    times = {name: getattr(key, name) for name in ("created", "expires", "last_used", "former_until")}
    return {name: None if time is None else float(int(time)) for name, time in times.items()}


@pytest.fixture(scope="module")
def one_key(folder: Path) -> tuple[KeyStore, str, str]:
    """A store with one key that has been rotated, and both of its tokens."""
    store = KeyStore(folder / "one.json")
    former, _ = store.create("web", "", ["inference"])
    token, _ = store.rotate("web", 86_400)
    return store, token, former


# Surrogates are what header bytes become that are no UTF-8.
ANY_CHARACTER: Final = st.characters() | st.integers(0xD800, 0xDFFF).map(chr)
ANY_TEXT: Final = st.lists(ANY_CHARACTER, max_size=50).map("".join)


@QUICK
@given(prefix=ANY_TEXT, suffix=ANY_TEXT, cut=st.integers(0, 60), former=st.booleans())
def test_any_other_token_is_unknown(
    one_key: tuple[KeyStore, str, str], prefix: str, suffix: str, cut: int, former: bool
) -> None:
    store, *tokens = one_key
    for token in (prefix, prefix + tokens[former][:cut] + suffix):
        if token not in tokens:
            with pytest.raises(InvalidKey, match="Incorrect API key"):
                store.authenticate(token)
