"""Arrivals: the strands of a run that may still come to a step which takes lists.

A list need not wait any longer once all moving strands are past it and no input may follow.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable
from contextvars import Context, copy_context
from typing import Final, Protocol

from batchrt.runtime.slots import Slots
from batchrt.runtime.task_pool import TaskPool

__all__ = ["Admission", "Arrivals", "RendezvousPoint"]

_MANY: Final = 64
"""Places from which on idle ones are looked for. A function may make a runnable for each item."""


class Admission(Protocol):
    """A source that admits items."""

    def may_admit(self) -> bool:
        """Whether another item may be admitted as things stand."""

    def resume(self) -> None:
        """Be told that one strand less is held up."""


class RendezvousPoint(Protocol):
    """Where strands wait for one another.

    Attributes:
        beyond: how many of the strands that move have been here.
    """

    beyond: int

    def stir(self) -> None:
        """Handle that no strand is on the way here."""

    def idle(self) -> bool:
        """Whether no strand waits here and no result is kept for later ones."""


class Arrivals:
    """Count the strands of a run, and of the runs nested in it on the same loop.

    Attributes:
        task_pool: runs the work that strands wait for together; `None` for a run of a single item, where none
            meets anybody.
        moving: strands that do not wait for others: not in a `RendezvousPoint`, not for their own branches,
            not for nested work.
        sources: where further items may come from.
        places: the rendezvous points, by the slots of their strands and the step they are for.
        base: the context of the run's caller, in which none of its items has set anything.
    """

    __slots__ = ("_many", "base", "moving", "places", "sources", "task_pool")

    def __init__(self) -> None:
        self.base: Context = copy_context()
        self.task_pool: TaskPool | None = None
        self.moving: int = 0
        self.sources: list[Admission] = []
        self.places: dict[tuple[Slots, Hashable], RendezvousPoint] = {}
        self._many = _MANY

    def awaited(self, place: RendezvousPoint) -> bool:
        """Whether somebody may still come to `place`."""
        if self.moving > place.beyond:
            return True
        return any(source.may_admit() for source in self.sources)

    def open(self, key: tuple[Slots, Hashable], place: RendezvousPoint) -> None:
        """Note a new place; where there are very many, those that are idle are let go of."""
        if len(self.places) >= self._many:
            for idle in [key for key, other in self.places.items() if other.idle()]:
                del self.places[idle]
            self._many = max(_MANY, 2 * len(self.places))
        self.places[key] = place

    def forget(self, ended: Collection[Slots]) -> None:
        """Let go of the places that were under slots of a run that has ended."""
        for key in [key for key in self.places if key[0] in ended]:
            del self.places[key]

    def slowed(self) -> None:
        """Notify the places where no strand is awaited any more."""
        for place in self.places.values():
            if not self.awaited(place):
                place.stir()
