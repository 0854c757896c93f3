"""The scripts, with a Python in place of the real one that only writes down what it is asked to do."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from manager.auth import KeyStore

ROOT = Path(__file__).parent.parent
BASH = "/bin/bash"
SCRIPTS = [
    *(
        "scripts/start",
        "scripts/test",
        "scripts/test-web",
        "scripts/test-native",
        "scripts/test-wheel",
        "scripts/test-cuda",
        "scripts/check",
        "scripts/audit",
    ),
    *("scripts/setup.sh", ".ci/run"),
]

# What the clients of the tests are made of.
CLIENTS_OF = [f"tests/clients/{name}" for name in ("requirements.txt", "node/package.json", "node/package-lock.json")]

WEB_OF = ["web/package.json", "web/package-lock.json", "web/src/main.ts"]

# Called as npm: notes what it is asked to do, builds the web app's page, and fails on demand.
FAKE_NPM = """#!/bin/bash
echo "npm $* in $PWD" >>"$FAKE_LOG"
case "$1" in
    ci) mkdir -p node_modules; exit "${FAKE_NPM_EXIT:-0}" ;;
    run) mkdir -p ../routes/web_app/built; echo >../routes/web_app/built/index.html; exit "${FAKE_BUILD_EXIT:-0}" ;;
esac
"""
# Called as node: its version is one that will do, or not.
FAKE_NODE = """#!/bin/bash
exit "${FAKE_NODE_OLD:-0}"
"""

# Called as .venv/bin/python: a version, a pip that notes its arguments and fails on demand, and nothing else.
FAKE_PYTHON = """#!/bin/bash
case "$*" in
    *"print(sys.version)"*) echo "${FAKE_VERSION:-3.11.0}" ;;
    *"pip install"*) echo "$*" >>"$FAKE_LOG"; exit "${FAKE_PIP_EXIT:-0}" ;;
    *ensurepip*) exit "${FAKE_ENSUREPIP_EXIT:-0}" ;;
    *"sys.version_info <"*) exit "${FAKE_OLD:-0}" ;;
    *"python%d.%d"*) echo python3.11 ;;
    *"-m venv"*) mkdir -p "${@: -1}/bin"; cp "$0" "${@: -1}/bin/python"; echo venv >>"$FAKE_LOG" ;;
    --version) echo "Python 3.11.0" ;;
    *) echo "unexpected: $*" >&2; exit 99 ;;
esac
"""


class Tree:
    """A repository with the set-up script in it, and a PATH with the fake Python."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "a folder"
        self.log = folder / "log"
        self.path = folder / "bin"
        self.path.mkdir()
        for tool in ("bash", "cat", "cp", "cut", "dirname", "find", "mkdir", "rm", "sha256sum", "sort", "xargs"):
            where = shutil.which(tool)
            assert where is not None
            (self.path / tool).symlink_to(where)
        (self.root / "scripts").mkdir(parents=True)
        shutil.copy(ROOT / "scripts/setup.sh", self.root / "scripts")
        (self.root / "tests/clients/node").mkdir(parents=True)
        (self.root / "web/src").mkdir(parents=True)
        (self.root / "routes/web_app").mkdir(parents=True)
        for name in ("pyproject.toml", "constraints.txt", *CLIENTS_OF, *WEB_OF):
            (self.root / name).write_text("")

    def add_python(self, name: str) -> None:
        (self.path / name).write_text(FAKE_PYTHON)
        (self.path / name).chmod(0o755)

    def add_npm(self) -> None:
        for name, text in (("npm", FAKE_NPM), ("node", FAKE_NODE)):
            (self.path / name).write_text(text)
            (self.path / name).chmod(0o755)

    def set_up(self, level: str, **knobs: str) -> subprocess.CompletedProcess[str]:
        return self.call(f'set_up "{level}"; pwd', **knobs)

    def set_up_clients(self, **knobs: str) -> subprocess.CompletedProcess[str]:
        return self.call("set_up_clients", **knobs)

    def call(self, command: str, **knobs: str) -> subprocess.CompletedProcess[str]:
        """That, with the functions of setup.sh."""
        return subprocess.run(
            [BASH, "-c", f'set -euo pipefail; source "$0/scripts/setup.sh"; {command}', self.root],
            env={"PATH": str(self.path), "FAKE_LOG": str(self.log), **knobs},
            cwd="/",
            capture_output=True,
            text=True,
            check=False,
        )

    def done(self) -> list[str]:
        """What was done since the last call of this."""
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        self.log.unlink(missing_ok=True)
        return lines


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    tree = Tree(tmp_path)
    tree.add_python("python3")
    return tree


@pytest.mark.parametrize("script", SCRIPTS)
def test_script_is_valid_bash(script: str) -> None:
    subprocess.run([BASH, "-n", ROOT / script], check=True)


@pytest.mark.parametrize("script", [*SCRIPTS, "scripts/generate_auth_key.py"])
def test_script_can_be_executed_where_it_is_to_be(script: str) -> None:
    assert os.access(ROOT / script, os.X_OK) == (script != "scripts/setup.sh")


