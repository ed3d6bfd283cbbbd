"""A process for each contender, on a core of its own, so that nobody pays for another's garbage."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

__all__ = [
    "CONTENDER_CORE",
    "SERVER_CORE",
    "WorkerError",
    "pinned",
    "raise_file_limit",
    "run_python",
    "run_worker",
]

SERVER_CORE = 0
CONTENDER_CORE = 1

# Nobody's tracing or telemetry is part of a comparison.
_ENVIRONMENT = {"LANGSMITH_TRACING": "false", "LANGCHAIN_TRACING_V2": "false"}


class WorkerError(Exception):
    """A contender's process failed; the message is the last it said."""


@contextmanager
def pinned(core: int | None) -> Iterator[None]:
    """Have processes started in this block run on `core`, where the system can and has it."""
    if sys.platform != "linux" or core not in os.sched_getaffinity(0):
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def run_python(arguments: Sequence[str], *, seconds: float, core: int | None = CONTENDER_CORE) -> Any:
    """Run a fresh interpreter on `core`, or any if `None`, and return the JSON of its last line.

    Raises:
        WorkerError: it failed, or took longer than `seconds`.
    """
    command = [sys.executable, *arguments]
    try:
        with pinned(core):
            process = subprocess.Popen(
                command,
                env={**os.environ, **_ENVIRONMENT},
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        with process:
            try:
                output, complaint = process.communicate(timeout=seconds)
            except BaseException:
                process.kill()
                raise
    except subprocess.TimeoutExpired:
        raise WorkerError(f"stopped after {seconds:g} s") from None
    if process.returncode:
        lines = complaint.strip().splitlines() or [f"exit code {process.returncode}"]
        # An error may have a note below it.
        raise WorkerError("; ".join(lines[-2:]))
    return json.loads(output.splitlines()[-1])


def run_worker(
    module: str,
    settings: Mapping[str, Any],
    *,
    seconds: float = 600,
    core: int | None = CONTENDER_CORE,
) -> Any:
    """Run `work(settings)` of a module of this package in its own process; see `run_python`."""
    arguments = ["-m", "benchmarks.worker", module, json.dumps(dict(settings))]
    return run_python(arguments, seconds=seconds, core=core)


def raise_file_limit() -> None:
    """Allow this process as many open files as it may have: each connection takes one."""
    if sys.platform == "win32":
        return
    import resource

    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
