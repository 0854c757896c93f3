"""What our engine for Hugging Face models and its sampler give, against the real llama.cpp with the same weights."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import pytest

from manager.engines.hf.generation import Sampling
from manager.engines.llama.arguments import LlamaArgs
from manager.entry import LlamaParams, ModelEntry
from tests.gguf_from_hf import write_bf16_gguf
from tests.manager.engines.hf.generating import load_folder
from tests.manager.engines.llama.conftest import Child

torch: Any = pytest.importorskip("torch", reason="the extra hf is not installed")
pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

TEXT: Final = (
    "The town lies on a river, between two hills. Its oldest house was built of wood, and its bridge of stone."
)
PROMPT: Final = "The town lies on a river, and the river lies between two hills. The river and the"
OFF: Final = Sampling(temperature=1.0, top_k=0, top_p=1.0, min_p=0.0)
# As many as are asked for, at least as many as survive in any case below.
ALL: Final = 49152
GREEDY: Final = 32


class Ours:
    """The folder as the engine has it, computed in float32: llama.cpp too rounds no more than the weights."""

    def __init__(self, folder: Path) -> None:
        from manager.engines.hf.batch.forward import Together
        from manager.engines.hf.batch.trial import choose_forward

        loaded = load_folder(folder, dtype="float32")
        self._tokenizer = loaded.tokenizer
        self._forward = choose_forward(loaded, "ours")
        assert isinstance(self._forward, Together)

    def tokens(self, text: str) -> list[int]:
        return list(self._tokenizer(text).input_ids)

    def logits(self, tokens: list[int]) -> Any:
        """[tokens, vocabulary]: after each of them, one step a token, beside another sequence."""
        from manager.engines.hf.batch.forward import Piece

        cache, other = self._forward.new_cache(), self._forward.new_cache()
        cache.make_room(len(tokens))
        other.make_room(len(tokens))
        with torch.inference_mode():
            rows = [
                self._forward.step([Piece(cache, [token], wanted=True), Piece(other, [tokens[-1]], wanted=False)])
                for token in tokens
            ]
        return torch.cat(rows)


@dataclass(frozen=True)
class LlamaCpp:
    child: Child

    def complete(self, prompt: list[int], sampling: Sampling, **fields: Any) -> dict[str, Any]:
        body = {
            "prompt": prompt,
            "n_predict": 1,
            "temperature": sampling.temperature,
            "top_k": sampling.top_k,
            "top_p": sampling.top_p,
            "min_p": sampling.min_p,
            "typical_p": sampling.typical_p,
            "repeat_penalty": sampling.repeat_penalty,
            "repeat_last_n": sampling.repeat_last_n,
            "presence_penalty": sampling.presence_penalty,
            "frequency_penalty": sampling.frequency_penalty,
            "logit_bias": [
                [token, False if bias == -math.inf else bias] for token, bias in sampling.logit_bias.items()
            ],
            "seed": 1,
            # What is computed on a kept prefix is rounded otherwise: its logits are up to 0.03 off.
            "cache_prompt": False,
            **fields,
        }
        answer = self.child.ask("POST", "/completion", body)
        assert answer.status == 200, answer.body
        return dict(answer.body)

    def survivors(self, prompt: list[int], sampling: Sampling) -> dict[int, float]:
        """The tokens that could have come next, and how probable each was."""
        answer = self.complete(prompt, sampling, n_probs=ALL, post_sampling_probs=True)
        return {told["id"]: told["prob"] for told in answer["completion_probabilities"][0]["top_probs"]}

    def logprobs(self, prompt: list[int], count: int, **fields: Any) -> dict[int, float]:
        """Of the likeliest tokens, or of one that `fields` make the next, by the model's own logits."""
        (told,) = self.complete(prompt, OFF, n_probs=count, **fields)["completion_probabilities"]
        return {one["id"]: one["logprob"] for one in (told, *told["top_logprobs"])}


@pytest.fixture(scope="module")
def ours_model(smollm2_folder: Path) -> Ours:
    return Ours(smollm2_folder)


@pytest.fixture(scope="module")
def llama(smollm2_folder: Path, starter: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LlamaCpp]:
    folder = tmp_path_factory.mktemp("same")
    file = write_bf16_gguf(folder / "same.gguf", smollm2_folder, starter)
    entry = ModelEntry("same", file, LlamaParams(model="same.gguf", ctx_size=512, parallel=1, threads=1))
    arguments = LlamaArgs.from_entry(entry, socket=folder / "same.sock")
    command = [sys.executable, "-P", "-m", "manager.engines.llama.embedded", arguments.to_json()]
    child = Child(command, folder / "same.sock", folder / "log")
    try:
        child.wait_ready()
        yield LlamaCpp(child)
    finally:
        child.end()


@pytest.fixture(scope="module")
def prompt(ours_model: Ours) -> list[int]:
    return ours_model.tokens(PROMPT)


