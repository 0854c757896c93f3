"""models.json as it is written: spellings, types, and how mistakes are worded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic.alias_generators import to_camel

from manager.catalog import load_catalog
from manager.entry import HfParams, LlamaParams, Lora
from manager.errors import ConfigError
from manager.models_file import FileEntry, HfFileEntry, LlamaFileEntry, read_models_file
from manager.models_schema import schema
from tests.conftest import EMPTY_GGUF, MakeSettings

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "data" / "models.example.json"


def read(tmp_path: Path, data: Any) -> dict[str, FileEntry]:
    path = tmp_path / "models.json"
    path.write_text(data if isinstance(data, str) else json.dumps(data), encoding="utf-8")
    return read_models_file(path)


def mistakes(tmp_path: Path, data: Any) -> list[str]:
    """The lines of the error, each without the file's path that all of them begin with."""
    with pytest.raises(ConfigError) as caught:
        read(tmp_path, data)
    start = str(tmp_path / "models.json")
    lines = caught.value.message.splitlines()
    assert all(line.startswith(start) for line in lines)
    return [line.removeprefix(start).removeprefix(": ") for line in lines]


def llama(tmp_path: Path, data: Any) -> LlamaParams:
    """The parameters of the entry m."""
    params = read(tmp_path, data)["m"].params
    assert isinstance(params, LlamaParams)
    return params


def hf(tmp_path: Path, **params: Any) -> HfParams:
    found = read(tmp_path, {"m": {"engine": "hf", **entry(**params)["m"]}})["m"]
    assert isinstance(found.params, HfParams)
    return found.params


def entry(**params: Any) -> dict[str, Any]:
    return {"m": {"params": {"model": "m.gguf", **params}}}


def test_the_form_of_the_original_is_read(tmp_path: Path) -> None:
    found = read_models_file(EXAMPLE)["Mistral-7b"]
    params = found.params
    assert isinstance(params, LlamaParams)
    assert params.model.endswith("GGUF\\mistral-7b-instruct-v0.2.Q4_K_M.gguf")
    assert (params.instruct, params.temperature, params.gpu_layers, params.threads) == (True, 0.7, 80, 12)
    assert (params.ctx_size, params.repeat_penalty, params.seed, params.n_predict) == (4096, 1.1, 42, -1)
    assert found.template == "zephyr"
    assert found.personalities["geography teacher"].startswith("You will introduce yourself")


def test_the_example_has_a_model_of_each_engine_and_kind() -> None:
    entries = read_models_file(EXAMPLE)
    folder = entries["SmolLM2-1.7B"].params
    assert isinstance(folder, HfParams)
    assert (folder.parallel, folder.dtype, folder.device_map) == (8, "bfloat16", "auto")
    assert {entry.engine for entry in entries.values()} == {"llama", "hf"}
    assert any(isinstance(entry.params, LlamaParams) and entry.params.mmproj for entry in entries.values())
    assert any(entry.params.embedding for entry in entries.values())
    assert any(entry.profiles and entry.request.filter() for entry in entries.values())


def test_no_file_means_no_models(tmp_path: Path) -> None:
    assert read_models_file(tmp_path / "models.json") == {}


def test_entries_keep_the_order_of_the_file(tmp_path: Path) -> None:
    names = ["b", "a", "C", "1"]
    assert list(read(tmp_path, {name: entry()["m"] for name in names})) == names


@pytest.mark.parametrize("name", [name for name in LlamaParams.model_fields if to_camel(name) != name])
def test_every_key_may_be_camel_case_or_snake_case(name: str, tmp_path: Path) -> None:
    examples: dict[str, Any] = {"cache_type_k": "f16", "cache_type_v": "f16", "flash_attn": "on", "split_mode": "row"}
    examples |= {"tensor_split": [1], "extra_args": ["-v"], "kv_unified": False, "context_shift": True}
    examples |= {"draft_model": "draft.gguf"}
    value = examples.get(name, 1)
    camel = read(tmp_path, entry(**{to_camel(name): value}))["m"].params
    snake = read(tmp_path, entry(**{name: value}))["m"].params
    assert camel == snake
    assert name in snake.model_fields_set


