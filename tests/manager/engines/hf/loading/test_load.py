"""A folder becomes a model of its kind, or an error that names the file; no hub is asked, nothing stays behind."""

from __future__ import annotations

import gc
import itertools
import json
import logging
import shutil
import socket
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NoReturn

import huggingface_hub
import pytest
import torch
import transformers
from transformers import AutoModelForCausalLM, PreTrainedModel

from manager.engines.hf.loading import folder as files
from manager.engines.hf.loading.load import LoadedModel, failure_of, load
from manager.engines.hf.runtime import bring_in
from manager.entry import ModelEntry, Template
from manager.errors import HerdError, InsufficientMemory, LoadAborted, LoadFailed
from manager.params import HfParams
from tests.hf_models import CHATML

Change = Callable[..., Path]


@pytest.fixture(scope="module", autouse=True)
def _libraries() -> None:
    bring_in()


@pytest.fixture
def folder(tiny_text_folder: Path, tmp_path: Path) -> Path:
    """A copy of the chat model, to be spoiled."""
    return Path(shutil.copytree(tiny_text_folder, tmp_path / "tiny"))


def entry_of(folder: Path, *, template: Template | None = None, **params: Any) -> ModelEntry:
    fields = HfParams(model=str(folder), **params)
    return ModelEntry(name="tiny", path=folder, params=fields, engine="hf", template=template)


def loaded_from(folder: Path, **params: Any) -> LoadedModel:
    return load(entry_of(folder, **params), lambda _: None)


def change(path: Path, **fields: Any) -> None:
    """Set fields of a JSON file; None takes one out."""
    content = json.loads(path.read_bytes()) if path.exists() else {}
    content.update(fields)
    path.write_text(json.dumps({name: value for name, value in content.items() if value is not None}))


def test_chat_model_comes_with_all_that_its_folder_says(tiny_text_folder: Path) -> None:
    loaded = loaded_from(tiny_text_folder)
    assert (loaded.kind, loaded.processor, loaded.recipe) == ("text", None, None)
    assert type(loaded.model).__name__ == "LlamaForCausalLM"
    assert loaded.model.config._attn_implementation == "herd"
    assert loaded.template == loaded.tokenizer.chat_template == CHATML
    assert loaded.window == 4096
    assert loaded.vocabulary == loaded.model.lm_head.weight.shape[0] > len(loaded.tokenizer)
    assert loaded.ends == {0, 2}
    assert loaded.defaults == {}
    assert loaded.device == torch.device("cpu")


def test_model_neither_trains_nor_keeps_gradients(tiny_text_folder: Path) -> None:
    model = loaded_from(tiny_text_folder).model
    assert not any(module.training for module in model.modules())
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_weights_are_those_of_the_file(tiny_text_folder: Path) -> None:
    expected = AutoModelForCausalLM.from_pretrained(tiny_text_folder).state_dict()
    got = loaded_from(tiny_text_folder).model.state_dict()
    assert got.keys() == expected.keys()
    assert all(torch.equal(got[name], expected[name]) for name in expected)


def test_progress_goes_from_nothing_to_all_by_bytes(tiny_text_folder: Path) -> None:
    seen: list[float] = []
    load(entry_of(tiny_text_folder), seen.append)
    assert seen[0] == 0.0
    assert seen[-1] == 1.0
    assert seen == sorted(seen)
    # The embedding is a fifth of the file's bytes, and it is one tensor of twenty.
    assert max(after - before for before, after in itertools.pairwise(seen)) > 0.15


def test_of_two_loads_one_waits_and_each_tells_of_itself(tiny_text_folder: Path, tiny_encoder_folder: Path) -> None:
    inside, go, waits = threading.Event(), threading.Event(), threading.Event()
    first: list[float] = []
    second: list[float] = []

    def hold(part: float) -> None:
        first.append(part)
        if part > 0:
            inside.set()
            assert go.wait(10)

    def note(part: float) -> None:
        second.append(part)
        if len(second) > 1:
            waits.set()

    dtype = torch.get_default_dtype()
    with ThreadPoolExecutor() as pool:
        text = pool.submit(load, entry_of(tiny_text_folder, dtype="bfloat16"), hold)
        assert inside.wait(10)
        encoder = pool.submit(load, entry_of(tiny_encoder_folder), note)
        assert waits.wait(10)
        assert set(second) == {0.0}
        go.set()
        model = text.result(10).model
        assert encoder.result(10).kind == "encoder"
    assert first[-1] == second[-1] == 1.0
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert torch.get_default_dtype() == dtype


