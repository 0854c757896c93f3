"""Pulls: what is asked for, and what is told of it."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from manager.pull_state import PullState
from routes.parsing import RequestBody
from routes.schema.answer import Answer, example


class PullRequest(RequestBody):
    """A model to fetch."""

    model_config = ConfigDict(json_schema_extra=example(source="org/model-GGUF:Q4_K_M"))

    source: str = Field(
        min_length=1,
        description="`org/repo`, `org/repo:QUANT`, `org/repo/file.gguf`, or the https address of a GGUF file.",
    )
    quant: str | None = Field(None, min_length=1, description="The quantisation, where the repository has several.")
    revision: str | None = Field(None, min_length=1, description="A branch, a tag or a commit of the repository.")
    name: str | None = Field(None, min_length=1, description="The name of its entry; left out: after the file.")
    mmproj: bool | None = Field(None, description="False: without the projector for images, where there is one.")


class PullQuery(BaseModel):
    """What the answer is to be."""

    wait: bool = Field(False, description="True: the answer comes when the pull has ended.")
    stream: bool | None = Field(None, description="True: events of its progress, until it has ended.")


class StreamQuery(BaseModel):
    """What the answer is to be."""

    stream: bool | None = Field(None, description="True: events of its progress, until it has ended.")


class PulledFile(Answer):
    """A file of the model. What the hub does not tell is null."""

    name: str
    bytes: int | None
    sha256: str | None


class PullChoice(Answer):
    """A quantisation that could be named in `quant`."""

    quant: str
    bytes: int | None


class PullError(Answer):
    """Why a pull failed."""

    message: str
    code: str
    param: str | None
    choices: list[PullChoice]


class PullObject(Answer):
    """A pull. Times are seconds since the epoch."""

    id: str
    source: str
    quant: str | None
    revision: str | None
    name: str | None = Field(description="The name that was asked for; null: that of the file.")
    mmproj: bool = Field(description="Whether the projector for images is to come along, where there is one.")
    state: PullState
    created: float
    ended: float | None
    bytes: int = Field(description="Of all its files, how much is there.")
    total: int | None = Field(description="Bytes of all its files, where that is known.")
    speed: float | None = Field(description="Bytes per second.")
    files: list[PulledFile]
    model: str | None = Field(description="The name under which the model is served now.")
    note: str | None = Field(description="What holds it up, as a server that asks it to wait; null while it goes on.")
    error: PullError | None


class PullList(Answer):
    """The pulls that wait or run, and the last 50 that have ended; oldest first."""

    pulls: list[PullObject]
