from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from filelock import FileLock

from manager.auth import KeyStore, digest_of, generate_key
from manager.errors import ConfigError, InvalidKey, InvalidRequest

BOTH = ("inference", "admin")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "data" / "keys.json"


@pytest.fixture
def store(path: Path) -> KeyStore:
    return KeyStore(path)


def loaded(path: Path) -> KeyStore:
    store = KeyStore(path)
    store.load()
    return store


def expire(path: Path, name: str) -> None:
    """Let a key end in the past, as the clock would."""
    document = json.loads(path.read_text())
    for key in document["keys"]:
        if key["name"] == name:
            key["expires"] = "2020-01-01T00:00:00Z"
    path.write_text(json.dumps(document))


def python(code: str, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", code, *arguments], stderr=subprocess.PIPE, text=True)


def test_key_is_prefix_and_43_base64url_characters() -> None:
    assert re.fullmatch(r"sk-lh-[A-Za-z0-9_-]{43}", generate_key())
    assert generate_key() != generate_key()


def test_created_key_authenticates_at_once_and_after_loading(store: KeyStore, path: Path) -> None:
    token, made = store.create("web", "the web app", BOTH)
    assert made.name == "web"
    assert made.description == "the web app"
    assert made.scopes == frozenset(BOTH)
    assert made.expires is None
    assert made.priority == 0
    assert store.authenticate(token) == made
    assert loaded(path).authenticate(token) == made


@pytest.mark.parametrize("priority", [-100, 7, 100])
def test_priority_is_known_of_whoever_uses_the_key(store: KeyStore, path: Path, priority: int) -> None:
    token, made = store.create("web", "", BOTH, priority=priority)
    assert made.priority == priority
    assert loaded(path).authenticate(token).priority == priority
    store.flush()
    assert loaded(path).list()[0].priority == priority


@pytest.mark.parametrize("priority", [-101, 101])
def test_priority_out_of_bounds_is_refused(store: KeyStore, path: Path, priority: int) -> None:
    with pytest.raises(InvalidRequest, match="-100 to 100") as caught:
        store.create("web", "", BOTH, priority=priority)
    assert caught.value.param == "priority"
    assert not path.exists()


def test_file_holds_the_digest_and_not_the_key(store: KeyStore, path: Path) -> None:
    token, made = store.create("web", "", BOTH)
    text = path.read_text()
    assert token not in text
    assert token.removeprefix("sk-lh-") not in text
    assert json.loads(text)["keys"][0]["digest"] == made.digest == digest_of(token)


@pytest.mark.parametrize("token", ["", "sk-lh-", "sk-lh-" + "A" * 43, "\udc80\ud800", "ключ", "x" * 100_000])
def test_unknown_key_is_refused_without_being_repeated(store: KeyStore, token: str) -> None:
    store.create("web", "", BOTH)
    with pytest.raises(InvalidKey) as caught:
        store.authenticate(token)
    assert caught.value.message == "Incorrect API key provided."


def test_expired_key_is_refused_by_name_of_the_reason(store: KeyStore, path: Path) -> None:
    token, _ = store.create("web", "", BOTH, expires=time.time() + 60)
    store.authenticate(token)
    expire(path, "web")
    store.load()
    with pytest.raises(InvalidKey, match=r"^This API key has expired\.$"):
        store.authenticate(token)


def test_expired_keys_count_so_that_expiry_opens_no_door(store: KeyStore, path: Path) -> None:
    store.create("web", "", BOTH)
    expire(path, "web")
    assert len(loaded(path)) == 1


def test_lookup_alone_is_not_enough_the_digests_are_compared(store: KeyStore) -> None:
    token, made = store.create("web", "", BOTH)
    store._by_digest = {digest_of(token): replace(made, digest=digest_of("another"))}
    with pytest.raises(InvalidKey):
        store.authenticate(token)


def test_authenticate_leaves_the_disk_alone(store: KeyStore, path: Path) -> None:
    token, _ = store.create("web", "", BOTH)
    path.unlink()
    path.parent.joinpath("keys.json.lock").unlink(missing_ok=True)
    path.parent.rmdir()
    assert store.authenticate(token).name == "web"


def test_ten_thousand_keys_are_looked_up_in_a_second(store: KeyStore) -> None:
    token, _ = store.create("web", "", BOTH)
    began = time.perf_counter()
    for _ in range(10_000):
        store.authenticate(token)
    assert time.perf_counter() - began < 1


def test_missing_file_means_no_keys(path: Path) -> None:
    store = loaded(path)
    assert len(store) == 0
    assert store.list() == ()
    assert not store.reload_if_changed()


def test_name_can_be_given_again_only_when_its_key_has_expired(store: KeyStore, path: Path) -> None:
    store.create("web", "", BOTH)
    with pytest.raises(InvalidRequest, match="'web' already") as caught:
        store.create(" web ", "", BOTH)
    assert caught.value.param == "name"
    expire(path, "web")
    store.create("web", "", BOTH)
    assert len(store) == 2


@pytest.mark.parametrize(
    ("arguments", "param"),
    [
        (("", "", BOTH), "name"),
        (("a\nb", "", BOTH), "name"),
        (("\x1b[31mred", "", BOTH), "name"),
        (("n" * 101, "", BOTH), "name"),
        (("n", "d" * 501, BOTH), "description"),
        (("n", "a\x00b", BOTH), "description"),
        (("n", "", ()), "scopes"),
        (("n", "", ("inference", "root")), "scopes"),
        (("n", "", BOTH, 1.0), "expires"),
    ],
)
def test_create_refuses_bad_arguments_and_stores_nothing(
    store: KeyStore, path: Path, arguments: tuple[str, str, tuple[str, ...]], param: str
) -> None:
    with pytest.raises(InvalidRequest) as caught:
        store.create(*arguments)
    assert caught.value.param == param
    assert not path.exists()


@pytest.mark.parametrize("by", ["id", "name"])
def test_revoked_key_is_refused(store: KeyStore, path: Path, by: str) -> None:
    token, made = store.create("web", "", BOTH)
    other, _ = store.create("other", "", BOTH)
    assert store.revoke(getattr(made, by)) == made
    for each in (store, loaded(path)):
        with pytest.raises(InvalidKey):
            each.authenticate(token)
        each.authenticate(other)


def test_revoke_of_an_unknown_key_says_so(store: KeyStore) -> None:
    with pytest.raises(InvalidRequest, match="'nobody'"):
        store.revoke("nobody")


def test_revoke_by_a_name_of_several_keys_names_their_ids(store: KeyStore, path: Path) -> None:
    _, first = store.create("web", "", BOTH)
    expire(path, "web")
    _, second = store.create("web", "", BOTH)
    with pytest.raises(InvalidRequest, match=f"{first.id}, {second.id}"):
        store.revoke("web")
    store.revoke(first.id)
    assert [key.id for key in store.list()] == [second.id]


def test_reload_sees_what_another_store_did(store: KeyStore, path: Path) -> None:
    token, _ = store.create("web", "", BOTH)
    service = loaded(path)
    assert not service.reload_if_changed()
    store.revoke("web")
    assert service.reload_if_changed()
    assert not service.reload_if_changed()
    with pytest.raises(InvalidKey):
        service.authenticate(token)


def test_reload_of_a_broken_file_keeps_the_keys(store: KeyStore, path: Path) -> None:
    token, _ = store.create("web", "", BOTH)
    path.write_text("{")
    with pytest.raises(ConfigError, match=re.escape(str(path))):
        store.reload_if_changed()
    store.authenticate(token)


def test_reload_of_a_file_that_has_gone_keeps_the_keys(store: KeyStore, path: Path) -> None:
    token, _ = store.create("web", "", BOTH)
    path.unlink()
    with pytest.raises(ConfigError, match="has gone"):
        store.reload_if_changed()
    store.flush()
    store.authenticate(token)


def test_flush_writes_the_last_use_and_only_when_there_is_news(store: KeyStore, path: Path) -> None:
    token, made = store.create("web", "", BOTH)
    before = path.stat()
    store.flush()
    assert path.stat() == before
    store.authenticate(token)
    store.flush()
    (stored,) = loaded(path).list()
    assert stored.last_used is not None
    assert stored.last_used >= made.created
    after = path.stat()
    store.flush()
    assert path.stat() == after
    assert not store.reload_if_changed()


def test_list_knows_of_uses_that_are_not_written_yet(store: KeyStore) -> None:
    token, _ = store.create("web", "", BOTH)
    store.authenticate(token)
    assert store.list()[0].last_used is not None


def test_flush_loses_neither_new_keys_nor_revocations(store: KeyStore, path: Path) -> None:
    used, _ = store.create("used", "", BOTH)
    revoked, _ = store.create("revoked", "", BOTH)
    service = loaded(path)
    service.authenticate(used)
    service.authenticate(revoked)
    added, _ = store.create("added", "", BOTH)
    store.revoke("revoked")
    service.flush()
    assert {key.name: key.last_used is None for key in loaded(path).list()} == {"used": False, "added": True}
    service.authenticate(added)
    with pytest.raises(InvalidKey):
        service.authenticate(revoked)


def test_processes_that_write_at_once_lose_nothing(store: KeyStore, path: Path) -> None:
    token, _ = store.create("service", "", BOTH)
    code = (
        "import sys; from pathlib import Path; from manager.auth import KeyStore\n"
        "store = KeyStore(Path(sys.argv[1]))\n"
        "for n in range(10):\n"
        "    store.create(f'{sys.argv[2]}-{n}', '', ['inference'])\n"
        "    if n % 2: store.revoke(f'{sys.argv[2]}-{n}')\n"
    )
    writers = [python(code, str(path), name) for name in ("a", "b")]
    while any(writer.poll() is None for writer in writers):
        store._used.clear()
        store.authenticate(token)
        store.load()
        store.flush()
    for writer in writers:
        assert writer.communicate()[1] == ""
        assert writer.returncode == 0
    expected = {f"{name}-{n}" for name in "ab" for n in range(0, 10, 2)} | {"service"}
    assert {key.name for key in loaded(path).list()} == expected


def test_write_that_fails_leaves_the_old_file_and_nothing_else(store: KeyStore, path: Path) -> None:
    store.create("web", "", BOTH)
    before, names = path.read_bytes(), set(path.parent.iterdir())
    code = (
        "import resource, sys; from pathlib import Path; from manager.auth import KeyStore\n"
        "from manager.errors import ConfigError\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (20, 20))\n"  # as a full disk: the file can't get longer
        "try: KeyStore(Path(sys.argv[1])).create('more', '', ['inference'])\n"
        "except ConfigError as error: assert 'File too large' in error.message, error.message\n"
        "else: sys.exit('no error')\n"
    )
    process = python(code, str(path))
    assert process.communicate()[1] == ""
    assert path.read_bytes() == before
    assert set(path.parent.iterdir()) == names


def test_lock_that_is_never_free_ends_in_an_error(store: KeyStore, path: Path) -> None:
    store.create("web", "", BOTH)
    with (
        FileLock(f"{path}.lock"),
        pytest.raises(ConfigError, match=re.escape(f"{path}.lock")),
    ):
        KeyStore(path, lock_timeout=0.01).create("more", "", BOTH)


def test_folder_that_can_not_be_made_is_an_error_with_the_path(tmp_path: Path) -> None:
    tmp_path.joinpath("file").write_text("")
    path = tmp_path / "file" / "keys.json"
    with pytest.raises(ConfigError, match=re.escape(str(path))):
        KeyStore(path).create("web", "", BOTH)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_root_leaves_the_file_to_its_owner(store: KeyStore, path: Path) -> None:
    store.create("web", "", BOTH)
    os.chown(path, 12345, 12345)
    store.create("more", "", BOTH)
    assert path.stat().st_uid == path.stat().st_gid == 12345
