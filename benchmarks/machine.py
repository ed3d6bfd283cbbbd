"""The machine and the versions that figures belong to."""

from __future__ import annotations

import os
import platform
import re
import tomllib
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from benchmarks import texts

__all__ = ["available_memory", "describe", "installed"]

_PROJECT = Path(__file__).parent.parent / "pyproject.toml"
_OWN_STACK = ("anyio", "httpx", "httptools", "tenacity", "pydantic", "trio")


def describe() -> dict[str, Any]:
    """Return what a reader has to know to compare these figures with others."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "usable_cores": len(_affinity()),
        "load": _load(),
        "system": platform.platform(),
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "batchrt": installed("batchrt") or "the checkout",
        "texts": texts.origin(),
        "peers": _peers(),
        "stack": {name: installed(name) for name in _OWN_STACK},
    }


def installed(distribution: str) -> str | None:
    """Return the version that is installed, or `None`."""
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


def available_memory() -> int | None:
    """Return the bytes that a process could still take, where that is known."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    kilobytes = (int(line.split()[1]) for line in lines if line.startswith("MemAvailable:"))
    return next((1024 * number for number in kilobytes), None)


def _peers() -> dict[str, str]:
    """Return each pinned peer's version, and say where it is not the pinned one."""
    return {name: _state(name, pin) for name, pin in _pins().items()}


def _state(name: str, pin: str) -> str:
    found = installed(name)
    if found is None:
        return f"missing (pinned {pin})"
    return found if found == pin else f"{found} (pinned {pin})"


def _pins() -> dict[str, str]:
    if not _PROJECT.exists():
        return {}
    group = tomllib.loads(_PROJECT.read_text())["dependency-groups"]["bench"]
    matches = (re.match(r"([\w.-]+)==([^;\s]+)", line) for line in group)
    return {match[1]: match[2] for match in matches if match}


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
