"""Jobs: what is run, what is reused, what is written and reported."""

from __future__ import annotations

import gzip
import io
import json
import os
import random
import re
import threading
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import anyio.from_thread
import anyio.lowlevel
import httpx
import pytest
from pydantic import BaseModel

from batchrt import (
    AbortPolicy,
    AIMessage,
    InputError,
    Job,
    JobReport,
    JournalError,
    OpenAIEmbeddings,
    Outcome,
    RecordedError,
    RunnableLambda,
)
from batchrt.files import Sink, open_sink, open_source
from batchrt.files.text_sinks import JsonSink
from batchrt.jobs import output
from batchrt.jobs.journal import Journal
from batchrt.jobs.journal_file import set_aside
from batchrt.jobs.output import OutputLayout
from batchrt.testing import MockProvider
from tests.jobs.chains import Answers, questions

pytestmark = pytest.mark.anyio


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def files_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


async def test_job_runs_each_row_once(answers: Answers, journal: Path, tmp_path: Path) -> None:
    """The second run of the same job sends nothing and writes the same output."""
    sink = tmp_path / "out.jsonl"
    job = Job(answers.chain(), questions(20), sink, journal=journal)
    first = await job.arun()
    assert (first.is_complete, first.new, first.done, first.reused) == (True, 20, 20, 0)
    assert len(answers.take()) == 20
    output = sink.read_bytes()
    assert lines(sink)[3] == {"q": "q3", "note": 3, "output": "SAY Q3", "error": None}
    second = await Job(answers.chain(), questions(20), sink, journal=journal).arun()
    assert (second.is_complete, second.new, second.reused, second.done) == (True, 0, 20, 20)
    assert answers.take() == []
    assert sink.read_bytes() == output


def test_job_runs_from_sync_code(answers: Answers, journal: Path) -> None:
    """`run` does what `arun` does."""
    assert Job(answers.chain(), questions(3), journal=journal).run().done == 3


async def test_job_matches_rows_by_their_requests(answers: Answers, journal: Path, tmp_path: Path) -> None:
    """Rows that were added, removed and reordered are told apart; columns that are not sent do not matter."""
    await Job(answers.chain(), questions(10), journal=journal).arun()
    answers.take()
    rows = [*reversed(questions(10)[2:]), {"q": "added", "note": -1}]
    rows[0]["note"] = "edited"
    sink = tmp_path / "out.jsonl"
    report = await Job(answers.chain(), rows, sink, journal=journal).arun()
    assert answers.take() == ["say added"]
    assert (report.reused, report.new, report.gone, report.changed) == (8, 1, 2, 0)
    assert [(row["note"], row["output"]) for row in lines(sink)] == [
        ("edited", "SAY Q9"),
        *((number, f"SAY Q{number}") for number in range(8, 1, -1)),
        (-1, "SAY ADDED"),
    ]


async def test_job_gives_equal_rows_an_outcome_each(answers: Answers, journal: Path) -> None:
    """The recorded outcome of one of them is not used for the others."""
    await Job(answers.chain(), [{"q": "same"}] * 3, journal=journal).arun()
    assert len(answers.take()) == 3
    await Job(answers.chain(), [{"q": "other"}, *[{"q": "same"}] * 4], journal=journal).arun()
    assert sorted(answers.take()) == ["say other", "say same"]


CHANGES: list[tuple[str, str, dict[str, Any]]] = [
    ("model", "say {q}", {"name": "other"}),
    ("temperature", "say {q}", {"temperature": 0.7}),
    ("prompt", "tell {q}", {}),
    ("seed", "say {q}", {"seed": 7}),
    ("endpoint", "say {q}", {"base_url": "http://elsewhere/v1"}),
    ("top_k", "say {q}", {"extra_body": {"top_k": 4}}),
]


@pytest.mark.parametrize(("part", "template", "options"), CHANGES, ids=[change[0] for change in CHANGES])
async def test_job_never_reuses_answers_of_another_chain(
    answers: Answers, journal: Path, part: str, template: str, options: dict[str, Any]
) -> None:
    """A changed part runs all rows again, and the report names it."""
    await Job(answers.chain(), questions(6), journal=journal).arun()
    answers.take()
    report = await Job(answers.chain(template, **options), questions(6), journal=journal).arun()
    assert len(answers.take()) == 6
    assert (report.changed, report.reused, report.new) == (6, 0, 0)
    assert report.changed_parts == {part: 6}
    assert f"{part} changed: 6 rows run again" in str(report)


async def test_job_finds_answers_of_an_earlier_chain_again(answers: Answers, journal: Path) -> None:
    """A change that is taken back costs nothing."""
    await Job(answers.chain(), questions(6), journal=journal).arun()
    await Job(answers.chain(temperature=0.5), questions(6), journal=journal).arun()
    answers.take()
    report = await Job(answers.chain(), questions(6), journal=journal).arun()
    assert (report.reused, report.gone) == (6, 0)
    assert answers.take() == []


