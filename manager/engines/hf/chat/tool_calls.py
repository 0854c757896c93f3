"""From the text of a chat's answer to its reasoning, content and calls of tools, as it arrives. See deltas.Deltas."""

from __future__ import annotations

import secrets
import string
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from manager.engines.hf.chat.call_formats import CallFormat
from manager.engines.hf.chat.call_readers import CallReader, NamedReader, ObjectReader
from manager.engines.hf.chat.markers import Markers
from manager.engines.hf.chat.tagged_reader import TaggedReader
from manager.engines.hf.chat.tool_fields import ToolRequest

_SPACE = " \t\r\n"
_IDS = string.ascii_letters + string.digits


@dataclass(frozen=True, slots=True)
class AnswerForm:
    """What may stand in an answer. `calls` with `tools`: the form of calls, None where there are none to make.

    `many`: more than one call. `thinking`: the pair of texts around reasoning; `opened`: the prompt ends within it.
    `begun`: text of the answer that the prompt had already. `dropped`: texts that are never content.
    """

    calls: CallFormat | None = None
    tools: ToolRequest | None = None
    many: bool = True
    thinking: tuple[str, str] | None = None
    opened: bool = False
    begun: str = ""
    dropped: tuple[str, ...] = ()


class ChatDeltas:
    """Text to OpenAI's deltas. What looked like a call and is none comes as content, whole."""

    def __init__(self, form: AnswerForm) -> None:
        self._form = form
        self._calls = form.calls if form.tools is not None else None
        texts = [*form.dropped, *(self._calls.markers if self._calls else ())]
        self._markers = Markers(texts)
        self._close = Markers(form.thinking[1:] if form.thinking else ())
        self._buffer = form.begun
        self._raw = ""  # what was read as markup since the last content, to be given back
        self._reader: CallReader | None = None
        self._announced = False
        self._in_section = 0  # calls that the section has had
        self._complete = 0
        self._skip_space = form.opened
        self._state: Callable[[bool], bool] = self._think if form.opened else self._start
        self._out: list[dict[str, Any]] = []
        self._content: list[str] = []
        self._reasoning: list[str] = []
        self._made: list[dict[str, Any]] = []

    def feed(self, text: str) -> list[dict[str, Any]]:
        self._buffer += text
        return self._run(final=False)

    def end(self) -> tuple[list[dict[str, Any]], str | None]:
        deltas = self._run(final=True)
        if not self._complete:
            return deltas, None
        return deltas, "function_call" if self._legacy else "tool_calls"

    def message(self) -> dict[str, Any]:
        content = "".join(self._content)
        message: dict[str, Any] = {"role": "assistant", "content": content if content or not self._made else None}
        if any(self._reasoning):
            message["reasoning_content"] = "".join(self._reasoning)
        if self._made and self._legacy:
            message["function_call"] = self._made[0]["function"]
        elif self._made:
            message["tool_calls"] = self._made
        return message

    @property
    def _legacy(self) -> bool:
        return self._form.tools is not None and self._form.tools.legacy

    def _run(self, *, final: bool) -> list[dict[str, Any]]:
        while self._state(final):
            pass
        out, self._out = self._out, []
        return out

    # The states. Each takes what it can from the buffer; False: it needs more.

    def _start(self, final: bool) -> bool:
        """Before anything: reasoning, or an answer that is a call, can only begin here."""
        lead = self._buffer.lstrip()
        thinking = None if self._reasoning else self._form.thinking
        bare = [*self._calls.around, "{"] if self._calls is not None and not self._calls.open else []
        openers = ([thinking[0]] if thinking else []) + bare
        if not final and (not lead or any(opener != lead and opener.startswith(lead) for opener in openers)):
            return False
        if self._skip_space:
            self._buffer, self._skip_space = lead, False
        if thinking and lead.startswith(thinking[0]):
            self._buffer, self._state, self._skip_space = lead[len(thinking[0]) :], self._think, True
        elif bare and lead.startswith(tuple(bare)):
            self._raw, self._in_section = self._buffer[: len(self._buffer) - len(lead)], 0
            self._buffer, self._state = lead, self._section
        else:
            self._state = self._text
        return True

    @property
    def _bare(self) -> bool:
        return self._calls is not None and not self._calls.open

    def _think(self, final: bool) -> bool:
        if self._skip_space:
            self._buffer = self._buffer.lstrip()
            self._skip_space = not self._buffer
        found = self._close.first(self._buffer)
        if found is not None:
            self._emit("reasoning_content", self._buffer[: found[0]].rstrip())
            self._buffer = self._buffer[found[0] + len(found[1]) :]
            self._reasoning = self._reasoning or [""]
            self._state, self._skip_space = self._start, True
            return True
        self._pass_on("reasoning_content", self._close, final)
        return False

    def _text(self, final: bool) -> bool:
        found = self._markers.first(self._buffer)
        if found is None:
            self._pass_on("content", self._markers, final)
            return False
        at, marker = found
        before, self._buffer = self._buffer[:at], self._buffer[at + len(marker) :]
        if self._calls is not None and marker in self._calls.markers:
            self._emit("content", before.rstrip())
        else:
            self._emit("content", before)
        if self._calls is not None and marker == self._calls.open:
            self._raw, self._state, self._in_section = marker, self._section, 0
        return True

    def _pass_on(self, field: str, markers: Markers, final: bool) -> None:
        """Everything but what may be the beginning of a marker, and space before it, which would go with it."""
        text = self._buffer
        free = text[: len(text) - markers.held(text)]
        if final:
            # After a call, space and half a marker are none of the answer.
            self._emit(field, text if not self._made else free if free.strip() else "")
            self._buffer = ""
            return
        free = free.rstrip() if self._calls is not None or field == "reasoning_content" else free
        self._emit(field, free)
        self._buffer = text[len(free) :]

    def _section(self, final: bool) -> bool:
        """Where a call may begin: behind the opening marker, or behind another call."""
        form = self._calls
        assert form is not None  # noqa: S101  only reached with one
        ends = [text for text in (form.open, form.close, *form.around) if text]
        skipped = _SPACE + ("[],;`" if self._in_section else "[],;")
        lead = self._buffer
        while lead and lead[0] in skipped and not any(end.startswith(lead) or lead.startswith(end) for end in ends):
            lead = lead[1:]
        self._raw += self._buffer[: len(self._buffer) - len(lead)]
        self._buffer = lead
        partly = any(end != lead and end.startswith(lead) for end in ends)
        if not final and partly:
            return False
        end = next((end for end in ends if lead.startswith(end)), None)
        if partly:
            self._buffer, self._state = "", self._text  # cut off: markup is no content
        elif end is not None:
            self._raw += end if form.open else ""
            self._buffer = lead[len(end) :]
            self._in_section = 0 if end == form.open else self._in_section
            self._state = self._text if end == form.close else self._section
        elif lead and (lead[0] == "{" or (form.form != "object" and not self._in_section)):
            self._reader, self._announced, self._state = self._reader_for(form, lead), False, self._call
        elif self._in_section or not lead:
            self._state = self._text
        else:
            self._give_back()
        return True

    def _reader_for(self, form: CallFormat, lead: str) -> CallReader:
        if form.form == "tagged" and self._form.tools is not None:
            functions = [tool["function"] for tool in self._form.tools.tools]
            return TaggedReader(form, {function["name"]: function["parameters"] for function in functions})
        if form.form == "named" and lead[0] != "{":
            return NamedReader(form)
        return ObjectReader(form, strict=not form.open)

    def _call(self, final: bool) -> bool:
        reader = self._reader
        assert reader is not None  # noqa: S101  only reached with one
        taken = reader.feed(self._buffer)
        self._raw += self._buffer[:taken]
        self._buffer = self._buffer[taken:]
        if reader.name is not None and not self._announced and not reader.broken:
            if self._bare and self._form.tools is not None and reader.name not in self._form.tools.names:
                reader.broken = True
            else:
                self._announce(reader.name)
        if self._announced:
            self._argue(reader.take())
        if reader.done:
            self._finish()
        elif reader.broken and self._announced:
            self._state = self._text
        elif reader.broken or (final and self._bare and not self._announced):
            self._give_back()
        elif final:
            self._buffer = ""  # cut off within a call: markup is no content
            return False
        else:
            return False
        return True

    def _finish(self) -> None:
        self._complete += 1
        self._in_section += 1
        self._raw = ""
        self._state = self._section if self._form.many else self._over

    def _over(self, final: bool) -> bool:
        """One call was asked for; what follows it is not part of the answer."""
        self._buffer = ""
        return False

    def _give_back(self) -> None:
        raw, self._raw = self._raw, ""
        self._emit("content", raw)
        self._state = self._text

    # What they bring.

    def _emit(self, field: str, text: str) -> None:
        if not text:
            return
        (self._content if field == "content" else self._reasoning).append(text)
        if self._out and field in self._out[-1]:
            self._out[-1][field] += text
        else:
            self._out.append({field: text})

    def _announce(self, name: str) -> None:
        self._announced = True
        # Nine letters and digits: the only ids that Mistral's templates take back.
        call_id = "".join(secrets.choice(_IDS) for _ in range(9))
        self._made.append({"id": call_id, "type": "function", "function": {"name": name, "arguments": ""}})
        function = {"name": name, "arguments": ""}
        if self._legacy:
            self._out.append({"function_call": function})
        else:
            index = len(self._made) - 1
            self._out.append(
                {"tool_calls": [{"index": index, "id": call_id, "type": "function", "function": function}]}
            )

    def _argue(self, text: str) -> None:
        if not text:
            return
        self._made[-1]["function"]["arguments"] += text
        if self._legacy:
            self._out.append({"function_call": {"arguments": text}})
        else:
            self._out.append({"tool_calls": [{"index": len(self._made) - 1, "function": {"arguments": text}}]})
