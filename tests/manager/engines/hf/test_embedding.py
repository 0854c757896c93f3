"""Vectors as sentence-transformers defines them, whatever else is in the batch; requests and answers as OpenAI's."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoTokenizer

from manager.engines.hf.batch.attention import Interrupted
from manager.engines.hf.embedding import Embedder, embedding_request, embeddings_answer, pool
from manager.engines.hf.loading.folder import Mode, embedding_recipe
from manager.engines.hf.loading.load import load
from manager.engines.hf.runtime import bring_in
from manager.entry import ModelEntry
from manager.errors import ContextLengthExceeded, InvalidRequest, LoadFailed
from manager.params import HfParams
from tests.hf_models import tiny_encoder

TEXTS = ("Hello", "a longer text, of more tokens than the others", "é 漢", "x")


@pytest.fixture(scope="module", autouse=True)
def _libraries() -> None:
    bring_in()


def embedder_of(folder: Path, *, batch_tokens: int | None = None, **params: Any) -> Embedder:
    fields = HfParams(model=str(folder), **params)
    entry = ModelEntry(name="tiny", path=folder, params=fields, engine="hf")
    return Embedder(load(entry, lambda _: None), batch_tokens)


def hidden_states(folder: Path, text: str) -> tuple[list[int], np.ndarray[Any, Any]]:
    """Token ids and hidden states [tokens, width], by transformers alone."""
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()
    made = tokenizer(text, return_tensors="pt")
    with torch.inference_mode():
        states = model(**made).last_hidden_state[0].numpy()
    return made["input_ids"][0].tolist(), states


def by_hand(states: np.ndarray[Any, Any], mode: str) -> np.ndarray[Any, Any]:
    """sentence-transformers' definitions, for one text without padding."""
    weights = np.arange(1, len(states) + 1)[:, None]
    ways: dict[str, np.ndarray[Any, Any]] = {
        "cls": states[0],
        "last": states[-1],
        "max": states.max(0),
        "mean": states.mean(0),
        "mean_sqrt_len": states.sum(0) / np.sqrt(len(states)),
        "weightedmean": (states * weights).sum(0) / weights.sum(),
    }
    return ways[mode]


@pytest.mark.parametrize("pooling", ["mean", "cls", "max"])
@pytest.mark.parametrize("normalize", [True, False])
def test_vectors_are_as_the_folder_defines_them(tmp_path: Path, pooling: Any, normalize: bool) -> None:
    folder = tiny_encoder(tmp_path / "encoder", pooling=pooling, normalize=normalize)
    made = embedder_of(folder).embed(TEXTS)
    for text, (vector, count) in zip(TEXTS, made, strict=True):
        ids, states = hidden_states(folder, text)
        expected = by_hand(states, pooling)
        if normalize:
            expected = expected / np.linalg.norm(expected)
        assert count == len(ids)
        assert vector.dtype == np.float32
        np.testing.assert_allclose(vector, expected, atol=1e-5)


@pytest.mark.parametrize("mode", ["cls", "last", "max", "mean", "mean_sqrt_len", "weightedmean"])
def test_padding_counts_in_no_way_of_pooling(mode: Mode) -> None:
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(3, 7, 4, generator=generator)
    lengths = [7, 4, 1]
    mask = torch.arange(7)[None, :] < torch.tensor(lengths)[:, None]
    got = pool(hidden, mask, mode).numpy()
    for row, length in enumerate(lengths):
        np.testing.assert_allclose(got[row], by_hand(hidden[row, :length].numpy(), mode), atol=1e-6)


def test_in_a_batch_is_as_alone_and_in_the_order_of_the_request(tiny_encoder_folder: Path) -> None:
    embedder = embedder_of(tiny_encoder_folder)
    together = embedder.embed(TEXTS)
    for text, (vector, count) in zip(TEXTS, together, strict=True):
        [(alone, same)] = embedder.embed([text])
        assert count == same
        np.testing.assert_allclose(vector, alone, atol=1e-6)


