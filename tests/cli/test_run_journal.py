"""`batchrt run --journal`: the same command goes on after a kill, a Ctrl-C, a full disk or an outage."""

from __future__ import annotations

import csv
import json
import re
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any, cast

import anyio
import httpx
import pytest

from batchrt import Job, OutputError
from batchrt.cli import journal_job
from batchrt.files import Sink
from batchrt.jobs import output
from batchrt.jobs.commit_thread import CommitThread
from batchrt.jobs.journal_file import FileLock
from batchrt.jobs.journal_reader import JournalReader
from batchrt.testing import MockProvider
from tests.cli.conftest import Command, Result
from tests.cli.provider import answer, put_in_place

ROWS = 40


class Provider:
    """Answers with the text that it is asked, and notes the texts.

    Attributes:
        refuse: texts that get another response.
        asked: texts that got an answer, or a refusal.
    """

    def __init__(self) -> None:
        self.refuse: dict[str, httpx.Response] = {}
        self.asked: list[str] = []
        self.at: dict[str, Any] = {}

    async def handle(self, text: str) -> httpx.Response:
        self.asked.append(text)
        if text in self.at:
            self.at[text]()
        refusal = self.refuse.get(text)
        return answer(f"to {text}") if refusal is None else refusal

    def take(self) -> list[str]:
        """Return the texts since the last call, sorted."""
        asked, self.asked = self.asked, []
        return sorted(asked, key=lambda text: (len(text), text))


@pytest.fixture
def provider(monkeypatch: pytest.MonkeyPatch) -> Provider:
    made = Provider()
    put_in_place(monkeypatch, made.handle)
    return made


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    path = tmp_path / "in.jsonl"
    path.write_text("".join(f'{{"n": {number}}}\n' for number in range(ROWS)))
    return path


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out.jsonl"


def run(command: Command, rows: Path, out: Path, *more: object) -> Result:
    journal = rows.parent / "job.journal"
    return command("run", rows, "-p", "{n}", "-o", out, "-c", "4", "--journal", journal, *more)


def asked(provider: MockProvider) -> int:
    return provider.log.snapshot().requests


def numbers(*kinds: range) -> list[str]:
    return [str(number) for kind in kinds for number in kind]


def full_sink(job: journal_job.JournalJob, path: str) -> Sink:
    """Open a sink that finds the disk full at the end, but not the one that is only tried."""
    sink: Any = job._layout.open(path)
    job._sink = sink
    if path == job._settings.output:

        def write(*_: object) -> None:
            raise OutputError(f"{path}: No space left on device", path=path)

        sink.write = write
    return cast("Sink", sink)


def bad_request(text: str = "no") -> httpx.Response:
    return httpx.Response(400, json={"error": {"message": text}})


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_run_journal_reuses_all_rows(command: Command, provider: Provider, rows: Path, out: Path) -> None:
    """The second run sends nothing, and writes the same output: that of a run without a journal."""
    first = run(command, rows, out)
    assert first.code == 0
    assert provider.take() == numbers(range(ROWS))
    written = out.read_bytes()
    second = run(command, rows, out)
    assert second.code == 0
    assert provider.take() == []
    assert f"{ROWS} reused, 0 failed before, 0 changed, 0 new, 0 gone" in second.err
    assert out.read_bytes() == written
    assert command("run", rows, "-p", "{n}", "-o", out.with_suffix(".csv.jsonl")).code == 0
    assert out.with_suffix(".csv.jsonl").read_bytes() == written


@pytest.mark.parametrize("more", [(), ("--sample", 10**20), ("--dry-run",), ("--retry-failed",)], ids=str)
def test_run_journal_limit_may_be_larger_than_any_list(
    command: Command, rows: Path, out: Path, more: tuple[object, ...]
) -> None:
    """All rows, whatever their number, is a limit that people write with many digits."""
    result = run(command, rows, out, "-m", "mock", "--limit", 10**20, *more)
    assert result.code == 0
    assert out.exists() == ("--dry-run" not in more)


