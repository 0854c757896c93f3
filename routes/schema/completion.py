"""What engines do without a chat: texts, vectors, tokens."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field

from routes.schema.answer import Answer, example
from routes.schema.chat import Usage
from routes.schema.generation import Generation, Named

TokenId = Annotated[int, Field(ge=0, lt=2**31)]
# A text, or texts and token ids in a row.
Row = str | list[str | TokenId]


class CompletionRequest(Generation):
    """A text to go on with."""

    model_config = ConfigDict(json_schema_extra=example(prompt="Once upon a time", max_tokens=16))

    prompt: Row | dict[str, Any] | Annotated[list[Row | dict[str, Any]], Field(min_length=1)] = Field(
        description="A text, token ids, or several of these; an object is llama.cpp's prompt with images."
    )


class CompletionChoice(Answer):
    """One of the answers."""

    index: int
    text: str
    finish_reason: str | None = Field(None, description="`stop` or `length`; null until it ends.")
    logprobs: dict[str, Any] | None = None


class Completion(Answer):
    """How the text goes on; in a stream, what has been added to it."""

    id: str
    object: Literal["text_completion"]
    created: int = Field(description="Seconds since the epoch.")
    model: str
    choices: list[CompletionChoice]
    usage: Usage | None = None


class EmbeddingsRequest(Named):
    """Texts to be made into vectors."""

    model_config = ConfigDict(json_schema_extra=example(input=["one text", "another"]))

    input: (
        str
        | Annotated[list[TokenId], Field(min_length=1)]
        | Annotated[list[str | Annotated[list[TokenId], Field(min_length=1)]], Field(min_length=1)]
    ) = Field(description="A text, an array of token ids, or an array of these.")
    encoding_format: Literal["float", "base64"] | None = Field(
        None, description="How the numbers are written; `base64` is of 32-bit floats, little end first."
    )
    dimensions: int | None = Field(None, ge=1, description="Cut the vectors to this length.")


class Embedding(Answer):
    """The vector of one input."""

    object: Literal["embedding"]
    index: int
    embedding: list[float] | str


class Embeddings(Answer):
    """The vectors, in the order of the inputs."""

    object: Literal["list"]
    model: str
    data: list[Embedding]
    usage: Usage


class TokenizeRequest(Named):
    """A text whose tokens are wanted."""

    model_config = ConfigDict(json_schema_extra=example(content="one text"))

    content: Row = Field(description="A text, or texts and token ids in a row.")
    add_special: bool | None = Field(None, description="Add what begins every prompt.")
    parse_special: bool | None = Field(None, description="Read special tokens where the text has their names.")
    with_pieces: bool | None = Field(None, description="Tell the text of each token, too.")


class Tokens(Answer):
    """The tokens of a text."""

    tokens: list[Any] = Field(description="Ids; with `with_pieces` objects of `id` and `piece`.")


class DetokenizeRequest(Named):
    """Tokens whose text is wanted."""

    model_config = ConfigDict(json_schema_extra=example(tokens=[1, 2, 3]))

    tokens: list[TokenId]


class Text(Answer):
    """The text of tokens."""

    content: str
