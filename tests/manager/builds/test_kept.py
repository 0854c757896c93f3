from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from manager.builds.cpu import flags, instructions, portable_instructions, word
from manager.builds.kept import builds, chosen, picked, use
from manager.builds.removing import remove
from manager.errors import ConfigError, HerdError
from tests.manager.builds.conftest import Keep, program

OTHER_CPU = ["avx9000"]

INTEL = "processor : 0\nflags\t\t: fpu smep pni ssse3 sse4_2 avx avx2 avx512f md_clear hypervisor\nbugs :\n"
ARM = "processor : 0\nFeatures\t: fp asimd evtstrm aes atomics asimddp cpuid\n"


@pytest.mark.parametrize(
    ("text", "expected", "short"),
    [
        (INTEL, ("avx", "avx2", "avx512f", "pni", "sse4_2", "ssse3"), "avx512"),
        (ARM, ("aes", "asimd", "asimddp", "atomics"), "armv8.2"),
        (INTEL.replace(" avx512f", ""), ("avx", "avx2", "pni", "sse4_2", "ssse3"), "avx2"),
    ],
)
def test_instructions_are_what_compilers_use_and_nothing_of_the_kernel(
    text: str, expected: tuple[str, ...], short: str, tmp_path: Path
) -> None:
    (tmp_path / "cpuinfo").write_text(text)
    found = instructions(tmp_path / "cpuinfo")
    assert found == expected
    assert word(found) == short
    assert instructions(tmp_path / "none") == ()
    assert flags(tmp_path / "cpuinfo") > set(found)


def test_portable_build_needs_what_llama_cpp_takes_for_granted() -> None:
    assert "avx2" in portable_instructions("x86_64")
    assert portable_instructions("aarch64") == ()


def test_newest_that_fits_this_cpu_is_chosen(folder: Path, keep: Keep) -> None:
    keep("old", made_at=1000)
    keep("fits", made_at=2000)
    keep("other", made_at=3000, features=OTHER_CPU)
    assert [build.name for build in builds(folder)] == ["other", "fits", "old"]
    assert (build := chosen(folder)) is not None
    assert build.name == "fits"


def test_build_that_names_other_flags_of_this_cpu_than_we_would_fits(folder: Path, keep: Keep) -> None:
    keep("of-another-version", features=sorted(flags()))
    assert (build := chosen(folder)) is not None
    assert build.lacking() == []


def test_used_build_is_chosen_until_auto(folder: Path, keep: Keep) -> None:
    keep("old", made_at=1000)
    keep("new", made_at=2000)
    use(folder, "old")
    assert (build := picked(folder)) is not None
    assert build.name == "old"
    assert chosen(folder) == build
    assert (newest := use(folder, "auto")) is not None
    assert newest.name == "new"
    assert picked(folder) is None


def test_build_for_another_cpu_is_refused_with_the_reason(folder: Path, keep: Keep) -> None:
    keep("other", features=OTHER_CPU)
    with pytest.raises(ConfigError, match="another CPU, with avx9000"):
        use(folder, "other")
    assert chosen(folder) is None
    (folder / "chosen").write_text("other\n")  # by another machine with the same cache
    with pytest.raises(ConfigError, match=r"chosen: .*avx9000.*llama use"):
        chosen(folder)


def test_chosen_build_that_is_gone_is_told_and_never_replaced(folder: Path, keep: Keep) -> None:
    keep("new", made_at=2000)
    binary = keep("mine")
    use(folder, "mine")
    binary.unlink()
    with pytest.raises(ConfigError, match=r"no build 'mine'"):
        chosen(folder)


def test_unknown_name_gets_the_nearest(folder: Path, keep: Keep) -> None:
    keep("b11434-cpu-avx2")
    with pytest.raises(ConfigError, match="did you mean b11434-cpu-avx2"):
        use(folder, "b11434-cpu-avx")
    with pytest.raises(ConfigError, match="no build"):
        remove(folder, "../..")