def test_run_journal_has_finish_reasons(command: Command, rows: Path, out: Path) -> None:
    """In the journal's records, and in the output's column."""
    assert run(command, rows, out, "-m", "mock").code == 0
    assert {row["finish_reason"] for row in read(out)} == {"stop"}
    job: Job = Job(lambda value: value, [], journal=rows.parent / "job.journal")
    outputs: list[Any] = [outcome.output for outcome in job.outcomes()]
    assert [output["finish_reason"] for output in outputs] == ["stop"] * ROWS


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_run_journal_goes_on_after_a_signal(
    command: Command, provider: Provider, rows: Path, out: Path, number: int, code: int
) -> None:
    """The message says how many rows have an outcome, and that the same command goes on; OUT is unchanged."""
    out.write_text("old\n")
    provider.at["9"] = lambda: signal.raise_signal(number)
    stopped = run(command, rows, out, "--overwrite")
    assert stopped.code == code
    before = provider.take()
    assert len(before) < ROWS
    assert out.read_text() == "old\n"
    assert (
        f"job.journal has the outcomes of {len(before)} rows; run the same command to continue" in stopped.err
    )
    provider.at.clear()
    assert run(command, rows, out, "--overwrite").code == 0
    assert provider.take() == [text for text in numbers(range(ROWS)) if text not in before]
    assert [row["output"] for row in read(out)] == [f"to {number}" for number in range(ROWS)]


def test_run_journal_summary_counts_the_rows_that_were_read(
    command: Command, provider: Provider, rows: Path, out: Path
) -> None:
    """After a signal the rows behind those are not known, and neither is what is gone."""
    rows.write_text("".join(f'{{"n": {number}}}\n' for number in range(1_000)))
    provider.at["9"] = provider.at["500"] = lambda: signal.raise_signal(signal.SIGTERM)
    assert run(command, rows, out).code == 143
    before = len(provider.take())
    del provider.at["9"]
    stopped = run(command, rows, out)
    assert stopped.code == 143
    found = re.search(
        r"(\d+) reused, 0 failed before, 0 changed, (\d+) new, of the first (\d+) rows", stopped.err
    )
    assert found is not None
    reused, new, read_rows = map(int, found.groups())
    assert reused == before
    assert new >= len(provider.take())
    assert read_rows == reused + new < 1_000


def test_run_journal_retry_of_failed_rows_that_is_stopped_says_how_to_go_on(
    command: Command, provider: Provider, rows: Path, out: Path
) -> None:
    """All rows have an outcome then; the errors among them are to be asked again."""
    for text in ("3", "5", "7"):
        provider.refuse[text] = httpx.Response(422, json={"error": {"message": "no"}})
    assert run(command, rows, out).code == 1
    for text in ("3", "5", "7"):
        provider.refuse[text] = httpx.Response(401, json={"error": {"message": "bad key"}})
    stopped = run(command, rows, out, "--retry-failed")
    assert stopped.code == 4
    told = f"outcomes of {ROWS - 3} rows, and errors of 3, which are asked again"
    assert f"{told}; run the same command to continue" in stopped.err
    assert f"{out} is unchanged: it is written when each row was asked again" in stopped.err
    provider.refuse.clear()
    assert run(command, rows, out, "--retry-failed").code == 0


