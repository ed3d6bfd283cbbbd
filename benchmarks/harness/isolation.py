"""A process for each measurement, pinned to a core, so that no contender pays for another's garbage."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from threading import Lock
from typing import Any

__all__ = [
    "CONTENDER_CORE",
    "SERVER_CORE",
    "TooSlowError",
    "WorkerError",
    "announced",
    "command_for",
    "environment",
    "pinned",
    "raise_file_limit",
    "run_python",
    "run_worker",
    "running",
]

SERVER_CORE = 0
CONTENDER_CORE = 1

_PACKAGE = Path(__file__).parent.parent
_copying = Lock()

# No tracing, telemetry or download is part of a comparison.
_SETTINGS = {
    "LANGSMITH_TRACING": "false",
    "LANGCHAIN_TRACING_V2": "false",
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "LITELLM_LOG": "ERROR",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_DEDUP_LOGS": "0",
    "HF_HUB_OFFLINE": "1",
    "NO_PROXY": "127.0.0.1,localhost",
}


class WorkerError(Exception):
    """A measurement's process failed; the message is the last that it wrote."""


class TooSlowError(WorkerError):
    """A measurement's process took longer than it was allowed to."""


@cache
def _copy_of_the_package() -> tempfile.TemporaryDirectory[str]:
    folder = tempfile.TemporaryDirectory(prefix="batchrt-benchmarks-")
    unwanted = shutil.ignore_patterns("__pycache__", "results")
    shutil.copytree(_PACKAGE, Path(folder.name) / _PACKAGE.name, ignore=unwanted)
    return folder


def environment() -> dict[str, str]:
    """Return the environment of a measurement's process.

    It imports this package from a copy. In the checkout, a process would import the checkout's batchrt
    too, in place of the one that is installed for its interpreter.
    """
    # Without bytecode on the disk, each process would compile the modules that it imports.
    kept = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    # Two threads would each make a copy, and the one that the cache drops is deleted in use.
    with _copying:
        folder = _copy_of_the_package().name
    return {**kept, **_SETTINGS, "PYTHONPATH": folder}


def command_for(arguments: Sequence[str], python: str = sys.executable) -> list[str]:
    """Return the command line of an interpreter that does not look for modules in its folder."""
    return [python, "-P", *arguments]


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


@contextmanager
def running(process: subprocess.Popen[Any], *, stop_seconds: float = 10) -> Iterator[None]:
    """Terminate `process` at exit, kill it if it has not ended `stop_seconds` later, and wait for its end."""
    with process:
        try:
            yield
        finally:
            process.terminate()
            try:
                process.wait(stop_seconds)
            except subprocess.TimeoutExpired:
                process.kill()


@contextmanager
def announced(
    command: Sequence[str], name: str, *, core: int | None = None, env: Mapping[str, str] | None = None
) -> Iterator[str]:
    """Run a server on `core` while entered, and return the first line that it writes: where it is.

    Raises:
        RuntimeError: the server, called `name`, did not start.
    """
    with pinned(core):
        process = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True)
    with running(process):
        assert process.stdout is not None
        place = process.stdout.readline().strip()
        if not place:
            raise RuntimeError(f"{name} did not start")
        yield place


def run_python(
    arguments: Sequence[str],
    *,
    seconds: float,
    core: int | None = CONTENDER_CORE,
    python: str = sys.executable,
) -> Any:
    """Run a fresh interpreter on `core`, or any if `None`, and return the JSON of its last line.

    Raises:
        TooSlowError: it took longer than `seconds`.
        WorkerError: it failed.
    """
    with pinned(core):
        process = subprocess.Popen(
            command_for(arguments, python),
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
    with process:
        try:
            output, complaint = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            _kill(process)
            raise TooSlowError(f"not finished after {seconds:g} s") from None
        except BaseException:
            _kill(process)
            raise
    if process.returncode:
        raise WorkerError(_last_words(complaint) or f"exit code {process.returncode}")
    return json.loads(output.splitlines()[-1])


def _last_words(complaint: str) -> str:
    """Return the error at the end of a traceback, and the note below it."""
    lines = [
        line for line in complaint.splitlines() if line.strip() and not line.startswith((" ", "Traceback"))
    ]
    return "; ".join(lines[-2:])


def _kill(process: subprocess.Popen[str]) -> None:
    """Kill a process with those that it started."""
    if sys.platform == "win32":
        process.kill()
        return
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def run_worker(
    module: str,
    settings: Mapping[str, Any],
    *,
    seconds: float = 600,
    core: int | None = CONTENDER_CORE,
    python: str = sys.executable,
) -> Any:
    """Run `work(settings)` of a module of this package in a process; see `run_python`."""
    arguments = ["-m", "benchmarks.harness.worker", module, json.dumps(dict(settings))]
    return run_python(arguments, seconds=seconds, core=core, python=python)


def raise_file_limit() -> None:
    """Allow this process as many open files as it may have: each connection takes one."""
    if sys.platform == "win32":
        return
    import resource

    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
