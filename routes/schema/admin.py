"""What administrators see and do."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, Field

from manager.state import ModelState
from routes.parsing import RequestBody
from routes.schema.answer import Answer

Devices = dict[str, int]


class LoadError(Answer):
    """Why a model failed."""

    message: str | None
    code: str | None
    exit_code: int | None
    at: float = Field(description="Seconds since the epoch.")
    retry_at: float | None = Field(description="When it may be tried again.")


class Evicted(Answer):
    """For whom a model had to go."""

    for_: str = Field(alias="for", description="The model that needed its place.")
    at: float = Field(description="Seconds since the epoch.")


class Memory(Answer):
    """Bytes by device (`host`, `gpu0`, …)."""

    expected: Devices
    measured: Devices


class AdminModel(Answer):
    """A model as administrators see it. Times are seconds since the epoch."""

    name: str
    aliases: list[str]
    personalities: list[str]
    profiles: dict[str, Any]
    request: dict[str, Any] | None = Field(description="What is done to the fields of its requests.")
    description: str | None
    engine: str | None
    unavailable: str | None = Field(description="Why it can't be loaded.")
    default: bool
    active: bool
    pinned: bool
    preload: bool
    ttl: float | None = Field(description="Seconds without requests after which it is unloaded.")
    state: ModelState
    since: float
    personality: str | None
    progress: float | None = Field(description="0 to 1, while it loads.")
    pid: int | None
    load_seconds: float | None
    loads: int
    evictions: int
    failures: int = Field(description="In a row.")
    in_flight: int
    waiting: int
    yielding: bool = Field(description="It admits nobody, because others wait for its place.")
    idle_since: float | None
    unloads_at: float | None
    device: str | None = Field(description="The GPU that was chosen for all of it (`gpu1`), while it runs.")
    memory: Memory
    last_error: LoadError | None
    evicted: Evicted | None = Field(description="Null: its last life ended otherwise, or it was loaded since.")


class AdminModels(Answer):
    """Every model of the catalog, and what still runs of those that were removed from it."""

    models: list[AdminModel]


class AdminModelDetails(AdminModel):
    """One model: how it is run, and what loading it takes (bytes by device). A removed one has not these fields."""

    path: str | None = None
    mmproj: str | None = None
    template: str | None = None
    concurrency: int | None = None
    queue: int | None = None
    source: str | None = None
    params: dict[str, Any] | None = None
    estimate: dict[str, Any] | None = None
    learnt: Devices | None = None
    needed: Devices | None = None
    placement: str | None = Field(None, description="The GPU that is chosen, or would be now, for all of it.")
    room: Devices | None = Field(None, description="What all models may take together.")
    total: Devices | None = None
    would_evict: list[str] | None = Field(None, description="Who would go for it; null where it can't be loaded.")


class AdminLoadRequest(RequestBody):
    """How to load a model."""

    personality: str | None = Field(None, description="One of its personalities, for requests that name none.")


class WaitQuery(BaseModel):
    """Whether to wait for the end of the work."""

    wait: bool = Field(True, description="False: 202 at once, and the work goes on.")


class LogsQuery(BaseModel):
    """What of a log is wanted."""

    tail: int = Field(100, ge=0, lt=10**9, description="How many lines, counted from the end.")
    follow: bool | None = Field(None, description="Events for ever: these lines and all that come.")
    last_event_id: str | None = Field(
        None, description="As the header `Last-Event-ID`: the last id that was read. What came after it, and no `tail`."
    )


class ServiceLogsQuery(LogsQuery):
    """What of the service's own log is wanted."""

    access: bool = Field(True, description="False: without the lines of requests that were answered.")


class LogEvent(Answer):
    """`event: log`, a line; or `event: life`, where the log of another process begins."""

    line: str | None = None
    n: int | None = Field(None, description="The number of the line, from 1.")
    model: str | None = None
    pid: int | None = None
    run: str | None = Field(None, description="Of `life`: what ids of its lines begin with, and of no other life's.")


class ServiceLogEvent(Answer):
    """`event: run`, once at first: another one than before means that `n` counts anew. Then `event: log`, lines."""

    run: str | None = Field(None, description="Of `run`: what the ids of its lines begin with; drawn at each start.")
    n: int | None = Field(None, description="The number of the line since the service was started, from 1.")
    time: float | None = Field(None, description="Seconds since the epoch.")
    level: str | None = None
    logger: str | None = Field(None, description="The module; `access`: a request that was answered.")
    message: str | None = None
    request: str | None = Field(None, description="The `X-Request-ID` of the request that it was logged for.")
    model: str | None = Field(None, description="The model that it is about, or of `access`: that it got.")


class RunningRequest(Answer):
    """An inference request that waits or runs."""

    id: str = Field(description="Its `X-Request-ID`.")
    model: str
    key: str | None = Field(description="The id of the key.")
    route: str
    stream: bool
    state: Literal["waiting", "running"]
    started: float = Field(description="Seconds since the epoch.")
    leased_at: float | None = Field(description="When it got its model.")
    first_byte_at: float | None
    bytes: int
    tokens: int = Field(description="About how many were streamed so far.")


class RunningRequests(Answer):
    """The inference requests that wait or run, oldest first."""

    requests: list[RunningRequest]


class Cancelled(Answer):
    """How many requests were cancelled."""

    cancelled: int


class EventsQuery(BaseModel):
    """Where a reader left off."""

    last_event_id: str | None = Field(None, description="As the header `Last-Event-ID`: the last id that was read.")


class FeedEvent(Answer):
    """The `data` of an event; what it has depends on its kind (docs/api.md)."""


class Reloaded(Answer):
    """How many models there are now."""

    models: int


class UsageQuery(BaseModel):
    """What of the usage is wanted."""

    since: str | None = Field(None, description="`24h`, `7d`, or an ISO date or time.", examples=["7d"])
    until: str | None = Field(None, description="The same; left out: now.")
    by: str | None = Field(None, description="Of key, model, day, hour, with commas between.", examples=["key,model"])
    key: str | None = Field(None, description="Id or name of a key.")
    model: str | None = Field(None, description="Name of a model.")


class UsageCounts(Answer):
    """Requests that ended, and their tokens."""

    requests: int
    errors: int
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int


class UsageReport(Answer):
    """Who used how much."""

    since: str
    until: str
    rows: list[UsageCounts] = Field(description="Each with what it is counted by.")
    total: UsageCounts
