"""From the text of an answer to content, reasoning and calls, however the text is cut."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pytest

from manager.engines.hf.chat.call_formats import HERMES, CallFormat, format_of
from manager.engines.hf.chat.tool_calls import AnswerForm, ChatDeltas
from manager.engines.hf.chat.tool_fields import ToolRequest, read_tools

THINK = ("<think>", "</think>")
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
            "required": ["city"],
        },
    },
}
CLOCK = {"type": "function", "function": {"name": "clock"}}
OSLO = '{"city": "Oslo {\\"x\\"}", "days": 2}'


def taught(template: str) -> CallFormat:
    form = format_of(template)
    assert form is not None
    return form


QWEN_TAGS = taught("<tool_call> <function= <parameter=")
MINIMAX_TAGS = taught("<minimax:tool_call> <invoke name=")
GLM_TAGS = taught("<tool_call> <arg_key>")
MISTRAL = taught("[TOOL_CALLS]")
MISTRAL_NAMED = taught("[TOOL_CALLS] [ARGS]")
DEEPSEEK = taught("<\uff5ctool▁call▁begin\uff5c>")
KIMI = taught("<|tool_call_begin|>")
COHERE = taught("<|START_ACTION|> tool_name")
GRANITE = taught("<|tool_call|>")
FUNCTION = taught("<function=")
LLAMA = taught('{"name": function name, "parameters": arguments}')


def asked(**more: Any) -> ToolRequest:
    request = read_tools({"tools": [WEATHER, CLOCK], **more})
    assert request is not None
    return request


def with_calls(calls: CallFormat = HERMES, **more: Any) -> AnswerForm:
    return AnswerForm(calls=calls, tools=asked(), **more)


def cuts(text: str, seed: int) -> Iterator[str]:
    """Pieces of 1 to 6 characters."""
    rng = random.Random(seed)
    while text:
        size = rng.randint(1, 6)
        yield text[:size]
        text = text[size:]


def joined(deltas: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What a client makes of the deltas."""
    message: dict[str, Any] = {"content": "", "reasoning_content": "", "calls": []}
    for delta in deltas:
        assert len(delta) == 1
        message["content"] += delta.get("content", "")
        message["reasoning_content"] += delta.get("reasoning_content", "")
        for call in delta.get("tool_calls", ()):
            if call["index"] == len(message["calls"]):
                assert call["type"] == "function"
                assert len(call["id"]) == 9
                message["calls"].append([call["function"]["name"], call["function"]["arguments"]])
            else:
                assert call["index"] == len(message["calls"]) - 1
                message["calls"][-1][1] += call["function"]["arguments"]
    return message


def read(form: AnswerForm, pieces: Sequence[str]) -> tuple[dict[str, Any], str | None, dict[str, Any]]:
    reader = ChatDeltas(form)
    deltas = [delta for piece in pieces for delta in reader.feed(piece)]
    last, reason = reader.end()
    streamed, whole = joined([*deltas, *last]), reader.message()
    assert whole["role"] == "assistant"
    assert streamed["content"] == (whole["content"] or "")
    assert streamed["reasoning_content"] == whole.get("reasoning_content", "")
    made = [[call["function"]["name"], call["function"]["arguments"]] for call in whole.get("tool_calls", ())]
    assert streamed["calls"] == made
    return streamed, reason, whole


def read_cut_in_all_ways(form: AnswerForm, text: str) -> tuple[dict[str, Any], str | None]:
    """The result, which must not depend on how the text was cut."""
    streamed, reason, _ = read(form, [text])
    for pieces in (list(text), *(list(cuts(text, seed)) for seed in range(20))):
        assert read(form, pieces)[:2] == (streamed, reason), pieces
    return streamed, reason


def called(name: str, arguments: str) -> list[str]:
    return [name, arguments]


