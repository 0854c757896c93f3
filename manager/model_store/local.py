"""Which files of this machine make a model. All of it blocks."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from manager.discovery import hf_files, hf_problem
from manager.gguf_file import gguf_problem, split_name
from manager.model_store.choices import PICKLES, BadSource
from manager.model_store.hub import HubFile
from manager.model_store.plan import Plan, PlannedFile, entry_name
from manager.model_store.quants import Model, belongs, is_gguf, projector_of, quant_of
from manager.model_store.targets import relative, target_in


def parts_of(path: Path) -> list[Path]:
    """All files of a GGUF model, given any one of them; they need not exist."""
    split = split_name(path.name)
    if split is None:
        return [path]
    return [path.with_name(split.sibling(part)) for part in range(1, split.total + 1)]


def folder_files(folder: Path) -> list[Path]:
    """What is read of a Hugging Face folder, pickles only where there are no safetensors."""
    files = [path for path in hf_files(folder) if path.is_file()]
    if any(path.suffix == ".safetensors" for path in files):
        files = [path for path in files if path.suffix not in (".bin", ".pt")]
    return files


def plan_local(
    path: Path,
    models_folder: Path,
    name: str,
    *,
    mmproj: bool,
    allow_pickle: bool = False,
    trust_remote_code: bool = False,
) -> Plan:
    """Take a model of this machine to the folder of models; one that lies in it stays. Raises BadSource.

    `allow_pickle`, `trust_remote_code`: what of it may run code. Code that may not comes along and is not run.
    """
    path = Path(path).expanduser().absolute()
    if not path.is_dir():
        plan = _of_gguf(path, models_folder, mmproj=mmproj)
    else:
        plan = _of_folder(path, models_folder, allow_pickle=allow_pickle, trust_remote_code=trust_remote_code)
    return replace(plan, name=name or entry_name(plan.name))


def _of_folder(folder: Path, models_folder: Path, *, allow_pickle: bool, trust_remote_code: bool) -> Plan:
    problem = hf_problem(folder, str(folder), pickle=True)
    if problem is not None:
        raise BadSource(problem, param="source")
    target = _place(folder, models_folder)
    files = folder_files(folder)
    pickled = not any(file.suffix == ".safetensors" for file in files)
    if pickled and not allow_pickle:
        raise BadSource(
            f"{folder} holds no safetensors, and pytorch_model.bin can run code when it is loaded; {PICKLES}",
            param="source",
        )
    # The file that makes a folder a model comes last.
    files.sort(key=lambda path: (path == folder / "config.json", path))
    return Plan(
        name=folder.name,
        source=str(folder),
        engine="hf",
        models_folder=models_folder,
        model=target,
        files=tuple(_planned(file, target / file.relative_to(folder)) for file in files),
        allow_pickle=pickled,
        trust_remote_code=trust_remote_code and any(file.suffix == ".py" for file in files),
    )


def _of_gguf(path: Path, models_folder: Path, *, mmproj: bool) -> Plan:
    if not is_gguf(path.name):
        says = "does not exist" if not path.exists() else "is neither a .gguf file nor a folder with a model"
        raise BadSource(f"{path} {says}", param="source")
    first = parts_of(path)[0]
    problem = gguf_problem(first, str(first))
    if problem is not None:
        raise BadSource(problem, param="source")
    split = split_name(first.name)
    stem = first.name[: -len(".gguf")] if split is None else split.stem
    projector = _projector(first, stem) if mmproj else None
    files = [*parts_of(first), *([] if projector is None else [projector])]
    return Plan(
        name=stem,
        source=str(path),
        engine="llama",
        models_folder=models_folder,
        model=_place(first, models_folder),
        files=tuple(_planned(file, _place(file, models_folder)) for file in files),
        mmproj=None if projector is None else _place(projector, models_folder),
        quant=quant_of(stem),
    )


def _projector(model: Path, stem: str) -> Path | None:
    """The projector beside a model, where the folder holds no other model that it could be of."""
    there = [HubFile(path.name, 0) for path in sorted(model.parent.iterdir()) if is_gguf(path.name)]
    meant = Model(stem, quant_of(stem), (HubFile(model.name, 0),))
    found = projector_of(meant, there)
    return model.parent / found.path if found is not None and belongs(found, meant, there) else None


def _place(path: Path, models_folder: Path) -> Path:
    """Where it is already, by whatever way it is reached; else right inside the folder of models."""
    if relative(path, models_folder) is not None:
        return path
    inside = relative(path.parent.resolve() / path.name, models_folder.resolve())
    return target_in(models_folder, path.name) if inside is None else models_folder / inside


def _planned(path: Path, target: Path) -> PlannedFile:
    return PlannedFile(target, size=path.stat().st_size, local=path)
