"""All settings of the service as one checked object. What there is: settings_sections; whence: settings_layers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from manager.errors import ConfigError
from manager.mistakes import did_you_mean, problem
from manager.settings_layers import COMMAND_LINE, KeyPath, Layer, OriginsLayer, layers_of
from manager.settings_sections import (
    ActivitySettings,
    ChildSettings,
    GenerationSettings,
    HubSettings,
    LimitsSettings,
    LlamaSettings,
    LogSettings,
    MediaSettings,
    MemorySettings,
    ModelSettings,
    SchedulingSettings,
    StorageSettings,
)
from manager.settings_server import CorsSettings, ServerSettings, TlsSettings
from manager.settings_types import AbsolutePath, is_secret


class Settings(BaseSettings):
    """All settings, checked. `Settings()` reads like load_settings(), which words mistakes and is what to call."""

    model_config = SettingsConfigDict(frozen=True, extra="forbid")

    config_path: AbsolutePath | None = Field(default=None, description="The YAML file that was read.")
    origins: dict[str, str] = Field(
        default_factory=dict,
        exclude=True,
        repr=False,
        description="Where each value that is set has come from, by names such as server.port.",
    )
    server: ServerSettings = Field(default_factory=ServerSettings)
    tls: TlsSettings = Field(default_factory=TlsSettings)
    cors: CorsSettings = Field(default_factory=CorsSettings)
    model: ModelSettings = Field(default_factory=ModelSettings)
    generation: GenerationSettings = Field(default_factory=GenerationSettings)
    storage: StorageSettings = Field(default_factory=StorageSettings)
    children: ChildSettings = Field(default_factory=ChildSettings)
    media: MediaSettings = Field(default_factory=MediaSettings)
    llama: LlamaSettings = Field(default_factory=LlamaSettings)
    memory: MemorySettings = Field(default_factory=MemorySettings)
    scheduling: SchedulingSettings = Field(default_factory=SchedulingSettings)
    limits: LimitsSettings = Field(default_factory=LimitsSettings)
    hub: HubSettings = Field(default_factory=HubSettings)
    log: LogSettings = Field(default_factory=LogSettings)
    activity: ActivitySettings = Field(default_factory=ActivitySettings)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        given = init_settings()
        layers = layers_of(settings_cls, given)
        return (init_settings, *layers, OriginsLayer(settings_cls, given, layers))


def load_settings(overrides: Mapping[str, Any] | None = None) -> Settings:
    """Overrides (command line) over environment over .env over the YAML file at CONFIG_PATH over defaults.

    `overrides` is {section: {key: value}} and may hold `config_path`; a value of None is no value.
    Raises one ConfigError that names the place of every mistake.
    """
    given = _without_none(overrides or {})
    try:
        return Settings(**given)
    except ValidationError as error:
        raise ConfigError(_worded(error, given)) from None


def _without_none(values: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: _without_none(value) if isinstance(value, Mapping) else value
        for key, value in values.items()
        if value is not None
    }


def _worded(error: ValidationError, given: Mapping[str, Any]) -> str:
    layers = layers_of(Settings, given)
    lines = []
    for detail in error.errors():
        if detail["type"] == "default_factory_not_called":
            continue  # follows from another mistake in the list
        key = tuple(str(part) for part in detail["loc"])[:2]
        place = _place(key, given, layers)
        setting = ".".join(key)
        if place and not place.endswith(setting):
            setting = f"{place}: {setting}"
        elif place:
            setting = place
        hint = _hint(key) if detail["type"] == "extra_forbidden" else ""
        lines.append(f"{setting}: {problem(detail, secret=_is_secret(key))}{hint}")
    return "\n".join(dict.fromkeys(lines))


def _place(key: KeyPath, given: Mapping[str, Any], layers: tuple[Layer, ...]) -> str:
    """Where the value comes from. A whole section's mistake comes from all the places that set its keys."""
    section = given.get(key[0])
    if key[0] in given and (len(key) == 1 or not isinstance(section, Mapping) or key[1] in section):
        return COMMAND_LINE
    places = [place for layer in layers for place in sorted(layer.places(key))]
    return ", ".join(places) if len(key) == 1 else next(iter(places), "")


def _is_secret(key: KeyPath) -> bool:
    section: Any = Settings.model_fields[key[0]].annotation if key[0] in Settings.model_fields else None
    field = getattr(section, "model_fields", {}).get(key[-1])
    return field is not None and is_secret(field)


def _hint(key: tuple[str, ...]) -> str:
    if len(key) == 1:
        return did_you_mean(key[0], Settings.model_fields)
    section = Settings.model_fields[key[0]].annotation
    return did_you_mean(key[1], getattr(section, "model_fields", ()), prefix=f"{key[0]}.")
