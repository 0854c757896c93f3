"""Places in JSON, and changes of one member."""

from __future__ import annotations

import json
from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from manager.json_text import Places, deeper, line_end, members, outermost, with_member, with_value, without_member

WRITTEN: Final = """{
  "a": {"x": [1, {"y": "}]\\""}, []], "z": 2},

  "b.c" : {},
  "a": null
}
"""


@pytest.mark.parametrize(
    ("path", "place"),
    [
        ((), (1, 1)),
        (("b.c",), (4, 3)),
        (("b.c", "nothing", "below"), (4, 3)),
        (("a",), (5, 3)),  # the second one
        (("nobody",), (1, 1)),
    ],
)
def test_a_place_is_that_of_the_last_part_on_the_path_that_there_is(path: tuple[str, ...], place: Any) -> None:
    assert Places(WRITTEN).find(path) == place


@pytest.mark.parametrize(
    ("path", "column"),
    [(("a", "x"), 9), (("a", "x", "1"), 18), (("a", "x", "1", "y"), 19), (("a", "x", "2"), 33), (("a", "x", "9"), 9)],
)
def test_items_of_lists_have_places(path: tuple[str, ...], column: int) -> None:
    text = WRITTEN.replace(',\n  "a": null', "")
    assert Places(text).find(path) == (2, column)


@pytest.mark.parametrize(
    ("text", "at"),
    [
        ('[{"[[[": "]"}, [], {}, "\\"[[["]', None),
        ('[{"[[[": "]"}, [], {"a": []}]', 25),
        ("[[[", 2),
        ("]]][[", None),
        ('[["a\n[[[', None),  # which no string may have
        ('[["[[[', None),
    ],
)
def test_the_first_place_that_is_too_deep_is_found_in_any_text(text: str, at: int | None) -> None:
    assert deeper(text, 2) == at


def test_most_lines_say_how_lines_end() -> None:
    assert [line_end(text) for text in ("", "a\r\nb\n", "a\r\nb\nc\r\n")] == ["\n", "\n", "\r\n"]


def test_lines_are_counted_where_they_end_with_two_characters() -> None:
    assert Places(WRITTEN.replace("\n", "\r\n")).find(("b.c",)) == (4, 3)


def test_a_value_is_changed_and_nothing_else() -> None:
    text = '{"a" : {"on":\tfalse , "b":[1 ]}}'
    (entry,) = members(text, outermost(text))
    field, _ = members(text, entry.value)
    assert with_value(text, field, True) == '{"a" : {"on":\ttrue , "b":[1 ]}}'


VALUES: Final = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


@given(
    data=st.dictionaries(st.text(max_size=3), VALUES, max_size=4),
    indent=st.sampled_from([None, 0, 2]),
    name=st.text(max_size=3),
    value=VALUES,
)
def test_every_object_can_be_taken_apart_and_put_together(
    data: dict[str, Any], indent: int | None, name: str, value: Any
) -> None:
    text = json.dumps(data, indent=indent, ensure_ascii=False)
    found = members(text, outermost(text))
    assert {one.name: json.loads(text[one.value : one.end]) for one in found} == data
    for one in found:
        assert (
            json.loads(text[one.start :].partition(":")[0] if ":" not in one.name else json.dumps(one.name)) == one.name
        )
        assert json.loads(with_value(text, one, value)) == {**data, one.name: value}
        assert json.loads(without_member(text, 0, one.name)) == {k: v for k, v in data.items() if k != one.name}
    if name not in data:
        added = with_member(text, 0, name, value)
        assert json.loads(added) == {**data, name: value}
        assert json.loads(without_member(added, 0, name)) == data
