"""From messages to a prompt, with the models' own templates and with short ones in the way of the usual families."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from manager.engines.hf.chat.deltas import PlainDeltas
from manager.engines.hf.chat.plan import ChatPlan, Rendered, prepare_chat, render
from manager.engines.hf.chat.templates import CHATML, capabilities
from manager.engines.hf.chat.tool_calls import ChatDeltas
from manager.engines.hf.grammar.grammars import Grammars
from manager.engines.hf.wire.unsupported import FieldError
from tests.hf_models import END_ID, byte_tokenizer

PARTS = """\
{%- for m in messages -%}<{{ m.role }}>
{%- if m.content is string -%}{{ m.content }}
{%- else -%}{%- for p in m.content -%}{{ p.text if p.type == 'text' else '[image]' }}{%- endfor -%}{%- endif -%}
{%- endfor -%}{%- if add_generation_prompt -%}<assistant>{%- endif -%}"""
ONLY_PARTS = """\
{%- for m in messages -%}<{{ m.role }}>{%- for p in m.content -%}{{ p.text }};{%- endfor -%}{%- endfor -%}"""
GEMMA = """\
{{ bos_token }}{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}
{%- for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}
{{- raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}
<{{ m.role }}>{{ m.content | trim }}
{%- endfor %}{% if add_generation_prompt %}<model>{% endif %}"""
QWEN = """\
{%- if tools %}<tools>{% for t in tools %}{{ t | tojson }}{% endfor %}</tools>{% endif %}
{%- for m in messages %}<|im_start|>{{ m.role }}
{{ m.content }}
{%- for c in m.tool_calls or [] %}
<tool_call>
{"name": "{{ c.function.name }}", "arguments": {{ c.function.arguments | tojson }}}
</tool_call>
{%- endfor %}<|im_end|>
{% endfor %}
{%- if add_generation_prompt %}<|im_start|>assistant
{% if enable_thinking is defined and not enable_thinking %}<think>

</think>

{% elif think_first %}<think>
{% endif %}{% endif %}"""
LLAMA = """\
{{- bos_token }}{{ date_string }}
{%- for t in tools or [] %}{{ t | tojson }} Answer with {"name": function name, "parameters": arguments}.{% endfor %}
{%- for m in messages %}<{{ m.role }}>
{%- if m.tool_calls %}{"name": "{{ m.tool_calls[0].function.name }}", "parameters":
{%- for key, value in m.tool_calls[0].function.arguments.items() %} {{ key }}={{ value }}{% endfor %}}
{%- else %}{{ m.content }}{% endif %}
{%- endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"""
TEXT_ARGUMENTS = """\
{%- for m in messages %}<{{ m.role }}>{{ m.content }}
{%- for c in m.tool_calls or [] %}[TOOL_CALLS]{{ c.function.name }}[ARGS]{{ c.function.arguments + '' }}{% endfor %}
{%- endfor %}{% for t in tools or [] %}{{ t.function.name }}{% endfor %}"""

TOOL = {
    "type": "function",
    "function": {"name": "clock", "parameters": {"type": "object", "properties": {"zone": {"type": "string"}}}},
}
USER = {"role": "user", "content": "Hi"}


def loaded(template: str | None) -> Any:
    """As much of a LoadedModel as chats look at."""
    return SimpleNamespace(template=template, tokenizer=byte_tokenizer(template=template), ends=frozenset({END_ID}))


def prompt(template: str | None, *messages: Mapping[str, Any], **body: Any) -> str:
    return render(loaded(template), {"messages": list(messages), **body}).prompt


def refused(template: str | None, messages: Any, **body: Any) -> FieldError:
    with pytest.raises(FieldError) as caught:
        prepare_chat(loaded(template), {"messages": messages, **body})
    return caught.value


def plan(template: str | None, *messages: Mapping[str, Any], **body: Any) -> ChatPlan:
    return prepare_chat(loaded(template), {"messages": list(messages) or [USER], **body})


def answer(of: ChatPlan, *texts: str) -> dict[str, Any]:
    deltas = of.deltas()
    for text in texts:
        deltas.feed(text)
    deltas.end()
    return deltas.message()


def call(arguments: Any, **more: Any) -> dict[str, Any]:
    function = {"name": "clock", "arguments": arguments}
    return {"role": "assistant", "tool_calls": [{"id": "a", "type": "function", "function": function}], **more}


def test_a_model_without_template_gets_chatml_and_ends_with_its_mark() -> None:
    assert prompt(None, USER) == "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    assert plan(None).stops == ("<|im_end|>",)
    assert plan(CHATML).stops == ()


def test_smollm2s_own_template_puts_its_system_message_first(smollm2_folder: Any) -> None:
    from transformers import AutoTokenizer

    make: Any = AutoTokenizer.from_pretrained
    tokenizer = make(smollm2_folder)
    model: Any = SimpleNamespace(template=tokenizer.chat_template, tokenizer=tokenizer, ends=frozenset({2}))
    rendered = render(model, {"messages": [USER]})
    assert rendered == Rendered(
        "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
        "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n",
        add_special=False,
    )
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    assert "<|im_start|>user\na\nb<|im_end|>" in render(model, {"messages": [{**USER, "content": parts}]}).prompt


def test_contents_take_the_form_that_the_template_knows() -> None:
    parts = {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}
    image = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "b"}]}
    assert prompt(PARTS, parts) == "<user>ab<assistant>"
    assert prompt(PARTS, image, USER) == "<user>[image]b<user>Hi<assistant>"
    assert prompt(ONLY_PARTS, USER, parts) == "<user>Hi;<user>a;b;"
    assert prompt(CHATML, parts).startswith("<|im_start|>user\na\nb<|im_end|>")
    assert refused(CHATML, [image]).param == "messages"


def test_roles_are_mapped_and_a_missing_system_role_is_written_into_the_next_message() -> None:
    assert "<|im_start|>system\nBe kind<|im_end|>" in prompt(CHATML, {"role": "developer", "content": "Be kind"}, USER)
    assert "<user>Be kind\nHi" in prompt(GEMMA, {"role": "system", "content": "Be kind"}, USER)
    assert "<|im_start|>tool\n12<|im_end|>" in prompt(QWEN, USER, {"role": "function", "name": "f", "content": "12"})
    assert "<|im_start|>pirate\nHi" in prompt(CHATML, {"role": "pirate", "content": "Hi"})


def test_a_sequence_that_the_template_refuses_is_told_in_its_words() -> None:
    error = refused(GEMMA, [USER, USER])
    assert error.param == "messages"
    assert "Conversation roles must alternate user/assistant/user/assistant/..." in error.message


@pytest.mark.parametrize(
    ("messages", "param"),
    [
        ("Hi", "messages"),
        (["Hi"], "messages[0]"),
        ([{"content": "Hi"}], "messages[0]"),
        ([{"role": "user"}], "messages[0]"),
        ([{"role": "assistant"}], "messages[0]"),
        ([{"role": "user", "content": 1}], "messages[0].content"),
        ([USER, {"role": "user", "content": [{"type": "sound"}]}], "messages[1].content[0]"),
        ([{"role": "user", "content": [{"type": "text"}]}], "messages[0].content[0]"),
        ([call("{")], "messages[0].tool_calls[0].function.arguments"),
        ([call('{"zone": "\\ud800"}')], "messages[0].tool_calls[0].function.arguments"),
        ([{"role": "user", "content": "\ud800"}], "messages"),
        ([{"role": "assistant", "tool_calls": [{}]}], "messages[0].tool_calls[0].function"),
        ([{"role": "assistant", "tool_calls": {}}], "messages[0].tool_calls"),
    ],
)
def test_wrong_messages_are_named(messages: Any, param: str) -> None:
    assert refused(CHATML, messages).param == param


def test_null_content_is_empty() -> None:
    assert prompt(QWEN, {"role": "user", "content": None}).startswith("<|im_start|>user\n<|im_end|>")


def test_arguments_of_earlier_calls_take_the_form_that_the_template_knows() -> None:
    result = {"role": "tool", "tool_call_id": "a", "content": "12"}
    for arguments in ('{"zone": "CET"}', {"zone": "CET"}):
        assert '{"name": "clock", "arguments": {"zone": "CET"}}' in prompt(QWEN, USER, call(arguments), result)
        assert '"parameters": zone=CET}' in prompt(LLAMA, USER, call(arguments), result)
        assert '[TOOL_CALLS]clock[ARGS]{"zone": "CET"}' in prompt(TEXT_ARGUMENTS, USER, call(arguments), result)
        assert '<tool_call>\n{"name": "clock", "arguments": {"zone": "CET"}}\n</tool_call>' in prompt(
            CHATML, USER, call(arguments), result
        )
    assert "<|im_start|>user\n<tool_response>\n12\n</tool_response>" in prompt(CHATML, USER, call("{}"), result)
    assert '"arguments": {}}' in prompt(QWEN, USER, call(""), result)
    older = {"role": "assistant", "content": None, "function_call": {"name": "clock", "arguments": "{}"}}
    assert '{"name": "clock", "arguments": {}}' in prompt(QWEN, USER, older, result)


def test_the_beginning_token_comes_once() -> None:
    assert not plan(GEMMA).add_special  # the template wrote it
    assert plan(PARTS).add_special
    assert not plan(CHATML).add_special  # SmolLM2's way: <|im_start|> begins texts, too


def test_templates_get_what_llama_server_gives_and_what_the_request_adds() -> None:
    assert "<think>\n\n</think>" not in prompt(QWEN, USER)
    assert prompt(QWEN, USER, chat_template_kwargs={"enable_thinking": False}).endswith("<think>\n\n</think>\n\n")
    assert prompt(QWEN, USER, reasoning_effort="none").endswith("</think>\n\n")
    assert prompt("{{ reasoning_effort }}{{ messages[0].content }}", USER, reasoning_effort="low") == "lowHi"
    assert len(prompt("{{ date_string }}{{ messages[0].content }}", USER)) == len("01 Jan 2026Hi")
    assert prompt(CHATML, USER, add_generation_prompt=False).endswith("Hi<|im_end|>\n")


def _with(properties: Any) -> dict[str, Any]:
    parameters = {"type": "object", "properties": properties}
    return {"type": "function", "function": {"name": "f", "parameters": parameters}}


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"chat_template_kwargs": {"chat_template": "{{ 1 }}"}}, "chat_template_kwargs.chat_template"),
        ({"chat_template_kwargs": {"messages": []}}, "chat_template_kwargs.messages"),
        ({"chat_template_kwargs": {"enable_thinking": "yes"}}, "chat_template_kwargs.enable_thinking"),
        ({"chat_template_kwargs": 1}, "chat_template_kwargs"),
        ({"reasoning_effort": 1}, "reasoning_effort"),
        ({"continue_final_message": "all"}, "continue_final_message"),
        ({"continue_final_message": True}, "continue_final_message"),
        ({"tools": 1}, "tools"),
        ({"tools": [{}]}, "tools[0]"),
        ({"tools": [{"function": {"name": "f", "parameters": 1}}]}, "tools[0].function.parameters"),
        ({"tools": [TOOL, _with([])]}, "tools[1].function.parameters.properties"),
        ({"functions": [_with("a")["function"]]}, "functions[0].function.parameters.properties"),
        ({"tools": [TOOL], "tool_choice": "any"}, "tool_choice"),
        ({"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "g"}}}, "tool_choice"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"functions": [TOOL["function"]], "function_call": {"name": "g"}}, "function_call"),
        ({"tools": [TOOL], "parallel_tool_calls": 1}, "parallel_tool_calls"),
        ({"tools": [TOOL], "grammar": 'root ::= "a"'}, "grammar"),
        ({"tools": [TOOL], "tool_choice": "required", "json_schema": {}}, "json_schema"),
    ],
)
def test_wrong_fields_are_named(body: Mapping[str, Any], param: str) -> None:
    assert refused(QWEN, [USER], **body).param == param


def test_deep_messages_and_hostile_templates_are_refused() -> None:
    deep: Any = "x"
    for _ in range(5000):
        deep = [deep]
    assert refused(QWEN, [USER], chat_template_kwargs={"deep": deep}).param == "chat_template_kwargs"
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(600):
        schema = {"type": "object", "properties": {"x": schema}}
    tool = {"type": "function", "function": {"name": "f", "parameters": schema}}
    for template in (CHATML, QWEN):
        assert refused(template, [USER], tools=[tool], tool_choice="required").param in ("tools", "messages")
    for template in (
        "{{ ''.__class__.__mro__ }}",
        "{% for i in range(10 ** 12) %}{% endfor %}",
        "{{ 1 / 0 }}",
        "{% if",
    ):
        assert refused(template, [USER]).param == "messages"


def test_a_last_message_of_the_assistant_is_continued() -> None:
    begun = {"role": "assistant", "content": "The capital"}
    continued = plan(QWEN, USER, begun)
    assert continued.prompt.endswith("<|im_start|>assistant\nThe capital")
    assert answer(continued, " is") == {"role": "assistant", "content": "The capital is"}
    assert prompt(CHATML, USER, begun, continue_final_message=False).endswith(
        "The capital<|im_end|>\n<|im_start|>assistant\n"
    )
    assert refused(QWEN, [USER, begun, begun]).param == "messages"
    assert refused(QWEN, [USER, call("{}")]).param == "messages"
    body = {"continue_final_message": True, "add_generation_prompt": True}
    assert refused(QWEN, [USER, begun], **body).param == "continue_final_message"


def test_reasoning_is_continued_or_closed_before_the_answer_goes_on() -> None:
    first = {"chat_template_kwargs": {"think_first": True}}
    said = {"role": "assistant", "content": "It", "reasoning_content": "Easy."}
    assert plan(QWEN, USER, said, **first).prompt.endswith("assistant\n<think>\nEasy.\n</think>\n\nIt")
    thought = plan(QWEN, USER, {**said, "content": ""}, **first)
    assert thought.prompt.endswith("assistant\n<think>\nEasy.")
    assert answer(thought, " Yes.</think>\n\nIt is.") == {
        "role": "assistant",
        "content": "It is.",
        "reasoning_content": "Easy. Yes.",
    }


def test_reasoning_goes_where_the_prompt_opened_it() -> None:
    opened = plan(QWEN, chat_template_kwargs={"think_first": True})
    assert answer(opened, "Hm.</thi", "nk>\n\nYes")["reasoning_content"] == "Hm."
    assert answer(plan(QWEN), "<think>Hm.</think>Yes") == {
        "role": "assistant",
        "content": "Yes",
        "reasoning_content": "Hm.",
    }
    raw = plan(QWEN, reasoning_format="none")
    assert answer(raw, "<think>Hm.</think>Yes")["content"] == "<think>Hm.</think>Yes"
    assert answer(plan(CHATML), "<think>Hm.</think>Yes")["content"] == "<think>Hm.</think>Yes"


def test_a_schema_waits_for_the_end_of_the_reasoning_that_the_prompt_opened() -> None:
    body = {"response_format": {"type": "json_object"}}
    assert (spec := plan(QWEN, **body).grammar) is not None
    assert spec.after == ""
    assert (spec := plan(QWEN, **body, chat_template_kwargs={"think_first": True}).grammar) is not None
    assert (spec.after, spec.must) == ("</think>", True)


def test_tools_reach_the_template_and_without_a_call_there_are_none() -> None:
    assert '"name": "clock"' in plan(QWEN, tools=[TOOL]).prompt
    assert "clock" not in plan(QWEN, tools=[TOOL], tool_choice="none").prompt
    assert plan(QWEN, tools=[TOOL], tool_choice="none").grammar is None
    assert isinstance(plan(CHATML).deltas(), PlainDeltas)
    assert isinstance(plan(CHATML, tools=[TOOL]).deltas(), ChatDeltas)


def test_a_template_that_knows_no_tools_has_them_in_the_system_message() -> None:
    text = plan(CHATML, {"role": "system", "content": "Be kind."}, USER, tools=[TOOL]).prompt
    assert text.startswith("<|im_start|>system\nBe kind.\n\n")
    assert '"zone"' in text
    assert "<tool_call>" in text
    assert plan(CHATML, tools=[TOOL]).prompt.startswith("<|im_start|>system\n")
    assert "clock" in plan(GEMMA, tools=[TOOL]).prompt  # which knows no system message either


def made(of: ChatPlan, template: str) -> tuple[Grammars, Any]:
    assert of.grammar is not None
    model = loaded(template)
    grammars = Grammars(model.tokenizer.backend_tokenizer, 259, model.ends)
    return grammars, grammars.compile(of.grammar).matcher()


def forced(of: ChatPlan, template: str, text: str) -> bool:
    """Whether the answer may be this text, and nothing else after it."""
    _, matcher = made(of, template)
    for token in loaded(template).tokenizer.backend_tokenizer.encode(text, add_special_tokens=False).ids:
        if not matcher.mask()[token]:
            return False
        matcher.accept(token)
    return bool(matcher.mask()[END_ID])


HERMES_CALL = '<tool_call>\n{"name": "clock", "arguments": {"zone": "CET"}}\n</tool_call>'


@pytest.mark.parametrize(
    ("template", "text"),
    [
        (CHATML, HERMES_CALL),
        (QWEN, HERMES_CALL),
        (LLAMA, '{"name": "clock", "parameters": {"zone": "CET"}}'),
        (TEXT_ARGUMENTS, '[TOOL_CALLS]clock[ARGS]{"zone": "CET"}'),
    ],
)
@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "clock"}}])
def test_a_required_call_is_forced_into_the_form_of_the_template(template: str, text: str, choice: Any) -> None:
    other = {"type": "function", "function": {"name": "other"}}
    of = plan(template, tools=[TOOL, other], tool_choice=choice)
    assert forced(of, template, text)
    assert not forced(of, template, "In words.")
    assert not forced(of, template, text.replace('"CET"', "1"))
    named = text.replace("clock", "other").replace('{"zone": "CET"}', "{}")
    assert forced(of, template, named) is (choice == "required")
    (tool_call,) = answer(of, *text)["tool_calls"]
    assert tool_call["function"] == {"name": "clock", "arguments": '{"zone": "CET"}'}


def test_in_auto_words_are_free_and_calls_are_held_to_their_form() -> None:
    for template in (CHATML, QWEN):
        of = plan(template, tools=[TOOL])
        assert forced(of, template, "In words.")
        assert forced(of, template, f"Let me see. {HERMES_CALL}")
        assert not forced(of, template, HERMES_CALL.replace("zone", "zonk"))


@pytest.mark.parametrize(("parallel", "many"), [(True, True), (False, False), (None, True)])
def test_parallel_tool_calls_says_whether_one_is_enough(parallel: bool | None, many: bool) -> None:
    of = plan(QWEN, tools=[TOOL], tool_choice="required", parallel_tool_calls=parallel)
    assert forced(of, QWEN, f"{HERMES_CALL}\n{HERMES_CALL}") is many


def test_functions_are_tools_in_an_older_form() -> None:
    of = plan(QWEN, functions=[TOOL["function"]], function_call={"name": "clock"})
    assert '"name": "clock"' in of.prompt
    assert answer(of, HERMES_CALL)["function_call"] == {"name": "clock", "arguments": '{"zone": "CET"}'}


def test_markup_among_the_special_tokens_is_shown_and_the_others_are_taken_out() -> None:
    model = loaded(QWEN)
    model.tokenizer.add_special_tokens({"extra_special_tokens": ["<tool_call>", "</tool_call>"]})
    of = prepare_chat(model, {"messages": [USER], "tools": [TOOL]})
    assert of.special
    assert answer(of, "Hi<|im_end|>", HERMES_CALL, "<|endoftext|>")["content"] == "Hi"
    assert not plan(QWEN, tools=[TOOL]).special
    assert not prepare_chat(model, {"messages": [USER]}).special


def test_a_marker_that_is_a_token_is_forced_as_that_token() -> None:
    model = loaded(QWEN)
    model.tokenizer.add_special_tokens({"extra_special_tokens": ["<tool_call>", "</tool_call>"]})
    of = prepare_chat(model, {"messages": [USER], "tools": [TOOL], "tool_choice": "required"})
    assert of.grammar is not None
    matcher = Grammars(model.tokenizer.backend_tokenizer, 300, model.ends).compile(of.grammar).matcher()
    assert matcher.mask().nonzero()[0].tolist() == [model.tokenizer.convert_tokens_to_ids("<tool_call>")]


BARE_CALL = '{"name": "clock", "parameters": {"zone": "CET"}}'


@pytest.mark.parametrize(("template", "text"), [(QWEN, HERMES_CALL), (CHATML, HERMES_CALL), (LLAMA, BARE_CALL)])
def test_with_a_schema_the_answer_is_a_call_or_fits_it(template: str, text: str) -> None:
    schema = {"type": "object", "properties": {"hour": {"type": "integer"}}, "required": ["hour"]}
    of = plan(template, tools=[TOOL], response_format={"type": "json_schema", "json_schema": {"schema": schema}})
    assert forced(of, template, text)
    assert forced(of, template, '{"hour": 12}')
    assert not forced(of, template, '{"hour": "noon"}')
    assert not forced(of, template, "In words.")
    assert answer(of, *text)["tool_calls"][0]["function"]["arguments"] == '{"zone": "CET"}'
    assert answer(of, '{"hour": 12}') == {"role": "assistant", "content": '{"hour": 12}'}
    of = plan(template, tools=[TOOL], response_format={"type": "json_object"})
    assert forced(of, template, text)
    assert forced(of, template, '{"hour": 12}')


def test_what_the_request_sets_in_a_template_that_does_not_take_it_is_named() -> None:
    template = "{{ messages[0].content }}{% if day %}{{ day.lower() }}{% endif %}"
    assert prompt(template, USER, chat_template_kwargs={"day": "FRI"}) == "Hifri"
    assert refused(template, [USER], chat_template_kwargs={"day": 5}).param == "chat_template_kwargs"
    assert refused("{{ 1 / 0 }}", [USER], chat_template_kwargs={"day": 5}).param == "messages"


def test_what_a_template_can_do_is_found_by_rendering() -> None:
    seen = {name: capabilities(text) for name, text in TEMPLATES}
    assert [name for name, can in seen.items() if can.parts] == ["parts", "only parts"]
    assert [name for name, can in seen.items() if not can.text] == ["only parts", "broken"]
    assert [name for name, can in seen.items() if not can.system] == ["gemma", "broken"]
    assert [name for name, can in seen.items() if can.tools] == ["qwen", "llama", "text arguments"]
    assert [name for name, can in seen.items() if can.calls] == ["qwen", "llama", "text arguments"]
    assert [name for name, can in seen.items() if can.objects] == ["qwen", "llama"]
    assert [name for name, can in seen.items() if can.thinking] == ["qwen"]


TEMPLATES: Sequence[tuple[str, str]] = (
    ("chatml", CHATML),
    ("parts", PARTS),
    ("only parts", ONLY_PARTS),
    ("gemma", GEMMA),
    ("qwen", QWEN),
    ("llama", LLAMA),
    ("text arguments", TEXT_ARGUMENTS),
    ("broken", "{% if"),
)


def test_the_words_about_tools_are_valid_json() -> None:
    text = plan(CHATML, tools=[TOOL]).prompt
    line = text[text.index("<tools>\n{") + 8 :].split("\n", 1)[0]
    assert json.loads(line)["name"] == "clock"


def test_a_template_whose_form_of_calls_is_unknown_is_told_of_tools_in_the_system_message() -> None:
    unknown = CHATML + "{% for t in tools or [] %}<|tool>{{ t.function.name }}{% endfor %}"
    assert capabilities(unknown).tools
    of = plan(unknown, tools=[TOOL], tool_choice="required")
    assert "<|tool>" not in of.prompt
    assert forced(of, unknown, HERMES_CALL)
