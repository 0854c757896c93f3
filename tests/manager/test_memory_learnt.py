from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from manager.memory import HOST, Estimate, Part
from manager.memory_learnt import (
    FLOOR,
    LIVES,
    PROCESS_FLOOR,
    SHAPES,
    UNTOUCHED,
    Learnt,
    Life,
    corrected,
    lasting,
    peaks,
    raised,
)

GPU = "gpu0"


def needs(host: int, gpu: int = 0, *, reclaimable: int = 0) -> Estimate:
    parts = (Part("weights", HOST, host), *([Part("weights", GPU, gpu)] if gpu else []))
    return Estimate(parts, reclaimable, ())


def served(**peak: int) -> Life:
    return Life(peak, served=True)


def unused(**peak: int) -> Life:
    return Life(peak, served=False)


def bounded(estimate: Estimate, lives: tuple[Life, ...]) -> dict[str, int]:
    """On devices that are large enough for everything here."""
    return corrected(estimate, lives, {HOST: 1 << 40, GPU: 1 << 40})


def known(path: Path, fingerprint: str = "f") -> tuple[Life, ...]:
    learnt = Learnt(path)
    learnt.read()
    return learnt.lives(fingerprint)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "new" / "memory.json"


# the correction


def test_nothing_learnt_changes_nothing() -> None:
    assert bounded(needs(1000, 500, reclaimable=100), ()) == {HOST: 900, GPU: 500}


@pytest.mark.parametrize("life", [served(host=1500), unused(host=1500)])
def test_more_than_was_expected_counts_with_a_margin(life: Life) -> None:
    assert bounded(needs(1000), (life,)) == {HOST: 1545}


def test_less_counts_where_the_model_was_used() -> None:
    assert bounded(needs(1000), (served(host=930),)) == {HOST: 958}


def test_less_does_not_count_where_it_was_only_loaded() -> None:
    assert bounded(needs(1000, 800), (unused(host=500, gpu0=100),)) == {HOST: 1000, GPU: 800}


def of_parts(**sizes: int) -> Estimate:
    return Estimate(tuple(Part(name, HOST, size) for name, size in sizes.items()), 0, ())


def test_a_life_that_was_hardly_used_leaves_room_for_its_buffers() -> None:
    estimate = of_parts(cache=1000, compute=250, output=50, process=400)
    # Nothing of them was touched; a full use takes 1700.
    assert bounded(estimate, (served(host=1400),)) == {HOST: round(UNTOUCHED * 1700)}


def test_buffers_are_not_expected_beyond_the_estimate() -> None:
    estimate = of_parts(cache=1000, compute=900)
    assert bounded(estimate, (served(host=1800),)) == {HOST: 1900}


def test_pages_that_were_shared_with_others_are_needed_all_the_same() -> None:
    assert bounded(needs(1000), (served(host=300),)) == {HOST: round(FLOOR * 1000)}


def test_the_process_itself_may_take_much_less() -> None:
    estimate = of_parts(cache=1000, process=500)
    assert bounded(estimate, (served(host=1200),)) == {HOST: 1236}
    assert bounded(estimate, (served(host=900),)) == {HOST: round(FLOOR * 1000 + PROCESS_FLOOR * 500)}


def test_the_largest_of_the_lives_counts_whichever_came_last() -> None:
    lives = (served(host=980), served(host=910), unused(host=920))
    assert bounded(needs(1000), lives) == {HOST: 1009}
    assert peaks(lives) == {HOST: 980}


def test_a_loaded_life_that_took_more_than_a_used_one_is_not_forgotten() -> None:
    assert bounded(needs(1000), (served(host=910), unused(host=950))) == {HOST: 978}


def test_a_gpu_has_all_its_buffers_from_the_load_on_and_no_floor() -> None:
    assert bounded(needs(1000, 1000), (served(host=980, gpu0=400),)) == {HOST: 1009, GPU: 412}


def test_what_was_not_measured_keeps_its_estimate() -> None:
    assert bounded(needs(1000, 1000), (served(host=1000),))[GPU] == 1000


def test_a_device_that_nobody_expected_counts() -> None:
    assert bounded(needs(1000), (served(host=1000, gpu0=200),)) == {HOST: 1030, GPU: 206}


def test_what_the_kernel_takes_back_need_not_be_there() -> None:
    estimate = needs(2000, reclaimable=900)
    assert bounded(estimate, (served(host=2000),)) == {HOST: 2060 - 900}
    # The kernel had taken it back already: the rest is needed all the same.
    assert bounded(estimate, (served(host=1100),)) == {HOST: round(FLOOR * 1100)}


def test_what_was_learnt_counts_up_to_what_a_device_could_have() -> None:
    life = served(host=5000, gpu0=900)
    assert corrected(needs(1000, 500), (life,), {HOST: 2000, GPU: 600}) == {HOST: 2000, GPU: 600}


def test_an_estimate_above_what_a_device_could_have_stays() -> None:
    assert corrected(needs(1000, 500), (served(host=5000, gpu0=900),), {HOST: 800, GPU: 400}) == {HOST: 1000, GPU: 500}


def test_where_layers_go_by_what_is_free_nothing_counts_downwards() -> None:
    most, life = {HOST: 9000, GPU: 9000}, served(host=930, gpu0=200)
    assert corrected(needs(1000, 500), (life,), most, settled=False) == {HOST: 1000, GPU: 500}
    assert corrected(needs(1000, 100), (life,), most, settled=False) == {HOST: 1000, GPU: 206}


