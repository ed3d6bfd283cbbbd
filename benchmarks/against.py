"""The regression check: this checkout and a commit of it, measured in turns."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
import venv
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from statistics import median, quantiles
from typing import Any

from benchmarks.harness.mock_server import serving
from benchmarks.harness.running import play

__all__ = ["MARGIN", "Comparison", "Measurement", "compare", "report"]

MARGIN = 1.10
"""The ratio of CPU times beyond which code counts as slower: equal code stays within 5 % on two cores."""
_ROUNDS = 9
_SECONDS = 120
_ROOT = Path(__file__).parent.parent

Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Measurement:
    """What is measured on both sides: a module's `work`, and the server that it asks."""

    name: str
    module: str
    settings: Mapping[str, Any]
    server: Mapping[str, Any] | None = None


_CHAT = {"contender": "batchrt", "loop": "asyncio", "items": 4_000, "in_flight": 100}
_MEASUREMENTS = (
    Measurement("import", "scenarios.startup", {"contender": "batchrt"}),
    Measurement("steps, CPU/item", "scenarios.steps", {"contender": "batchrt", "items": 20_000}),
    Measurement("abatch_iter, CPU/item", "scenarios.scaling", {"way": "iter", "items": 40_000}),
    Measurement("chat, CPU/row", "scenarios.chat", _CHAT, {"latency": 0.025}),
    Measurement("chat on uvloop, CPU/row", "scenarios.chat", {**_CHAT, "loop": "uvloop"}, {"latency": 0.025}),
    Measurement(
        "embeddings, CPU/text",
        "scenarios.embeddings",
        {"contender": "batchrt", "items": 10_000},
        {"latency": 0.02, "dimensions": 1_536},
    ),
)


@dataclass(frozen=True, slots=True)
class Comparison:
    """The ratios of CPU times, this checkout's to the commit's, one for each round."""

    name: str
    ratios: Sequence[float]

    @property
    def is_slower(self) -> bool:
        """Whether the median is beyond the margin, and three quarters of the rounds are above 1."""
        lower_quartile = quantiles(self.ratios, n=4)[0] if len(self.ratios) > 1 else self.ratios[0]
        return median(self.ratios) > MARGIN and lower_quartile > 1.0


def compare(revision: str, *, tell: Tell, measurements: Sequence[Measurement] = _MEASUREMENTS) -> int:
    """Measure both sides, print the ratios, and return the exit code: 1 if this checkout is slower.

    Raises:
        subprocess.CalledProcessError: the commit does not exist or does not build.
    """
    with tempfile.TemporaryDirectory(prefix="batchrt-against-") as folder:
        base = Path(folder)
        tell(f"building {revision}")
        older = _environment(_checkout(revision, base / "source"), base / "older")
        tell("building this checkout")
        newer = _environment(_ROOT, base / "newer")
        compared = [_measured(each, older, newer, tell) for each in measurements]
    print("\n".join(report(revision, compared)))
    return int(any(each.is_slower for each in compared))


def report(revision: str, compared: Sequence[Comparison]) -> Iterator[str]:
    """Yield the lines of a result."""
    yield f"CPU time of this checkout relative to {revision}: median (least-most) of the rounds"
    for each in compared:
        centre, low, high = median(each.ratios), min(each.ratios), max(each.ratios)
        verdict = "  SLOWER" if each.is_slower else ""
        yield f"  {each.name:<26}{centre:.3f} ({low:.3f}-{high:.3f}){verdict}"
    slower = sum(each.is_slower for each in compared)
    yield f"{slower} of {len(compared)} slower by more than {MARGIN - 1:.0%}" if slower else "none is slower"


def _measured(measurement: Measurement, older: Path, newer: Path, tell: Tell) -> Comparison:
    ratios = []
    server = nullcontext() if measurement.server is None else serving(**measurement.server)
    with server as address:
        for number in range(_ROUNDS):
            sides = (older, newer) if number % 2 else (newer, older)
            cpu = {
                side: play(
                    measurement.module, measurement.settings, address, seconds=_SECONDS, python=str(side)
                )["cpu"]
                for side in sides
            }
            ratios.append(cpu[newer] / cpu[older])
            tell(f"{measurement.name}, round {number + 1} of {_ROUNDS}: {ratios[-1]:.3f}")
    return Comparison(measurement.name, ratios)


def _checkout(revision: str, folder: Path) -> Path:
    """Unpack the files of a commit."""
    archive = subprocess.run(
        ["git", "-C", str(_ROOT), "archive", "--format=tar", revision], check=True, capture_output=True
    ).stdout
    with tarfile.open(fileobj=io.BytesIO(archive)) as files:
        files.extractall(folder, filter="data")
    return folder


def _environment(source: Path, folder: Path) -> Path:
    """Return the interpreter of an environment with batchrt built from `source`.

    Its dependencies are those of this interpreter's environment: the same versions on both sides.
    """
    venv.create(folder, with_pip=False)
    scripts = "Scripts" if sys.platform == "win32" else "bin"
    python = folder / scripts / ("python.exe" if sys.platform == "win32" else "python")
    variables = {"base": str(folder), "platbase": str(folder)}
    own = Path(sysconfig.get_path("purelib", "venv", vars=variables))
    (own / "dependencies.pth").write_text(f"{sysconfig.get_path('purelib')}\n", encoding="utf-8")
    if uv := shutil.which("uv"):
        install = [uv, "pip", "install", "--quiet", "--python", str(python)]
    else:
        install = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet"]
    # PIP_… and UV_… settings of the caller hold; an editable checkout must not hide the build.
    kept = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    subprocess.run([*install, "--no-deps", str(source)], check=True, env=kept)
    return python
