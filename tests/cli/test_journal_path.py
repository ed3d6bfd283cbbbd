"""Where a job's journal is, and whose it is."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from batchrt.files.cells import listed
from tests.cli.conftest import Command, Result


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    path = tmp_path / "in.csv"
    path.write_text("n\n1\n2\n3\n")
    return path


def run(command: Command, rows: Path, *more: object, stdin: bytes | None = None) -> Result:
    return command("run", rows, "-p", "{n}", "-m", "mock", *more, stdin=stdin)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_journal_is_beside_an_output_file(command: Command, rows: Path, tmp_path: Path) -> None:
    """It stays when the job is complete, the summary says where, and the same command sends nothing."""
    out = tmp_path / "out.csv"
    first = run(command, rows, "-o", out)
    assert first.code == 0
    assert names(tmp_path) == ["in.csv", "out.csv", "out.csv.journal"]
    assert f"journal: {out}.journal (" in first.err
    written = out.read_bytes()
    again = run(command, rows, "-o", out)
    assert again.code == 0
    assert "0 rows in" in again.err
    assert "3 reused" in again.err
    assert out.read_bytes() == written
    rows.write_text("n\n0\n1\n2\n3\n")
    added = run(command, rows, "-o", out)
    assert "1 row in" in added.err
    assert "3 reused, 0 failed before, 0 changed, 1 new" in added.err


@pytest.mark.parametrize("output", ["-", "/dev/null"])
def test_journal_is_none_for_streams(
    command: Command, rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, output: str
) -> None:
    """Rows are written to stdout and devices as they come, and nothing is left behind."""
    monkeypatch.chdir(tmp_path)
    result = run(command, rows, "-o", output, "--output-format", "jsonl")
    assert result.code == 0
    assert "journal" not in result.err
    assert names(tmp_path) == ["in.csv"]


def test_journal_is_none_for_a_named_pipe(command: Command, rows: Path, tmp_path: Path) -> None:
    """Whose reader gets each row."""
    pipe = tmp_path / "out.jsonl"
    os.mkfifo(pipe)
    read: list[str] = []
    reader = threading.Thread(target=lambda: read.extend(pipe.read_text().splitlines()))
    reader.start()
    assert run(command, rows, "-o", pipe).code == 0
    reader.join()
    assert len(read) == 3
    assert names(tmp_path) == ["in.csv", "out.jsonl"]


def test_journal_can_be_named_for_stdout(command: Command, rows: Path, tmp_path: Path) -> None:
    """Its rows are written when the run ends, each time all of them."""
    journal = tmp_path / "j"
    first = run(command, rows, "--journal", journal)
    again = run(command, rows, "--journal", journal)
    assert (first.code, again.code) == (0, 0)
    assert first.out == again.out
    assert len(first.out.splitlines()) == 3
    assert "3 reused" in again.err


def test_journal_can_be_left_out(command: Command, rows: Path, tmp_path: Path) -> None:
    """An output that exists is then refused, also one of a job that had a journal."""
    out = tmp_path / "out.jsonl"
    assert run(command, rows, "-o", out, "--no-journal").code == 0
    assert names(tmp_path) == ["in.csv", "out.jsonl"]
    refused = run(command, rows, "-o", out, "--no-journal")
    assert refused.code == 2
    assert "the file exists already" in refused.complaint
    refused = run(command, rows, "-o", out)
    assert refused.code == 2
    assert f"(there is no journal of it, {out}.journal, to resume)" in refused.complaint
    assert names(tmp_path) == ["in.csv", "out.jsonl"]
    assert run(command, rows, "-o", out, "--overwrite").code == 0


def test_journal_of_another_input_is_refused(command: Command, rows: Path, tmp_path: Path) -> None:
    """Unless it is named, or begun anew; nothing is lost on the way."""
    out, other = tmp_path / "out.jsonl", tmp_path / "other.csv"
    other.write_text("n\n7\n")
    assert run(command, rows, "-o", out).code == 0
    written = out.read_bytes()
    refused = run(command, other, "-o", out, "--overwrite")
    assert refused.code == 2
    assert refused.complaint == (
        f"the journal {out}.journal belongs to a job over {listed([str(rows)])}; name another output, or "
        "begin a new journal with --fresh (the old one is kept); to use it for this input as well, add "
        f"--journal {out}.journal"
    )
    assert out.read_bytes() == written
    assert run(command, rows, other, "-o", out).code == 0  # the rows of one file more
    named = run(command, other, "-o", out, "--journal", f"{out}.journal")
    assert named.code == 0
    assert "1 reused, 0 failed before, 0 changed, 0 new, 3 gone" in named.err
    fresh = run(command, rows, "-o", out, "--fresh")
    assert fresh.code == 0
    assert f"the old journal is kept as {out}.journal.old1" in fresh.err
    assert out.read_bytes() == written


def test_journal_all_rows_failed_keeps_the_old_output(command: Command, rows: Path, tmp_path: Path) -> None:
    """Rows without any answer are no reason to lose an output that has some."""
    out = tmp_path / "out.csv"
    out.write_text("old\n")
    rows.write_text('n\n"1\n')
    result = run(command, rows, "-o", out, "--overwrite")
    assert result.code == 2
    assert (
        f"{out} is unchanged, for no row has an answer; --retry-failed asks all of them again" in result.err
    )
    assert out.read_text() == "old\n"
