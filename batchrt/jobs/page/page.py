"""The page of a job: pictures and tables in one HTML file that needs nothing else."""

from __future__ import annotations

import base64
import hashlib
import math
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from importlib.resources import files
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from batchrt.files.cells import encodable_text, shorten
from batchrt.jobs.journal_reader import JournalReader
from batchrt.jobs.page.history import History
from batchrt.jobs.page.pictures import draw_errors, draw_latency, draw_over_time, draw_tokens
from batchrt.jobs.records import Record, decode_json, error_text

if TYPE_CHECKING:
    from jinja2 import Environment

    from batchrt.jobs.report import JobReport

__all__ = ["page_of"]

_KINDS: Final = 20
_EXAMPLES: Final = 3
_LONGEST_TEXT: Final = 300
_LONGEST_MESSAGE: Final = 1000
_TABLE_ROWS: Final = 20
"""Rows of the table beside the picture over time, each of several of its points."""
_EVENTS: Final = 200
_PERCENTILES: Final = (0.5, 0.9, 0.95, 0.99, 0.999)
_NONE: Final = "\N{EN DASH}"
_TOKENS: Final = {
    "rows": "rows",
    "input_tokens": "tokens in",
    "cached_input_tokens": "of these from the provider's cache",
    "output_tokens": "tokens out",
    "reasoning_tokens": "of these for reasoning",
}


def page_of(report: JobReport) -> str:
    """Return the page of a job as HTML, which UTF-8 can encode.

    All text of rows is escaped, and a content security policy allows no script, no style but the page's own
    and no request: the page is safe to open whatever the rows hold.

    Raises:
        JournalError: the journal cannot be read.
    """
    with JournalReader(report.journal) as reader:
        history = History(reader)
        values = {**_head(report, history), **_time_section(history, report), **_tables(history, report)}
        values["errors"] = draw_errors(report.errors)
        values["error_kinds"] = list(_error_kinds(reader, report.errors))
        values["slowest"] = [_slow_row(reader, place) for place in history.slowest]
    values["sections"] = [
        (anchor, title)
        for anchor, title in (
            ("time", "Over time"),
            ("latency", "Latency"),
            ("tokens", "Tokens and cost"),
            ("errors", "Errors"),
            ("slowest", "Slowest rows"),
        )
        if anchor == "time" or values[anchor]
    ]
    html: str = _environment().get_template("page.html.j2").render(values)
    return encodable_text(html)


