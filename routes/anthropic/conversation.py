"""The messages of a request to Anthropic's API as those of a chat."""

from __future__ import annotations

import re
from itertools import groupby
from typing import Any, Final

from routes.anthropic.blocks import (
    Base64Image,
    DocumentBlock,
    ImageBlock,
    TextBlock,
    ThinkingBlock,
    ToolResultBlock,
    ToolUseBlock,
)
from routes.anthropic.request import CountRequest
from routes.body import write_object

# Claude Code begins its system prompt with this. A number in it changes each time: no prompt would be known again.
BILLING: Final = re.compile(r"\Ax-anthropic-billing-header:(?:\s*[\w-]+=[^;\n]*;)+\s*")

# A block, and where in the request it is.
Placed = tuple[str, Any]


class Conversation:
    """`messages` in OpenAI's form; `names` tells which of their fields is which in the request."""

    def __init__(self, request: CountRequest) -> None:
        """Raises InvalidRequest where the input of a call is nested too deeply."""
        self.messages: list[dict[str, Any]] = []
        self.names: dict[str, str] = {}
        self._add_system("system", [("system", block) for block in request.system or ()])
        # Messages of one role in a row are one turn.
        for role, turn in groupby(enumerate(request.messages), key=lambda numbered: numbered[1].role):
            messages = list(turn)
            place = f"messages[{messages[0][0]}]"
            blocks = [
                (f"messages[{index}].content[{number}]", block)
                for index, message in messages
                for number, block in enumerate(message.content)
            ]
            add = {"system": self._add_system, "user": self._add_user, "assistant": self._add_assistant}[role]
            add(place, blocks)

    def _add(self, place: str, message: dict[str, Any]) -> str:
        """Returns the name of the message."""
        name = f"messages[{len(self.messages)}]"
        self.names[name] = place
        self.messages.append(message)
        return name

    def _add_system(self, place: str, blocks: list[Placed]) -> None:
        texts = [block.text for _, block in blocks]
        if texts and place == "system":
            texts[0] = BILLING.sub("", texts[0])
        if any(texts):
            self._add(place, {"role": "system", "content": "\n\n".join(filter(None, texts))})

    def _add_user(self, place: str, blocks: list[Placed]) -> None:
        """Results of calls come first: what the user says follows all of them."""
        others = []
        for where, block in blocks:
            if isinstance(block, ToolResultBlock):
                self._add_result(where, block)
            else:
                others.append((where, block))
        if others or not blocks:
            self._add_shown(place, {"role": "user"}, others)

    def _add_result(self, place: str, block: ToolResultBlock) -> None:
        shown = [(f"{place}.content[{number}]", part) for number, part in enumerate(block.content or ())]
        if block.is_error:
            shown.insert(0, (place, TextBlock(type="text", text="Error:")))
        name = self._add_shown(place, {"role": "tool", "tool_call_id": block.tool_use_id}, shown)
        self.names[f"{name}.tool_call_id"] = f"{place}.tool_use_id"

    def _add_assistant(self, place: str, blocks: list[Placed]) -> None:
        message: dict[str, Any] = {"role": "assistant"}
        thoughts = [block.thinking for _, block in blocks if isinstance(block, ThinkingBlock)]
        calls = [block for _, block in blocks if isinstance(block, ToolUseBlock)]
        if thoughts:
            message["reasoning_content"] = "\n\n".join(thoughts)
        if calls:
            message["tool_calls"] = [_call(block) for block in calls]
        message["content"] = "\n\n".join(block.text for _, block in blocks if isinstance(block, TextBlock))
        self._add(place, message)

    def _add_shown(self, place: str, message: dict[str, Any], blocks: list[Placed]) -> str:
        """A message with these blocks as its content; returns its name."""
        name = self._add(place, message)
        for number, (where, block) in enumerate(blocks):
            self.names[f"{name}.content[{number}]"] = where
            if isinstance(block, ImageBlock):
                field = "data" if isinstance(block.source, Base64Image) else "url"
                self.names[f"{name}.content[{number}].image_url.url"] = f"{where}.source.{field}"
        parts = [_part(block) for _, block in blocks]
        if len(parts) == 1 and parts[0]["type"] == "text":
            message["content"] = parts[0]["text"]
        else:
            message["content"] = parts or ""
        return name


def _part(block: TextBlock | ImageBlock | DocumentBlock) -> dict[str, Any]:
    if isinstance(block, TextBlock):
        return {"type": "text", "text": block.text}
    if isinstance(block, DocumentBlock):
        texts = (block.title, block.context, block.source.data)
        return {"type": "text", "text": "\n\n".join(text for text in texts if text)}
    source = block.source
    url = f"data:{source.media_type};base64,{source.data}" if isinstance(source, Base64Image) else source.url
    return {"type": "image_url", "image_url": {"url": url}}


def _call(block: ToolUseBlock) -> dict[str, Any]:
    function = {"name": block.name, "arguments": write_object(block.input).decode()}
    return {"id": block.id, "type": "function", "function": function}
