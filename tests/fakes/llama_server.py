"""A program that stands in for llama-server where a fault must be provoked. Standard library only.

It takes llama-server's command line (`--host PATH.sock` or an address with `--port`, `--model`, `--alias`,
`--ctx-size`, `--parallel`; all else is ignored) and its key from LLAMA_API_KEY. It answers /health,
/v1/models, /props, /slots, /metrics (the probes), /tokenize (one token per word), /apply-template (one word
more per message, and one at the end), /v1/chat/completions, /v1/chat/completions/input_tokens (the words of
that template), /v1/completions, /v1/embeddings (with `--embedding`: of each input the number of its words or tokens)
and /slots/N?action=…, in llama-server's shapes. While it loads every path answers 503, as llama-server's do; without
the key every path but /health answers 401. With LLAMA_SERVER_ROUTER_PORT in its environment it tells of its load on
stdout, ends with its stdin, and after SIGTERM waits there for leave, as llama-server does.

The answer to a chat is the text of the last user message, to a prompt the prompt, a token per word; the messages that
came are under "echo" (in a stream: in the first chunk). Its faults are the fields of `Knobs` (knobs.py), given as JSON
in FAKE_LLAMA; `write_binary` in this package makes an executable of them. Faults of answers spare the probes, unless
`faults_on` names paths.
"""

from __future__ import annotations

import itertools
import json
import os
import signal
import socket
import sys
import threading
import time
from typing import Any, NoReturn

if __name__ == "__main__":  # a program is run out of any folder
    sys.path[0] = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))  # noqa: PTH100, PTH120

from tests.fakes.answer import FOREVER, Answer, Choice, prompt_of, text_of
from tests.fakes.knobs import Knobs, append, knobs_from_environment
from tests.fakes.wire import ClientGone, Connection, CutOff, Request, error_object

BORN = time.monotonic()
LIFE_LIMIT = 300  # seconds after which a fake that a broken test left behind ends itself
ASKED = "LLAMA_SERVER_ROUTER_PORT" in os.environ  # to tell of itself on stdout, and to heed its stdin
SERVING, LEAVE = threading.Event(), threading.Event()
LISTENERS: list[socket.socket] = []
PUBLIC = ("/health", "/v1/health")
PROBES = (*PUBLIC, "/v1/models", "/models", "/props", "/slots", "/metrics")


def log(text: str, level: str = "I", end: str = "\n") -> None:
    ms = int((time.monotonic() - BORN) * 1000)
    os.write(2, f"{ms // 60000}.{ms // 1000 % 60:02}.{ms % 1000:03}.000 {level} {text}{end}".encode())


def tell(state: str, payload: dict[str, Any]) -> None:
    """What llama-server tells a router of its own, on stdout."""
    if ASKED:
        line = json.dumps({"state": state, "payload": payload})
        os.write(1, f"cmd_child_to_router:state:{line}\n".encode())


def heed_stdin() -> None:
    """Wait there for leave to end, or for the end of who could give it."""
    text = ""
    while "cmd_router_to_child:exit" not in text:
        text = sys.stdin.readline()
        if not text:
            break
    LEAVE.set()
    if text:
        os.kill(os.getpid(), signal.SIGTERM)
    else:
        os._exit(1)


class Options:
    """The few options of llama-server's command line that matter here."""

    NAMES = {"-m": "--model", "-a": "--alias", "-c": "--ctx-size", "-np": "--parallel"}  # noqa: RUF012 - typing is slow to import

    def __init__(self, argv: list[str]) -> None:
        given = {self.NAMES.get(name, name): value for name, value in itertools.pairwise([*argv, ""])}
        self.host = given.get("--host", "127.0.0.1")
        self.port = int(given.get("--port", "8080"))
        self.model = given.get("--model", "model.gguf")
        self.alias = given.get("--alias", self.model)
        self.slots_folder = given.get("--slot-save-path", "")
        self.slots = max(1, int(given.get("--parallel", "1")))
        self.embedding = "--embedding" in given
        self.window = int(given.get("--ctx-size", "0")) // self.slots or 4096


