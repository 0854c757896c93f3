"""Settings: the order of their origins, the names they go by, and how mistakes are worded."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from manager.errors import ConfigError
from manager.settings import Settings, load_settings
from manager.settings_layers import EXACT_NAMES, sections_of, variable_names
from manager.settings_sections import Group
from tests.conftest import MakeSettings

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _nothing_is_set(make_settings: MakeSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    """`make_settings` sees to it that no variable and no .env counts, and that the test has a folder of its own."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


@pytest.fixture
def no_home(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a user whom only a number names: no HOME, no entry in /etc/passwd."""

    def unknown(uid: int) -> None:
        raise KeyError

    for name in ("HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("pwd.getpwuid", unknown)


def write_yaml(monkeypatch: pytest.MonkeyPatch, text: str, name: str = "config.yml") -> Path:
    path = Path(name).absolute()
    path.write_text(text, encoding="utf-8")
    monkeypatch.setenv("CONFIG_PATH", name)
    return path


def mistake(overrides: dict[str, Any] | None = None) -> str:
    with pytest.raises(ConfigError) as caught:
        load_settings(overrides)
    return caught.value.message


# order


def test_defaults_need_nothing_and_are_for_this_machine_only() -> None:
    settings = load_settings()
    assert settings.server.host == "127.0.0.1"
    assert settings.server.port == 8000
    assert settings.cors.allowed_origins == []
    assert settings.model.type == "LLM"


def test_command_line_over_environment_over_dotenv_over_yaml_over_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    ports = []
    write_yaml(monkeypatch, "server: {port: 1, host: 0.0.0.1}")
    ports.append(load_settings().server.port)
    Path(".env").write_text("LLAMAHERD_SERVER__PORT=2\n", encoding="utf-8")
    ports.append(load_settings().server.port)
    monkeypatch.setenv("LLAMAHERD_SERVER__PORT", "3")
    ports.append(load_settings().server.port)
    settings = load_settings({"server": {"port": 4, "host": None}})
    ports.append(settings.server.port)
    assert ports == [1, 2, 3, 4]
    assert settings.server.host == "0.0.0.1"
    assert settings.server.log_level == "info"


def test_config_path_may_stand_in_dotenv_and_the_command_line_goes_before_it() -> None:
    Path("one.yml").write_text("server: {port: 1}", encoding="utf-8")
    Path("two.yml").write_text("server: {port: 2}", encoding="utf-8")
    Path(".env").write_text("CONFIG_PATH=one.yml\n", encoding="utf-8")
    assert load_settings().server.port == 1
    settings = load_settings({"config_path": "two.yml"})
    assert settings.server.port == 2
    assert settings.config_path == Path("two.yml").absolute()


def test_settings_are_frozen() -> None:
    settings = load_settings()
    with pytest.raises(ValueError, match="frozen"):
        settings.server.port = 1


# names


def test_exact_names_are_honoured(monkeypatch: pytest.MonkeyPatch) -> None:
    values = {
        "GGUF_MODELS_DIR": "gguf",
        "HF_MODELS_DIR": "hf",
        "LLAMA_N_CTX": "2048",
        "LLAMA_N_GPU_LAYERS": "-1",
        "LLAMA_N_BATCH": "256",
        "LLAMA_N_THREADS": "3",
        "LLAMA_LOG_LEVEL": "WARN",
        "MODEL_TYPE": "VL",
        "MODEL_PATH": "m.gguf",
        "MMPROJ_PATH": "p.gguf",
        "MODEL_NAME": "seer",
        "CUDA_VISIBLE_DEVICES": "1",
        "HF_ENDPOINT": "https://hub.example.org/",
        "HF_TOKEN": "hf_secret",
    }
    assert values.keys() | {"CONFIG_PATH"} == EXACT_NAMES.keys()
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    settings = load_settings()
    here = Path.cwd()
    assert (settings.storage.gguf_models_dir, settings.storage.hf_models_dir) == (here / "gguf", here / "hf")
    model = settings.model
    assert (model.ctx_size, model.gpu_layers, model.batch_size, model.threads) == (2048, -1, 256, 3)
    assert (model.type, model.path, model.mmproj, model.name) == ("VL", here / "m.gguf", here / "p.gguf", "seer")
    assert settings.llama.log_level == "warning"
    assert settings.llama.cuda_visible_devices == "1"
    assert settings.hub.endpoint == "https://hub.example.org"
    assert settings.hub.token is not None
    assert settings.hub.token.get_secret_value() == "hf_secret"


def test_empty_variables_count_as_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in EXACT_NAMES:
        monkeypatch.setenv(name, "")
    monkeypatch.setenv("LLAMAHERD_SERVER__PORT", "")
    settings = load_settings()
    assert settings.model.path is None
    assert settings.server.port == 8000


def test_an_empty_cuda_visible_devices_hides_every_gpu_also_from_dotenv(monkeypatch: pytest.MonkeyPatch) -> None:
    Path(".env").write_text("CUDA_VISIBLE_DEVICES=0\n", encoding="utf-8")
    assert load_settings().llama.cuda_visible_devices == "0"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert load_settings().llama.cuda_visible_devices == ""


def test_prefixed_name_wins_over_exact_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLAMAHERD_MODEL__CTX_SIZE", "1024")
    monkeypatch.setenv("LLAMA_N_CTX", "2048")
    assert load_settings().model.ctx_size == 1024


@pytest.mark.parametrize("key", sorted(set(variable_names(Settings).values())))
def test_every_setting_has_a_variable(key: tuple[str, ...]) -> None:
    if key == ("config_path",):
        return
    assert variable_names(Settings)["LLAMAHERD_" + "__".join(key).upper()] == key


@pytest.mark.parametrize(
    "value", ["https://a.example,https://b.example:8443", '["https://a.example", "https://b.example:8443"]']
)
def test_origins_from_the_environment_are_a_json_list_or_separated_by_commas(
    value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLAMAHERD_CORS__ALLOWED_ORIGINS", value)
    assert load_settings().cors.allowed_origins == ["https://a.example", "https://b.example:8443"]


def test_every_list_can_be_a_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    for section, keys in sections_of(Settings).items():
        model: Any = Settings.model_fields[section].annotation
        for key in keys:
            if "list[" in str(model.model_fields[key].annotation):
                scheme = "http://" if section in {"cors", "hub"} else ""
                monkeypatch.setenv(f"LLAMAHERD_{section}__{key}".upper(), f"{scheme}10.0.0.1,{scheme}10.0.0.2")
    settings = load_settings()
    assert settings.server.allowed_hosts == ["10.0.0.1", "10.0.0.2"]
    assert settings.server.trusted_proxies == ["10.0.0.1/32", "10.0.0.2/32"]
    assert settings.cors.allowed_origins == ["http://10.0.0.1", "http://10.0.0.2"]
    assert settings.hub.mirrors == ["http://10.0.0.1", "http://10.0.0.2"]


def test_origins_that_are_no_json_list_are_a_mistake(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLAMAHERD_CORS__ALLOWED_ORIGINS", "[https://a.example")
    assert mistake().startswith("LLAMAHERD_CORS__ALLOWED_ORIGINS: not a JSON list: ")


def test_variables_of_other_programs_in_dotenv_are_left_alone() -> None:
    Path(".env").write_text('# comment\nexport OTHER="x y"\n\nMODEL_NAME=it\n', encoding="utf-8")
    assert load_settings().model.name == "it"


# paths


def test_paths_are_absolute_and_follow_the_data_folder() -> None:
    storage = load_settings({"storage": {"data_folder": "here", "keys_file": "~/k.json"}}).storage
    assert storage.data_folder == Path.cwd() / "here"
    assert storage.models_file == Path.cwd() / "here" / "models.json"
    assert storage.templates_folder == Path.cwd() / "here" / "templates"
    assert storage.models_folder == Path.cwd() / "here" / "models"
    assert storage.run_folder == Path.cwd() / "here" / "run"
    assert storage.keys_file == Path.home() / "k.json"


@pytest.mark.parametrize(("value", "folder"), [("/xdg", Path("/xdg")), ("", None), ("relative", None)])
def test_cache_folder_follows_xdg(value: str, folder: Path | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", value)
    assert load_settings().storage.cache_folder == (folder or Path.home() / ".cache") / "llamaherd"


# vision


def test_user_without_a_home_keeps_the_cache_in_the_data_folder(no_home: None) -> None:
    storage = load_settings({"storage": {"data_folder": "/srv/data"}}).storage
    assert storage.cache_folder == Path("/srv/data/cache")


@pytest.mark.parametrize("given", [{"storage": {"data_folder": "~/data"}}, {"config_path": "~/config.yml"}])
def test_tilde_of_a_user_without_a_home_is_a_mistake(no_home: None, given: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="its ~ means no folder here"):
        load_settings(given)


def test_vision_needs_path_and_projector_and_the_message_says_where_it_was_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MODEL_TYPE", "vl")
    monkeypatch.setenv("MODEL_PATH", "/m.gguf")
    assert mistake() == "MODEL_PATH, MODEL_TYPE: model: type VL needs both path and mmproj (MODEL_PATH, MMPROJ_PATH)"


def test_a_projector_without_a_type_means_vision() -> None:
    model = {"path": "/m.gguf", "mmproj": "/p.gguf"}
    assert load_settings({"model": model}).model.type == "VL"
    assert load_settings({"model": model | {"type": "LLM"}}).model.type == "LLM"


# mistakes


def test_unknown_yaml_keys_are_named_with_file_line_and_nearest_key(monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_yaml(monkeypatch, "sever:\n  port: 1\nserver:\n  prot: 1\n  zzzzz: 1\n")
    name = Path(path.name)
    assert mistake().splitlines() == [
        f"{name}, line 1: sever: unknown key; did you mean server?",
        f"{name}, line 4: server.prot: unknown key; did you mean server.port?",
        f"{name}, line 5: server.zzzzz: unknown key",
    ]


def test_config_path_is_no_key_of_the_yaml_file(monkeypatch: pytest.MonkeyPatch) -> None:
    write_yaml(monkeypatch, "config_path: other.yml")
    assert "config_path: unknown key" in mistake()


def test_unknown_variables_are_named_with_the_nearest_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLAMAHERD_SERVER__PROT", "1")
    assert mistake() == "LLAMAHERD_SERVER__PROT: unknown setting; did you mean LLAMAHERD_SERVER__PORT?"


def test_unknown_variables_in_dotenv_are_named_with_their_line() -> None:
    Path(".env").write_text("\n# comment\nLLAMAHERD_SERVER_PORT=1\n", encoding="utf-8")
    expected = ".env, line 3: LLAMAHERD_SERVER_PORT: unknown setting; did you mean LLAMAHERD_SERVER__PORT?"
    assert mistake() == expected


def test_unknown_names_of_all_places_are_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    write_yaml(monkeypatch, "sever: {}\n")
    Path(".env").write_text("LLAMAHERD_SERVER_PORT=1\n", encoding="utf-8")
    monkeypatch.setenv("LLAMAHERD_SERVER__PROT", "1")
    monkeypatch.setenv("LLAMAHERD_CORS__ALLOWED_ORIGINS", "[")
    places = [line.partition(":")[0] for line in mistake().splitlines()]
    variables = ["LLAMAHERD_CORS__ALLOWED_ORIGINS", "LLAMAHERD_SERVER__PROT"]
    assert sorted(places) == sorted([*variables, ".env, line 1", "config.yml, line 1"])


def test_a_dotenv_line_without_a_value_is_a_mistake_with_its_line() -> None:
    Path(".env").write_text("OTHER=1\n'unclosed=1\n", encoding="utf-8")
    assert mistake() == ".env, line 2: not of the form NAME=value"


def test_unknown_overrides_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    assert mistake({"server": {"prot": 1}}) == "command line: server.prot: unknown key; did you mean server.port?"
    assert mistake({"servr": {}}).startswith("command line: servr: unknown key; did you mean server?")


def test_wrong_values_are_named_with_the_origin_that_won(monkeypatch: pytest.MonkeyPatch) -> None:
    write_yaml(monkeypatch, "server:\n  port: 70000\n  log_level: loud\n")
    monkeypatch.setenv("LLAMAHERD_SERVER__PORT", "many")
    lines = mistake().splitlines()
    assert lines[0].startswith("LLAMAHERD_SERVER__PORT: server.port: should be a valid integer")
    assert lines[0].endswith("(got 'many')")
    assert lines[1].startswith("config.yml, line 3: server.log_level: should be 'debug', 'info'")
    assert len(lines) == 2


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        ("server", "port", 65536),
        ("server", "port", -1),
        ("server", "port", True),
        ("server", "host", ""),
        ("server", "host", 5),
        ("server", "log_level", "loud"),
        ("server", "drain_timeout", 0),
        ("server", "drain_timeout", float("nan")),
        ("server", "max_body", 0),
        ("server", "access_log", "perhaps"),
        ("limits", "load_timeout", 0),
        ("limits", "wait_timeout", -1),
        ("limits", "stream_heartbeat", "0"),
        ("limits", "stop_grace", float("inf")),
        ("limits", "queue", -1),
        ("limits", "hang_timeout", 0),
        ("memory", "host_budget", -1),
        ("memory", "gpu_reserve", "much"),
        ("memory", "admission", "perhaps"),
        ("scheduling", "policy", "random"),
        ("scheduling", "most_loaded", 0),
        ("scheduling", "batch_window", 0),
        ("scheduling", "linger", 0),
        ("scheduling", "home", " "),
        ("scheduling", "groups", {"g": {"models": [], "most": 1}}),
        ("scheduling", "groups", {"g": {"models": ["a"]}}),
        ("scheduling", "groups", {"g": {"models": ["a"], "most": 0}}),
        ("scheduling", "groups", {"g": {"models": ["a"], "least": 1, "most": 1}}),
        ("model", "type", "AUDIO"),
        ("model", "gpu_layers", -2),
        ("model", "batch_size", 0),
        ("model", "name", " "),
        ("storage", "data_folder", ""),
        ("storage", "models_file", "a\0b"),
        ("storage", "gguf_models_dir", 5),
        ("llama", "launcher", "docker"),
        ("llama", "log_level", "loud"),
        ("llama", "log_level", 6),
        ("cors", "allowed_origins", ["https://a.example/"]),
        ("cors", "allowed_origins", ["a.example"]),
        ("cors", "allowed_origins", "https://a.example"),
        ("generation", "default_temperature", -0.1),
        ("generation", "default_max_tokens", -2),
    ],
)
def test_values_that_make_no_sense_are_one_mistake(section: str, key: str, value: Any) -> None:
    message = mistake({section: {key: value}})
    assert message.startswith(f"command line: {section}.{key}")
    assert "\n" not in message


@pytest.mark.parametrize("value", ["info", "WARN", "3", 0, 5, "debug"])
def test_log_levels_of_llama_cpp_are_names_or_numbers(value: str | int) -> None:
    assert load_settings({"llama": {"log_level": value}}).llama.log_level is not None


def test_yaml_syntax_errors_give_line_and_column(monkeypatch: pytest.MonkeyPatch) -> None:
    write_yaml(monkeypatch, "server:\n  port: [1\n")
    assert re.match(r"config\.yml, line 3, column 1: not valid YAML: ", mistake())


@pytest.mark.parametrize(
    ("text", "end"),
    [
        ("server:\n  port: 1\n  port: 2\n", "config.yml, line 3: server.port: is there twice"),
        ("server: {port: 1}\nserver: {}\n", "config.yml, line 2: server: is there twice"),
        ("- server\n", "config.yml: must hold sections such as 'server:'"),
        ("server: 8000\n", "config.yml, line 1: server: must hold keys such as 'access_log:'"),
        (
            "server:\n  port: 2024-13-45\n",
            "config.yml, line 2: server.port: not a value that can be read: month must be in 1..12",
        ),
        ("server:\n  port: !!python/object 1\n", "could not determine a constructor for the tag"),
    ],
)
def test_yaml_that_means_nothing_is_a_mistake(text: str, end: str, monkeypatch: pytest.MonkeyPatch) -> None:
    write_yaml(monkeypatch, text)
    assert end in mistake()


@pytest.mark.parametrize("text", ["", "# nothing\n", "server:\ncors:\n", "\ufeffserver: {}\n"])
def test_empty_files_and_sections_are_fine(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    write_yaml(monkeypatch, text)
    assert load_settings().server.port == 8000


def test_a_config_path_that_does_not_exist_or_is_a_folder_is_a_mistake(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONFIG_PATH", "nowhere.yml")
    assert mistake().startswith("nowhere.yml: the configuration file (CONFIG_PATH) does not exist")
    monkeypatch.setenv("CONFIG_PATH", ".")
    assert "can't be read" in mistake()


def test_yaml_that_is_not_utf8_is_a_mistake(monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_yaml(monkeypatch, "")
    path.write_bytes(b"server: {host: \xff}")
    assert mistake().startswith("config.yml: can't be read: ")


# the example and the page


def example(*, everything: bool) -> str:
    text = (ROOT / "config" / "config.example.yml").read_text(encoding="utf-8")
    return re.sub(r"^  # (?=[a-z_]+: )", "  ", text, flags=re.MULTILINE) if everything else text


def test_the_example_says_the_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = load_settings()
    write_yaml(monkeypatch, example(everything=False))
    assert load_settings().model_dump(exclude={"config_path"}) == plain.model_dump(exclude={"config_path"})


def test_the_example_holds_every_setting_and_is_valid_with_all_of_them_on(monkeypatch: pytest.MonkeyPatch) -> None:
    text = example(everything=True)
    keys = {section: frozenset(values) for section, values in yaml.safe_load(text).items()}
    assert keys == sections_of(Settings)
    write_yaml(monkeypatch, text)
    assert load_settings().model.name == "my-model"


def test_the_page_lists_every_setting_and_every_variable() -> None:
    page = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
    rows = set(re.findall(r"^\| `([a-z_]+\.[a-z_]+)` \|", page, flags=re.MULTILINE))
    assert rows == {f"{section}.{key}" for section, keys in sections_of(Settings).items() for key in keys}
    assert [name for name in EXACT_NAMES if f"`{name}`" not in page] == []


def test_the_groups_of_the_page_are_valid_in_a_file_and_in_a_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    page = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"^```yaml\n(scheduling:.*?)^```", page, flags=re.MULTILINE | re.DOTALL)
    write_yaml(monkeypatch, block)
    groups = load_settings().scheduling.groups
    assert groups["large"] == Group(models=("llama-70b", "qwen-72b", "mixtral"), most=1)
    assert groups["whole-gpu"] == Group(models=("flux",), exclusive=True)
    (variable,) = re.findall(r"^`LLAMAHERD_SCHEDULING__GROUPS='(.*)'`", page, flags=re.MULTILINE)
    write_yaml(monkeypatch, "")
    monkeypatch.setenv("LLAMAHERD_SCHEDULING__GROUPS", variable)
    assert load_settings().scheduling.groups == {"large": Group(models=("llama-70b", "qwen-72b"), most=1)}


def test_every_setting_says_what_it_is_for() -> None:
    for section, keys in sections_of(Settings).items():
        model: Any = Settings.model_fields[section].annotation
        assert [key for key in keys if not model.model_fields[key].description] == []


def test_reading_settings_leaves_the_environment_as_it_was() -> None:
    before = dict(os.environ)
    load_settings()
    assert dict(os.environ) == before
