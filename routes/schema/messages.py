"""The messages of a chat and the tools that it may call, as routes/messages.py checks them."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from routes.parsing import RequestBody


class TextPart(RequestBody):
    """A text."""

    type: Literal["text"]
    text: str


class RefusalPart(RequestBody):
    """What the assistant said instead of an answer."""

    type: Literal["refusal"]
    refusal: str


class ImageUrl(RequestBody):
    """Where an image is."""

    url: str = Field(description="`data:image/png;base64,…`; `https:` only where `media.remote` is set.")


class ImagePart(RequestBody):
    """An image, for models with a projector."""

    type: Literal["image_url"]
    image_url: ImageUrl | str


class Media(RequestBody):
    """A sound or a film."""

    data: str | None = Field(None, description="Base64, or a `data:` URL.")
    url: str | None = Field(None, description="A `data:` URL.")
    format: str | None = Field(None, description="`wav` or `mp3`, for a sound.")


class AudioPart(RequestBody):
    """A sound, for models that hear."""

    type: Literal["input_audio"]
    input_audio: Media


class VideoPart(RequestBody):
    """A film, for models that see."""

    type: Literal["input_video"]
    input_video: Media


class VideoUrlPart(RequestBody):
    """A film, for models that see."""

    type: Literal["video_url"]
    video_url: Media


Content = str | list[TextPart | RefusalPart | ImagePart | AudioPart | VideoPart | VideoUrlPart]


class CalledFunction(RequestBody):
    """The function that the assistant called."""

    name: str
    arguments: str | dict[str, Any] = Field(description="A JSON object, as text.")


class ToolCall(RequestBody):
    """A call of a tool by the assistant."""

    id: str = Field(description="By which the message with the result names it.")
    function: CalledFunction


class _Message(RequestBody):
    name: str | None = Field(None, description="Who speaks, where several have the same role.")
    reasoning_content: str | None = Field(None, description="What was thought before.")


class SpokenMessage(_Message):
    """What the user says, or what holds for the whole conversation."""

    role: Literal["user", "system", "developer"]
    content: Content


class AssistantMessage(_Message):
    """What the model said, or which tools it called."""

    role: Literal["assistant"]
    content: Content | None = None
    tool_calls: list[ToolCall] | None = Field(None, description="Each is answered by a message of the role `tool`.")
    function_call: CalledFunction | None = Field(None, description="A call by the older form of tools.")


class ToolMessage(_Message):
    """The result of a call."""

    role: Literal["tool"]
    content: Content
    tool_call_id: str = Field(
        description="The id of a call that the assistant made since the last message of the user."
    )


class FunctionMessage(_Message):
    """The result of a call by the older form of tools."""

    role: Literal["function"]
    content: Content
    name: str = Field(description="The function that was called.")


Message = SpokenMessage | AssistantMessage | ToolMessage | FunctionMessage


class FunctionDefinition(RequestBody):
    """A function that the model may call."""

    name: str
    description: Any = Field(None, description="What it does, in words.")
    parameters: Any = Field(None, description="JSON Schema of its arguments.")


class LegacyFunction(FunctionDefinition):
    """A function, by the older form of tools."""

    parameters: dict[str, Any] | None = Field(None, description="JSON Schema of its arguments.")


class Tool(RequestBody):
    """A tool that the model may call."""

    type: Literal["function"]
    function: FunctionDefinition
