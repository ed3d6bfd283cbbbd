"""Start-up: the cost of the import that a program begins with."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.contenders.protocol import Contender
from benchmarks.contenders.registry import find
from benchmarks.harness.isolation import command_for
from benchmarks.scenarios.protocol import Case, Column, Scenario, Tier, Turn

__all__ = ["STARTUP", "work"]

_ROUNDS = {"quick": 3, "full": 9}

# The probe's own modules are imported after its measurement, so that no contender gets them for free.
_PROBE = """
import sys, time
wall, cpu = time.perf_counter(), time.process_time()
exec(sys.argv[1])
cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
import resource
print(cpu, wall, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, len(sys.modules))
"""


def _cases(tier: Tier, contenders: Sequence[Contender]) -> Sequence[Case]:
    turns = []
    for contender in contenders:
        if contender.imports:
            reason = contender.missing()
            if tier == "quick" and contender.full_only:
                reason = "only in full runs"
            label = f"{contender.name}: `{contender.imports}`"
            settings = {"contender": contender.key}
            turns.append(Turn(contender, label, settings, _ROUNDS[tier], reason=reason))
    return [Case("startup", "the first import in a fresh process", turns)]


STARTUP = Scenario(
    "startup",
    "Start-up",
    "scenarios.startup",
    "The statement in a fresh interpreter. Bytecode is compiled when a distribution is installed.",
    (
        Column("cpu", "CPU ms", 0, "least"),
        Column("wall", "wall ms", 0, "least"),
        Column("memory", "memory, MB", 0, "least"),
        Column("modules", "modules", 0, "least"),
    ),
    _cases,
)


def work(settings: Mapping[str, Any]) -> dict[str, float]:
    """Measure one import in a process below this one; see `isolation.run_worker`."""
    command = command_for(["-c", _PROBE, find(settings["contender"]).imports])
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    cpu, wall, memory, modules = map(float, output.splitlines()[-1].split())
    unit = 1 if sys.platform == "darwin" else 1024
    return {"cpu": cpu * 1e3, "wall": wall * 1e3, "memory": memory * unit / 1e6, "modules": modules}
