"""The routes without a chat: shorter vectors, the ranking of documents, and the code of a gap."""

from __future__ import annotations

import base64
import struct
from typing import Any

import pytest

from manager.errors import InvalidRequest
from routes.ranking import MOST_DOCUMENTS, read_ranking
from routes.vectors import cut
from tests.routes.conftest import StartHerd
from tests.routes.herd import Herd
from tests.routes.stage import Fake, Stage

RERANK = "/v1/rerank"
CODE = {"input_prefix": "def f(", "input_suffix": "return 1"}
QUERY = {"query": "cat", "documents": ["a", "b"]}


# vectors


def encoded(*numbers: float) -> str:
    return base64.b64encode(struct.pack(f"<{len(numbers)}f", *numbers)).decode()


def test_a_shorter_vector_has_the_first_numbers_and_the_length_one() -> None:
    assert cut([3.0, 4.0, 12.0], 2) == [0.6, 0.8]
    assert cut([3.0, 4.0, 12.0], 3) == pytest.approx([3 / 13, 4 / 13, 12 / 13])
    assert cut([0.0, 0.0, 1.0], 2) == [0.0, 0.0]
    shorter = cut(encoded(3.0, 4.0, 12.0), 2)
    assert isinstance(shorter, str)
    assert struct.unpack("<2f", base64.b64decode(shorter)) == pytest.approx((0.6, 0.8))


def test_more_dimensions_than_there_are_cannot_be_had() -> None:
    for vector in ([1.0, 2.0], encoded(1.0, 2.0)):
        with pytest.raises(InvalidRequest) as caught:
            cut(vector, 3)
        assert caught.value.param == "dimensions"


@pytest.fixture
async def vectors(stage: Stage, start_herd: StartHerd) -> tuple[Herd, Fake]:
    """The fake's vectors have one number."""
    fake = stage.model("vectors", params={"embedding": True})
    return await start_herd(), fake


async def test_vectors_are_shortened_here_and_engines_hear_nothing_of_it(vectors: tuple[Herd, Fake]) -> None:
    herd, fake = vectors
    answer = await herd.post("/v1/embeddings", {"input": ["a b", "c"], "dimensions": 1})
    assert [one["embedding"] for one in answer.json["data"]] == [[1.0], [1.0]]
    assert answer.json["usage"]["prompt_tokens"] == 3
    assert fake.requests("/v1/embeddings")[0]["body"] == {"input": ["a b", "c"]}


async def test_more_dimensions_than_the_model_makes_are_refused(vectors: tuple[Herd, Fake]) -> None:
    herd, _ = vectors
    answer = await herd.post("/v1/embeddings", {"input": "a", "dimensions": 2})
    assert (answer.status, answer.error["param"]) == (400, "dimensions")
    assert "have 1" in answer.error["message"]
    assert herd.in_flight == 0


@pytest.mark.parametrize("dimensions", [0, -1, 1.5, "1", True, [1]])
async def test_dimensions_that_are_no_count_are_refused(vectors: tuple[Herd, Fake], dimensions: Any) -> None:
    herd, fake = vectors
    answer = await herd.post("/v1/embeddings", {"input": "a", "dimensions": dimensions})
    assert (answer.status, answer.error["param"]) == (400, "dimensions")
    assert fake.starts() == []


# ranking


def answered(*scores: tuple[int, float]) -> dict[str, Any]:
    return {"results": [{"index": index, "relevance_score": score} for index, score in scores], "usage": {}}


@pytest.mark.parametrize(
    ("body", "asked"),
    [
        (QUERY, {**QUERY, "top_n": 2}),
        ({**QUERY, "top_n": 1, "model": "m"}, {**QUERY, "top_n": 1, "model": "m"}),
        ({**QUERY, "top_n": 10**12}, {**QUERY, "top_n": 2}),
        ({"query": "cat", "documents": [{"text": "a", "id": 1}, "b"]}, {**QUERY, "top_n": 2}),
        ({"query": "", "texts": ["a"]}, {"query": "", "texts": ["a"], "top_n": 1}),
        (
            {"query": "cat", "texts": ["a"], "return_text": True, "raw_scores": True, "truncate": False},
            {"query": "cat", "texts": ["a"], "top_n": 1, "return_text": True},
        ),
    ],
)
def test_engines_are_asked_in_their_form(body: dict[str, Any], asked: dict[str, Any]) -> None:
    ready, form = read_ranking(body)
    assert ready == asked
    assert form.finish is None


def test_documents_come_back_where_they_are_asked_for() -> None:
    _, form = read_ranking({**QUERY, "documents": ["a", {"text": "b"}], "return_documents": True})
    assert form.finish
    assert [(one["index"], one["document"]) for one in form.finish(answered((1, 0.5), (0, -1.0)))["results"]] == [
        (1, {"text": "b"}),
        (0, {"text": "a"}),
    ]