def test_run_journal_second_signal_cancels(
    command: Command, rows: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What had ended is kept; the row in flight is asked again."""
    asked: list[str] = []
    stalls = True

    async def handle(text: str) -> httpx.Response:
        asked.append(text)
        if text == "5" and stalls:
            signal.raise_signal(signal.SIGINT)
            await anyio.sleep(0.05)
            signal.raise_signal(signal.SIGINT)
            await anyio.sleep_forever()
        return answer(f"to {text}")

    put_in_place(monkeypatch, handle)
    stopped = run(command, rows, out)
    assert stopped.code == 130
    assert "cancelled 1 row in flight" in stopped.err
    assert [row["output"] for row in read(out)] == [f"to {number}" for number in asked if number != "5"]
    stalls = False
    assert run(command, rows, out).code == 0
    assert Counter(asked) == Counter([*numbers(range(ROWS)), "5"])


def test_run_journal_keeps_failures(command: Command, provider: Provider, rows: Path, out: Path) -> None:
    """A failed row stands in the output, and only --retry-failed asks it again."""
    provider.refuse["3"] = bad_request("not this")
    result = run(command, rows, out)
    assert result.code == 1
    assert "as in row 4: not this (status 400)" in result.err
    assert "not this" in read(out)[3]["error"]
    provider.take()
    again = run(command, rows, out)
    assert (again.code, provider.take()) == (1, [])
    assert f"{ROWS - 1} reused, 1 failed before" in again.err
    del provider.refuse["3"]
    assert run(command, rows, out, "--retry-failed").code == 0
    assert provider.take() == ["3"]
    assert read(out)[3]["output"] == "to 3"


def test_run_journal_begins_anew(command: Command, provider: Provider, rows: Path, out: Path) -> None:
    """--fresh asks all rows again, and says where the old journal is."""
    run(command, rows, out)
    provider.take()
    result = run(command, rows, out, "--fresh")
    assert (result.code, len(provider.take())) == (0, ROWS)
    assert f"the old journal is kept as {rows.parent / 'job.journal'}.old1" in result.err


@pytest.mark.parametrize(
    ("part", "options"),
    [
        ("model", ["-m", "other"]),
        ("temperature", ["--temperature", "0.5"]),
        ("prompt", ["-p", "Now {n}"]),
        ("system prompt", ["--system", "Be brief."]),
        ("seed", ["--option", "seed=7"]),
    ],
)
@pytest.mark.parametrize("quiet", [False, True])
def test_run_journal_names_changes(
    command: Command, rows: Path, out: Path, part: str, options: list[str], quiet: bool
) -> None:
    """Every row is asked again; --reuse any keeps the answers, and says so."""
    provider = MockProvider()
    with provider.serve() as server:
        given = ["--base-url", server.base_url, "-m", "m", *(["-q"] if quiet else [])]
        assert run(command, rows, out, *given).code == 0
        written = out.read_bytes()
        kept = run(command, rows, out, *given, *options, "--reuse", "any")
        assert kept.code == 0
        assert f"another model, prompt or option gave them: {ROWS} answers" in kept.err
        assert (asked(provider), out.read_bytes()) == (ROWS, written)
        changed = run(command, rows, out, *given, *options)
        assert changed.code == 0
        assert f"{part} changed: {ROWS} rows run again" in changed.err
        assert asked(provider) == 2 * ROWS


def test_run_journal_refuses_a_second_process(
    command: Command, provider: Provider, rows: Path, out: Path
) -> None:
    """At once, with nothing sent."""
    lock = FileLock(str(rows.parent / "job.journal"))
    try:
        result = run(command, rows, out)
    finally:
        lock.release()
    assert result.code == 2
    assert "another process has it open; wait for its end, or name another journal" in result.complaint
    assert provider.take() == []


def test_run_journal_outage_leaves_no_failed_rows(
    command: Command, provider: Provider, rows: Path, out: Path
) -> None:
    """Rows that a wrong key turned away have no outcome; the next run asks them."""
    for text in numbers(range(20, ROWS)):
        provider.refuse[text] = httpx.Response(401, json={"error": {"message": "bad key"}})
    stopped = run(command, rows, out)
    assert stopped.code == 4
    assert "stopped because the provider refuses every request: AuthenticationError: bad key" in stopped.err
    assert "has the outcomes of 20 rows" in stopped.err
    provider.take()
    provider.refuse.clear()
    assert run(command, rows, out).code == 0
    assert provider.take() == numbers(range(20, ROWS))


def test_run_journal_no_answer_at_all(command: Command, provider: Provider, rows: Path, out: Path) -> None:
    """Is told from a job that stopped in the middle."""
    for text in numbers(range(ROWS)):
        provider.refuse[text] = httpx.Response(401, json={"error": {"message": "bad key"}})
    assert run(command, rows, out).code == 2
    assert not out.exists()


def test_run_journal_single_forbidden_text_is_a_failed_row(
    command: Command, provider: Provider, rows: Path, out: Path
) -> None:
    """A 403 between answers is said of the text."""
    provider.refuse["7"] = httpx.Response(403, json={"error": {"message": "moderated"}})
    assert run(command, rows, out).code == 1
    assert "moderated" in read(out)[7]["error"]


def test_run_journal_goes_on_after_a_limit_of_spending(
    command: Command, rows: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exit code 3; the rows of before do not count for the limit of the next run."""
    asked: list[str] = []

    async def handle(text: str) -> httpx.Response:
        asked.append(text)
        response = answer(f"to {text}").json()
        response["usage"] = {"prompt_tokens": 500, "completion_tokens": 500, "total_tokens": 1000}
        return httpx.Response(200, json=response)

    put_in_place(monkeypatch, handle)
    result = run(command, rows, out, "--max-tokens-total", 10_000)
    assert result.code == 3
    before = len(asked)
    assert 0 < before < ROWS
    assert f"has the outcomes of {before} row" in result.err
    assert [row["output"] for row in read(out)] == [f"to {number}" for number in asked]
    assert run(command, rows, out, "--max-tokens-total", 100_000).code == 0
    assert len(set(asked)) == len(asked) == ROWS


def test_run_journal_takes_a_limit_and_a_sample(
    command: Command, provider: Provider, rows: Path, out: Path
) -> None:
    """Rows that they left out are asked once they are wanted, and the others are not asked again."""
    assert run(command, rows, out, "--limit", "5").code == 0
    assert provider.take() == numbers(range(5))
    assert len(read(out)) == 5
    provider.refuse = {text: bad_request() for text in numbers(range(5, ROWS))}
    result = run(command, rows, out, "--sample", "6")
    drawn = [row["n"] for row in read(out)]
    assert (result.code, len(drawn)) == (1, 6)
    failed = [number for number in drawn if number >= 5]
    assert provider.take() == [str(number) for number in failed]
    assert f"as in row {failed[0] + 1}: " in result.err
    provider.refuse.clear()
    assert run(command, rows, out, "--retry-failed").code == 0
    assert provider.take() == numbers(range(5, ROWS))
    assert [row["output"] for row in read(out)] == [f"to {number}" for number in range(ROWS)]


def test_run_journal_names_its_columns(command: Command, provider: Provider, tmp_path: Path) -> None:
    """Another output column or format writes the rows again, and asks nothing; rows keep their text."""
    path, out = tmp_path / "in.csv", tmp_path / "out.csv"
    path.write_text("n;output\n1;a\n2;b\n", encoding="utf-8-sig")
    assert run(command, path, out).code == 2
    assert run(command, path, out, "--output-column", "reply").code == 0
    provider.take()
    assert out.read_bytes().startswith("\ufeffn;output;reply;reply_error;reply_finish_reason\n".encode())
    assert run(command, path, out, "--output-column", "second", "--output-encoding", "utf-8").code == 0
    assert provider.take() == []
    with out.open(newline="") as file:
        assert list(csv.reader(file, delimiter=";"))[1] == ["1", "a", "to 1", "", "stop"]


def test_run_journal_flattens_answers_of_a_schema(
    command: Command, provider: Provider, rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also those of an earlier run that did not; an answer that does not fit is a failed row."""
    schema, out = tmp_path / "schema.json", tmp_path / "out.csv"
    schema.write_text('{"title": "Size", "type": "object", "properties": {"size": {"type": "integer"}}}')

    async def handle(text: str) -> httpx.Response:
        provider.asked.append(text)
        return answer(json.dumps({"size": int(text)}) if text.isdecimal() and text != "1" else "no object")

    put_in_place(monkeypatch, handle)
    assert run(command, rows, out, "--schema", schema).code == 1
    provider.take()
    assert run(command, rows, out, "--schema", schema, "--flatten").code == 1
    assert provider.take() == []
    with out.open(newline="") as file:
        written = list(csv.DictReader(file))
    assert [row["size"] for row in written[:3]] == ["0", "", "2"]
    assert "OutputParserError" in written[1]["error"]
    assert written[1]["finish_reason"] == "stop"


def test_run_journal_keeps_answers_that_were_cut_off(
    command: Command, rows: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With --fail-cut-off they are failed rows with a text, which --retry-failed asks again."""
    reason = "length"

    async def handle(text: str) -> httpx.Response:
        response = answer(f"to {text}").json()
        if text == "2":
            response["choices"][0]["finish_reason"] = reason
        return httpx.Response(200, json=response)

    put_in_place(monkeypatch, handle)
    result = run(command, rows, out, "--fail-cut-off")
    assert result.code == 1
    assert "1 answer cut off at the token limit" in result.err
    row = read(out)[2]
    assert (row["output"], row["finish_reason"]) == ("to 2", "length")
    assert "cut off" in row["error"]
    reason = "stop"
    assert run(command, rows, out, "--fail-cut-off", "--retry-failed").code == 0
    assert read(out)[2] == {**row, "error": None, "finish_reason": "stop"}


def test_run_journal_has_rows_that_cannot_be_read(
    command: Command, provider: Provider, tmp_path: Path
) -> None:
    """With the errors that a run without a journal gives them."""
    path, out, other = tmp_path / "in.jsonl", tmp_path / "out.jsonl", tmp_path / "other.jsonl"
    path.write_text(
        '{"n": 1}\n{"n": \n{"m": 3}\n{"n": null}\n{"n": NaN}\n{"n": [1, true]}\n'
        '{"n": 7, "m": NaN, "k": 1e999}\n'
    )
    assert run(command, path, out).code == 1
    assert provider.take() == ["", "1", "7", "[1, true]"]
    assert command("run", path, "-p", "{n}", "-o", other, "--no-journal").code == 1
    assert read(out) == read(other)
    provider.take()
    assert run(command, path, out).code == 1
    assert provider.take() == []


def test_run_journal_keeps_types_of_parquet(command: Command, provider: Provider, tmp_path: Path) -> None:
    """Times, decimals and bytes come out as they went in, also as text in other formats."""
    pa: Any = pytest.importorskip("pyarrow")
    parquet: Any = pytest.importorskip("pyarrow.parquet")
    path, out, other = tmp_path / "in.parquet", tmp_path / "out.parquet", tmp_path / "other.parquet"
    columns: dict[str, list[Any]] = {
        "n": [1, 2],
        "at": [datetime(2026, 1, 2, 3, 4, 5), None],  # noqa: DTZ001  a column without a zone
        "price": [Decimal("1.50"), Decimal(2)],
        "share": [0.5, float("inf")],
        "raw": [b"\xff", b"plain"],
        "raws": [[b"\xfe", None], None],
    }
    parquet.write_table(pa.table(columns), path)
    assert run(command, path, out).code == 0
    assert command("run", path, "-p", "{n}", "-o", other, "--no-journal").code == 0
    assert parquet.read_table(out).equals(parquet.read_table(other))
    provider.take()
    for suffix in (".csv", ".jsonl"):
        text, other = out.with_suffix(suffix), tmp_path / f"other{suffix}"
        assert run(command, path, text).code == 0
        assert provider.take() == []
        assert command("run", path, "-p", "{n}", "-o", other, "--no-journal").code == 0
        assert text.read_bytes() == other.read_bytes()
        provider.take()


def test_run_journal_reads_stdin(command: Command, provider: Provider, rows: Path, out: Path) -> None:
    """The rows of a pipe are known by their content."""
    given = ["-p", "{n}", "-o", out, "--journal", out.parent / "j", "--format", "jsonl"]
    assert command("run", "-", *given, stdin=b'{"n": 1}\n{"n": 2}\n').code == 0
    provider.take()
    assert command("run", "-", *given, stdin=b'{"n": 2}\n{"n": 3}\n{"n": 1}\n').code == 0
    assert provider.take() == ["3"]
    assert [row["output"] for row in read(out)] == ["to 2", "to 3", "to 1"]


def test_run_journal_full_disk_keeps_what_was_committed(
    command: Command, provider: Provider, rows: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The message names the journal and the remedy, and the same command goes on."""
    commit = CommitThread._commit
    committed = threading.Event()

    def fails_later(thread: CommitThread, group: list[Any]) -> None:
        has_rows = any(token is not None for _, _, token in group)
        if has_rows and committed.is_set():
            raise OSError(28, "No space left on device")
        commit(thread, group)
        if has_rows:
            committed.set()

    monkeypatch.setattr(CommitThread, "_commit", fails_later)
    provider.at["20"] = lambda: committed.wait(30)
    stopped = run(command, rows, out)
    assert stopped.code == 4
    assert "job.journal: the disk is full; make room" in stopped.err
    assert "run the same command to continue" in stopped.err
    assert not out.exists()
    monkeypatch.undo()
    put_in_place(monkeypatch, provider.handle)
    with JournalReader(rows.parent / "job.journal") as journal:
        kept = [json.loads(given)["n"] for _, given, _ in journal.records()]
    assert kept
    provider.take()
    assert run(command, rows, out).code == 0
    assert provider.take() == [text for text in numbers(range(ROWS)) if int(text) not in kept]


def test_run_journal_output_that_cannot_be_written(
    command: Command, provider: Provider, rows: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All outcomes are kept; the next run writes it."""
    with monkeypatch.context() as patch:
        patch.setattr(output, "_ROWS_UNCHECKED", 1)
        patch.setattr(journal_job.JournalJob, "_opened", full_sink)
        stopped = run(command, rows, out)
    assert stopped.code == 4
    assert "No space" in stopped.err
    provider.take()
    assert run(command, rows, out).code == 0
    assert provider.take() == []
    assert len(read(out)) == ROWS


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (["--fresh"], "--fresh is for a job with a journal; name one with --journal"),
        (["--retry-failed"], "--retry-failed is for a job with a journal"),
        (["--reuse", "any"], "--reuse is for a job with a journal"),
        (["--fresh", "--no-journal", "-o", "{rows}.csv"], "leave --no-journal out"),
        (["--no-journal", "--journal", "j"], "contradict each other"),
        (["--journal", "s3://bucket/j", "-o", "{rows}.csv"], "a file of this machine"),
        (["--journal", "{rows}.j", "-o", "none://bucket/out.csv"], "it cannot be reached"),
        (["--journal", "{rows}", "-o", "{rows}.csv"], "is INPUT too"),
        (["--journal", "{rows}.csv", "-o", "{rows}.csv"], "is OUT too"),
        (["--journal", "{rows}.j", "-o", "{rows}", "--overwrite"], "this is the input"),
        (["--journal", "{rows}.j", "-o", "{here}"], "add --overwrite"),
        (["-o", "{here}"], "add --overwrite (there is no journal of it, {here}.journal, to resume)"),
        (["--journal", "{rows}.j/none/j", "-o", "{rows}.csv"], "check the path"),
    ],
)
def test_run_journal_refuses_before_anything_is_sent(
    command: Command, provider: Provider, rows: Path, options: list[str], problem: str
) -> None:
    """In one line, exit code 2."""
    here = rows.parent / "here.csv"
    here.write_text("not ours\n")
    given = [option.format(rows=rows, here=here) for option in options]
    result = command("run", rows, "-p", "{n}", *given)
    assert result.code == 2
    assert problem.format(here=here) in result.complaint
    assert sorted(path.name for path in rows.parent.iterdir()) == ["here.csv", rows.name]
    assert provider.take() == []
    assert here.read_text() == "not ours\n"


def recorded(journal: Path) -> set[str]:
    """Return the rows that have an outcome on the disk."""
    if not journal.exists():
        return set()
    with JournalReader(journal) as reader:
        return {str(json.loads(given)["n"]) for _, given, _ in reader.records()}


@pytest.fixture
def many(tmp_path: Path) -> Path:
    path = tmp_path / "in.jsonl"
    path.write_text("".join(f'{{"n": {number}}}\n' for number in range(600)))
    return path


def program(url: str, rows: Path, out: Path, journal: Path) -> list[str]:
    command = [sys.executable, "-m", "batchrt", "run", str(rows), "-p", "row {n}", "-o", str(out)]
    return [*command, "-m", "m", "--base-url", url, "-c", "20", "--journal", str(journal)]


def kill_at(arguments: list[str], asked: list[str], number: int, journal: Path) -> set[str]:
    """Run a program until so many rows were asked, and return those recorded just before its end."""
    with subprocess.Popen(arguments, stderr=subprocess.PIPE) as process:
        while len(asked) < number and process.poll() is None:
            time.sleep(0.001)
        while not (known := recorded(journal)) and process.poll() is None:
            time.sleep(0.001)
        process.kill()
        process.wait()
        assert process.returncode == -signal.SIGKILL
    return known


def moments() -> Iterator[int]:
    yield from (100, 130, 300)


def test_run_journal_survives_kills(many: Path, tmp_path: Path) -> None:
    """The output is byte for byte that of an undisturbed run; no recorded row is asked again."""
    asked: list[str] = []

    def reply(body: Any) -> str:
        text: str = body["messages"][-1]["content"]
        asked.append(text.removeprefix("row "))
        return f"answer to {text}"

    out, journal = tmp_path / "out.jsonl", tmp_path / "job.journal"
    with MockProvider(answer=reply, latency=0.02).serve() as server:
        arguments = program(server.base_url, many, out, journal)
        known: set[str] = set()
        for moment in moments():
            before = len(asked)
            now = kill_at(arguments, asked, moment, journal)
            assert known <= now
            assert not known & set(asked[before:])
            known = now
            assert not out.exists()
        before = len(asked)
        last = subprocess.run(arguments, capture_output=True, text=True, check=False)
        assert last.returncode == 0, last.stderr
        assert not known & set(asked[before:])
        assert f"{600 - len(set(asked[before:]))} reused" in last.stderr
        other = tmp_path / "other.jsonl"
        undisturbed = program(server.base_url, many, other, tmp_path / "other.journal")
        subprocess.run(undisturbed, capture_output=True, check=True)
    assert out.read_bytes() == other.read_bytes()


def test_run_journal_second_process_is_refused(many: Path, tmp_path: Path) -> None:
    """While the first one runs; it goes on undisturbed."""
    out, journal = tmp_path / "out.jsonl", tmp_path / "job.journal"
    provider = MockProvider(latency=0.5)
    with provider.serve() as server:
        arguments = program(server.base_url, many, out, journal)
        with subprocess.Popen(arguments, stderr=subprocess.DEVNULL) as first:
            while not provider.log.snapshot().requests:
                time.sleep(0.001)
            second = subprocess.run(arguments, capture_output=True, text=True, check=False)
            assert first.poll() is None
            assert first.wait() == 0
    assert second.returncode == 2
    assert "another process has it open" in second.stderr
    assert len(read(out)) == 600
