"""A route of the table as an operation of OpenAPI."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema

from manager.short_answers import error_object
from routes.callers import ANY
from routes.errors import ErrorForm, anthropic_error, plain_error
from routes.pattern import plain_path
from routes.route import EVENTS, FILE, JSON, Route
from routes.schema.errors import AnthropicError, Error, PlainError

Schema = dict[str, Any]
# Where the description of a model is.
Refs = Mapping[Any, Schema]

# By the first part of a path; what is not here is llama.cpp's.
_AREAS: Final = {
    **dict.fromkeys(("ping", "health", "metrics", "status"), "Watching"),
    **dict.fromkeys(("models", "loadModel", "unloadModel", "chat"), "Original"),
    "v1": "OpenAI",
    "api": "Ollama",
    **dict.fromkeys(("admin", "upstream"), "Administration"),
    **dict.fromkeys(("openapi.json", "docs", "redoc"), "Documentation"),
    **dict.fromkeys(("", "assets", "icon.svg", "manifest.webmanifest", "licenses.md"), "Web app"),
}
ERROR_MODELS: Final[dict[ErrorForm, type[BaseModel]]] = {
    error_object: Error,
    plain_error: PlainError,
    anthropic_error: AnthropicError,
}
_ERRORS: Final = {
    400: "The request is wrong.",
    401: "There is no key, or it is not known.",
    403: "The key may not do that; or, without keys, the request is a stranger's.",
    404: "There is no such thing.",
    408: "The body came too slowly.",
    409: "An administrator cancelled the request, or what is there stands against it.",
    413: "The body is above `server.max_body`.",
    421: "The service is not called by that name.",
    429: "A limit is reached, or too many wait for the model.",
    500: "The engine or the service failed.",
    502: "The engine's process broke off.",
    503: "The model can't be had now.",
    504: "The engine took too long.",
    507: "The disk has too little room.",
}
_HEADERS: Final = {"X-Request-ID": {"$ref": "#/components/headers/X-Request-ID"}}
_RETRY: Final = {
    "Retry-After": {"schema": {"type": "integer", "minimum": 1}, "description": "Seconds, where waiting helps."}
}
# How the docstrings of handlers begin: `GET or POST /path and /other: `.
_OPENING: Final = re.compile(r"(?:(?:(?:[A-Z]{3,}|or|and) )*/\S+\s*)+")


class Untitled(GenerateJsonSchema):
    """Without the titles that would say each field's name again."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False


def area(path: str) -> str:
    """The part of the API that a route belongs to."""
    return "Anthropic" if path.startswith("/v1/messages") else _AREAS.get(path.split("/")[1], "llama.cpp")


def operation_of(route: Route, schemas: Refs) -> Schema:
    """The operation; its errors are references to components."""
    words = re.sub(r"\W+", "_", plain_path(route.path)).strip("_")
    scope = route.access.scope
    needed = [] if scope == ANY else [scope]
    operation: Schema = {
        "operationId": f"{route.method.lower()}_{words}",
        "summary": route.handler.__name__.replace("_", " ").capitalize(),
        "description": _described(route),
        "tags": [area(route.path)],
        "parameters": [*_path_parameters(route.path), *_query_parameters(route.query)],
        "responses": {**_answers(route, schemas), **_errors(route)},
        "security": [{"bearer": needed}, {"key": needed}] if scope else [],
    }
    if route.takes is not None:
        content = {route.body_type: {"schema": schemas[route.takes]}}
        operation["requestBody"] = {"required": not route.body_optional, "content": content}
    return operation


def _described(route: Route) -> str:
    """The docstring of the handler, and the scope that its caller needs."""
    text = inspect.getdoc(route.handler) or ""
    if opening := _OPENING.match(text):
        text = text[opening.end() :]
    scope = route.access.scope
    needs = "Needs a key." if scope == ANY else f"Needs a key with the scope `{scope}`." if scope else "Needs no key."
    return f"{text[:1].upper()}{text[1:]}\n\n{needs}".strip()


def _path_parameters(path: str) -> Iterator[Schema]:
    for name in re.findall(r"{(\w+)", path):
        yield {"name": name, "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}


def _query_parameters(query: type[BaseModel] | None) -> Iterator[Schema]:
    if query is None:
        return
    schema = query.model_json_schema(schema_generator=Untitled)
    required = schema.get("required", ())
    for name, field in schema["properties"].items():
        about = {key: field.pop(key) for key in ("description",) if key in field}
        yield {"name": name, "in": "query", "required": name in required, **about, "schema": _without_null(field)}


def _without_null(field: Schema) -> Schema:
    """What a field left out may be, where it can't be null: in a URL."""
    options = [one for one in field.get("anyOf", ()) if one != {"type": "null"}]
    if len(options) != 1:
        return field
    return {**options[0], **{key: value for key, value in field.items() if key not in {"anyOf", "default"}}}


def _answers(route: Route, schemas: Refs) -> Schema:
    content: Schema = {}
    if isinstance(route.gives, str):
        content[route.gives] = {} if route.gives == FILE else {"schema": {"type": "string"}}
    elif route.gives is not None:
        content[JSON] = {"schema": schemas[route.gives]}
    if route.streams is not None:
        content[route.stream_type] = {"schema": _streamed(route.stream_type, schemas[route.streams])}
    if not content:
        return {"default": {"description": "What the engine answers.", "headers": _HEADERS}}
    status = "201" if route.creates else "200"
    done = {status: {"description": "It is done.", "headers": _HEADERS, "content": content}}
    later = {"202": {"description": "It has begun.", "headers": _HEADERS, "content": content}}
    return {**done, **later} if route.later else {**done}


def _streamed(stream_type: str, data: Schema) -> Schema:
    """One event, or one line, of a stream."""
    if stream_type != EVENTS:
        return data
    text = {"type": "string", "contentMediaType": JSON, "contentSchema": data}
    return {
        "type": "object",
        "description": "An event. One may have an `event`, its kind, and an `id`.",
        "properties": {"event": {"type": "string"}, "id": {"type": "string"}, "data": text},
        "required": ["data"],
    }


def _errors(route: Route) -> Schema:
    form = ERROR_MODELS[route.access.errors].__name__
    return {str(status): {"$ref": f"#/components/responses/{form}{status}"} for status in sorted(set(_statuses(route)))}


def _statuses(route: Route) -> Iterator[int]:
    yield from (403, 421, 500)
    if route.access.scope:
        yield from (401, 429)
    if route.query or route.takes or "{" in route.path:
        yield from (400, 404)
    if route.gives == FILE:
        yield 404
    if route.takes:
        yield from (408, 413)
    if route.access.metered:
        yield from (400, 404, 409, 502, 503, 504)
    elif route.access.audited:
        yield from (400, 404, 503)
    if route.conflicts:
        yield 409


def described_error(name: str, schemas: Refs) -> Schema:
    """The component of an error by its name, which is that of its model and the status."""
    status = int(name[-3:])
    model = next(model for model in ERROR_MODELS.values() if model.__name__ == name[:-3])
    headers = {**_HEADERS, **_RETRY} if status in {429, 503} else _HEADERS
    return {"description": _ERRORS[status], "headers": headers, "content": {JSON: {"schema": schemas[model]}}}