async def test_job_reuses_any_answers_knowingly(answers: Answers, journal: Path) -> None:
    """`reuse="any"` keeps them for this run, and does not make them the other chain's."""
    await Job(answers.chain(), questions(6), journal=journal).arun()
    answers.take()
    other = answers.chain(temperature=0.5)
    report = await Job(other, [*questions(6), {"q": "new"}], journal=journal, reuse="any").arun()
    assert answers.take() == ["say new"]
    assert (report.reused, report.kept, report.new) == (6, 6, 1)
    report = await Job(other, [*questions(6), {"q": "new"}], journal=journal).arun()
    assert (report.reused, report.changed) == (1, 6)


async def test_job_fresh_keeps_the_old_journal_aside(answers: Answers, journal: Path) -> None:
    """All rows are run again, and the outcomes of before can still be read."""
    await Job(answers.chain(), questions(4), journal=journal).arun()
    answers.take()
    job = Job(answers.chain(), questions(4), journal=journal, fresh=True)
    report = await job.arun()
    assert len(answers.take()) == 4
    assert report.aside is not None
    assert Job(answers.chain(), [], journal=report.aside).report().done == 4
    assert (await job.arun()).reused == 4  # the object's next run goes on


async def test_job_keeps_failures_and_retries_them_on_demand(
    answers: Answers, journal: Path, tmp_path: Path
) -> None:
    """A failed row is an outcome; only `retry_failed` runs it again."""
    sink = tmp_path / "out.csv"
    answers.respond = lambda text: (
        httpx.Response(400, json={"error": {"message": "no"}}) if text == "say q1" else answers.answered(text)
    )
    report = await Job(answers.chain(), questions(3), sink, journal=journal).arun()
    assert (report.done, report.failed, report.is_complete) == (2, 1, True)
    assert report.errors == {"BadRequestError": 1}
    assert "BadRequestError: no (status 400)" in sink.read_text()
    answers.take()
    report = await Job(answers.chain(), questions(3), sink, journal=journal).arun()
    assert (report.reused, report.failed_before, answers.take()) == (2, 1, [])
    answers.respond = answers.answered
    report = await Job(answers.chain(), questions(3), sink, journal=journal, retry_failed=True).arun()
    assert answers.take() == ["say q1"]
    assert (report.done, report.failed, report.failed_before, report.gone) == (3, 0, 1, 0)
    assert "SAY Q1" in sink.read_text()


async def test_job_without_a_key_has_no_failed_rows(answers: Answers, journal: Path, tmp_path: Path) -> None:
    """Rows that the provider refuses altogether are left for the next run; the job stops early."""
    answers.respond = lambda _: httpx.Response(401, json={"error": {"message": "wrong key"}})
    sink = tmp_path / "out.jsonl"
    config: Any = {"max_concurrency": 2}
    report = await Job(answers.chain(), questions(100), sink, journal=journal, config=config).arun()
    assert not report.is_complete
    assert report.ended is not None
    assert "wrong key" in report.ended
    assert (report.done, report.failed) == (0, 0)
    assert len(answers.take()) < 20
    assert not sink.exists()
    answers.respond = answers.answered
    report = await Job(answers.chain(), questions(100), sink, journal=journal).arun()
    assert (report.done, report.failed, report.is_complete) == (100, 0, True)


async def test_job_at_a_limit_of_spending_goes_on_later(answers: Answers, journal: Path) -> None:
    """The report says why it ended, and rows that were not sent have no outcome."""
    chain = answers.chain(max_completion_tokens=5)
    config: Any = {"max_concurrency": 2, "max_tokens_total": 100}
    report = await Job(chain, questions(100), journal=journal, config=config).arun()
    assert not report.is_complete
    assert "max_tokens_total" in (report.ended or "")
    assert 0 < report.done == len(answers.take()) < 100
    assert report.failed == 0
    assert report.interrupted <= 2  # rows in flight that met the limit
    again = await Job(chain, questions(100), journal=journal).arun()
    assert (again.is_complete, again.reused) == (True, report.done)
    assert len(answers.take()) == 100 - report.done


async def test_job_stops_gracefully(answers: Answers, journal: Path, tmp_path: Path) -> None:
    """Rows in flight are recorded, the others are left for the next run, and no output is made."""
    sink = tmp_path / "out.jsonl"
    config: Any = {"max_concurrency": 4}
    job = Job(answers.chain(), questions(2000), sink, journal=journal, config=config)

    def stop(outcome: Outcome[Any]) -> None:
        if outcome.index >= 20:
            job.stop()

    report = await job.arun(stop)
    assert not report.is_complete
    assert 20 <= report.done == len(answers.take()) < 2000
    assert not sink.exists()
    assert (await Job(answers.chain(), questions(2000), sink, journal=journal).arun()).is_complete
    assert len(answers.take()) == 2000 - report.done


async def test_job_shows_only_outcomes_that_are_on_the_disk(answers: Answers, journal: Path) -> None:
    """Another reader finds the row when the observer is told of it."""
    job = Job(answers.chain(), questions(10), journal=journal)
    shown = []

    def observe(outcome: Outcome[Any]) -> None:
        recorded = {each.index: each.output for each in job.outcomes()}
        shown.append((outcome.index, recorded[outcome.index]))

    await job.arun(observe)
    assert sorted(shown) == [(number, f"SAY Q{number}") for number in range(10)]


