"""The journal: groups of commits, one writer, its format, its errors."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from batchrt import JournalError
from batchrt.jobs.commit_thread import GROUP_ROWS
from batchrt.jobs.journal import Journal, RowSource
from batchrt.jobs.journal_reader import JournalReader
from batchrt.jobs.records import Record

RECORD = Record("done", '"out"', None, 1, 0.5, 0.4, None, None, None, None, "req-1", 1.0)


def source(number: int, chain: int = 1) -> RowSource:
    return RowSource(number.to_bytes(16), number.to_bytes(8), chain, str(number))


def insert(journal: Journal, numbers: range) -> None:
    for number in numbers:
        journal.insert(number, source(number), RECORD, number)


def test_journal_keeps_what_was_flushed(tmp_path: Path) -> None:
    """A reader finds it, in the order of the input."""
    with Journal(tmp_path / "j") as journal:
        for number in (2, 0, 1):
            journal.insert(number, source(number), RECORD)
        journal.flush()
        with JournalReader(tmp_path / "j") as reader:
            assert [(at, given) for at, given, _ in reader.records()] == [(0, "0"), (1, "1"), (2, "2")]
            assert next(reader.records())[2] == RECORD


def test_journal_commits_what_is_left_when_it_is_closed(tmp_path: Path) -> None:
    """Nothing that was put is lost by closing, and the log is folded into the file."""
    with Journal(tmp_path / "j") as journal:
        insert(journal, range(1000))
    with JournalReader(tmp_path / "j") as reader:
        assert sum(1 for _ in reader.records()) == 1000
    assert sorted(path.name for path in tmp_path.iterdir()) == ["j"]


def test_journal_reports_rows_once_they_are_on_the_disk(tmp_path: Path) -> None:
    """In order, each once, in groups of a bounded size."""
    groups: list[list[int]] = []
    unseen: list[int] = []

    def committed(tokens: list[Any]) -> None:
        with JournalReader(tmp_path / "j") as reader:
            unseen.extend(set(tokens) - {at for at, _, _ in reader.records()})
        groups.append(tokens)

    with Journal(tmp_path / "j", committed=committed) as journal:
        insert(journal, range(1000))
        journal.flush()
    assert [number for group in groups for number in group] == list(range(1000))
    assert max(map(len, groups)) <= GROUP_ROWS
    assert unseen == []


def test_journal_is_full_with_a_group_that_waits_for_the_disk(tmp_path: Path) -> None:
    """Also while that group is being committed."""
    entered, go = threading.Event(), threading.Event()

    def committed(_tokens: list[Any]) -> None:
        entered.set()
        assert go.wait(30)

    with Journal(tmp_path / "j", committed=committed) as journal:
        insert(journal, range(1))
        assert entered.wait(30)
        insert(journal, range(1, GROUP_ROWS))
        seen = [journal.is_full]
        insert(journal, range(GROUP_ROWS, GROUP_ROWS + 1))
        seen.append(journal.is_full)
        go.set()
        journal.flush()
        assert [*seen, journal.is_full] == [False, True, False]


def test_journal_raises_the_error_of_a_value_that_it_cannot_keep(tmp_path: Path) -> None:
    """And does not wait for ever for the thread that met it."""
    with Journal(tmp_path / "j") as journal:
        insert(journal, range(2))
        journal.flush()
        journal.insert(2, source(2), RECORD._replace(attempts=2**70))
        with pytest.raises(OverflowError):
            journal.flush()
        with pytest.raises(OverflowError):
            insert(journal, range(3, 4))
    with JournalReader(tmp_path / "j") as reader:
        assert [at for at, _, _ in reader.records()] == [0, 1]


def test_journal_has_one_writer_in_a_process(tmp_path: Path) -> None:
    """The second is refused at once, and a third may write when the first is closed."""
    with Journal(tmp_path / "j"), pytest.raises(JournalError) as caught:
        Journal(tmp_path / "j")
    assert caught.value.fault == "locked"
    assert f"process {os.getpid()}" in str(caught.value)
    Journal(tmp_path / "j").close()


def test_journal_has_one_writer_among_processes(tmp_path: Path) -> None:
    """A killed process leaves no lock behind."""
    program = (
        "import sys; from batchrt.jobs.journal import Journal; "
        "j = Journal(sys.argv[1]); print('open', flush=True); sys.stdin.read()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path / "j")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[2],
    )
    assert process.stdout is not None
    assert process.stdin is not None
    try:
        assert process.stdout.readline() == b"open\n"
        with pytest.raises(JournalError, match=f"process {process.pid}"):
            Journal(tmp_path / "j")
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
        process.stdin.close()
    Journal(tmp_path / "j").close()


def test_journal_refuses_other_files(tmp_path: Path) -> None:
    """Text, another program's database, a newer format: each is named and left as it is."""
    text = tmp_path / "text"
    text.write_text("not a journal, but a note of some length\n" * 100)
    other = tmp_path / "other"
    with sqlite3.connect(other) as connection:
        connection.execute("CREATE TABLE t (x)")
    connection.close()
    newer = tmp_path / "newer"
    with Journal(newer) as made:
        made.begin_run(0.0)
    with sqlite3.connect(newer) as connection:
        connection.execute("PRAGMA user_version = 99")
    connection.close()
    for path, fault in ((text, "corrupt"), (other, "corrupt"), (newer, "version")):
        before = path.read_bytes()
        for opened in (Journal, JournalReader):
            with pytest.raises(JournalError) as caught:
                opened(path)
            assert caught.value.fault == fault
            assert str(path) in str(caught.value)
        assert path.read_bytes() == before


