"""What a request to rank documents holds, in the forms of Jina, Cohere and Text Embeddings Inference."""

from __future__ import annotations

from typing import Annotated, Any, Final

from pydantic import BeforeValidator, ConfigDict, Field

from manager.errors import InvalidRequest
from routes.form import OPENAI, Form
from routes.parsing import RequestBody, parse
from routes.schema.answer import example

# Each is read by the model together with the query, as a request of its own in the engine's queue.
MOST_DOCUMENTS: Final = 2048
# What would change the answer and can't be done, each with the value that asks for nothing.
_UNSUPPORTED: Final[dict[str, Any]] = {
    "rank_fields": None,
    "max_chunks_per_doc": None,
    "max_tokens_per_doc": None,
    "return_embeddings": False,
    "truncate": False,
    "truncation": False,
    "raw_scores": True,
}


class Document(RequestBody):
    """A document as an object; the fields beside its text are not read."""

    text: str


def _as_document(value: Any) -> Any:
    return {"text": value} if isinstance(value, str) else value


AnyDocument = Annotated[Document, BeforeValidator(_as_document, json_schema_input_type=str | Document)]


class RerankBody(RequestBody):
    """`documents` are Jina's and Cohere's name, `texts` is that of Text Embeddings Inference; one of both."""

    model_config = ConfigDict(json_schema_extra=example(query="What do cats eat?", documents=["Mice.", "Hay."]))

    model: str | None = None
    query: str = Field(description="What the documents are to answer.")
    documents: list[AnyDocument] | None = Field(None, min_length=1, max_length=MOST_DOCUMENTS)
    texts: list[str] | None = Field(None, min_length=1, max_length=MOST_DOCUMENTS)
    top_n: int | None = Field(None, ge=1, description="Tell of so many of the best only.")
    return_documents: bool | None = Field(None, description="Give the documents back with their ranks.")
    return_text: bool | None = None


class Ranked(RequestBody):
    """One document's place in the answer. `index` counts the documents of the request."""

    index: int
    relevance_score: float
    document: Document | None = None


class Ranking(RequestBody):
    """The answer, the best document first. For `texts` it is an array of `index`, `score` and `text` instead."""

    object: str
    model: str
    results: list[Ranked]
    usage: dict[str, int]


def read_ranking(body: dict[str, Any]) -> tuple[dict[str, Any], Form]:
    """What llama-server is asked, and the form of the answer. Raises InvalidRequest that names the field."""
    asked = parse(RerankBody, body)
    for field, nothing in _UNSUPPORTED.items():
        if body.get(field) not in (None, nothing):
            raise InvalidRequest(f"'{field}' is not supported with that value.", param=field)
    if (asked.documents is None) is (asked.texts is None):
        field = "documents" if asked.texts is None else "texts"
        raise InvalidRequest("Either 'documents' or 'texts' must be given.", param=field)
    texts = [document.text for document in asked.documents] if asked.documents else asked.texts or []
    name = "texts" if asked.documents is None else "documents"
    ready: dict[str, Any] = {"query": asked.query, name: texts, "top_n": min(asked.top_n or len(texts), len(texts))}
    if asked.model:
        ready["model"] = asked.model
    if asked.texts is not None and asked.return_text:
        ready["return_text"] = True
    return ready, _with_documents(texts) if asked.documents and asked.return_documents else OPENAI


def _with_documents(texts: list[str]) -> Form:
    def finish(answer: dict[str, Any]) -> dict[str, Any]:
        results = [{**result, "document": {"text": texts[result["index"]]}} for result in answer["results"]]
        return {**answer, "results": results}

    return Form(finish=finish)
