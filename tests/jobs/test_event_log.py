"""The event log: refusals, cool-downs and outages of a run, coalesced, in its journal."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import httpx
import pytest

from batchrt import CooledDown, Job, JournalError, LimitChanged, ProviderDown, ProviderUp, Retried
from batchrt.jobs.event_log import ROWS_OF_ONE_WIDTH, EventLog
from batchrt.jobs.journal import Journal
from batchrt.jobs.journal_file import _UPGRADES
from batchrt.jobs.journal_reader import JournalReader, RecordedEvent
from tests.jobs.chains import Answers, questions


class Wall:
    """Tell a time that a test sets."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def wall() -> Wall:
    return Wall()


def events_of(path: Path) -> list[RecordedEvent]:
    with JournalReader(path) as reader:
        return list(reader.events())


def test_event_log_counts_retries_by_second_and_reason(tmp_path: Path, wall: Wall) -> None:
    """Retries of one second for one reason are one event with a count."""
    with Journal(tmp_path / "j") as journal:
        log = EventLog(journal, wall)
        for now, reason in ((1000.0, "A"), (1000.3, "A"), (1000.4, "B"), (1000.9, "A"), (1001.5, "A")):
            wall.now = now
            log.note(Retried(reason, 0.0, 1))
        log.end()
    assert events_of(tmp_path / "j") == [
        RecordedEvent("retry", 1000.0, 1000.9, 3, "A"),
        RecordedEvent("retry", 1000.4, 1000.4, 1, "B"),
        RecordedEvent("retry", 1001.5, 1001.5, 1, "A"),
    ]


def test_event_log_joins_cooldowns_that_overlap(tmp_path: Path, wall: Wall) -> None:
    """Each request of a wave is refused with much the same wait: their cool-downs are one."""
    with Journal(tmp_path / "j") as journal:
        log = EventLog(journal, wall)
        for now, wait in ((1000.0, 5.0), (1001.0, 5.0), (1002.0, 1.0), (1020.0, 2.0)):
            wall.now = now
            log.note(CooledDown(wait, "R"))
        log.note(LimitChanged("max_concurrency", None, 5, "no event of this log"))
        log.end()
    assert events_of(tmp_path / "j") == [
        RecordedEvent("cool-down", 1000.0, 1006.0, 3, "R"),
        RecordedEvent("cool-down", 1020.0, 1022.0, 1, "R"),
    ]


def test_event_log_has_the_length_of_an_outage(tmp_path: Path, wall: Wall) -> None:
    """One that goes on at the end of the run is recorded up to there."""
    with Journal(tmp_path / "j") as journal:
        log = EventLog(journal, wall)
        log.note(ProviderDown(10, "ServerError (status 503)", "overloaded"))
        wall.now = 1060.0
        log.note(ProviderUp(61.0))
        wall.now = 1100.0
        log.note(ProviderDown(10, "ServerError (status 503)"))
        wall.now = 1130.0
        log.end()
    first, second = events_of(tmp_path / "j")
    assert first == RecordedEvent("outage", 1000.0, 1060.0, 1, "ServerError (status 503): overloaded")
    assert second == RecordedEvent("outage", 1100.0, 1130.0, 1, "ServerError (status 503)")


def test_event_log_has_what_had_begun_when_its_process_was_killed(tmp_path: Path, wall: Wall) -> None:
    """An event is in the journal from its beginning, not from its end."""
    with Journal(tmp_path / "j") as journal:
        log = EventLog(journal, wall)
        log.note(ProviderDown(10, "ServerError (status 503)"))
        log.note(CooledDown(5.0, "R"))
        log.note(Retried("R", 0.0, 1))
        journal.flush()
        assert [event.kind for event in events_of(tmp_path / "j")] == ["outage", "cool-down", "retry"]


def test_event_log_is_bounded(tmp_path: Path, wall: Wall) -> None:
    """A retry each second for a month takes some thousand rows: their width doubles."""
    with Journal(tmp_path / "j") as journal:
        log = EventLog(journal, wall)
        for _ in range(100_000):
            wall.now += 26.0
            log.note(Retried("R", 0.0, 1))
            log.note(CooledDown(0.5, "R"))
        log.end()
    events = events_of(tmp_path / "j")
    assert len(events) < 14 * ROWS_OF_ONE_WIDTH
    assert sum(event.number for event in events if event.kind == "retry") == 100_000
    assert sum(event.number for event in events if event.kind == "cool-down") == 100_000


