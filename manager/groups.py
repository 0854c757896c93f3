"""Groups: how many models may be loaded at once, of all and of some, and who can't run beside whom."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from manager.settings_sections import SchedulingSettings

MODELS: Final = "models"
GROUP: Final = "group"


class Groups:
    """What the settings say of it. Places are resources like memory, by name: "models", "group:NAME"."""

    def __init__(self, settings: SchedulingSettings) -> None:
        self._groups = settings.groups
        self._counted = {f"{GROUP}:{name}": group for name, group in settings.groups.items() if group.most}
        self.most = {place: group.most for place, group in self._counted.items() if group.most}
        if settings.most_loaded:
            self.most[MODELS] = settings.most_loaded

    def places(self, model: str) -> list[str]:
        """The limits of numbers that count this model."""
        counted = [place for place, group in self._counted.items() if model in group.models]
        return [*counted, MODELS] if MODELS in self.most else counted

    def foes(self, model: str, others: Iterable[str]) -> frozenset[str]:
        """Those that can't run beside it, because one of the two is in an exclusive group without the other."""
        foes: set[str] = set()
        for group in self._groups.values():
            if group.exclusive:
                inside = model in group.models
                foes |= {other for other in others if (other in group.models) is not inside}
        return frozenset(foes - {model})


def is_place(resource: str) -> bool:
    """Whether this is a number of models, and not bytes of a device."""
    return resource.partition(":")[0] in {MODELS, GROUP}
