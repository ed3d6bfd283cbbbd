"""Who of a run is on the way: what a list that waits to be filled has to know.

A list need not wait for anybody once all strands that move are past it and no input may follow.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable
from contextvars import Context, copy_context
from typing import Protocol

from batchrt.runtime.crew import Crew
from batchrt.runtime.slots import Slots

__all__ = ["Place", "Source", "Traffic"]


class Source(Protocol):
    """What admits items."""

    def may_admit(self) -> bool:
        """Whether another item may be admitted as things stand."""


class Place(Protocol):
    """Where strands wait for one another.

    Attributes:
        beyond: how many of the strands that move have been here.
    """

    beyond: int

    def stir(self) -> None:
        """Be told that nobody is on the way here."""

    def resume(self) -> None:
        """Be told that lists no longer hold all the slots, so that strands can come again."""


class Traffic:
    """Count the strands of a run, and of the runs nested in it on the same loop.

    Attributes:
        crew: runs what the strands wait for together; `None` for a run of a single item, where nobody
            meets anybody.
        moving: strands that do not wait for others: not in a `Place`, not for branches of their own,
            not for nested work.
        sources: where further items may come from.
        places: where strands wait, by what they wait for.
        listed: how many lists are under way, by the slots they hold.
        base: the context of the run's caller, in which none of its items has set anything.
    """

    __slots__ = ("base", "crew", "listed", "moving", "places", "sources")

    def __init__(self) -> None:
        self.base: Context = copy_context()
        self.crew: Crew | None = None
        self.moving: int = 0
        self.sources: list[Source] = []
        self.places: dict[Hashable, Place] = {}
        self.listed: Counter[Slots] = Counter()

    def awaited(self, place: Place) -> bool:
        """Whether somebody may still come to `place`."""
        if self.moving > place.beyond:
            return True
        return any(source.may_admit() for source in self.sources)

    def starved(self, slots: Slots) -> bool:
        """Whether nobody gets on for the lists that are under way."""
        return slots.limit is not None and self.listed[slots] >= slots.limit

    def list_begins(self, slots: Slots) -> None:
        """Note that a list took a slot."""
        self.listed[slots] += 1

    def list_ends(self, slots: Slots) -> None:
        """Note that a list gave its slot back."""
        starved = self.starved(slots)
        self.listed[slots] -= 1
        if starved:
            for place in self.places.values():
                place.resume()

    def slowed(self) -> None:
        """Tell the places where nobody is awaited any more."""
        for place in self.places.values():
            if not self.awaited(place):
                place.stir()
