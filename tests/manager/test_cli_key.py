from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from manager.auth import KeyStore
from manager.cli.key_table import table_of
from manager.errors import InvalidKey
from manager.key_file import ApiKey
from tests.manager.conftest import Run

LIMITS = ("--requests-per-minute", "60", "--tokens-per-day", "1000000", "--at-once", "4")


@pytest.fixture
def key(run: Run) -> Run:
    """`llamaherd key`."""
    return lambda *arguments: run("key", *arguments)


def stored() -> KeyStore:
    store = KeyStore(Path("data/keys.json"))
    store.load()
    return store


def only() -> ApiKey:
    (one,) = stored().list()
    return one


def listed(key: Run) -> dict[str, Any]:
    (one,) = json.loads(key("list", "--json")[1])
    assert isinstance(one, dict)
    return one


def test_limits_and_models_of_a_new_key_are_kept_and_said(key: Run) -> None:
    code, out, err = key("create", "web", "--model", "qwen", "--model", "smollm2", *LIMITS)
    assert code == 0
    made = stored().authenticate(out.strip())
    assert made.models == frozenset({"qwen", "smollm2"})
    assert (made.requests_per_minute, made.tokens_per_day, made.at_once) == (60, 1_000_000, 4)
    assert "inference; only qwen, smollm2; 60 requests/min; 1,000,000 tokens/day; 4 at once" in err
    shown = listed(key)
    assert shown["models"] == ["qwen", "smollm2"]
    assert (shown["requests_per_minute"], shown["tokens_per_day"], shown["at_once"]) == (60, 1_000_000, 4)


def test_model_that_is_not_there_is_a_warning_only(key: Run, tiny_gguf: Path) -> None:
    Path("data").mkdir()
    Path("data/models.json").write_text(json.dumps({"there": {"params": {"model": str(tiny_gguf)}}}))
    code, out, err = key("create", "web", "--model", "there", "--model", "absent")
    assert code == 0
    assert stored().authenticate(out.strip()).models == frozenset({"there", "absent"})
    assert "There is no model 'absent' at present" in err
    assert "'there'" not in err
    assert "'later'" in key("change", "web", "--model", "later")[2]


def test_mistake_in_models_file_does_not_matter_to_keys(key: Run) -> None:
    Path("data").mkdir()
    Path("data/models.json").write_text("[")
    code, out, _ = key("create", "web", "--model", "qwen")
    assert code == 0
    stored().authenticate(out.strip())


def test_rotated_key_is_alone_on_standard_output_and_the_old_one_stays_a_day(key: Run) -> None:
    _, old, _ = key("create", "web", *LIMITS)
    before = only()
    code, new, err = key("rotate", "web")
    assert code == 0
    store = stored()
    now = store.authenticate(new.strip())
    assert store.authenticate(old.strip()) == now
    assert (now.id, now.at_once, now.former) == (before.id, 4, before.digest)
    assert now.former_until is not None
    assert 86_400 <= now.former_until - before.created < 86_460
    assert "the old one is valid until" in err
    assert "still valid" not in err


def test_rotation_without_overlap_ends_the_old_key(key: Run) -> None:
    _, old, _ = key("create", "web")
    _, new, err = key("rotate", "web", "--overlap", "0")
    assert "the old one is valid no longer" in err
    stored().authenticate(new.strip())
    with pytest.raises(InvalidKey):
        stored().authenticate(old.strip())


def test_second_rotation_says_that_it_cut_the_overlap_of_the_first(key: Run) -> None:
    key("create", "web")
    key("rotate", "web", "--overlap", "7d")
    code, out, err = key("rotate", "web", "--json")
    assert code == 0
    assert "The key before these two was still valid; that ended now." in err
    assert stored().authenticate(json.loads(out)["key"]) == only()


def test_old_key_is_said_to_end_with_the_expiry_where_that_comes_first(key: Run) -> None:
    key("create", "web", "--expires", "2h")
    _, _, err = key("rotate", "web", "--overlap", "2100-01-01T00:00", "--json")
    assert err == "llamaherd: An overlap is 0 to 366 days.\n"
    ends = only().expires
    assert ends is not None
    _, _, err = key("rotate", "web", "--overlap", "7d")
    shown = listed(key)["expires"]
    assert f"valid until {shown[:10]} {shown[11:16]} UTC" in err