def test_lists_and_short_forms(tmp_path: Path) -> None:
    params = llama(tmp_path, entry(lora="a.gguf", flashAttn=False, tensorSplit=[3, 1]))
    assert params.lora == (Lora(path="a.gguf"),)
    assert params.flash_attn == "off"
    assert params.tensor_split == (3.0, 1.0)
    params = llama(tmp_path, entry(lora=["a.gguf", {"path": "b.gguf", "scale": 0.5}]))
    assert params.lora == (Lora(path="a.gguf"), Lora(path="b.gguf", scale=0.5))


@pytest.mark.parametrize("name", [name for name in HfParams.model_fields if to_camel(name) != name])
def test_every_key_of_an_hf_entry_may_be_camel_case_or_snake_case(name: str, tmp_path: Path) -> None:
    examples: dict[str, Any] = {"device_map": "cpu", "attn_implementation": "eager"}
    value = examples.get(name, True if HfParams.model_fields[name].annotation is bool else 1)
    camel, snake = hf(tmp_path, **{to_camel(name): value}), hf(tmp_path, **{name: value})
    assert camel == snake
    assert name in snake.model_fields_set


def test_an_hf_entry_says_how_its_folder_is_loaded(tmp_path: Path) -> None:
    quantization = {"quant_method": "bitsandbytes", "loadIn4bit": True}
    params = hf(tmp_path, deviceMap={"": "cuda:0", "lm_head": "cpu"}, dtype="bfloat16", quantization=quantization)
    assert params.device_map == {"": "cuda:0", "lm_head": "cpu"}
    assert (params.dtype, params.quantization) == ("bfloat16", quantization)
    assert (params.parallel, params.trust_remote_code, params.allow_pickle) == (16, False, False)


@pytest.mark.parametrize(
    ("params", "place"),
    [
        ({"dtype": "int8"}, "dtype: should be 'auto', 'float32', 'float16' or 'bfloat16'"),
        ({"pooling": "rank"}, "pooling: should be 'mean', 'cls' or 'last'"),
        ({"cacheTokens": 0}, "cacheTokens: should be greater than or equal to 1"),
        ({"deviceMap": 0}, "deviceMap: should be a name such as auto or cpu, or an object"),
        ({"deviceMap": {}}, "deviceMap: should be a name"),
        ({"deviceMap": {"": True}}, "deviceMap: should be a name"),
        ({"quantization": "4bit"}, "quantization: must be an object"),
        ({"trustRemoteCode": "yes"}, "trustRemoteCode: should be a valid boolean"),
    ],
)
def test_values_of_an_hf_entry_that_make_no_sense_are_named(params: dict[str, Any], place: str, tmp_path: Path) -> None:
    data = entry(**params)
    data["m"]["engine"] = "hf"
    (line,) = mistakes(tmp_path, data)
    assert line.startswith(f"m.params.{place}")


def test_params_are_frozen_and_can_be_compared(tmp_path: Path) -> None:
    one, other = (read(tmp_path, entry(lora=["a.gguf"]))["m"].params for _ in range(2))
    assert one == other
    assert hash(one) == hash(other)
    with pytest.raises(ValueError, match="frozen"):
        one.seed = 1


def test_unknown_keys_are_named_with_the_nearest_in_the_same_spelling(tmp_path: Path) -> None:
    data = entry(gpuLayer=1, gpu_layer=1, zzz=1)
    data["m"]["personality"] = {}
    assert mistakes(tmp_path, data) == [
        "m.personality: unknown key; did you mean personalities?",
        "m.params.gpuLayer: unknown key; did you mean gpuLayers?",
        "m.params.gpu_layer: unknown key; did you mean gpu_layers?",
        "m.params.zzz: unknown key",
    ]