class Server:
    """The life of the program, and its routes."""

    def __init__(self, options: Options, knobs: Knobs, key: str) -> None:
        self.options = options
        self.knobs = knobs
        self.key = key
        self.ready = threading.Event()
        self.busy = 0
        self.last_prompt = 0  # tokens
        self.faulty_left = knobs.faulty_requests or sys.maxsize
        self.lock = threading.Lock()
        self.ids = itertools.count(1)

    def run(self) -> NoReturn:
        if self.knobs.exit_on_start:
            self.exit(self.knobs.exit_on_start)
        time.sleep(self.knobs.bind_delay)
        listener = self.bind()
        LISTENERS.append(listener)
        log(f"srv    load_model: loading model '{self.options.model}'")
        for task in (self.load, self.flood):
            threading.Thread(target=task, daemon=True).start()
        for number in itertools.count(1):
            sock, _ = listener.accept()
            threading.Thread(target=self.serve, args=(Connection(sock, number),), daemon=True).start()
        raise AssertionError

    def bind(self) -> socket.socket:
        host, port = self.options.host, self.options.port
        unix = host.endswith(".sock")
        listener = socket.socket(socket.AF_UNIX if unix else socket.AF_INET)
        try:
            if not unix:
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(host if unix else (host, port))
            listener.listen(512)
        except OSError:
            log(f"srv         start: couldn't bind HTTP server socket, hostname: {host}, port: {port}", "E")
            self.exit({"code": 1, "lines": ["srv  llama_server: exiting due to HTTP server error"]})
        return listener

    def exit(self, plan: dict[str, Any]) -> NoReturn:
        for line in plan.get("lines", ()):
            log(line, "E")
        os._exit(plan.get("code", 1))

    def load(self) -> None:
        knobs = self.knobs
        for part in knobs.load_progress:
            stage, value = part if isinstance(part, list) else ("text_model", part)
            tell("loading", {"stages": ["text_model"], "current": stage, "value": value})
        if knobs.exit_during_load:
            time.sleep(knobs.exit_during_load.get("after", 0.0))
            self.exit(knobs.exit_during_load)
        time.sleep(FOREVER if knobs.never_ready else knobs.load_seconds)
        while knobs.gate and not os.path.exists(knobs.gate):  # noqa: PTH110 - pathlib is slow to import
            time.sleep(0.005)
        where = self.options.host
        where = f"unix://{where}" if where.endswith(".sock") else f"http://{where}:{self.options.port}"
        log("srv  llama_server: model loaded")
        log(f"srv  llama_server: listening on {where}")
        if knobs.log_partial:
            log(knobs.log_partial, end="")
        tell("ready", {"id": self.options.alias})
        if ASKED and not knobs.ignore_sigterm:
            threading.Thread(target=heed_stdin, daemon=True).start()
        SERVING.set()
        self.ready.set()

    def flood(self) -> None:
        for number in itertools.count(1) if self.knobs.log_flood else ():
            log(f"slot   print_timing: id  0 | task {number} | flood")
            if number % max(1, self.knobs.log_flood // 100) == 0:
                time.sleep(0.01)

    def serve(self, conn: Connection) -> None:
        knobs = self.knobs
        if knobs.idle_close:
            conn.sock.settimeout(knobs.idle_close)
        answering = False
        try:
            for served in itertools.count(1):
                answering = False
                request = conn.read()
                if request is None or 0 < knobs.drop_after < served:
                    return
                answering = True
                self.record(request, conn)
                last = served == knobs.close_after
                conn.extra_headers = "Connection: close\r\n" if last and not knobs.close_silently else ""
                self.handle(conn, request)
                if last or request.headers.get("connection", "").lower() == "close":
                    return
        except ClientGone:
            if answering and knobs.disconnect_log:
                append(knobs.disconnect_log, repr(time.time()))
        except CutOff:
            pass
        finally:
            conn.sock.close()

    def record(self, request: Request, conn: Connection) -> None:
        if not self.knobs.requests_log:
            return
        try:
            body = json.loads(request.body) if request.body else None
        except ValueError:
            body = request.body.decode("latin-1")
        line = {"method": request.method, "path": request.path, "query": request.query}
        append(
            self.knobs.requests_log,
            json.dumps({**line, "headers": request.headers, "body": body, "connection": conn.number}),
        )

    def handle(self, conn: Connection, request: Request) -> None:
        knobs = self.knobs
        if request.path in PROBES:
            conn.wait(FOREVER if knobs.health_hangs and request.path == "/health" else knobs.probe_delay)
        if not (self.ready.is_set() or knobs.foreign):
            return conn.answer(503, error_object(503, "Loading model", "unavailable_error"))
        allowed = request.headers.get("authorization") == f"Bearer {self.key}"
        if not (allowed or knobs.foreign or not self.key or request.path in PUBLIC):
            log("srv    operator(): unauthorized: Invalid API Key", "W")
            return conn.answer(401, error_object(401, "Invalid API Key", "authentication_error"))
        if self.has_fault(request):
            conn.wait(knobs.slow_head)
            if knobs.huge_header:
                conn.extra_headers += f"X-Huge: {'h' * knobs.huge_header}\r\n"
            if knobs.bad_http:
                conn.send(b"\x16\x03 this is not HTTP\r\n\r\n")
                raise CutOff
            if knobs.error_status:
                return conn.answer(
                    knobs.error_status, error_object(knobs.error_status, "the fake failed", "server_error")
                )
            return self.route(conn, request, knobs)
        return self.route(conn, request, Knobs(chunks=knobs.chunks, chunk_delay=knobs.chunk_delay))

    def has_fault(self, request: Request) -> bool:
        if request.path not in (self.knobs.faults_on or (request.path,)):
            return False
        if not self.knobs.faults_on and request.path in PROBES:
            return False
        with self.lock:
            self.faulty_left -= 1
            return self.faulty_left >= 0

    def route(self, conn: Connection, request: Request, knobs: Knobs) -> None:
        try:
            request.json = json.loads(request.body) if request.body else {}
        except ValueError:
            return conn.answer(400, error_object(400, "the body is not JSON", "invalid_request_error"))
        if request.method == "POST" and request.path in ("/v1/chat/completions", "/v1/completions"):
            return self.generate(conn, request, knobs)
        status, body = self.simple(request)
        conn.answer(status, body, claim=1000 if knobs.truncated_body else 0)
        if knobs.truncated_body:
            raise CutOff
        return None

    def simple(self, request: Request) -> tuple[int, Any]:
        """The answers that need no generation."""
        options, body = self.options, request.json
        match request.method, request.path.strip("/").split("/"):
            case "GET", ["health"] | ["v1", "health"]:
                return 200, {"status": "ok"}
            case "GET", ["models"] | ["v1", "models"]:
                return 200, {"object": "list", "data": [{"id": options.alias, "object": "model"}]}
            case "GET", ["props"]:
                settings = {"n_ctx": options.window}
                return 200, {
                    "default_generation_settings": settings,
                    "total_slots": options.slots,
                    "model_alias": options.alias,
                    "model_path": options.model,
                }
            case "GET", ["slots"]:
                return 200, [
                    {"id": i, "n_ctx": options.window, "is_processing": i < self.busy} for i in range(options.slots)
                ]
            case "GET", ["metrics"]:
                return (
                    200,
                    f"# TYPE llamacpp:requests_processing gauge\nllamacpp:requests_processing {self.busy}\n",
                )
            case "POST", ["tokenize"]:
                return 200, {"tokens": list(range(len(text_of(body.get("content")).split())))}
            case "POST", ["v1", "chat", "completions", "input_tokens"]:
                count = len(prompt_of(body.get("messages", [])).split())
                return 200, {"input_tokens": count, "object": "response.input_tokens"}
            case "POST", ["v1", "embeddings"]:
                return self.embeddings(body)
            case "POST", ["apply-template"]:
                return 200, {"prompt": prompt_of(body.get("messages", []))}
            case "POST", ["slots", number] if number.isdigit() and int(number) < options.slots:
                return self.slot(int(number), request.query.get("action", [""])[0], str(body.get("filename")))
        return 404, error_object(404, "File Not Found", "not_found_error")

    def embeddings(self, body: dict[str, Any]) -> tuple[int, Any]:
        if not self.options.embedding:
            text = "This server does not support embeddings. Start it with `--embeddings`"
            return 501, error_object(501, text, "not_supported_error")
        given = body["input"]
        inputs = given if isinstance(given, list) and not isinstance(given[0], int) else [given]
        counts = [len(one.split() if isinstance(one, str) else one) for one in inputs]
        data = [{"object": "embedding", "index": at, "embedding": [float(count)]} for at, count in enumerate(counts)]
        usage = {"prompt_tokens": sum(counts), "total_tokens": sum(counts)}
        return 200, {"model": self.options.alias, "object": "list", "usage": usage, "data": data}

    def slot(self, number: int, action: str, name: str) -> tuple[int, Any]:
        """Slot 0 holds what was asked last; a saved slot is a file with its count of tokens."""
        if self.knobs.slots_refused or not self.options.slots_folder:
            return 501, error_object(501, "This slot can't be saved", "not_supported_error")
        path = self.options.slots_folder + name  # llama-server wants the slash at the end, too
        if action == "save":
            tokens = 0 if number else self.last_prompt
            with open(path, "w") as file:  # noqa: PTH123 - pathlib is slow to import
                file.write(str(tokens))
            return 200, {"id_slot": number, "filename": name, "n_saved": tokens, "n_written": 8}
        try:
            with open(path) as file:  # noqa: PTH123
                self.last_prompt = int(file.read())
            return 200, {"id_slot": number, "filename": name, "n_restored": self.last_prompt, "n_read": 8}
        except (OSError, ValueError):
            return 400, error_object(
                400,
                "Unable to restore slot, no available space in KV cache or invalid slot save file",
                "invalid_request_error",
            )

    def generate(self, conn: Connection, request: Request, knobs: Knobs) -> None:
        body = request.json
        chat = request.path == "/v1/chat/completions"
        prompts = body.get("prompt", "")
        if chat or not (isinstance(prompts, list) and isinstance(prompts[0], str)):
            prompts = [prompts]
        messages = body.get("messages", []) if chat else [{"role": "user", "content": prompts[0]}]
        users = [text_of(message.get("content")) for message in messages if message.get("role") == "user"]
        words = (users[-1].split() if users else []) or ["ok"]
        count = len(words) if knobs.chunks is None else knobs.chunks
        limits = (body.get(name) or 0 for name in ("max_tokens", "max_completion_tokens"))
        asked = next((limit for limit in limits if limit > 0), None)
        limit = asked or count
        tokens = list(itertools.islice(itertools.cycle(words), min(count, limit)))
        prompt_tokens = len((prompt_of(messages) if chat else users[0]).split())
        if prompt_tokens > self.options.window:
            window = self.options.window
            text = f"request ({prompt_tokens} tokens) exceeds the available context size ({window} tokens)"
            more = {"n_prompt_tokens": prompt_tokens, "n_ctx": window}
            return conn.answer(400, error_object(400, text, "exceed_context_size_error", **more))
        first = Choice(tokens, prompt_tokens)
        copies = (body.get("n") or 1) - 1
        texts = [text_of(text).split() for text in prompts[1:] for _ in range(copies + 1)]
        others = [Choice(text[:asked], len(text)) for text in texts]
        answer = Answer(
            self.options.alias,
            next(self.ids),
            conn,
            knobs,
            first,
            [first] * copies + others,
            "length" if limit < count else "stop",
            chat,
        )
        with self.lock:
            self.busy += 1
            self.last_prompt = prompt_tokens
        try:
            if body.get("stream"):
                usage = bool((body.get("stream_options") or {}).get("include_usage"))
                return answer.stream(messages, usage=usage)
            return answer.whole(messages)
        finally:
            with self.lock:
                self.busy -= 1


def fork_grandchild(target: bool | str) -> None:
    pid = os.fork()
    if pid == 0:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        time.sleep(LIFE_LIMIT)
        os._exit(0)
    log(f"fake: grandchild pid={pid}")
    if isinstance(target, str):
        append(target, str(pid))


def terminate(signum: int, frame: object) -> NoReturn:
    log("srv    operator(): cleaning up before exit...")
    if SERVING.is_set() and ASKED and LISTENERS:
        # As llama-server does: asked to tell of itself, it stops listening, and ends only with leave.
        LISTENERS.pop().close()
        LEAVE.wait()
    os._exit(0)


def main() -> NoReturn:
    if "--version" in sys.argv:
        sys.stderr.write("version: 0 (fake)\n")
        raise SystemExit
    if "--list-devices" in sys.argv:
        devices = json.loads(os.environ.get("FAKE_LLAMA") or "{}").get("devices")
        lines = [f"  {name}: NVIDIA A10 (24576 MiB, 20480 MiB free)" for name in devices or ()]
        sys.stdout.write("\n".join(["Available devices:", *(lines or ["  (none)"]), ""]))
        raise SystemExit
    knobs = knobs_from_environment()
    signal.alarm(LIFE_LIMIT)
    if knobs.fork_grandchild:
        fork_grandchild(knobs.fork_grandchild)
    signal.signal(signal.SIGTERM, signal.SIG_IGN if knobs.ignore_sigterm else terminate)
    signal.signal(signal.SIGINT, signal.SIG_IGN if knobs.ignore_sigterm else terminate)
    log("srv  llama_server: initializing ...")
    Server(Options(sys.argv[1:]), knobs, os.environ.get("LLAMA_API_KEY", "")).run()


if __name__ == "__main__":
    main()
