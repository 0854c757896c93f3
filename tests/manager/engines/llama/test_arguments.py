from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from manager.engines.llama import embedded
from manager.engines.llama.arguments import CTX_SIZE, LlamaArgs
from manager.engines.llama.options import CACHE_TYPES, OPTIONS, POOLING_TYPES, SPLIT_MODES
from manager.entry import LlamaParams, Lora, ModelEntry, Template
from manager.errors import ConfigError

xllamacpp: Any = import_module("xllamacpp")  # it has no types

SOCKET = Path("/run/a.sock")
BINARY = Path("/opt/llama-server")
# Fields that are not options of llama.cpp, or that the tests below look at by themselves.
NO_OPTION = {"model", "mmproj", "instruct", "extra_args"}
DERIVED = {"mlock": "load_mode", "mmap": "load_mode", "reranking": "pooling"}


def entry(template: Template | None = None, mmproj: Path | None = None, **params: Any) -> ModelEntry:
    return ModelEntry(
        "a model", Path("/models/m.gguf"), LlamaParams(model="m.gguf", **params), template=template, mmproj=mmproj
    )


def arguments(template: Template | None = None, **params: Any) -> LlamaArgs:
    return LlamaArgs.from_entry(entry(template, **params), socket=SOCKET)


def value_of(flag: str, args: LlamaArgs) -> str:
    argv = args.argv(BINARY)
    return argv[argv.index(flag) + 1]


def applied(args: LlamaArgs) -> Any:
    """The real CommonParams, as the embedded child makes them."""
    return embedded.apply(xllamacpp, json.loads(args.to_json()))


def test_every_field_of_an_entry_has_its_row() -> None:
    names = {option.name for option in OPTIONS}
    assert {DERIVED.get(field, field) for field in LlamaParams.model_fields if field not in NO_OPTION} <= names


def test_every_attribute_of_the_table_exists() -> None:
    params = xllamacpp.CommonParams()
    for option in OPTIONS:
        if option.attribute is not None and option.attribute != "chat_template_file":
            owner = params
            for part in option.attribute.split("."):
                owner = getattr(owner, part)


def test_key_is_in_neither_command_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLAMA_API_KEY", "a-secret")
    args = arguments()
    assert "a-secret" not in args.to_json()
    assert not any("a-secret" in text or "api-key" in text for text in args.argv(BINARY))


def test_every_child_listens_on_its_socket_under_its_name_without_a_web_page() -> None:
    args = arguments()
    argv = args.argv(BINARY)
    assert argv[:7] == [
        "/opt/llama-server", "--model", "/models/m.gguf", "--host", "/run/a.sock", "--alias", "a model",
    ]  # fmt: skip
    assert {"--metrics", "--slots", "--no-webui"} <= set(argv)
    params = applied(args)
    assert (params.model.path, params.hostnames, params.model_alias) == ("/models/m.gguf", ["/run/a.sock"], {"a model"})
    assert (params.endpoint_metrics, params.endpoint_slots, params.ui) == (True, True, False)


