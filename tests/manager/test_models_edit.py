"""models.json changed in place: only the entry comes or goes."""

from __future__ import annotations

import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from manager.errors import ConfigError
from manager.models_edit import NameTaken, add_entry, remove_entry
from manager.models_file import read_models_file

ENTRY: Final = {"params": {"model": "org/repo/small.gguf"}}
# As people write: their own order, spaces, blank lines and letters.
WRITTEN: Final = """{
    "$schema": "models.schema.json",

    "großes Modell": { "params": {"ctxSize": 4096, "model": "a.gguf"}, "aliases": ["groß"] },

    "bert" : {
        "description": "B\\u00e4r {\\"}, \\\\",
        "params": {"model": "b.gguf", "embedding": true},
        "profiles": {"kurz": {}}
    }
}
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "models.json"


def test_entry_comes_behind_the_last_one_as_that_is_indented(file: Path) -> None:
    file.write_text(WRITTEN)
    add_entry(file, "neu", ENTRY)
    added = ',\n\n    "neu": {\n        "params": {\n            "model": "org/repo/small.gguf"\n        }\n    }\n}\n'
    assert file.read_text() == WRITTEN.removesuffix("\n}\n") + added
    assert list(read_models_file(file)) == ["großes Modell", "bert", "neu"]


def test_removed_entry_goes_with_its_comma_and_nothing_else(file: Path) -> None:
    file.write_text(WRITTEN)
    assert remove_entry(file, "großes Modell")
    before, _, rest = WRITTEN.partition('"großes Modell"')
    assert file.read_text() == before + rest[rest.index('"bert"') :]
    assert remove_entry(file, "bert")
    assert file.read_text() == '{\n    "$schema": "models.schema.json"\n}\n'


def test_last_entry_leaves_an_empty_object(file: Path) -> None:
    file.write_text('{\n  "one": {"params": {"model": "a.gguf"}}\n}\n')
    assert remove_entry(file, "one")
    assert file.read_text() == "{}\n"


def test_what_is_no_entry_is_not_removed(file: Path) -> None:
    file.write_text(WRITTEN)
    before = file.stat()
    for name in ("groß", "bert:kurz", "$schema", "params", "nobody"):
        assert not remove_entry(file, name)
    assert file.stat() == before
    assert not remove_entry(file.with_name("none.json"), "one")
    assert not file.with_name("none.json").exists()


@pytest.mark.parametrize("name", ["bert", "groß", "bert:kurz"])
def test_name_that_is_taken_is_refused_with_its_owner(file: Path, name: str) -> None:
    file.write_text(WRITTEN)
    with pytest.raises(NameTaken, match=f"models.json: the name '{name}' is taken by"):
        add_entry(file, name, ENTRY)
    assert file.read_text() == WRITTEN


@pytest.mark.parametrize("name", ["one:calm", "uno:calm"])
def test_name_of_a_personality_is_taken(file: Path, name: str) -> None:
    file.write_text(json.dumps({"one": ENTRY | {"aliases": ["uno"], "personalities": {"calm": "Be calm."}}}))
    with pytest.raises(NameTaken, match="a personality of the entry 'one'"):
        add_entry(file, name, ENTRY)


def test_missing_file_is_made_for_everyone_to_read_as_the_umask_has_it(tmp_path: Path) -> None:
    file = tmp_path / "data" / "models.json"
    old = os.umask(0o027)
    try:
        add_entry(file, "one", ENTRY)
    finally:
        os.umask(old)
    assert file.read_text() == '{\n  "one": {\n    "params": {\n      "model": "org/repo/small.gguf"\n    }\n  }\n}\n'
    assert file.stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize("text", ["{}", "{ }\n", '{"$schema": "x"}', "\n{\n}\n"])
def test_file_without_entries_gets_one(file: Path, text: str) -> None:
    file.write_text(text)
    add_entry(file, "one", ENTRY)
    assert list(read_models_file(file)) == ["one"]
    assert remove_entry(file, "one")
    assert json.loads(file.read_text()) == json.loads(text)


def test_object_on_one_line_stays_on_one_line(file: Path) -> None:
    file.write_text('{"a": {"params": {"model": "a.gguf"}}}')
    add_entry(file, "b", ENTRY)
    assert file.read_text() == f'{{"a": {{"params": {{"model": "a.gguf"}}}}, "b": {json.dumps(ENTRY)}}}'


def test_line_ends_and_byte_order_mark_stay(file: Path) -> None:
    text = "\ufeff" + WRITTEN.replace("\n", "\r\n")
    file.write_text(text, newline="")
    add_entry(file, "neu", ENTRY)
    written = file.read_bytes()
    assert written.startswith(text.removesuffix("\r\n}\r\n").encode())
    assert written.count(b"\n") == written.count(b"\r\n")
    assert remove_entry(file, "neu")
    assert file.read_bytes() == text.encode()


@pytest.mark.parametrize(
    "text", ["", "[", "[]", '{"a": 1}', '{"a": {"params": {"model": "x", "ctx_sise": 1}}}', '{"a":{},"a":{}}', "\x80"]
)
def test_broken_file_is_refused_in_its_own_words_and_not_touched(file: Path, text: str) -> None:
    file.write_bytes(text.encode("latin-1"))
    with pytest.raises(ConfigError) as reading:
        read_models_file(file)
    for edit in (lambda: add_entry(file, "one", ENTRY), lambda: remove_entry(file, "a")):
        with pytest.raises(ConfigError) as editing:
            edit()
        assert editing.value.message == reading.value.message
    assert file.read_bytes() == text.encode("latin-1")


@pytest.mark.parametrize(
    ("name", "entry", "words"),
    [
        ("one", {"params": {}}, "one.params.model: is missing"),
        ("a,b", ENTRY, "'a,b': a model name must not contain a comma"),
        ("one", {"params": {"model": "a.gguf", "temperature": float("nan")}}, "NaN is not a number"),
        ("\udc80", ENTRY, "'\\udc80': the name has half of a character"),
    ],
)
def test_entry_that_would_break_the_file_is_refused(file: Path, name: str, entry: dict[str, Any], words: str) -> None:
    file.write_text(WRITTEN)
    with pytest.raises(ConfigError) as refused:
        add_entry(file, name, entry)
    assert refused.value.message.startswith((f"{file}: {words}", f"{file}, {words}"))
    assert file.read_text() == WRITTEN
    assert left(file) == {"models.json"}


def left(file: Path) -> set[str]:
    """What lies in the folder, but for the lock."""
    return {path.name for path in file.parent.iterdir()} - {"models.json.lock"}


def test_link_stays_and_what_it_leads_to_keeps_its_mode(file: Path, tmp_path: Path) -> None:
    real = tmp_path / "elsewhere" / "own.json"
    real.parent.mkdir()
    real.write_text(WRITTEN)
    real.chmod(0o660)
    file.symlink_to(real)
    add_entry(file, "neu", ENTRY)
    assert file.is_symlink()
    assert "neu" in read_models_file(real)
    assert real.stat().st_mode & 0o777 == 0o660
    assert left(real) == {"own.json", "own.json.lock"}


def test_what_an_editor_saves_meanwhile_is_not_lost(file: Path) -> None:
    class Slow(dict[str, Any]):
        """An entry during whose writing the file is saved by somebody else."""

        def items(self) -> Any:
            file.write_text("{}")
            return super().items()

    file.write_text(WRITTEN)
    with pytest.raises(ConfigError, match="it was changed while"):
        add_entry(file, "one", Slow(ENTRY))
    assert file.read_text() == "{}"
    assert left(file) == {"models.json"}


def test_entries_that_come_at_once_all_come(file: Path) -> None:
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda number: add_entry(file, f"m{number}", ENTRY), range(8)))
    assert set(read_models_file(file)) == {f"m{number}" for number in range(8)}


def test_folder_that_can_not_be_written_to_is_told(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("a file")
    with pytest.raises(ConfigError, match="can't write"):
        add_entry(tmp_path / "data" / "models.json", "one", ENTRY)


NAMES: Final = st.text(st.characters(exclude_categories=("Cs", "Cc")), min_size=1, max_size=8).filter(
    lambda name: name == name.strip() and "," not in name and not name.startswith("/") and name != "$schema"
)
SPACE: Final = st.text(" \t\r\n", max_size=3)


@st.composite
def files(draw: st.DrawFn) -> bytes:
    """A valid models.json with odd spaces."""
    names = draw(st.lists(NAMES, min_size=1, max_size=4, unique=True))

    def spaced(text: str) -> str:
        return draw(SPACE) + text + draw(SPACE)

    members = [
        spaced(json.dumps(name, ensure_ascii=draw(st.booleans())))
        + ":"
        + spaced(json.dumps(ENTRY | {"description": draw(NAMES)}, indent=draw(st.sampled_from([None, 1, 4]))))
        for name in names
    ]
    mark = "\ufeff" if draw(st.booleans()) else ""
    return (mark + spaced("{" + ",".join(members) + "}")).encode()


@given(content=files(), name=NAMES)
def test_adding_and_removing_gives_the_same_bytes(
    content: bytes, name: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    file = tmp_path_factory.getbasetemp() / "same" / "models.json"
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(content)
    before = read_models_file(file)
    if name in before:
        assert remove_entry(file, name)
        assert read_models_file(file) == {known: entry for known, entry in before.items() if known != name}
        return
    add_entry(file, name, ENTRY)
    assert list(read_models_file(file)) == [*before, name]
    assert remove_entry(file, name)
    assert file.read_bytes() == content
