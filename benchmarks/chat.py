"""The whole chain over loopback HTTP: CPU per item, and the wall time of thousands in flight."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import anyio

from benchmarks.clients import CLIENTS, Client, Target, question, rows
from benchmarks.isolation import CONTENDER_CORE, WorkerError, run_worker
from benchmarks.machine import installed
from benchmarks.measuring import Series, per_item, rotated, settle, stopwatch
from benchmarks.mock_server import SEED, ServerProcess, serving
from benchmarks.results import Column, Row, Table

__all__ = ["COLUMNS", "REFERENCE", "Case", "cases", "measure", "work"]

REFERENCE = "bare aiohttp"
COLUMNS = (
    Column("cpu", "CPU µs/item", 0),
    Column("ratio", "x bare aiohttp", 2),
    Column("wall", "wall s", 2),
    Column("ideal", "x ideal", 2),
    Column("lost", "wrong", 0),
    Column("peak", "peak", 0),
)


@dataclass(frozen=True, slots=True)
class Case:
    """Say what is asked of whom.

    Attributes:
        latency: of the mock, in seconds.
        warm: open the connections before measuring; else that is part of what is measured.
        free: run on any core. Where wall time is the question, a client that has threads may use them.
        slow_items: how many a slow client is given; none leaves it out.
    """

    in_flight: int
    latency: float
    items: int
    slow_items: int
    warm: bool
    free: bool
    rounds: int
    slow_rounds: int

    @property
    def name(self) -> str:
        """The case's title."""
        return (
            f"{self.items:,} items, {self.latency * 1e3:g} ms latency, "
            f"{self.in_flight:,} in flight, connections {'open' if self.warm else 'to be opened'}, "
            f"{'any core' if self.free else 'one core'}"
        )

    def items_of(self, client: Client) -> int:
        """Return how many items `client` is given."""
        return self.slow_items if client.slow else self.items

    def rounds_of(self, client: Client) -> int:
        """Return how often `client` is measured."""
        return self.slow_rounds if client.slow else self.rounds

    def ideal(self, items: int) -> float:
        """Return the seconds it takes if nothing but the latency does."""
        return -(-items // self.in_flight) * self.latency


def cases(*, quick: bool) -> tuple[Case, ...]:
    """Return the cases.

    In the first two the latency holds the rate at 4,000 requests a second at most, which the mock
    can serve on its core: a client is never ahead of it, so that all of its slots are in flight.
    """
    if quick:
        return (
            Case(100, 0.025, 2_000, 300, warm=True, free=False, rounds=1, slow_rounds=1),
            Case(1_000, 0.25, 3_000, 1_000, warm=True, free=False, rounds=1, slow_rounds=1),
            Case(1_000, 1.0, 2_000, 0, warm=False, free=True, rounds=1, slow_rounds=0),
            Case(2_000, 1.0, 2_000, 0, warm=False, free=True, rounds=1, slow_rounds=0),
        )
    return (
        Case(100, 0.025, 10_000, 1_000, warm=True, free=False, rounds=5, slow_rounds=3),
        Case(1_000, 0.25, 10_000, 2_000, warm=True, free=False, rounds=3, slow_rounds=1),
        Case(1_000, 1.0, 10_000, 10_000, warm=False, free=True, rounds=3, slow_rounds=1),
        Case(10_000, 1.0, 10_000, 0, warm=False, free=True, rounds=3, slow_rounds=0),
    )


def measure(*, quick: bool, tell: Callable[[str], None]) -> Iterator[Table]:
    """Measure each client in a process of its own, in turns."""
    for case in cases(quick=quick):
        yield _measure_case(case, tell)


@dataclass(slots=True)
class _Entry:
    """A client and what it has measured so far."""

    client: Client
    items: int
    note: str
    samples: list[dict[str, float]] = field(default_factory=list)

    def series(self, key: str) -> Series:
        return Series(tuple(sample[key] for sample in self.samples))

    @property
    def cpu(self) -> Series:
        return per_item(self.series("cpu").values, self.items)


def _measure_case(case: Case, tell: Callable[[str], None]) -> Table:
    entries = [_Entry(each, case.items_of(each), _reason(case, each)) for each in CLIENTS]
    with serving(case.latency) as server:
        for round_number in range(case.rounds):
            for entry in rotated(entries, round_number):
                if not entry.note and len(entry.samples) < case.rounds_of(entry.client):
                    client = entry.client
                    tell(f"{case.name}: {client.name} ({client.loop}), round {round_number + 1}")
                    _play(entry, case, server)
    references = {entry.client.loop: entry for entry in entries if entry.client.name == REFERENCE}
    usual = references["asyncio"]
    rows_ = [_row(entry, case, references.get(entry.client.loop, usual)) for entry in entries]
    return Table(case.name, COLUMNS, rows_)


def _reason(case: Case, client: Client) -> str:
    """Return why `client` is not measured; empty if it is."""
    missing = [name for name in client.needs if installed(name) is None]
    if missing:
        return f"missing: {', '.join(missing)}"
    if not case.items_of(client):
        return "left out: it would take minutes"
    return ""


def _play(entry: _Entry, case: Case, server: ServerProcess) -> None:
    server.reset()
    settings = {
        "client": CLIENTS.index(entry.client),
        "base_url": server.base_url,
        "in_flight": case.in_flight,
        "items": entry.items,
        "warm": case.warm,
    }
    try:
        sample = run_worker("chat", settings, core=None if case.free else CONTENDER_CORE)
    except WorkerError as error:
        entry.note = f"failed: {error}"
    else:
        entry.samples.append({**sample, "peak": server.log()["peak_in_flight"]})


def _row(entry: _Entry, case: Case, reference: _Entry) -> Row:
    client = entry.client
    if entry.note or not entry.samples:
        return Row(client.name, client.loop, note=entry.note)
    wall, ideal = entry.series("wall"), case.ideal(entry.items)
    figures = {
        "cpu": entry.cpu,
        "wall": wall,
        "ideal": Series(tuple(seconds / ideal for seconds in wall.values)),
        "lost": entry.series("lost"),
        "peak": entry.series("peak"),
    }
    if reference.samples:
        figures["ratio"] = entry.cpu.over(reference.cpu)
    notes = []
    if entry.items != case.items:
        notes.append(f"{entry.items:,} items")
    if len(entry.samples) != case.rounds:
        notes.append(f"{len(entry.samples)} of {case.rounds} rounds")
    return Row(client.name, client.loop, figures, ", ".join(notes))


def work(settings: Mapping[str, Any]) -> dict[str, float]:
    """Measure one client once; see `isolation.run_worker`."""
    client = CLIENTS[settings["client"]]
    if client.loop == "trio":
        return anyio.run(_measure_client, client, settings, backend="trio")
    options = {"use_uvloop": client.loop == "uvloop"}
    return anyio.run(_measure_client, client, settings, backend="asyncio", backend_options=options)


async def _measure_client(client: Client, settings: Mapping[str, Any]) -> dict[str, float]:
    target = Target(settings["base_url"], settings["in_flight"])
    inputs = rows(settings["items"])
    async with client.open(target) as ask:
        # Ten requests load what is loaded late; as many as there are slots open all connections.
        await ask(rows(settings["in_flight"] if settings["warm"] else 10))
        settle()
        with stopwatch() as sample:
            answers = await ask(inputs)
    lost = _count_wrong(answers, [question(row) for row in inputs])
    return {"cpu": sample.cpu, "wall": sample.wall, "lost": lost}


def _count_wrong(answers: Sequence[str], questions: Sequence[str]) -> int:
    from batchrt.testing import MockProvider

    provider = MockProvider(seed=SEED)
    pairs = zip(answers, questions, strict=False)
    right = sum(answer == provider.answer_to(asked) for answer, asked in pairs)
    return max(len(answers), len(questions)) - right
