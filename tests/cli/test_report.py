"""`batchrt report`: the journal of a job, in words and as failed rows."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from batchrt import Job
from tests.cli.conftest import Command


def halves(value: dict[str, Any]) -> float:
    return 100 / int(value["n"])


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    path = tmp_path / "job.journal"
    Job(halves, [{"n": number} for number in (2, 0, 4)], journal=path).run()
    return path


def test_report_shows_totals_and_failed_rows(command: Command, journal: Path) -> None:
    """On stdout, with an exit code that says that some failed."""
    result = command("report", journal)
    assert (result.code, result.err) == (1, "")
    assert "2 done, 1 failed" in result.out
    assert "1 ZeroDivisionError" in result.out
    assert "row 2: ZeroDivisionError: division by zero" in result.out


def test_report_writes_failed_rows(command: Command, journal: Path, tmp_path: Path) -> None:
    """With their fields and errors; an existing file is replaced on demand alone."""
    out = tmp_path / "failed.jsonl"
    assert "1 failed row written to" in command("report", journal, "--failed", out).out
    row = {"n": 0, "output": None, "error": "ZeroDivisionError: division by zero"}
    assert [json.loads(line) for line in out.read_text().splitlines()] == [row]
    refused = command("report", journal, "--failed", out)
    assert refused.code == 2
    assert "--overwrite" in refused.err
    assert command("report", journal, "--failed", out, "--overwrite").code == 1


def test_report_of_a_complete_job_is_a_success(command: Command, tmp_path: Path) -> None:
    """Of one that was stopped it is not."""
    path = tmp_path / "j"
    job = Job(halves, [{"n": 1}], journal=path)
    job.run()
    assert command("report", path).code == 0
    stopped = Job(halves, [{"n": 1}, {"n": 2}], journal=path)
    stopped.stop()
    stopped.run()
    result = command("report", path)
    assert result.code == 4
    assert "not complete: it was stopped" in result.out


def test_report_names_a_missing_journal(command: Command, tmp_path: Path) -> None:
    """In one line."""
    result = command("report", tmp_path / "none")
    assert result.code == 2
    assert "no such file" in result.complaint


def test_report_writes_a_page(command: Command, journal: Path, tmp_path: Path) -> None:
    """With pictures; an existing file is replaced on demand alone."""
    page = tmp_path / "page.html"
    assert f"page written to {page}" in command("report", journal, "--html", page).out
    assert "division by zero" in page.read_text(encoding="utf-8")
    refused = command("report", journal, "--html", page)
    assert refused.code == 2
    assert "--overwrite" in refused.err
    assert command("report", journal, "--html", page, "--overwrite").code == 1


def test_report_writes_no_file_to_stdout(command: Command, journal: Path) -> None:
    """Which the report itself is on."""
    for name in ("--html", "--failed"):
        refused = command("report", journal, name, "-")
        assert (refused.code, refused.out) == (2, "")
        assert f"{name} needs a file" in refused.complaint


def test_report_names_the_extra_of_the_page(
    command: Command, journal: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where its library is not installed; the rest of the report is shown all the same."""
    monkeypatch.setitem(sys.modules, "jinja2", None)
    result = command("report", journal, "--html", tmp_path / "page.html")
    assert result.code == 2
    assert "batchrt[report]" in result.err
    assert "2 done, 1 failed" in result.out
    assert not (tmp_path / "page.html").exists()