def test_half_builds_and_other_folders_are_not_in_the_list(folder: Path, keep: Keep) -> None:
    keep("no-program").unlink()
    keep("not-executable").chmod(0o644)
    keep("broken")
    (folder / "broken" / "build.json").write_text("{")
    keep(".build-half")
    (folder / "logs").mkdir()
    assert builds(folder) == []
    assert builds(folder / "none") == []


@pytest.mark.parametrize("about", [{"features": 5}, {"features": [5]}, {"shared": "cublas-13"}])
def test_build_whose_description_makes_no_sense_is_not_in_the_list(
    about: dict[str, Any], folder: Path, keep: Keep
) -> None:
    keep("odd", **about)
    assert builds(folder) == []


@pytest.mark.parametrize("made_at", [float("nan"), float("inf"), 10**400, -1])
def test_build_of_an_impossible_time_counts_by_that_of_its_file(made_at: float, folder: Path, keep: Keep) -> None:
    os.utime(keep("odd", made_at=made_at), (2000, 2000))
    assert builds(folder)[0].made_at == 2000


def test_choice_that_can_not_be_written_is_told(folder: Path, keep: Keep) -> None:
    keep("mine")
    (folder / "chosen").mkdir()
    for name in ("mine", "auto"):
        with pytest.raises(HerdError, match="choice can't be written"):
            use(folder, name)


def test_server_that_was_put_there_by_hand_counts_by_its_time(folder: Path, keep: Keep) -> None:
    keep("made", made_at=1000)
    by_hand = program(folder / "b9" / "llama-server", "exit 0")
    os.utime(by_hand, (2000, 2000))
    assert (build := chosen(folder)) is not None
    assert (build.name, build.version, build.binary) == ("b9", "unknown", by_hand)


def test_program_of_a_release_lies_where_its_description_says(folder: Path, keep: Keep) -> None:
    keep("release", binary="build/bin/llama-server").unlink()
    assert builds(folder) == []
    binary = program(folder / "release" / "build" / "bin" / "llama-server", "exit 0")
    assert builds(folder)[0].binary == binary


def test_removed_build_takes_the_choice_and_its_own_libraries_with_it(folder: Path, keep: Keep) -> None:
    keep("one", shared=["cublas-12", "cublas-13"])
    keep("two", shared=["cublas-13"])
    for name in ("cublas-12", "cublas-13"):
        (folder / name).mkdir()
    use(folder, "one")
    remove(folder, "one")
    assert picked(folder) is None
    assert sorted(path.name for path in folder.iterdir()) == [".lock", "cublas-13", "two"]


def test_nothing_is_removed_while_a_build_is_made(folder: Path, keep: Keep) -> None:
    keep("one", shared=["cublas-12"])
    (folder / "cublas-12").mkdir()
    with FileLock(folder / ".lock"), pytest.raises(HerdError, match="Another build is being made"):
        remove(folder, "one")
    assert (folder / "cublas-12").exists()
    assert len(builds(folder)) == 1


def test_build_that_can_not_be_removed_is_told(folder: Path, keep: Keep) -> None:
    keep("mine")
    (folder / ".lock").mkdir()
    with pytest.raises(HerdError, match="mine can't be removed"):
        remove(folder, "mine")
    assert len(builds(folder)) == 1


def test_build_that_runs_is_not_removed_whatever_way_leads_to_it(folder: Path, keep: Keep, tmp_path: Path) -> None:
    binary = keep("busy")
    (tmp_path / "link").symlink_to(folder)
    binary.write_bytes(Path("/bin/sleep").read_bytes())
    with subprocess.Popen([str(binary), "1000"]) as process:
        try:
            for way in (folder, tmp_path / "link"):
                with pytest.raises(HerdError, match=f"in use by process {process.pid}"):
                    remove(way, "busy")
        finally:
            process.kill()
    assert binary.exists()
    remove(folder, "busy")
    assert [path.name for path in folder.iterdir()] == [".lock"]
