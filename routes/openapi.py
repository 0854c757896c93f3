"""GET /openapi.json: the API as OpenAPI 3.1 describes it, made of the route table and of the models in it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from importlib.metadata import version
from typing import Any, Final

import orjson
from aiohttp import web
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from routes.openapi_operation import ERROR_MODELS, Schema, Untitled, area, described_error, operation_of
from routes.pattern import plain_path
from routes.route import JSON, Route

DOCUMENT: Final = web.AppKey("openapi", bytes)

_INFO: Final = {
    "title": "llamaherd",
    "description": "The language models of a machine, over HTTP.",
    "license": {"name": "MIT", "identifier": "MIT"},
}
_REQUEST_ID: Final = {
    "description": "The id of the request: the one that it brought, else a new one.",
    "schema": {"type": "string", "pattern": "^[A-Za-z0-9._-]{1,64}$"},
}
_KEYS: Final = {
    "bearer": {"type": "http", "scheme": "bearer", "description": "An API key, `sk-lh-…`."},
    "key": {"type": "apiKey", "in": "header", "name": "x-api-key", "description": "The same API key."},
}

_QUALIFIED: Final = re.compile(r"routes__(\w+?)__(?:\w+__)?(\w+)")


async def openapi_json(request: web.Request) -> web.Response:
    """GET /openapi.json: this description."""
    return web.Response(body=request.app[DOCUMENT], content_type=JSON, charset="utf-8")


def document(routes: Sequence[Route]) -> bytes:
    """The description of these routes: the same for everyone who asks."""
    models = dict.fromkeys(model for route in routes for model in _models_of(route))
    refs, components = models_json_schema(
        [(model, "validation") for model in (*models, *ERROR_MODELS.values())],
        ref_template="#/components/schemas/{model}",
        schema_generator=Untitled,
    )
    schemas = {model: ref for (model, _), ref in refs.items()}
    paths: dict[str, Schema] = {}
    errors: Schema = {}
    for route in routes:
        operation = operation_of(route, schemas)
        paths.setdefault(plain_path(route.path), {})[route.method.lower()] = operation
        for answer in operation["responses"].values():
            if "$ref" in answer:
                name = answer["$ref"].rpartition("/")[2]
                errors[name] = described_error(name, schemas)
    described: dict[str, Any] = {
        "openapi": "3.1.0",
        "info": {**_INFO, "version": version("llamaherd")},
        "servers": [{"url": "/"}],
        "tags": [{"name": name} for name in dict.fromkeys(area(route.path) for route in routes)],
        "paths": paths,
        "components": {
            "schemas": components["$defs"],
            "responses": errors,
            "headers": {"X-Request-ID": _REQUEST_ID},
            "securitySchemes": _KEYS,
        },
    }
    return _with_short_names(orjson.dumps(described), components["$defs"])


def _with_short_names(document: bytes, names: Iterable[str]) -> bytes:
    """Where models of two packages have the same name, pydantic says their modules: `routes__ollama__asked__Message`.

    It is OllamaMessage then, and the one of routes.schema has the bare name.
    """
    for name in names:
        if found := _QUALIFIED.fullmatch(name):
            package, bare = found.groups()
            short = bare if package == "schema" else f"{package.capitalize()}{bare}"
            document = document.replace(f'"{name}"'.encode(), f'"{short}"'.encode())
            document = document.replace(f'/{name}"'.encode(), f'/{short}"'.encode())
    return document


def _models_of(route: Route) -> Iterator[type[BaseModel]]:
    for model in (route.takes, route.gives, route.streams):
        if model is not None and not isinstance(model, str):
            yield model
