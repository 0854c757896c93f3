"""What a chat template can say, found by rendering short conversations with it. It knows no request."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from transformers.utils.chat_template_utils import render_jinja_template

# For models that bring no template; llama.cpp takes the same.
CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
CHATML_END = "<|im_end|>"

# The pairs around what a model thinks before it answers.
_THINKING = (
    ("<think>", "</think>"),
    ("[THINK]", "[/THINK]"),
    ("<seed:think>", "</seed:think>"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
    ("<thought>", "</thought>"),
)

_MARK = "zqmark"
_USER = {"role": "user", "content": "x"}
_TOOL = {
    "type": "function",
    "function": {
        "name": _MARK,
        "description": "x",
        "parameters": {"type": "object", "properties": {"key": {"type": "string", "description": "x"}}, "required": []},
    },
}


@dataclass(frozen=True, slots=True)
class Capabilities:
    """`text`, `parts`: contents as a string, as a list of parts. `tools`: it tells the model of tools. `calls`: it
    shows calls made before; `objects`: with their arguments as objects, not as JSON text. `thinking`: the pair of texts
    around reasoning, where it knows one.
    """

    text: bool
    parts: bool
    system: bool
    tools: bool
    calls: bool
    objects: bool
    thinking: tuple[str, str] | None


@lru_cache(maxsize=32)
def capabilities(template: str) -> Capabilities:
    """Never raises: what can't be rendered is not there. Takes some ms, once per template."""
    parts = _try(template, [{"role": "user", "content": [{"type": "text", "text": _MARK}]}])
    system = _try(template, [{"role": "system", "content": _MARK}, _USER])
    if _MARK not in system:
        system = _try(template, [{"role": "system", "content": [{"type": "text", "text": _MARK}]}, _USER])
    objects = _called(template, {"zqkey": "x"})
    return Capabilities(
        text=_MARK in _try(template, [{"role": "user", "content": _MARK}]),
        parts=_MARK in parts and "'type'" not in parts and '"type"' not in parts,
        system=_MARK in system,
        tools=_MARK in _try(template, [_USER], tools=[_TOOL]),
        calls=_MARK in objects or _MARK in _called(template, '{"zqkey": "x"}'),
        objects="zqkey" in objects and "{'zqkey'" not in objects,
        thinking=next((pair for pair in _THINKING if pair[0] in template or pair[1] in template), None),
    )


def _called(template: str, arguments: Any) -> str:
    # Nine letters and digits: Mistral's templates take no other id.
    call = {"id": "call00001", "type": "function", "function": {"name": _MARK, "arguments": arguments}}
    messages: list[dict[str, Any]] = [
        _USER,
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "name": "x", "content": "x", "tool_call_id": "call00001"},
    ]
    # Some forget calls that an answer has followed, others take no prompt without that answer.
    return _try(template, messages) or _try(template, [*messages, {"role": "assistant", "content": "x"}, _USER])


def _try(template: str, messages: Sequence[Mapping[str, Any]], tools: list[dict[str, Any]] | None = None) -> str:
    try:
        return render(template, json.loads(json.dumps(messages)), tools, {"bos_token": "", "eos_token": ""})
    except Exception:  # a template is a program of a stranger's and may raise anything
        return ""


def render(
    template: str, messages: list[dict[str, Any]], tools: list[dict[str, Any]] | None, variables: Mapping[str, Any]
) -> str:
    """The prompt, in jinja2's sandbox. Raises what the template raises: anything."""
    rendering: Any = render_jinja_template  # its annotations are wrong
    texts, _ = rendering(
        [messages], tools=tools, chat_template=template, **{"add_generation_prompt": True, **variables}
    )
    prompt = str(texts[0])
    prompt.encode()  # half a character (a lone surrogate) can't become tokens
    return prompt
