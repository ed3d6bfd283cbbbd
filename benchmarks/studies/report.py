"""Results for people, as tables, and for programs, as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import rich.table
from rich.console import Console
from rich.markup import escape

from benchmarks.harness.measuring import Series
from benchmarks.studies.criteria import Verdict
from benchmarks.studies.results import Column, Row, Table

__all__ = ["show_machine", "show_table", "show_verdicts", "write_json"]


def show_machine(console: Console, machine: Mapping[str, Any]) -> None:
    """Show where and with what the figures were measured."""
    for key, value in machine.items():
        text = ", ".join(f"{k} {v}" for k, v in value.items()) if isinstance(value, dict) else value
        console.print(f"[bold]{key}[/bold]: {escape(str(text))}", highlight=False)


def show_table(console: Console, suite: str, table: Table) -> None:
    """Show one case: medians, with the least and the most in brackets."""
    shown = rich.table.Table(title=f"{suite}: {escape(table.case)}", title_justify="left")
    shown.add_column("contender")
    shown.add_column("loop")
    for column in table.columns:
        shown.add_column(column.heading, justify="right")
    shown.add_column("note")
    for row in table.rows:
        shown.add_row(*_cells(row, table.columns))
    console.print(shown)


def _cells(row: Row, columns: Sequence[Column]) -> list[str]:
    figures = [_figure(row.figures.get(column.key), column.digits) for column in columns]
    return [escape(row.contender), row.loop, *figures, escape(row.note)]


def _figure(series: Series | None, digits: int) -> str:
    if series is None or not series.values:
        return "-"
    low, middle, high = (f"{v:,.{digits}f}" for v in (series.min, series.median, series.max))
    return middle if low == high else f"{middle} ({low}-{high})"


def show_verdicts(console: Console, verdicts: Sequence[Verdict]) -> None:
    """Show each target with its figure, met or missed."""
    shown = rich.table.Table(title="targets", title_justify="left")
    for heading in ("point", "what", "measured", "limit", ""):
        shown.add_column(heading)
    for verdict in verdicts:
        criterion = verdict.criterion
        value = "not measured" if verdict.value is None else f"{verdict.value:.2f} {criterion.unit}"
        shown.add_row(
            str(criterion.point),
            criterion.what,
            value.strip(),
            f"{criterion.relation} {criterion.limit:g} {criterion.unit}".strip(),
            "[green]met[/green]" if verdict.met else "[red]missed[/red]",
        )
    console.print(shown)


def write_json(
    path: Path,
    machine: Mapping[str, Any],
    measured: Mapping[str, Sequence[Table]],
    verdicts: Sequence[Verdict],
) -> None:
    """Write everything that was measured, each round's value included."""
    suites = {name: [table.to_dict() for table in tables] for name, tables in measured.items()}
    document = {
        "machine": machine,
        "suites": suites,
        "must_show": [verdict.to_dict() for verdict in verdicts],
    }
    path.write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
