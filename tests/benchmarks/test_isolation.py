"""Measurements' processes: one copy of the package, and the installed batchrt."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest

import batchrt
from benchmarks.harness import isolation
from benchmarks.harness.isolation import WorkerError, environment, run_python, running


def test_isolation_copies_the_package_once_for_all_threads() -> None:
    """Runs that start side by side share a copy, which exists for as long as the process."""
    isolation._copy_of_the_package().cleanup()
    isolation._copy_of_the_package.cache_clear()
    together = Barrier(8)

    def folder(_: int) -> str:
        together.wait(10)
        return environment()["PYTHONPATH"]

    with ThreadPoolExecutor(8) as pool:
        found = set(pool.map(folder, range(8)))
    assert [(Path(folder) / "benchmarks" / "__init__.py").exists() for folder in found] == [True]


def test_isolation_measures_the_installed_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A `batchrt` in the current folder, such as the checkout's, is not imported."""
    (tmp_path / "batchrt.py").write_text("raise RuntimeError", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    code = "import json, batchrt, benchmarks; print(json.dumps([batchrt.__file__, benchmarks.__file__]))"
    own, copied = run_python(["-c", code], seconds=60)
    assert Path(own) == Path(batchrt.__file__)
    assert Path(copied).parent.parent == Path(environment()["PYTHONPATH"])


def test_isolation_reports_the_error_and_its_note() -> None:
    """The last lines of a traceback that are no code, without the traceback's own."""
    code = "error = ValueError('bad'); error.add_note('a note'); raise error"
    with pytest.raises(WorkerError, match=r"^ValueError: bad; a note$"):
        run_python(["-c", code], seconds=60, python=sys.executable)


@pytest.mark.parametrize("ends_it", ["SIG_DFL", "SIG_IGN"])
def test_isolation_ends_a_process_that_ran_beside(ends_it: str) -> None:
    """By SIGTERM, and by SIGKILL if it ignores that."""
    code = f"import signal as s; s.signal(s.SIGTERM, s.{ends_it}); print('up', flush=True); s.pause()"
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    with running(process, stop_seconds=10 if ends_it == "SIG_DFL" else 0.1):
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        assert process.poll() is None
    assert process.returncode == (-15 if ends_it == "SIG_DFL" else -9)