@pytest.mark.parametrize(
    ("field", "value", "flag", "text", "attribute", "expected"),
    [
        ("temperature", 0.25, "--temp", "0.25", "sampling.temp", 0.25),
        ("top_k", 7, "--top-k", "7", "sampling.top_k", 7),
        ("top_p", 0.5, "--top-p", "0.5", "sampling.top_p", 0.5),
        ("min_p", 0.125, "--min-p", "0.125", "sampling.min_p", 0.125),
        ("typical_p", 0.5, "--typical-p", "0.5", "sampling.typ_p", 0.5),
        ("repeat_penalty", 1.5, "--repeat-penalty", "1.5", "sampling.penalty_repeat", 1.5),
        ("repeat_last_n", 100, "--repeat-last-n", "100", "sampling.penalty_last_n", 100),
        ("presence_penalty", -0.5, "--presence-penalty", "-0.5", "sampling.penalty_present", -0.5),
        ("frequency_penalty", 0.5, "--frequency-penalty", "0.5", "sampling.penalty_freq", 0.5),
        ("seed", 42, "--seed", "42", "sampling.seed", 42),
        ("seed", -1, "--seed", "-1", "sampling.seed", xllamacpp.LLAMA_DEFAULT_SEED),
        ("n_predict", -1, "--n-predict", "-1", "n_predict", -1),
        ("gpu_layers", 12, "--gpu-layers", "12", "n_gpu_layers", 12),
        ("gpu_layers", -1, "--gpu-layers", "all", "n_gpu_layers", -2),
        ("main_gpu", 1, "--main-gpu", "1", "main_gpu", 1),
        ("threads", 3, "--threads", "3", "cpuparams.n_threads", 3),
        ("threads_batch", 5, "--threads-batch", "5", "cpuparams_batch.n_threads", 5),
        ("batch_size", 256, "--batch-size", "256", "n_batch", 256),
        ("ubatch_size", 128, "--ubatch-size", "128", "n_ubatch", 128),
        ("rope_freq_base", 5000.0, "--rope-freq-base", "5000.0", "rope_freq_base", 5000.0),
        ("rope_freq_scale", 0.5, "--rope-freq-scale", "0.5", "rope_freq_scale", 0.5),
        ("cache_ram_mib", 64, "--cache-ram", "64", "cache_ram_mib", 64),
        ("flash_attn", True, "--flash-attn", "on", "flash_attn_type", "LLAMA_FLASH_ATTN_TYPE_ENABLED"),
        ("flash_attn", "off", "--flash-attn", "off", "flash_attn_type", "LLAMA_FLASH_ATTN_TYPE_DISABLED"),
        ("flash_attn", "auto", "--flash-attn", "auto", "flash_attn_type", "LLAMA_FLASH_ATTN_TYPE_AUTO"),
        *(("cache_type_k", n, "--cache-type-k", n, "cache_type_k", m) for n, (_, m) in CACHE_TYPES.items()),
        *(("cache_type_v", n, "--cache-type-v", n, "cache_type_v", m) for n, (_, m) in CACHE_TYPES.items()),
        *(("split_mode", n, "--split-mode", n, "split_mode", m) for n, (_, m) in SPLIT_MODES.items()),
        *(("pooling", n, "--pooling", n, "pooling_type", m) for n, (_, m) in POOLING_TYPES.items()),
    ],
)
def test_an_option_says_the_same_to_both_launchers(
    field: str, value: Any, flag: str, text: str, attribute: str, expected: Any
) -> None:
    args = arguments(**{field: value})
    assert value_of(flag, args) == text
    found = applied(args)
    for part in attribute.split("."):
        found = getattr(found, part)
    if isinstance(expected, str):
        # A new CommonParams has an enum there; one that was set gives its number.
        kind = type(getattr(_default(attribute), attribute.split(".")[-1]))
        expected = kind[expected]
    assert found == expected


def _default(attribute: str) -> Any:
    owner = xllamacpp.CommonParams()
    for part in attribute.split(".")[:-1]:
        owner = getattr(owner, part)
    return owner


def test_what_an_entry_leaves_open_is_left_to_llama_cpp() -> None:
    flags = {text for text in arguments().argv(BINARY) if text.startswith("--")}
    assert flags == {
        "--model", "--host", "--alias", "--metrics", "--slots", "--no-webui", "--ctx-size", "--parallel",
        "--no-kv-unified", "--cache-ram", "--threads-http",
    }  # fmt: skip


def test_a_given_sampling_option_is_marked_so_that_the_model_file_can_not_replace_it() -> None:
    bits = xllamacpp.common_params_sampling_config
    given = applied(arguments(temperature=0.8, repeat_last_n=64)).sampling.user_sampling_config
    assert given == bits.COMMON_PARAMS_SAMPLING_CONFIG_TEMP | bits.COMMON_PARAMS_SAMPLING_CONFIG_PENALTY_LAST_N
    assert applied(arguments()).sampling.user_sampling_config == 0


