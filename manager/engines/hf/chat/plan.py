"""From a chat's messages to its prompt, and how its answer is to be read. No torch, and no HTTP."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from manager.engines.hf.chat.call_formats import HERMES, CallFormat, format_of
from manager.engines.hf.chat.call_grammar import CallGrammar
from manager.engines.hf.chat.conversation import Message, as_text, for_template, read_messages, with_system
from manager.engines.hf.chat.deltas import Deltas, PlainDeltas
from manager.engines.hf.chat.templates import CHATML, CHATML_END, capabilities
from manager.engines.hf.chat.templates import render as render_template
from manager.engines.hf.chat.tool_calls import AnswerForm, ChatDeltas
from manager.engines.hf.chat.tool_fields import ToolRequest, read_tools
from manager.engines.hf.chat.tool_note import tool_note
from manager.engines.hf.grammar.fields import GrammarSpec, grammar_spec
from manager.engines.hf.wire.unsupported import FieldError

if TYPE_CHECKING:
    from manager.engines.hf.loading.load import LoadedModel

# What the rendering itself is told; a request that set them would replace the template or the conversation.
_OURS = frozenset(
    ("messages", "conversations", "tools", "chat_template", "add_generation_prompt", "continue_final_message")
) | {"return_assistant_tokens_mask", "raise_exception", "strftime_now", "namespace", "dict"}


@dataclass(frozen=True, slots=True)
class Rendered:
    """`add_special`: whether the tokenizer is to add its own beginning, which is not in the prompt yet.

    `begun`: how the answer begins, as the end of the prompt has it already. `opened`: that end is within reasoning.
    """

    prompt: str
    add_special: bool
    begun: str = ""
    opened: bool = False


@dataclass(frozen=True, slots=True)
class ChatPlan:
    """A chat before its tokens. `grammar`: for Grammars.compile. `deltas`: makes a reader for each choice.

    `special`: whether the text must show special tokens, because markup is among them; the reader takes the others out.
    `stops`: texts that end the answer besides those of the request.
    """

    prompt: str
    add_special: bool
    grammar: GrammarSpec | None
    deltas: Callable[[], Deltas]
    special: bool
    stops: tuple[str, ...]


def prepare_chat(loaded: LoadedModel, body: Mapping[str, Any]) -> ChatPlan:
    """Blocks for some ms: rendering is Python. Raises FieldError, naming what is wrong in the request."""
    try:
        return _prepared(loaded, body)
    except RecursionError:
        field = next((field for field in ("tools", "functions") if body.get(field)), "messages")
        raise FieldError(field, "is nested too deeply") from None


def _prepared(loaded: LoadedModel, body: Mapping[str, Any]) -> ChatPlan:
    template = loaded.template or CHATML
    can = capabilities(template)
    tools = read_tools(body)
    rendered = render(loaded, body, tools)
    grammar = grammar_spec(body)
    calls, told = _calls(template)
    many = tools is not None and _many(tools, told=told)
    if tools is not None:
        grammar = _call_spec(calls, tools, loaded, grammar, many=many)
    if grammar is not None and not grammar.after and rendered.opened and can.thinking is not None:
        grammar = replace(grammar, after=can.thinking[1])
    stops = () if loaded.template else (CHATML_END,)
    form = AnswerForm(
        calls=None if tools is None else calls,
        tools=tools,
        many=many,
        thinking=None if body.get("reasoning_format") == "none" else can.thinking,
        opened=rendered.opened,
        begun=rendered.begun,
    )
    shown, hidden = _special(loaded, form, stops)
    form = replace(form, dropped=hidden)
    plain = form.calls is None and form.thinking is None and not form.begun and not form.dropped
    deltas: Callable[[], Deltas] = PlainDeltas if plain else lambda: ChatDeltas(form)
    return ChatPlan(rendered.prompt, rendered.add_special, grammar, deltas, shown, stops)


def render(loaded: LoadedModel, body: Mapping[str, Any], tools: ToolRequest | None = None) -> Rendered:
    """The prompt. A last message of the assistant is continued, as in llama-server. Raises FieldError.

    `tools` that the template can't tell of are told of in the system message. Images stand as {"type": "image"}.
    """
    template = loaded.template or CHATML
    can = capabilities(template)
    messages = read_messages(body.get("messages"), template)
    continued = _continued(body, messages)
    if continued is not None:
        messages = messages[:-1]
    calls, told = _calls(template)
    if tools is not None and not told:
        messages = with_system(messages, tool_note(tools))
    shown = [dict(tool) for tool in tools.tools] if tools is not None and told else None
    fitted = for_template(messages, can, calls.written, untold=not told)
    variables = {**loaded.tokenizer.special_tokens_map, **_variables(body)}
    if continued is None and body.get("add_generation_prompt") is False:
        variables["add_generation_prompt"] = False
    try:
        prompt = render_template(template, fitted, shown, variables)
    except Exception as error:  # a template is a program of a stranger's and may raise anything
        field = "messages"
        if body.get("chat_template_kwargs") and _takes(template, fitted, shown, loaded):
            field = "chat_template_kwargs"
        raise FieldError(field, f"can't be put into the model's chat template: {_words(error)}") from None
    start = loaded.tokenizer.bos_token
    rendered = Rendered(prompt, not (start and prompt.startswith(start)), opened=_opened(prompt, can.thinking))
    return rendered if continued is None else _continue(rendered, continued, can.thinking)


def _takes(template: str, messages: list[Message], tools: list[dict[str, Any]] | None, loaded: LoadedModel) -> bool:
    """Whether the template renders these where the request sets nothing in it."""
    try:
        render_template(template, messages, tools, {**loaded.tokenizer.special_tokens_map, **_variables({})})
    except Exception:  # as above
        return False
    return True


def _calls(template: str) -> tuple[CallFormat, bool]:
    """The form of calls, and whether it is the template that tells the model of tools; else we do."""
    known = format_of(template) if capabilities(template).tools else None
    return (HERMES, False) if known is None else (known, True)


def _variables(body: Mapping[str, Any]) -> dict[str, Any]:
    """What the template may ask for, with llama-server's names and defaults."""
    given = body.get("chat_template_kwargs") or {}
    if not isinstance(given, Mapping):
        raise FieldError("chat_template_kwargs", "must be an object")
    for name in given:
        if name in _OURS:
            raise FieldError(f"chat_template_kwargs.{name}", "can't be set")
    now = time.localtime()
    variables = {
        "enable_thinking": True,
        "date_string": time.strftime("%d %b %Y", now),
        "datetime": time.strftime("%b %d %Y", now),
        **given,
    }
    if not isinstance(variables["enable_thinking"], bool):
        raise FieldError("chat_template_kwargs.enable_thinking", "must be true or false")
    effort = body.get("reasoning_effort")
    if effort == "none":
        variables["enable_thinking"] = False
    elif isinstance(effort, str) and effort:
        variables["reasoning_effort"] = effort
    elif effort is not None:
        raise FieldError("reasoning_effort", "must be a string")
    return variables


