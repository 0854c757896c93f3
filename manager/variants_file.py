"""The keys `request` and `profiles` of models.json: their form, and what types alone can't say of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field
from pydantic.alias_generators import to_snake

from manager.mistakes import Mistake, did_you_mean, shown
from manager.variants import Profile, RequestFilter, names_of

# What is between a client and the service, or is what it asks: never for an entry to change.
FOR_CLIENTS: Final = frozenset(
    {
        *("model", "personality", "messages", "prompt", "input", "stream", "stream_options", "encoding_format"),
        *("response_fields", "input_prefix", "input_suffix", "input_extra", "query", "documents", "texts"),
    }
)
# What an entry may take away, but not give: tools belong to a client that can do what is called, and functions have
# become tools before entries have their say.
ONLY_STRIPPED: Final = frozenset({"tools", "functions", "function_call"})

# An entry's own filter is part of each of its profiles.
MOST_PROFILES: Final = 100
MOST_FIELDS: Final = 100

_Limit = Annotated[int | None, Field(ge=-1, lt=2**31)]
_Back = Annotated[int | None, Field(ge=-1, le=2**20)]
# More answers than a client expects would be lost, or mixed up.
_One = Annotated[int | None, Field(ge=1, le=1)]
_Size = Annotated[int | None, Field(ge=1)]
_Share = Annotated[float | None, Field(ge=0, le=1)]
_Penalty = Annotated[float | None, Field(ge=-2, le=2)]


def _either(said: str, *kinds: type) -> AfterValidator:
    def check(value: Any) -> Any:
        if not isinstance(value, kinds):
            raise ValueError(f"should be {said}")
        return value

    return AfterValidator(check)


def _stop(value: Any) -> Any:
    if isinstance(value, str) or (isinstance(value, list) and all(isinstance(item, str) for item in value)):
        return value
    raise ValueError("should be a string or a list of strings")


def _in_schema(schema: dict[str, Any]) -> None:
    """A field that is named has a value, and some must not be named."""
    for name, field in schema["properties"].items():
        kinds = [kind for kind in field.get("anyOf", ()) if kind != {"type": "null"}]
        schema["properties"][name] = kinds[0] if kinds else {}
    schema["propertyNames"] = {"not": {"enum": sorted(FOR_CLIENTS | ONLY_STRIPPED)}}


class RequestFields(BaseModel):
    """Fields of requests with their values. Others than these are the engine's to judge."""

    model_config = ConfigDict(
        frozen=True, extra="allow", strict=True, allow_inf_nan=False, json_schema_extra=_in_schema
    )

    temperature: Annotated[float | None, Field(ge=0)] = None
    top_k: _Limit = None
    top_p: _Share = None
    min_p: _Share = None
    typical_p: _Share = None
    repeat_penalty: Annotated[float | None, Field(ge=0)] = None
    repeat_last_n: _Back = None
    dry_penalty_last_n: _Back = None
    presence_penalty: _Penalty = None
    frequency_penalty: _Penalty = None
    seed: Annotated[int | None, Field(ge=-1, lt=2**32)] = None
    max_tokens: _Limit = None
    max_completion_tokens: _Limit = None
    n_predict: _Limit = None
    stop: Annotated[Any, AfterValidator(_stop)] = None
    n: _One = None
    n_cmpl: _One = None
    logprobs: Annotated[Any, _either("true, false or a count", bool, int)] = None
    top_logprobs: Annotated[int | None, Field(ge=0, le=20)] = None
    logit_bias: Annotated[Any, _either("an object or a list", dict, list)] = None
    response_format: dict[str, Any] | None = None
    tool_choice: Annotated[Any, _either("a string or an object", str, dict)] = None
    parallel_tool_calls: bool | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    reasoning_format: Literal["none", "auto", "deepseek", "deepseek-legacy"] | None = None
    reasoning_effort: str | None = None
    cache_prompt: bool | None = None
    dimensions: _Size = None
    ctx: _Size = None
    context_window: _Size = None
    n_ctx: _Size = None

    @property
    def given(self) -> dict[str, Any]:
        """The fields that the file names, with their values."""
        return self.model_dump(exclude_unset=True)