def test_change_is_of_what_is_named_and_none_takes_it_away(key: Run) -> None:
    _, token, _ = key("create", "web", "--model", "qwen", "--expires", "30d", *LIMITS)
    before = listed(key)
    code, out, _ = key("change", "web", "--tokens-per-day", "none", "--at-once", "8", "--description", "the web app")
    assert code == 0
    assert "8 at once" in out
    assert listed(key) == before | {"tokens_per_day": None, "at_once": 8, "description": "the web app"}
    code, out, _ = key(
        *("change", "web", "--all-models", "--expires", "never", "--requests-per-minute", "none", "--at-once", "none"),
        *("--scope", "admin", "--priority", "-3", "--json"),
    )
    assert code == 0
    assert json.loads(out) == listed(key)
    plain = {"models": None, "expires": None, "requests_per_minute": None, "tokens_per_day": None, "at_once": None}
    changed = {"scopes": ["admin"], "priority": -3, "description": "the web app"}
    assert listed(key) == before | plain | changed
    assert stored().authenticate(token.strip()) == only()


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["create", "x", "--at-once", "0"], "--at-once"),
        (["create", "x", "--tokens-per-day", "many"], "--tokens-per-day"),
        (["change", "web"], "Nothing to change"),
        (["change", "web", "--at-once", "0"], "'0' is no limit"),
        (["change", "web", "--at-once", "-1"], "'-1' is no limit"),
        (["change", "web", "--at-once", "9" * 5000], "is no limit"),
        (["change", "web", "--tokens-per-day", "²"], "'²' is no limit"),
        (["change", "web", "--model", "a", "--all-models"], "exclude each other"),
        (["change", "web", "--expires", "soon"], "soon"),
        (["rotate", "web", "--overlap", "long"], "long"),
    ],
)
def test_mistake_in_options_is_exit_2_and_changes_nothing(key: Run, arguments: list[str], word: str) -> None:
    key("create", "web")
    before = only()
    code, out, err = key(*arguments)
    assert (code, out) == (2, "")
    assert word in err
    assert only() == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["change", "nobody", "--at-once", "1"], "No key has the id or the name 'nobody'."),
        (["rotate", "nobody"], "No key has the id or the name 'nobody'."),
        (["change", "web", "--at-once", "10001"], "At once: 1 to 10,000."),
        (["create", "more", "--requests-per-minute", "1000001"], "Requests per minute: 1 to 1,000,000."),
        (["change", "web", "--expires", "2001-01-01"], "The expiry of a key must lie in the future."),
        (["rotate", "web", "--overlap", "2001-01-01"], "An overlap is 0 to 366 days."),
        (["create", "more", "--model", " "], "The models of a key are names of printable characters."),
    ],
)
def test_what_can_not_be_done_is_one_line_and_exit_1(key: Run, arguments: list[str], message: str) -> None:
    key("create", "web")
    before = only()
    assert key(*arguments) == (1, "", f"llamaherd: {message}\n")
    assert only() == before


def test_list_shows_no_digest_of_a_former_key(key: Run) -> None:
    key("create", "web")
    former = only().digest
    key("rotate", "web")
    digest = only().digest
    for arguments in (["list"], ["list", "--json"]):
        _, out, err = key(*arguments)
        assert "web" in out
        assert former not in out + err
        assert digest not in out + err


def test_list_fits_a_terminal_of_80_columns_with_all_its_words() -> None:
    whole = ApiKey(
        id="0123abcd",
        name="production-web-application-of-everybody",
        description="for the web application",
        digest="ab" * 32,
        scopes=frozenset({"inference", "admin"}),
        created=1_800_000_000.0,
        expires=1_900_000_000.0,
        last_used=1_800_086_400.0,
        priority=-42,
        models=frozenset({"qwen3-30b-a3b-instruct-2507-q4_k_m", "smollm2"}),
        requests_per_minute=60,
        tokens_per_day=100_000_000,
        at_once=4,
        former="cd" * 32,
        former_until=1_800_172_800.0,
    )
    out = io.StringIO()
    Console(file=out, width=80).print(table_of([whole], 1_800_100_000.0))
    rows = out.getvalue().splitlines()
    assert max(map(len, rows)) == 80
    assert "…" not in out.getvalue()
    cells = [[cell.strip() for cell in row.split("│")[1:-1]] for row in rows if row.startswith("│")]
    ids, names, rights, times = ("".join(column) for column in zip(*cells, strict=True))
    assert ids == "0123abcd"
    assert names.replace(" ", "") == "production-web-application-of-everybodyforthewebapplication"
    for words in ("qwen3-30b-a3b-instruct-2507-q4_k_m", "60 requests/min", "100,000,000", "tokens/day", "4 at once"):
        assert words in rights
    assert "priority -42" in rights
    assert times == ("made   2027-01-15 08:00used   2027-01-16 08:00ends   2030-03-17 17:46former 2027-01-17 08:00")


def test_list_shows_what_has_ended_as_ended() -> None:
    key = ApiKey("0123abcd", "web", "", "ab" * 32, frozenset({"inference"}), 1.8e9, expires=1.8e9 + 60)
    out = io.StringIO()
    Console(file=out, width=200).print(table_of([key], 1.8e9 + 60))
    assert "ended  2027-01-15 08:01" in out.getvalue()


def test_what_is_done_to_keys_is_in_the_audit_log(key: Run) -> None:
    _, out, _ = key("create", "laptop")
    key("change", "laptop", "--at-once", "2")
    key("rotate", "laptop", "--overlap", "0")
    key("revoke", "laptop")
    log = Path("data/audit.log").read_text()
    lines = [json.loads(line) for line in log.splitlines()]
    assert [line["action"] for line in lines] == ["key created", "key changed", "key rotated", "key revoked"]
    assert {line["name"] for line in lines} == {"laptop"}
    assert all(line["actor"].startswith("command line (") for line in lines)
    assert out.startswith("sk-lh-")
    assert "sk-lh-" not in log


def test_a_key_is_shown_where_the_audit_log_cannot_be_written(key: Run) -> None:
    Path("data/audit.log").mkdir(parents=True)
    code, out, err = key("create", "laptop")
    assert (code, out[:6]) == (0, "sk-lh-")
    assert "not in the audit log" in err