COHERE_CALL = f"""<|START_ACTION|>[
  {{"tool_call_id": "0", "tool_name": "get_weather", "parameters": {OSLO}}}
]<|END_ACTION|>"""
KIMI_CALL = (
    "<|tool_calls_section_begin|><|tool_call_begin|>functions.get_weather:0<|tool_call_argument_begin|>"
    f"{OSLO}<|tool_call_end|><|tool_calls_section_end|>"
)
DEEPSEEK_CALL = (
    f"<|tool▁calls▁begin|><|tool▁call▁begin|>get_weather<|tool▁sep|>{OSLO}<|tool▁call▁end|><|tool▁calls▁end|>"
)
OLD_DEEPSEEK_CALL = f"<|tool▁call▁begin|>function<|tool▁sep|>get_weather\n```json\n{OSLO}\n```<|tool▁call▁end|>"
ONE_CALL = [
    (HERMES, f'<tool_call>\n{{"name": "get_weather", "arguments": {OSLO}}}\n</tool_call>'),
    (HERMES, f'<tool_call>{{"arguments": {OSLO}, "name": "get_weather"}}</tool_call>\n'),
    (HERMES, f'<tool_call>\n{{"type": "function", "function": {{"name": "get_weather", "arguments": {OSLO}}}}}'),
    (LLAMA, f'{{"name": "get_weather", "parameters": {OSLO}}}'),
    (LLAMA, f'<|python_tag|>{{"type": "function", "name": "get_weather", "parameters": {OSLO}}}'),
    (MISTRAL, f'[TOOL_CALLS][{{"name": "get_weather", "arguments": {OSLO}, "id": "abcdefghi"}}]'),
    (MISTRAL_NAMED, f"[TOOL_CALLS]get_weather[ARGS]{OSLO}"),
    (MISTRAL_NAMED, f"[TOOL_CALLS]get_weather[CALL_ID]abcdefghi[ARGS]{OSLO}"),
    (MISTRAL_NAMED, f'[TOOL_CALLS] [{{"name": "get_weather", "arguments": {OSLO}}}]'),
    (GRANITE, f'<|tool_call|>[{{"name": "get_weather", "arguments": {OSLO}}}]<|/tool_call|>'),
    (COHERE, COHERE_CALL),
    (FUNCTION, f"<function=get_weather>{OSLO}</function>"),
    (KIMI, KIMI_CALL),
    (DEEPSEEK, DEEPSEEK_CALL.replace("|", "\uff5c")),
    (DEEPSEEK, OLD_DEEPSEEK_CALL.replace("|", "\uff5c")),
]


@pytest.mark.parametrize(("form", "text"), ONE_CALL)
def test_a_call_in_any_form_becomes_a_tool_call_and_no_content(form: CallFormat, text: str) -> None:
    streamed, reason = read_cut_in_all_ways(with_calls(form), text)
    assert streamed == {"content": "", "reasoning_content": "", "calls": [called("get_weather", OSLO)]}
    assert reason == "tool_calls"


@pytest.mark.parametrize(
    ("form", "text"),
    [
        (
            QWEN_TAGS,
            "<tool_call>\n<function=get_weather>\n<parameter=city>\nOslo\nSør\n</parameter>\n<parameter=days>\n2\n"
            "</parameter>\n</function>\n</tool_call>",
        ),
        (
            GLM_TAGS,
            "<tool_call>get_weather\n<arg_key>city</arg_key>\n<arg_value>Oslo\nSør</arg_value>\n<arg_key>days</arg_key>\n"
            "<arg_value>2</arg_value>\n</tool_call>",
        ),
        (
            MINIMAX_TAGS,
            '<minimax:tool_call>\n<invoke name="get_weather">\n<parameter name="city">Oslo\nSør</parameter>\n'
            '<parameter name="days">2</parameter>\n</invoke>\n</minimax:tool_call>',
        ),
    ],
)
def test_arguments_between_tags_get_the_types_of_the_schema(form: CallFormat, text: str) -> None:
    streamed, reason = read_cut_in_all_ways(with_calls(form), text)
    ((name, arguments),) = streamed["calls"]
    assert (name, json.loads(arguments)) == ("get_weather", {"city": "Oslo\nSør", "days": 2})
    assert (streamed["content"], reason) == ("", "tool_calls")


