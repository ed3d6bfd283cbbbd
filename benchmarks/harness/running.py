"""A scenario's measurements: contenders take turns, round by round, each in a process of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

from benchmarks.harness.isolation import CONTENDER_CORE, SERVER_CORE, WorkerError, run_worker
from benchmarks.harness.measuring import rotated
from benchmarks.harness.mock_server import ServerProcess, serving
from benchmarks.scenarios.protocol import Case, Scenario, Turn

__all__ = ["play", "run_scenario"]

_LONGEST_MESSAGE = 160

Tell = Callable[[str], None]


@dataclass(slots=True)
class _Entry:
    """A turn and its samples so far; after a failure it is not measured again."""

    turn: Turn
    reason: str
    samples: list[Mapping[str, float]] = field(default_factory=list)

    def row(self) -> dict[str, Any]:
        keys = self.samples[0] if self.samples else ()
        return {
            "contender": self.turn.contender.key,
            "label": self.turn.label,
            "note": self.turn.note,
            "reason": self.reason,
            "figures": {key: [round(sample[key], 4) for sample in self.samples] for key in keys},
        }


def run_scenario(scenario: Scenario, cases: Sequence[Case], tell: Tell) -> dict[str, Any]:
    """Measure all cases, and return the results as JSON can hold them."""
    return {
        "key": scenario.key,
        "title": scenario.title,
        "about": scenario.about,
        "relative": scenario.relative,
        "charts": list(scenario.charts),
        "columns": [
            {"key": each.key, "heading": each.heading, "digits": each.digits, "best": each.best}
            for each in scenario.columns
        ],
        "cases": [_run_case(scenario, case, tell) for case in cases],
    }


def _run_case(scenario: Scenario, case: Case, tell: Tell) -> dict[str, Any]:
    entries = [_Entry(turn, turn.reason) for turn in case.turns]
    plan = list(_plan(entries))
    if case.side_by_side == 1:
        with _server(case) as server:
            for planned in plan:
                _measure(scenario, case, planned, server, tell)
    else:

        def one(planned: tuple[_Entry, int]) -> None:
            with serving(core=None, **(case.server or {})) as server:
                _measure(scenario, case, planned, server, tell)

        with ThreadPoolExecutor(case.side_by_side) as pool:
            list(pool.map(one, plan))
    return {"key": case.key, "title": case.title, "rows": [entry.row() for entry in entries]}


def _plan(entries: Sequence[_Entry]) -> Iterator[tuple[_Entry, int]]:
    """Yield the turns of all rounds, in another order in each."""
    for round_number in range(max((entry.turn.rounds for entry in entries), default=0)):
        for entry in rotated(entries, round_number):
            if round_number < entry.turn.rounds:
                yield entry, round_number


@contextmanager
def _server(case: Case) -> Iterator[ServerProcess | None]:
    with nullcontext() if case.server is None else serving(core=SERVER_CORE, **case.server) as server:
        yield server


def _measure(
    scenario: Scenario,
    case: Case,
    planned: tuple[_Entry, int],
    server: ServerProcess | None,
    tell: Tell,
) -> None:
    entry, round_number = planned
    if entry.reason:
        return
    turn = entry.turn
    tell(f"{case.title}: {turn.label}, round {round_number + 1} of {turn.rounds}")
    core = CONTENDER_CORE if case.side_by_side == 1 else None
    try:
        entry.samples.append(play(scenario.module, turn.settings, server, seconds=case.seconds, core=core))
    except WorkerError as error:
        entry.reason = _shortened(str(error))
        tell(f"{turn.label}: {error}")


def play(
    module: str,
    settings: Mapping[str, Any],
    server: ServerProcess | None,
    *,
    seconds: float,
    core: int | None = CONTENDER_CORE,
    **options: Any,
) -> dict[str, float]:
    """Measure one turn once, and add what the server has counted.

    Raises:
        WorkerError: it failed, or took longer than `seconds`.
    """
    if server is None:
        sample: dict[str, float] = run_worker(module, settings, seconds=seconds, core=core, **options)
        return sample
    given = {**settings, "base_url": server.base_url}
    sample = run_worker(module, given, seconds=seconds, core=core, **options)
    seen = server.log()
    return {
        **sample,
        "requests": seen["requests"],
        "sent": seen["requests"] / settings["items"],
        "refused": seen["by_status"].get("429", 0),
        "peak": seen["peak_in_flight"],
    }


def _shortened(message: str) -> str:
    """Return one line of a message, short enough for a cell, and without the folders of paths."""
    line = " ".join(word.rpartition("/")[2] if word.startswith("/") else word for word in message.split())
    return line if len(line) <= _LONGEST_MESSAGE else f"{line[:_LONGEST_MESSAGE]}…"