def test_journal_of_a_missing_folder_is_refused(tmp_path: Path) -> None:
    """So is a folder in the place of a file, and a journal that is to be read and is not there."""
    with pytest.raises(JournalError, match=r"its folder \(No such file or directory\)$"):
        Journal(tmp_path / "nowhere" / "j")
    with pytest.raises(JournalError, match="it is a folder"):
        Journal(tmp_path)
    with pytest.raises(JournalError, match="no such file"):
        JournalReader(tmp_path / "j")


def test_journal_begins_anew_beside_the_old_one(tmp_path: Path) -> None:
    """Each time under a new name; a damaged one is moved as well."""
    with Journal(tmp_path / "j") as journal:
        insert(journal, range(3))
    with Journal(tmp_path / "j", fresh=True) as journal:
        assert journal.aside == str(tmp_path / "j.old1")
        assert journal.is_empty
        journal.begin_run(0.0)
    (tmp_path / "j").write_text("damaged " * 1000)
    with Journal(tmp_path / "j", fresh=True) as journal:
        assert journal.aside == str(tmp_path / "j.old2")
    with JournalReader(tmp_path / "j.old1") as reader:
        assert sum(1 for _ in reader.records()) == 3


def test_journal_totals_count_rows_of_the_input(tmp_path: Path) -> None:
    """Rows that have left it are counted apart."""
    with Journal(tmp_path / "j") as journal:
        journal.insert(0, source(0), RECORD._replace(input_tokens=3, output_tokens=2, cost=0.5, attempts=3))
        journal.insert(1, source(1), RECORD._replace(status="failed", output=None, error='{"kind": "E"}'))
        journal.insert(2, source(2), RECORD)
        journal.trim(2)
        journal.flush()
        totals = journal.totals()
        assert (totals.done, totals.failed, totals.retries) == (1, 1, 2)
        assert (totals.input_tokens, totals.output_tokens, totals.cost) == (3, 2, 0.5)
        assert totals.errors == {"E": 1}
        assert journal.gone() == 1


def test_journal_finds_rows_by_content(tmp_path: Path) -> None:
    """By their request and by their input, also those that come after the index was made."""
    with Journal(tmp_path / "j") as journal:
        insert(journal, range(5))
        journal.flush()
        assert [entry.position for entry in journal.with_key((3).to_bytes(16))] == [3]
        insert(journal, range(5, 7))
        journal.flush()
        assert [entry.position for entry in journal.with_key((6).to_bytes(16))] == [6]
        assert [entry.position for entry in journal.with_input((2).to_bytes(8))] == [2]
        assert journal.with_key(b"none") == []


def test_journal_without_a_run_is_deleted_again(tmp_path: Path) -> None:
    """A job that cannot be carried out leaves no file, and the journal that it set aside has its name."""
    Journal(tmp_path / "j").close()
    assert list(tmp_path.iterdir()) == []
    with Journal(tmp_path / "j") as journal:
        insert(journal, range(3))
    Journal(tmp_path / "j", fresh=True).close()
    with JournalReader(tmp_path / "j") as reader:
        assert sum(1 for _ in reader.records()) == 3
    Journal(tmp_path / "j").close()
    assert [path.name for path in tmp_path.iterdir()] == ["j"]


def test_journal_that_was_only_created_is_no_damaged_one(tmp_path: Path) -> None:
    """A reader in the moment after the file was made is told so."""
    (tmp_path / "j").touch()
    with pytest.raises(JournalError, match="no job has begun to write it") as caught:
        JournalReader(tmp_path / "j")
    assert caught.value.fault == "path"


def test_journal_knows_the_last_run(tmp_path: Path) -> None:
    """Its files, and whether the output had all rows."""
    with Journal(tmp_path / "j") as journal:
        journal.begin_run(0.0, ["/a.csv"])
        journal.flush()
        assert (journal.source, journal.has_partial_output, journal.holds_bytes) == (("/a.csv",), False, None)
        journal.begin_output(is_complete=False)
        journal.begin_run(0.0)
        insert(journal, range(1))
        journal.flush()
        assert (journal.source, journal.has_partial_output, journal.holds_bytes) == ((), True, False)
        journal.begin_output(is_complete=True)
        assert not journal.has_partial_output
