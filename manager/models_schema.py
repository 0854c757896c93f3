"""The JSON schema of models.json: of the entries of each engine, with every key in both spellings.

`python -m manager.models_schema > data/models.schema.json` writes it anew.
"""

from __future__ import annotations

import json
import sys
from typing import Any, Final

from pydantic.alias_generators import to_camel

from manager.models_file import SCHEMA_KEY
from manager.models_forms import FORMS, PARAMS, FileEntry

_OWN_FORM: Final = "OwnFileEntry"


def schema() -> dict[str, Any]:
    """Of the whole file."""
    definitions: dict[str, Any] = {}
    for form in FORMS.values():
        entry = form.model_json_schema(ref_template="#/$defs/{model}")
        definitions |= entry.pop("$defs") | {form.__name__: entry}
    for model in (*FORMS.values(), *PARAMS.values()):
        definitions[model.__name__] = _both_spellings(definitions[model.__name__])
    definitions[_OWN_FORM] = _both_spellings(_own_schema())
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "models.json of llamaherd",
        "description": "The models that are served, by name.",
        "type": "object",
        "properties": {SCHEMA_KEY: {"type": "string"}},
        "additionalProperties": {
            "if": {"properties": {"engine": {"const": "hf"}}, "required": ["engine"]},
            "then": {"$ref": "#/$defs/HfFileEntry"},
            "else": {
                "if": {"properties": {"engine": {"const": "llama"}}},
                "then": {"$ref": "#/$defs/LlamaFileEntry"},
                "else": {"$ref": f"#/$defs/{_OWN_FORM}"},
            },
        },
        "$defs": definitions,
    }


def _own_schema() -> dict[str, Any]:
    """An entry whose engine another package brings: which params it may have, only that package knows."""
    entry = FileEntry.model_json_schema(ref_template="#/$defs/{model}")
    entry.pop("$defs")
    description = "The model and how it runs, as the engine's package wants it."
    entry["properties"]["params"] = {"type": "object", "description": description}
    del entry["properties"]["engine"]["default"]
    return entry | {
        "title": _OWN_FORM,
        "description": "An entry of a model whose engine an installed package brings.",
        "required": ["params", "engine"],
    }


def _both_spellings(model: dict[str, Any]) -> dict[str, Any]:
    properties = {}
    for name, value in model["properties"].items():
        value.pop("title", None)
        properties[name] = value
        if to_camel(name) != name:
            properties[to_camel(name)] = value
    return model | {"properties": properties}


if __name__ == "__main__":
    sys.stdout.write(json.dumps(schema(), indent=2, ensure_ascii=False) + "\n")
