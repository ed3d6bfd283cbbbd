"""What a runtime costs: CPU per item where the work itself is next to nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import anyio

from benchmarks.isolation import WorkerError, run_worker
from benchmarks.leaves import Work, expected
from benchmarks.machine import installed
from benchmarks.measuring import Sample, Series, per_item, rotated, settle, stopwatch
from benchmarks.results import Column, Row, Table
from benchmarks.runtimes import ASYNC, REFERENCES, SYNC, AsyncRuntime, SyncRuntime

__all__ = ["COLUMNS", "case_name", "measure", "work"]

COLUMNS = (
    Column("cpu", "CPU µs/item"),
    Column("wall", "wall µs/item"),
    Column("ratio", "x semaphore+gather", 2),
    Column("ratio_one", "x its one step", 2),
)

_WORKS = (
    Work("one step", "sleep(0)", 100),
    Work("one step", "return x", 100),
    Work("sequence of 3", "sleep(0)", 100),
    Work("sequence of 3", "return x", 100),
    Work("parallel of 3", "sleep(0)", 100),
    Work("parallel of 3", "return x", 100),
    Work("sync function", "return x", 100),
    Work("one step", "sleep(0)", 10),
    Work("one step", "sleep(0)", None),
)
_SHARE_OF_SLOW = 10
_ONE_STEP = "one step "


def case_name(work: Work) -> str:
    """Return the title of a case."""
    bound = "no cap" if work.in_flight is None else f"{work.in_flight} in flight"
    return f"{work.shape}, {work.body}, {bound}"


def measure(*, quick: bool, tell: Callable[[str], None]) -> Iterator[Table]:
    """Measure every case, each in a process of its own, its contenders in turns within it.

    The ratios are of CPU: to semaphore+gather with the same steps, and with one such step only.
    """
    items, rounds = (2_000, 3) if quick else (10_000, 7)
    for work_ in _WORKS:
        case, columns = case_name(work_), COLUMNS if _has_yardstick(work_) else COLUMNS[:-1]
        tell(case)
        settings = {"work": asdict(work_), "items": items, "rounds": rounds}
        try:
            measured = run_worker("overhead", settings)
        except WorkerError as error:
            yield Table(case, columns, [Row("all", note=f"failed: {error}")])
        else:
            yield Table(case, columns, _rows(measured, items))


def _rows(measured: Sequence[Mapping[str, Any]], items: int) -> list[Row]:
    cpu = {_key(entry): per_item(entry["cpu"], entry["items"]) for entry in measured}
    return [_row(entry, cpu, items) for entry in measured if not entry["name"].startswith(_ONE_STEP)]


def _key(entry: Mapping[str, Any]) -> tuple[str, str]:
    return entry["name"], entry["loop"]


def _row(entry: Mapping[str, Any], cpu: Mapping[tuple[str, str], Series], items: int) -> Row:
    name, loop = _key(entry)
    if entry["note"]:
        return Row(name, loop, note=entry["note"])
    figures = {"cpu": cpu[name, loop], "wall": per_item(entry["wall"], entry["items"])}
    reference = REFERENCES[loop]
    same = cpu[reference, loop]
    figures["ratio"] = cpu[name, loop].over(same)
    figures["ratio_one"] = cpu[name, loop].over(cpu.get((_ONE_STEP + reference, loop), same))
    note = "" if entry["items"] == items else f"{entry['items']:,} items: it is slow"
    return Row(name, loop, figures, note)


def work(settings: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Measure one case; see `isolation.run_worker`."""
    given = Work(**settings["work"])
    entries = [_Entry(contender, given, settings["items"]) for contender in _contenders(given)]
    ready = [entry for entry in entries if not entry.note]
    for round_number in range(settings["rounds"] + 1):
        for entry in rotated(ready, round_number):
            entry.play(keep=round_number > 0)  # the first round warms up
    return [entry.to_dict() for entry in entries]


def _has_yardstick(work: Work) -> bool:
    return work.shape in ("sequence of 3", "parallel of 3")


def _contenders(work: Work) -> list[tuple[AsyncRuntime | SyncRuntime, Work]]:
    if work.shape == "sync function":
        return [(contender, work) for contender in SYNC]
    contenders: list[tuple[AsyncRuntime | SyncRuntime, Work]] = [(each, work) for each in ASYNC]
    if _has_yardstick(work):
        # The yardstick, in the same process and the same rounds.
        one = Work("one step", work.body, work.in_flight)
        contenders += [(each, one) for each in ASYNC if each.name == REFERENCES[each.loop]]
    return contenders


class _Entry:
    """A contender with its work, and what it has measured so far."""

    def __init__(self, contender: tuple[AsyncRuntime | SyncRuntime, Work], given: Work, items: int) -> None:
        self._runtime, self._work = contender
        self.name = self._runtime.name if self._work is given else _ONE_STEP + self._runtime.name
        self._inputs = range(items // _SHARE_OF_SLOW if self._runtime.slow else items)
        self._expected = [expected(self._work.shape, x) for x in self._inputs]
        self._samples: list[Sample] = []
        missing = [name for name in self._runtime.needs if installed(name) is None]
        self.note = f"missing: {', '.join(missing)}" if missing else ""

    def play(self, *, keep: bool) -> None:
        """Measure one round.

        Raises:
            ValueError: the outputs are wrong.
        """
        sample, outputs = _timed(self._runtime, self._work, self._inputs)
        if outputs != self._expected:
            raise ValueError(f"{self.name} ({self._runtime.loop}) gave wrong outputs")
        if keep:
            self._samples.append(sample)

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON can hold it."""
        return {
            "name": self.name,
            "loop": self._runtime.loop,
            "note": self.note,
            "items": len(self._inputs),
            "cpu": [sample.cpu for sample in self._samples],
            "wall": [sample.wall for sample in self._samples],
        }


def _timed(runtime: AsyncRuntime | SyncRuntime, work: Work, inputs: range) -> tuple[Sample, list[Any]]:
    if isinstance(runtime, SyncRuntime):
        run = runtime.run_for(work)
        settle()
        with stopwatch() as sample:
            outputs = run(inputs)
        return sample, outputs
    backend = "trio" if runtime.loop == "trio" else "asyncio"
    options = {"use_uvloop": runtime.loop == "uvloop"} if backend == "asyncio" else {}
    return anyio.run(_timed_async, runtime, work, inputs, backend=backend, backend_options=options)


async def _timed_async(runtime: AsyncRuntime, work: Work, inputs: range) -> tuple[Sample, list[Any]]:
    run = runtime.run_for(work)
    settle()
    with stopwatch() as sample:
        outputs = await run(inputs)
    return sample, outputs
