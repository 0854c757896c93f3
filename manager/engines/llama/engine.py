"""LlamaEngine: one llama.cpp server in a child process, from its start to its last connection."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import secrets
import sys
from collections.abc import Awaitable
from pathlib import Path
from typing import Final

from manager.engines import EngineExit, UpstreamRequest
from manager.engines.llama.arguments import LlamaArgs
from manager.engines.llama.failures import explain_crash, explain_failure, ran_out_of_memory
from manager.engines.llama.native import choose_launcher
from manager.engines.llama.slots import SlotStore, fingerprint
from manager.engines.llama.upstream import Exchange, UpstreamClient
from manager.entry import ModelEntry
from manager.errors import ConfigError, InsufficientMemory, LoadFailed, UpstreamConnectError, UpstreamError
from manager.gguf_file import check_gguf
from manager.logbuf import LogBuffer
from manager.process import ChildProcess
from manager.run_folder import RunFolder
from manager.settings import Settings

logger = logging.getLogger(__name__)

PROBE_TIMEOUT: Final = 2.0
# Between two looks at a loading child: 5 ms and 5% of the time waited so far, so that a load is never
# lengthened by more than that, and at most 100 ms.
PROBE_FIRST: Final = 0.005
PROBE_GROWTH: Final = 1.05
PROBE_MOST: Final = 0.1
# How much of the end of a child's log is looked at for the reason of its end.
LINES_READ: Final = 200

# What a child may see of our environment: never our own settings (they can hold secrets) nor LLAMA_ARG_*,
# which would change what the entry says.
ENVIRONMENT: Final = frozenset({"PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "TZ", "LD_LIBRARY_PATH", "VIRTUAL_ENV"})
ENVIRONMENT_PREFIXES: Final = (
    "CUDA_",
    "GGML_",
    "NVIDIA_",
    "HIP_",
    "ROCR_",
    "HSA_",
    "VK_",
    "OMP_",
    "PYTHONPATH",
)


def child_environment(key: str, cuda_visible_devices: str | None) -> dict[str, str]:
    """The environment of a child that accepts requests with `key`."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if name in ENVIRONMENT or name.startswith(ENVIRONMENT_PREFIXES)
    }
    if cuda_visible_devices is not None:
        kept["CUDA_VISIBLE_DEVICES"] = cuda_visible_devices
    return {**kept, "LLAMA_API_KEY": key}


