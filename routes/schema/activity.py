"""What is remembered of requests, and samples of what the service does."""

from __future__ import annotations

from typing import Final

from pydantic import BaseModel, ConfigDict, Field

from routes.parsing import RequestBody
from routes.schema.answer import Answer, example

# Requests of the history in one answer, if nothing else is asked for, and at most.
LIMIT: Final = 100
LIMIT_MOST: Final = 1000
# No number of a request has more.
N_DIGITS: Final = 15


class HistoryQuery(BaseModel):
    """Which part of the history is wanted."""

    limit: int = Field(LIMIT, ge=1, le=LIMIT_MOST, description="How many requests, at most.")
    before: int | None = Field(None, ge=1, lt=10**N_DIGITS, description="Those whose `n` is below this one.")


class EndedRequest(Answer):
    """An inference request that has ended. Times but `started` are seconds since its start."""

    n: int = Field(description="Counts up with each request that ends, from 1 at the start of the service.")
    id: str = Field(description="Its `X-Request-ID`.")
    model: str | None = Field(description="Null: it was refused, and named no model that there is.")
    key: str | None = Field(description="The id of the key.")
    route: str
    stream: bool
    outcome: str = Field(
        description="`ok`, `left` (its client has), `cancelled`, `upstream_status` (an error of the engine's own, "
        "handed on), or the code of its error."
    )
    started: float = Field(description="Seconds since the epoch.")
    waited: float | None = Field(description="Until it had its model.")
    first_token: float | None = Field(description="Until the first byte of a stream.")
    seconds: float = Field(description="Until its end.")
    bytes: int
    prompt_tokens: int | None
    cached_tokens: int | None
    completion_tokens: int | None
    tokens_per_second: float | None = Field(description="Of all tokens of the answer but the first.")
    prompt_seconds: float | None = Field(
        description="How long the engine read the prompt, without what was cached; null where it does not say."
    )
    captured: bool = Field(description="Whether its bodies are held.")


class EndedRequests(Answer):
    """The inference requests that have ended, newest first."""

    requests: list[EndedRequest]


class CapturedRequest(Answer):
    """What a client sent, without its secrets: `[redacted]` stands for them, and for all headers but known ones."""

    method: str
    path: str
    headers: dict[str, str]
    body: str = Field(description="As text in UTF-8.")
    size: int = Field(description="Bytes of all of it.")
    truncated: bool = Field(description="Whether only its beginning is held.")


class CapturedAnswer(Answer):
    """What a client got, a stream as it was sent; of one that was cut off, what was sent till then."""

    status: int | None = Field(description="Null: the client left before there was one.")
    headers: dict[str, str]
    cut_off: bool = Field(description="Whether it ended before it was whole, with its connection.")
    body: str = Field(description="As text in UTF-8.")
    size: int = Field(description="Bytes of all of it.")
    truncated: bool = Field(description="Whether only its beginning is held.")


class RequestCapture(Answer):
    """A request and its answer, as they came and went."""

    request: CapturedRequest
    answer: CapturedAnswer


class EndedRequestDetails(EndedRequest):
    """A request that has ended, with what was captured of it."""

    capture: RequestCapture | None


class Forgotten(Answer):
    """How many requests were forgotten."""

    forgotten: int


class CaptureSwitch(RequestBody):
    """Whether bodies of requests and answers are to be captured."""

    model_config = ConfigDict(json_schema_extra=example(enabled=False))

    enabled: bool


class CaptureState(Answer):
    """Whether bodies are captured, and how much of them is held."""

    enabled: bool
    captures: int = Field(description="Those that are held, of requests that still run too.")
    size: int = Field(description="Most bytes of a body.")
    keep: int = Field(description="Most captures; beyond that the oldest are forgotten.")


class SamplesQuery(BaseModel):
    """Which of the samples are wanted."""

    limit: int | None = Field(None, ge=1, lt=10**N_DIGITS, description="Only so many, the newest; left out: all.")


class DeviceMemory(Answer):
    """Memory of a device, in bytes."""

    models: int = Field(description="What the running models have: as measured, else as expected.")
    used: int = Field(description="What everybody has.")
    total: int
    room: int | None = Field(description="What all models may have together; null where admission is off.")


class Sample(Answer):
    """One look at what the service does."""

    at: float = Field(description="Seconds since the epoch.")
    running: int
    waiting: int
    prompt_tokens_per_second: float = Field(description="Of requests that have ended, cached tokens too.")
    completion_tokens_per_second: float = Field(description="About that where streams still run.")
    requests: int = Field(description="How many have ended since the sample before.")
    memory: dict[str, DeviceMemory]


class Samples(Answer):
    """Samples, oldest first, and the seconds between two of them."""

    every: float
    samples: list[Sample]