def test_a_key_of_the_other_engine_is_named_as_such(tmp_path: Path) -> None:
    data = entry(gpuLayers=1, kv_unified=True, dtyp="auto") | {"n": entry(deviceMap="cpu", allow_pickle=True)["m"]}
    data["m"]["engine"] = "hf"
    assert mistakes(tmp_path, data) == [
        "m.params.gpuLayers: is for GGUF models only",
        "m.params.kv_unified: is for GGUF models only",
        "m.params.dtyp: unknown key; did you mean dtype?",
        "n.params.deviceMap: is for models of the engine hf only",
        "n.params.allow_pickle: is for models of the engine hf only",
    ]


def test_wrong_types_are_named_with_their_place_as_the_file_spells_it(tmp_path: Path) -> None:
    data = {"Mistral-7b": {"params": {"model": "m", "gpuLayers": "80", "ctx_size": 1.5, "instruct": "yes"}}}
    assert mistakes(tmp_path, data) == [
        "Mistral-7b.params.instruct: should be a valid boolean (got 'yes')",
        "Mistral-7b.params.ctx_size: should be a valid integer (got 1.5)",
        "Mistral-7b.params.gpuLayers: should be a valid integer (got '80')",
    ]


@pytest.mark.parametrize(
    ("params", "place"),
    [
        ({"temperature": -1}, "temperature: should be greater than or equal to 0"),
        ({"topP": 2}, "topP: should be less than or equal to 1"),
        ({"gpuLayers": True}, "gpuLayers: should be a valid integer"),
        ({"seed": 2**32}, "seed: should be less than"),
        ({"parallel": 0}, "parallel: should be greater than or equal to 1"),
        ({"cacheTypeK": "q3"}, "cacheTypeK: should be 'f32', 'f16'"),
        ({"splitMode": "rows"}, "splitMode: should be 'none', 'layer'"),
        ({"flashAttn": "yes"}, "flashAttn: should be 'on', 'off' or 'auto'"),
        ({"extraArgs": "-v"}, "extraArgs: must be a list"),
        ({"extraArgs": [1]}, "extraArgs.0: should be a valid string"),
        ({"tensorSplit": [-1]}, "tensorSplit.0: should be greater than or equal to 0"),
        ({"lora": [{"scale": 1}]}, "lora"),
        ({"lora": 5}, "lora"),
        ({"lora": [{"path": "a", "weight": 1}]}, "lora"),
        ({"mmproj": ""}, "mmproj: string should have at least 1 character"),
    ],
)
def test_values_that_make_no_sense_are_named(params: dict[str, Any], place: str, tmp_path: Path) -> None:
    (line,) = mistakes(tmp_path, entry(**params))
    assert line.startswith(f"m.params.{place}")


@pytest.mark.parametrize(
    ("data", "line"),
    [
        ({"m": {}}, "m.params: is missing"),
        ({"m": {"params": {}}}, "m.params.model: is missing"),
        ({"m": {"params": None}}, "m.params: must be an object (got None)"),
        ({"m": "m.gguf"}, "m: must be an object, not 'm.gguf'"),
        ([], "must be an object with an entry for each model"),
        ({"": {"params": {"model": "m"}}}, "'': a model name must not be empty"),
        ({"/m": {"params": {"model": "m"}}}, "'/m': a model name must not begin with '/'"),
        ({"a\nb": {"params": {"model": "m"}}}, "'a\\nb': a model name must not contain control characters"),
        ({"m": {"params": {"model": "m"}, "aliases": [""]}}, "m.aliases: '': an alias must not be empty"),
        ({"m": {"params": {"model": "m"}, "aliases": "x"}}, "m.aliases: must be a list (got 'x')"),
        (
            {"m": {"params": {"model": "m"}, "personalities": {"a:b": ""}}},
            "m.personalities: 'a:b': a personality's name must not contain ':'",
        ),
        ({"m": {"params": {"model": "m"}, "personalities": {"a": 1}}}, "m.personalities.a: should be a valid string"),
        (
            {"m": {"params": {"model": "m"}, "engine": "lama"}},
            "m.engine: there is no engine 'lama'; did you mean llama?",
        ),
        ({"m": {"params": {"model": "m"}, "engine": None}}, "m.engine: there is no engine None"),
        ({"a, b": {"params": {"model": "m"}}}, "'a, b': a model name must not contain a comma"),
        ({"m": {"params": {"model": "m"}, "aliases": ["a,b"]}}, "m.aliases: 'a,b': an alias must not contain a comma"),
    ],
)
def test_entries_that_can_not_be_meant(data: Any, line: str, tmp_path: Path) -> None:
    assert mistakes(tmp_path, data)[0].startswith(line)


