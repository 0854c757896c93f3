"""Takes models of this machine into the folder of models."""

from __future__ import annotations

import asyncio
from pathlib import Path

from manager.downloads import Progress
from manager.mistakes import shown
from manager.model_store.choices import BadSource
from manager.model_store.local import plan_local
from manager.model_store.placing import Pulled, Way, place
from manager.models_file import name_problem
from manager.settings import Settings


async def import_file(
    path: Path,
    settings: Settings,
    *,
    way: Way = "copy",
    name: str | None = None,
    mmproj: bool = True,
    allow_pickle: bool = False,
    trust_remote_code: bool = False,
    progress: Progress | None = None,
) -> Pulled:
    """Take a GGUF file (all its parts, and its projector) or a Hugging Face folder into storage.models_folder.

    One that lies there already stays where it is, and gets a manifest. Raises BadSource where it is no model, or
    another file has its place; NoRoom, and HerdError where it can't be done. Cancelled or failed it leaves nothing
    half-written, and with `move` the model where it was.
    """
    problem = None if name is None else name_problem(name)
    if problem is not None:
        raise BadSource(f"{shown(name)}: a model name {problem}", param="name")
    plan = await asyncio.to_thread(
        plan_local,
        path,
        settings.storage.models_folder,
        name or "",
        mmproj=mmproj,
        allow_pickle=allow_pickle,
        trust_remote_code=trust_remote_code,
    )
    return await place(plan, way, progress)
