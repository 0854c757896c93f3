"""What is seen of a GGUF file before an engine gets it."""

from __future__ import annotations

import os
import struct
import time
from pathlib import Path

import gguf
import pytest
from gguf.constants import GGML_QUANT_SIZES

from manager.errors import LoadFailed
from manager.gguf_file import check_gguf, gguf_problem, split_name
from manager.gguf_header import BLOCK_SIZES, read_header
from tests.gguf_files import CHAT_TEMPLATE, write_header_only, write_tiny_gguf, write_truncated_gguf


def header(version: int = 3, tensors: int = 0, keys: int = 0, rest: bytes = b"") -> bytes:
    return b"GGUF" + struct.pack("<IQQ", version, tensors, keys) + rest


def key(name: bytes, kind: int, value: bytes) -> bytes:
    return struct.pack("<Q", len(name)) + name + struct.pack("<I", kind) + value


def test_a_whole_file_has_no_problem(tmp_path: Path) -> None:
    path = write_tiny_gguf(tmp_path / "tiny.gguf")
    assert 200_000 < path.stat().st_size < 260_000
    check_gguf(path)


def test_the_header_agrees_with_the_gguf_package(tmp_path: Path) -> None:
    path = write_tiny_gguf(tmp_path / "tiny.gguf", name="Tiny", context=512)
    ours, theirs = read_header(path), gguf.GGUFReader(path)
    assert ours.tensors == len(theirs.tensors)
    assert ours.needed == max(tensor.data_offset + tensor.n_bytes for tensor in theirs.tensors)
    assert ours.metadata["general.name"] == "Tiny"
    assert ours.metadata["llama.context_length"] == 512
    assert ours.metadata["tokenizer.chat_template"] == CHAT_TEMPLATE
    for name, value in ours.metadata.items():
        field = theirs.get_field(name)
        assert field is not None
        assert field.contents() == value


def test_block_sizes_agree_with_the_gguf_package() -> None:
    known = {int(kind): size for kind, size in GGML_QUANT_SIZES.items()}
    assert {kind: known.get(kind) for kind in BLOCK_SIZES} == BLOCK_SIZES


def test_every_cut_of_a_file_is_seen(tmp_path: Path) -> None:
    whole = write_tiny_gguf(tmp_path / "whole.gguf").read_bytes()
    path = tmp_path / "cut.gguf"
    for keep in (*range(1, 200), *range(200, len(whole), 997), len(whole) - 1):
        path.write_bytes(whole[:keep])
        problem = gguf_problem(path)
        assert problem is not None, keep
        assert ("cut off" in problem) == (keep >= 4), (keep, problem)


