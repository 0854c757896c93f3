"""Whether the packages of the extra `[hf]` are installed, told without importing any of them."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Final

# Module names, with the names of their packages.
HF_MODULES: Final = {
    "torch": "torch",
    "transformers": "transformers",
    "accelerate": "accelerate",
    "llguidance": "llguidance",
    "PIL": "pillow",
    "jinja2": "jinja2",
    "numpy": "numpy",
}
_CHECKOUT: Final = Path(__file__).parents[1]


def missing_hf(*, is_there: Callable[[str], object] = find_spec, checkout: Path = _CHECKOUT) -> str | None:
    """Why no Hugging Face model can be loaded here, with the command that helps; None where nothing is missing.

    `checkout`: the folder above the package, which may hold the sources.
    """
    missing = [package for module, package in HF_MODULES.items() if not is_there(module)]
    if not missing:
        return None
    verb = "is" if len(missing) == 1 else "are"
    return f"Hugging Face models need {_listed(missing)}, which {verb} not installed; {_command(checkout)}"


def _command(checkout: Path) -> str:
    if (checkout / "constraints.txt").is_file():
        return 'in the folder of llamaherd, run: .venv/bin/pip install -c constraints.txt -e ".[hf]"'
    return 'run: pip install "llamaherd[hf]"'


def _listed(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
