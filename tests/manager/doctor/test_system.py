from __future__ import annotations

import json
import os
import platform
import resource
import time
from pathlib import Path

import pytest

import manager
from manager.doctor import Level
from manager.places import RESERVE
from tests.manager.doctor.conftest import Look


def test_versions_processor_and_features_are_told(look: Look, machine: Path) -> None:
    found = look("system")
    assert found["Python"].text.startswith(platform.python_version())
    assert platform.machine() in found["system"].text
    assert found["processor"].text.startswith("Fast CPU, ")
    assert found["llamaherd"].text.endswith(str(Path(manager.__file__).parents[1]))
    assert found["features"].text == "sse4_2, avx, f16c, fma, avx2"


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the others have no AVX")
def test_processor_without_avx2_is_a_warning(look: Look, machine: Path) -> None:
    (machine / "proc/cpuinfo").write_text("model name\t: Old CPU\nflags\t\t: pni sse4_2 avx\n")
    found = look("system")["features"]
    assert (found.level, found.text) == (Level.WARNING, "AVX2 is missing (there are: sse4_2, avx): it is slow.")


def test_limit_of_open_files_below_the_connections_is_a_warning_with_the_numbers(look: Look) -> None:
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    assert look("system", server={"max_connections": 1})["open files"].level is Level.OK
    found = look("system", server={"max_connections": most})["open files"]
    assert found.level is Level.WARNING
    assert f"LimitNOFILE={most + RESERVE}" in str(found.advice)


def test_clock_that_is_before_the_installation_is_an_error(look: Look, monkeypatch: pytest.MonkeyPatch) -> None:
    assert look("system")["clock"].level is Level.OK
    monkeypatch.setattr(time, "time", lambda: 1000.0)
    found = look("system")["clock"]
    assert (found.level, "It says 1970-01-01 00:16 UTC" in found.text) == (Level.ERROR, True)


def test_configuration_files_and_variables_are_listed(look: Look, monkeypatch: pytest.MonkeyPatch) -> None:
    found = look("config")
    assert found["YAML file"].text.startswith("none")
    assert found["environment"].text == "no variable of ours is set"
    Path("c.yml").write_text("server: {port: 0}\n")
    Path(".env").write_text("MODEL_NAME=x\n")
    monkeypatch.setenv("CONFIG_PATH", "c.yml")
    monkeypatch.setenv("LLAMAHERD_HUB__TOKEN", "hf_secret")
    found = look("config", server={"dangerously_send_keys_in_clear": True}, memory={"admission": False})
    assert found["YAML file"].text == str(Path("c.yml").absolute())
    assert found[".env"].text == str(Path(".env").absolute())
    assert found["environment"].text == "CONFIG_PATH, LLAMAHERD_HUB__TOKEN"
    assert found["server.dangerously_send_keys_in_clear"].level is Level.WARNING
    assert found["memory.admission"].level is Level.NOTE
    assert "hf_secret" not in json.dumps([str(one) for one in found.values()])


def test_memory_and_budget_are_told(look: Look) -> None:
    found = look("memory")
    assert "GB free" in found["host"].text
    assert found["budget"].text == "what is free less 0.5 GB (memory.host_reserve)"
    assert look("memory", memory={"host_budget": 10**9})["budget"].text == "1.0 GB for all models (memory.host_budget)"
    assert look("memory", memory={"host_budget": 10**16})["budget"].level is Level.WARNING
    assert look("memory", memory={"host_reserve": 10**16})["reserve"].level is Level.ERROR


def test_strict_overcommit_is_a_warning(look: Look, machine: Path) -> None:
    setting = machine / "proc/sys/vm/overcommit_memory"
    setting.parent.mkdir()
    setting.write_text("0\n")
    assert "overcommit" not in look("memory")
    setting.write_text("2\n")
    assert look("memory")["overcommit"].level is Level.WARNING


@pytest.mark.skipif(os.geteuid() != 0, reason="only root is told that it is root")
def test_root_is_told_that_its_rights_are_not_those_of_the_service(look: Look) -> None:
    assert look("files")["user"].level is Level.NOTE
