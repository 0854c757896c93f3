"""Which chat template an entry means: a file in the templates folder, or one that llama.cpp has built in."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from manager.entry import Template
from manager.errors import ConfigError
from manager.mistakes import did_you_mean, shown

SUFFIX: Final = ".jinja"

# The names that llama.cpp knows (LLM_CHAT_TEMPLATES in its src/llama-chat.cpp).
# fmt: off
BUILTIN: Final = frozenset({
    "bailing", "bailing-think", "bailing2", "chatglm3", "chatglm4", "chatml", "command-r", "deepseek",
    "deepseek-ocr", "deepseek2", "deepseek3", "exaone-moe", "exaone3", "exaone4", "falcon3", "gemma", "gigachat",
    "glmedge", "gpt-oss", "granite", "granite-4.0", "granite-4.1", "grok-2", "hunyuan-dense", "hunyuan-moe",
    "hunyuan-vl", "kimi-k2", "llama2", "llama2-sys", "llama2-sys-bos", "llama2-sys-strip", "llama3", "llama4",
    "megrez", "minicpm", "mistral-v1", "mistral-v3", "mistral-v3-tekken", "mistral-v7", "mistral-v7-tekken",
    "monarch", "openchat", "orion", "pangu-embedded", "phi3", "phi4", "rwkv-world", "seed_oss", "smolvlm",
    "solar-open", "vicuna", "vicuna-orca", "yandex", "zephyr",
})
# fmt: on


def find_template(name: str, folder: Path) -> Template:
    """A file `name` or `name`.jinja in the folder goes before a built-in name. Raises ConfigError for any other."""
    for candidate in (name, name + SUFFIX):
        file = folder / candidate
        changed = _changed(file, folder)
        if changed is not None:
            return Template(file=file, changed=changed)
    if name in BUILTIN:
        return Template(builtin=name)
    files = sorted(path.name for path in folder.glob(f"*{SUFFIX}")) if folder.is_dir() else []
    known = [*BUILTIN, *files, *(file.removesuffix(SUFFIX) for file in files)]
    raise ConfigError(
        f"{shown(name)} is neither a file in {folder} nor a template of llama.cpp{did_you_mean(name, known)}"
    )


def _changed(file: Path, folder: Path) -> int | None:
    """When the file was changed; None where it is none in the folder."""
    try:
        inside = ".." not in file.parts and file.is_relative_to(folder) and file.is_file()
        return file.stat().st_mtime_ns if inside else None
    except OSError:  # a name too long for a file, or one that has just gone
        return None