def _environment() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("batchrt.jobs.page", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(data=_data_url, width=_size(0), height=_size(1))
    return environment


def _data_url(svg: str) -> str:
    return f"data:image/svg+xml;base64,{base64.b64encode(svg.encode()).decode()}"


def _size(place: int) -> Any:
    def size(svg: str) -> str:
        """Return the width or the height of a picture, in pixels."""
        return svg.split('viewBox="0 0 ', 1)[1].split('"', 1)[0].split()[place]

    return size


# The head


def _head(report: JobReport, history: History) -> dict[str, Any]:
    from markupsafe import Markup

    style = files("batchrt.jobs.page").joinpath("page.css").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    return {
        "style": Markup(style),  # noqa: S704  the page's own
        "style_hash": f"sha256-{digest}",
        "name": _shown(Path(report.journal).name),
        "journal": _shown(report.journal),
        "version": _version(),
        "report": report,
        "state": _state(report),
        "facts": list(_facts(report, history)),
        "moments": [_moment(history.timeline.spans[place][place]) for place in (0, -1)],
    }


def _version() -> str:
    try:
        return version("batchrt")
    except PackageNotFoundError:
        return "from a source tree"


def _state(report: JobReport) -> str:
    if report.is_complete:
        failed = f"an outcome, and {report.failed:,} failed" if report.failed else "an answer"
        return f"Complete: each row has {failed}."
    reason = report.ended or "the job is still running, or its process was killed"
    return f"Not complete: {_shown(reason)}. Run the job again to continue."


def _facts(report: JobReport, history: History) -> Iterator[tuple[str, str]]:
    yield "rows done", f"{report.done:,}"
    yield "rows failed", f"{report.failed:,}"
    yield "retries", f"{report.retries:,}"
    if report.input_tokens or report.output_tokens:
        yield "tokens in", f"{report.input_tokens:,}"
        yield "tokens out", f"{report.output_tokens:,}"
    if report.cost is not None:
        yield "cost", f"{report.cost:.4g}"
    if report.done + report.failed:
        yield "time at work", _seconds(history.timeline.seconds)


# Sections


def _time_section(history: History, report: JobReport) -> dict[str, Any]:
    if not report.done + report.failed:
        return {"over_time": None}
    over = history.over_time
    per_row = -(-len(over.done) // _TABLE_ROWS)
    rows = []
    for first in range(0, len(over.done), per_row):
        part = slice(first, first + per_row)
        seconds = over.width * len(over.done[part])
        done, failed = over.done[part].sum(), over.failed[part].sum()
        rows.append(
            (
                _seconds(first * over.width),
                f"{done:,.0f}",
                f"{failed:,.0f}",
                f"{(done + failed) / seconds:.3g}",
                f"{over.under_way[part].mean():.3g}",
                f"{over.in_requests[part].mean():.3g}",
                f"{over.refusals[part].sum():,.0f}",
                f"{over.retries[part].sum():,.0f}",
            )
        )
    heads = ("from", "done", "failed", "rows/s", "rows in flight", "requests in flight", "refused", "retried")
    events = sorted((*history.cooldowns, *history.outages), key=lambda event: event.began)
    left = len(events) - _EVENTS
    return {
        "over_time": draw_over_time(history),
        "time_caption": _time_caption(history),
        "time_heads": heads,
        "time_rows": rows,
        "events": [
            (_moment(each.began), each.kind, _seconds(each.ended - each.began), _shown(each.reason))
            for each in events[:_EVENTS]
        ],
        "events_caption": f"Cool-downs and outages{f', without the last {left:,}' if left > 0 else ''}",
    }


def _time_caption(history: History) -> str:
    flight = "Requests in flight are those that were answered"
    parts = [f"{flight}; a row in flight may also wait for a limit or for another attempt."]
    if len(history.run_starts) > 1:
        parts.append("A solid vertical line is the start of another run.")
    if pauses := history.timeline.pauses:
        longest = _seconds(max(length for _, length in pauses))
        parts.append(f"A dotted vertical line is a pause that is left out; the longest took {longest}.")
    return " ".join(parts)


def _tables(history: History, report: JobReport) -> dict[str, Any]:
    has_rows = bool(report.done + report.failed)
    times = (history.row_seconds, history.request_seconds)
    latency = [(f"{100 * share:g}", *(_number(each.at(share)) for each in times)) for share in _PERCENTILES]
    longest = ("longest", *(_number(each.longest) if each.count else _NONE for each in times))
    models = list(history.tokens)
    return {
        "latency": draw_latency(history) if has_rows else None,
        "latency_rows": [*latency, longest],
        "tokens": draw_tokens(history) if has_rows else None,
        "token_heads": ["tokens", *(_shown(model) or "unnamed model" for model in models)],
        "token_rows": [
            (name, *(f"{history.tokens[model][key]:,}" for model in models)) for key, name in _TOKENS.items()
        ],
    }


def _error_kinds(reader: JournalReader, errors: Mapping[str, int]) -> Iterator[tuple[str, str, list[Any]]]:
    found = reader.failures(_KINDS, _EXAMPLES)
    for kind, group in groupby(found, lambda each: each[0]):
        examples = []
        for _, error, number, place in group:
            message = decode_json(error)["message"]
            given, _ = reader.record_at(place)
            examples.append(
                {
                    "rows": f"{number:,} row{'' if number == 1 else 's'}",
                    "number": f"{place + 1:,}",
                    "message": _shown(message or "no message", _LONGEST_MESSAGE),
                    "given": _shown(given),
                }
            )
        yield _shown(kind), f"{errors[kind]:,} row{'' if errors[kind] == 1 else 's'}", examples


def _slow_row(reader: JournalReader, place: int) -> dict[str, str]:
    given, record = reader.record_at(place)
    return {
        "number": f"{place + 1:,}",
        "seconds": _number(record.seconds),
        "request_seconds": _NONE if record.request_seconds is None else _number(record.request_seconds),
        "attempts": f"{record.attempts:,}",
        "output_tokens": _NONE if record.output_tokens is None else f"{record.output_tokens:,}",
        "given": _shown(given),
        "result": _shown(_result(record)),
    }


def _result(record: Record) -> str:
    if record.error is not None:
        return error_text(record.error)
    if isinstance(record.output, bytes):
        return f"{len(record.output):,} bytes"
    output = record.output or ""
    return str(decode_json(output)) if output.startswith('"') else output


# Values as text


def _shown(text: str, most: int = _LONGEST_TEXT) -> str:
    """Return a row's text in a bounded length, without characters that HTML does not have."""
    short = shorten(text, most)
    return "".join(
        each if each.isprintable() or each in "\n\t" else "\N{REPLACEMENT CHARACTER}" for each in short
    )


def _number(seconds: float) -> str:
    return _NONE if math.isnan(seconds) else f"{seconds:.3g}"


def _seconds(seconds: float) -> str:
    if seconds < 100:  # noqa: PLR2004
        return f"{seconds:.3g} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s"


def _moment(wall: float) -> str:
    try:
        return f"{datetime.fromtimestamp(wall, UTC):%Y-%m-%d %H:%M:%S} UTC"
    except (ValueError, OverflowError, OSError):
        return f"{wall:g} s after 1970"