BAD_RANKINGS: list[tuple[dict[str, Any], str]] = [
    ({"documents": ["a"]}, "query"),
    ({**QUERY, "query": 5}, "query"),
    ({**QUERY, "query": None}, "query"),
    ({"query": "cat"}, "documents"),
    ({**QUERY, "texts": ["a"]}, "texts"),
    ({**QUERY, "documents": []}, "documents"),
    ({**QUERY, "documents": "a"}, "documents"),
    ({**QUERY, "documents": ["a"] * (MOST_DOCUMENTS + 1)}, "documents"),
    ({**QUERY, "documents": ["a", 5]}, "documents[1]"),
    ({**QUERY, "documents": ["a", {"title": "b"}]}, "documents[1].text"),
    ({"query": "cat", "texts": [{"text": "a"}]}, "texts[0]"),
    *(({**QUERY, "top_n": value}, "top_n") for value in (0, -1, 1.5, "2", True)),
    ({**QUERY, "return_documents": "yes"}, "return_documents"),
    ({**QUERY, "rank_fields": ["title"]}, "rank_fields"),
    ({"query": "cat", "texts": ["a"], "raw_scores": False}, "raw_scores"),
    ({"query": "cat", "texts": ["a"], "truncate": True}, "truncate"),
    ({**QUERY, "personality": "pirate"}, "personality"),
]


@pytest.fixture
async def ranking(stage: Stage, start_herd: StartHerd) -> tuple[Herd, Fake]:
    fake = stage.model("ranker", params={"reranking": True})
    return await start_herd(), fake


@pytest.mark.parametrize("path", [RERANK, "/v1/reranking", "/rerank"])
async def test_every_path_is_the_engines_one(ranking: tuple[Herd, Fake], path: str) -> None:
    herd, fake = ranking
    answer = await herd.post(path, QUERY)
    assert answer.error["code"] == "endpoint_not_supported"  # the fake can't
    assert [request["body"] for request in fake.requests(RERANK)] == [{**QUERY, "top_n": 2}]


async def test_bad_rankings_are_400s_that_name_the_field(ranking: tuple[Herd, Fake]) -> None:
    herd, fake = ranking
    for body, param in BAD_RANKINGS:
        answer = await herd.post(RERANK, body)
        assert (answer.status, answer.error["param"]) == (400, param), body
    assert fake.starts() == []


# what a model can't do


@pytest.mark.parametrize(("path", "body"), [(RERANK, QUERY), ("/v1/audio/speech", {"input": "hi", "voice": "a"})])
async def test_a_model_that_cannot_is_not_loaded_for_it(
    herd: Herd, fake: Fake, path: str, body: dict[str, Any]
) -> None:
    answer = await herd.post(path, body)
    assert (answer.status, answer.error["code"], answer.error["param"]) == (400, "endpoint_not_supported", "model")
    assert "'alpha'" in answer.error["message"]
    assert fake.starts() == []


# the code of a gap


async def test_what_belongs_to_a_gap_gets_to_the_engine_without_nulls(herd: Herd, fake: Fake) -> None:
    extra = [{"text": "x = 1", "filename": "a.py"}, {"text": "y = 2", "filename": None}]
    answer = await herd.post("/infill", {**CODE, "prompt": None, "input_extra": extra, "n_predict": 3})
    assert (answer.status, answer.error["code"]) == (400, "endpoint_not_supported")  # the fake can't
    sent = [{"text": "x = 1", "filename": "a.py"}, {"text": "y = 2"}]
    assert fake.requests("/infill")[0]["body"] == {**CODE, "input_extra": sent, "n_predict": 3}


async def test_bad_gaps_are_400s_that_name_the_field(herd: Herd, fake: Fake) -> None:
    bad: list[tuple[dict[str, Any], str]] = [
        ({"input_suffix": "a"}, "input_prefix"),
        ({"input_prefix": "a"}, "input_suffix"),
        ({**CODE, "input_prefix": ["a"]}, "input_prefix"),
        ({**CODE, "input_suffix": None}, "input_suffix"),
        ({**CODE, "prompt": ["a"]}, "prompt"),
        ({**CODE, "input_extra": "a"}, "input_extra"),
        ({**CODE, "input_extra": ["a"]}, "input_extra[0]"),
        ({**CODE, "input_extra": [{"filename": "a"}]}, "input_extra[0].text"),
        ({**CODE, "input_extra": [{"text": "a", "filename": 5}]}, "input_extra[0].filename"),
        ({**CODE, "temperature": -1}, "temperature"),
        ({**CODE, "stream": "yes"}, "stream"),
        ({**CODE, "ctx": 100}, "ctx"),
    ]
    for body, param in bad:
        answer = await herd.post("/infill", body)
        assert (answer.status, answer.error["param"]) == (400, param), body
    assert fake.starts() == []
