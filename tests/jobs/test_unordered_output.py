"""Output of rows as they end: its errors name the file."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import pytest

from batchrt import Job, OutputError


def test_unordered_output_that_cannot_be_made_is_an_output_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk fills up between the check of the folder and the first row."""
    output = tmp_path / "out.csv"
    write = Path.write_bytes

    def refuse(path: Path, data: bytes) -> int:
        if path == output:
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        return write(path, data)

    monkeypatch.setattr(Path, "write_bytes", refuse)

    def job() -> Job:
        given: dict[str, Any] = {"journal": tmp_path / "a.journal", "ordered": False, "version": "1"}
        return Job(str, [1, 2, 3], output, **given)

    with pytest.raises(OutputError, match=r"out\.csv: cannot write: no space left.*make room"):
        job().run()
    monkeypatch.undo()
    report = job().run()
    assert (report.is_complete, report.reused) == (True, 3)
    assert len(output.read_text().splitlines()) == 4
