"""Plain `generate` as a program: a folder's model, which is asked over HTTP for rounds of requests in padded batches.

Started with the folder's path and a port. A batch is as long as its longest answer, and the next one waits for it.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any


class Generator:
    """A loaded model."""

    def __init__(self, folder: str) -> None:
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        self._device = "cuda" if torch.cuda.is_available() else "cpu"
        self._tokenizer: Any = AutoTokenizer.from_pretrained(folder, padding_side="left")
        if self._tokenizer.pad_token is None:
            self._tokenizer.pad_token = self._tokenizer.eos_token
        model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype="auto", attn_implementation="sdpa")
        self._model: Any = model.to(self._device)

    def run(self, requests: Sequence[dict[str, Any]], width: int) -> dict[str, Any]:
        """Seconds for all, and the wait for the first token of each."""
        began = time.perf_counter()
        firsts = [first for at in range(0, len(requests), width) for first in self._batch(requests[at : at + width])]
        return {"seconds": time.perf_counter() - began, "firsts": firsts}

    def _batch(self, requests: Sequence[dict[str, Any]]) -> list[float]:
        began = time.perf_counter()
        chats = [[{"role": "user", "content": request["prompt"]}] for request in requests]
        inputs = self._tokenizer.apply_chat_template(
            chats, add_generation_prompt=True, padding=True, return_tensors="pt", return_dict=True
        )
        first = _First()
        longest = max(request["tokens"] for request in requests)
        made = self._model.generate(**inputs.to(self._device), max_new_tokens=longest, stopping_criteria=[first])
        if made.shape[1] - inputs["input_ids"].shape[1] != longest:
            raise RuntimeError("an answer ended too early")
        return [first.at - began] * len(requests)


class _First:
    """Called after each token of a batch; remembers when that was for the first time. It stops nothing."""

    def __init__(self) -> None:
        self.at = 0.0

    def __call__(self, ids: Any, scores: Any, **_: Any) -> Any:
        import torch

        self.at = self.at or time.perf_counter()
        return torch.zeros(ids.shape[0], dtype=torch.bool, device=ids.device)


def serve(folder: str, port: int) -> None:
    generator = Generator(folder)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            answer = json.dumps(generator.run(asked["requests"], asked["width"])).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

    with HTTPServer(("127.0.0.1", port), Handler) as server:
        print("listening", flush=True)
        server.serve_forever()


if __name__ == "__main__":
    serve(sys.argv[1], int(sys.argv[2]))
