from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from manager.builds.kept import use
from manager.engines.llama.native import choose_launcher, drives_cuda, find_binary
from manager.errors import ConfigError
from tests.conftest import MakeSettings


def executable(path: Path, script: str = "exit 0") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


@pytest.fixture(autouse=True)
def _empty_path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path / "on-path"))


def test_setting_goes_before_path_and_path_before_cache(make_settings: MakeSettings, tmp_path: Path) -> None:
    cached = executable(tmp_path / "cache" / "llama" / "b1" / "llama-server")
    assert find_binary(make_settings()) == cached
    on_path = executable(tmp_path / "on-path" / "llama-server")
    assert find_binary(make_settings()) == on_path
    set_one = executable(tmp_path / "mine")
    assert find_binary(make_settings(llama={"binary": set_one})) == set_one


def test_newest_of_the_cache_is_taken(make_settings: MakeSettings, tmp_path: Path) -> None:
    old = executable(tmp_path / "cache" / "llama" / "b9" / "llama-server")
    new = executable(tmp_path / "cache" / "llama" / "b10" / "llama-server")
    broken = tmp_path / "cache" / "llama" / "b11" / "llama-server"
    broken.parent.mkdir()
    broken.write_text("not executable")
    os.utime(old, (1000, 1000))
    os.utime(new, (2000, 2000))
    assert find_binary(make_settings()) == new


def test_chosen_build_goes_before_path_but_not_before_the_setting(make_settings: MakeSettings, tmp_path: Path) -> None:
    chosen = executable(tmp_path / "cache" / "llama" / "mine" / "llama-server")
    executable(tmp_path / "on-path" / "llama-server")
    use(tmp_path / "cache" / "llama", "mine")
    assert find_binary(make_settings()) == chosen
    set_one = executable(tmp_path / "set")
    assert find_binary(make_settings(llama={"binary": set_one})) == set_one


def test_chosen_build_that_is_gone_is_a_mistake(make_settings: MakeSettings, tmp_path: Path) -> None:
    chosen = executable(tmp_path / "cache" / "llama" / "mine" / "llama-server")
    executable(tmp_path / "on-path" / "llama-server")
    use(tmp_path / "cache" / "llama", "mine")
    chosen.unlink()
    with pytest.raises(ConfigError, match=r"no build 'mine'.*llamaherd llama use"):
        choose_launcher(make_settings())


def test_there_may_be_no_binary(make_settings: MakeSettings) -> None:
    assert find_binary(make_settings()) is None


def test_set_binary_that_is_missing_or_can_not_be_run_is_a_mistake_of_that_setting(
    make_settings: MakeSettings, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=r"llama\.binary.*does not exist"):
        find_binary(make_settings(llama={"binary": tmp_path / "none"}))
    plain = tmp_path / "plain"
    plain.write_text("")
    with pytest.raises(ConfigError, match=r"llama\.binary.*not executable"):
        find_binary(make_settings(llama={"binary": plain}))


def test_native_wins_where_there_is_one(make_settings: MakeSettings, tmp_path: Path) -> None:
    assert choose_launcher(make_settings()) == ("embedded", None)
    binary = executable(tmp_path / "on-path" / "llama-server")
    assert choose_launcher(make_settings()) == ("native", binary)
    assert choose_launcher(make_settings(llama={"launcher": "native"})) == ("native", binary)
    assert choose_launcher(make_settings(llama={"launcher": "embedded"})) == ("embedded", None)


def test_native_without_a_binary_is_told(make_settings: MakeSettings) -> None:
    with pytest.raises(ConfigError, match=r"llama\.binary"):
        choose_launcher(make_settings(llama={"launcher": "native"}))


def test_without_binary_and_wheel_both_ways_out_are_told(
    make_settings: MakeSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = make_settings()
    monkeypatch.delitem(sys.modules, "xllamacpp", raising=False)
    monkeypatch.setattr(sys, "path", [])
    monkeypatch.setattr(sys, "meta_path", [finder for finder in sys.meta_path if "PathFinder" not in repr(finder)])
    with pytest.raises(ConfigError, match=r"install the package xllamacpp.*llama\.binary.*PATH"):
        choose_launcher(settings)


@pytest.mark.parametrize(
    ("script", "drives"),
    [
        ("echo 'Available devices:'; echo '  CUDA0: NVIDIA H200 (143000 MiB, 142000 MiB free)'", True),
        ("echo 'Available devices:'; echo '  (none)'", False),
        ("echo 'Available devices:'; echo '  Vulkan0: NVIDIA H200 (143000 MiB)'", False),
        ("echo 'error: unknown argument' >&2; exit 1", True),  # it does not say
    ],
)
def test_server_that_was_not_compiled_for_gpus_uses_none(script: str, drives: bool, tmp_path: Path) -> None:
    assert drives_cuda(executable(tmp_path / "llama-server", script)) is drives


def test_server_is_asked_for_its_devices_once(tmp_path: Path) -> None:
    server = executable(tmp_path / "llama-server", f"echo asked >> {tmp_path}/log; echo 'Available devices:'")
    assert [drives_cuda(server) for _ in range(3)] == [False] * 3
    assert (tmp_path / "log").read_text() == "asked\n"