async def test_job_raises_an_error_of_its_observer(answers: Answers, journal: Path) -> None:
    """It ends the run, and what was recorded stays."""

    def fail(_outcome: Outcome[Any]) -> None:
        raise ZeroDivisionError

    config: Any = {"max_concurrency": 1}
    job = Job(answers.chain(), questions(2000), journal=journal, config=config)
    with pytest.raises(ZeroDivisionError):
        await job.arun(fail)
    assert 1 <= len(list(job.outcomes())) < 2000


async def test_job_cancelled_keeps_what_had_ended(answers: Answers, journal: Path) -> None:
    """A cancelled job records outcomes that had come, and the next run goes on."""
    shown = 0

    def count(_outcome: Outcome[Any]) -> None:
        nonlocal shown
        shown += 1
        if shown == 10:
            scope.cancel()

    config: Any = {"max_concurrency": 2}
    job = Job(answers.chain(), questions(2000), journal=journal, config=config)
    with anyio.CancelScope() as scope:
        await job.arun(count)
    assert scope.cancelled_caught
    assert len(list(job.outcomes())) >= 10
    asked = len(answers.take())
    assert (await Job(answers.chain(), questions(2000), journal=journal).arun()).is_complete
    assert asked + len(answers.take()) <= 2000 + 2 + 2  # in flight, and ended in the meantime


async def test_job_cancelled_while_it_writes_keeps_the_old_output(
    answers: Answers, journal: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A long output does not hold up a cancellation."""
    sink = tmp_path / "out.jsonl"
    await Job(answers.chain(), questions(30), sink, journal=journal).arun()
    before = sink.read_bytes()
    written = 0

    def write(self: Any, *args: Any) -> None:
        nonlocal written
        written += 1
        if written == 5:
            anyio.from_thread.run_sync(scope.cancel)
        put(self, *args)

    put = JsonSink._put
    monkeypatch.setattr(JsonSink, "_put", write)
    monkeypatch.setattr(output, "_ROWS_UNCHECKED", 10)
    with anyio.CancelScope() as scope:
        await Job(answers.chain(), questions(31), sink, journal=journal).arun()
    assert scope.cancelled_caught
    assert written == 10
    assert sink.read_bytes() == before


async def test_job_cancel_while_it_writes_keeps_the_old_output(
    answers: Answers, journal: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The report says that it is not written, though each row has an outcome."""
    sink = tmp_path / "out.jsonl"
    await Job(answers.chain(), questions(30), sink, journal=journal).arun()
    before = sink.read_bytes()
    job = Job(answers.chain(), questions(31), sink, journal=journal)

    def write(self: Any, *args: Any) -> None:
        anyio.from_thread.run_sync(job.cancel)
        put(self, *args)

    put = JsonSink._put
    monkeypatch.setattr(JsonSink, "_put", write)
    monkeypatch.setattr(output, "_ROWS_UNCHECKED", 10)
    report = await job.arun()
    assert (report.is_complete, report.is_written) == (True, False)
    assert sink.read_bytes() == before


async def test_job_reads_async_rows(answers: Answers, journal: Path) -> None:
    """An async iterable is a source as well."""

    async def rows() -> AsyncIterator[dict[str, Any]]:
        for row in questions(5):
            await anyio.lowlevel.checkpoint()
            yield row

    assert (await Job(answers.chain(), rows(), journal=journal).arun()).done == 5
    assert (await Job(answers.chain(), rows(), journal=journal).arun()).reused == 5


async def test_job_reads_an_iterator_once(answers: Answers, journal: Path, tmp_path: Path) -> None:
    """A second run would find no rows, and make an empty output."""
    sink = tmp_path / "out.jsonl"
    job = Job(answers.chain(), iter(questions(3)), sink, journal=journal)
    assert (await job.arun()).done == 3
    with pytest.raises(ValueError, match="is an iterator"):
        await job.arun()
    assert len(lines(sink)) == 3
    assert (await Job(answers.chain(), iter(questions(3)), sink, journal=journal).arun()).reused == 3


async def test_job_reads_files_with_bad_rows(answers: Answers, journal: Path, tmp_path: Path) -> None:
    """A row that cannot be read is an outcome, with its line; the others are run."""
    source = tmp_path / "in.jsonl"
    source.write_text('{"q": "a"}\n{"q": \n{"x": 1}\n{"q": "b"}\n')
    sink = tmp_path / "out.jsonl"
    report = await Job(answers.chain(), source, sink, journal=journal).arun()
    assert (report.done, report.failed) == (2, 2)
    first, second, third, fourth = lines(sink)
    assert (first["output"], fourth["output"]) == ("SAY A", "SAY B")
    assert "row 2 (line 2)" in second["error"]
    assert "'q'" in third["error"]
    with open_source(source) as opened:
        assert (await Job(answers.chain(), opened, sink, journal=journal).arun()).failed_before == 2
    assert len(answers.take()) == 2


async def test_job_refuses_an_output_of_others(answers: Answers, journal: Path, tmp_path: Path) -> None:
    """A file that no run of this job made is not replaced, and nothing is sent."""
    sink = tmp_path / "out.jsonl"
    sink.write_text("precious\n")
    with pytest.raises(InputError, match="exists already"):
        await Job(answers.chain(), questions(2), sink, journal=journal).arun()
    assert sink.read_text() == "precious\n"
    assert answers.take() == []
    await Job(answers.chain(), questions(2), sink, journal=journal, overwrite=True).arun()
    assert len(lines(sink)) == 2


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("out.xlsx", "suffix"),
        ("nowhere/out.csv", "there is no folder .*nowhere"),
        ("out.csv", "a column 'output'"),
    ],
)
async def test_job_checks_its_output_first(
    answers: Answers, journal: Path, tmp_path: Path, name: str, reason: str
) -> None:
    """What is wrong with the output is said before anything is sent."""
    source = tmp_path / "in.csv"
    source.write_text("q,output\na,b\n" if "column" in reason else "q\na\n")
    with pytest.raises(InputError, match=reason):
        await Job(answers.chain(), source, tmp_path / name, journal=journal).arun()
    assert answers.take() == []


