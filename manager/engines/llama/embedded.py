"""The embedded launcher's child: serves llama.cpp's own HTTP API out of the wheel xllamacpp.

Run as `python -m manager.engines.llama.embedded JSON`, with the key in LLAMA_API_KEY. The JSON object gives
attributes of xllamacpp.CommonParams, with dots for nested ones; `LlamaArgs.to_json` writes it.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from typing import Any, NoReturn


def main(argv: list[str]) -> NoReturn:
    # ^C in a terminal is for the manager, which then ends this process with SIGTERM. That keeps its default effect:
    # loading runs no Python code that could react, and a running generation would delay the exit.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        import xllamacpp
    except ImportError as error:
        _fail(f"the package xllamacpp can't be imported: {error}")
    serve(xllamacpp, json.loads(argv[1]))


def serve(xllamacpp: Any, attributes: dict[str, Any]) -> NoReturn:
    """Load the model and answer until a signal ends it; where that fails, exit with 1 and the reason on stderr."""
    key = os.environ.get("LLAMA_API_KEY")
    if not key:
        _fail("the variable LLAMA_API_KEY is not set")
    try:
        params = apply(xllamacpp, attributes)
    except (AssertionError, AttributeError, KeyError, OSError, OverflowError, TypeError, ValueError) as error:
        _fail(f"{type(error).__name__}: {error}")
    params.api_keys = [key]
    params.video_ffmpeg_bin_dir = os.environ.get("LLAMA_ARG_VIDEO_FFMPEG_DIR", "")
    (socket,) = params.hostnames
    _remove(socket)  # llama.cpp does not listen on a path that exists
    try:
        server = xllamacpp.Server(params)  # blocks until the model is loaded
    except (RuntimeError, ValueError) as error:
        _fail(f"llama.cpp did not start: {error}")
    while server:
        signal.pause()
    sys.exit(1)


def apply(xllamacpp: Any, attributes: dict[str, Any]) -> Any:
    """CommonParams with these attributes; one that it does not have is an AttributeError."""
    params = xllamacpp.CommonParams()
    for path, value in attributes.items():
        owner = params
        *parents, name = path.split(".")
        for parent in parents:
            owner = getattr(owner, parent)
        if name == "chat_template_file":
            name, value = "chat_template", _read(value)
        setattr(owner, name, _converted(xllamacpp, name, getattr(owner, name), value))
    return params


def _converted(xllamacpp: Any, name: str, present: Any, value: Any) -> Any:
    """A JSON value as the type that the attribute has at present."""
    if name == "user_sampling_config":
        bits = xllamacpp.common_params_sampling_config
        return sum(bits[f"COMMON_PARAMS_SAMPLING_CONFIG_{bit}"] for bit in value)
    if name == "lora_adapters":
        return [xllamacpp.CommonAdapterLoraInfo(path, scale) for path, scale in value]
    if name == "types":
        return [xllamacpp.common_speculative_type[kind] for kind in value]
    if name == "tensor_split":  # of a fixed length
        return [*map(float, value), *[0.0] * (len(present) - len(value))]
    if isinstance(value, str) and hasattr(type(present), "__members__"):
        return type(present)[value]
    return set(value) if isinstance(present, set) else value


def _read(path: str) -> str:
    with open(path, encoding="utf-8") as file:  # noqa: PTH123  pathlib's import costs more than this program
        return file.read()


def _remove(path: str) -> None:
    if os.path.lexists(path):
        os.unlink(path)  # noqa: PTH108


def _fail(reason: str) -> NoReturn:
    print(f"embedded: {reason}", file=sys.stderr, flush=True)  # noqa: T201  stderr is this program's log
    sys.exit(1)


if __name__ == "__main__":
    main(sys.argv)