def test_a_personality_may_have_a_comma_in_its_name(tmp_path: Path) -> None:
    data = {"m": {"params": {"model": "m"}, "personalities": {"teacher, of geography": "Teach."}}}
    assert list(read(tmp_path, data)["m"].personalities) == ["teacher, of geography"]


@pytest.mark.parametrize(
    "argument",
    ["--host", "--port", "--api-key", "--api-key-file", "--alias", "-a", "--api_key", "--host=0.0.0.0", "--api-prefix"],
)
@pytest.mark.parametrize("key", ["extraArgs", "extra_args"])
def test_arguments_that_would_take_the_engine_off_its_socket_are_refused(
    argument: str, key: str, tmp_path: Path
) -> None:
    assert mistakes(tmp_path, entry(**{key: ["-v", argument, "x"]})) == [
        f"m.params.{key}.1: '{argument}' is for the service to say and can't be given here"
    ]


def test_only_engines_that_this_version_can_list_are_accepted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    installed = tmp_path / "packages" / "plugin-1.dist-info"
    installed.mkdir(parents=True)
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: plugin\nVersion: 1\n")
    (installed / "entry_points.txt").write_text("[llamaherd.engines]\nvllm = plugin:Engine\n")
    monkeypatch.syspath_prepend(installed.parent)
    for engine in ("llama", "hf"):
        assert read(tmp_path, {"m": {"params": {"model": "m"}, "engine": engine}})["m"].engine == engine
    (line,) = mistakes(tmp_path, {"m": {"params": {"model": "m"}, "engine": "vllm"}})
    assert line.startswith("m.engine: there is no engine 'vllm'")