@pytest.mark.parametrize("name", ["out.xlsx", "out.parquet.gz", "out"])
async def test_job_names_its_output_as_it_was_given(
    answers: Answers, journal: Path, tmp_path: Path, name: str
) -> None:
    """The output is tried out in a temporary folder, which no message is about."""
    sink = str(tmp_path / name)
    with pytest.raises(InputError) as caught:
        await Job(answers.chain(), questions(1), sink, journal=journal).arun()
    assert str(caught.value).startswith(f"{sink}: ")
    assert caught.value.path == sink


def test_job_refuses_options_that_make_no_sense(answers: Answers, journal: Path) -> None:
    """Before anything is opened."""
    with pytest.raises(ValueError, match="cannot be the same file"):
        Job(answers.chain(), [], journal, journal=journal)
    with pytest.raises(ValueError, match="reuse must be"):
        Job(answers.chain(), [], journal=journal, reuse="all")  # type: ignore[arg-type]
    stream = io.StringIO()
    with pytest.raises(ValueError, match="give the job a `version`"):
        Job(lambda value: stream.write(value.upper()), [], journal=journal)


async def test_job_writes_what_there_is_on_demand(answers: Answers, journal: Path, tmp_path: Path) -> None:
    """The rows so far, of a job that was stopped."""
    sink = tmp_path / "out.jsonl"
    config: Any = {"max_concurrency": 1}
    job = Job(answers.chain(), questions(2000), sink, journal=journal, config=config)
    report = await job.arun(lambda _: job.stop())
    assert not report.is_complete
    job.write()
    assert [row["output"] for row in lines(sink)] == [f"SAY Q{number}" for number in range(report.done)]


async def test_job_outcomes_are_read_back(answers: Answers, journal: Path) -> None:
    """In input order, with tokens and errors."""
    answers.respond = lambda text: (
        httpx.Response(400, json={"error": {"message": "no"}}) if text == "say q1" else answers.answered(text)
    )
    job = Job(answers.chain(), questions(3), journal=journal)
    await job.arun()
    first, second, third = job.outcomes()
    assert (first.index, first.output, third.output) == (0, "SAY Q0", "SAY Q2")
    assert first.request_id == "req-say q0"
    assert first.usage is not None
    assert (first.usage.input_tokens, first.usage.output_tokens) == (2, 1)
    assert isinstance(second.error, RecordedError)
    assert (second.error.kind, second.error.status) == ("BadRequestError", 400)


class Verdict(BaseModel):
    word: str


async def test_job_outcomes_are_messages_and_models(answers: Answers, tmp_path: Path) -> None:
    """Outputs of a known class are instances of it when they are read back."""
    answers.respond = lambda _: httpx.Response(
        200,
        json={
            "model": "m",
            "choices": [
                {"index": 0, "message": {"role": "assistant", "content": '{"word": "yes"}'}},
            ],
        },
    )
    job = Job(answers.model(), ["hello"], journal=tmp_path / "a")
    await job.arun()
    (outcome,) = job.outcomes()
    assert isinstance(outcome.output, AIMessage)
    structured: Any = answers.model().with_structured_output(Verdict)
    job = Job(structured, ["hello"], journal=tmp_path / "b")
    await job.arun()
    (outcome,) = job.outcomes()
    assert outcome.output == Verdict(word="yes")


HOSTILE: list[Any] = [
    *('"quoted"', "two\nlines", "a,b;c\td", "nul \0 inside", "", " ", "é ü 漢字 🎉", "half \ud83d"),
    *({"nested": [1, None, True, 1.5]}, [[]], 0, 1e300, float("inf"), None),
    "x" * 1_000_000,
]


async def test_job_keeps_hostile_values(journal: Path, tmp_path: Path) -> None:
    """Inputs and outputs come back as they were, and are found again."""
    sink = tmp_path / "out.jsonl"
    rows = [{"n": number, "value": value} for number, value in enumerate(HOSTILE)]
    job = Job(lambda row: row["value"], rows, sink, journal=journal, version="1")
    assert (await job.arun()).done == len(rows)
    assert [outcome.output for outcome in job.outcomes()] == HOSTILE
    assert (await Job(lambda row: 0, rows, journal=journal, version="1").arun()).reused == len(rows)
    written = lines(sink)
    assert [row["n"] for row in written] == list(range(len(rows)))
    assert written[1] == {"n": 1, "value": "two\nlines", "output": "two\nlines", "error": None}


