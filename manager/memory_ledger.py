"""What models are expected to take, what they took, and what there is for all of them together."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

from manager.daemon_thread import in_daemon_thread
from manager.engines.judging import memory_of
from manager.engines.kinds import BUILT_IN
from manager.entry import ModelEntry
from manager.errors import LoadFailed
from manager.memory import HOST, Estimate, Part, estimate
from manager.memory_devices import Devices
from manager.memory_figures import Admitted, Expected, Room
from manager.memory_free import Free, Gpus, gpus, host_free
from manager.memory_hf import estimate_folder, goes_by_room, torch_drives_cuda
from manager.memory_learnt import Learnt, Life, corrected, file_bytes, fingerprint, lasting, peaks, raised
from manager.memory_measured import anonymous
from manager.placement import NO_GPUS, Numbering, Placement, on_gpu, spare
from manager.settings import Settings

__all__ = ["Admitted", "Expected", "Ledger", "Room"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Shape:
    """What an entry is known by. `fingerprint`: empty where a file is missing; `gpus`: as it numbers them."""

    fingerprint: str = ""
    gpus: Numbering = NO_GPUS


@dataclass(frozen=True, slots=True)
class _Look:
    """What files and devices say of an entry. `settled`: its layers go to the same devices whatever is free."""

    estimate: Estimate | None
    size: int  # bytes of its files
    shape: _Shape
    most: Mapping[str, int]
    settled: bool


class Ledger:
    """All methods are for the event loop; files, processes and NVML are looked at in threads."""

    def __init__(
        self,
        settings: Settings,
        *,
        host: Callable[[], Free] = host_free,
        nvidia: Gpus | None = None,
        torch_cuda: Callable[[], bool] = torch_drives_cuda,
    ) -> None:
        self._settings = settings
        self._memory = settings.memory
        self._visible = settings.llama.cuda_visible_devices
        self._host = host
        self._nvidia = nvidia or gpus()
        self._seen = Devices(settings, host, self._nvidia, torch_cuda)
        self._learnt = Learnt(settings.storage.memory_file)
        self._read = False
        self._reading = asyncio.Lock()
        self._writing = asyncio.Lock()
        self._changed = False
        self._pending: deque[tuple[ModelEntry, Life]] = deque()  # lives that were not taken in yet
        self._gpu_room: Mapping[str, int] | None = None

    async def expected(self, entry: ModelEntry) -> Expected:
        """Never raises for the sake of an entry: what is wrong with it the load itself will say.

        Where a header can't be understood its files count with their sizes, on the host.
        """
        return await self._expected(entry)

    async def placements(self, entry: ModelEntry) -> tuple[Placement, ...]:
        """The ways to place it: whole on each GPU, where that is left open, and last as its entry says.

        Never raises, as `expected`.
        """
        as_it_says = Placement(entry, await self._expected(entry))
        numbers = await asyncio.to_thread(self._seen.choosable, entry) if as_it_says.expected.estimate else []
        whole = []
        for number in numbers:
            one, device = on_gpu(entry, number), f"gpu{number}"
            expected = await self._expected(one, whole=True)
            whole.append(Placement(one, replace(expected, spare={device: spare(entry)}), device))
        return (*whole, as_it_says)

    async def _expected(self, entry: ModelEntry, *, whole: bool = False) -> Expected:
        """`whole`: all layers go to GPUs though there may be no room for them."""
        await self._take_in()
        look = await asyncio.to_thread(self._look, entry, whole)
        if entry.engine not in BUILT_IN:
            return self._expected_of_own(look)
        if look.estimate is None and not look.size:
            return Expected()
        lives = self._lives(look)
        found = look.estimate or Estimate((Part("files", HOST, look.size),), 0, ())
        if entry.engine == "hf" and look.estimate is not None:
            needed = raised(found, lives, look.most, settled=look.settled)
            return Expected(look.estimate, peaks(lives), needed, lasting(found))
        needed = corrected(found, lives, look.most, settled=look.settled)
        return Expected(look.estimate, peaks(lives), needed)

    def _expected_of_own(self, look: _Look) -> Expected:
        """Of an engine of another package: what it says, else its files, else what was learnt, else nothing.

        What was learnt never lowers what it says. A device that the ledger does not know can't be waited for.
        """
        lives = self._lives(look)
        files = (Part("files", HOST, look.size),) if look.size else ()
        needed = corrected(look.estimate or Estimate(files, 0, ()), lives, look.most, settled=False)
        known = {device: size for device, size in needed.items() if device in look.most}
        return Expected(look.estimate, peaks(lives), known)

    def _lives(self, look: _Look) -> tuple[Life, ...]:
        lives = self._learnt.lives(look.shape.fingerprint)
        return tuple(Life(look.shape.gpus.outward(life.peak), life.served) for life in lives)

    async def room(self, running: Mapping[str, Admitted], *, recent: bool = False) -> Room:
        """What there is for all models, of the host and of each GPU. `running`: by name; `recent`: as of Gpus.free.

        `there` is the budget of the settings, where there is one, else what is free, less the reserve, and what the
        running models really have: all of it comes back when they go.
        """
        return await in_daemon_thread(partial(self._room, dict(running), recent), "look at memory")

    async def total(self) -> Mapping[str, int]:
        """How much memory the host, or its control group, and each GPU have, in bytes."""
        return {device.device: device.total for device in await self.devices()}

    async def devices(self, *, recent: bool = False) -> tuple[Free, ...]:
        """The host, or its control group, and each GPU, as they are now; `recent`: as of Gpus.free."""
        return tuple(await in_daemon_thread(partial(self._seen.all, recent=recent), "look at memory"))

    def learn(self, entry: ModelEntry, peak: Mapping[str, int], *, served: bool) -> None:
        """Take in the most that a life of this entry took; `served`: it had requests. `flush` writes it."""
        if peak:
            self._pending.append((entry, Life(dict(peak), served)))

    async def flush(self) -> None:
        """Write what was learnt since the last time. Never raises: a failure is logged, and tried again next time."""
        async with self._writing:
            if not (self._pending or self._changed):
                return
            try:
                await self._take_in()
                if self._changed:
                    self._changed = False
                    await asyncio.to_thread(self._learnt.write, self._learnt.snapshot())
            except Exception as error:
                self._changed = True
                logger.warning("memory_file=%s not written: %s", self._settings.storage.memory_file, error)

    async def _take_in(self) -> None:
        """Read the file, once, and add the lives that have ended since."""
        async with self._reading:
            if not self._read:
                await asyncio.to_thread(self._learnt.read)
                self._read = True
            while self._pending:
                entry, life = self._pending[0]
                shape = await asyncio.to_thread(self._shape, entry, True)
                self._pending.popleft()  # not before: a cancelled caller loses nothing
                if shape.fingerprint:
                    self._learnt.add(shape.fingerprint, entry.name, Life(shape.gpus.inward(life.peak), life.served))
                    self._changed = True

    def _look(self, entry: ModelEntry, whole: bool) -> _Look:
        """Blocks."""
        found: Estimate | None = None
        nvidia: tuple[Free, ...] = ()
        try:
            launcher = self._seen.launcher()[0]
            nvidia = self._seen.gpus_of(entry)
            if entry.engine == "hf":
                found = estimate_folder(entry, self._room_of([gpu for gpu in nvidia if gpu.total]))
            elif entry.engine not in BUILT_IN:
                found = _said(memory_of(entry))
            else:
                shares = [float(max(1, gpu.free)) if gpu.total else 0.0 for gpu in nvidia]
                found = estimate(entry, launcher, shares, room=() if whole else self._room_of(nvidia))
        except (LoadFailed, OSError) as error:
            logger.debug("model=%s memory is not known: %s", entry.name, error)
        except Exception:  # a header that makes no sense
            logger.exception("model=%s memory is not known", entry.name)
        most = {device.device: self._most(device) for device in (self._host(), *nvidia) if device.total}
        size = 0 if found else file_bytes(entry)
        return _Look(found, size, self._shape(entry, False), most, _settled(entry, len(nvidia)))

    def _shape(self, entry: ModelEntry, as_read: bool) -> _Shape:
        """See `fingerprint`. Blocks."""
        try:
            launcher = self._seen.launcher()[0] if entry.engine == "llama" else entry.engine
            nvidia = self._seen.gpus_of(entry)
            gpus = Numbering.of(entry, len(nvidia))
            kinds = [(nvidia[number].limit, nvidia[number].total) for number in gpus.order]
            return _Shape(fingerprint(gpus.renamed(entry), launcher, kinds, as_read=as_read), gpus)
        except (LoadFailed, OSError) as error:
            logger.debug("model=%s nothing can be learnt of it: %s", entry.name, error)
        except Exception:  # it must not stop what others learn
            logger.exception("model=%s nothing can be learnt of it", entry.name)
        return _Shape()

    def _room_of(self, nvidia: Sequence[Free]) -> list[int]:
        """What each GPU has for models, those that run included, as far as `room` has been asked."""
        if not nvidia:
            return []
        if self._gpu_room is None:
            self._room({})
        known = self._gpu_room or {}
        return [known.get(gpu.device, 0) for gpu in nvidia]

    def _room(self, running: Mapping[str, Admitted], recent: bool = False) -> Room:
        devices = self._seen.all(recent=recent)
        held = {name: self._held(admitted, len(devices) > 1) for name, admitted in running.items()}
        theirs = Counter[str]()
        for name, admitted in running.items():
            # Not ready, its memory may be free still, and counted it would be there twice.
            guess = admitted.memory if admitted.ready else {}
            theirs.update({**guess, **held[name]})
        there, most = {}, {}
        for device in devices:
            name = device.device
            budget, reserve = self._limits(device)
            there[name] = max(0, device.free + theirs[name] - reserve) if budget is None else budget
            most[name] = self._most(device)
        if not recent:  # loads go by it
            self._gpu_room = there
        return Room(there, most, held, tuple(devices))

    def _held(self, admitted: Admitted, with_gpus: bool) -> dict[str, int]:
        """What a model has, without devices of which that is not known."""
        pid = admitted.pid
        if pid is None:
            return dict(admitted.measured)
        return {HOST: anonymous(pid), **(self._nvidia.used({pid}, self._visible) if with_gpus else {})}

    def _most(self, device: Free) -> int:
        budget, reserve = self._limits(device)
        return max(0, device.total - reserve) if budget is None else budget

    def _limits(self, device: Free) -> tuple[int | None, int]:
        """Budget and reserve."""
        memory = self._memory
        if device.device == HOST:
            return memory.host_budget, memory.host_reserve
        return memory.gpu_budget, memory.gpu_reserve


def _said(sizes: Mapping[str, int] | None) -> Estimate | None:
    return None if sizes is None else Estimate(tuple(Part("engine", *size) for size in sizes.items()), 0, ())


def _settled(entry: ModelEntry, gpus: int) -> bool:
    if entry.engine not in BUILT_IN:
        return False
    if entry.engine == "hf":
        return not gpus or not goes_by_room(entry.hf.device_map)
    params = entry.llama
    shared_out = gpus > 1 and params.tensor_split is None and params.split_mode != "none"
    return not gpus or params.gpu_layers == 0 or (params.gpu_layers is not None and not shared_out)
