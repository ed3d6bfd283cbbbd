"""Tables of a results document, as Markdown."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from benchmarks.pages.figures import (
    Document,
    Row,
    best_rows,
    cell,
    find_case,
    find_row,
    losses,
    middle,
    number,
    ratio,
)

__all__ = ["contender_list", "headline", "machine_list", "scenario_tables", "table"]

_OWN = "batchrt"
_MOST_TABLES = 2
"""Cases with a table each; those of a scenario with more of them are the columns of one."""


def table(headings: Sequence[str], lines: Sequence[Sequence[str]]) -> Iterator[str]:
    """Yield the lines of a table: names on the left, figures on the right."""
    yield f"| {' | '.join(headings)} |"
    yield f"|{'---|'}{'---:|' * (len(headings) - 1)}"
    for line in lines:
        yield f"| {' | '.join(line)} |"
    yield ""


def scenario_tables(scenario: Mapping[str, Any]) -> Iterator[str]:
    """Yield the lines of a scenario's tables."""
    if len(scenario["cases"]) > _MOST_TABLES:
        for column in scenario["columns"]:
            if column["best"]:
                yield from _pivot(scenario, column)
        return
    for case in scenario["cases"]:
        yield f"**{case['title']}**"
        yield ""
        yield from _case_table(scenario, case)


def _case_table(scenario: Mapping[str, Any], case: Mapping[str, Any]) -> Iterator[str]:
    columns, relative = scenario["columns"], scenario["relative"]
    reference = find_row(case, _OWN)
    best = {each["key"]: best_rows(case["rows"], each["key"], each["best"]) for each in columns}
    headings = ["", *(each["heading"] for each in columns), *(["x batchrt"] if relative else [])]
    lines = []
    for row in case["rows"]:
        label = row["label"] + (f" ({row['note']})" if row["note"] else "")
        if not row["figures"]:
            lines.append([label, row["reason"], *("" for _ in headings[2:])])
            continue
        if row["reason"]:
            label = f"{label}: {row['reason']}"
        cells = [_marked(cell(row, each["key"], each["digits"]), row, best[each["key"]]) for each in columns]
        lines.append([label, *cells, *([_times(row, reference, relative)] if relative else [])])
    yield from table(headings, lines)
    sentence = _verdict(columns, best, reference)
    if sentence:
        yield sentence
        yield ""


def _marked(text: str, row: Row, best: Sequence[Row]) -> str:
    return f"**{text}**" if any(row is each for each in best) else text


def _times(row: Row, reference: Row | None, key: str) -> str:
    value = ratio(row, reference, key) if reference is not None else None
    return "-" if value is None else number(value, 2)


def _verdict(columns: Sequence[Mapping[str, Any]], best: Mapping[str, Sequence[Row]], own: Row | None) -> str:
    """Return which contender wins each column that batchrt does not win, and by how much."""
    parts = []
    for column in columns:
        winners = best[column["key"]]
        mine = middle(own, column["key"])
        if not winners or mine is None or any(row["contender"] == _OWN for row in winners):
            continue
        top = middle(winners[0], column["key"]) or 0.0
        names = " and ".join(row["label"] for row in winners)
        digits = column["digits"]
        parts.append(f"{column['heading']}: {names} ({number(top, digits)}; batchrt {number(mine, digits)})")
    return f"Ahead of batchrt: {'; '.join(parts)}." if parts else ""


def _pivot(scenario: Mapping[str, Any], column: Mapping[str, Any]) -> Iterator[str]:
    cases = scenario["cases"]
    labels = list(dict.fromkeys(row["label"] for case in cases for row in case["rows"]))
    by_case = [{row["label"]: row for row in case["rows"]} for case in cases]
    key, digits = column["key"], column["digits"]
    best = [best_rows(case["rows"], key, column["best"]) for case in cases]
    lines = []
    for label in labels:
        cells = []
        for rows, top in zip(by_case, best, strict=True):
            row = rows.get(label)
            if row is None:
                cells.append("")
            elif not row["figures"]:
                cells.append(row["reason"])
            else:
                cells.append(_marked(cell(row, key, digits), row, top))
        lines.append([label, *cells])
    yield f"**{column['heading']}**"
    yield ""
    yield from table(["", *(case["title"].split(", ")[0] for case in cases)], lines)


# The table to decide by


def headline(document: Document) -> Iterator[str]:
    """Yield the table of one row for each contender that sends chats."""
    chat = find_case(document, "chat")
    if chat is None:
        return
    others = {
        "embeddings": find_case(document, "embeddings"),
        "unknown": find_case(document, "rate-limits", "unknown"),
        "known": find_case(document, "rate-limits", "known"),
        "faults": find_case(document, "faults"),
        "startup": find_case(document, "startup"),
    }
    reference = find_row(chat, _OWN)
    keys = dict.fromkeys(row["contender"] for row in chat["rows"] if row["figures"])
    names = {each["key"]: each["name"] for each in document["contenders"]}
    lines = []
    for key in keys:
        row = find_row(chat, key)
        assert row is not None
        lines.append(
            [
                names[key],
                number(middle(row, "cpu") or 0.0, 0),
                _times(row, reference, "cpu"),
                number(middle(row, "rate") or 0.0, 0),
                _figure(others["embeddings"], key, "cpu", 0),
                _trouble(others["unknown"], key),
                _trouble(others["known"], key),
                _trouble(others["faults"], key),
                _figure(others["startup"], key, "cpu", 0),
            ]
        )
    yield from table(
        (
            "",
            "chat: CPU µs/row",
            "x batchrt",
            "rows/s, one core",
            "embeddings: CPU µs/text",
            "429s, limit unknown",
            "429s, limit known",
            "10 % faults",
            "import: CPU ms",
        ),
        lines,
    )


def _figure(case: Mapping[str, Any] | None, contender: str, key: str, digits: int) -> str:
    value = middle(find_row(case, contender), key)
    return "-" if value is None else number(value, digits)


def _trouble(case: Mapping[str, Any] | None, contender: str) -> str:
    row = find_row(case, contender)
    if row is None:
        named = [each for each in (case or {"rows": ()})["rows"] if each["contender"] == contender]
        return named[0]["reason"] if named else "-"
    return losses(row) or f"0 lost, {number(middle(row, 'ideal') or 0.0, 2)} x ideal"


# The facts around them


def machine_list(document: Document) -> Iterator[str]:
    """Yield what the figures belong to."""
    machine = document["machine"]
    commit = f", commit `{machine['commit']}`" if machine.get("commit") else ""
    stack = ", ".join(f"{name} {version}" for name, version in machine["stack"].items() if version)
    load = ", ".join(f"{value:g}" for value in machine["load"])
    run = f"{machine['date']}, `{document['command']}`, {document['seconds']:,} s"
    cores = f"{machine['usable_cores']} cores, load before the run {load}"
    yield f"- {run}; batchrt {machine['batchrt']}{commit}"
    yield f"- {machine['cpu']}, {cores}; {machine['system']}"
    yield f"- {machine['python']}; {stack}"
    yield ""


def contender_list(document: Document) -> Iterator[str]:
    """Yield each contender with its versions and its use."""
    for each in document["contenders"]:
        version = each["version"] or "no distribution of its own"
        yield f"- **{each['name']}** ({version}). {each['use']}"
    yield ""