def _continued(body: Mapping[str, Any], messages: list[Message]) -> Message | None:
    """The last message, where the answer is to go on with it."""
    asked = body.get("continue_final_message")
    if asked not in (None, True, False, "content", "reasoning_content"):
        raise FieldError("continue_final_message", "must be true, false, content or reasoning_content")
    if not messages or messages[-1]["role"] != "assistant" or asked is False:
        if asked:
            raise FieldError("continue_final_message", "needs a last message of the assistant")
        return None
    if asked and body.get("add_generation_prompt"):
        raise FieldError("continue_final_message", "can't be used together with 'add_generation_prompt'")
    if messages[-1].get("tool_calls"):
        raise FieldError("messages", "ends with a message that calls tools, which can't be continued")
    if len(messages) > 1 and messages[-2]["role"] == "assistant":
        raise FieldError("messages", "ends with two messages of the assistant")
    last = messages[-1]
    if asked in (None, True):
        asked = "content" if last["content"] or not last.get("reasoning_content") else "reasoning_content"
    return {**last, "continue": asked}


def _continue(rendered: Rendered, last: Message, thinking: tuple[str, str] | None) -> Rendered:
    prompt, reasoning, content = rendered.prompt, last.get("reasoning_content") or "", as_text(last["content"])
    if not isinstance(reasoning, str):
        raise FieldError("messages", "has a reasoning_content that is no string")
    if thinking is not None and (rendered.opened or reasoning):
        if rendered.opened:
            prompt = prompt[: prompt.rindex(thinking[0])]
        prompt += f"{thinking[0]}\n{reasoning}"
        if last["continue"] == "reasoning_content":
            return replace(rendered, prompt=prompt, begun=reasoning, opened=True)
        prompt += f"\n{thinking[1]}\n\n"
    return replace(rendered, prompt=prompt + content, begun=content, opened=False)


def _opened(prompt: str, thinking: tuple[str, str] | None) -> bool:
    return thinking is not None and prompt.rstrip().endswith(thinking[0])


def _many(tools: ToolRequest, *, told: bool) -> bool:
    """Models that were never taught to call tools don't know when to stop calling them."""
    if tools.parallel is not None:
        return tools.parallel
    return told and tools.only is None if tools.must else True


def _call_spec(
    calls: CallFormat, tools: ToolRequest, loaded: LoadedModel, wanted: GrammarSpec | None, *, many: bool
) -> GrammarSpec | None:
    """Forces calls where there must be one, and calls or `wanted`, the schema of the answer, where there is one.

    Else it holds only for what follows the marker with which a call begins.
    """
    field = "functions" if tools.legacy else "tools"
    grammar = CallGrammar(calls, tools.callable, loaded.tokenizer.get_added_vocab())
    if wanted is not None:
        if wanted.kind == "gbnf":
            raise FieldError("grammar", f"can't be used together with '{field}'")
        if tools.must:
            raise FieldError(wanted.field, "can't be used where a tool must be called")
        return GrammarSpec("lark", grammar.whole(many=many, instead=json.loads(wanted.text)), wanted.field)
    if tools.must:
        return GrammarSpec("lark", grammar.whole(many=many), field)
    if not calls.open:
        return None
    return GrammarSpec("lark", grammar.rest(many=many), field, after=calls.open, must=False, again=many)


def _special(loaded: LoadedModel, form: AnswerForm, stops: tuple[str, ...]) -> tuple[bool, tuple[str, ...]]:
    """Whether what we look for is among the special tokens, and the others, which must then be taken out."""
    special = {token.content for token in loaded.tokenizer.added_tokens_decoder.values() if token.special}
    wanted = {*(form.calls.markers if form.calls else ()), *(form.thinking or ()), *stops} & special
    return bool(wanted), tuple(sorted(special - wanted)) if wanted else ()


def _words(error: Exception) -> str:
    """A template's own words are told; of other errors, which may be long, the kind goes before."""
    words = " ".join(str(error).split())[:500]
    return words if type(error).__module__.startswith("jinja2") and words else f"{type(error).__name__}: {words}"
