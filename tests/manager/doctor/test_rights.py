"""What a user without root's rights is told."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PORT = 443
SETPRIV = shutil.which("setpriv")
LOWEST_OPEN = Path("/proc/sys/net/ipv4/ip_unprivileged_port_start")
ASK = """
import json, sys
from manager.doctor import examine
from manager.doctor.case import Case
from manager.doctor.examination import AREAS
from manager.settings import load_settings
settings = load_settings({"server": {"port": 443}, "log": {"folder": "closed/logs"}})
found = examine(Case(settings), {area: AREAS[area] for area in ("ports", "files")})
print(json.dumps({one.name: [one.level, one.text, one.advice] for one in found}))
"""


@pytest.mark.skipif(
    os.geteuid() != 0 or SETPRIV is None or int(LOWEST_OPEN.read_text()) <= PORT,
    reason="only root has rights to take away, and some systems open all ports",
)
def test_low_port_and_closed_folder_are_errors_with_the_ways_to_get_them(tmp_path: Path) -> None:
    (tmp_path / "closed").mkdir(mode=0o500)
    command = [str(SETPRIV), "--bounding-set=-net_bind_service,-dac_override", sys.executable, "-c", ASK]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, check=True, timeout=30)
    found = json.loads(done.stdout)
    level, text, advice = found["server.port"]
    assert (level, text) == ("error", f"This user may not listen on 127.0.0.1:{PORT}.")
    assert "CAP_NET_BIND_SERVICE" in advice
    assert f"ip_unprivileged_port_start={PORT}" in advice
    level, text, advice = found["log.folder"]
    logs = tmp_path / "closed" / "logs"
    assert (level, text) == ("error", f"{logs} can't be made in {tmp_path / 'closed'} by this user.")
    assert "set log.folder to another folder" in advice