class LlamaEngine:
    """See `manager.engines.Engine`. Native `llama-server` where there is one, else the embedded launcher."""

    def __init__(self, entry: ModelEntry, settings: Settings, run_folder: RunFolder) -> None:
        self.log = LogBuffer()
        self._entry = entry
        self._settings = settings
        self._run_folder = run_folder
        self._socket = run_folder.new_socket()
        self._key = secrets.token_urlsafe(32)
        self._client = UpstreamClient(str(self._socket), self._key)
        self.pid: int | None = None
        self._spawning: asyncio.Task[ChildProcess] | None = None
        self._stopping: asyncio.Task[None] | None = None
        self._slots: SlotStore | None = None
        self._ready = False

    async def start(self) -> None:
        if self._entry.engine != "llama":  # listed all the same, so that its owner sees why it can't be used
            raise LoadFailed(self._message(self._entry.unavailable or "no engine for it"), should_retry=False)
        await self._check_files()
        argv = await self._command()
        environment = child_environment(self._key, self._settings.llama.cuda_visible_devices)
        # A task of its own: where start() is cancelled in the middle of it, stop() still gets the child.
        self._spawning = asyncio.create_task(self._spawn(argv, environment))
        try:
            child = await asyncio.shield(self._spawning)
        except OSError as error:
            raise LoadFailed(self._message(f"{argv[0]} can't be started: {error.strerror}")) from error
        await self._until_ready(child)
        if self._slots is not None:
            await self._slots.restore(self._client)
        self._ready = True

    async def wait_exit(self) -> EngineExit:
        assert self._spawning is not None  # noqa: S101  only called after start()
        code = await (await self._spawning).wait()
        return EngineExit(self._explain(code), code)

    async def stop(self) -> None:
        if self._stopping is None:
            self._stopping = asyncio.create_task(self._stop(), name=f"stop engine {self._entry.name}")
        await asyncio.shield(self._stopping)

    def open(self, request: UpstreamRequest) -> Exchange:
        return self._client.open(request)

    async def _spawn(self, argv: list[str], environment: dict[str, str]) -> ChildProcess:
        child = await ChildProcess.spawn(argv, env=environment, cwd=None, log=self.log)
        self.pid = child.pid
        try:
            await asyncio.to_thread(self._run_folder.record, self._socket, child.pid)
        except OSError as error:  # a full disk, say: only a sweep after our death would need the record
            logger.warning("pid=%s can't be recorded: %s", child.pid, error.strerror)
        return child

    async def _stop(self) -> None:
        self._client.close()
        if self._spawning is not None:
            with contextlib.suppress(Exception):  # nothing was started, and start() has said why
                child = await self._spawning
                if self._ready and child.returncode is None:
                    await self._try("save its slots", self._save_slots())
                await self._try("end its process", child.stop(self._settings.limits.stop_grace))
        await self._try("remove its files", asyncio.to_thread(self._run_folder.forget, self._socket))

    async def _try(self, what: str, work: Awaitable[None]) -> None:
        """One step of the stop: where it breaks, the others are done all the same."""
        try:
            await work
        except Exception:
            logger.exception("model=%s stopping its engine could not %s", self._entry.name, what)

    async def _save_slots(self) -> None:
        if self._slots is None:
            return
        client = UpstreamClient(str(self._socket), self._key)  # the one for requests is closed
        try:
            await self._slots.save(client)
        finally:
            client.close()

    async def _check_files(self) -> None:
        # Not `entry.unavailable`, which is from when the catalog was read: the file may have come since.
        adapters = (Path(adapter.path) for adapter in self._entry.params.lora)
        for path in (self._entry.path, self._entry.mmproj, *adapters):
            if path is not None:
                await asyncio.to_thread(check_gguf, path)

    async def _command(self) -> list[str]:
        try:
            args = LlamaArgs.from_entry(self._entry, socket=self._socket, log_level=self._settings.llama.log_level)
            launcher, binary = await asyncio.to_thread(choose_launcher, self._settings)
            logger.debug("model=%s launcher=%s", self._entry.name, launcher)
            args = await asyncio.to_thread(self._with_slots, args, binary)
            if binary is not None:
                return args.argv(binary)
            # -P: what lies in the current folder is never imported.
            return [sys.executable, "-P", "-m", "manager.engines.llama.embedded", args.to_json()]
        except ConfigError as error:
            raise LoadFailed(self._message(error.message), should_retry=False) from error

    def _with_slots(self, args: LlamaArgs, binary: Path | None) -> LlamaArgs:
        """Give the child a folder for its slots, where they are to survive it. Blocks."""
        storage = self._settings.storage
        if not storage.slots_budget or self._entry.params.embedding or self._entry.params.reranking:
            return args
        try:
            slots = SlotStore(storage.slots_folder, self._entry.name, fingerprint(args, binary), storage.slots_budget)
            slots.prepare()
        except OSError as error:
            logger.warning("model=%s slots won't be saved: %s", self._entry.name, error.strerror)
            return args
        self._slots = slots
        return args.with_slots_in(slots.folder)

    async def _until_ready(self, child: ChildProcess) -> None:
        """Probe until the child answers with its key. Raises LoadFailed where it ends before."""
        pause = PROBE_FIRST
        ended = asyncio.create_task(child.wait())
        try:
            while not await self._answers():
                await asyncio.wait({ended}, timeout=pause)
                if ended.done():
                    raise self._failure(ended.result())
                pause = min(PROBE_MOST, pause * PROBE_GROWTH)
        finally:
            ended.cancel()

    async def _answers(self) -> bool:
        """Whether it takes its own key and no other: then it is ready, and it is ours."""
        status = await self._probe(self._key)
        if status == 401:
            raise LoadFailed(self._message("its process does not accept its key"))
        if status != 200:
            return False
        other = await self._probe(secrets.token_urlsafe(8))
        if other == 200:
            raise LoadFailed(self._message("something else answers in place of its process"))
        return other == 401

    async def _probe(self, key: str) -> int:
        """The status of a route that needs the key; 0 where there is no answer."""
        client = self._client if key == self._key else UpstreamClient(str(self._socket), key)
        try:
            async with (
                asyncio.timeout(PROBE_TIMEOUT),
                client.open(UpstreamRequest("GET", "/props")) as answer,
            ):
                await answer.read()
                return answer.status
        except (UpstreamError, UpstreamConnectError, TimeoutError):
            return 0
        finally:
            if client is not self._client:
                client.close()

    def _failure(self, code: int) -> LoadFailed:
        kind = InsufficientMemory if ran_out_of_memory(self.log.tail(LINES_READ)) else LoadFailed
        failure = kind(self._message(self._explain(code)))
        failure.exit_code = code
        return failure

    def _explain(self, code: int) -> str:
        ended = f"killed by signal {-code}" if code < 0 else f"exit status {code}"
        # Once it served, most errors in its log are those of single requests, which it survived.
        explain = explain_crash if self._ready else explain_failure
        telling = explain(self.log.tail(LINES_READ))
        return f"{telling} ({ended})" if telling else ended

    def _message(self, reason: str) -> str:
        return f"The model '{self._entry.name}' could not be loaded: {reason}"