def _as_tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


class FileFilter(BaseModel):
    """`request` of an entry or of a profile, as it stands in the file."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    set: RequestFields = Field(default_factory=RequestFields, description="Values that count whatever a client sends.")
    default: RequestFields = Field(
        default_factory=RequestFields, description="Values of fields that a request does not have."
    )
    strip: Annotated[tuple[str, ...], BeforeValidator(_as_tuple)] = Field(
        default=(), description="Fields of clients that are left out of account, before all else."
    )

    def filter(self) -> RequestFilter:
        return RequestFilter(self.strip, self.default.given, self.set.given)


class FileProfile(BaseModel):
    """One of the profiles of an entry, as it stands in the file."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    description: str | None = Field(default=None, description="A text for people; shown in lists.")
    personality: str | None = Field(
        default=None, description="The personality of requests that name none; one of the entry's."
    )
    request: FileFilter = Field(
        default_factory=FileFilter, description="What is done to requests for it, on top of the entry's `request`."
    )
    listed: bool = Field(default=True, description="false: it can be used, but is no item of the list of models.")

    def profile(self, entry: FileFilter) -> Profile:
        """`entry`: the `request` of the entry that has this profile."""
        both = entry.filter().under(self.request.filter())
        return Profile(both, self.personality, self.description, self.listed)


def variant_mistakes(
    request: FileFilter,
    profiles: Mapping[str, FileProfile],
    personalities: Mapping[str, str],
    name_problem: Callable[[str], str | None],
) -> Iterable[Mistake]:
    """What is wrong with these keys of an entry, each with its place in it."""
    yield from _filter_mistakes(request, ("request",))
    if len(profiles) > MOST_PROFILES:
        yield Mistake(f"must not be more than {MOST_PROFILES}", ("profiles",))
    for name, profile in profiles.items():
        reason = name_problem(name)
        if reason is not None:
            yield Mistake(f"{shown(name)}: a profile's name {reason}", ("profiles",))
        if name in personalities:
            yield Mistake("is the name of a personality too", ("profiles", name))
        wanted = profile.personality
        if wanted is not None and wanted not in personalities:
            hint = did_you_mean(wanted, personalities)
            yield Mistake(f"there is no personality {shown(wanted)}{hint}", ("profiles", name, "personality"))
        yield from _filter_mistakes(profile.request, ("profiles", name, "request"))


def _filter_mistakes(request: FileFilter, place: tuple[str, ...]) -> Iterable[Mistake]:
    for part, fields in (("set", request.set.given), ("default", request.default.given)):
        if len(fields) > MOST_FIELDS:
            yield Mistake(f"must not have more than {MOST_FIELDS} fields", (*place, part))
        named: set[str] = set()
        for name, value in fields.items():
            reason = _name_mistake(name, FOR_CLIENTS | ONLY_STRIPPED)
            if reason is None and value is None:
                reason = "must have a value; what is to be left out is named in strip"
            if reason is None and name in named:
                reason = f"is another name of {next(other for other in fields if other in names_of(name))}"
            if reason is not None:
                yield Mistake(reason, (*place, part, name))
            named |= names_of(name)
    if len(request.strip) > MOST_FIELDS:
        yield Mistake(f"must not have more than {MOST_FIELDS} fields", (*place, "strip"))
    for number, name in enumerate(request.strip):
        reason = _name_mistake(name, FOR_CLIENTS)
        if reason is not None:
            yield Mistake(f"{shown(name)} {reason}", (*place, "strip", str(number)))


def _name_mistake(name: str, forbidden: frozenset[str]) -> str | None:
    if name in forbidden:
        return "is for clients to say"
    snake = to_snake(name)
    if snake != name and snake in RequestFields.model_fields.keys() | forbidden:
        return f"is no field of requests; did you mean {snake}?"
    return None
