"""`llamaherd serve`: run the service in the foreground until a signal ends it."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from manager.cli.key_options import store_of
from manager.cli.model import provide_model
from manager.cli.options import ConfigOption, DataFolderOption, base_url, settings_from

if TYPE_CHECKING:
    from manager.settings import Settings


class Launcher(StrEnum):
    auto = "auto"
    native = "native"
    embedded = "embedded"


class LogLevel(StrEnum):
    debug = "debug"
    info = "info"
    warning = "warning"
    error = "error"
    critical = "critical"


def serve(
    host: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="Address to listen on. [default: 127.0.0.1]")
    ] = None,
    port: Annotated[
        int | None, typer.Option(metavar="PORT", help="Port to listen on; 0 takes a free one. [default: 8000]")
    ] = None,
    config: ConfigOption = None,
    data_folder: DataFolderOption = None,
    gguf_models: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Serve every GGUF file below this folder.")
    ] = None,
    model: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Serve this GGUF file, as the default model.")
    ] = None,
    ctx_size: Annotated[
        int | None, typer.Option(metavar="TOKENS", help="Context window in tokens, where a model has no own.")
    ] = None,
    gpu_layers: Annotated[
        int | None, typer.Option(metavar="NUMBER", help="Layers on the GPU, -1 for all, where a model has no own.")
    ] = None,
    launcher: Annotated[
        Launcher | None,
        typer.Option(
            metavar="WAY",
            help="How llama.cpp starts: native (a compiled llama-server), embedded (the Python wheel) or auto.",
        ),
    ] = None,
    llama_server: Annotated[Path | None, typer.Option(metavar="FILE", help="The llama-server to use.")] = None,
    log_level: Annotated[
        LogLevel | None, typer.Option(metavar="LEVEL", help="Least level of log lines. [default: info]")
    ] = None,
    access_log: Annotated[
        bool | None, typer.Option("--access-log/--no-access-log", help="Log every request. [default: on]")
    ] = None,
    first_start: Annotated[
        bool,
        typer.Option(
            "--first-start",
            help="Where no model is configured, fetch a small one; where no key is stored, make one and print it once.",
        ),
    ] = False,
) -> None:
    """Serve until SIGTERM or Ctrl-C; a second one does not wait for running answers.

    Options win over the environment, the environment over .env, and that over the YAML file.
    """
    settings = settings_from(
        config,
        {
            "server": {
                "host": host,
                "port": port,
                "log_level": None if log_level is None else str(log_level),
                "access_log": access_log,
            },
            "model": {"path": model, "ctx_size": ctx_size, "gpu_layers": gpu_layers},
            "storage": {"data_folder": data_folder, "gguf_models_dir": gguf_models},
            "llama": {"launcher": None if launcher is None else str(launcher), "binary": llama_server},
        },
    )
    from manager.server import run

    if first_start:
        from manager.catalog import load_catalog

        provide_model(settings)
        load_catalog(settings)  # before the key is made: with a mistake in models.json none should have been printed
        _make_first_key(settings)
    raise typer.Exit(run(settings))


def _make_first_key(settings: Settings) -> None:
    from manager.auth import SCOPES

    keys = store_of(settings)
    if len(keys):
        return
    token, _ = keys.create("first", "Made at the first start", SCOPES)
    line = "─" * 76
    key = typer.style(token, bold=True)
    typer.echo(
        f"{line}\nYour API key. It is shown this once; it may do everything:\n\n    {key}\n\n"
        f"Open {base_url(settings)}/ in a browser and sign in with it, or try it in another terminal:\n\n"
        f"{_curl(settings, token)}\n{line}"
    )


def _curl(settings: Settings, token: str) -> str:
    return (
        f"curl {base_url(settings)}/v1/chat/completions \\\n"
        f"  -H 'Authorization: Bearer {token}' \\\n"
        "  -H 'Content-Type: application/json' \\\n"
        """  -d '{"messages": [{"role": "user", "content": "Why is the sky blue?"}]}'"""
    )