# the correction for models in our own process

LARGE = {HOST: 1 << 40, GPU: 1 << 40}


def of_ours(**sizes: int) -> Estimate:
    """Weights and cache are what its engine counts."""
    return Estimate(tuple(Part(name, HOST, size) for name, size in sizes.items()), 0, ())


def test_what_an_engine_counted_comes_beside_what_it_does_not_count() -> None:
    estimate = of_ours(weights=1000, cache=500, compute=100, libraries=300)
    assert raised(estimate, (served(host=1600),), LARGE) == {HOST: 1600 + 100 + 300}
    assert raised(estimate, (served(host=1500),), LARGE) == {HOST: 1900}


def test_a_cache_that_was_not_filled_lowers_nothing() -> None:
    assert raised(of_ours(weights=1000, cache=500), (served(host=1000),), LARGE) == {HOST: 1500}
    assert raised(of_ours(weights=1000, cache=500), (), LARGE) == {HOST: 1500}


def test_what_an_engine_counted_never_makes_its_model_impossible() -> None:
    estimate = of_ours(weights=1000, compute=100)
    assert raised(estimate, (served(host=5000),), {HOST: 3000}) == {HOST: 3000}
    assert raised(estimate, (served(host=5000),), {HOST: 900}) == {HOST: 1100}


def test_a_gpu_that_an_engine_used_counts_where_that_will_be_so_again() -> None:
    life = served(host=1000, gpu0=700)
    assert raised(of_ours(weights=1000), (life,), LARGE) == {HOST: 1000, GPU: 700}
    assert raised(of_ours(weights=1000), (life,), LARGE, settled=False) == {HOST: 1000}


def test_only_libraries_stay_when_a_model_goes() -> None:
    parts = (Part("weights", GPU, 5), Part("libraries", HOST, 3), Part("libraries", GPU, 4))
    assert lasting(Estimate(parts, 0, ())) == {HOST: 3, GPU: 4}
    assert lasting(of_ours(weights=5)) == {}


# the memory of it


def test_lives_come_back_from_the_file(file: Path) -> None:
    learnt = Learnt(file)
    learnt.read()
    learnt.add("f", "smol", served(host=5, gpu0=7))
    learnt.add("f", "smol", unused(host=6))
    learnt.write(learnt.snapshot())
    assert known(file) == (served(host=5, gpu0=7), unused(host=6))
    assert [path.name for path in file.parent.iterdir()] == [file.name]


def test_only_the_last_lives_are_kept(file: Path) -> None:
    learnt = Learnt(file)
    for size in range(LIVES + 3):
        learnt.add("f", "smol", served(host=size))
    learnt.write(learnt.snapshot())
    assert [life.peak[HOST] for life in known(file)] == list(range(3, LIVES + 3))


def test_only_so_many_shapes_are_kept_and_the_oldest_go(file: Path) -> None:
    learnt = Learnt(file)
    for number in range(SHAPES):
        learnt.add(f"f{number}", "smol", served(host=number))
    learnt.add("f0", "smol", served(host=9))  # is new again
    learnt.add("more", "smol", served(host=1))
    learnt.write(learnt.snapshot())
    assert len(json.loads(file.read_text())["models"]) == SHAPES
    assert [len(known(file, name)) for name in ("f0", "f1", "f2", "more")] == [2, 0, 1, 1]


def test_no_file_is_nothing_learnt_and_no_warning(file: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert known(file) == ()
    assert not caplog.records


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"{}",
        b"\xff\xfe",
        b'{"version": 2, "models": {}}',
        b'{"version": 1, "models": []}',
        b'{"version": 1, "models": {"f": {"model": "m", "lives": [{"served": true, "peak": {"host": -1}}]}}}',
        b'{"version": 1, "models": {"f": {"model": "m", "lives": [{"served": true, "peak": {"host": "1"}}]}}}',
        b'{"version": 1, "models": {"f": {"model": "m", "lives": {"a": 1}}}}',
        b'{"version": 1, "models": {"f": null}}',
        b"[" * 100_000,
    ],
)
def test_a_broken_file_is_named_and_learning_starts_anew(
    content: bytes, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "memory.json"
    file.write_bytes(content)
    learnt = Learnt(file)
    learnt.read()
    assert learnt.lives("f") == ()
    (record,) = caplog.records
    assert str(file) in record.message
    learnt.add("f", "smol", served(host=3))
    learnt.write(learnt.snapshot())
    assert known(file) == (served(host=3),)


def test_a_file_that_can_not_be_read_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert known(tmp_path) == ()
    assert f"{tmp_path} ignored" in caplog.text
    assert "Is a directory" in caplog.text


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(file: Path) -> None:
    file.mkdir(parents=True)
    (file / "in the way").touch()
    learnt = Learnt(file)
    learnt.add("f", "smol", served(host=3))
    with pytest.raises(OSError, match=r"memory\.json"):
        learnt.write(learnt.snapshot())
    assert [path.name for path in file.parent.iterdir()] == [file.name]


def test_what_is_learnt_while_it_is_written_does_not_disturb(file: Path) -> None:
    learnt = Learnt(file)
    learnt.add("f", "smol", served(host=3))
    snapshot: Any = learnt.snapshot()
    learnt.add("f", "smol", served(host=4))
    learnt.add("g", "smol", served(host=5))
    learnt.write(snapshot)
    assert known(file) == (served(host=3),)
    assert known(file, "g") == ()
