"""Which models are found in folders, and under which names."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path

import pytest

from manager.discovery import FoundModel, distinct, find_gguf_models, find_hf_models, hf_files, hf_problem


def touch(root: Path, *names: str) -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def names(models: Iterable[FoundModel]) -> list[str]:
    return [model.name for model in models]


def projectors(root: Path) -> dict[str, str | None]:
    found = find_gguf_models(root)
    return {model.name: None if model.mmproj is None else model.mmproj.name for model in found}


def test_every_gguf_below_the_folder_is_a_model_in_the_order_of_the_paths(tmp_path: Path) -> None:
    touch(tmp_path, "b.gguf", "a/z.GGUF", "a/b/c.Q4_K_M.gguf", "notes.txt", "x.gguf.part", "gguf")
    assert names(find_gguf_models(tmp_path)) == ["c.Q4_K_M", "z", "b"]


def test_hidden_files_and_folders_are_left_out(tmp_path: Path) -> None:
    touch(tmp_path, ".a.gguf", ".cache/b.gguf", "c/.d/e.gguf", "f.gguf")
    assert names(find_gguf_models(tmp_path)) == ["f"]


def test_loops_of_links_end_and_each_folder_counts_once(tmp_path: Path) -> None:
    touch(tmp_path, "a/m.gguf")
    (tmp_path / "a" / "up").symlink_to(tmp_path)
    (tmp_path / "again").symlink_to(tmp_path / "a")
    (tmp_path / "itself").symlink_to("itself")
    assert names(find_gguf_models(tmp_path)) == ["m"]


def test_linked_folders_and_files_are_followed(tmp_path: Path) -> None:
    touch(tmp_path, "elsewhere/m.gguf", "elsewhere/blob")
    root = tmp_path / "models"
    root.mkdir()
    (root / "linked").symlink_to(tmp_path / "elsewhere")
    (root / "named.gguf").symlink_to(tmp_path / "elsewhere" / "blob")
    assert names(find_gguf_models(root)) == ["m", "named"]


def test_split_files_are_one_model_also_without_their_first_part(tmp_path: Path) -> None:
    touch(tmp_path, "m-00001-of-00002.gguf", "m-00002-of-00002.gguf", "n-00003-of-00003.gguf")
    found = find_gguf_models(tmp_path)
    assert [(model.name, model.path.name) for model in found] == [
        ("m", "m-00001-of-00002.gguf"),
        ("n", "n-00001-of-00003.gguf"),
    ]


def test_a_projector_belongs_to_the_model_of_its_folder(tmp_path: Path) -> None:
    touch(tmp_path, "llava.Q4_K_M.gguf", "mmproj-model-f16.gguf", "other/text.gguf")
    assert projectors(tmp_path) == {"llava.Q4_K_M": "mmproj-model-f16.gguf", "text": None}


def test_quantisations_of_one_model_share_the_projector(tmp_path: Path) -> None:
    touch(tmp_path, "gemma-3-4b-it-Q4_K_M.gguf", "gemma-3-4b-it-UD-Q8_0.gguf", "gemma-3-4b-it.IQ2_XXS.gguf")
    touch(tmp_path, "gemma-3-4b-it-BF16-00001-of-00002.gguf", "gemma-3-4b-it-BF16-00002-of-00002.gguf")
    touch(tmp_path, "mmproj-F16.gguf")
    assert set(projectors(tmp_path).values()) == {"mmproj-F16.gguf"}
    assert len(projectors(tmp_path)) == 4


def test_among_several_models_the_longest_common_beginning_decides(tmp_path: Path) -> None:
    touch(tmp_path, "gemma-3-4b-it-Q4_K_M.gguf", "gemma-3-12b-it-Q4_K_M.gguf", "qwen3-8b-Q4_K_M.gguf")
    touch(tmp_path, "mmproj-gemma-3-4b-it-f16.gguf", "gemma-3-12b-it-mmproj-f16.gguf", "mmproj-unknown.gguf")
    assert projectors(tmp_path) == {
        "gemma-3-12b-it-Q4_K_M": "gemma-3-12b-it-mmproj-f16.gguf",
        "gemma-3-4b-it-Q4_K_M": "mmproj-gemma-3-4b-it-f16.gguf",
        "qwen3-8b-Q4_K_M": None,
    }


def test_a_projector_never_goes_to_a_model_that_is_less_like_it(tmp_path: Path) -> None:
    touch(tmp_path, "gemma-3-4b-it-Q4.gguf", "gemma-3-12b-it-Q4.gguf", "mmproj-gemma-3-4b-it.gguf")
    assert projectors(tmp_path) == {"gemma-3-12b-it-Q4": None, "gemma-3-4b-it-Q4": "mmproj-gemma-3-4b-it.gguf"}


def test_of_several_projectors_half_precision_is_taken(tmp_path: Path) -> None:
    touch(tmp_path, "m.gguf", "mmproj-BF16.gguf", "mmproj-F16.gguf", "mmproj-F32.gguf", "mmproj-Q8_0.gguf")
    assert projectors(tmp_path) == {"m": "mmproj-F16.gguf"}


@pytest.mark.parametrize("name", ["mmproj.gguf", "MMPROJ-x.gguf", "mmproj1.gguf", "x-mmproj-f16.gguf", "x.mmproj.gguf"])
def test_projectors_are_no_models(name: str, tmp_path: Path) -> None:
    touch(tmp_path, name)
    assert find_gguf_models(tmp_path) == []


def test_folders_with_a_config_are_hugging_face_models(tmp_path: Path) -> None:
    touch(tmp_path, "config.json", "b/config.json", "org/a/config.json", "b/sub/config.json", "c/other.json")
    touch(tmp_path, ".hidden/config.json")
    found = find_hf_models(tmp_path)
    assert [(model.name, model.path) for model in found] == [("b", tmp_path / "b"), ("a", tmp_path / "org" / "a")]


def test_same_names_get_their_folder_and_then_a_number(tmp_path: Path) -> None:
    touch(tmp_path, "1/x/m.gguf", "2/x/m.gguf", "3/m.gguf", "m.gguf", "n.gguf")
    found = find_gguf_models(tmp_path)
    expected = ["m", "x/m", "3/m", f"{tmp_path.name}/m", "n"]
    assert [name for name, _ in distinct(found, ())] == expected
    twice = [name for name, _ in distinct([*found, *found], ())]
    assert len(set(twice)) == 10


def test_the_second_of_two_names_is_the_folder_and_the_name(tmp_path: Path) -> None:
    touch(tmp_path, "a/m.gguf", "b/c/m.gguf")
    assert [name for name, _ in distinct(find_gguf_models(tmp_path), ())] == ["m", "c/m"]


def test_a_name_that_is_taken_is_left_out(tmp_path: Path) -> None:
    touch(tmp_path, "a/m.gguf", "b/m.gguf", "n.gguf")
    assert [name for name, _ in distinct(find_gguf_models(tmp_path), {"m"})] == ["n"]


def test_a_root_that_does_not_exist_raises(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        find_gguf_models(tmp_path / "no")
    touch(tmp_path, "file")
    with pytest.raises(NotADirectoryError):
        find_hf_models(tmp_path / "file")


def test_a_folder_that_can_not_be_read_is_logged_and_skipped(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    touch(tmp_path, "open/m.gguf", "closed/n.gguf")
    (tmp_path / "closed").chmod(0)
    with caplog.at_level(logging.WARNING):
        found = names(find_gguf_models(tmp_path))
    (tmp_path / "closed").chmod(0o700)
    if found == ["n", "m"]:
        pytest.skip("root reads every folder")
    assert found == ["m"]
    assert "skipped=Permission denied" in caplog.text


def test_the_files_of_a_folder_are_what_libraries_read_and_nothing_deep_or_hidden(tmp_path: Path) -> None:
    read = ["1_Pooling/config.json", "config.json", "model.safetensors", "model.py", "tokenizer.model"]
    other = ["README.md", "onnx/deep/config.json", ".cache/x.json", ".hidden.json", "onnx/model.onnx", "photo.png"]
    for name in (*read, *other):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert sorted(path.relative_to(tmp_path).as_posix() for path in hf_files(tmp_path)) == sorted(read)


def test_a_folder_that_is_gone_has_no_files_and_says_so(tmp_path: Path) -> None:
    assert hf_files(tmp_path / "gone") == []
    assert hf_problem(tmp_path / "gone", "the label", pickle=False) == "the label does not exist"


def test_a_link_to_weights_that_are_gone_is_no_file(tmp_path: Path) -> None:
    (tmp_path / "config.json").touch()
    (tmp_path / "model.safetensors").symlink_to(tmp_path / "blob")
    assert str(hf_problem(tmp_path, "m", pickle=False)).startswith("m holds no weights")
    (tmp_path / "blob").touch()
    assert hf_problem(tmp_path, "m", pickle=False) is None


def test_of_weights_in_two_splits_one_whole_split_is_enough(tmp_path: Path) -> None:
    names = ["model.safetensors.index.json", "model-00001-of-00002.safetensors", "model-00001-of-00001.safetensors"]
    for name in ("config.json", *names):
        (tmp_path / name).touch()
    assert hf_problem(tmp_path, "m", pickle=False) is None
    (tmp_path / names[-1]).unlink()
    assert hf_problem(tmp_path, "m", pickle=False) == "m: of the 2 files of its weights these are missing: 2"
