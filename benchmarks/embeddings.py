"""Many texts over loopback HTTP: requests sent, CPU per text, memory; and what decoding costs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import anyio

from benchmarks import decoding
from benchmarks.embedders import EMBEDDERS, MODEL, WIDTH, Embedder, Target, fingerprints
from benchmarks.isolation import CONTENDER_CORE, WorkerError, run_worker
from benchmarks.machine import available_memory, installed
from benchmarks.measuring import Series, per_item, rotated, settle, stopwatch
from benchmarks.memory import Growth
from benchmarks.mock_server import SEED, ServerProcess, serving
from benchmarks.results import Column, Row, Table
from benchmarks.texts import glosses, short_texts

if TYPE_CHECKING:
    from batchrt.testing import ServerFamily

__all__ = ["COLUMNS", "MATRIX_MEGABYTES", "REFERENCE", "Case", "cases", "measure", "window_megabytes", "work"]

REFERENCE = "bare aiohttp"
COLUMNS = (
    Column("requests", "requests", 0),
    Column("peak", "peak", 0),
    Column("cpu", "CPU µs/text"),
    Column("ratio", "x bare aiohttp", 2),
    Column("wall", "wall s", 2),
    Column("growth", "memory growth, MB", 0),
    Column("wrong", "wrong", 0),
)
MATRIX_MEGABYTES = 100_000 * WIDTH * 4 / 1e6
"""What the vectors of the largest case are as a matrix of float32."""

_LATENCY = 0.1
_BYTES_IN_A_LIST = 42
"""Bytes that a number takes in a list: a reference, and a float of 24 that CPython makes 32 of."""
_CHECKED = 10_000


@dataclass(frozen=True, slots=True)
class Case:
    """Say which texts are embedded, by what kind of server, and how many requests may be open.

    Attributes:
        most: the most texts that the server takes in a request.
        list_rounds: how often those are measured who give lists, which takes time and memory.
    """

    texts: Literal["definitions", "short texts"]
    count: int
    server: ServerFamily
    most: int
    in_flight: int
    rounds: int
    list_rounds: int

    @property
    def name(self) -> str:
        """The case's title."""
        return (
            f"{self.count:,} {self.texts}, {self.most:,} a request, {self.in_flight} in flight, "
            f"{_LATENCY * 1e3:g} ms latency"
        )

    def rounds_of(self, embedder: Embedder) -> int:
        """Return how often `embedder` is measured."""
        return self.list_rounds if embedder.gives == "lists" else self.rounds


def window_megabytes(case: Case) -> float:
    """Return what a stream of blocks may need.

    Those of the window, of which two wait beside those under way; and as much again for what is under
    way.
    """
    block = case.most * WIDTH * 4 / 1e6
    return (2 * case.in_flight + 2) * block


def cases(*, quick: bool) -> tuple[Case, ...]:
    """Return the cases; what text-embeddings-inference takes of itself is 32 texts and 512 at once."""
    if quick:
        return (
            Case("definitions", 2_000, "openai", 2_048, 4, rounds=1, list_rounds=1),
            Case("definitions", 1_000, "tei", 32, 16, rounds=1, list_rounds=1),
            Case("short texts", 10_000, "openai", 2_048, 4, rounds=1, list_rounds=1),
        )
    return (
        Case("definitions", 10_000, "openai", 2_048, 4, rounds=5, list_rounds=3),
        Case("definitions", 10_000, "tei", 32, 16, rounds=3, list_rounds=1),
        Case("short texts", 100_000, "openai", 2_048, 4, rounds=3, list_rounds=1),
    )


def measure(*, quick: bool, tell: Callable[[str], None]) -> Iterator[Table]:
    """Measure each client in a process of its own, in turns; then what decoding alone costs."""
    for case in cases(quick=quick):
        yield _measure_case(case, tell)
    tell(decoding.CASE)
    yield decoding.measure(rounds=3 if quick else 15)


@dataclass(slots=True)
class _Entry:
    """A client and what it has measured so far."""

    embedder: Embedder
    note: str
    samples: list[dict[str, float]] = field(default_factory=list)

    def series(self, key: str) -> Series:
        return Series(tuple(sample[key] for sample in self.samples))