@pytest.mark.parametrize(
    ("form", "text"),
    [
        (HERMES, '<tool_call>\n{"name": "clock"}\n</tool_call>\n<tool_call>\n{"name": "clock"}\n</tool_call>'),
        (LLAMA, '{"name": "clock", "parameters": {}}; {"name": "clock", "parameters": {}}'),
        (MISTRAL, '[TOOL_CALLS][{"name": "clock", "arguments": {}}, {"name": "clock", "arguments": {}}]'),
        (MISTRAL_NAMED, "[TOOL_CALLS]clock[ARGS]{}[TOOL_CALLS]clock[ARGS]{}"),
        (FUNCTION, "<function=clock>{}</function>\n<function=clock>{}</function>"),
    ],
)
def test_several_calls_are_counted_and_one_is_enough_where_only_one_was_asked_for(form: CallFormat, text: str) -> None:
    streamed, _ = read_cut_in_all_ways(with_calls(form), text)
    assert streamed["calls"] == [called("clock", "{}")] * 2
    assert streamed["content"] == ""
    streamed, reason = read_cut_in_all_ways(with_calls(form, many=False), text)
    assert (streamed["calls"], streamed["content"], reason) == ([called("clock", "{}")], "", "tool_calls")


def test_content_around_calls_stays_and_the_space_between_goes() -> None:
    text = 'Let me look.\n\n<tool_call>\n{"name": "clock", "arguments": {}}\n</tool_call>\n'
    streamed, _ = read_cut_in_all_ways(with_calls(), text)
    assert (streamed["content"], streamed["calls"]) == ("Let me look.", [called("clock", "{}")])


def test_arguments_stream_while_they_are_written() -> None:
    reader = ChatDeltas(with_calls())
    assert reader.feed('<tool_call>{"name": "get_wea') == []
    (opened,) = reader.feed('ther", ')
    assert opened["tool_calls"][0]["function"] == {"name": "get_weather", "arguments": ""}
    (more,) = reader.feed('"arguments": {"city": "Os')
    assert more == {"tool_calls": [{"index": 0, "function": {"arguments": '{"city": "Os'}}]}


@pytest.mark.parametrize(
    "text",
    [
        "a < b and <tool> and <tool_cal",
        "<tool_call> is how calls begin",
        "  two spaces, and one at the end ",
        '{"name": "clock"} is JSON',
        "<tool_call>[1, 2]</tool_call",
    ],
)
def test_what_only_looks_like_a_call_is_content(text: str) -> None:
    streamed, reason = read_cut_in_all_ways(with_calls(), text)
    assert streamed["calls"] == []
    assert streamed["content"].replace(" ", "") == text.replace(" ", "")
    assert reason is None


@pytest.mark.parametrize(
    "text",
    [
        '{"city": "Oslo"}',
        '{"name": "Ada", "born": 1815}',
        '{"name": "clock", "para',
        '{"name": "clo',
        "{",
        "{} and more",
        '  {"name": 3}',
        '[{"name": "clock"}]',
    ],
)
def test_json_that_is_no_call_of_a_known_tool_is_content(text: str) -> None:
    streamed, reason, _ = read(with_calls(LLAMA), list(text))
    if text.startswith('{"name": "clock"'):
        assert (streamed["content"], streamed["calls"], reason) == ("", [called("clock", "")], None)
    else:
        assert (streamed["content"], streamed["calls"], reason) == (text, [], None)


@pytest.mark.parametrize(("form", "text"), ONE_CALL)
def test_a_call_cut_off_anywhere_never_raises_nor_leaks_its_markup(form: CallFormat, text: str) -> None:
    for length in range(len(text)):
        streamed, _, _ = read(with_calls(form), list(text[:length]))
        if streamed["calls"]:
            assert streamed["content"] == ""
        # The beginning of a marker, or of JSON, may be content; a whole marker never is.
        assert not any(len(marker) > 1 and marker in streamed["content"] for marker in form.markers)


def test_without_tools_markup_is_content() -> None:
    text = ONE_CALL[0][1]
    assert read_cut_in_all_ways(AnswerForm(calls=HERMES), text)[0]["content"] == text


def test_the_older_form_is_answered_in_the_older_form() -> None:
    request = read_tools({"functions": [WEATHER["function"]], "function_call": {"name": "get_weather"}})
    reader = ChatDeltas(AnswerForm(calls=HERMES, tools=request, many=False))
    deltas = reader.feed(ONE_CALL[0][1])
    assert deltas[0] == {"function_call": {"name": "get_weather", "arguments": ""}}
    assert reader.end() == ([], "function_call")
    assert reader.message()["function_call"] == {"name": "get_weather", "arguments": OSLO}


