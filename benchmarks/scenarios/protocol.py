"""The scenario: its cases, the turns of its contenders in each, and the columns of its tables."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from benchmarks.contenders.protocol import Contender

__all__ = ["Best", "Case", "Column", "Scenario", "Tier", "Turn"]

Tier: TypeAlias = Literal["quick", "full"]
Best: TypeAlias = Literal["least", "most", ""]
"""Which figure of a column is the best; "" for a column that only informs."""


@dataclass(frozen=True, slots=True)
class Column:
    """One figure of a table.

    Attributes:
        key: its name among the figures that a measurement returns.
        digits: decimals shown.
    """

    key: str
    heading: str
    digits: int = 0
    best: Best = ""


@dataclass(frozen=True, slots=True)
class Turn:
    """One contender's part in a case.

    Attributes:
        label: its name in the table.
        settings: given to the scenario's `work`.
        rounds: how often it is measured.
        note: shown in its row.
        reason: why it is not measured; empty if it is.
    """

    contender: Contender
    label: str
    settings: Mapping[str, Any]
    rounds: int
    note: str = ""
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Case:
    """Work that all contenders of a table do.

    Attributes:
        server: options of the mock provider; None for work without requests.
        side_by_side: runs at the same time, each with a server of its own and on any core. More than one is
            for runs that mostly wait.
        seconds: after which a run is given up.
    """

    key: str
    title: str
    turns: Sequence[Turn]
    server: Mapping[str, Any] | None = None
    side_by_side: int = 1
    seconds: float = 300


@dataclass(frozen=True, slots=True)
class Scenario:
    """A kind of work.

    Attributes:
        module: of this package, whose `work(settings)` measures one turn of one round.
        about: how it is measured and how its table is read.
        relative: the key of the column that is also shown relative to batchrt's.
    """

    key: str
    title: str
    module: str
    about: str
    columns: Sequence[Column]
    cases: Callable[[Tier, Sequence[Contender]], Sequence[Case]]
    relative: str = "cpu"
    charts: Sequence[str] = field(default=())
