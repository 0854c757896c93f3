"""What answers have in common."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict


class Answer(BaseModel):
    """An answer, or a part of one. It is described here and written elsewhere: more fields may come."""

    model_config = ConfigDict(extra="allow", protected_namespaces=())


def example(**fields: Any) -> dict[str, Any]:
    """What a model's `json_schema_extra` is to be for this one example."""
    return {"examples": [fields]}
