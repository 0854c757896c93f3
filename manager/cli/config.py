"""`llamaherd config`: every setting with its value and where that comes from, and whether all of it is right."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from manager.cli.options import ConfigOption, DataFolderOption, JsonOption, settings_from, show

if TYPE_CHECKING:
    from manager.settings import Settings

app = typer.Typer(help="Show the settings and where each comes from, and check them.", no_args_is_help=True)

SectionOption = Annotated[str | None, typer.Option(metavar="NAME", help="Only this section, such as server.")]
ChangedOption = Annotated[bool, typer.Option("--changed", help="Only what is set somewhere.")]


@app.command("show")
def show_settings(
    section: SectionOption = None,
    changed: ChangedOption = False,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show every setting, its value, and where that comes from. Secrets are masked."""
    from manager.settings_shown import DEFAULT, shown_settings

    sections = _known(section)
    found = [
        setting
        for setting in shown_settings(settings_from(config, {}))
        if setting.section in sections and (not changed or setting.source != DEFAULT)
    ]
    if as_json:
        values = {setting.name: {"value": setting.value, "source": setting.source} for setting in found}
        typer.echo(json.dumps(values, indent=2, ensure_ascii=False))
        return
    if not found:
        typer.echo("Nothing is set: every value is the default.")
        return
    from rich.table import Table
    from rich.text import Text

    table = Table("Setting", "Value", "Source")
    for setting in found:
        table.add_row(*map(Text, (setting.name, _shown(setting.value), setting.source)))
    show(table)


@app.command()
def check(config: ConfigOption = None, data_folder: DataFolderOption = None) -> None:
    """Look for mistakes that would end the start, in settings, models, keys, certificates. Exit 2: there are some."""
    from manager.errors import ConfigError

    settings = settings_from(config, {"storage": {"data_folder": data_folder}})
    mistakes, right = [], []
    for judge in (_models, _keys, _certificates, _engine, _children):
        try:
            right.append(judge(settings))
        except ConfigError as mistake:
            mistakes += mistake.message.splitlines()
    if mistakes:
        for line in mistakes:
            typer.echo(line, err=True)
        raise typer.Exit(2)
    typer.echo(f"The settings are right: {', '.join(filter(None, right))}.")


def _known(section: str | None) -> tuple[str, ...]:
    """The sections to show."""
    from manager.mistakes import did_you_mean
    from manager.settings import Settings
    from manager.settings_layers import sections_of

    sections = sections_of(Settings)
    if section is None:
        return tuple(sections)
    if section not in sections:
        raise typer.BadParameter(f"there is no section {section!r}{did_you_mean(section, sections)}")
    return (section,)


def _shown(value: Any) -> str:
    return value if isinstance(value, str) and value else json.dumps(value, ensure_ascii=False)


# Each of these raises ConfigError with its mistakes, and else says what was found.


def _models(settings: Settings) -> str:
    from manager.catalog import load_catalog

    return f"models: {len(load_catalog(settings))}"


def _keys(settings: Settings) -> str:
    from manager.doctor.case import Case, NotLookedAt
    from manager.exposure import refuse_weakness

    try:
        keys = Case(settings).keys
    except NotLookedAt as reason:
        return f"keys and who gets in: not looked at ({reason}; chmod 600)"
    refuse_weakness(settings, keys)
    return f"keys: {len(keys)}"


def _certificates(settings: Settings) -> str:
    from manager.tls.context import ServerTls

    return f"HTTPS for {', '.join(ServerTls(settings.tls).names)}" if settings.tls.wanted else ""


def _engine(settings: Settings) -> str:
    from manager.engines.llama.native import choose_launcher

    if settings.llama.binary is None and settings.llama.launcher != "native":
        return ""  # the start does without
    return f"launcher: {choose_launcher(settings)[0]}"


def _children(settings: Settings) -> str:
    from manager.confinement import Confinement

    Confinement(settings.children).check()
    return ""