def test_a_cut_file_is_told_with_numbers(tmp_path: Path) -> None:
    path = write_truncated_gguf(tmp_path / "cut.gguf", keep=100_000)
    with pytest.raises(LoadFailed) as caught:
        check_gguf(path)
    assert caught.value.message == "cut.gguf is cut off: 100,000 bytes of at least 229,248"
    assert caught.value.should_retry is False


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "is empty"),
        (b"<!DOCTYPE html>", "is not a GGUF file"),
        (b"version https://git-lfs.github.com/spec/v1\n", "is not a GGUF file"),
        (header(version=1), "has GGUF version 1; known are 2 and 3"),
        (header(version=4), "has GGUF version 4; known are 2 and 3"),
        (b"GGUF" + struct.pack(">IQQ", 3, 0, 0), "is a big-endian GGUF file, which can't be used here"),
        (header(keys=2**60), "is no readable GGUF: its header claims 0 tensors and 1,152,921,504,606,846,976 keys"),
        (header(keys=1, rest=struct.pack("<Q", 2**40) + bytes(64)), "a name in its header is too long"),
        (header(keys=1, rest=key(b"a", 77, b"")), "has a value of the unknown type 77"),
        (header(keys=1, rest=key(b"a", 9, struct.pack("<IQ", 9, 1))), "has an array of the unknown type 9"),
        (header(keys=1, rest=key(b"a", 9, struct.pack("<IQ", 8, 2**50))), "is cut off in its header"),
        (header(keys=1, rest=key(b"a", 9, struct.pack("<IQ", 10, 2**62))), "is cut off in its header"),
        (header(tensors=1, rest=struct.pack("<Q", 1) + b"t" + struct.pack("<I", 99)), "a tensor has 99 dimensions"),
        (header(keys=1, rest=key(b"general.alignment", 4, bytes(4))), "its alignment is wrong"),
    ],
)
def test_what_is_no_gguf_is_told_with_the_reason(data: bytes, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(data)
    problem = gguf_problem(path)
    assert problem is not None
    assert problem.startswith("model.gguf ")
    assert reason in problem


def test_missing_parts_are_looked_for_as_far_as_they_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_tiny_gguf(tmp_path / "m-00001-of-01000.gguf")
    looks, is_file = [], Path.is_file

    def counted(path: Path) -> bool:
        looks.append(path)
        return is_file(path)

    monkeypatch.setattr(Path, "is_file", counted)
    problem = gguf_problem(tmp_path / "m-00001-of-01000.gguf")
    assert problem == "m: of its 1000 parts these are missing: 2, 3, 4, 5, 6, 7, 8, 9, …"
    assert len(looks) == 10


def test_a_name_that_says_more_parts_than_any_model_has_is_that_of_one_file(tmp_path: Path) -> None:
    assert split_name("m-00001-of-01000.gguf") is not None
    assert split_name("m-00001-of-01001.gguf") is None
    assert gguf_problem(write_tiny_gguf(tmp_path / "m-00001-of-99999.gguf")) is None


def test_random_bytes_after_the_magic_never_raise(tmp_path: Path) -> None:
    path = tmp_path / "noise.gguf"
    for number in range(200):
        path.write_bytes(header(keys=number % 7, tensors=number % 5, rest=os.urandom(300)))
        gguf_problem(path)


def test_a_header_that_claims_gigabytes_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(header(keys=1, rest=key(b"a", 9, struct.pack("<IQ", 0, 2**31))))
    os.truncate(path, 2**32)  # sparse: takes no room
    assert gguf_problem(path) == "model.gguf is no readable GGUF: its header claims more than 268,435,456 bytes"


def test_an_unknown_tensor_type_is_left_for_the_engine_to_judge(tmp_path: Path) -> None:
    tensor = struct.pack("<Q", 1) + b"t" + struct.pack("<IQIQ", 1, 2**40, 9999, 0)
    path = tmp_path / "model.gguf"
    path.write_bytes(header(tensors=1, rest=tensor))
    assert gguf_problem(path) is None


def test_missing_files_and_what_is_no_file(tmp_path: Path) -> None:
    assert gguf_problem(tmp_path / "no.gguf") == "no.gguf does not exist"
    assert gguf_problem(tmp_path / "no.gguf", "sub/no.gguf") == "sub/no.gguf does not exist"
    assert gguf_problem(tmp_path) == f"{tmp_path.name} is not a file"
    os.mkfifo(tmp_path / "pipe.gguf")
    assert gguf_problem(tmp_path / "pipe.gguf") == "pipe.gguf is not a file"
    (tmp_path / "loop.gguf").symlink_to("loop.gguf")
    assert "can't be read" in str(gguf_problem(tmp_path / "loop.gguf"))
    assert "can't be read" in str(gguf_problem(tmp_path / ("x" * 300 + ".gguf")))


def test_a_file_that_changes_is_looked_at_again(tmp_path: Path) -> None:
    path = write_truncated_gguf(tmp_path / "model.gguf")
    assert gguf_problem(path) is not None
    write_tiny_gguf(path)
    assert gguf_problem(path) is None
    path.unlink()
    assert gguf_problem(path) == "model.gguf does not exist"


def test_a_large_vocabulary_is_read_fast_and_then_remembered(tmp_path: Path) -> None:
    words = b"".join(struct.pack("<Q", 7) + b"token%02d" % (number % 100) for number in range(300_000))
    path = tmp_path / "model.gguf"
    path.write_bytes(header(keys=1, rest=key(b"tokens", 9, struct.pack("<IQ", 8, 300_000) + words)))
    started = time.perf_counter()
    assert gguf_problem(path) is None
    first = time.perf_counter()
    assert gguf_problem(path) is None
    assert first - started < 2  # some 50 ms; the bound is for a machine that is busy
    assert time.perf_counter() - first < (first - started) / 5


def test_names_of_split_files() -> None:
    split = split_name("a-b-00002-of-00003.gguf")
    assert split is not None
    assert (split.stem, split.part, split.total) == ("a-b", 2, 3)
    assert split.sibling(1) == "a-b-00001-of-00003.gguf"
    assert split_name("a-b.gguf") is None
    assert split_name("a-2-of-3.gguf") is None


def test_every_part_of_a_split_file_counts(tmp_path: Path) -> None:
    first = tmp_path / "m-00001-of-00003.gguf"
    assert gguf_problem(first) == "m: of its 3 parts these are missing: 1, 2, 3"
    write_header_only(first)
    write_header_only(tmp_path / "m-00003-of-00003.gguf")
    assert gguf_problem(first) == "m: of its 3 parts these are missing: 2"
    write_truncated_gguf(tmp_path / "m-00002-of-00003.gguf", keep=9000)
    assert gguf_problem(first) == "m-00002-of-00003.gguf is cut off: 9,000 bytes of at least 229,248"
    write_tiny_gguf(tmp_path / "m-00002-of-00003.gguf")
    assert gguf_problem(first) is None


def test_a_later_part_is_not_the_name_of_a_split_model(tmp_path: Path) -> None:
    problem = gguf_problem(tmp_path / "m-00002-of-00003.gguf")
    assert problem == "m-00002-of-00003.gguf is part 2 of a split model; name its first part, m-00001-of-00003.gguf"
