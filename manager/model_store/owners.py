"""Whose a file in the folder of models is, so that a pull replaces none of another model. All of it blocks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from manager.model_store.manifest import Manifest, manifest_file
from manager.model_store.plan import Plan
from manager.models_file import read_models_file


def other_owner(file: Path, plan: Plan, known: Sequence[Manifest], models_file: Path) -> str | None:
    """The model, as a message names it, that would lose this file to the plan; None where it may be replaced.

    It may by what comes of the same source for the same model. Of another revision, or of an address whose file is a
    new one, that is only the same model where nobody gave it a name of its own.
    """
    own = manifest_file(plan.models_folder, plan.model)
    for manifest in known:
        if file not in {one.path for one in manifest.files}:
            continue
        is_ours = manifest.source == plan.source
        if is_ours and plan.revision is not None and manifest.revision == plan.revision:
            continue
        names = _entries(manifest.file, plan, models_file)
        if not is_ours or manifest.file != own or (plan.named and names and plan.name not in names):
            revision = "" if manifest.revision is None else f" at {manifest.revision[:12]}"
            return f"{names[0] if names else 'a model'} (from {manifest.source}{revision})"
    return None


def _entries(manifest: Path, plan: Plan, models_file: Path) -> list[str]:
    """Under which names models.json has the model of that manifest."""
    folder = plan.models_folder
    listed = {name: folder / entry.params.model for name, entry in read_models_file(models_file).items()}
    return [name for name, model in listed.items() if manifest_file(folder, model) == manifest]
