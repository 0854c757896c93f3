"""Answers that follow a grammar: whatever is drawn among the tokens that may come is right, and ends where it may."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import pytest

from manager.engines.hf.generation import Matcher
from manager.engines.hf.grammar.fields import GrammarSpec, closed, grammar_spec
from manager.engines.hf.grammar.gbnf import lark_of
from manager.engines.hf.grammar.grammars import GrammarError, Grammars
from manager.engines.hf.wire.unsupported import FieldError
from tests.hf_models import END_ID, byte_tokenizer

ROWS = 300  # more rows of logits than tokens, as many models have
PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 8},
        "age": {"type": "integer", "minimum": 0, "maximum": 120},
        "height": {"type": "number"},
        "tags": {"type": "array", "items": {"enum": ["a", "b"]}, "maxItems": 3},
        "pet": {"anyOf": [{"type": "null"}, {"$ref": "#/$defs/pet"}]},
    },
    "required": ["name", "age", "tags"],
    "$defs": {"pet": {"type": "object", "properties": {"legs": {"const": 4}}, "required": ["legs"]}},
}


class Model:
    """A tokenizer with a token per byte, and a model that draws evenly among all tokens that may come."""

    def __init__(self) -> None:
        self.tokenizer = byte_tokenizer(template=None).backend_tokenizer
        self.grammars = Grammars(self.tokenizer, ROWS, frozenset({END_ID}))

    def matcher(self, **body: Any) -> Matcher:
        spec = grammar_spec(body)
        assert spec is not None
        return self.grammars.compile(spec).matcher()

    def ids(self, text: str) -> list[int]:
        return list(self.tokenizer.encode(text, add_special_tokens=False).ids)

    def fits(self, matcher: Matcher, text: str) -> bool:
        """Whether the text may be written, and the answer may end with it."""
        for token in self.ids(text):
            if not matcher.mask()[token]:
                return False
            matcher.accept(token)
        return bool(matcher.mask()[END_ID])

    def draw(self, matcher: Matcher, seed: int, most: int = 3000) -> str:
        """An answer, which ends once in a while where it may; raises TimeoutError where it does not."""
        rng = random.Random(seed)
        drawn: list[int] = []
        for _ in range(most):
            may = np.flatnonzero(matcher.mask()).tolist()
            token = END_ID if END_ID in may and rng.random() < 0.2 else rng.choice(may)
            matcher.accept(token)
            if token == END_ID:
                return str(self.tokenizer.decode(drawn))
            drawn.append(token)
        raise TimeoutError


@pytest.fixture(scope="module")
def model() -> Model:
    return Model()


def check_person(value: Any) -> None:
    assert list(value)[:2] == ["name", "age"]
    assert set(value) <= {"name", "age", "height", "tags", "pet"}
    assert isinstance(value["name"], str)
    assert len(value["name"]) <= 8
    assert type(value["age"]) is int
    assert 0 <= value["age"] <= 120
    assert isinstance(value.get("height", 0), int | float)
    assert len(value["tags"]) <= 3
    assert set(value["tags"]) <= {"a", "b"}
    assert value.get("pet") in (None, {"legs": 4})


@pytest.mark.parametrize(
    "body",
    [
        {"response_format": {"type": "json_schema", "json_schema": {"name": "p", "strict": True, "schema": PERSON}}},
        {"response_format": {"type": "json_schema", "schema": PERSON}},
        {"response_format": {"type": "json_object", "schema": PERSON}},
        {"json_schema": PERSON},
        {"json_schema": {}, "response_format": {"type": "json_object", "schema": PERSON}},
    ],
)
def test_every_drawn_answer_fits_the_schema_in_each_way_to_ask_for_it(model: Model, body: Mapping[str, Any]) -> None:
    for seed in range(20):
        text = model.draw(model.matcher(**body), seed)
        check_person(json.loads(text))
        assert all(len(run) <= 22 for run in spaces(text))


def spaces(text: str) -> Iterator[str]:
    run = ""
    for character in text:
        run = run + character if character in " \t\n" else ""
        yield run


def test_json_object_takes_any_object_and_nothing_else(model: Model) -> None:
    body = {"response_format": {"type": "json_object"}}
    for text, fits in {
        '{"a": [1, -2.5e3, {"b": null}], "c": "\\né"}': True,
        "{}": True,
        '{\n  "a": 1\n}': True,
        "[]": False,
        "{} ": False,
        '{"a": 01}': False,
        '{"a":     1}': False,
        '{"a": "\n"}': False,
        "": False,
    }.items():
        assert model.fits(model.matcher(**body), text) is fits, text


def test_text_asks_for_nothing() -> None:
    assert grammar_spec({}) is None
    assert grammar_spec({"response_format": {"type": "text"}, "grammar": "", "json_schema": None}) is None


def test_end_may_come_exactly_where_the_grammar_may_end(model: Model) -> None:
    matcher = model.matcher(grammar='root ::= "a" "b"*')
    assert not matcher.mask()[END_ID]
    with pytest.raises(GrammarError):
        matcher.accept(END_ID)
    matcher = model.matcher(grammar='root ::= "a" "b"*')
    matcher.accept(model.ids("a")[0])
    assert np.flatnonzero(matcher.mask()).tolist() == sorted([END_ID, model.ids("b")[0]])
    assert not matcher.done
    matcher.accept(END_ID)
    assert matcher.done


def test_nothing_but_the_end_may_follow_what_is_whole(model: Model) -> None:
    matcher = model.matcher(grammar='root ::= "ab"')
    for token in model.ids("ab"):
        assert not matcher.done
        matcher.accept(token)
    assert matcher.done
    assert np.flatnonzero(matcher.mask()).tolist() == [END_ID]
    assert matcher.mask().shape == (ROWS,)
    matcher.accept(END_ID)


def test_sequences_of_one_grammar_do_not_see_each_other(model: Model) -> None:
    grammar = model.grammars.compile(GrammarSpec("gbnf", "root ::= [ab]{2}", "grammar"))
    first, second = grammar.matcher(), grammar.matcher()
    for token in model.ids("ab"):
        first.accept(token)
    assert first.done
    assert not second.done
    second.accept(model.ids("b")[0])


def test_token_that_may_not_come_is_an_error(model: Model) -> None:
    matcher = model.matcher(grammar='root ::= "a"')
    with pytest.raises(GrammarError, match="does not follow the grammar"):
        matcher.accept(model.ids("b")[0])


@pytest.mark.parametrize(
    ("grammar", "good", "bad"),
    [
        ('root ::= "yes" | "no"', ["yes", "no"], ["maybe", ""]),
        ("root ::= .{3}", ["a\nb", "äöü"], ["ab"]),
        ('root ::= "\\u0041\\x42\\U00000043\\u00e9"', ["ABCé"], ["ABC"]),
        ('root ::= [a\\-z]+ # "comment"\n', ["a-z"], ["b"]),
        ("root ::= [^\\]\\n]+", ["ab[c"], ["]", "a\n"]),
        ("root ::= [&&~~/]+", ["&~/"], ["a"]),
        ('root ::= item ("," item){1,2}\nitem ::= [0-9]+', ["1,22", "1,2,3"], ["1", "1,2,3,4"]),
        ('root ::= a-b\na-b ::= "x" | "(" a-b ")"', ["x", "((x))"], ["((x)", "()"]),
        ('root ::= start\nstart ::= "x"', ["x"], ["y"]),
        ('root ::= (\n  "a" |\n  "b" # or\n)?', ["a", "b", ""], ["ab"]),
        ('root ::= ("a"{2}){3}', ["aaaaaa"], ["aaaa", "aaaaaaaa"]),
        ('root ::= ("ab"?){3}', ["", "ab", "ababab"], ["abababab"]),
        ('root ::= ((("a"*)) # or\n)+ "b"', ["b", "aab"], ["a", "aba"]),
        ('root ::= (x{2} | "c"){1,2}\nx ::= ("a" | "b"?)', ["ab", "cc", "cab", "abab"], ["ccc", "abcb", "aaaaa"]),
        ('root ::= "b" | "a" r | ("a" r)? "c"\nr ::= "x" r', ["b", "c"], ["ax", "axc"]),
        ('root ::= "#" "\\"" "\\\\" "start: %"', ['#"\\start: %'], []),
        ('root ::= obj\nobj ::= "{" ws "\\"k\\":" ws [0-9] "}"\nws ::= [ \\t\\n]*', ['{ "k": 1}'], ["{}"]),
    ],
)
def test_llama_cpps_grammars_mean_the_same(model: Model, grammar: str, good: list[str], bad: list[str]) -> None:
    assert [model.fits(model.matcher(grammar=grammar), text) for text in good] == [True] * len(good)
    assert [model.fits(model.matcher(grammar=grammar), text) for text in bad] == [False] * len(bad)


@pytest.mark.parametrize(
    ("grammar", "words"),
    [
        ("root ::= foo", "foo"),
        ('main ::= "a"', "root"),
        ('root ::= "a', "end of input"),
        ('root ::= ("a"', r"\)"),
        ("just words", "no rule"),
        ('root ::= <think> "a"', "references to tokens"),
        ('root ::= "\\ud800"', "no character"),
        ('root ::= "\\q"', "escape"),
        ("root ::= " + "(" * 5000 + '"a"' + ")" * 5000, "deeply"),
        ("root ::= " + '"a" ' * 20000, "longer"),
        ("".join(f"r{number} ::= r{number + 1}\n" for number in range(2000)), "rules"),
        ("root ::= [z-a]", "range"),
        ("root ::= root", "nothing fits"),
        ('root ::= "a" root', "never come to an end"),
        ('root ::= "x" y\ny ::= y | "y" z\nz ::= y y', "never come to an end"),
    ],
)
def test_wrong_grammar_names_its_field(model: Model, grammar: str, words: str) -> None:
    with pytest.raises(FieldError, match=words) as caught:
        model.matcher(grammar=grammar)
    assert caught.value.param == "grammar"


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "wat"},
        {"type": "string", "pattern": "(?=a)b"},
        {"type": "string", "pattern": "("},
        {"$ref": "https://example.org/schema"},
        {"$ref": "#/nowhere"},
        {"not": {"type": "string"}},
        {"type": "array", "uniqueItems": True},
        {"enum": []},
        {"allOf": [{"anyOf": [{"properties": {f"a{j}{i}": {}}} for i in range(6)]} for j in range(8)]},
    ],
)
def test_schema_that_can_not_be_honoured_names_its_field(model: Model, schema: Mapping[str, Any]) -> None:
    with pytest.raises(FieldError) as caught:
        model.matcher(response_format={"type": "json_schema", "json_schema": {"schema": schema}})
    assert caught.value.param == "response_format"


def nested(depth: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "integer"}
    for _ in range(depth):
        schema = {"type": "array", "items": schema}
    return schema


HOSTILE: dict[str, Callable[[], Any]] = {
    "deep": lambda: nested(300),
    "very deep": lambda: nested(5000),
    "many properties": lambda: {"properties": {f"p{i}": {"type": "string"} for i in range(2000)}},
    "many values": lambda: {"enum": [f"value {i}" for i in range(10000)]},
    "repeated pattern": lambda: {"type": "string", "pattern": "^(a{1,1000}){1,1000}$"},
    "ambiguous pattern": lambda: {"type": "string", "pattern": "^(a|aa|b.*){1,300}c{500}(.*x){200}$"},
    "many items": lambda: {"type": "array", "items": {"type": "integer"}, "minItems": 10**6},
    "long text": lambda: {"type": "string", "minLength": 10**7},
    "itself": lambda: {"$ref": "#"},
    "a ring": lambda: {
        "$defs": {f"d{i}": {"anyOf": [{"$ref": f"#/$defs/d{(i + 1) % 200}"}]} for i in range(200)},
        "$ref": "#/$defs/d0",
    },
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_schema_is_refused_or_cheap(model: Model, name: str) -> None:
    """The limits are ten times what is measured, which is for machines under load."""
    began = time.perf_counter()
    try:
        matcher = model.matcher(json_schema=HOSTILE[name]())
    except FieldError:
        return
    finally:
        assert time.perf_counter() - began < 20
    for _ in range(30):
        began = time.perf_counter()
        try:
            may = np.flatnonzero(matcher.mask())
        except GrammarError:
            return
        assert time.perf_counter() - began < 0.5
        matcher.accept(int(may[len(may) // 2]))


def test_wrong_fields_are_named() -> None:
    for body, param in (
        ({"grammar": 1}, "grammar"),
        ({"grammar": 'root ::= "a"', "json_schema": {}}, "grammar"),
        ({"json_schema": "x"}, "json_schema"),
        ({"response_format": "json"}, "response_format"),
        ({"response_format": {"type": "yaml"}}, "response_format.type"),
        ({"response_format": {"type": "json_schema", "json_schema": 1}}, "response_format.json_schema"),
        ({"response_format": {"type": "json_object", "schema": []}}, "response_format.schema"),
    ):
        with pytest.raises(FieldError) as caught:
            grammar_spec(body)
        assert caught.value.param == param


def test_objects_with_listed_properties_take_no_others_as_in_llama_cpp() -> None:
    inner = {"type": "object", "properties": {"x": {}}}
    schema = closed({"type": "object", "properties": {"a": {"type": "array", "items": inner}, "b": {"type": "object"}}})
    assert schema["additionalProperties"] is False
    assert schema["properties"]["a"]["items"]["additionalProperties"] is False
    assert "additionalProperties" not in schema["properties"]["b"]
    for left in (
        {"properties": {"a": {}}, "required": ["b"]},
        {"properties": {"a": {}}, "additionalProperties": True},
        {"allOf": [inner, inner]},
        True,
    ):
        assert closed(left) == left


def test_grammar_behind_a_text_leaves_what_comes_before_free(model: Model) -> None:
    spec = GrammarSpec("gbnf", 'root ::= "yes"', "grammar", after="</think>")
    matcher = model.grammars.compile(spec).matcher()
    for token in model.ids("no </thin no"):
        assert matcher.mask()[token]
        assert not matcher.mask()[END_ID]
        matcher.accept(token)
    with pytest.raises(GrammarError):
        matcher.accept(END_ID)
    assert model.fits(matcher, "</think>yes")
    assert matcher.done


def test_calls_are_held_to_their_form_each_time_and_text_is_free(model: Model) -> None:
    spec = GrammarSpec("gbnf", 'root ::= "yes"', "grammar", after="<c>", must=False, again=True)
    matcher = model.grammars.compile(spec).matcher()
    assert model.fits(matcher, "free <c>yes and <c>yes. <c")
    matcher.accept(model.ids(">")[0])
    assert np.flatnonzero(matcher.mask()).tolist() == model.ids("y")
    once = GrammarSpec("gbnf", 'root ::= "yes"', "grammar", after="<c>", must=False)
    matcher = model.grammars.compile(once).matcher()
    assert model.fits(matcher, "<c>yes")
    assert matcher.done


def test_rows_without_a_token_never_come(model: Model) -> None:
    spec = GrammarSpec("gbnf", "root ::= .*", "grammar", after="x", must=False)
    assert not model.grammars.compile(spec).matcher().mask()[259:].any()
    assert not model.matcher(grammar="root ::= .*").mask()[259:].any()


@pytest.mark.parametrize("rules", [3, 50, 900])
def test_rules_that_go_round_are_refused(model: Model, rules: int) -> None:
    lines = [f'r{at} ::= "a{at}" r{(at + 1) % rules}' for at in range(rules)]
    with pytest.raises(FieldError, match="never come to an end"):
        model.matcher(grammar="\n".join(["root ::= r0", *lines]))


def test_what_can_go_on_in_one_way_only_may_be_long(model: Model) -> None:
    matcher = model.matcher(grammar="root ::= " + '"abcdefgh" ' * 5000)
    for token in model.ids("abcdefgh" * 10):
        assert np.flatnonzero(matcher.mask()).tolist() == [token]
        matcher.accept(token)


@pytest.mark.parametrize("grammar", ["root ::= [z-a]", 'root ::= "x" ["-!]', 'root ::= "a"{3,2}', "root ::= [a\\q]"])
def test_what_is_wrong_is_told_without_the_grammar_that_we_made(model: Model, grammar: str) -> None:
    with pytest.raises(FieldError) as caught:
        model.matcher(grammar=grammar)
    assert not any(sign in caught.value.message for sign in ("%llguidance", "start:", "\n", " | "))


def test_the_most_properties_that_are_taken_can_be_followed(model: Model) -> None:
    matcher = model.matcher(json_schema={"properties": {f"p{at}": {"type": "string"} for at in range(1000)}})
    assert model.fits(matcher, '{"p1": "x", "p999": ""}')


def test_more_properties_are_refused_where_they_may_be_left_out(model: Model) -> None:
    names = [f"p{at}" for at in range(1001)]
    inner = {"properties": {name: {"type": "string"} for name in names}}
    with pytest.raises(FieldError, match="more than 1000 properties"):
        model.matcher(json_schema={"anyOf": [{"type": "null"}, {"properties": {"a": inner}}]})
    matcher = model.matcher(json_schema={**inner, "required": names})
    for token in model.ids('{"p0": "x", "p1": "'):
        assert matcher.mask()[token]
        matcher.accept(token)


def test_what_all_grammars_need_is_made_once_and_before(model: Model) -> None:
    grammars = Grammars(model.tokenizer, ROWS, frozenset({END_ID}))
    grammars.prepare()
    made = grammars._tokenizer
    assert made is not None
    grammars.compile(GrammarSpec("gbnf", 'root ::= "a"', "grammar"))
    assert grammars._tokenizer is made


class Unknown:
    """A tokenizer of a kind that llguidance can't read."""

    def get_vocab(self, *, with_added_tokens: bool) -> dict[str, int]:
        return {"a": 0}

    def to_str(self) -> str:
        return "{}"


def test_tokenizer_that_grammars_cant_follow_names_the_field() -> None:
    source: Any = Unknown()
    grammars = Grammars(source, 1, frozenset())
    grammars.prepare()
    with pytest.raises(FieldError, match="tokenizer") as caught:
        grammars.compile(GrammarSpec("gbnf", 'root ::= "a"', "grammar"))
    assert caught.value.param == "grammar"


def test_the_same_grammar_is_compiled_once(model: Model) -> None:
    schema = {"properties": {f"q{i}": {"type": "string"} for i in range(1000)}}
    began = time.perf_counter()
    model.matcher(json_schema=schema)
    first = time.perf_counter() - began
    began = time.perf_counter()
    model.matcher(json_schema=schema)
    assert time.perf_counter() - began < first / 3


def test_lark_of_keeps_what_is_in_quotes() -> None:
    assert lark_of('root ::= "a.b#c <x>"').strip().endswith('"a.b#c <x>"')
