"""Which quantisation a name tells, and which one is taken."""

from __future__ import annotations

import pytest

from manager.model_store import BadSource, ChoiceNeeded
from manager.model_store.hub import HubFile
from manager.model_store.quants import choices_of, choose, models_of, projector_of, quant_of


def files(*paths: str) -> list[HubFile]:
    return [HubFile(path, 1000 * number) for number, path in enumerate(paths, 1)]


@pytest.mark.parametrize(
    ("stem", "quant"),
    [
        ("SmolLM2-135M-Instruct-Q4_K_M", "Q4_K_M"),
        ("smollm2-135m-instruct.q4_0", "Q4_0"),
        ("Qwen3-30B-A3B-UD-Q4_K_XL", "UD-Q4_K_XL"),
        ("Llama-3.2-1B-Instruct-IQ2_XXS", "IQ2_XXS"),
        ("gpt-oss-20b-mxfp4", "MXFP4"),
        ("model-TQ1_0", "TQ1_0"),
        ("model-Q4_0_4_4", "Q4_0_4_4"),
        ("model-bf16", "BF16"),
        ("model.f16", "F16"),
        ("Q8_0/model", "Q8_0"),
        ("BF16/model-Q6_K_L", "Q6_K_L"),
        ("model-Q4_K_M-imat", "Q4_K_M"),
        ("Qwen2.5-7B-instruct", None),
        ("iq-test-model", None),
    ],
)
def test_a_name_tells_its_quantisation(stem: str, quant: str | None) -> None:
    assert quant_of(stem) == quant


def test_parts_make_one_model_and_what_is_no_model_is_left_out() -> None:
    models = models_of(
        files(
            "Q8_0/m-Q8_0-00002-of-00002.gguf", "Q8_0/m-Q8_0-00001-of-00002.gguf", "m-Q4_0.gguf", "mmproj-m-f16.gguf",
            "m.imatrix.gguf", "README.md", "m-Q2_K-00001-of-00002.gguf",
        )
    )  # fmt: skip
    assert [(model.quant, len(model.files)) for model in models] == [("Q8_0", 2), ("Q4_0", 1)]
    assert models[0].files[0].path.endswith("00001-of-00002.gguf")


def test_a_model_of_which_all_is_incomplete_says_so() -> None:
    with pytest.raises(BadSource, match="of its 2 parts the source has only 1"):
        models_of(files("m-Q2_K-00001-of-00002.gguf"))


@pytest.mark.parametrize(
    ("paths", "quant", "taken"),
    [
        (["m-Q8_0.gguf", "m-Q4_K_M.gguf", "m-Q2_K.gguf"], None, "m-Q4_K_M.gguf"),
        (["m-Q8_0.gguf", "m-Q5_K_M.gguf", "m-Q4_K_S.gguf"], None, "m-Q5_K_M.gguf"),
        (["m-F16.gguf", "m-Q8_0.gguf"], None, "m-Q8_0.gguf"),
        (["m-IQ1_S.gguf", "m-F16.gguf"], None, "m-IQ1_S.gguf"),
        (["anything.gguf"], None, "anything.gguf"),
        (["m-Q8_0.gguf", "m-Q4_K_M.gguf"], "q8_0", "m-Q8_0.gguf"),
        (["m-UD-Q4_K_XL.gguf", "m-Q4_K_M.gguf"], "Q4_K_XL", "m-UD-Q4_K_XL.gguf"),
        (["m-UD-Q4_K_XL.gguf", "m-Q4_K_M.gguf"], "ud-q4_k_xl", "m-UD-Q4_K_XL.gguf"),
        (["a-Q4_K_M.gguf", "b-Q4_K_M.gguf"], "b-Q4_K_M.gguf", "b-Q4_K_M.gguf"),
    ],
)
def test_what_is_taken(paths: list[str], quant: str | None, taken: str) -> None:
    assert choose(models_of(files(*paths)), quant, "org/repo").files[0].path == taken


@pytest.mark.parametrize(
    ("paths", "quant", "says"),
    [
        (["m-Q8_0.gguf", "m-Q2_K.gguf"], "Q4_K_M", "org/repo has no quantisation Q4_K_M"),
        (["a-Q4_K_M.gguf", "b-Q4_K_M.gguf"], None, "several models as Q4_K_M"),
        (["a-Q4_K_M.gguf", "b-Q4_K_M.gguf"], "Q4_K_M", "several models as Q4_K_M"),
        (["a-F16.gguf", "b-Q2_K.gguf"], None, "holds several models"),
    ],
)
def test_what_can_not_be_chosen_lists_what_there_is(paths: list[str], quant: str | None, says: str) -> None:
    models = models_of(files(*paths))
    with pytest.raises(ChoiceNeeded, match=says) as caught:
        choose(models, quant, "org/repo")
    assert caught.value.choices == choices_of(models)
    for choice in caught.value.choices:
        assert f"{choice.quant} (" in caught.value.message


@pytest.mark.parametrize(
    ("names", "model", "taken"),
    [
        (["mmproj-m-f32.gguf", "mmproj-m-f16.gguf", "mmproj-m-q8_0.gguf"], "m-Q4_0.gguf", "mmproj-m-f16.gguf"),
        (["mmproj-m-q8_0.gguf", "mmproj-m-bf16.gguf"], "m-Q4_0.gguf", "mmproj-m-bf16.gguf"),
        (["mmproj-one-f16.gguf", "mmproj-two-q8_0.gguf"], "two-Q4_0.gguf", "mmproj-two-q8_0.gguf"),
        (["mmproj-F16.gguf"], "Q4_0/m-Q4_0.gguf", "mmproj-F16.gguf"),
        (["m-mmproj.gguf"], "m-Q4_0.gguf", "m-mmproj.gguf"),
        ([], "m-Q4_0.gguf", None),
    ],
)
def test_the_projector_of_a_model(names: list[str], model: str, taken: str | None) -> None:
    there = files(*names, model)
    found = projector_of(models_of(there)[0], there)
    assert (None if found is None else found.path) == taken