def test_penalties_over_the_whole_context_become_its_size() -> None:
    assert value_of("--repeat-last-n", arguments(repeat_last_n=-1, ctx_size=2048)) == "2048"
    sampling = applied(arguments(repeat_last_n=-1, ctx_size=2048)).sampling
    assert (sampling.penalty_last_n, sampling.n_prev) == (2048, 2048)


@pytest.mark.parametrize(
    ("params", "total"),
    [
        ({"ctx_size": 1000, "parallel": 3, "kv_unified": False}, 3000),
        ({"ctx_size": 1000, "parallel": 3, "kv_unified": True}, 1000),
        ({"kv_unified": True}, CTX_SIZE),
        ({"kv_unified": False, "parallel": 2}, 2 * CTX_SIZE),
        ({"ctx_size": 0, "kv_unified": False}, 0),
    ],
)
def test_ctx_size_is_what_one_conversation_can_use(params: dict[str, Any], total: int) -> None:
    args = arguments(**params)
    assert value_of("--ctx-size", args) == str(total)
    made = applied(args)
    assert (made.n_ctx, made.kv_unified) == (total, params["kv_unified"])
    assert ("--kv-unified" if params["kv_unified"] else "--no-kv-unified") in args.argv(BINARY)


def test_threads_of_zero_or_less_are_left_to_llama_cpp() -> None:
    for threads in (0, -1):
        assert "--threads" not in arguments(threads=threads).argv(BINARY)
        assert applied(arguments(threads=threads)).cpuparams.n_threads == -1


def test_prompts_are_read_with_as_many_threads_as_answers_are_written() -> None:
    for batch in (None, 0, -1):
        args = arguments(threads=3, threads_batch=batch)
        assert value_of("--threads-batch", args) == "3"
        assert applied(args).cpuparams_batch.n_threads == 3


@pytest.mark.parametrize(
    ("mlock", "mmap", "mode"),
    [
        (True, None, "mmap+mlock"),
        (True, True, "mmap+mlock"),
        (True, False, "mlock"),
        (None, False, "none"),
        (False, True, "mmap"),
    ],
)
def test_mlock_and_mmap_make_one_load_mode(mlock: bool | None, mmap: bool | None, mode: str) -> None:
    args = arguments(mlock=mlock, mmap=mmap)
    assert value_of("--load-mode", args) == mode
    name = "LLAMA_LOAD_MODE_" + mode.upper().replace("+", "_")
    assert applied(args).load_mode == xllamacpp.llama_load_mode[name]


def test_without_a_prompt_cache_idle_slots_are_not_saved() -> None:
    args = arguments(cache_ram_mib=0)
    assert "--no-cache-idle-slots" in args.argv(BINARY)
    assert applied(args).cache_idle_slots is False


def test_reranking_is_embedding_with_rank_pooling() -> None:
    args = arguments(reranking=True)
    assert "--embedding" in args.argv(BINARY)
    assert value_of("--pooling", args) == "rank"
    assert applied(args).embedding is True


def test_tensor_split_fills_the_rest_with_nothing() -> None:
    args = arguments(tensor_split=[3, 1.5])
    assert value_of("--tensor-split", args) == "3.0,1.5"
    split = applied(args).tensor_split
    assert split[:2] == [3.0, 1.5]
    assert not any(split[2:])


def test_adapters_keep_their_scales() -> None:
    args = arguments(lora=(Lora(path="/a.gguf"), Lora(path='/b, "c".gguf', scale=0.5)))
    assert value_of("--lora-scaled", args) == '"/a.gguf:1.0","/b, ""c"".gguf:0.5"'
    assert [(lora.path, lora.scale) for lora in applied(args).lora_adapters] == [
        ("/a.gguf", 1.0),
        ('/b, "c".gguf', 0.5),
    ]