class Counting(torch.nn.Module):
    """A model that notes the shapes that it is given."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        self.shapes: list[tuple[int, ...]] = []

    def forward(self, **inputs: torch.Tensor) -> Any:
        self.shapes.append(tuple(inputs["input_ids"].shape))
        return self.model(**inputs)


def test_a_forward_has_no_more_tokens_than_it_may_and_the_longest_come_together(tiny_encoder_folder: Path) -> None:
    fields = HfParams(model="tiny")
    loaded = load(ModelEntry(name="tiny", path=tiny_encoder_folder, params=fields, engine="hf"), lambda _: None)
    counting = loaded.model = Counting(loaded.model)
    lengths = [3, 60, 4, 50, 100, 3]
    made = Embedder(loaded, batch_tokens=64).embed([[5] * length for length in lengths])
    assert [count for _, count in made] == lengths
    # One that is longer than a forward may be goes alone.
    assert counting.shapes == [(1, 100), (1, 60), (1, 50), (3, 4)]


def test_given_up_between_two_batches_no_more_is_computed(tiny_encoder_folder: Path) -> None:
    fields = HfParams(model="tiny")
    loaded = load(ModelEntry(name="tiny", path=tiny_encoder_folder, params=fields, engine="hf"), lambda _: None)
    counting = loaded.model = Counting(loaded.model)
    noted: list[int] = []
    with pytest.raises(Interrupted):
        Embedder(loaded, batch_tokens=64).embed(
            [[5] * length for length in (40, 30, 20, 10)], lambda: len(noted) == 2, noted.append
        )
    assert counting.shapes == [(1, 40), (2, 30)]
    assert noted == [40, 50]  # padding is not counted


def test_given_up_before_its_texts_are_tokens_nothing_is_computed(tiny_encoder_folder: Path) -> None:
    embedder = embedder_of(tiny_encoder_folder)
    looks = iter([False, True])
    with pytest.raises(Interrupted):  # not ContextLengthExceeded, which the last one would get
        embedder.embed(["x"] * 64 + ["x" * 400], lambda: next(looks))


def test_token_ids_are_taken_as_they_are(tiny_encoder_folder: Path) -> None:
    embedder = embedder_of(tiny_encoder_folder)
    ids, _ = hidden_states(tiny_encoder_folder, "Hello")
    [(of_text, _), (of_ids, count)] = embedder.embed(["Hello", ids])
    assert count == len(ids)
    np.testing.assert_allclose(of_ids, of_text, atol=1e-6)


def test_limit_is_the_folders_and_nothing_is_cut(tiny_encoder_folder: Path) -> None:
    embedder = embedder_of(tiny_encoder_folder)
    assert embedder.limit == 256
    assert embedder.embed(["x" * 254])[0][1] == 256
    with pytest.raises(ContextLengthExceeded, match=r"'input\[1\]' has 257 tokens.* 256"):
        embedder.embed(["x", "x" * 255])


def test_limit_is_never_more_than_the_window(tiny_encoder_folder: Path) -> None:
    assert embedder_of(tiny_encoder_folder, ctx_size=100).limit == 100


def test_chat_model_gives_the_state_of_its_last_token(tiny_text_folder: Path) -> None:
    [(vector, _), _] = embedder_of(tiny_text_folder, embedding=True).embed(["Hello", "one that is longer"])
    _, states = hidden_states(tiny_text_folder, "Hello")
    np.testing.assert_allclose(vector, states[-1] / np.linalg.norm(states[-1]), atol=1e-4)


@pytest.mark.parametrize("tokens", [[5, 100_000], [-1, 5]])
def test_unknown_token_is_refused(tiny_encoder_folder: Path, tokens: list[int]) -> None:
    with pytest.raises(InvalidRequest, match="token id") as caught:
        embedder_of(tiny_encoder_folder).embed([tokens])
    assert caught.value.param == "input"


def test_texts_are_made_lower_case_where_the_folder_says_so(tmp_path: Path) -> None:
    folder = tiny_encoder(tmp_path / "encoder")
    (folder / "sentence_bert_config.json").write_text('{"max_seq_length": 20, "do_lower_case": true}')
    [(upper, _), (lower, _)] = embedder_of(folder).embed(["HELLO", "hello"])
    np.testing.assert_allclose(upper, lower, atol=1e-6)


@pytest.mark.parametrize(
    ("config", "modes"),
    [
        ({"pooling_mode_cls_token": True}, ("cls",)),
        ({"pooling_mode_lasttoken": True, "pooling_mode_mean_tokens": True}, ("mean", "last")),
        ({"pooling_mode": "mean"}, ("mean",)),
        ({"pooling_mode": "lasttoken"}, ("last",)),
        ({"pooling_mode": "mean_sqrt_len_tokens"}, ("mean_sqrt_len",)),
    ],
)
def test_pooling_is_read_in_old_and_new_form(tmp_path: Path, config: dict[str, Any], modes: tuple[str, ...]) -> None:
    (tmp_path / "1_Pooling").mkdir()
    (tmp_path / "1_Pooling" / "config.json").write_text(json.dumps(config))
    modules = [{"type": "sentence_transformers.models.Pooling", "path": "1_Pooling"}]
    (tmp_path / "modules.json").write_text(json.dumps(modules))
    recipe = embedding_recipe(tmp_path)
    assert recipe is not None
    assert (recipe.modes, recipe.normalize) == (modes, False)


@pytest.mark.parametrize(
    ("modules", "config", "words"),
    [
        ("{}", "{}", "modules.json is no list"),
        ('[{"type": "x.Dense", "path": "2_Dense"}]', "{}", "modules.json has a module Dense"),
        ('[{"type": "x.Pooling", "path": "1_Pooling"}]', "{}", "1_Pooling/config.json names no way"),
        ('[{"type": "x.Pooling"}]', "{}", "modules.json is no list"),
        ("5", "{}", "modules.json is no list"),
    ],
)
def test_what_can_not_be_followed_is_named(tmp_path: Path, modules: str, config: str, words: str) -> None:
    (tmp_path / "1_Pooling").mkdir()
    (tmp_path / "1_Pooling" / "config.json").write_text(config)
    (tmp_path / "modules.json").write_text(modules)
    with pytest.raises(LoadFailed, match=words):
        embedding_recipe(tmp_path)


def test_a_folder_without_such_files_has_no_recipe(tmp_path: Path) -> None:
    assert embedding_recipe(tmp_path) is None


@pytest.mark.parametrize(
    ("given", "inputs"),
    [
        ("a", ("a",)),
        ("", ("",)),
        (["a", "b"], ("a", "b")),
        ([1, 2], ((1, 2),)),
        ([[1, 2], [3]], ((1, 2), (3,))),
        (["a", [3]], ("a", (3,))),
    ],
)
def test_inputs_are_taken_in_all_forms(given: Any, inputs: tuple[Any, ...]) -> None:
    assert embedding_request({"input": given, "model": "m", "user": "u"}).inputs == inputs


@pytest.mark.parametrize("given", [None, 5, [], {}, [[]], [1, "a"], [True], [[1.5]], ["a", None], ["x"] * 2049])
def test_other_inputs_are_refused(given: Any) -> None:
    with pytest.raises(InvalidRequest) as caught:
        embedding_request({"input": given})
    assert caught.value.param == "input"


@pytest.mark.parametrize(("field", "value"), [("dimensions", 3), ("encoding_format", "int8"), ("encoding_format", [])])
def test_field_that_can_not_be_honoured_is_named(field: str, value: Any) -> None:
    with pytest.raises(InvalidRequest) as caught:
        embedding_request({"input": "a", field: value})
    assert caught.value.param == field


def test_answer_has_openais_form_and_exact_usage() -> None:
    vectors = [(np.array([0.1, -0.5], np.float32), 3), (np.array([1.0, 0.0], np.float32), 4)]
    assert json.loads(embeddings_answer("m", vectors)) == {
        "object": "list",
        "data": [
            {"object": "embedding", "index": 0, "embedding": [0.1, -0.5]},
            {"object": "embedding", "index": 1, "embedding": [1.0, 0.0]},
        ],
        "model": "m",
        "usage": {"prompt_tokens": 7, "total_tokens": 7},
    }


def test_answer_in_base64_holds_the_same_numbers() -> None:
    vector = np.array([0.1, -0.5, 1e-20], np.float32)
    answer = json.loads(embeddings_answer("m", [(vector, 3)], as_base64=True))
    raw = base64.b64decode(answer["data"][0]["embedding"])
    np.testing.assert_array_equal(np.frombuffer(raw, "<f4"), vector)