@pytest.fixture(scope="module")
def logits_of_llama(llama: LlamaCpp, prompt: list[int]) -> Any:
    """llama.cpp's own logits after the prompt.

    It tells their log-softmax. What that took away shows in a penalty of 2, which halves the logit itself: of the
    prompt's last token, here, made positive for sure.
    """
    told = llama.logprobs(prompt, ALL)
    relative = torch.tensor([told[token] for token in range(ALL)], dtype=torch.float64)
    last, other = prompt[-1], int(relative.argmax())
    assert last != other
    halving = replace(OFF, repeat_penalty=2.0, repeat_last_n=1, logit_bias={last: 30.0})
    shares = llama.survivors(prompt, halving)
    lead = math.log(shares[last] / shares[other])
    return (relative + (relative[last] + 30 - 2 * relative[other] - 2 * lead)).float()


PENALTIES: Final[dict[str, Any]] = {"repeat_penalty": 1.3, "frequency_penalty": 0.4, "presence_penalty": 0.7}
CASES: Final[tuple[dict[str, Any], ...]] = (
    *({"top_k": number} for number in (1, 5, 40, 300)),
    *({"top_p": number} for number in (0.1, 0.5, 0.95)),
    *({"min_p": number} for number in (0.02, 0.1, 0.5)),
    *({"typical_p": number} for number in (0.2, 0.9)),
    *({"top_k": 40, "temperature": number} for number in (0.0, 0.4, 1.6)),
    *({"top_k": 40, **PENALTIES, "repeat_last_n": number} for number in (0, 4, 64)),
    {"top_k": 40, "repeat_penalty": 2.0},
    {"top_k": 40, "frequency_penalty": 1.5},
    {"top_k": 40, "presence_penalty": -2.0},
    {"top_k": 40, "top_p": 0.8, "min_p": 0.02},
    {"top_k": 40, "typical_p": 0.5, "top_p": 0.9},
    {"top_k": 0, "typical_p": 0.8, "top_p": 0.7, "min_p": 0.05, "temperature": 0.7},
    {"top_k": 40, "top_p": 0.95, "min_p": 0.05, "temperature": 0.8, **PENALTIES},
)


@pytest.mark.parametrize("case", CASES, ids=lambda case: "-".join(f"{name}={value}" for name, value in case.items()))
def test_same_tokens_survive_as_in_llama_cpp(
    llama: LlamaCpp, logits_of_llama: Any, prompt: list[int], case: Mapping[str, Any]
) -> None:
    assert_same_survivors(llama, logits_of_llama, prompt, replace(OFF, **case))


def test_same_tokens_survive_biases_as_in_llama_cpp(llama: LlamaCpp, logits_of_llama: Any, prompt: list[int]) -> None:
    best, second, *_ = logits_of_llama.topk(2).indices.tolist()
    bias = {best: -math.inf, second: -1.5, 1234: 20.0}
    assert_same_survivors(llama, logits_of_llama, prompt, replace(OFF, top_k=40, logit_bias=bias, **PENALTIES))


def assert_same_survivors(llama: LlamaCpp, logits: Any, prompt: list[int], sampling: Sampling) -> None:
    from manager.engines.hf.sampling.pick import SamplerState, survivors

    ours = survivors(logits, SamplerState(sampling, prompt, None))
    theirs = llama.survivors(prompt, sampling)
    assert ours.keys() == theirs.keys()
    assert ours == pytest.approx(theirs, rel=1e-3)


def test_log_probabilities_of_a_given_text_are_llama_cpps(llama: LlamaCpp, ours_model: Ours) -> None:
    tokens = ours_model.tokens(TEXT)
    assert len(tokens) > 20
    ours = torch.log_softmax(ours_model.logits(tokens).double(), 1)
    for place, token in enumerate(tokens[1:], start=1):
        # Whatever the bias, what is told is the model's own.
        theirs = llama.logprobs(tokens[:place], 5, logit_bias=[[token, 1000]])
        assert token in theirs
        for one, logprob in theirs.items():
            assert float(ours[place - 1, one]) == pytest.approx(logprob, abs=0.05), (place, one)


def test_greedy_text_is_llama_cpps(llama: LlamaCpp, ours_model: Ours, prompt: list[int]) -> None:
    from manager.engines.hf.sampling.pick import SamplerState, pick

    greedy = replace(OFF, temperature=0.0)
    theirs = llama.complete(prompt, greedy, n_predict=GREEDY, return_tokens=True)["tokens"]
    assert len(theirs) == GREEDY
    # Where each token follows from those before it, the whole text is what we would write.
    logits = ours_model.logits([*prompt, *theirs])[len(prompt) - 1 : -1]
    state = SamplerState(greedy, prompt, None)
    assert [pick(row[None], [state])[0].token for row in logits] == theirs
