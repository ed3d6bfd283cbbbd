"""Items that meet at a list call in the middle of a chain: full lists, or no waiting?"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any, TypeAlias

from benchmarks.harness.isolation import WorkerError, run_worker
from benchmarks.harness.machine import installed
from benchmarks.harness.measuring import Series, per_item, rotated, settle, stopwatch
from benchmarks.studies.chain_steps import Load, Steps
from benchmarks.studies.chains import CHAINS, FULL_LISTS, NO_WAITING, Chain
from benchmarks.studies.results import Column, Row, Table
from benchmarks.studies.virtual_loop import run_virtually

__all__ = ["COLUMNS", "loads", "measure", "work"]

COLUMNS = (
    Column("wall", "wall s", 2),
    Column("ratio", "x better ideal", 2),
    Column("schedule", "schedule s", 2),
    Column("schedule_ratio", "x better ideal", 2),
    Column("cpu", "CPU µs/item", 0),
    Column("calls", "list calls", 0),
    Column("fill", "fill %", 0),
    Column("fill_loaded", "under load", 0),
    Column("wait", "waited ms", 0),
    Column("wait_p99", "p99", 0),
    Column("peak", "peak", 0),
)

_SECONDS: Mapping[str, str] = {"wall": "ratio", "schedule": "schedule_ratio"}
"""What is compared with the better ideal, and what the ratio is called."""

Samples: TypeAlias = Sequence[Mapping[str, float]]


def loads(*, quick: bool) -> tuple[Load, ...]:
    """Return the cases."""
    items = 2_000 if quick else 10_000
    return tuple(Load(size, in_flight, items) for in_flight in (50, 500) for size in (64, 256))


def measure(*, quick: bool, tell: Callable[[str], None]) -> Iterator[Table]:
    """Measure each contender in a process of its own, in turns."""
    for load in loads(quick=quick):
        yield _measure_load(load, 1 if quick else 3, tell)


def _measure_load(load: Load, rounds: int, tell: Callable[[str], None]) -> Table:
    samples: dict[str, list[dict[str, float]]] = {chain.name: [] for chain in CHAINS}
    notes = {chain.name: _missing(chain) for chain in CHAINS}
    for round_number in range(rounds):
        for chain in rotated(CHAINS, round_number):
            done = samples[chain.name]
            if notes[chain.name] or (chain.slow and done):
                continue
            tell(f"{load.name}: {chain.name}, round {round_number + 1} of {rounds}")
            settings = {"chain": CHAINS.index(chain), "load": asdict(load)}
            try:
                done.append(run_worker("studies.lists", settings, seconds=120))
            except WorkerError as error:
                notes[chain.name] = f"failed: {error}"
    ideals = {key: _better_ideal(samples[FULL_LISTS], samples[NO_WAITING], key) for key in _SECONDS}
    rows = [_row(chain, samples[chain.name], notes[chain.name], ideals, load) for chain in CHAINS]
    return Table(load.name, COLUMNS, rows)


def _missing(chain: Chain) -> str:
    missing = [name for name in chain.needs if installed(name) is None]
    return f"missing: {', '.join(missing)}" if missing else ""


def _better_ideal(full_lists: Samples, no_waiting: Samples, key: str) -> Series:
    """Return each round's better total; the one that is measured once stands for all rounds."""
    if not full_lists or not no_waiting:
        return Series(())
    alone = no_waiting[0][key]
    return Series(tuple(min(sample[key], alone) for sample in full_lists))


def _row(chain: Chain, samples: Samples, note: str, ideals: Mapping[str, Series], load: Load) -> Row:
    if note or not samples:
        return Row(chain.name, "asyncio", note=note)
    figures = {key: Series(tuple(sample[key] for sample in samples)) for key in samples[0]}
    figures["cpu"] = per_item(figures["cpu"].values, load.items)
    for key, ratio in _SECONDS.items():
        figures[ratio] = figures[key].over(ideals[key])
    return Row(chain.name, "asyncio", figures, "one round" if chain.slow else "")


def work(settings: Mapping[str, Any]) -> dict[str, float]:
    """Measure one contender once, in real time and by its schedule; see `isolation.run_worker`."""
    chain, load = CHAINS[settings["chain"]], Load(**settings["load"])
    figures = asyncio.run(_measure(chain, load))
    outputs, figures["schedule"] = run_virtually(chain.prepare(load, Steps(load))(range(load.items)))
    _check(chain, outputs, load)
    return figures


async def _measure(chain: Chain, load: Load) -> dict[str, float]:
    warm = Load(load.size, load.in_flight, load.size)
    await chain.prepare(warm, Steps(warm))(range(warm.items))  # imports, caches
    steps = Steps(load)
    run = chain.prepare(load, steps)
    settle()
    with stopwatch() as sample:
        outputs = await run(range(load.items))
    _check(chain, outputs, load)
    return {**steps.figures(), "wall": sample.wall, "cpu": sample.cpu}


def _check(chain: Chain, outputs: Sequence[int], load: Load) -> None:
    if outputs != [2 * x + 1 for x in range(load.items)]:
        raise ValueError(f"{chain.name} gave wrong outputs")
