"""What an import costs, and what it drags along."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from benchmarks.isolation import WorkerError, run_python
from benchmarks.machine import installed
from benchmarks.measuring import Series, rotated
from benchmarks.results import Column, Row, Table

__all__ = ["BATCHRT", "CASE", "COLUMNS", "LIBRARIES", "measure"]

CASE = "import in a fresh process"
BATCHRT = "import batchrt"
COLUMNS = (
    Column("cpu", "CPU ms", 0),
    Column("wall", "wall ms", 0),
    Column("libraries", "HTTP and CLI libraries imported", 0),
)
LIBRARIES = ("httpx", "httptools", "aiohttp", "requests", "openai", "typer", "click", "rich")
"""What is looked for in `sys.modules` afterwards."""

_STATEMENTS: Mapping[str, str] = {
    BATCHRT: "anyio",
    "from batchrt import ChatOpenAI": "anyio",
    "import langchain_core.runnables": "langchain-core",
    "from langchain_core.runnables import RunnableLambda": "langchain-core",
    "from langchain_openai import ChatOpenAI": "langchain-openai",
    "import openai": "openai",
}
"""Each statement, and the distribution it takes."""

# What the probe needs itself is imported after it has measured, so that nobody gets it for nothing.
_PROBE = """
import sys, time
wall, cpu = time.perf_counter(), time.process_time()
exec(sys.argv[1])
cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
found = [name for name in sys.argv[2:] if name in sys.modules]
import json
print(json.dumps({"cpu": cpu, "wall": wall, "found": found}))
"""


def measure(*, quick: bool, tell: Callable[[str], None]) -> Iterator[Table]:
    """Measure each import in fresh processes, in turns; the first, which compiles, is dropped."""
    rounds = 3 if quick else 7
    samples: dict[str, list[dict[str, Any]]] = {statement: [] for statement in _STATEMENTS}
    notes: dict[str, str] = {}
    for round_number in range(rounds + 1):
        tell(f"round {round_number} of {rounds}")
        for statement in rotated(list(_STATEMENTS), round_number):
            _play(statement, samples[statement], notes)
    yield Table(CASE, COLUMNS, [_row(name, samples[name][1:], notes) for name in _STATEMENTS])


def _play(statement: str, samples: list[dict[str, Any]], notes: dict[str, str]) -> None:
    needed = _STATEMENTS[statement]
    if installed(needed) is None:
        notes[statement] = f"missing: {needed}"
    if statement in notes:
        return
    try:
        samples.append(run_python(["-c", _PROBE, statement, *LIBRARIES], seconds=60))
    except WorkerError as error:
        notes[statement] = f"failed: {error}"


def _row(statement: str, samples: Sequence[Mapping[str, Any]], notes: Mapping[str, str]) -> Row:
    if statement in notes or not samples:
        return Row(statement, note=notes.get(statement, ""))
    figures = {
        "cpu": Series(tuple(sample["cpu"] * 1e3 for sample in samples)),
        "wall": Series(tuple(sample["wall"] * 1e3 for sample in samples)),
        "libraries": Series(tuple(len(sample["found"]) for sample in samples)),
    }
    return Row(statement, figures=figures, note=", ".join(samples[0]["found"]))
