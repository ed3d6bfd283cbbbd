"""Journals for tests of a job's page."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from batchrt.jobs.journal import Journal, RowSource
from batchrt.jobs.journal_reader import RecordedEvent, RunRecord
from batchrt.jobs.records import Record

START = 1_790_000_000.0
HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(2)>\"'& {{ 7 * 7 }} ]]> \u202e\x00\ud800 $x^2$"
"""HTML, an attribute's end, a template's expression, characters that HTML or UTF-8 lack, mathematics."""
HOSTILE_KIND = "<b>$x^2$</b>\"'& {{ 7 * 7 }} \u202e"
"""The name of a class, which has neither NUL nor lone surrogates."""


def record(
    finished: float,
    *,
    seconds: float = 1.0,
    request_seconds: float | None = 0.8,
    output: object = "an answer",
    error: str | None = None,
    kind: str = "BadRequestError",
    model: str = "gpt-5-mini",
    tokens: tuple[int, int] = (100, 10),
    cost: float | None = 0.001,
) -> Record:
    if error is not None:
        told = json.dumps({"kind": kind, "message": error, "status": 400, "request_id": None})
        return Record("failed", None, told, 2, seconds, None, None, None, None, None, None, finished)
    names = ("input_tokens", "output_tokens", "total_tokens")
    usage = json.dumps(
        {model: {**dict(zip(names, (*tokens, sum(tokens)), strict=True)), "service_tier": None}}
    )
    text = json.dumps(output)
    return Record("done", text, None, 1, seconds, request_seconds, usage, *tokens, cost, "req-1", finished)


def journal_of(
    path: Path,
    records: Iterable[Record],
    events: Iterable[RecordedEvent] = (),
    *,
    inputs: Any = None,
    starts: Iterable[float] = (START,),
) -> Path:
    with Journal(path) as journal:
        chain = journal.chain([("model", "m")])
        for started in starts:
            journal.begin_run(started)
        count = 0
        for count, each in enumerate(records, 1):
            given = json.dumps({"text": f"row {count}"} if inputs is None else inputs)
            source = RowSource(count.to_bytes(16), count.to_bytes(8), chain, given)
            journal.insert(count - 1, source, each)
        for number, event in enumerate(events, 1):
            journal.put_event(number, event)
        journal.end_run(RunRecord(count, is_complete=True, seconds=10.0))
    return path


def eventful(path: Path) -> Path:
    """Make a journal of 300 rows with hostile texts, refusals, cool-downs, an outage and two runs."""
    rows = [
        record(START + 1 + number / 10, output=HOSTILE, model=HOSTILE, seconds=1 + number / 1000)
        if number % 10
        else record(
            START + 1 + number / 10, error=HOSTILE, kind=HOSTILE_KIND if number % 20 else "ServerError"
        )
        for number in range(200)
    ]
    later = START + 50_000
    rows += [record(later + number / 10) for number in range(100)]
    events = [
        RecordedEvent("retry", START + 5, START + 5.5, 7, "RateLimitError (status 429)"),
        RecordedEvent("retry", START + 9, START + 9, 2, "ServerError (status 503)"),
        RecordedEvent(
            "cool-down", START + 5, START + 8, 3, f"RateLimitError {HOSTILE}".replace("\ud800", "")
        ),
        RecordedEvent("outage", START + 21, START + 60, 1, "ServerError (status 503): overloaded"),
    ]
    return journal_of(
        path,
        rows,
        events,
        inputs={"text": HOSTILE, HOSTILE: 1},
        starts=(START, later - 1),
    )
