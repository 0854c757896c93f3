"""Builds the distributions, looks at what is in them, and uses the wheel as a stranger would: scripts/test-wheel."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
from collections.abc import Collection
from pathlib import Path, PurePosixPath
from typing import IO, Final
from urllib.parse import urlsplit

import typer

ROOT: Final = Path(__file__).parents[1]
PATIENCE: Final = 300.0  # seconds for anything that downloads
PACKAGES: Final = {"manager", "routes"}
# Programs that llama.cpp starts: pip installs them as they are in the wheel.
EXECUTABLE: Final = {f"manager/engines/llama/ffmpeg/{name}" for name in ("ffmpeg", "ffprobe")}
PAGES: Final = {"routes/docs/swagger.html", "routes/docs/page.css", "routes/web_app/built/index.html"}
IN_WHEEL: Final = EXECUTABLE | PAGES | {"manager/py.typed"}
IN_SOURCE: Final = {"docs/api.md", "tests/conftest.py", "deploy/Containerfile", "data/models.schema.json", "LICENSE"}
# What somebody may have in a checkout, and nobody else may get.
PRIVATE: Final = re.compile(
    r"(^|/)(\.env|(keys|models|memory)\.json|usage\.sqlite.*|audit\.log.*|applogs|node_modules)(/|$)"
)
PRIVATE_ENDINGS: Final = (".gguf", ".safetensors", ".pem", ".key", ".pyc")


def main() -> None:
    """Exits with a message where something is wrong."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="lh-wheel-") as scratch:
        folder = Path(scratch)
        wheel = _build(folder / "dist")
        _say(began, f"built {wheel.name}")
        program = _install(wheel, folder)
        _say(began, "installed")
        _serve_and_chat(program, folder)
    _say(began, "served")


def _build(folder: Path) -> Path:
    _run([sys.executable, "-m", "build", "--outdir", str(folder), str(ROOT)], _environment(folder))
    (wheel,), (source,) = folder.glob("*.whl"), folder.glob("*.tar.gz")
    with zipfile.ZipFile(wheel) as archive:
        modes = {info.filename: info.external_attr >> 16 for info in archive.infolist()}
    _check_names(wheel, modes, IN_WHEEL)
    others = {PurePosixPath(name).parts[0] for name in modes} - PACKAGES
    _need(len(others) == 1 and others.pop().endswith(".dist-info"), f"{wheel.name} has more in it than {PACKAGES}")
    for name in EXECUTABLE:
        _need(modes[name] & 0o111 == 0o111, f"{name} is not executable in {wheel.name}")
    with tarfile.open(source) as archive:
        _check_names(source, {name.partition("/")[2] for name in archive.getnames()}, IN_SOURCE | IN_WHEEL)
    return wheel


def _check_names(file: Path, names: Collection[str], wanted: Collection[str]) -> None:
    missing = set(wanted) - set(names)
    _need(not missing, f"{file.name} lacks {', '.join(sorted(missing))}")
    private = [name for name in names if PRIVATE.search(name) or name.endswith(PRIVATE_ENDINGS)]
    _need(not private, f"{file.name} has {', '.join(private)}, which must not leave this machine")


def _install(wheel: Path, folder: Path) -> Path:
    pinned = f"--constraint {ROOT / 'constraints.txt'}"
    command = ["install", "--python", sys.executable, "--pip-args", pinned, str(wheel)]
    _run([sys.executable, "-m", "pipx", *command], _environment(folder))
    program = folder / "bin" / "llamaherd"
    said = _run([str(program), "--version"], _environment(folder)).strip()
    _need(said == f"llamaherd {wheel.name.split('-')[1]}", f"--version said {said!r}")
    return program


def _serve_and_chat(program: Path, folder: Path) -> None:
    place = folder / "place"
    place.mkdir()
    command = [str(program), "serve", "--first-start", "--port", "0"]
    process = subprocess.Popen(  # noqa: S603  the program that was just installed
        command, cwd=place, env=_environment(folder), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert process.stdout is not None  # noqa: S101  it is a pipe
    signal.signal(signal.SIGALRM, lambda *_: process.kill())
    signal.setitimer(signal.ITIMER_REAL, PATIENCE)
    try:
        key = _find(process.stdout, r"^\s*(sk-lh-\S+)$")
        url = _find(process.stdout, r"listening urls=(\S+)")
        typer.echo(f"The model said: {_chat(url, key)!r}", err=True)
        process.terminate()
        rest = process.stdout.read()
        _need(process.wait() == 0, f"the service ended with status {process.returncode}:\n{rest}")
    finally:
        process.kill()
        process.wait()
        signal.setitimer(signal.ITIMER_REAL, 0)


def _find(lines: IO[str], pattern: str) -> str:
    seen = []
    for line in lines:
        if found := re.search(pattern, line):
            return found[1]
        seen.append(line)
    raise SystemExit(f"The service ended before it said {pattern!r}:\n{''.join(seen)}")


def _chat(url: str, key: str) -> str:
    body = {"messages": [{"role": "user", "content": "Name a colour."}], "max_tokens": 16}
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=PATIENCE)
    connection.request("POST", "/v1/chat/completions", json.dumps(body), headers)
    text = json.load(connection.getresponse())["choices"][0]["message"]["content"]
    connection.close()
    _need(isinstance(text, str) and text.strip() != "", "the model said nothing")
    return str(text)


def _environment(folder: Path) -> dict[str, str]:
    """An empty home, nothing of this project's settings, and everything else as it is: proxies, package indexes."""
    left_out = re.compile(r"LLAMA|GGUF_|HF_|MODEL_|MMPROJ_|CONFIG_PATH$|XDG_|VIRTUAL_ENV$|PYTHONPATH$|PIPX_")
    kept = {name: value for name, value in os.environ.items() if not left_out.match(name)}
    pipx = {"PIPX_HOME": str(folder / "pipx"), "PIPX_BIN_DIR": str(folder / "bin")}
    return {**kept, **pipx, "HOME": str(folder / "home"), "PIP_DISABLE_PIP_VERSION_CHECK": "1"}


def _run(command: list[str], environment: dict[str, str]) -> str:
    """What it wrote to standard output."""
    done = subprocess.run(  # noqa: S603  our own commands
        command, env=environment, capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    _need(done.returncode == 0, f"{' '.join(command)} failed:\n{done.stdout}{done.stderr}")
    return done.stdout


def _need(condition: bool, message: str) -> None:
    if not condition:
        raise SystemExit(f"test-wheel: {message}")


def _say(began: float, what: str) -> None:
    typer.echo(f"test-wheel: {what} ({time.monotonic() - began:.0f} s)", err=True)


if __name__ == "__main__":
    main()
