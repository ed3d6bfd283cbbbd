"""The machine and the versions that figures belong to."""

from __future__ import annotations

import os
import platform
import subprocess
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

__all__ = ["describe", "installed"]

_OWN_STACK = ("anyio", "httpx", "httptools", "pydantic", "tenacity", "uvicorn", "uvloop")


def describe() -> dict[str, Any]:
    """Return the facts that figures of different runs have to share; no name of the host and no path."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "usable_cores": len(_affinity()),
        "load": _load(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "batchrt": installed("batchrt") or "the checkout",
        "commit": _commit(),
        "stack": {name: installed(name) for name in _OWN_STACK},
    }


def installed(distribution: str) -> str | None:
    """Return the version that is installed, or `None`."""
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


def _commit() -> str:
    """Return the commit of the checkout, with a mark if files have changed since; empty without git."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--exclude=*"]
    try:
        return subprocess.run(command, check=False, capture_output=True, text=True).stdout.strip()
    except OSError:
        return ""


def _load() -> list[float]:
    """Return how many processes wanted to run in the last 1, 5 and 15 minutes, where that is known."""
    return [round(load, 2) for load in os.getloadavg()] if hasattr(os, "getloadavg") else []


def _affinity() -> set[int]:
    if hasattr(os, "sched_getaffinity"):
        return set(os.sched_getaffinity(0))
    return set(range(os.cpu_count() or 1))


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())
