"""The description of the API: valid, whole, and true of every route."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, Final

import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator
from pydantic import ConfigDict

from routes import ROUTES
from routes.callers import ANY
from routes.openapi import document
from routes.parsing import RequestBody
from routes.route import Route
from routes.schema.chat import ChatRequest
from routes.schema.checks import checks_of
from routes.table import MODEL, OPEN
from tests.routes.conftest import StartHerd
from tests.routes.herd import Herd
from tests.routes.stage import Fake

DOCUMENT: Final[dict[str, Any]] = json.loads(document(ROUTES))
OPERATIONS: Final = [
    (method, path, operation) for path, methods in DOCUMENT["paths"].items() for method, operation in methods.items()
]


def pointers(part: Any) -> Iterator[str]:
    """Every `$ref` in a part of the document."""
    if isinstance(part, dict):
        for key, value in part.items():
            if key == "$ref":
                yield value
            else:
                yield from pointers(value)
    elif isinstance(part, list):
        for value in part:
            yield from pointers(value)


def test_it_is_valid_openapi_3_1() -> None:
    assert DOCUMENT["openapi"].startswith("3.1.")
    OpenAPIV31SpecValidator(DOCUMENT).validate()


def test_every_route_of_the_table_is_described_and_nothing_else() -> None:
    table = {(method.lower(), re.sub(r"{(\w+)[^}]*}", r"{\1}", path)) for method, path, *_ in ROUTES}
    assert {(method, path) for method, path, _ in OPERATIONS} == table
    assert len(OPERATIONS) == len(ROUTES)


# Files of pages, which may be missing.
OF_PAGES = {"/docs/{asset}", "/assets/{name}", "/icon.svg", "/manifest.webmanifest", "/licenses.md"}


async def test_every_described_route_answers(herd: Herd) -> None:
    for method, path, _ in OPERATIONS:
        address = re.sub(r"{\w+}", "nobody", path)
        async with herd.open(method.upper(), f"{address}?autoload=false") as response:
            if response.status == 404:  # of a model, a request or a file that is not there
                assert "There is no route" not in await response.text() or path in OF_PAGES, path
            assert response.status != 405, path


def test_names_of_operations_are_unique() -> None:
    names = [operation["operationId"] for _, _, operation in OPERATIONS]
    assert len(set(names)) == len(names)


def test_every_operation_says_what_it_does_and_what_it_answers() -> None:
    for method, path, operation in OPERATIONS:
        assert operation["description"], path
        assert operation["tags"], path
        assert operation["responses"].keys() & {"200", "201", "default"}, path
        assert set(re.findall(r"{(\w+)}", path)) == {
            parameter["name"] for parameter in operation["parameters"] if parameter["in"] == "path"
        }
        assert ("requestBody" in operation) <= (method in {"post", "put", "patch"}), path


def test_every_function_of_a_route_says_what_it_does() -> None:
    assert [route.path for route in ROUTES if not route.handler.__doc__] == []


def test_every_pointer_leads_somewhere_and_every_schema_is_used() -> None:
    used = set(pointers(DOCUMENT))
    for pointer in used:
        part = DOCUMENT
        for step in pointer.removeprefix("#/").split("/"):
            part = part[step]
    assert {f"#/components/schemas/{name}" for name in DOCUMENT["components"]["schemas"]} <= used


def test_keys_and_scopes_are_told() -> None:
    for (_, path, operation), route in zip(OPERATIONS, sorted_like_the_document(), strict=True):
        scope = route.access.scope
        needed = [] if scope == ANY else [scope]
        assert operation["security"] == ([{"bearer": needed}, {"key": needed}] if scope else []), path
        assert ("401" in operation["responses"]) is bool(scope), path


def sorted_like_the_document() -> list[Route]:
    paths = list(dict.fromkeys(route.path for route in ROUTES))
    return sorted(ROUTES, key=lambda route: paths.index(route.path))


def test_errors_have_the_form_of_their_api() -> None:
    models = {
        path: DOCUMENT["paths"][path]["post"]["responses"]["400"]["$ref"].rpartition("/")[2]
        for path in ("/v1/chat/completions", "/v1/messages", "/api/chat", "/loadModel")
    }
    assert list(models.values()) == ["Error400", "AnthropicError400", "PlainError400", "PlainError400"]
    for name in models.values():
        content = DOCUMENT["components"]["responses"][name]["content"]
        assert content == {"application/json": {"schema": {"$ref": f"#/components/schemas/{name[:-3]}"}}}


def test_streams_are_events_or_lines() -> None:
    answers = {
        path: DOCUMENT["paths"][path]["post"]["responses"]["200"]["content"]
        for path in ("/v1/chat/completions", "/api/chat", "/v1/audio/transcriptions")
    }
    event = answers["/v1/chat/completions"]["text/event-stream"]["schema"]["properties"]["data"]
    assert event["contentSchema"] == {"$ref": "#/components/schemas/ChatChunk"}
    assert answers["/api/chat"]["application/x-ndjson"]["schema"] == {"$ref": "#/components/schemas/ChatAnswer"}
    upload = DOCUMENT["paths"]["/v1/audio/transcriptions"]["post"]["requestBody"]["content"]
    assert list(upload) == ["multipart/form-data"]


def test_a_field_in_the_url_can_not_be_null() -> None:
    for _, path, operation in OPERATIONS:
        for parameter in operation["parameters"]:
            assert "null" not in json.dumps(parameter["schema"]), (path, parameter["name"])


# The model makes no vectors, ranks nothing and does not speak; and its fake knows neither tokens' words nor gaps.
NOT_HERE = {
    *("/v1/embeddings", "/api/embed", "/api/embeddings", "/v1/rerank", "/v1/reranking", "/rerank"),
    *("/v1/audio/speech", "/detokenize", "/infill"),
}
# A pull has begun, and that the hub is not there comes to light afterwards.
STATUSES = {**dict.fromkeys(NOT_HERE, 400), "/admin/models/pull": 202, "/admin/keys": 201, "/admin/models-file": 409}
# The version in the example is that of no file.
CODES = {"/admin/models-file": "models_file_changed"}


def test_every_object_says_what_it_is() -> None:
    schemas = DOCUMENT["components"]["schemas"].items()
    assert [name for name, schema in schemas if "properties" in schema and not schema.get("description")] == []


def test_every_body_has_an_example() -> None:
    bare = set()
    for _, path, operation in OPERATIONS:
        for content in operation.get("requestBody", {}).get("content", {}).values():
            schema = DOCUMENT["components"]["schemas"][content["schema"]["$ref"].rpartition("/")[2]]
            if schema.get("required") and not schema.get("examples"):
                bare.add(path)
    assert bare - {"/v1/audio/transcriptions"} == set()


async def test_examples_are_answered(start_herd: StartHerd, fake: Fake, make_key: Any) -> None:
    key = make_key("admin")  # or the key that is made here would be asked for
    herd = await start_herd(hub={"endpoint": "http://127.0.0.1:9"})
    herd.key = key
    tried = 0
    for method, path, operation in OPERATIONS:
        for content in operation.get("requestBody", {}).get("content", {}).values():
            schema = DOCUMENT["components"]["schemas"][content["schema"]["$ref"].rpartition("/")[2]]
            for example in schema.get("examples", ()):
                tried += 1
                named = {"model": "alpha"} if "model" in schema["properties"] else {}
                answer = await herd.ask(method, path, {**example, **named})
                assert answer.status == STATUSES.get(path, 200), (path, answer.body)
                if not path.startswith("/api/") and answer.status >= 400:
                    assert answer.error["code"] == CODES.get(path, "endpoint_not_supported"), (path, answer.body)
    assert tried >= 23


async def test_it_is_the_same_for_everyone(fake: Fake, start_herd: StartHerd, make_key: Any) -> None:
    key = make_key("admin")
    herd = await start_herd()
    without, with_key = await herd.get("/openapi.json"), await herd.get("/openapi.json", key=key)
    assert (without.status, without.headers["Content-Type"]) == (200, "application/json; charset=utf-8")
    assert without.json == with_key.json == DOCUMENT
    assert "alpha" not in without.body.decode()


def test_models_of_the_same_name_are_told_apart() -> None:
    class ChatRequest(RequestBody):
        """Another one."""

        other: int

    async def answer(request: Any) -> Any:
        raise AssertionError

    described = json.loads(
        document([Route("POST", "/a", answer, MODEL, ChatRequest), *(r for r in ROUTES if "chat" in r.path)])
    )
    schemas = described["components"]["schemas"]
    assert {"ChatRequest", "OllamaChatRequest"} <= schemas.keys()
    assert "messages" in schemas["ChatRequest"]["properties"]
    assert set(pointers(described)) >= {"#/components/schemas/ChatRequest"}


def test_docstrings_lose_their_path() -> None:
    async def named(request: Any) -> Any:
        """GET or POST /a/{id}, /b and /c: what it does.

        And how.
        """

    operation = json.loads(document([Route("GET", "/a/{id:.+}", named, OPEN)]))["paths"]["/a/{id}"]["get"]
    assert operation["description"] == "What it does.\n\nAnd how.\n\nNeeds no key."
    assert (operation["operationId"], operation["summary"]) == ("get_a_id", "Named")


@pytest.mark.parametrize(
    ("field", "value", "fits"),
    [
        ("temperature", 0, True),
        ("temperature", float("inf"), False),
        ("temperature", True, False),
        ("max_tokens", 1.0, False),
        ("max_tokens", -1, True),
        ("stop", ["a", 1], False),
        ("logprobs", 3, True),
        ("tools", [5], True),  # their insides are judged where their place can be told
        ("tools", {}, False),
        ("seed", None, True),
    ],
)
def test_checks_are_strict(field: str, value: Any, fits: bool) -> None:
    assert checks_of(ChatRequest)[field][0](value) is fits


@pytest.mark.parametrize(
    ("field", "must"),
    [
        ("model", "be a string"),
        ("stream", "be true or false"),
        ("top_p", "be a number of at least 0 and at most 1"),
        ("ctx", "be an integer of at least 1"),
        ("stop", "be a string or an array of strings"),
        ("tool_choice", "be a string or an object"),
        ("logit_bias", "be an object or an array"),
        ("function_call", "be 'none' or 'auto' or an object"),
    ],
)
def test_checks_say_what_a_field_must_be(field: str, must: str) -> None:
    assert checks_of(ChatRequest)[field][1] == f"must {must}"


def test_only_fields_that_may_be_left_out_are_checked_alone() -> None:
    class Body(RequestBody):
        model_config = ConfigDict(extra="allow")
        needed: int
        kind: str | None = None

    assert list(checks_of(Body)) == ["kind"]
