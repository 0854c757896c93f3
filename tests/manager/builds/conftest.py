"""Fakes of CMake, Ninja and the compilers, a tree that passes for llama.cpp's, and builds that are there already."""

from __future__ import annotations

import json
import shlex
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import pytest

from manager.builds.building import Order
from manager.builds.building import build as make
from manager.builds.kept import Build, builds_folder
from manager.settings import Settings
from tests.conftest import EMPTY_GGUF, MakeSettings
from tests.fakes import write_binary

# It acts out a compilation of four steps. FAKE_CMAKE: `misconfigured`, `fails` or `hangs`; FAKE_CMAKE_LOG gets each
# command line, FAKE_CMAKE_PIDS the processes of one that hangs, FAKE_PRODUCT is what it has "compiled".
CMAKE = r"""#!/bin/sh
[ "$1" = --version ] && echo "cmake version ${FAKE_CMAKE_VERSION:-4.4.4}" && exit
printf '%s\n' "$*" >> "$FAKE_CMAKE_LOG"
if [ "$1" != --build ]; then
    [ "$FAKE_CMAKE" != misconfigured ] && echo "-- Generating done" && exit
    printf -- '-- Looking\nCMake Error at CMakeLists.txt:3 (find_package):\n  Could NOT find it\n' && exit 1
fi
for step in 1 2 3 4; do
    if [ "$FAKE_CMAKE" = fails ] && [ $step = 3 ]; then
        printf 'FAILED: 3.o\nserver.cpp:7: error: expected a semicolon\nninja: build stopped\n' && exit 1
    fi
    if [ "$FAKE_CMAKE" = hangs ] && [ $step = 3 ]; then
        setsid sleep 1000 & echo $! $$ > "$FAKE_CMAKE_PIDS"
        echo "[3/4] Building CXX object 3.o"
        wait
    fi
    echo "[$step/4] Building CXX object $step.o"
done
mkdir -p "$2/bin" && cp "$FAKE_PRODUCT" "$2/bin/llama-server" && cp "$FAKE_PRODUCT" "$2/bin/ggml-rpc-server"
"""


def program(path: Path, script: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(script if script.startswith("#!") else f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


@dataclass
class Watcher:
    """Notes what is told. `at`: called at that step of the compilation."""

    said: list[str] = field(default_factory=list)
    steps: list[tuple[int, int]] = field(default_factory=list)
    raises: BaseException | None = None
    at: int = 0

    def say(self, text: str) -> None:
        self.said.append(text)

    def progress(self, done: int, total: int) -> None:
        self.steps.append((done, total))
        if self.raises is not None and done == self.at:
            raise self.raises


@pytest.fixture
def settings(make_settings: MakeSettings) -> Settings:
    return make_settings()


@pytest.fixture
def folder(settings: Settings) -> Path:
    return builds_folder(settings)


@pytest.fixture
def watcher() -> Watcher:
    return Watcher()


@pytest.fixture
def toolbox(tmp_path: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The fakes, in place of what lies beside this Python and on PATH."""
    bin_folder = tmp_path / "bin"
    program(bin_folder / "python", f'exec {shlex.quote(sys.executable)} "$@"')
    program(bin_folder / "cmake", CMAKE)
    program(bin_folder / "ninja", "echo 1.13.2")
    for compiler in ("cc", "c++"):
        program(bin_folder / compiler, "echo fake-cc 1.0")
    product = tmp_path / "product"
    product.mkdir()
    monkeypatch.setenv("FAKE_PRODUCT", str(write_binary(product)))
    monkeypatch.setenv("FAKE_CMAKE_LOG", str(tmp_path / "cmake.log"))
    monkeypatch.setenv("FAKE_CMAKE_PIDS", str(tmp_path / "pids"))
    monkeypatch.setenv("PATH", f"{bin_folder}:/usr/bin:/bin")
    for name in ("CC", "CXX", "CUDACXX", "VULKAN_SDK"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(sys, "executable", str(bin_folder / "python"))
    return bin_folder


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """As much of llama.cpp as is looked at."""
    return write_tree(tmp_path / "llama.cpp-b4321")


def write_tree(folder: Path) -> Path:
    for name, text in {
        "CMakeLists.txt": "project(llama.cpp)\n",
        "LICENSE": "MIT\n",
        "tools/server/CMakeLists.txt": "add_executable(llama-server main.cpp)\n",
        "tools/server/main.cpp": "int main() {}\n",
    }.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


class MakeBuild(Protocol):
    """`llamaherd llama build`, with the fakes, from `tree`."""

    def __call__(self, *, smoke_test: bool = False, **order: Any) -> Build: ...


@pytest.fixture
def make_build(toolbox: Path, tree: Path, settings: Settings, watcher: Watcher, tmp_path: Path) -> MakeBuild:
    model = tmp_path / "model.gguf"
    model.write_bytes(EMPTY_GGUF)

    def call(*, smoke_test: bool = False, **order: Any) -> Build:
        wanted = Order(**{"gpu": "cpu", "source": tree, **order})
        return make(wanted, settings, watcher, (lambda: model) if smoke_test else None, quiet=True)

    return call


class Keep(Protocol):
    """Puts a build into the list, as if it had been made."""

    def __call__(self, name: str, *, made_at: float = 1000.0, **about: Any) -> Path: ...


@pytest.fixture
def keep(folder: Path) -> Keep:
    def call(name: str, *, made_at: float = 1000.0, **about: Any) -> Path:
        binary = program(folder / name / "llama-server", "echo 'version: 0.6.0 (build 7, commit abc)'")
        described = {"version": "b7", "backend": "cpu", "features": [], "made_at": made_at, **about}
        (folder / name / "build.json").write_text(json.dumps(described))
        return binary

    return call
