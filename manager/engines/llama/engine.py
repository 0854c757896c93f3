"""LlamaEngine: one llama.cpp server in a child process, from its start to its last connection."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import signal
import sys
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from pathlib import Path
from typing import Any, Final

from manager.confinement import Confinement
from manager.engines import Activity, EngineExit, UpstreamRequest
from manager.engines.llama.arguments import LlamaArgs
from manager.engines.llama.devices import check_devices
from manager.engines.llama.environment import child_environment
from manager.engines.llama.failures import explain_crash, explain_failure, ran_out_of_memory
from manager.engines.llama.native import choose_launcher, devices
from manager.engines.llama.progress import FAREWELL, ChildLog, LoadProgress
from manager.engines.llama.slots import SlotStore, fingerprint
from manager.engines.llama.upstream import Exchange, UpstreamClient
from manager.engines.llama.vitals import Vitals, probe, resident_bytes
from manager.entry import ModelEntry
from manager.errors import ConfigError, InsufficientMemory, LoadFailed
from manager.gguf_file import check_gguf, split_name
from manager.logbuf import LogBuffer
from manager.memory_measured import measure
from manager.process import ChildProcess
from manager.run_folder import RunFolder
from manager.settings import Settings

logger = logging.getLogger(__name__)

# Between two looks at a loading child: 5 ms and 5% of the time waited so far, so that a load is never
# lengthened by more than that, and at most 100 ms.
PROBE_FIRST: Final = 0.005
PROBE_GROWTH: Final = 1.05
PROBE_MOST: Final = 0.1
# When a child that says it ends is looked at, in seconds from one look to the next.
LEAVING: Final = (0.02, 0.2, 1.0)
# How much of the end of a child's log is looked at for the reason of its end.
LINES_READ: Final = 200


def _size(path: Path) -> int:
    """Bytes of a file, or of all parts of a split one. Blocks."""
    split = split_name(path.name)
    parts = [path.with_name(split.sibling(part)) for part in range(1, split.total + 1)] if split else [path]
    with contextlib.suppress(OSError):  # it was there a moment ago; llama.cpp will say what is wrong
        return sum(part.stat().st_size for part in parts)
    return 0


def _killed_by_others(child: ChildProcess, code: int) -> bool:
    return code == -signal.SIGKILL and not child.killed


class LlamaEngine:
    """See `manager.engines.Engine`. Native `llama-server` where there is one, else the embedded launcher."""

    def __init__(self, entry: ModelEntry, settings: Settings, run_folder: RunFolder) -> None:
        self._log = ChildLog()
        self.log: LogBuffer = self._log
        self._entry = entry
        self._settings = settings
        self._run_folder = run_folder
        self._socket = run_folder.new_socket()
        self._key = secrets.token_urlsafe(32)
        self._client = UpstreamClient(str(self._socket), self._key)
        self._vitals = Vitals(self._client, UpstreamClient(str(self._socket), self._key))
        self.pid: int | None = None
        self.progress: float | None = None
        self._spawning: asyncio.Task[ChildProcess] | None = None
        self._stopping: asyncio.Task[None] | None = None
        self._forced = asyncio.Event()
        self._slots: SlotStore | None = None
        self._ready = False

    async def start(self) -> None:
        if self._entry.engine != "llama":  # listed all the same, so that its owner sees why it can't be used
            raise LoadFailed(self._message(self._entry.unavailable or "no engine for it"), should_retry=False)
        load = LoadProgress(await asyncio.to_thread(self._check_files), self.log.feed)
        argv = await self._command()
        environment = child_environment(self._key, self._settings.llama.cuda_visible_devices)
        # A task of its own: where start() is cancelled in the middle of it, stop() still gets the child.
        self._spawning = asyncio.create_task(self._spawn(argv, environment, load))
        try:
            child = await asyncio.shield(self._spawning)
        except OSError as error:
            raise LoadFailed(self._message(f"{argv[0]} can't be started: {error.strerror}")) from error
        await self._until_ready(child, load)
        if self._slots is not None:
            await self._slots.restore(self._client)
        self._ready = True
        self.progress = None if self.progress is None else 1.0

    async def wait_exit(self) -> EngineExit:
        assert self._spawning is not None  # noqa: S101  only called after start()
        child = await self._spawning
        leaving = asyncio.create_task(self._let_go(child))
        try:
            return EngineExit(self._explain(child, await child.wait()), child.returncode)
        finally:
            leaving.cancel()

    async def stop(self, *, force: bool = False) -> None:
        if force:
            self._forced.set()
        if self._stopping is None:
            self._stopping = asyncio.create_task(self._stop(), name=f"stop engine {self._entry.name}")
        await asyncio.shield(self._stopping)

    async def answers(self) -> bool:
        return await self._vitals.answers()

    async def activity(self) -> Activity:
        return await self._vitals.activity(self.pid)

    async def measure(self) -> Mapping[str, int]:
        if self.pid is None:
            return {}
        return await asyncio.to_thread(measure, self.pid, self._settings.llama.cuda_visible_devices)

    async def metrics(self) -> bytes | None:
        return await self._vitals.metrics()

    def open(self, request: UpstreamRequest) -> Exchange:
        return self._client.open(request)

    async def _spawn(self, argv: list[str], environment: dict[str, str], load: LoadProgress) -> ChildProcess:
        def on_stdout(data: bytes) -> None:
            load.feed(data)
            self.progress = load.value

        child = await ChildProcess.spawn(
            argv,
            env=environment,
            cwd=None,
            log=self.log,
            on_stdout=on_stdout,
            farewell=FAREWELL,
            confinement=Confinement(self._settings.children),
        )
        self.pid = child.pid
        try:
            await asyncio.to_thread(self._run_folder.record, self._socket, child.pid)
        except OSError as error:  # a full disk, say: only a sweep after our death would need the record
            logger.warning("pid=%s can't be recorded: %s", child.pid, error.strerror)
        return child

    async def _stop(self) -> None:
        self._client.close()
        self._vitals.close()
        if self._spawning is not None:
            with contextlib.suppress(Exception):  # nothing was started, and start() has said why
                child = await self._spawning
                await self._unless_forced(lambda: self._end_gently(child))
                if self._forced.is_set():
                    await self._try("kill its process", child.stop(0))
        await self._try("remove its files", asyncio.to_thread(self._run_folder.forget, self._socket))

    async def _end_gently(self, child: ChildProcess) -> None:
        if self._ready and child.returncode is None:
            await self._try("save its slots", self._save_slots())
        await self._try("end its process", child.stop(self._settings.limits.stop_grace))

    async def _unless_forced(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Do it, but give it up as soon as somebody forces the stop."""
        if self._forced.is_set():
            return
        tasks = asyncio.create_task(work()), asyncio.create_task(self._forced.wait())
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)

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

    def _check_files(self) -> dict[str, int]:
        """Bytes by stage of the load. Raises LoadFailed where a file is none that can be loaded. Blocks."""
        # Not `entry.unavailable`, which is from when the catalog was read: the file may have come since.
        entry = self._entry
        draft = entry.llama.draft_model
        stages = {"text_model": entry.path, "spec_model": draft and Path(draft), "mmproj_model": entry.mmproj}
        for path in (*stages.values(), *(Path(adapter.path) for adapter in entry.llama.lora)):
            if path:
                check_gguf(path)
        return {stage: _size(path) for stage, path in stages.items() if path}

    async def _command(self) -> list[str]:
        try:
            args = LlamaArgs.from_entry(self._entry, socket=self._socket, log_level=self._settings.llama.log_level)
            launcher, binary = await asyncio.to_thread(choose_launcher, self._settings)
            logger.debug("model=%s launcher=%s", self._entry.name, launcher)
            await asyncio.to_thread(self._check_devices, binary)
            args = await asyncio.to_thread(self._with_slots, args, binary)
            if binary is not None:
                return args.argv(binary)
            # -P: what lies in the current folder is never imported.
            return [sys.executable, "-P", "-m", "manager.engines.llama.embedded", args.to_json()]
        except ConfigError as error:
            raise LoadFailed(self._message(error.message), should_retry=False) from error

    def _check_devices(self, binary: Path | None) -> None:
        """Raises ConfigError where the entry asks for devices that are not there. Blocks."""
        params = self._entry.llama
        if params.device is None and params.main_gpu is None and params.tensor_split is None:
            return
        visible = self._settings.llama.cuda_visible_devices
        check_devices(params, None if binary is None else devices(binary, visible))

    def _with_slots(self, args: LlamaArgs, binary: Path | None) -> LlamaArgs:
        """Give the child a folder for its slots, where they are to survive it. Blocks."""
        storage = self._settings.storage
        if not storage.slots_budget or self._entry.llama.embedding or self._entry.llama.reranking:
            return args
        try:
            slots = SlotStore(storage.slots_folder, self._entry.name, fingerprint(args, binary), storage.slots_budget)
            slots.prepare()
        except OSError as error:
            logger.warning("model=%s slots won't be saved: %s", self._entry.name, error.strerror)
            return args
        self._slots = slots
        return args.with_slots_in(slots.folder)

    async def _until_ready(self, child: ChildProcess, load: LoadProgress) -> None:
        """Probe until the child answers with its key. Raises LoadFailed where it ends before."""
        pause = PROBE_FIRST
        ended = asyncio.create_task(child.wait())
        try:
            while not await self._answers():
                await asyncio.wait({ended}, timeout=pause)
                if ended.done():
                    raise self._failure(child, ended.result())
                pause = min(PROBE_MOST, pause * PROBE_GROWTH)
                if load.mapping:
                    load.note_resident(await asyncio.to_thread(resident_bytes, child.pid))
                    self.progress = load.value
        finally:
            ended.cancel()

    async def _answers(self) -> bool:
        """Whether it takes its own key and no other: then it is ready, and it is ours."""
        status = await probe(self._client)
        if status == 401:
            raise LoadFailed(self._message("its process does not accept its key"))
        if status != 200:
            return False
        stranger = UpstreamClient(str(self._socket), secrets.token_urlsafe(8))
        other = await probe(stranger)
        stranger.close()
        if other == 200:
            raise LoadFailed(self._message("something else answers in place of its process"))
        return other == 401

    async def _let_go(self, child: ChildProcess) -> None:
        """Give leave to a child that somebody else has asked to end: it would wait for that."""
        while True:
            await self._log.ending.wait()
            self._log.ending.clear()
            for pause in LEAVING:
                await asyncio.sleep(pause)
                if not await self.answers():  # the line alone could be a prompt's, in a log of level debug
                    child.say_farewell()

    def _failure(self, child: ChildProcess, code: int) -> LoadFailed:
        short = _killed_by_others(child, code) or ran_out_of_memory(self.log.tail(LINES_READ))
        failure = (InsufficientMemory if short else LoadFailed)(self._message(self._explain(child, code)))
        failure.exit_code = code
        return failure

    def _explain(self, child: ChildProcess, code: int) -> str:
        ended = f"killed by signal {-code}" if code < 0 else f"exit status {code}"
        if _killed_by_others(child, code):
            ended += ", as the kernel does when memory is short"
        # Once it served, most errors in its log are those of single requests, which it survived.
        explain = explain_crash if self._ready else explain_failure
        telling = explain(self.log.tail(LINES_READ))
        return f"{telling} ({ended})" if telling else ended

    def _message(self, reason: str) -> str:
        return f"The model '{self._entry.name}' could not be loaded: {reason}"
