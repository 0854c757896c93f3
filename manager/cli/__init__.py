"""The command `llamaherd`. One module per verb; each imports what it needs when it runs, so that help is quick."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from manager.cli import config, doctor, key, llama, model, serve, tls
from manager.errors import ConfigError, HerdError

app = typer.Typer(
    name="llamaherd",
    help="Serves local language models over one OpenAI-compatible API.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("serve")(serve.serve)
app.command("doctor")(doctor.doctor)
app.add_typer(model.app, name="model")
app.add_typer(llama.app, name="llama")
app.add_typer(key.app, name="key")
app.add_typer(tls.app, name="tls")
app.add_typer(config.app, name="config")


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"llamaherd {version('llamaherd')}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    pass


def main() -> None:
    """Run the command line. Exit 2: a mistake in settings, files or options; 1: it could not be done."""
    try:
        app()
    except HerdError as error:
        typer.echo(f"llamaherd: {error.message}", err=True)
        sys.exit(2 if isinstance(error, ConfigError) else 1)
