"""What a user without root's rights is told."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

PORT = 443
SETPRIV = shutil.which("setpriv")
LOWEST_OPEN = Path("/proc/sys/net/ipv4/ip_unprivileged_port_start")
ASK = """
import json
from manager.doctor import examine
from manager.doctor.case import Case
from manager.doctor.examination import AREAS
from manager.settings import load_settings
settings = load_settings(%s)
found = examine(Case(settings), {area: AREAS[area] for area in %s})
print(json.dumps({one.name: [one.level, one.text, one.advice] for one in found}))
"""


RIGHTS = "--bounding-set=-net_bind_service,-dac_override,-dac_read_search"

needs_root = pytest.mark.skipif(
    os.geteuid() != 0 or SETPRIV is None, reason="only root has rights to take away, and setpriv takes them"
)


def told(folder: Path, settings: dict[str, Any], *areas: str) -> dict[str, list[str]]:
    """Level, text and advice of the findings, asked in this folder by root without its rights."""
    command = [str(SETPRIV), RIGHTS, sys.executable, "-c", ASK % (settings, areas)]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, check=True, timeout=30)
    found: dict[str, list[str]] = json.loads(done.stdout)
    return found


@needs_root
@pytest.mark.skipif(int(LOWEST_OPEN.read_text()) <= PORT, reason="some systems open all ports")
def test_low_port_and_closed_folder_are_errors_with_the_ways_to_get_them(tmp_path: Path) -> None:
    (tmp_path / "closed").mkdir(mode=0o500)
    found = told(tmp_path, {"server": {"port": PORT}, "log": {"folder": "closed/logs"}}, "ports", "files")
    level, text, advice = found["server.port"]
    assert (level, text) == ("error", f"This user may not listen on 127.0.0.1:{PORT}.")
    assert "CAP_NET_BIND_SERVICE" in advice
    assert f"ip_unprivileged_port_start={PORT}" in advice
    level, text, advice = found["log.folder"]
    logs = tmp_path / "closed" / "logs"
    assert (level, text) == ("error", f"{logs} can't be made in {tmp_path / 'closed'} by this user.")
    assert "set log.folder to another folder" in advice


@needs_root
def test_folder_that_may_not_be_entered_is_an_error_of_each_setting_below_it(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    (closed / "data").mkdir(parents=True)
    (tmp_path / "data").symlink_to(closed / "data")
    closed.chmod(0o600)
    found = told(tmp_path, {"storage": {"cache_folder": str(tmp_path / "cache")}}, "files", "models")
    settings = ["data_folder", "run_folder", "keys_file", "models_file", "models_folder", "slots_folder"]
    for setting in settings:
        level, text, advice = found[f"storage.{setting}"]
        assert (level, text) == ("error", f"This user may not enter {closed}.")
        assert f"chmod o+x {closed}" in advice
    assert found["storage.cache_folder"][0] == "ok"
    assert not [text for _, text, _ in found.values() if text.startswith("Could not be told")]


@needs_root
def test_models_json_that_can_not_be_read_is_told_with_the_right_that_lacks(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "models.json").write_text("{}")
    (tmp_path / "data" / "models.json").chmod(0o200)
    level, text, advice = told(tmp_path, {}, "models")["models.json"]
    assert (level, "can't be read: Permission denied" in text) == ("error", True)
    assert "right to read it" in advice