async def test_job_keeps_messages_with_half_a_character(answers: Answers, journal: Path) -> None:
    """A model may answer with a text that UTF-8 cannot carry."""
    answers.respond = lambda _: httpx.Response(
        200,
        content=b'{"model":"m","choices":[{"index":0,"message":{"role":"assistant","content":"a \\ud83d"}}]}',
        headers={"content-type": "application/json"},
    )
    job = Job(answers.model(), ["hello"], journal=journal)
    await job.arun()
    (outcome,) = job.outcomes()
    assert isinstance(outcome.output, AIMessage)
    assert outcome.output.text == "a \ud83d"


async def test_job_fails_a_row_whose_output_json_cannot_carry(journal: Path) -> None:
    """The error names the type and what to do; the other rows have their outputs."""
    job = Job(lambda value: object() if value == 1 else value, [0, 1, 2], journal=journal, version="1")
    report = await job.arun()
    assert (report.done, report.failed, report.is_complete) == (2, 1, True)
    outcomes = list(job.outcomes())
    assert [outcome.output for outcome in outcomes] == [0, None, 2]
    assert isinstance(outcomes[1].error, RecordedError)
    assert outcomes[1].error.kind == "TypeError"
    assert re.search(r"of type object.*what JSON can carry", str(outcomes[1].error))


async def test_job_whose_prompt_names_no_column_is_refused_at_once(
    answers: Answers, journal: Path, tmp_path: Path
) -> None:
    """Nothing is sent, and no file is left behind; a key that some rows have is a column."""
    path = tmp_path / "rows.jsonl"
    path.write_text('{"note": 1}\n{"note": 2}\n')
    with pytest.raises(InputError, match=r"no column 'q' \(it has: note\)"):
        await Job(answers.chain(), path, tmp_path / "out.jsonl", journal=journal).arun()
    assert answers.take() == []
    assert files_in(tmp_path) == ["rows.jsonl"]
    path.write_text('{"note": 1}\n{"q": 2}\n')
    report = await Job(answers.chain(), path, journal=journal).arun()
    assert (report.done, report.failed) == (1, 1)


async def test_job_that_is_refused_leaves_no_journal(answers: Answers, journal: Path, tmp_path: Path) -> None:
    """Such as one whose output exists; a journal of its own stays."""
    sink = tmp_path / "out.jsonl"
    sink.write_text("of others\n")
    with pytest.raises(InputError, match="exists already"):
        await Job(answers.chain(), questions(2), sink, journal=journal).arun()
    assert files_in(tmp_path) == ["out.jsonl"]


async def test_job_keeps_bytes_and_long_integers(journal: Path) -> None:
    """Outputs of bytes come back as bytes, and integers of any length as integers."""
    outputs = [b"\xff\x00", b"", 10**5000, {"n": -(10**5000)}]
    job = Job(outputs.__getitem__, range(len(outputs)), journal=journal, version="1")
    assert (await job.arun()).done == len(outputs)
    assert [outcome.output for outcome in job.outcomes()] == outputs


@pytest.mark.parametrize("suffix", ["jsonl", "csv"])
async def test_job_partial_output_grows_until_it_is_complete(
    answers: Answers, journal: Path, tmp_path: Path, suffix: str
) -> None:
    """It has the rows so far, in order; an output that was complete once, or is another's, stays as it is."""
    sink = tmp_path / f"out.{suffix}"

    async def run(most: int, rows: int) -> JobReport:
        options: Any = {"config": {"max_concurrency": 1}, "keeps_partial": True}
        job = Job(answers.chain(), questions(rows), sink, journal=journal, **options)

        def respond(text: str) -> httpx.Response:
            if text == f"say q{most}":
                job.stop()
            return answers.answered(text)

        answers.respond = respond
        return await job.arun()

    for most in (2, 5):
        report = await run(most, 9)
        assert (report.is_complete, report.is_written, report.has_partial) == (False, False, True)
        with open_source(sink) as source:
            written = [row.values["output"] for row in source]
        assert written == [f"SAY Q{number}" for number in range(most + 1)]
    report = await run(99, 9)
    assert (report.is_complete, report.is_written, report.has_partial) == (True, True, False)
    complete = sink.read_bytes()
    report = await run(9, 12)
    assert (report.is_complete, report.has_partial) == (False, False)
    assert sink.read_bytes() == complete


async def test_job_refuses_inputs_that_json_cannot_carry(journal: Path) -> None:
    """An input is compared between processes."""
    with pytest.raises(TypeError, match="an input of a job"):
        await Job(lambda value: value, [object()], journal=journal).arun()


async def test_job_sends_embeddings_in_lists(journal: Path) -> None:
    """And only those of texts that have none."""
    provider = MockProvider(dimensions=4)
    model = OpenAIEmbeddings(
        "m", base_url="http://mock/v1", api_key="k", transport=provider.transport(), dimensions=4
    )
    texts = [f"text {number}" for number in range(50)]
    assert (await Job(model, texts[:40], journal=journal).arun()).done == 40
    assert provider.log.snapshot().requests < 10
    job = Job(model, texts, journal=journal)
    assert (await job.arun()).reused == 40
    assert provider.log.snapshot().items == 50
    assert [len(outcome.output or ()) for outcome in job.outcomes()] == [4] * 50


