"""What the input of a response is made of, and the messages of a chat that it becomes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BeforeValidator, Discriminator, Tag
from pydantic_core import PydanticCustomError

from routes.parsing import RequestBody, by_field, told_apart


def one_of(*kinds: str) -> Discriminator:
    """Tells objects apart by their `type`."""
    return by_field("type", f"must be an object of the type {' or '.join(kinds)}")


def by_type(tags: Mapping[type, str], must: str) -> Discriminator:
    """Tells values apart by their JSON type."""
    return told_apart(lambda value: tags.get(type(value)), must)


def refused(why: str) -> BeforeValidator:
    """Of a field that must be null or left out, because `why`."""

    def refuse(value: Any) -> None:
        if value is not None:
            raise PydanticCustomError("refused", "is not supported: {why}", {"why": why})

    return BeforeValidator(refuse)


Unkept: TypeAlias = Annotated[None, refused("nothing is kept between requests")]


class InputText(RequestBody):
    """A text of the user, or the result of a call."""

    type: Literal["input_text"]
    text: str


class OutputText(RequestBody):
    """A text that a model wrote."""

    type: Literal["output_text"]
    text: str


class Refusal(RequestBody):
    """A model's no."""

    type: Literal["refusal"]
    refusal: str


class InputImage(RequestBody):
    """An image as a data URL, or one to be fetched where the service does that."""

    type: Literal["input_image"]
    image_url: str
    detail: Literal["auto", "low", "high", "original"] | None = None
    file_id: Unkept = None


class InputAudio(RequestBody):
    """A sound in base64: `{"data", "format"}`."""

    type: Literal["input_audio"]
    input_audio: dict[str, Any]


Part: TypeAlias = Annotated[
    Annotated[InputText, Tag("input_text")]
    | Annotated[OutputText, Tag("output_text")]
    | Annotated[Refusal, Tag("refusal")]
    | Annotated[InputImage, Tag("input_image")]
    | Annotated[InputAudio, Tag("input_audio")],
    one_of("input_text", "input_image", "input_audio", "output_text", "refusal"),
]


Content: TypeAlias = Annotated[
    Annotated[str, Tag("text")] | Annotated[list[Part], Tag("array")],
    by_type({str: "text", list: "array"}, "must be a string or an array of parts"),
]


class InputMessage(RequestBody):
    """What somebody said."""

    type: Literal["message"] | None = None
    role: Literal["user", "assistant", "system", "developer"]
    content: Content


class FunctionCall(RequestBody):
    """A call that the model made."""

    type: Literal["function_call"]
    call_id: str
    name: str
    arguments: str


class FunctionCallOutput(RequestBody):
    """What a call brought."""

    type: Literal["function_call_output"]
    call_id: str
    output: Content


class ReasoningText(RequestBody):
    """A part of what a model thought."""

    type: Literal["reasoning_text"]
    text: str


class ReasoningItem(RequestBody):
    """What the model thought before it said or called something."""

    type: Literal["reasoning"]
    content: list[ReasoningText] | None = None


def _item_type(value: Any) -> Any:
    if not isinstance(value, dict):
        return None
    kind = value.get("type")
    return "message" if kind is None else kind


Item: TypeAlias = Annotated[
    Annotated[InputMessage, Tag("message")]
    | Annotated[FunctionCall, Tag("function_call")]
    | Annotated[FunctionCallOutput, Tag("function_call_output")]
    | Annotated[ReasoningItem, Tag("reasoning")],
    told_apart(
        _item_type,
        "must be a message or an object of the type function_call, function_call_output or reasoning",
    ),
]
Input: TypeAlias = Annotated[
    Annotated[str, Tag("text")] | Annotated[list[Item], Tag("array")],
    by_type({str: "text", list: "array"}, "must be a string or an array of items"),
]


# Of a message the place in the request that it comes from (under ""), and those of parts of it that it says otherwise.
Places: TypeAlias = dict[str, str]


class Transcript:
    """The messages of a chat, and the places of each."""

    def __init__(self) -> None:
        self.messages: list[dict[str, Any]] = []
        self.places: list[Places] = []
        self._thoughts: list[str] = []  # of the assistant, before what comes next
        self._turn: dict[str, Any] | None = None  # of the assistant, to which calls may be added

    def say(self, role: str, content: str | list[dict[str, Any]] | None, place: str, **more: Any) -> dict[str, Any]:
        """Add a message."""
        message = {"role": role, "content": content, **more}
        if role == "assistant" and self._thoughts:
            message["reasoning_content"] = "".join(self._thoughts)
        self._thoughts = []
        self._turn = message if role == "assistant" else None
        self.messages.append(message)
        self.places.append({"": place})
        return message

    def add(self, item: Item, place: str) -> None:
        """Add an item of the input. What the assistant thought goes with what it said or called next."""
        match item:
            case InputMessage():
                self.say(item.role, _content(item.content), place)
            case FunctionCallOutput():
                self.say("tool", _content(item.output), place, tool_call_id=item.call_id)
                self.places[-1] |= {".content": f"{place}.output", ".tool_call_id": f"{place}.call_id"}
            case ReasoningItem():
                self._thoughts += (part.text for part in item.content or () if part.text)
            case FunctionCall():
                self._call(item, place)

    def _call(self, item: FunctionCall, place: str) -> None:
        turn = self._turn
        if turn is None or self._thoughts:
            turn = self.say("assistant", None, place)
        calls = turn.setdefault("tool_calls", [])
        part = f".tool_calls[{len(calls)}]"
        self.places[-1] |= {part: place, f"{part}.function": place}
        called = {"name": item.name, "arguments": item.arguments}
        calls.append({"id": item.call_id, "type": "function", "function": called})


def _content(content: Content) -> str | list[dict[str, Any]]:
    return content if isinstance(content, str) else [_part(part) for part in content]


def _part(part: Part) -> dict[str, Any]:
    match part:
        case InputImage():
            detail = {} if part.detail is None else {"detail": part.detail}
            return {"type": "image_url", "image_url": {"url": part.image_url, **detail}}
        case InputAudio():
            return {"type": "input_audio", "input_audio": part.input_audio}
        case Refusal():
            return {"type": "text", "text": part.refusal}
    return {"type": "text", "text": part.text}
