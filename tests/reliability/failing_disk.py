"""Jobs on a failing disk: every k-th call for a file of theirs fails, and the job is run again.

    python -m tests.reliability.failing_disk csv EIO once

It preloads `failing_disk.c` into a process of its own and prints how many calls have failed.
"""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Final

from batchrt import InputError, Job, JournalError, Outcome, OutputError
from batchrt.files import open_source

__all__ = ["CASES", "can_fail", "run_in_child"]

ROWS: Final = 12
CASES: Final = (
    "jsonl",
    "csv",
    "parquet",
    "unordered jsonl",
    "unordered csv",
    "replaced jsonl",
    "replaced parquet",
)
ROOT: Final = Path(__file__).parents[2]


def can_fail() -> bool:
    """Whether the library can be built and preloaded here."""
    return sys.platform == "linux" and shutil.which("cc") is not None


def run_in_child(case: str, code: str, lasting: str, stride: int = 1) -> int:
    """Fail every call of a job in turn, in a process of its own; return how many there were.

    Args:
        case: the output: its format, whether it is `unordered`, and whether it replaces an older file.
        code: the name of the errno.
        lasting: `once`, or `lasting` if all calls after it fail as well.
        stride: fail each so-manieth call only.
    """
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder) / "failing_disk.so"
        source = Path(__file__).with_suffix(".c")
        build = [
            "cc",
            "-shared",
            "-fPIC",
            "-O1",
            "-D_LARGEFILE64_SOURCE",
            "-o",
            str(library),
            str(source),
            "-ldl",
        ]
        subprocess.run(build, check=True)
        ended = subprocess.run(
            [sys.executable, "-m", "tests.reliability.failing_disk", case, code, lasting, str(stride)],
            cwd=ROOT,
            env={**os.environ, "LD_PRELOAD": str(library), "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            check=False,
        )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return int(ended.stdout)


class Disk:
    """A folder whose files' calls can be made to fail.

    Attributes:
        folder: the folder.
        executed: rows that the job's function ran for.
        shown: rows that the job has shown.
    """

    def __init__(self, folder: Path, case: str) -> None:
        self.folder = folder
        self._kind = case.rpartition(" ")[2]
        self._ordered = not case.startswith("unordered")
        self._replaces = case.startswith("replaced")
        self._library = ctypes.CDLL(None)
        self._library.failing_disk_calls.restype = ctypes.c_long
        self.executed: list[int] = []
        self.shown: list[int] = []

    @property
    def output(self) -> Path:
        return self.folder / f"out.{self._kind}"

    def arm(self, failing: int, number: int, *, lasting: bool) -> None:
        where = os.fsencode(f"{self.folder}/")
        self._library.failing_disk_arm(where, ctypes.c_long(failing), number, int(lasting))

    def calls(self) -> int:
        return int(self._library.failing_disk_calls())

    def clear(self) -> None:
        for path in self.folder.iterdir():
            path.unlink()
        if self._replaces:
            shutil.copy(self.folder.parent / f"old.{self._kind}", self.output)

    def run(self) -> bool:
        """Run the job, and return whether each row has an outcome."""
        self.executed, self.shown = [], []

        async def work(value: dict[str, Any]) -> str:
            self.executed.append(value["n"])
            return f"{value['n']} " + "x" * 500

        def show(outcome: Outcome[Any]) -> None:
            self.shown.append(outcome.index)

        job = Job(
            work,
            [{"n": number} for number in range(ROWS)],
            self.output,
            journal=self.folder / "job.journal",
            config={"max_concurrency": 2},
            ordered=self._ordered,
            overwrite=self._replaces,
            version="1",
        )
        report = job.run(show)
        return report.is_complete and report.done == ROWS

    def rows(self, path: Path | None = None) -> list[Any]:
        """Return the rows of the output."""
        with open_source(path or self.output) as source:
            found = [dict(row.values) for row in source]
        return found if self._ordered else sorted(found, key=lambda row: int(row["n"]))

    def journal(self) -> list[Any]:
        job = Job(str, [], journal=self.folder / "job.journal", version="1")
        return [(outcome.index, outcome.output) for outcome in job.outcomes()]


def fail_each(disk: Disk, number: int, *, lasting: bool, stride: int) -> int:
    """Fail each call in turn; after each failure nothing is lost, and the job goes on."""
    disk.clear()
    old = disk.rows() if disk.output.exists() else None
    disk.arm(-1, 0, lasting=False)
    assert disk.run()
    calls, expected = disk.calls(), disk.rows()
    assert len(expected) == ROWS
    failing = failures = 0
    while failing < calls + 20:
        disk.clear()
        disk.arm(failing, number, lasting=lasting)
        where = f"call {failing}"
        try:
            disk.run()
        except (JournalError, OutputError, InputError) as error:
            failures += 1
            assert str(disk.folder) in str(error), f"{where}: {error}"
        shown = set(disk.shown)
        was_reached = disk.calls() > failing
        disk.arm(-1, 0, lasting=False)
        if old is not None and disk.output.exists():
            assert disk.rows() in (old, expected), f"{where}: the old output is spoiled"
        assert disk.run(), f"{where}: the job does not go on"
        assert not set(disk.executed) & shown, f"{where}: rows that were shown ran again"
        assert disk.rows() == expected, f"{where}: the output is another one"
        journal = [(place, f"{place} " + "x" * 500) for place in range(ROWS)]
        assert disk.journal() == journal, f"{where}: the journal is another one"
        assert not [path for path in disk.folder.iterdir() if ".unfinished" in path.name], where
        if not was_reached:
            break
        failing += stride
    assert failures, "no call has failed"
    return failing


def main(case: str, code: str, lasting: str, stride: str) -> None:
    with tempfile.TemporaryDirectory() as name:
        (Path(name) / "job").mkdir()
        for kind in ("jsonl", "parquet"):
            Job(
                str, [1, 2, 3], Path(name) / f"old.{kind}", journal=Path(name) / f"{kind}.j", version="1"
            ).run()
        disk = Disk(Path(name) / "job", case)
        count = fail_each(disk, getattr(errno, code), lasting=lasting == "lasting", stride=int(stride))
    sys.stdout.write(str(count))


if __name__ == "__main__":
    main(*sys.argv[1:])