async def test_job_whose_input_breaks_off_is_not_complete(
    answers: Answers, journal: Path, tmp_path: Path
) -> None:
    """Rows after the break are missing, so no output is made, and nothing counts as gone."""
    source, sink = tmp_path / "in.jsonl.gz", tmp_path / "out.jsonl"
    rng = random.Random(1)
    text = "".join(f'{{"q": "q{number} {rng.random()}"}}\n' for number in range(3000))
    whole = gzip.compress(text.encode())
    source.write_bytes(whole)
    await Job(answers.chain(), source, journal=journal).arun()
    source.write_bytes(whole[: len(whole) // 2])
    report = await Job(answers.chain(), source, sink, journal=journal).arun()
    assert (report.is_complete, report.gone) == (False, None)
    assert report.ended == "the input cannot be read to its end"
    assert not sink.exists()
    source.write_bytes(whole)
    answers.take()
    report = await Job(answers.chain(), source, sink, journal=journal).arun()
    assert (report.is_complete, report.done) == (True, 3000)
    assert answers.take() == []


async def test_job_takes_a_limit_of_async_rows(answers: Answers, journal: Path) -> None:
    """No row beyond it is pulled."""
    pulled: list[int] = []

    async def rows() -> AsyncIterator[dict[str, Any]]:
        for row in questions(5):
            await anyio.lowlevel.checkpoint()
            pulled.append(row["note"])
            yield row

    assert (await Job(answers.chain(), rows(), journal=journal, limit=2).arun()).done == 2
    assert pulled == [0, 1]


async def test_job_takes_a_limit(answers: Answers, journal: Path) -> None:
    """The first rows are run, and are reused by a run of all."""
    report = await Job(answers.chain(), questions(10), journal=journal, limit=3).arun()
    assert (report.rows, report.done, report.gone) == (3, 3, None)
    report = await Job(answers.chain(), questions(10), journal=journal).arun()
    assert (report.reused, report.new) == (3, 7)


def shout(text: str) -> str:
    return text + "!"


async def test_job_sees_changed_functions(answers: Answers, journal: Path) -> None:
    """A function behind the model is part of the identity; a version stands for its code."""

    def quiet(text: str) -> str:
        return text + "."

    chain = answers.chain()
    await Job(chain | shout, questions(2), journal=journal).arun()
    assert (await Job(chain | shout, questions(2), journal=journal).arun()).reused == 2
    report = await Job(chain | RunnableLambda(quiet, name="shout"), questions(2), journal=journal).arun()
    assert report.changed_parts == {"function shout": 2}
    await Job(chain | shout, questions(2), journal=journal, version="2").arun()
    report = await Job(
        chain | RunnableLambda(quiet, name="shout"), questions(2), journal=journal, version="2"
    ).arun()
    assert report.reused == 2


async def test_job_journal_has_no_secret(answers: Answers, journal: Path) -> None:
    """Neither the key nor the headers are in the file."""
    chain = answers.chain(extra_headers={"x-token": "hidden-token"})
    answers.respond = lambda _: httpx.Response(400, json={"error": {"message": "bad very-secret"}})
    await Job(chain, questions(3), journal=journal).arun()
    content = b"".join(path.read_bytes() for path in journal.parent.iterdir())
    assert b"very-secret" not in content
    assert b"hidden-token" not in content


async def test_job_refuses_a_second_one_at_once(answers: Answers, journal: Path) -> None:
    """One job writes a journal at a time."""
    errors = []

    async def again() -> None:
        with pytest.raises(JournalError) as caught:
            await Job(answers.chain(), questions(1), journal=journal).arun()
        errors.append(caught.value)

    async def meddle(value: Any) -> Any:
        await again()
        return 1

    report = await Job(meddle, [1], journal=journal, version="1").arun()
    assert report.done == 1
    assert errors[0].fault == "locked"
    assert str(journal) in str(errors[0])


def refused_if_long(outcome: Outcome[Any]) -> Outcome[Any]:
    """Return the outcome of an answer with its length; a long answer is an error too."""
    if outcome.error is not None:
        return outcome
    text = str(outcome.output)
    error = ValueError("it is long") if text.endswith("9") else None
    return replace(outcome, output={"text": text, "length": str(len(text))}, error=error)


async def test_job_records_refined_outcomes(answers: Answers, journal: Path, tmp_path: Path) -> None:
    """One with an error and an output is a failed row that has both; a layout has columns for the parts."""
    sink = tmp_path / "out.jsonl"

    def open_it(path: str) -> Sink:
        return open_sink(path, columns=["q"], output_column="reply", finish_reasons=True, overwrite=True)

    def write(to: Sink, place: int, values: Mapping[str, Any], recorded: Any, error: str | None) -> None:
        assert values == {"q": f"q{place + 8}"}
        to.write(values, recorded["text"], error, recorded["length"])

    options: Any = {"journal": journal, "refine": refused_if_long, "layout": OutputLayout(open_it, write)}
    rows = [{"q": f"q{number}"} for number in range(8, 11)]
    seen: dict[int, Outcome[Any]] = {}
    report = await Job(answers.chain(), rows, sink, **options).arun(
        lambda outcome: seen.__setitem__(outcome.index, outcome)
    )
    assert (report.done, report.failed, report.is_written) == (2, 1, True)
    assert seen[0].output == {"text": "SAY Q8", "length": "6"}
    assert lines(sink)[1] == {
        "q": "q9",
        "reply": "SAY Q9",
        "reply_error": "ValueError: it is long",
        "reply_finish_reason": "6",
    }
    read_back = list(Job(answers.chain(), rows, **options).outcomes())
    assert (read_back[1].output, read_back[1].ok) == ({"text": "SAY Q9", "length": "6"}, False)
    answers.take()
    await Job(answers.chain(), rows, sink, retry_failed=True, **options).arun()
    assert answers.take() == ["say q9"]


async def test_job_cancel_keeps_what_had_ended_and_reports(
    answers: Answers, journal: Path, tmp_path: Path
) -> None:
    """Rows in flight are counted as interrupted, those before them as not started; no output is made."""
    sink = tmp_path / "out.jsonl"

    def respond(text: str) -> httpx.Response:
        if text == "say q20":
            answers.seconds = 3600.0  # of later requests
        return answers.answered(text)

    answers.respond = respond
    config: Any = {"max_concurrency": 4}
    job = Job(answers.chain(), questions(200), sink, journal=journal, config=config)
    report = await job.arun(lambda outcome: job.cancel() if outcome.index == 20 else None)
    assert not report.is_complete
    assert 1 <= report.interrupted <= 4
    assert report.done + report.interrupted + report.not_started == report.rows
    assert report.done == len(list(job.outcomes()))
    assert not sink.exists()
    answers.take()
    answers.seconds = 0.0
    answers.respond = answers.answered
    assert (await Job(answers.chain(), questions(200), sink, journal=journal).arun()).is_complete
    assert len(answers.take()) == 200 - report.done


async def test_job_forbidden_row_fails_unless_all_are(answers: Answers, journal: Path) -> None:
    """A 403 between answers, or as the last one, is said of its row; that of a job that stops is not."""

    def moderated(text: str) -> httpx.Response:
        if text in ("say q3", "say q9"):
            return httpx.Response(403, json={"error": {"message": "moderated"}})
        return answers.answered(text)

    answers.respond = moderated
    report = await Job(answers.chain(), questions(10), journal=journal).arun()
    assert (report.done, report.failed, report.is_complete) == (8, 2, True)
    answers.respond = lambda _: httpx.Response(404, json={"error": {"message": "no such model"}})
    job = Job(answers.chain(name="n"), questions(10), journal=journal)
    report = await job.arun()
    assert report.changed >= 5
    assert not report.is_complete
    assert "no such model" in (report.ended or "")
    assert not [each for each in job.outcomes() if "no such model" in str(each.error)]


async def test_job_refuses_an_async_observer(answers: Answers, journal: Path) -> None:
    """Nothing would await it; nothing is sent."""

    async def observe(_: Outcome[Any]) -> None:
        raise NotImplementedError

    with pytest.raises(TypeError, match=r"observe must be sync, and .*observe is async: nothing awaits it"):
        await Job(answers.chain(), questions(1), journal=journal).arun(observe)
    assert answers.take() == []


async def test_job_takes_an_abort_policy(answers: Answers, journal: Path) -> None:
    """It is told of each outcome, and what it calls ends the job."""
    answers.respond = lambda _: httpx.Response(401, json={"error": {"message": "wrong key"}})
    policy = AbortPolicy(max_wait=60)
    calls: list[str] = []
    config: Any = {"max_concurrency": 1}
    job = Job(answers.chain(), questions(100), journal=journal, config=config, abort_policy=policy)

    def on_abort() -> None:
        calls.append("abort")
        job.stop()

    policy.on_abort = on_abort
    report = await job.arun()
    assert calls == ["abort"]
    assert not report.is_complete
    assert "wrong key" in (report.ended or "")


async def test_job_reads_a_pipe_beside_its_work(answers: Answers, journal: Path, tmp_path: Path) -> None:
    """A row is answered while the next one is awaited."""
    pipe = tmp_path / "rows.jsonl"
    os.mkfifo(pipe)
    answered = threading.Event()

    def respond(text: str) -> httpx.Response:
        answered.set()
        return answers.answered(text)

    def write() -> None:
        with pipe.open("w") as file:
            file.write('{"q": "first"}\n')
            file.flush()
            assert answered.wait(30)
            file.write('{"q": "second"}\n')

    answers.respond = respond
    writer = threading.Thread(target=write)
    writer.start()
    with open_source(pipe) as source:
        report = await Job(answers.chain(), source, journal=journal).arun()
    writer.join()
    assert (report.done, report.is_complete) == (2, True)


@pytest.mark.parametrize("library", ["pyarrow", "pandas", "polars"])
async def test_job_reads_the_rows_of_tables(
    answers: Answers, journal: Path, tmp_path: Path, library: str
) -> None:
    """A data frame or an Arrow table gives its rows, not its columns or batches."""
    module = pytest.importorskip(library)
    columns = {"q": ["a", "b"], "n": [1, 2]}
    sink = tmp_path / "out.jsonl"
    for reused in (0, 2):
        table = module.table(columns) if library == "pyarrow" else module.DataFrame(columns)
        report = await Job(answers.chain(), table, sink, journal=journal).arun()
        assert (report.is_complete, report.done, report.reused) == (True, 2, reused)
    assert answers.take() == ["say a", "say b"]
    assert lines(sink)[1] == {"q": "b", "n": 2, "output": "SAY B", "error": None}


async def test_job_keeps_bytes_of_a_table(answers: Answers, journal: Path, tmp_path: Path) -> None:
    """Bytes that are not UTF-8, such as an image beside the text, come back as they were in Parquet."""
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    images = [b"\xff\xd8\x00", b"plain", None]
    kinds = [pyarrow.binary(), pyarrow.large_binary()]
    table = pyarrow.table(
        {"q": ["a", "b", "c"]} | {f"image{n}": pyarrow.array(images, kind) for n, kind in enumerate(kinds)}
    )
    parquet.write_table(table, tmp_path / "in.parquet")
    sink = tmp_path / "out.parquet"
    report = await Job(answers.chain(), tmp_path / "in.parquet", sink, journal=journal).arun()
    assert (report.is_complete, report.done) == (True, 3)
    written = parquet.read_table(sink)
    assert [written[f"image{n}"].to_pylist() for n in range(len(kinds))] == [images] * len(kinds)


async def test_job_without_rows_replaces_its_own_output(
    answers: Answers, journal: Path, tmp_path: Path
) -> None:
    """A source that was empty may have rows later."""
    sink = tmp_path / "out.jsonl"
    assert (await Job(answers.chain(), [], sink, journal=journal).arun()).is_complete
    assert (await Job(answers.chain(), questions(1), sink, journal=journal).arun()).is_complete
    assert len(lines(sink)) == 1


@pytest.mark.parametrize("again", [True, False])
async def test_job_killed_after_it_set_a_journal_aside_replaces_its_output(
    answers: Answers, journal: Path, tmp_path: Path, again: bool
) -> None:
    """The output is the older journal's, although the new one has no rows yet, or does not exist."""
    sink = tmp_path / "out.jsonl"
    await Job(answers.chain(), questions(2), sink, journal=journal).arun()
    assert set_aside(str(journal)) is not None
    report = await Job(answers.chain(), questions(3), sink, journal=journal, fresh=again).arun()
    assert (report.is_complete, report.new) == (True, 3)
    assert len(lines(sink)) == 3


async def test_job_report_of_the_journal_is_that_of_the_last_run(answers: Answers, journal: Path) -> None:
    """With the counts of rows that were reused, changed (and by what), new, gone and interrupted."""
    await Job(answers.chain(), questions(6), journal=journal).arun()
    later = [*questions(4), {"q": "new", "note": 0}]
    told = await Job(answers.chain(), later, journal=journal).arun()
    assert (told.reused, told.new, told.gone) == (4, 1, 2)
    assert JobReport.of(journal) == told
    told = await Job(answers.chain(temperature=0.5), later, journal=journal).arun()
    assert (told.changed, told.changed_parts) == (5, {"temperature": 5})
    assert JobReport.of(journal) == told
    assert str(JobReport.of(journal)) == str(told)


async def test_job_report_of_a_killed_run_has_no_counts(answers: Answers, journal: Path) -> None:
    """Those of the run before would be wrong."""
    await Job(answers.chain(), questions(6), journal=journal).arun()
    with Journal(journal) as killed:
        killed.begin_run(1.0)
    report = JobReport.of(journal)
    assert (report.new, report.rows, report.gone) == (0, None, None)


async def test_job_changed_row_without_an_outcome_is_not_gone(answers: Answers, journal: Path) -> None:
    """Rows of another prompt that the provider refused are in the input, whatever their order is."""
    rows = questions(4)
    assert (await Job(answers.chain(), rows, journal=journal).arun()).done == 4
    answers.respond = lambda _: httpx.Response(401, json={"error": {"message": "bad key"}})
    for order in (rows, rows[::-1], rows[1:]):
        report = await Job(answers.chain("now {q}"), order, journal=journal).arun()
        assert (report.changed, report.interrupted, report.gone) == (len(order), len(order), 4 - len(order))


async def test_job_progress_counts_rows_of_this_run_and_before(
    answers: Answers, journal: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The bar ends where all rows have an outcome; rows that failed are told."""
    answers.respond = lambda text: (
        httpx.Response(400, json={"error": {"message": "no"}}) if text == "say q3" else answers.answered(text)
    )
    assert (await Job(answers.chain(), questions(6), journal=journal).arun(progress=False)).done == 5
    assert capsys.readouterr().err == ""
    await Job(answers.chain(), questions(8), journal=journal).arun(progress=True)
    drawn = capsys.readouterr().err
    assert "8/8" in drawn
    assert "1 failed" in drawn
    config: Any = {"progress": True}
    await Job(answers.chain(), questions(8), journal=journal, config=config, limit=7).arun()
    assert "7/7" in capsys.readouterr().err
