"""The fields by which a request says how its answer is generated."""

from __future__ import annotations

from typing import Any, Final

from pydantic import Field

from routes.parsing import RequestBody

# Engines count in 32 bits: llama.cpp takes of a longer number the last of them.
MOST: Final = 2**31 - 1
# llama.cpp makes room for as many tokens as it is to look back, whatever the window of the model: here 4 MiB.
MOST_BACK: Final = 2**20


class Named(RequestBody):
    """A request to a model."""

    model: str | None = Field(
        None,
        description="A name of the catalog, an alias, or `model:personality`. Left out: the default model.",
    )


class Generation(Named):
    """A request for text. Fields that are not described are passed to the engine, which judges them."""

    stream: bool | None = Field(None, description="Answer with events as the text is generated.")
    stream_options: dict[str, Any] | None = Field(
        None, description='`{"include_usage": true}`: the last event of a stream tells the tokens used.'
    )
    max_tokens: int | None = Field(None, ge=-1, le=MOST, description="Most tokens of the answer; -1 is no limit.")
    max_completion_tokens: int | None = Field(
        None, ge=-1, le=MOST, description="Another name of `max_tokens`, which counts before it."
    )
    n_predict: int | None = Field(
        None, ge=-1, le=MOST, description="llama.cpp's name of `max_tokens`, which counts before the other two."
    )
    temperature: float | None = Field(None, ge=0, description="0 takes the likeliest token; higher is more random.")
    top_p: float | None = Field(
        None, ge=0, le=1, description="Sample from the likeliest tokens that have this probability together."
    )
    top_k: int | None = Field(
        None, ge=-1, le=MOST, description="Sample from this many of the likeliest tokens; 0: from all."
    )
    min_p: float | None = Field(
        None, ge=0, le=1, description="Leave out tokens below this part of the likeliest one's probability."
    )
    typical_p: float | None = Field(None, ge=0, le=1, description="Locally typical sampling; 1 is off.")
    repeat_penalty: float | None = Field(None, ge=0, description="Divides the scores of tokens seen lately; 1 is off.")
    repeat_last_n: int | None = Field(
        None, ge=-1, le=MOST_BACK, description="How many tokens back a token was seen lately."
    )
    dry_penalty_last_n: int | None = Field(
        None, ge=-1, le=MOST_BACK, description="How many tokens back the DRY sampler looks for repetitions."
    )
    presence_penalty: float | None = Field(
        None, ge=-2, le=2, description="Taken once from the score of each token that was there."
    )
    frequency_penalty: float | None = Field(
        None, ge=-2, le=2, description="Taken from a token's score for each time that it was there."
    )
    seed: int | None = Field(
        None,
        description="The same seed and the same request give the same text. Of a longer number the last 32 bits count; "
        "-1: another text each time.",
    )
    stop: str | list[str] | None = Field(None, description="Texts before which the answer ends.")
    n: int | None = Field(None, ge=1, le=128, description="How many answers to give.")
    n_cmpl: int | None = Field(None, ge=1, le=128, description="llama.cpp's name of `n`.")
    logprobs: bool | int | None = Field(
        None, description="Tell the logarithms of the tokens' probabilities: yes or no for chats, a number for texts."
    )
    top_logprobs: int | None = Field(None, ge=0, le=20, description="Of how many tokens at each place.")
    logit_bias: dict[str, Any] | list[Any] | None = Field(
        None, description="What to add to the scores of tokens, by token id."
    )
    response_format: dict[str, Any] | None = Field(
        None,
        description='`{"type": "json_object"}`, or `{"type": "json_schema", "json_schema": {"schema": …}}`: the answer '
        "is JSON of that form.",
    )