@pytest.mark.parametrize(
    ("text", "opened", "reasoning", "content"),
    [
        ("<think>\nIt is 2 < 3.\n</think>\n\nYes.", False, "It is 2 < 3.", "Yes."),
        ("\nIt is.\n</think>\nYes.", True, "It is.", "Yes."),
        ("<think></think>Yes.", False, "", "Yes."),
        ("<think>\n\n</think>\n\nYes.", False, "", "Yes."),
        ("Yes. <think>no</think>", False, "", "Yes. <think>no</think>"),
        ("<thin ice", False, "", "<thin ice"),
        ("cut off", True, "cut off", ""),
        ("cut off</thi", True, "cut off</thi", ""),
        ("<think>a</think> <think>b</think>", False, "a", "<think>b</think>"),
        ("Yes.", False, "", "Yes."),
    ],
)
def test_reasoning_is_told_apart(text: str, opened: bool, reasoning: str, content: str) -> None:
    streamed, reason = read_cut_in_all_ways(AnswerForm(thinking=THINK, opened=opened), text)
    assert (streamed["reasoning_content"], streamed["content"], reason) == (reasoning, content, None)


def test_a_call_follows_reasoning_and_markup_in_it_stays_reasoning() -> None:
    text = f"I could write <tool_call> now.\n</think>\n\n{ONE_CALL[0][1]}"
    streamed, reason = read_cut_in_all_ways(with_calls(thinking=THINK, opened=True), text)
    assert streamed["reasoning_content"] == "I could write <tool_call> now."
    assert (streamed["calls"], streamed["content"], reason) == ([called("get_weather", OSLO)], "", "tool_calls")
    bare = f'</think>\n{{"name": "clock", "parameters": {OSLO}}}'
    streamed, _ = read_cut_in_all_ways(with_calls(LLAMA, thinking=THINK, opened=True), bare)
    assert (streamed["calls"], streamed["content"]) == ([called("clock", OSLO)], "")


def test_what_the_prompt_had_already_is_part_of_the_answer() -> None:
    streamed, _ = read_cut_in_all_ways(AnswerForm(begun="The capital is"), " Oslo.")
    assert streamed["content"] == "The capital is Oslo."
    reader = ChatDeltas(AnswerForm(begun="The end"))
    assert reader.end() == ([{"content": "The end"}], None)


def test_special_tokens_that_must_be_shown_are_no_content() -> None:
    form = with_calls(dropped=("<|im_end|>", "<s>"))
    streamed, _ = read_cut_in_all_ways(form, f"<s>Hi <b>you</b>.<|im_end|>{ONE_CALL[0][1]}<|im_end|>")
    assert (streamed["content"], streamed["calls"]) == ("Hi <b>you</b>.", [called("get_weather", OSLO)])


def test_plain_text_comes_at_once_and_whole() -> None:
    reader = ChatDeltas(AnswerForm())
    assert reader.feed(" x ") == [{"content": " x "}]
    assert reader.feed("<") == [{"content": "<"}]


def test_random_text_without_markers_is_never_changed() -> None:
    rng = random.Random(7)
    for _ in range(200):
        text = "x" + "".join(rng.choice("<tool_cal>{}[]\"' \n/thinkab") for _ in range(rng.randint(0, 60))) + "x"
        form = with_calls(rng.choice((HERMES, LLAMA, MISTRAL)), thinking=THINK)
        if "<tool_call>" not in text:
            assert read(form, list(cuts(text, rng.randint(0, 99))))[0]["content"] == text


def test_random_markup_never_raises() -> None:
    rng = random.Random(11)
    words = [
        "<tool_call>",
        "</tool_call>",
        '{"name"',
        ': "clock"',
        ', "arguments": {',
        "}",
        "[",
        "]",
        '"',
        "\\",
        "x",
        " ",
    ]
    for _ in range(500):
        text = "".join(rng.choice([*words, "<think>", "</think>", "[TOOL_CALLS]", "[ARGS]"]) for _ in range(20))
        for form in (HERMES, LLAMA, MISTRAL, MISTRAL_NAMED, QWEN_TAGS):
            read_cut = read(with_calls(form, thinking=THINK, opened=rng.random() < 0.5), list(cuts(text, 3)))
            assert set(read_cut[0]) == {"content", "reasoning_content", "calls"}
