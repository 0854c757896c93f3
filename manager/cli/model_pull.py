"""`llamaherd model pull` and `import`: models from a hub, an address or this machine, listed in models.json."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from manager.cli.options import ConfigOption, DataFolderOption, JsonOption, base_url, settings_from, size
from manager.cli.transfer import run_interruptible, say_note, shown_progress

if TYPE_CHECKING:
    from manager.catalog import Catalog
    from manager.model_store import ChoiceNeeded, Plan, Pulled, Way
    from manager.settings import Settings

NameOption = Annotated[str | None, typer.Option(help="Name of its entry; else it is made of the file's.")]
EntryOption = Annotated[bool, typer.Option("--entry/--no-entry", help="Whether it is listed in models.json.")]
ProjectorOption = Annotated[
    bool, typer.Option("--mmproj/--no-mmproj", help="Whether a projector for images comes along, where there is one.")
]
PickleOption = Annotated[
    bool, typer.Option("--allow-pickle", help="Take weights that can run code when they are loaded (no safetensors).")
]
CodeOption = Annotated[
    bool, typer.Option("--trust-remote-code", help="Run the code that comes in a Hugging Face folder, as its own.")
]


def pull_model(
    source: Annotated[
        str,
        typer.Argument(help="org/repo, org/repo:QUANT, org/repo/file.gguf, the https address of a file, or a path."),
    ],
    quant: Annotated[str | None, typer.Option(help="Quantisation, as Q4_K_M, where there are several.")] = None,
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit of the repository.")] = None,
    name: NameOption = None,
    mmproj: ProjectorOption = True,
    allow_pickle: PickleOption = False,
    trust_remote_code: CodeOption = False,
    entry: EntryOption = True,
    config: ConfigOption = None,
    data_folder: DataFolderOption = None,
    as_json: JsonOption = False,
) -> None:
    """Fetch a model and list it. What was broken off goes on where it was."""
    from manager.model_store import ChoiceNeeded

    settings = settings_from(config, {"storage": {"data_folder": data_folder}})
    may = {"allow_pickle": allow_pickle, "trust_remote_code": trust_remote_code}
    wishes = {"quant": quant, "revision": revision, "name": name, "mmproj": mmproj, **may}
    work = _pulled(source, settings, _known(settings, entry), wishes)
    try:
        pulled = run_interruptible(work, "What has come is kept: the same command goes on from there.")
    except ChoiceNeeded as error:
        _show_choices(error)
        raise
    _finish(pulled, settings, name, entry, as_json)


def import_model(
    path: Annotated[Path, typer.Argument(help="A GGUF file (of several parts any), or a folder with a config.json.")],
    copy: Annotated[bool, typer.Option("--copy", help="Copy it, which is what is done otherwise, too.")] = False,
    link: Annotated[bool, typer.Option("--link", help="The same file under another name: a hard link.")] = False,
    symlink: Annotated[bool, typer.Option("--symlink", help="A symbolic link to where it is.")] = False,
    move: Annotated[bool, typer.Option("--move", help="Move it.")] = False,
    name: NameOption = None,
    mmproj: ProjectorOption = True,
    allow_pickle: PickleOption = False,
    trust_remote_code: CodeOption = False,
    entry: EntryOption = True,
    config: ConfigOption = None,
    data_folder: DataFolderOption = None,
    as_json: JsonOption = False,
) -> None:
    """Take a model of this machine into the folder of models and list it."""
    ways: dict[Way, bool] = {"copy": copy, "link": link, "symlink": symlink, "move": move}
    chosen = [way for way, wanted in ways.items() if wanted] or ["copy"]
    if len(chosen) > 1:
        raise typer.BadParameter("Only one of --copy, --link, --symlink and --move can be done.")
    settings = settings_from(config, {"storage": {"data_folder": data_folder}})
    may = {"allow_pickle": allow_pickle, "trust_remote_code": trust_remote_code}
    wishes = {"name": name, "mmproj": mmproj, **may}
    work = _imported(path.absolute(), settings, chosen[0], _known(settings, entry), wishes)
    _finish(run_interruptible(work, "Nothing was changed."), settings, name, entry, as_json)


def _known(settings: Settings, entry: bool) -> Catalog | None:
    """What is served already, where the model is to be listed beside it. A mistake in models.json is told here."""
    from manager.catalog import load_catalog

    return load_catalog(settings) if entry else None


async def _pulled(source: str, settings: Settings, catalog: Catalog | None, wishes: dict[str, Any]) -> Pulled:
    from manager.model_listing import check_free
    from manager.model_store import pull, resolve

    plan = await resolve(source, settings, note=say_note, **wishes)
    if catalog is not None:
        check_free(plan, catalog, wishes["name"])
    _say_plan(plan)
    with shown_progress(plan.name) as progress:
        return await pull(plan, settings, progress, note=say_note)


async def _imported(
    path: Path, settings: Settings, way: Way, catalog: Catalog | None, wishes: dict[str, Any]
) -> Pulled:
    from manager.model_listing import check_free
    from manager.model_store import import_file, resolve

    plan = await resolve(str(path), settings, **wishes)
    if catalog is not None:
        check_free(plan, catalog, wishes["name"])
    _say_what_else(plan)
    with shown_progress(plan.name) as progress:
        return await import_file(path, settings, way=way, progress=progress, **wishes)


def _say_plan(plan: Plan) -> None:
    which = "" if plan.quant is None else f", {plan.quant}"
    files = "a file" if len(plan.files) == 1 else f"{len(plan.files)} files"
    many = "" if plan.size is None else f" of {size(plan.size)}"
    typer.echo(f"{plan.source}{which}: {files}{many} for {plan.models_folder}", err=True)
    _say_what_else(plan)


def _say_what_else(plan: Plan) -> None:
    """What comes along that nobody named, and what may run code."""
    if plan.mmproj is not None:
        typer.echo(f"Its projector for images: {plan.mmproj.name} (--no-mmproj leaves it out)", err=True)
    if plan.allow_pickle:
        typer.echo("Its weights can run code when they are loaded, as --allow-pickle has it.", err=True)
    code = [file.target.name for file in plan.files if file.target.suffix == ".py"]
    if code:
        says = "runs when it is loaded" if plan.trust_remote_code else "is not run; --trust-remote-code allows that"
        typer.echo(f"The code in its folder ({', '.join(code)}) {says}.", err=True)


def _show_choices(error: ChoiceNeeded) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table("Quantisation", "Size", "Files")
    for choice in error.choices:
        table.add_row(Text(choice.quant), size(choice.size), str(len(choice.files)))
    if error.choices:
        Console(stderr=True).print(table)


def _finish(pulled: Pulled, settings: Settings, asked: str | None, entry: bool, as_json: bool) -> None:
    """List it, and say under which name it is served now, on standard output, and how to try it."""
    from manager.model_listing import enlist

    plan = pulled.plan
    name, added = enlist(plan, settings, asked) if entry else (None, False)
    if as_json:
        shown = {"name": name, "path": str(plan.model), "source": plan.source, "quant": plan.quant}
        typer.echo(json.dumps({**shown, "revision": plan.revision, "bytes": pulled.came}, indent=2, ensure_ascii=False))
        return
    typer.echo(f"{plan.model}: {size(pulled.came) + ' came' if pulled.came else 'all of it was there'}.", err=True)
    if name is None:
        typer.echo(str(plan.model))
        return
    listed = "Listed" if added else "It was listed"
    notices = "notices" if settings.storage.watch else "has to be told (SIGHUP)"
    typer.echo(f"{listed} in {settings.storage.models_file} as '{name}'; a service that runs {notices}.", err=True)
    typer.echo(f"Try it: {_example(settings, name)}", err=True)
    typer.echo(name)


def _example(settings: Settings, name: str) -> str:
    import shlex

    body = json.dumps({"model": name, "messages": [{"role": "user", "content": "Hello!"}]}, ensure_ascii=False)
    return f"curl {base_url(settings)}/v1/chat/completions -d {shlex.quote(body)}"