def test_a_draft_model_is_named_to_both_with_the_way_to_use_it() -> None:
    args = arguments(draft_model="/d.gguf", draft_max=8, draft_min=2, draft_gpu_layers=-1)
    assert [value_of(f"--spec-draft-{name}", args) for name in ("model", "n-max", "n-min", "ngl")] == [
        "/d.gguf", "8", "2", "all",
    ]  # fmt: skip
    assert value_of("--spec-type", args) == "draft-simple"
    speculative = applied(args).speculative
    draft = speculative.draft
    assert (draft.mparams.path, draft.n_max, draft.n_min, draft.n_gpu_layers) == ("/d.gguf", 8, 2, -2)
    assert speculative.types == [xllamacpp.common_speculative_type.COMMON_SPECULATIVE_TYPE_DRAFT_SIMPLE]
    assert applied(arguments(draft_model="/d.gguf", draft_gpu_layers=3)).speculative.draft.n_gpu_layers == 3


def test_draft_options_without_a_draft_model_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"params\.draft_max, params\.draft_gpu_layers: .*params\.draft_model"):
        arguments(draft_max=8, draft_gpu_layers=0)


def test_a_vision_projector_is_named_to_both() -> None:
    args = LlamaArgs.from_entry(entry(mmproj=Path("/models/mmproj.gguf")), socket=SOCKET)
    assert value_of("--mmproj", args) == "/models/mmproj.gguf"
    assert applied(args).mmproj.path == "/models/mmproj.gguf"


@pytest.mark.parametrize(("level", "number"), [("error", 1), ("info", 3), ("debug", 5), (0, 0), (4, 4)])
def test_log_level_is_a_word_or_llama_cpps_number(level: str | int, number: int) -> None:
    args = LlamaArgs.from_entry(entry(), socket=SOCKET, log_level=level)
    assert value_of("--verbosity", args) == str(number)
    assert applied(args).verbosity == number


def test_a_template_file_is_read_as_jinja(tmp_path: Path) -> None:
    file = tmp_path / "t.jinja"
    file.write_text("{{ 'ä' }}", encoding="utf-8")
    args = arguments(Template(file=file))
    assert value_of("--chat-template-file", args) == str(file)
    assert "--jinja" in args.argv(BINARY)
    made = applied(args)
    assert (made.chat_template, made.use_jinja) == ("{{ 'ä' }}", True)


def test_a_built_in_template_switches_jinja_off_because_its_name_would_be_taken_for_text() -> None:
    args = arguments(Template(builtin="zephyr"))
    assert value_of("--chat-template", args) == "zephyr"
    assert "--no-jinja" in args.argv(BINARY)
    assert applied(args).use_jinja is False


def test_chatml_keeps_jinja_and_with_it_tools() -> None:
    args = arguments(Template(builtin="chatml"))
    assert "--jinja" in args.argv(BINARY)
    assert applied(args).use_jinja is True


@pytest.mark.parametrize(
    ("params", "named"),
    [
        ({"device": "CUDA0"}, "params.device"),
        ({"extra_args": ["--swa-full"]}, "params.extra_args"),
    ],
)
def test_what_embedded_can_not_honour_is_refused_by_name(params: dict[str, Any], named: str) -> None:
    args = arguments(**params)
    with pytest.raises(ConfigError, match=named):
        args.check_embedded()
    with pytest.raises(ConfigError, match=named):
        args.to_json()


def test_native_gets_devices_and_extra_arguments_last() -> None:
    argv = arguments(device="CUDA0", extra_args=["--swa-full"]).argv(BINARY)
    assert argv[argv.index("--device") + 1] == "CUDA0"
    assert argv[-1] == "--swa-full"


def test_what_llama_cpp_can_not_be_told_is_refused() -> None:
    with pytest.raises(ConfigError, match="comma"):
        LlamaArgs.from_entry(entry(), socket=Path("/a,b/c.sock"))
    with pytest.raises(ConfigError, match="comma"):
        LlamaArgs.from_entry(ModelEntry("a,b", Path("/m.gguf"), LlamaParams(model="m")), socket=SOCKET)
    with pytest.raises(ConfigError, match=r"params\.lora"):
        arguments(lora=(Lora(path="/c:/a.gguf"),))
    with pytest.raises(ConfigError, match=r"params\.jinja"):
        arguments(Template(builtin="zephyr"), jinja=True)