def test_first_set_up_makes_an_environment_and_installs_with_constraints(tree: Tree) -> None:
    done = tree.set_up("run")
    assert (done.returncode, done.stdout) == (0, f"{tree.root}\n")
    made, installed = tree.done()
    assert made == "venv"
    assert installed.endswith("--constraint constraints.txt --editable .")


def test_second_set_up_does_nothing(tree: Tree) -> None:
    tree.set_up("run")
    tree.done()
    assert tree.set_up("run").returncode == 0
    assert tree.done() == []


def test_higher_level_installs_more_and_covers_the_lower_ones(tree: Tree) -> None:
    for level, extras in (("run", ""), ("check", "[test,hf]")):
        tree.set_up(level)
        (installed,) = tree.done()[-1:]
        assert installed.endswith(f"--editable .{extras}")
    for level in ("run", "check", "test"):
        tree.set_up(level)
    assert tree.done() == []


def test_what_hugging_face_models_need_comes_on_demand_and_stays(tree: Tree) -> None:
    tree.set_up("run")
    tree.done()
    tree.set_up("run", WITH_HF="1")
    (installed,) = tree.done()
    assert installed.endswith("--editable .[hf]")
    tree.set_up("run")
    assert tree.done() == []
    (tree.root / "constraints.txt").write_text("# changed")
    assert tree.set_up("run", FAKE_PIP_EXIT="1").returncode == 1
    tree.set_up("run")
    assert all(line.endswith("--editable .[hf]") for line in tree.done())


def test_an_unknown_level_is_refused(tree: Tree) -> None:
    done = tree.set_up("rum")
    assert (done.returncode, done.stderr) == (1, "no level of set-up: rum\n")
    assert tree.done() == []


@pytest.mark.parametrize("name", ["pyproject.toml", "constraints.txt"])
def test_changed_file_is_installed_again(tree: Tree, name: str) -> None:
    tree.set_up("run")
    tree.done()
    (tree.root / name).write_text("# changed")
    tree.set_up("run")
    assert len(tree.done()) == 1


def test_other_python_in_the_environment_is_installed_into_again(tree: Tree) -> None:
    tree.set_up("run")
    tree.done()
    tree.set_up("run", FAKE_VERSION="3.12.0")
    assert len(tree.done()) == 1


def test_failed_installation_says_so_and_is_done_again(tree: Tree) -> None:
    failed = tree.set_up("run", FAKE_PIP_EXIT="1")
    assert failed.returncode == 1
    assert "installation failed" in failed.stderr
    tree.done()
    assert tree.set_up("run").returncode == 0
    assert len(tree.done()) == 1


def test_environment_without_its_python_is_made_again(tree: Tree) -> None:
    tree.set_up("run")
    tree.done()
    (tree.root / ".venv/bin/python").unlink()
    assert tree.set_up("run").returncode == 0
    assert "venv" in tree.done()


def test_without_python_the_package_to_install_is_named(tmp_path: Path) -> None:
    done = Tree(tmp_path).set_up("run")
    assert done.returncode == 1
    assert "Python 3.11 or newer" in done.stderr
    assert "apt-get install python3 python3-venv" in done.stderr


def test_too_old_python_counts_as_none(tree: Tree) -> None:
    done = tree.set_up("run", FAKE_OLD="1")
    assert done.returncode == 1
    assert "Python 3.11 or newer" in done.stderr


def test_python_without_venv_names_the_package_to_install(tree: Tree) -> None:
    done = tree.set_up("run", FAKE_ENSUREPIP_EXIT="1")
    assert done.returncode == 1
    assert "apt-get install python3.11-venv" in done.stderr


@pytest.fixture
def clients(tree: Tree) -> Tree:
    """A tree that is set up for tests, but for their clients."""
    tree.add_npm()
    tree.set_up("test")
    tree.done()
    return tree


def test_clients_of_the_tests_have_environments_of_their_own(clients: Tree) -> None:
    assert clients.set_up_clients().returncode == 0
    made, python, node = clients.done()
    assert made == "venv"
    assert (clients.root / ".venv-clients/bin/python").exists()
    assert "--no-deps" in python
    assert python.endswith("--requirement tests/clients/requirements.txt")
    assert node.startswith("npm ci ")
    assert node.endswith(f" in {clients.root}/tests/clients/node")
    assert clients.set_up_clients().returncode == 0
    assert clients.done() == []


@pytest.mark.parametrize("name", CLIENTS_OF)
def test_clients_that_changed_are_installed_again(clients: Tree, name: str) -> None:
    clients.set_up_clients()
    clients.done()
    (clients.root / name).write_text("changed")
    clients.set_up_clients()
    assert [line.split()[0] for line in clients.done()] == (["npm"] if "node" in name else ["venv", "-m"])


