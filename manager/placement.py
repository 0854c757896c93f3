"""Where a model goes on a machine with several GPUs and its entry leaves that open: on one of them, as a whole."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from manager.entry import HfParams, LlamaParams, ModelEntry
from manager.memory import FIT_MARGIN, cuda_numbers
from manager.memory_figures import Expected, Room
from manager.plan import Wanted, make_plan

# Arguments of llama-server that say where a model or a part of it goes, by which room that is decided, or bring in
# devices of other machines.
_PLACING: Final = frozenset(
    {
        *("-dev", "--device", "-mg", "--main-gpu", "-sm", "--split-mode", "-ts", "--tensor-split", "--rpc"),
        *("-ngl", "--gpu-layers", "--n-gpu-layers", "-ot", "--override-tensor"),
        *("-devd", "--device-draft", "--spec-draft-device", "-mmdev", "--mmproj-device"),
        *("-otd", "--override-tensor-draft", "--spec-draft-override-tensor"),
        *("-fit", "--fit", "-fitt", "--fit-target"),
    }
)


@dataclass(frozen=True, slots=True)
class Placement:
    """One way to place a model. `entry`: as it is started. `device`: the GPU that has all of it, None: as it says."""

    entry: ModelEntry
    expected: Expected
    device: str | None = None

    @property
    def needs(self) -> dict[str, int]:
        """Bytes by device that have to be there for the load."""
        spare = self.expected.spare
        return {device: size + spare.get(device, 0) for device, size in self.expected.needed.items()}


def best_alone(ways: Sequence[Placement], room: Room) -> Placement:
    """The way that would be taken if no model of ours ran. `ways`: as the ledger gives them, the last one spread."""
    *places, spread = (way.needs for way in ways)
    plan = make_plan([Wanted("it", spread, places=tuple(places))], [], room.there, room.most)
    return ways[plan.placed.get("it", -1)]


def leaves_open(entry: ModelEntry) -> bool:
    """Whether the entry says nothing of which GPU it goes to, and goes to one at all."""
    params = entry.params
    if isinstance(params, HfParams):
        return params.device_map == "auto"
    if not isinstance(params, LlamaParams) or params.gpu_layers == 0:
        return False
    said = (params.device, params.main_gpu, params.split_mode, params.tensor_split)
    given = {argument.partition("=")[0] for argument in params.extra_args}
    return all(one is None for one in said) and not given & _PLACING


def on_gpu(entry: ModelEntry, number: int) -> ModelEntry:
    """The entry with all that goes to a GPU on this one. A draft and a projector go along (common/arg.cpp)."""
    device = {"device_map": f"cuda:{number}"} if isinstance(entry.params, HfParams) else {"device": f"CUDA{number}"}
    return replace(entry, params=entry.params.model_copy(update=device))


def spare(entry: ModelEntry) -> int:
    """Bytes that llama.cpp leaves free of a GPU: were there less at the load, not all layers would go there."""
    return FIT_MARGIN if isinstance(entry.params, LlamaParams) and entry.params.gpu_layers is None else 0


@dataclass(frozen=True, slots=True)
class Numbering:
    """GPUs in an order that begins with those that an entry names: what was learnt on one counts for its like, too.

    `named` of the numbers in `order` are the entry's.
    """

    order: tuple[int, ...]
    named: int = 0

    @classmethod
    def of(cls, entry: ModelEntry, count: int) -> Numbering:
        """`count`: how many GPUs its engine may use."""
        named = _named(entry)
        if named and max(named) >= count:
            named = []
        return cls((*named, *(number for number in range(count) if number not in named)), len(named))

    def renamed(self, entry: ModelEntry) -> ModelEntry:
        """The entry with the GPUs that it names by their place in the order."""
        if not self.named:
            return entry
        if isinstance(entry.params, HfParams):
            return on_gpu(entry, 0)
        names = ",".join(f"CUDA{place}" for place in range(self.named))
        return replace(entry, params=entry.params.model_copy(update={"device": names}))

    def inward(self, sizes: Mapping[str, int]) -> dict[str, int]:
        """Bytes by device, with GPUs by their place in the order."""
        places = {f"gpu{number}": f"gpu{place}" for place, number in enumerate(self.order)}
        return {places.get(device, device): size for device, size in sizes.items()}

    def outward(self, sizes: Mapping[str, int]) -> dict[str, int]:
        """Bytes by device, with GPUs by their numbers again."""
        numbers = {f"gpu{place}": f"gpu{number}" for place, number in enumerate(self.order)}
        return {numbers.get(device, device): size for device, size in sizes.items()}


NO_GPUS: Final = Numbering(())


def _named(entry: ModelEntry) -> list[int]:
    """The numbers of the NVIDIA GPUs that the entry names; none where it names none, or others too."""
    params = entry.params
    if isinstance(params, HfParams):
        text = params.device_map if isinstance(params.device_map, str) else ""
        number = text.removeprefix("cuda:")
        return [int(number)] if text.startswith("cuda:") and number.isdecimal() else []
    return cuda_numbers(params.device) if isinstance(params, LlamaParams) else []