def test_a_found_file_with_a_comma_in_its_name_is_skipped(
    make_settings: MakeSettings, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "found"
    folder.mkdir()
    for name in ("a,b.gguf", "c.gguf"):
        (folder / name).write_bytes(EMPTY_GGUF)
    catalog = load_catalog(make_settings(storage={"gguf_models_dir": folder}))
    assert catalog.names == ("c",)
    assert "must not contain a comma" in caplog.text


def test_keys_that_are_there_twice_are_named(tmp_path: Path) -> None:
    text = '{"m": {"params": {"model": "a", "model": "b"}}, "m": {"params": {"model": "a", "model": "b"}}}'
    assert mistakes(tmp_path, text) == ["m: is there twice", "m.params.model: is there twice"]
    assert mistakes(tmp_path, entry(gpuLayers=1, gpu_layers=1)) == [
        "m.params.gpu_layers: is there twice, also as gpuLayers"
    ]


def test_syntax_errors_give_line_and_column(tmp_path: Path) -> None:
    text = '{\n  "m": {\n    "params": {"model": "m",}\n  }\n}\n'
    (line,) = mistakes(tmp_path, text)
    assert line.startswith(", line 3, column ")
    assert "not valid JSON: " in line


@pytest.mark.parametrize("text", ["", "{", "nul", "{'m': 1}", '{"m": NaN}', '{"m": -Infinity}', "[" * 100_000])
def test_what_is_no_json_is_a_mistake(text: str, tmp_path: Path) -> None:
    assert len(mistakes(tmp_path, text)) == 1


def test_text_that_no_client_could_be_sent_is_a_mistake(tmp_path: Path) -> None:
    text = '{"m\\ud800": {"params": {"model": "m"}}, "n": {"params": {"model": "n"}, "description": "\\udfff"}}'
    lines = mistakes(tmp_path, text)
    assert any("'m\\ud800': the name has half of a character" in line for line in lines)
    assert "n.description: the text has half of a character (\\ud800 to \\udfff)" in lines


def test_files_that_can_not_be_read_are_a_mistake(tmp_path: Path) -> None:
    path = tmp_path / "models.json"
    path.write_bytes(b'{"\xff": 1}')
    with pytest.raises(ConfigError, match="not UTF-8 at byte 2"):
        read_models_file(path)
    path.unlink()
    path.mkdir()
    with pytest.raises(ConfigError, match="can't be read"):
        read_models_file(path)


def test_a_byte_order_mark_and_a_schema_key_are_no_entries(tmp_path: Path) -> None:
    assert list(read(tmp_path, "\ufeff" + json.dumps({"$schema": "./models.schema.json", **entry()}))) == ["m"]


# the schema


def test_the_schema_file_is_the_one_of_the_code() -> None:
    stored = json.loads((ROOT / "data" / "models.schema.json").read_text(encoding="utf-8"))
    assert stored == json.loads(json.dumps(schema())), "python -m manager.models_schema > data/models.schema.json"


def test_the_schema_knows_every_key_in_both_spellings() -> None:
    definitions = schema()["$defs"]
    for model in (LlamaParams, HfParams, LlamaFileEntry, HfFileEntry):
        expected = {spelling for field in model.model_fields for spelling in (field, to_camel(field))}
        assert definitions[model.__name__]["properties"].keys() == expected
        assert definitions[model.__name__]["additionalProperties"] is False


def test_the_schema_takes_the_keys_of_the_engine_that_an_entry_names() -> None:
    choice, definitions = schema()["additionalProperties"], schema()["$defs"]
    assert choice["if"] == {"properties": {"engine": {"const": "hf"}}, "required": ["engine"]}
    others = choice["else"]
    assert others["if"] == {"properties": {"engine": {"const": "llama"}}}  # also where it names none
    for branch, params in ((choice["then"], "HfParams"), (others["then"], "LlamaParams")):
        entry = definitions[branch["$ref"].removeprefix("#/$defs/")]
        assert entry["properties"]["params"]["$ref"] == f"#/$defs/{params}"
    own = definitions[others["else"]["$ref"].removeprefix("#/$defs/")]
    assert own["properties"].keys() == definitions["LlamaFileEntry"]["properties"].keys()
    assert (own["properties"]["params"]["type"], own["required"]) == ("object", ["params", "engine"])


def test_the_schema_says_what_each_key_means() -> None:
    definitions = schema()["$defs"]
    for model in (LlamaParams, HfParams, LlamaFileEntry, HfFileEntry):
        properties = definitions[model.__name__]["properties"]
        assert [name for name, value in properties.items() if not value.get("description")] == []


def test_the_page_lists_every_key() -> None:
    page = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
    keys = [*LlamaParams.model_fields, *HfParams.model_fields, *FileEntry.model_fields]
    assert [key for key in keys if f"`{key}`" not in page] == []


# request and profiles


def variants(tmp_path: Path, **keys: Any) -> list[str]:
    """The mistakes of an entry with these keys, without its name."""
    keys.setdefault("personalities", {"poet": "Rhyme."})
    return [line.removeprefix("m.") for line in mistakes(tmp_path, {"m": {"params": {"model": "m"}, **keys}})]


def test_filters_of_requests_are_read_as_they_stand(tmp_path: Path) -> None:
    request = {"set": {"temperature": 0, "lora": [{"id": 0}]}, "default": {"stop": ["x"]}, "strip": ["seed", "tools"]}
    found = read(tmp_path, {"m": {**entry()["m"], "request": request, "profiles": {"bold": {}}}})["m"]
    assert found.request.filter().as_dict() == request
    bold = found.profiles["bold"]
    assert (bold.description, bold.personality, bold.listed) == (None, None, True)


@pytest.mark.parametrize("part", ["set", "default"])
@pytest.mark.parametrize(
    ("fields", "mistake"),
    [
        ({"temperature": "hot"}, "temperature: should be a valid number (got 'hot')"),
        ({"temperature": -1}, "temperature: should be greater than or equal to 0 (got -1)"),
        ({"temperature": None}, "temperature: must have a value; what is to be left out is named in strip"),
        ({"seed": True}, "seed: should be a valid integer (got True)"),
        ({"stop": [1]}, "stop: should be a string or a list of strings"),
        ({"n": 2}, "n: should be less than or equal to 1 (got 2)"),
        ({"tool_choice": 1}, "tool_choice: should be a string or an object (got 1)"),
        ({"chat_template_kwargs": []}, "chat_template_kwargs: must be an object (got [])"),
        ({"reasoning_format": "deep"}, "reasoning_format: should be 'none', 'auto', 'deepseek' or 'deepseek-legacy'"),
        ({"model": "other"}, "model: is for clients to say"),
        ({"personality": "poet"}, "personality: is for clients to say"),
        ({"messages": []}, "messages: is for clients to say"),
        ({"stream": True}, "stream: is for clients to say"),
        ({"tools": []}, "tools: is for clients to say"),
        ({"topP": 0.5}, "topP: is no field of requests; did you mean top_p?"),
        ({"max_tokens": 5, "n_predict": 6}, "n_predict: is another name of max_tokens"),
        ({"dry_base": None}, "dry_base: must have a value; what is to be left out is named in strip"),
        ({"big": 2**64}, "big: is a number of more than 64 bits"),
    ],
)
def test_values_that_no_request_may_have_are_named(
    part: str, fields: dict[str, Any], mistake: str, tmp_path: Path
) -> None:
    (line,) = variants(tmp_path, request={part: fields})
    assert line.startswith(f"request.{part}.{mistake}")
    (line,) = variants(tmp_path, profiles={"bold": {"request": {part: fields}}})
    assert line.startswith(f"profiles.bold.request.{part}.{mistake}")


@pytest.mark.parametrize(
    ("keys", "line"),
    [
        ({"request": {"strip": ["seed", "input"]}}, "request.strip.1: 'input' is for clients to say"),
        ({"request": {"strip": ["maxTokens"]}}, "request.strip.0: 'maxTokens' is no field of requests; did you mean"),
        ({"request": {"strip": "seed"}}, "request.strip: must be a list (got 'seed')"),
        ({"request": {"sett": {}}}, "request.sett: unknown key"),
        ({"request": []}, "request: must be an object (got [])"),
        ({"profiles": {"bold": {"params": {}}}}, "profiles.bold.params: unknown key"),
        ({"profiles": {"bold": {"listed": 1}}}, "profiles.bold.listed: should be a valid boolean"),
        ({"profiles": {"bold": None}}, "profiles.bold: must be an object (got None)"),
        ({"profiles": {"a:b": {}}}, "profiles: 'a:b': a profile's name must not contain ':'"),
        ({"profiles": {"": {}}}, "profiles: '': a profile's name must not be empty"),
        ({"profiles": {"poet": {}}}, "profiles.poet: is the name of a personality too"),
        (
            {"profiles": {"bold": {"personality": "poets"}}},
            "profiles.bold.personality: there is no personality 'poets'; did you mean poet?",
        ),
    ],
)
def test_filters_and_profiles_that_can_not_be_meant(keys: dict[str, Any], line: str, tmp_path: Path) -> None:
    (found,) = variants(tmp_path, **keys)
    assert found.startswith(line)
