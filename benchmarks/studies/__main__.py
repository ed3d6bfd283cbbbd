"""The studies: streams, lists, quotas and refusals in depth, as tables on the terminal."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from rich.console import Console

from benchmarks.harness.machine import describe
from benchmarks.studies import lists, quota, refusals, report, streaming
from benchmarks.studies.criteria import judge
from benchmarks.studies.results import Table

__all__ = ["main"]

_NARROWEST = 180
"""Columns that the tables need; a pipe has no width of its own."""


class _Measure(Protocol):
    def __call__(self, *, quick: bool, tell: Callable[[str], None]) -> Iterator[Table]: ...


_SUITES: Mapping[str, _Measure] = {
    "streaming": streaming.measure,
    "lists": lists.measure,
    "quota": quota.measure,
    "refusals": refusals.measure,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, show, and return the exit code: 1 if `--check` found a number that is missed."""
    options = _parse(arguments)
    console = Console()
    if console.width < _NARROWEST:
        console = Console(width=_NARROWEST)
    progress = Console(stderr=True, style="dim", highlight=False)
    machine = describe()
    report.show_machine(console, machine)
    measured: dict[str, list[Table]] = {}
    for suite in options.suites or _SUITES:
        measured[suite] = []
        for table in _measure(suite, progress, quick=options.quick):
            report.show_table(console, suite, table)
            measured[suite].append(table)
    verdicts = judge(measured) if options.check else []
    if verdicts:
        report.show_verdicts(console, verdicts)
    if options.json is not None:
        report.write_json(options.json, machine, measured, verdicts)
    return 0 if all(verdict.met for verdict in verdicts) else 1


def _measure(suite: str, progress: Console, *, quick: bool) -> Iterator[Table]:
    def tell(what: str) -> None:
        progress.print(f"{suite}: {what}", soft_wrap=True)

    return _SUITES[suite](quick=quick, tell=tell)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.studies", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("suites", nargs="*", metavar="SUITE", help=", ".join(_SUITES))
    parser.add_argument("--quick", action="store_true", help="small sizes and few rounds")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results there too")
    parser.add_argument("--check", action="store_true", help="compare with the targets")
    options = parser.parse_args(arguments)
    unknown = sorted(set(options.suites) - set(_SUITES))
    if unknown:
        parser.error(f"no suite {', '.join(unknown)}; there are {', '.join(_SUITES)}")
    if options.check and options.quick:
        parser.error("--check is about full sizes: leave --quick out")
    return options


if __name__ == "__main__":
    sys.exit(main())
