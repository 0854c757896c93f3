"""What only some engines do: ranking, filling gaps, sound; and what they say of themselves."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, RootModel, WithJsonSchema

from routes.parsing import RequestBody
from routes.ranking import Ranking
from routes.schema.answer import Answer


class RankedText(Answer):
    """One text's place in the answer. `index` counts the texts of the request."""

    index: int
    score: float
    text: str | None = None


class Ranks(RootModel[Ranking | list[RankedText]]):
    """The documents, the best first; an array of their own form where the request has `texts`."""


class Infilled(Answer):
    """What comes into the gap; in a stream, what has been added to it."""

    content: str


class TranscriptionForm(RequestBody):
    """A sound whose words are wanted."""

    file: Annotated[bytes, WithJsonSchema({"type": "string", "format": "binary"})] = Field(
        description="A WAV, MP3 or FLAC sound."
    )
    model: str | None = Field(None, description="A model that hears. Left out: the default model.")
    language: str | None = Field(None, description="The language of the sound, as `en`.")
    prompt: str | None = Field(None, description="What to ask of the model in place of a transcription's usual words.")
    response_format: Literal["json", "text"] | None = None
    temperature: float | None = Field(None, ge=0)
    stream: bool | None = Field(None, description="Answer with events as the text comes.")


class Transcription(Answer):
    """What was said."""

    text: str


class TranscriptionEvent(Answer):
    """What has been added to the text, or at the end all of it."""

    type: Literal["transcript.text.delta", "transcript.text.done"]
    delta: str | None = None
    text: str | None = None


class PropsQuery(BaseModel):
    """Whose properties are wanted."""

    model: str | None = Field(None, description="Left out: the default model.")
    autoload: bool = Field(True, description="False: a model that is not loaded is a 400.")


class Props(Answer):
    """What the engine says of the model and its settings."""

    default_generation_settings: dict[str, Any] | None = None
