"""models.json as a text, and what is wrong with one."""

from __future__ import annotations

from typing import Annotated, Final

from pydantic import ConfigDict, Field

from routes.parsing import RequestBody
from routes.schema.answer import Answer, example

# Characters of a text that is taken; some ten thousand models have room in it.
MOST_TEXT: Final = 2**20
Text = Annotated[str, Field(max_length=MOST_TEXT)]


class ModelsFile(Answer):
    """models.json as it is."""

    path: str
    text: str = Field(
        description="With `\\n` at the ends of its lines, whatever the file has, and U+FFFD for what is not UTF-8."
    )
    version: str = Field(description="Of this content: to be sent back with a new text.")
    writable: bool = Field(description="Whether nothing is known that would keep the service from replacing it.")


class ModelsFileText(RequestBody):
    """What models.json could be."""

    model_config = ConfigDict(json_schema_extra=example(text='{"qwen": {"params": {"model": "qwen.gguf"}}}\n'))

    text: Text


class ModelsFileChange(RequestBody):
    """What models.json is to be."""

    model_config = ConfigDict(json_schema_extra=example(text="{}\n", version="0" * 64))

    text: Text
    version: str = Field(description="Of the file that the text is to replace, as it was read.")


class ModelsFileMistake(Answer):
    """What is wrong, and where in the text."""

    message: str
    line: int | None = Field(description="From 1; null where the mistake is in no place of the text.")
    column: int | None = Field(description="In characters, from 1.")
    path: str | None = Field(description="The keys that lead there, with dots; null: the whole text, or a setting.")


class ModelsFileMistakes(Answer):
    """Everything for which the text would be refused; of very many mistakes the first 100, and that there are more."""

    mistakes: list[ModelsFileMistake]


class ModelsFileSchema(Answer):
    """A JSON schema (draft 2020-12)."""