def test_event_log_of_a_run_that_was_refused(tmp_path: Path) -> None:
    """A job records the retries and cool-downs of all models that its chain calls, also in functions."""
    answers = Answers()
    refused: list[str] = []

    def respond(text: str) -> httpx.Response:
        if text in refused or len(refused) == 3:
            return answers.answered(text)
        refused.append(text)
        return httpx.Response(429, headers={"retry-after": "0"}, json={"error": {"message": "slow down"}})

    answers.respond = respond
    model = answers.model(max_retries=5)

    async def ask(row: dict[str, str]) -> object:
        return (await model.ainvoke(row["q"])).content

    job = Job(ask, questions(8), journal=tmp_path / "j", version="1")
    assert job.run().is_complete
    retries = [event for event in events_of(tmp_path / "j") if event.kind == "retry"]
    assert sum(event.number for event in retries) == 3
    assert {event.reason for event in retries} == {"RateLimitError (status 429)"}
    assert not model.quota.events.listeners


def test_event_log_of_a_run_without_failures_is_empty(tmp_path: Path) -> None:
    """And the quota has no listener meanwhile, so that its requests cost nothing more."""
    answers = Answers()
    model = answers.model()
    seen: list[int] = []

    def listeners(_: object) -> int:
        seen.append(len(model.quota.events.listeners))
        return 1

    Job(model | listeners, ["a", "b"], journal=tmp_path / "j", version="1").run()
    assert seen == [0, 0]
    assert events_of(tmp_path / "j") == []


FIRST_FORMAT = """
PRAGMA application_id = 0x62727431; PRAGMA user_version = 1;
CREATE TABLE chains (id INTEGER PRIMARY KEY, parts TEXT NOT NULL UNIQUE);
CREATE TABLE runs (id INTEGER PRIMARY KEY, rows INTEGER, is_complete INTEGER, seconds REAL, ended TEXT);
CREATE TABLE rows (id INTEGER PRIMARY KEY, position INTEGER UNIQUE, key BLOB NOT NULL,
input_key BLOB NOT NULL, chain INTEGER NOT NULL, status TEXT NOT NULL, replaced INTEGER NOT NULL DEFAULT 0,
attempts INTEGER NOT NULL, seconds REAL NOT NULL, request_seconds REAL, input_tokens INTEGER,
output_tokens INTEGER, cost REAL, finished REAL NOT NULL, request_id TEXT, usage TEXT, input TEXT NOT NULL,
output TEXT, error TEXT);
CREATE INDEX rows_failed ON rows (position) WHERE status = 'failed';
INSERT INTO runs (rows, is_complete, seconds) VALUES (1, 1, 2.0);
"""


def first_format(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(FIRST_FORMAT)


def test_journal_of_the_first_format_is_read(tmp_path: Path) -> None:
    """It has no events, and reading leaves it as it is."""
    first_format(tmp_path / "j")
    before = (tmp_path / "j").read_bytes()
    with JournalReader(tmp_path / "j") as reader:
        assert list(reader.events()) == []
        assert reader.run_starts() == []
        assert reader.last_run().rows == 1
        assert reader.last_counts() == {}
    assert (tmp_path / "j").read_bytes() == before


def test_journal_of_the_first_format_is_brought_up_to_date(tmp_path: Path, wall: Wall) -> None:
    """By the next job that writes it; what it has stays."""
    first_format(tmp_path / "j")
    with Journal(tmp_path / "j") as journal:
        log = EventLog(journal, wall)
        log.note(Retried("R", 0.0, 1))
        log.end()
        journal.begin_run(1234.5)
    with JournalReader(tmp_path / "j") as reader:
        assert [event.reason for event in reader.events()] == ["R"]
        assert reader.run_starts() == [1234.5]
        assert reader.is_new is False
    Journal(tmp_path / "j").close()  # and is not brought up to date twice


def test_journal_of_the_second_format_is_brought_up_to_date(tmp_path: Path) -> None:
    """It has no files of runs, and gets them with the next run."""
    with closing(sqlite3.connect(tmp_path / "j")) as connection:
        connection.executescript(FIRST_FORMAT)
        connection.executescript(f"{_UPGRADES[0]} PRAGMA user_version = 2;")
    with JournalReader(tmp_path / "j") as reader:
        assert reader.source == ()
    with Journal(tmp_path / "j") as journal:
        journal.begin_run(1.0, ["/a.csv"])
        journal.begin_output(is_complete=False)
        assert journal.has_partial_output
    with JournalReader(tmp_path / "j") as reader:
        assert reader.source == ("/a.csv",)


def test_event_log_raises_nothing_once_the_journal_is_broken(tmp_path: Path, wall: Wall) -> None:
    """The job itself raises the journal's error; a listener that raised would only be logged."""
    with Journal(tmp_path / "j") as journal:
        log = EventLog(journal, wall)
        journal.check()
        journal._thread.failure = JournalError("full", path="j", fault="full")
        log.note(Retried("R", 0.0, 1))
        log.end()
