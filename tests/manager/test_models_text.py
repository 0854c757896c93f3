"""models.json as a text: what it is refused for, and how it is replaced."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, Final

import pytest

from manager import json_text, models_edit
from manager import mistakes as manager_mistakes
from manager.key_file import locked
from manager.models_edit import FileChanged, NotWritten
from manager.models_text import TextRefused, Unreadable, check_models_text, read_models_text, write_models_text
from manager.settings import Settings
from tests.conftest import EMPTY_GGUF, MakeSettings

ONE: Final = '{"one": {"params": {"model": "one.gguf"}}}\n'


@pytest.fixture
def settings(make_settings: MakeSettings) -> Settings:
    made = make_settings()
    made.storage.models_folder.mkdir(parents=True)
    (made.storage.models_folder / "one.gguf").write_bytes(EMPTY_GGUF)
    return made


@pytest.fixture
def file(settings: Settings) -> Path:
    return settings.storage.models_file


def mistakes(settings: Settings, text: str) -> list[tuple[Any, ...]]:
    """Line, column, path and message of each."""
    return [
        tuple(one[key] for key in ("line", "column", "path", "message")) for one in check_models_text(settings, text)
    ]


def test_what_a_reload_would_take_has_no_mistakes(settings: Settings, file: Path) -> None:
    assert mistakes(settings, ONE) == mistakes(settings, "{}") == mistakes(settings, "\ufeff{}\r\n") == []
    assert not file.exists()


def test_an_entry_whose_file_is_missing_is_no_mistake(settings: Settings) -> None:
    assert mistakes(settings, '{"two": {"params": {"model": "missing.gguf"}}}') == []


MANY: Final = """{
  "one": {
    "params": {"model": "one.gguf", "ctx_sise": 5, "lora": [{"path": "a"}, {"path": 3}]},
    "pinned": "yes"
  },
  "two": {"params": {"model": "../out.gguf"}, "aliases": ["uno"]},
  "three": {"params": {"model": "a.gguf", "temperature": -1}, "aliases": ["x", " y"]},
  "four": {"params": {"model": "a.gguf"}, "aliases": ["uno"], "template": "no-such"},
  "a,b": {"params": {}},
  "five": {"params": {"model": "a.gguf"}, "request": {"strip": ["top_k", "messages"]}},
  "six": {"params": {"model": "a.gguf"}, "ttl": 5, "ttl": 6}
}
"""


def test_every_mistake_is_told_with_its_place(settings: Settings) -> None:
    found = mistakes(settings, MANY)
    assert [(line, column, path) for line, column, path, _ in found] == [
        (11, 52, "six.ttl"),
        (3, 37, "one.params.ctx_sise"),
        (7, 43, "three.params.temperature"),
        (9, 3, "'a,b'"),
        (10, 74, "five.request.strip.1"),
        (6, 22, "two.params.model"),
        (8, 43, "four.aliases"),
        (8, 63, "four.template"),
    ]
    said = {path: message for _, _, path, message in found}
    assert said["one.params.ctx_sise"].startswith("unknown key; did you mean")
    assert said["'a,b'"] == "a model name must not contain a comma"
    assert said["four.aliases"] == "the name 'uno' is taken by the entry two"
    assert "leads out of the models folder" in said["two.params.model"]


def test_what_is_missing_is_told_where_it_would_be(settings: Settings) -> None:
    assert mistakes(settings, '{"a":\n {"params":\n  {}}}') == [(2, 3, "a.params.model", "is missing")]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ('{\n  "a": ]\n}', (2, 8, None, "not valid JSON: expecting value")),
        ("", (1, 1, None, "not valid JSON: expecting value")),
        ("[]", (None, None, None, "must be an object with an entry for each model")),
        ('{"a": NaN}', (None, None, None, "NaN is not a number that JSON allows")),
        (f'{{"a":\n {"[" * 100_000}}}', (2, 51, None, "is nested too deeply: more than 50 levels")),
    ],
)
def test_what_is_no_json_has_the_place_that_the_parser_tells(settings: Settings, text: str, found: Any) -> None:
    assert mistakes(settings, text) == [found]


def test_what_the_settings_say_stands_against_a_text_without_a_place(
    make_settings: MakeSettings, tmp_path: Path
) -> None:
    (tmp_path / "other.gguf").write_bytes(EMPTY_GGUF)
    settings = make_settings(model={"path": tmp_path / "other.gguf", "name": "one"})
    (found,) = mistakes(settings, ONE)
    assert found[:3] == (None, None, None)
    assert found[3].startswith("model.name: 'one' is")


def test_a_missing_file_reads_as_an_empty_object_and_is_made(settings: Settings, file: Path) -> None:
    seen = read_models_text(file)
    assert (seen.text, seen.version, seen.writable) == ("{}\n", "missing", True)
    write_models_text(settings, ONE, seen.version)
    assert file.read_text() == read_models_text(file).text == ONE


def test_the_version_is_another_one_for_each_content(settings: Settings, file: Path) -> None:
    file.write_text(ONE)
    first = read_models_text(file).version
    file.write_text("{}")
    assert len({first, read_models_text(file).version, "missing"}) == 3
    file.write_text(ONE)
    assert read_models_text(file).version == first


def test_a_text_with_a_mistake_is_not_written(settings: Settings, file: Path) -> None:
    file.write_text(ONE)
    with pytest.raises(TextRefused) as refused:
        write_models_text(settings, '{"one": {"params": {}}}', read_models_text(file).version)
    assert refused.value.message == "line 1, column 10: one.params.model: is missing"
    assert refused.value.more["mistakes"] == check_models_text(settings, '{"one": {"params": {}}}')
    assert file.read_text() == ONE


def test_what_was_changed_meanwhile_stays(settings: Settings, file: Path) -> None:
    file.write_text(ONE)
    seen = read_models_text(file)
    file.write_text("{ }")
    with pytest.raises(FileChanged):
        write_models_text(settings, "{}", seen.version)
    assert file.read_text() == "{ }"
    file.unlink()
    with pytest.raises(FileChanged):
        write_models_text(settings, "{}", seen.version)
    assert not file.exists()


def test_a_file_with_a_mistake_can_be_read_and_mended(settings: Settings, file: Path) -> None:
    file.write_text('{"one": ')
    seen = read_models_text(file)
    assert seen.text == '{"one": '
    write_models_text(settings, ONE, seen.version)
    assert file.read_text() == ONE


def test_byte_order_mark_and_line_ends_stay(settings: Settings, file: Path) -> None:
    file.write_bytes(b"\xef\xbb\xbf{\r\n}\r\n")
    seen = read_models_text(file)
    assert seen.text == "{\n}\n"
    for text in (ONE, ONE.replace("\n", "\r\n")):
        write_models_text(settings, text, read_models_text(file).version)
        assert file.read_bytes() == b"\xef\xbb\xbf" + ONE.replace("\n", "\r\n").encode()


def test_where_nothing_is_new_nothing_is_written_and_else_most_lines_decide(settings: Settings, file: Path) -> None:
    file.write_bytes(b"{\n\r\n\n}\r\n")
    before = file.stat()
    write_models_text(settings, "{\n\n\n}\n", read_models_text(file).version)
    assert file.stat() == before
    file.write_bytes(b"{\n\r\n\n}")
    write_models_text(settings, ONE, read_models_text(file).version)
    assert file.read_bytes() == ONE.encode()
    file.write_bytes(b"{\n\r\n}\r\n")
    write_models_text(settings, ONE, read_models_text(file).version)
    assert file.read_bytes() == ONE.replace("\n", "\r\n").encode()


def test_what_was_written_is_given_back(settings: Settings, file: Path) -> None:
    file.write_bytes(b"\xef\xbb\xbf{\r\n}\r\n")
    for text in (ONE, ONE, ONE.replace("\n", "\r\n")):
        assert write_models_text(settings, text, read_models_text(file).version) == read_models_text(file)


def test_what_is_no_text_is_shown_as_far_as_it_is_one_and_can_be_mended(settings: Settings, file: Path) -> None:
    file.write_bytes(b'{"$schema": "\x80"}')
    seen = read_models_text(file)
    assert (seen.text, seen.writable) == ('{"$schema": "\ufffd"}', True)
    assert write_models_text(settings, seen.text, seen.version).text == file.read_text() == seen.text


def test_what_can_not_be_read_is_not_shown_nor_replaced(settings: Settings, file: Path) -> None:
    file.mkdir()
    with pytest.raises(Unreadable, match="can't be read: Is a directory"):
        read_models_text(file)
    with pytest.raises(NotWritten, match="can't be read: Is a directory"):
        write_models_text(settings, ONE, "missing")
    assert mistakes(settings, ONE) == []
    assert mistakes(settings, POWERS) != []


def test_a_link_stays_and_what_it_leads_to_is_replaced(settings: Settings, file: Path, tmp_path: Path) -> None:
    real = tmp_path / "elsewhere.json"
    real.write_text("{}")
    file.symlink_to(real)
    write_models_text(settings, ONE, read_models_text(file).version)
    assert file.is_symlink()
    assert real.read_text() == ONE


def test_a_folder_that_takes_no_files_is_told(settings: Settings, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file.write_text(ONE)

    def full(*_: Any, **__: Any) -> int:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(models_edit, "_create", full)
    with pytest.raises(NotWritten, match="can't write: Read-only file system"):
        write_models_text(settings, "{}", read_models_text(file).version)
    assert file.read_text() == ONE
    monkeypatch.setattr("os.access", lambda path, mode: False)
    assert not read_models_text(file).writable


def test_a_lock_that_another_process_holds_is_told(
    settings: Settings, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(models_edit, "LOCK_WITHIN", 0.01)
    with locked(file, 1.0), pytest.raises(NotWritten, match="another process has held the lock"):
        write_models_text(settings, "{}", "missing")
    assert not file.exists()


POWERS: Final = """{
  "h": {"engine": "hf", "params": {"model": "h", "trustRemoteCode": true, "allow_pickle": true}},
  "g": {"params": {"model": "g.gguf", "extraArgs": ["--verbose"]}}
}
"""


def test_what_could_run_code_is_for_the_machine_itself_to_give(settings: Settings, file: Path) -> None:
    told = [(line, path) for line, _, path, _ in mistakes(settings, POWERS)]
    assert told == [(2, "h.params.allow_pickle"), (2, "h.params.trustRemoteCode"), (3, "g.params.extraArgs")]
    with pytest.raises(TextRefused, match="can't be given over HTTP"):
        write_models_text(settings, POWERS, "missing")
    assert not file.exists()


def test_what_the_machine_has_given_stays_for_that_model(settings: Settings, file: Path) -> None:
    file.write_text(POWERS)
    renamed = POWERS.replace('"h": {', '"other": {').replace('"params"', '"pinned": true, "params"')
    write_models_text(settings, renamed, read_models_text(file).version)
    assert file.read_text() == renamed
    for text in (POWERS.replace('"model": "h"', '"model": "b"'), POWERS.replace("--verbose", "--path")):
        assert mistakes(settings, text)
        with pytest.raises(TextRefused):
            write_models_text(settings, text, read_models_text(file).version)
    less = POWERS.replace('"trustRemoteCode": true', '"trustRemoteCode": false').replace('"--verbose"', "")
    write_models_text(settings, less, read_models_text(file).version)
    assert mistakes(settings, POWERS)


def test_the_same_text_is_not_written_again(settings: Settings, file: Path) -> None:
    file.write_text(ONE)
    before = file.stat()
    write_models_text(settings, ONE, read_models_text(file).version)
    assert file.stat() == before


def test_of_many_mistakes_the_first_are_told(settings: Settings) -> None:
    text = json.dumps({f"m{number}": {"x": number, "params": {"model": "a.gguf"}} for number in range(101)}, indent=1)
    found = mistakes(settings, text)
    assert [line for line, *_ in found] == [*(3 + 6 * number for number in range(100)), None]
    assert found[-1] == (None, None, None, "there are more mistakes than these 100")
    assert len(mistakes(settings, text.replace('"x": 7,', ""))) == 100


MANY_KEYS: Final = ",".join(f'"ctx_siz{number}": 1' for number in range(20_000))
TWICE: Final = ",".join('"a": 1' for _ in range(20_000))


@pytest.mark.parametrize(
    "text",
    [
        f'{{"m": {{"params": {{"model": "a", {MANY_KEYS}}}}}}}',
        f'{{"m": {{{MANY_KEYS}}}}}',
        f"{{{MANY_KEYS}}}",
        '{"' + "k" * 100_000 + f'": {{{MANY_KEYS}}}}}',
        '{"m": {"params": {"model": "a", "lora": [' + ",".join("1" * 20_000) + "]}}}",
        '{"m": {"params": {"model": "a"}, "aliases": [' + ",".join('" "' for _ in range(20_000)) + "]}}",
        '{"m": {"params": {"model": "a"}, "aliases": [' + ",".join('"a"' for _ in range(20_000)) + "]}}",
        '{"m": {"params": {"model": "a"}, "request": {"strip": ["a"' + ', "input"' * 20_000 + "]}}}",
        "{" + ",".join(f'"{number}": {{{TWICE[:6]}, {TWICE[:6]}}}' for number in range(5000)) + "}",
        "{" + ",".join(f'"{number}": {{"engine": "hf", "params": {{"model": "/x"}}}}' for number in range(5000)) + "}",
    ],
)
def test_an_answer_is_short_whatever_is_wrong(settings: Settings, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    read = 0

    def counted(text: str, at: int) -> Any:
        nonlocal read
        value, end = json.JSONDecoder().raw_decode(text, at)
        read += end - at
        return value, end

    compared: list[str] = []

    def recorded(word: str, words: Any, **_: Any) -> list[str]:
        compared.append(word)
        assert len(words) <= 100
        return []

    monkeypatch.setattr(json_text, "_decode", counted)
    monkeypatch.setattr(manager_mistakes, "get_close_matches", recorded)
    found = check_models_text(settings, text)
    assert len(found) == 101
    assert len(json.dumps(found)) < 50_000
    assert len(compared) <= 101
    assert read <= 6 * len(text)


def test_names_of_profiles_with_aliases_are_counted_and_not_made(settings: Settings) -> None:
    aliases = [f"alias-{number}" for number in range(20_000)]
    profiles: dict[str, Any] = {f"p{number}": {} for number in range(100)}
    text = json.dumps({"m": {"params": {"model": "one.gguf"}, "aliases": aliases, "profiles": profiles}})
    (found,) = mistakes(settings, text)
    assert found[2:] == ("m", "there are more than 100,000 names of models, aliases and profiles")


def test_what_every_profile_repeats_is_bounded(settings: Settings) -> None:
    fields = {f"field{number}": 1 for number in range(101)}
    request = {"strip": list(fields), "set": fields, "default": fields}
    entry = {"params": {"model": "one.gguf"}, "request": request, "profiles": {f"p{n}": {} for n in range(101)}}
    found = mistakes(settings, json.dumps({"m": entry}))
    assert [path for _, _, path, _ in found] == [f"m.request.{part}" for part in ("set", "default", "strip")] + [
        "m.profiles"
    ]


@pytest.mark.parametrize("number", [2**64, -(2**63) - 1, 10**400])
def test_a_number_that_no_answer_could_have_is_a_mistake(settings: Settings, number: int) -> None:
    for params in ({"n_predict": number}, {"quantization": {"x": [number]}}):
        entry = {"engine": "hf", "params": {"model": "h", **params}}
        (found, *_) = mistakes(settings, json.dumps({"h": entry}))
        assert found[3] == "is a number of more than 64 bits"


def test_a_name_of_a_split_model_costs_no_look_at_as_many_files(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks, stat = [], Path.stat

    def counted(path: Path, **options: Any) -> Any:
        looks.append(path)
        return stat(path, **options)

    monkeypatch.setattr(Path, "stat", counted)
    for parts in ("00999", "01000", "99999"):
        assert mistakes(settings, f'{{"m": {{"params": {{"model": "x-00001-of-{parts}.gguf"}}}}}}') == []
    assert len(looks) < 100


def test_a_path_that_is_not_utf8_can_be_told(make_settings: MakeSettings, tmp_path: Path) -> None:
    folder = Path(os.fsdecode(bytes(tmp_path) + b"/m\xff"))
    settings = make_settings(storage={"models_folder": folder, "models_file": folder / "models.json"})
    (found,) = mistakes(settings, '{"m": {"params": {"model": "../x"}}}')
    assert found[3].endswith("/m\ufffd")
    assert read_models_text(folder / "models.json").as_dict()["path"] == f"{tmp_path}/m\ufffd/models.json"