def test_a_load_that_waits_can_be_ended(tiny_text_folder: Path) -> None:
    calls: list[float] = []

    def leave_later(part: float) -> None:
        calls.append(part)
        if len(calls) > 1:
            raise LoadAborted("it was unloaded")

    def nested(part: float) -> None:
        if part > 0 and not calls:
            with ThreadPoolExecutor() as pool, pytest.raises(LoadAborted):
                pool.submit(load, entry_of(tiny_text_folder), leave_later).result(10)

    assert load(entry_of(tiny_text_folder), nested).kind == "text"
    assert calls == [0.0, 0.0]


def test_no_other_bar_is_drawn(tiny_text_folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    loaded_from(tiny_text_folder)
    assert capfd.readouterr() == ("", "")


def test_log_of_the_library_goes_where_ours_goes(tiny_text_folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    transformers.utils.logging.enable_default_handler()
    transformers.utils.logging.disable_propagation()
    loaded_from(tiny_text_folder)
    assert not any(type(one) is logging.StreamHandler for one in logging.getLogger("transformers").handlers)
    logging.getLogger("transformers.modeling_utils").warning("told")
    assert "told" in caplog.text


def test_progress_can_end_the_load(tiny_text_folder: Path) -> None:
    def leave(_: float) -> NoReturn:
        raise LoadAborted("it was unloaded")

    with pytest.raises(LoadAborted, match="it was unloaded"):
        load(entry_of(tiny_text_folder), leave)


@pytest.fixture
def looked_up(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """The hosts whose address was asked for. The library thinks itself online, and finds nobody."""
    hosts: list[object] = []

    def look_up(host: object, *_: object, **__: object) -> NoReturn:
        hosts.append(host)
        raise OSError("nobody is there")

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    return hosts


def test_nothing_is_asked_of_a_hub(tiny_text_folder: Path, looked_up: list[object]) -> None:
    assert loaded_from(tiny_text_folder).kind == "text"
    assert looked_up == []


def test_code_that_lies_elsewhere_is_not_fetched(folder: Path, looked_up: list[object]) -> None:
    change(folder / "config.json", model_type="own", auto_map={"AutoConfig": "someone/own--configuration_own.Own"})
    assert (
        "config.json names Python code of another repository"
        in refusal(entry_of(folder, trust_remote_code=True)).message
    )
    assert looked_up == []


def test_vision_model_comes_with_its_processor_and_keeps_the_towers_attention(tiny_vision_folder: Path) -> None:
    loaded = loaded_from(tiny_vision_folder)
    config = loaded.model.config
    assert loaded.kind == "vision"
    assert loaded.processor.tokenizer is loaded.tokenizer
    assert config.text_config._attn_implementation == "herd"
    assert config.vision_config._attn_implementation == "sdpa"
    assert loaded.template is not None
    assert "<image>" in loaded.template


def test_encoder_comes_with_its_recipe(tiny_encoder_folder: Path) -> None:
    loaded = loaded_from(tiny_encoder_folder)
    assert loaded.kind == "encoder"
    assert loaded.recipe is not None
    assert (loaded.recipe.modes, loaded.recipe.normalize, loaded.recipe.limit) == (("mean",), True, 256)
    assert loaded.window == 512
    assert loaded.model.config._attn_implementation == "sdpa"


def test_chat_model_marked_for_embeddings_gives_its_last_token(tiny_text_folder: Path) -> None:
    loaded = loaded_from(tiny_text_folder, embedding=True)
    assert (loaded.kind, type(loaded.model).__name__) == ("encoder", "LlamaModel")
    assert loaded.recipe is not None
    assert (loaded.recipe.modes, loaded.recipe.normalize) == (("last",), True)


def test_pooling_of_the_entry_rules(tiny_encoder_folder: Path) -> None:
    recipe = loaded_from(tiny_encoder_folder, pooling="cls").recipe
    assert recipe is not None
    assert (recipe.modes, recipe.limit) == (("cls",), 256)


@pytest.mark.parametrize(("wanted", "window"), [(None, 4096), (0, 6000), (100, 100), (9000, 6000)])
def test_window_is_what_is_wanted_and_at_most_the_models(folder: Path, wanted: int | None, window: int) -> None:
    change(folder / "config.json", max_position_embeddings=6000)
    assert loaded_from(folder, ctx_size=wanted).window == window


@pytest.mark.parametrize(("name", "dtype"), [("bfloat16", torch.bfloat16), ("float16", torch.float16)])
def test_number_format_of_the_entry_counts(tiny_text_folder: Path, name: str, dtype: torch.dtype) -> None:
    assert loaded_from(tiny_text_folder, dtype=name).model.dtype == dtype


def test_without_one_the_number_format_is_the_folders(folder: Path) -> None:
    assert loaded_from(folder).model.dtype == torch.float32
    loaded_from(folder, dtype="bfloat16").model.save_pretrained(folder)
    assert loaded_from(folder).model.dtype == torch.bfloat16


def test_attention_of_the_entry_counts(tiny_text_folder: Path) -> None:
    assert loaded_from(tiny_text_folder, attn_implementation="eager").model.config._attn_implementation == "eager"


def test_attention_of_the_entry_is_the_texts_only(tiny_vision_folder: Path) -> None:
    config = loaded_from(tiny_vision_folder, attn_implementation="eager").model.config
    assert config.text_config._attn_implementation == "eager"
    assert config.vision_config._attn_implementation == "sdpa"


BLOOM: dict[str, Any] = {"hidden_size": 32, "n_layer": 2, "n_head": 4}
GPTJ: dict[str, Any] = {"n_embd": 32, "n_layer": 2, "n_head": 2, "rotary_dim": 8, "n_positions": 512}


@pytest.mark.parametrize(
    ("config", "own"),
    [
        (lambda: transformers.BloomConfig(vocab_size=288, **BLOOM), "eager"),
        (lambda: transformers.GPTJConfig(vocab_size=288, **GPTJ, bos_token_id=1, eos_token_id=2), "eager"),
    ],
    ids=["bloom", "gptj"],
)
def test_model_that_knows_no_other_attention_comes_with_its_own(
    folder: Path, config: Callable[[], Any], own: str
) -> None:
    made: Any = AutoModelForCausalLM  # its methods have no types
    made.from_config(config()).save_pretrained(folder)
    model = loaded_from(folder).model
    assert [part.config._attn_implementation for part in model.modules() if isinstance(part, PreTrainedModel)] == [
        own,
        own,
    ]


def test_ends_are_those_of_all_files_and_those_known_by_text(folder: Path) -> None:
    change(folder / "generation_config.json", eos_token_id=[7, 9])
    change(folder / "config.json", eos_token_id=11)
    tokenizer = json.loads((folder / "tokenizer.json").read_bytes())
    added = tokenizer["added_tokens"]
    plain, special = max(token["id"] for token in added) + 300, max(token["id"] for token in added) + 301
    added.append({**added[0], "id": plain, "content": "<|eom_id|>", "special": False})
    added.append({**added[0], "id": special, "content": "<|eot_id|>", "special": True})
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    loaded = loaded_from(folder)
    eot = loaded.tokenizer.convert_tokens_to_ids("<|eot_id|>")
    assert loaded.ends == {0, 2, 7, 9, 11, eot}


def test_sampling_defaults_are_only_those_that_the_file_has(folder: Path) -> None:
    change(folder / "generation_config.json", temperature=0.6, top_k=20, repetition_penalty=1.1, do_sample=True)
    assert loaded_from(folder).defaults == {"temperature": 0.6, "top_k": 20, "repeat_penalty": 1.1}


@pytest.mark.parametrize("value", ["many", True, -2, 2**40])
def test_a_sampling_default_that_can_not_be_used_is_left_out(
    folder: Path, value: object, caplog: pytest.LogCaptureFixture
) -> None:
    change(folder / "generation_config.json", top_k=value, top_p=0.9)
    assert files.sampling_defaults(folder) == {"top_p": 0.9}
    assert "tiny/generation_config.json: top_k" in caplog.text


def test_a_folder_that_does_not_sample_is_greedy(folder: Path) -> None:
    change(folder / "generation_config.json", do_sample=False, top_p=0.9)
    assert loaded_from(folder).defaults == {"temperature": 0, "top_p": 0.9}


def test_template_of_the_entry_goes_before_the_folders(tiny_text_folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "own.jinja"
    file.write_text("{{ messages[0].content }}!")
    loaded = load(entry_of(tiny_text_folder, template=Template(file=file)), lambda _: None)
    assert loaded.template == "{{ messages[0].content }}!"
    assert loaded.tokenizer.apply_chat_template([{"role": "user", "content": "hi"}], tokenize=False) == "hi!"


def refusal(entry: ModelEntry) -> HerdError:
    with pytest.raises(LoadFailed) as caught:
        load(entry, lambda _: None)
    return caught.value


def test_built_in_template_of_llama_cpp_is_refused(tiny_text_folder: Path) -> None:
    assert "'chatml'" in refusal(entry_of(tiny_text_folder, template=Template(builtin="chatml"))).message


def test_code_of_the_folder_is_refused_with_the_key_that_lets_it_run(folder: Path) -> None:
    mark = folder / "ran"
    (folder / "configuration_own.py").write_text(
        "from pathlib import Path\nfrom transformers import LlamaConfig\n"
        f"Path({str(mark)!r}).touch()\n\n\nclass OwnConfig(LlamaConfig):\n    model_type = 'own'\n"
    )
    change(folder / "config.json", model_type="own", auto_map={"AutoConfig": "configuration_own.OwnConfig"})
    message = refusal(entry_of(folder)).message
    assert "config.json" in message
    assert "'trust_remote_code': true" in message
    assert not mark.exists()


def test_code_of_the_folder_runs_where_the_entry_says_so(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # It is copied there before it runs.
    monkeypatch.setattr(transformers.dynamic_module_utils, "HF_MODULES_CACHE", str(folder / "modules"))
    (folder / "configuration_own.py").write_text(
        "from transformers import LlamaConfig\n\n\nclass OwnConfig(LlamaConfig):\n    model_type = 'own_llama'\n"
    )
    (folder / "modeling_own.py").write_text(
        "from transformers import LlamaForCausalLM\nfrom .configuration_own import OwnConfig\n\n\n"
        "class OwnForCausalLM(LlamaForCausalLM):\n    config_class = OwnConfig\n"
    )
    classes = {"AutoConfig": "configuration_own.OwnConfig", "AutoModelForCausalLM": "modeling_own.OwnForCausalLM"}
    change(folder / "config.json", model_type="own_llama", architectures=["OwnForCausalLM"], auto_map=classes)
    loaded = loaded_from(folder, trust_remote_code=True)
    assert (loaded.kind, type(loaded.model).__name__) == ("text", "OwnForCausalLM")


def test_code_that_is_not_needed_is_left_alone(folder: Path) -> None:
    """Many folders bring code for models that transformers knows by now."""
    mark = folder / "ran"
    (folder / "modeling_own.py").write_text(f"from pathlib import Path\nPath({str(mark)!r}).touch()\n")
    change(folder / "config.json", auto_map={"AutoModelForCausalLM": "modeling_own.Own"})
    assert loaded_from(folder).kind == "text"
    assert not mark.exists()


class Touch:
    """Unpickling it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def test_pickled_weights_are_refused_with_the_key_that_allows_them(folder: Path) -> None:
    mark = folder / "ran"
    torch.save({"x": Touch(mark)}, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    assert "'allow_pickle': true" in refusal(entry_of(folder)).message
    assert not mark.exists()


def test_pickled_weights_are_loaded_where_the_entry_says_so(folder: Path) -> None:
    expected = loaded_from(folder).model.state_dict()
    torch.save({name: tensor.clone() for name, tensor in expected.items()}, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    got = loaded_from(folder, allow_pickle=True).model.state_dict()
    assert all(torch.equal(got[name], expected[name]) for name in expected)


def cut_weights(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])


def lose_a_layer(folder: Path) -> None:
    change(folder / "config.json", num_hidden_layers=3, layer_types=None)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda folder: (folder / "config.json").unlink(), "config.json is missing"),
        (lambda folder: (folder / "config.json").write_text("{"), "config.json holds no JSON"),
        (lambda folder: change(folder / "config.json", model_type="nonesuch"), "tiny: config.json can't be loaded"),
        (lambda folder: change(folder / "config.json", architectures=["T5Nonesuch"]), "config.json has architectures"),
        (lambda folder: change(folder / "config.json", hidden_size=128), "is [288, 64] and by config.json [288, 128]"),
        (lambda folder: (folder / "tokenizer.json").unlink(), "tiny: the tokenizer can't be loaded"),
        (lambda folder: (folder / "tokenizer.json").write_text("{}"), "tiny: the tokenizer can't be loaded"),
        (lambda folder: (folder / "generation_config.json").write_text("["), "generation_config.json holds no JSON"),
        (cut_weights, "tiny: the model can't be loaded: SafetensorError"),
        (lambda folder: (folder / "model.safetensors").rename(folder / "x.safetensors"), "no file named model"),
        (lose_a_layer, "tensors are missing, such as model.layers.2."),
    ],
)
def test_spoiled_folder_is_an_error_that_names_it_and_not_where_it_lies(
    folder: Path, spoil: Callable[[Path], object], words: str
) -> None:
    spoil(folder)
    error = refusal(entry_of(folder))
    assert words in error.message
    assert str(folder.parent) not in error.message
    assert "\n" not in error.message
    assert error.should_retry is False
    # The chain of errors would hold frames, and these the tensors.
    assert error.__cause__ is None
    assert error.__context__ is None


def models_alive() -> int:
    gc.collect()
    return sum(issubclass(type(one), PreTrainedModel) for one in gc.get_objects())


def test_after_a_failure_nothing_is_held(folder: Path) -> None:
    lose_a_layer(folder)
    before = models_alive()
    error = refusal(entry_of(folder))
    assert models_alive() == before
    assert error is not None  # while it is still there


def test_a_quantisation_whose_package_is_missing_is_named(tiny_text_folder: Path) -> None:
    message = refusal(entry_of(tiny_text_folder, quantization={"load_in_8bit": True})).message
    assert "bitsandbytes" in message
    assert "not installed" in message


def test_a_quantisation_that_nobody_knows_is_named(tiny_text_folder: Path) -> None:
    assert "nonesuch" in refusal(entry_of(tiny_text_folder, quantization={"quant_method": "nonesuch"})).message


def test_weights_on_the_disk_are_refused(tiny_text_folder: Path) -> None:
    devices = {"model.embed_tokens": "cpu", "model.layers": "disk", "model.norm": "cpu", "lm_head": "cpu"}
    assert "disk" in refusal(entry_of(tiny_text_folder, device_map=devices)).message


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: 9 bytes"),
    ],
)
def test_no_memory_left_is_told_as_such(tiny_text_folder: Path, error: Exception) -> None:
    def fail(_: float) -> NoReturn:
        raise error

    with pytest.raises(InsufficientMemory, match="tiny-text"):
        load(entry_of(tiny_text_folder), fail)


@pytest.mark.parametrize(
    ("error", "kind", "words"),
    [
        (RuntimeError("can't allocate memory"), InsufficientMemory, "no memory left"),
        (KeyError("herd"), LoadFailed, "tiny: the trial can't be loaded: KeyError: 'herd'"),
        (OSError("/secret/tiny/x is gone\n\nmore"), LoadFailed, "OSError: tiny/x is gone"),
        (LoadAborted("it was unloaded"), LoadAborted, "it was unloaded"),
        (LoadFailed("other logits", should_retry=False), LoadFailed, "other logits"),
    ],
)
def test_whatever_goes_wrong_becomes_an_error_of_ours_that_holds_nothing(
    error: Exception, kind: type[HerdError], words: str
) -> None:
    held = None
    try:
        try:
            raise ValueError("first")
        except ValueError as first:
            raise error from first
    except Exception as caught:
        held = failure_of(entry_of(Path("/secret/tiny")), caught, "the trial")
    assert held is not None
    assert type(held) is kind
    assert held.message.endswith(words) or words in held.message
    assert "secret" not in held.message
    assert (held.__traceback__, held.__context__, held.__cause__) == (None, None, None)


def test_tokenizer_neither_cuts_nor_pads_whatever_its_file_says(folder: Path) -> None:
    cut = {"max_length": 8, "strategy": "LongestFirst", "stride": 0, "direction": "Right"}
    pad = {"pad_to_multiple_of": None, "pad_id": 0, "pad_type_id": 0, "pad_token": "<|im_end|>"}
    change(folder / "tokenizer.json", truncation=cut, padding={"strategy": {"Fixed": 8}, "direction": "Right", **pad})
    backend = loaded_from(folder).tokenizer.backend_tokenizer
    assert [len(backend.encode(text).ids) for text in ("x", "x" * 30)] == [1, 30]


def test_tokenizer_that_is_no_fast_one_is_refused(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    change(folder / "tokenizer_config.json", tokenizer_class="ByT5Tokenizer")
    assert "ByT5Tokenizer" in refusal(entry_of(folder)).message