def _measure_case(case: Case, tell: Callable[[str], None]) -> Table:
    tei = case.server == "tei"
    entries = [_Entry(each, _reason(case, each)) for each in EMBEDDERS if tei or not each.learns]
    with serving(_LATENCY, server=case.server, dimensions=WIDTH) as server:
        for round_number in range(case.rounds):
            for entry in rotated(entries, round_number):
                embedder = entry.embedder
                if not entry.note and len(entry.samples) < case.rounds_of(embedder):
                    tell(f"{case.name}: {embedder.name} ({embedder.loop}), round {round_number + 1}")
                    _play(entry, case, server)
    references = {each.embedder.loop: each for each in entries if each.embedder.name == REFERENCE}
    return Table(case.name, COLUMNS, [_row(each, case, references[each.embedder.loop]) for each in entries])


def _reason(case: Case, embedder: Embedder) -> str:
    """Return why `embedder` is not measured; empty if it is."""
    missing = [name for name in embedder.needs if installed(name) is None]
    if missing:
        return f"missing: {', '.join(missing)}"
    free, needed = available_memory(), case.count * WIDTH * _BYTES_IN_A_LIST
    if embedder.gives == "lists" and free is not None and free < needed:
        return f"left out: lists of so many numbers take {needed / 1e9:.1f} GB"
    return ""


def _play(entry: _Entry, case: Case, server: ServerProcess) -> None:
    settings = {
        "embedder": EMBEDDERS.index(entry.embedder),
        "base_url": server.base_url,
        "texts": case.texts,
        "count": case.count,
        "server": case.server,
        "most": case.most,
        "in_flight": case.in_flight,
    }
    try:
        sample = run_worker("embeddings", settings, core=CONTENDER_CORE)
    except WorkerError as error:
        entry.note = f"failed: {error}"
    else:
        seen = server.log()
        requests, peak = seen["requests"], seen["peak_in_flight"]
        entry.samples.append({**sample, "requests": requests, "peak": peak})


def _row(entry: _Entry, case: Case, reference: _Entry) -> Row:
    embedder = entry.embedder
    if entry.note or not entry.samples:
        return Row(embedder.name, embedder.loop, note=entry.note)
    cpu = per_item(entry.series("cpu").values, case.count)
    keys = ("requests", "peak", "wall", "growth", "wrong")
    figures = {"cpu": cpu, **{key: entry.series(key) for key in keys}}
    if reference.samples:
        figures["ratio"] = cpu.over(per_item(reference.series("cpu").values, case.count))
    notes: list[str] = [embedder.gives]
    if len(entry.samples) != case.rounds:
        notes.append(f"{len(entry.samples)} of {case.rounds} rounds")
    return Row(embedder.name, embedder.loop, figures, ", ".join(notes))


def work(settings: Mapping[str, Any]) -> dict[str, float]:
    """Measure one client once; see `isolation.run_worker`.

    The server forgets what it saw before the measurement.
    """
    embedder = EMBEDDERS[settings["embedder"]]
    options = {"use_uvloop": embedder.loop == "uvloop"}
    return anyio.run(_measure_embedder, embedder, settings, backend="asyncio", backend_options=options)


async def _measure_embedder(embedder: Embedder, settings: Mapping[str, Any]) -> dict[str, float]:
    target = Target(settings["base_url"], settings["in_flight"], settings["most"], settings["server"])
    texts = (glosses if settings["texts"] == "definitions" else short_texts)(settings["count"])
    async with embedder.open(target) as embed:
        # Loads what is loaded late, and leaves memory as it was.
        fingerprints(await embed(texts[:10]))
        ServerProcess(target.base_url).reset()
        settle()
        growth = Growth()
        with stopwatch() as sample:
            vectors = await embed(texts)
        grown = growth.megabytes
    found = vectors if embedder.gives == "blocks" else fingerprints(vectors)
    return {"cpu": sample.cpu, "wall": sample.wall, "growth": grown, "wrong": _count_wrong(found, texts)}


def _count_wrong(found: Any, texts: Sequence[str]) -> int:
    """Return how many vectors are missing or not the mock's own; of many texts some are looked at."""
    from batchrt.testing import MockProvider

    provider = MockProvider(seed=SEED, dimensions=WIDTH)
    places = range(0, min(len(texts), len(found)), max(1, len(texts) // _CHECKED))
    wanted = fingerprints([provider.vector_of(texts[place], model=MODEL) for place in places])
    wrong = (found[places.start : places.stop : places.step] != wanted).any(axis=1).sum()
    return int(wrong) + abs(len(texts) - len(found))
