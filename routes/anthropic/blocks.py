"""The messages of a request to Anthropic's API, and the blocks that they are made of."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Tag

from routes.parsing import RequestBody, by_field
from routes.schema.switches import Off


def _as_blocks(content: Any) -> Any:
    if isinstance(content, str):
        return [{"type": "text", "text": content}]
    if not isinstance(content, list):
        raise ValueError("must be a string or an array of blocks")
    return content


class TextBlock(RequestBody):
    """A text."""

    type: Literal["text"]
    text: str


class Base64Image(RequestBody):
    """An image, in the request itself."""

    type: Literal["base64"]
    media_type: Literal["image/jpeg", "image/png", "image/gif", "image/webp"]
    data: str


class ImageByUrl(RequestBody):
    """An image that is fetched, where `media.remote` allows it."""

    type: Literal["url"]
    url: str


ImageSource = Annotated[
    Annotated[Base64Image, Tag("base64")] | Annotated[ImageByUrl, Tag("url")],
    by_field("type", "must be an object of the type base64 or url"),
]


class ImageBlock(RequestBody):
    """An image, for models with a projector."""

    type: Literal["image"]
    source: ImageSource


class PlainText(RequestBody):
    """The text of a document."""

    type: Literal["text"]
    data: str


class Citations(RequestBody):
    """Whether answers cite a document: they do not."""

    enabled: Off | None = None


class DocumentBlock(RequestBody):
    """A text; other documents would have to be read first, and answers have no citations."""

    type: Literal["document"]
    source: PlainText
    title: str | None = None
    context: str | None = None
    citations: Citations | None = None


Shown = (
    Annotated[TextBlock, Tag("text")] | Annotated[ImageBlock, Tag("image")] | Annotated[DocumentBlock, Tag("document")]
)
ShownBlock = Annotated[Shown, by_field("type", "must be a block of the type text, image or document")]
ShownContent = Annotated[list[ShownBlock], BeforeValidator(_as_blocks, json_schema_input_type=str | list[ShownBlock])]


class ToolResultBlock(RequestBody):
    """What a call of a tool brought; `is_error`: that it failed."""

    type: Literal["tool_result"]
    tool_use_id: str
    content: ShownContent | None = None
    is_error: bool | None = None


class ToolUseBlock(RequestBody):
    """A call of a tool by the assistant."""

    type: Literal["tool_use"]
    id: str
    name: str
    input: dict[str, Any]


class ThinkingBlock(RequestBody):
    """What the assistant thought before it answered."""

    type: Literal["thinking"]
    thinking: str


class RedactedThinkingBlock(RequestBody):
    """What another service's model thought, which nobody else can read."""

    type: Literal["redacted_thinking"]


UserBlock = Annotated[
    Shown | Annotated[ToolResultBlock, Tag("tool_result")],
    by_field("type", "must be a block of the type text, image, document or tool_result"),
]
AssistantBlock = Annotated[
    Annotated[TextBlock, Tag("text")]
    | Annotated[ToolUseBlock, Tag("tool_use")]
    | Annotated[ThinkingBlock, Tag("thinking")]
    | Annotated[RedactedThinkingBlock, Tag("redacted_thinking")],
    by_field("type", "must be a block of the type text, tool_use, thinking or redacted_thinking"),
]
Texts = Annotated[list[TextBlock], BeforeValidator(_as_blocks, json_schema_input_type=str | list[TextBlock])]


class UserMessage(RequestBody):
    """What the user says, and what the tools brought that the assistant called."""

    role: Literal["user"]
    content: Annotated[list[UserBlock], BeforeValidator(_as_blocks, json_schema_input_type=str | list[UserBlock])]


class AssistantMessage(RequestBody):
    """What the model said. As the last message it is what the answer goes on with."""

    role: Literal["assistant"]
    content: Annotated[
        list[AssistantBlock], BeforeValidator(_as_blocks, json_schema_input_type=str | list[AssistantBlock])
    ]


class SystemMessage(RequestBody):
    """What holds for the conversation from here on."""

    role: Literal["system"]
    content: Texts


Message = Annotated[
    Annotated[UserMessage, Tag("user")]
    | Annotated[AssistantMessage, Tag("assistant")]
    | Annotated[SystemMessage, Tag("system")],
    by_field("role", "must be an object with the role user, assistant or system"),
]