def test_clients_whose_installation_failed_are_installed_again(clients: Tree) -> None:
    assert clients.set_up_clients(FAKE_PIP_EXIT="1").returncode == 1
    assert clients.set_up_clients(FAKE_NPM_EXIT="1").returncode == 1
    clients.done()
    assert clients.set_up_clients().returncode == 0
    assert [line.split()[0] for line in clients.done()] == ["npm"]


def test_without_node_its_client_is_left_out(tree: Tree) -> None:
    tree.set_up("test")
    tree.done()
    done = tree.set_up_clients()
    assert (done.returncode, len(tree.done())) == (0, 2)
    assert "There is no Node" in done.stderr


@pytest.fixture
def web(tree: Tree) -> Tree:
    """A tree that is set up, with npm."""
    tree.add_npm()
    tree.set_up("run")
    tree.done()
    return tree


def test_the_web_app_is_built_once(web: Tree) -> None:
    assert web.call("build_web").returncode == 0
    installed, built = web.done()
    assert installed == f"npm ci --silent --no-audit --no-fund --ignore-scripts in {web.root}/web"
    assert built.startswith("npm run --silent build")
    assert (web.root / "routes/web_app/built/index.html").exists()
    assert web.call("build_web").returncode == 0
    assert web.done() == []


@pytest.mark.parametrize(("name", "again"), [("web/src/main.ts", 1), ("web/package-lock.json", 2)])
def test_a_web_app_whose_sources_changed_is_built_again(web: Tree, name: str, again: int) -> None:
    web.call("build_web")
    web.done()
    (web.root / name).write_text("changed")
    assert web.call("build_web").returncode == 0
    assert len(web.done()) == again


@pytest.mark.parametrize("fault", ["FAKE_NPM_EXIT", "FAKE_BUILD_EXIT"])
def test_a_web_app_that_can_t_be_built_is_told_and_tried_again(web: Tree, fault: str) -> None:
    done = web.call("build_web || echo goes on", **{fault: "1"})
    assert (done.returncode, done.stdout) == (0, "goes on\n")
    assert "The API does without" in done.stderr
    web.done()
    assert web.call("build_web").returncode == 0
    assert web.done()


def test_without_a_node_that_will_do_the_web_app_is_left_out_with_a_word(tree: Tree) -> None:
    for knobs in ({}, {"FAKE_NODE_OLD": "1"}):
        done = tree.call("build_web || echo goes on", **knobs)
        assert (done.returncode, done.stdout) == (0, "goes on\n")
        assert "needs Node 20 or newer and npm" in done.stderr
        tree.add_npm()
    assert not tree.done()


def test_without_node_a_web_app_that_is_there_is_nothing_to_tell_of(web: Tree) -> None:
    web.call("build_web")
    (web.path / "npm").unlink()
    assert web.call("build_web || true").stderr == ""


def test_generate_auth_key_prints_the_key_alone(tmp_path: Path) -> None:
    (tmp_path / "scripts").mkdir()
    script = shutil.copy(ROOT / "scripts/generate_auth_key.py", tmp_path / "scripts")
    (tmp_path / ".venv").symlink_to(sys.prefix)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("LLAMAHERD_")}
    for name, options in (("PythonKey", []), ("-odd", ["--admin"])):
        done = subprocess.run(
            [sys.executable, script, *options, "--", name, "This key is for testing purposes"],
            env=environment,
            cwd="/",
            capture_output=True,
            text=True,
            check=True,
        )
        assert re.fullmatch(r"sk-lh-[A-Za-z0-9_-]{43}\n", done.stdout)
        keys = KeyStore(tmp_path / "data" / "keys.json")
        keys.load()
        key = keys.authenticate(done.stdout.strip())
        assert (key.name, key.description) == (name, "This key is for testing purposes")
        assert set(key.scopes) == ({"inference", "admin"} if options else {"inference"})


def test_constraints_pin_every_requirement_and_nothing_of_this_machine() -> None:
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    for line in lines:
        assert re.fullmatch(r"[A-Za-z0-9._-]+==[0-9][A-Za-z0-9.]*", line), line
    pinned = {canonical(line.partition("==")[0]) for line in lines}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *(one for extra in project["optional-dependencies"].values() for one in extra)]
    assert {canonical(re.split(r"[^A-Za-z0-9._-]", one)[0]) for one in wanted} <= pinned
    assert "torch==2.13.0" in lines


def test_clients_are_pinned_with_all_that_they_need_and_no_address() -> None:
    lines = (ROOT / "tests/clients/requirements.txt").read_text().splitlines()
    for line in lines:
        assert re.fullmatch(r"(#.*|[A-Za-z0-9._-]+==[0-9][A-Za-z0-9.]*|)", line), line
    ours = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line)
    theirs = dict(line.split("==") for line in lines if "==" in line)
    assert theirs["openai"] == ours["openai"]


@pytest.mark.parametrize("folder", ["tests/clients/node", "web"])
def test_lock_files_of_npm_pin_by_hash_and_hold_no_address_of_a_registry(folder: str) -> None:
    lock = (ROOT / folder / "package-lock.json").read_text()
    assert "integrity" in lock
    assert '"resolved"' not in lock


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
