"""Figures of a results document: medians, spreads, and the best of a column."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any, TypeAlias

__all__ = [
    "Document",
    "Row",
    "best_rows",
    "cell",
    "find_case",
    "find_row",
    "losses",
    "middle",
    "number",
    "ratio",
]

Document: TypeAlias = Mapping[str, Any]
Row: TypeAlias = Mapping[str, Any]

_FAILED = ("lost", "wrong")
"""Figures that must be 0 for a row's other figures to be compared."""


def find_case(document: Document, scenario: str, case: str | None = None) -> Mapping[str, Any] | None:
    """Return a case of a scenario, the first one without a name; None if it was not measured."""
    for each in document["scenarios"]:
        if each["key"] == scenario:
            cases = [one for one in each["cases"] if case in (None, one["key"])]
            return cases[0] if cases else None
    return None


def find_row(case: Mapping[str, Any] | None, contender: str) -> Row | None:
    """Return the first row of a contender that has figures."""
    rows = case["rows"] if case is not None else ()
    return next((row for row in rows if row["contender"] == contender and row["figures"]), None)


def middle(row: Row | None, key: str) -> float | None:
    """Return the median of a figure; None if it was not measured."""
    values = row["figures"].get(key) if row is not None else None
    return median(values) if values else None


def number(value: float, digits: int) -> str:
    """Return a number with thousands separators."""
    return f"{value:,.{digits}f}"


def cell(row: Row, key: str, digits: int) -> str:
    """Return the median, with the least and the most in brackets where they differ."""
    values = row["figures"].get(key)
    if not values:
        return "-"
    low, centre, high = (number(value, digits) for value in (min(values), median(values), max(values)))
    return centre if low == high else f"{centre} ({low}-{high})"


def ratio(row: Row, reference: Row, key: str) -> float | None:
    """Return the median of the ratios to another row, round by round."""
    mine, other = row["figures"].get(key), reference["figures"].get(key)
    if not mine or not other:
        return None
    ratios = [float(a / b) for a, b in zip(mine, other, strict=False) if b]
    return float(median(ratios))


def best_rows(rows: Sequence[Row], key: str, best: str) -> list[Row]:
    """Return the rows with the best median, apart from those that lost or spoiled items in any round."""
    lossless = key in _FAILED
    able = [
        row
        for row in rows
        if middle(row, key) is not None
        and (lossless or not any(any(row["figures"].get(each, ())) for each in _FAILED))
    ]
    if not best or not able:
        return []
    choose = min if best == "least" else max
    figure = _worst if lossless else middle
    top = choose(figure(row, key) or 0.0 for row in able)
    return [row for row in able if figure(row, key) == top]


def _worst(row: Row, key: str) -> float:
    """Return the most of a figure: a row that was lost in one round is lost."""
    return float(max(row["figures"][key]))


def losses(row: Row) -> str:
    """Return how many rows were lost, with the range over the rounds; empty if none was in any round."""
    return f"{cell(row, 'lost', 0)} lost" if any(row["figures"].get("lost", ())) else ""
