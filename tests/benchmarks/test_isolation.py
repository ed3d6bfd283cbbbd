"""Measurements' processes: one copy of the package, and the installed batchrt."""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest

import batchrt
from benchmarks.harness import isolation
from benchmarks.harness.isolation import WorkerError, environment, run_python


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
