"""Refusals as servers send them: is anything lost, and what do they cost?

The suite, some of its cases, and the page docs/refusals.md again from the results as they are:

    python -m benchmarks.studies refusals
    python -m benchmarks.studies.refusals nginx-rate waits --keep
    python -m benchmarks.studies.refusals --render
"""

from __future__ import annotations

import argparse
import asyncio
import math
import signal
import sys
import threading
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, nullcontext
from pathlib import Path
from typing import Any

from benchmarks.harness.isolation import WorkerError, run_worker
from benchmarks.harness.machine import describe, installed
from benchmarks.harness.measuring import Series, rotated, stopwatch
from benchmarks.pages.refusals import render
from benchmarks.studies import refusals_kept, report
from benchmarks.studies.refusals_cases import Case, Server, cases
from benchmarks.studies.refusals_clients import CONTENDERS, Contender, Target, at_cap, knowing, named
from benchmarks.studies.refusals_server import Counts
from benchmarks.studies.results import Column, Row, Table

__all__ = ["COLUMNS", "main", "measure", "work"]

COLUMNS = (
    Column("lost", "lost", 0),
    Column("wall", "wall s"),
    Column("ideal", "x ideal", 2),
    Column("waited", "x ideal, all waits kept", 2),
    Column("refused", "refused %", 1),
    Column("in_waits", "sent in waits", 0),
    Column("sent", "sent", 0),
)
RUNS = 5
SECONDS = 90.0
"""After which a run is stopped: it did not end."""
_MARGIN = 30
"""Seconds that a process may take for what is not measured."""
_OWN = "batchrt"


def measure(
    *,
    quick: bool,
    tell: Callable[[str], None],
    only: Sequence[str] = (),
    contenders: Sequence[Contender] = CONTENDERS,
    runs: int = RUNS,
    seconds: float = SECONDS,
    budget: float = math.inf,
    jobs: int = 1,
    lists: int = 0,
) -> Iterator[Table]:
    """Measure one case after the other.

    Args:
        quick: once, and stopped after 30 seconds.
        tell: is told what is measured.
        only: keys of cases; all by default.
        contenders: who asks.
        runs: how often each.
        seconds: after which a run is stopped.
        budget: seconds of all runs of a contender other than batchrt, after which no further one begins.
        jobs: how many runs at a time. They wait more than they work; but so they are in each other's way.
        lists: ask for embeddings of so many texts in place of each chat.
    """
    if quick:
        runs, seconds = 1, min(seconds, 30)
    for case in cases():
        if not only or case.key in only:
            asked = case.in_lists(lists) if lists else case
            yield _measured(asked, contenders, tell, runs=runs, seconds=seconds, budget=budget, jobs=jobs)


def _measured(case: Case, *arguments: Any, **options: Any) -> Table:
    """Return what was measured, or why nothing was."""
    try:
        return _measure_case(case, *arguments, **options)
    except (RuntimeError, OSError) as error:
        return Table(case.name, COLUMNS, [Row("all", note=f"failed: {error}")])


def _measure_case(
    case: Case,
    contenders: Sequence[Contender],
    tell: Callable[[str], None],
    *,
    runs: int,
    seconds: float,
    budget: float,
    jobs: int,
) -> Table:
    lacking = case.lacking()
    if lacking:
        return Table(case.name, COLUMNS, [Row("all", note=f"skipped: {lacking}")])
    if case.fits:
        contenders = [knowing(case.fits), *contenders]
    able = [contender for contender in contenders if not _missing(contender)]
    plans = [(one, number) for number in range(runs) for one in rotated(able, number)]
    done: dict[str, list[dict[str, Any]]] = {contender.name: [] for contender in contenders}
    if threading.current_thread() is threading.main_thread():
        # Else whoever is told to stop leaves servers behind.
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    with ExitStack() as stack, ThreadPoolExecutor(1 if case.dear else jobs) as pool:
        shared = stack.enter_context(case.serve()) if case.dear else None

        def play(plan: tuple[Contender, int]) -> None:
            contender, number = plan
            spent = sum(result.get("wall", 0) for result in done[contender.name])
            if spent > budget and contender.base != _OWN:
                return
            tell(f"{case.name}: {contender.name}, run {number + 1}")
            try:
                with nullcontext(shared) if shared is not None else case.serve() as server:
                    result = _play(case, contender, server, number, seconds)
            except (WorkerError, RuntimeError) as error:  # one that failed is no reason to lose the others
                result = {"failed": str(error), "run": number}
            done[contender.name].append(result)

        try:
            list(pool.map(play, plans))
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise
    if case.fits:
        _set_against(done[contenders[0].name], done)
    return Table(case.name, COLUMNS, [_row(one, done[one.name], seconds) for one in contenders])


def _set_against(best: Sequence[Mapping[str, Any]], done: Mapping[str, Sequence[dict[str, Any]]]) -> None:
    """Have the time of who is known to be in time stand for the ideal, run by run."""
    ideals = {result["run"]: result["wall"] for result in best if "failed" not in result}
    for result in (one for results in done.values() for one in results if "failed" not in one):
        fair = not result["ended"] or not result["lost"]
        if fair and (ideal := ideals.get(result["run"])):
            result["ideal"] = result["wall"] / ideal


def _missing(contender: Contender) -> str:
    lacking = [name for name in contender.needs if installed(name) is None]
    return f"missing: {', '.join(lacking)}" if lacking else ""


def _texts(items: int, number: int) -> list[str]:
    """Return a run's texts: the same for everybody, others in each run."""
    return [f"Name the category of entry {number}.{item}" for item in range(items)]


def _in_flight(case: Case, contender: Contender) -> int:
    return int(contender.cap) if contender.cap.isdigit() else case.in_flight


def _play(case: Case, contender: Contender, server: Server, number: int, seconds: float) -> dict[str, Any]:
    in_flight = _in_flight(case, contender)
    items = case.items_at(in_flight)
    settings = {
        "contender": contender.base,
        "cap": contender.cap,
        "items": items,
        "run": number,
        "seconds": seconds,
        "target": {
            "base_url": server.base_url,
            "model": "mock",
            # A key of its own: a server that is shared knows nothing of the runs before.
            "api_key": f"sk-benchmark-{number}-{zlib.crc32(contender.name.encode())}",
            "per_list": case.per_list,
            "in_flight": in_flight,
            "per_second": case.per_second,
            # A bucket of one would hold it to a request for each look at the clock, where no rate is limited.
            "bucket": in_flight if case.at_random else 1,
        },
    }
    before = server.counts()
    result = run_worker("studies.refusals", settings, seconds=seconds + _MARGIN, core=None)
    seen = server.counts().since(before)
    if result["lost"] is None:
        result["lost"] = max(0, items - seen.answered * max(1, case.per_list))
    at_once = items if contender.cap in {"none", "auto"} else in_flight
    return {
        **result,
        "run": number,
        "sent": seen.sent,
        "refused": 100 * seen.refused / max(1, seen.sent),
        "in_waits": seen.in_waits,
        **_against_ideals(case, _texts(items, number), at_once, result, seen),
    }


def _against_ideals(
    case: Case, texts: Sequence[str], in_flight: int, result: Mapping[str, Any], seen: Counts
) -> dict[str, float | None]:
    """Return the time as multiples of the ideals; None for a run that gave items up, and so ended sooner."""
    if result["ended"] and result["lost"]:
        return {"ideal": None, "waited": None}
    requests, wall = case.requests(texts), result["wall"]
    ideal = case.ideal(requests, in_flight)
    waited = case.waited(requests, in_flight, seen.quiet) if case.at_random else 0
    return {"ideal": wall / ideal if ideal else None, "waited": wall / waited if waited else None}


def _row(contender: Contender, results: Sequence[Mapping[str, Any]], seconds: float) -> Row:
    if missing := _missing(contender):
        return Row(contender.name, "asyncio", note=missing)
    notes = Counter[str]()
    for result in results:
        notes.update([f"failed: {result['failed']}"] if "failed" in result else [])
    good = [result for result in results if "failed" not in result]
    figures = {
        column.key: Series(tuple(values))
        for column in COLUMNS
        if (values := [result[column.key] for result in good if result[column.key] is not None])
    }
    late = sum(not result["ended"] for result in good)
    if late:
        notes[f"did not end in {seconds:g} s: {late} of {len(good)} runs"] += 1
    for result in good:
        notes.update(result["errors"])
    said = [text if count == 1 else f"{count}x {text}" for text, count in notes.most_common(3)]
    return Row(contender.name, "asyncio", figures, "; ".join(said))


def work(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Have one of them ask once; see `isolation.run_worker`."""
    contender = named(settings["contender"], settings["cap"])
    texts = _texts(settings["items"], settings["run"])
    return asyncio.run(_ask(contender, Target(**settings["target"]), texts, settings["seconds"]))


async def _ask(contender: Contender, target: Target, texts: Sequence[str], seconds: float) -> dict[str, Any]:
    async with contender.open(target) as ask:
        with stopwatch() as sample:
            try:
                outcomes = await asyncio.wait_for(ask(texts), seconds)
            except TimeoutError:
                outcomes = None
    if outcomes is None:
        return {"lost": None, "wall": seconds, "ended": False, "errors": {}}
    errors = Counter(_kind(outcome, text, target) for outcome, text in zip(outcomes, texts, strict=True))
    del errors[""]
    return {"lost": errors.total(), "wall": sample.wall, "ended": True, "errors": dict(errors)}


def _kind(outcome: Any, text: str, target: Target) -> str:
    """Return what is wrong with an outcome; empty if nothing is."""
    if isinstance(outcome, BaseException):
        return type(outcome).__name__
    if target.per_list:
        return "" if len(outcome) else "no vector"
    content = getattr(outcome, "content", outcome)
    return "" if content == f"about {text}" else "another answer"


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure parts of the suite, with other caps and as often as wanted."""
    from rich.console import Console

    options = _parse(arguments)
    if options.render:
        print(f"wrote {render()}", file=sys.stderr)
        return 0
    progress = Console(stderr=True, style="dim", highlight=False)
    console, machine, tables = Console(width=180), describe(), list[Table]()
    report.show_machine(console, machine)
    for table in measure(
        quick=False,
        tell=lambda what: progress.print(what, soft_wrap=True),
        only=options.cases,
        contenders=_chosen(options.caps, options.only),
        runs=options.runs,
        seconds=options.seconds,
        budget=options.budget,
        jobs=options.jobs,
        lists=options.lists,
    ):
        report.show_table(console, "refusals", table)
        tables.append(table)
        if options.json is not None:
            report.write_json(options.json, machine, {"refusals": tables}, [])
        if options.keep:
            refusals_kept.keep("sockets", table, refusals_kept.run_of(__spec__.name, arguments, machine))
            render()
    return 0


def _chosen(caps: Sequence[str], words: Sequence[str]) -> list[Contender]:
    """Return the contenders whose name has one of the words, at these caps if there are any."""
    asking = list(CONTENDERS)
    if caps:
        bases = [one for one in CONTENDERS if not one.cap]
        asking = [at_cap(base, cap) for base in bases for cap in caps if cap.isdigit() or base.base == _OWN]
    return [one for one in asking if any(word.lower() in one.name.lower() for word in words)]


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    keys = [case.key for case in cases()]
    parser = argparse.ArgumentParser(prog="python -m benchmarks.studies.refusals", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("cases", nargs="*", metavar="CASE", help=", ".join(keys))
    parser.add_argument(
        "--only", nargs="+", default=[""], metavar="WORD", help="contenders whose name has one of these"
    )
    parser.add_argument(
        "--caps",
        nargs="+",
        default=[],
        metavar="CAP",
        help="requests at once, in place of the case's: numbers, and for batchrt auto and none",
    )
    parser.add_argument("--lists", type=int, default=0, help="ask for embeddings, so many texts a request")
    parser.add_argument("--runs", type=int, default=RUNS, help="of each contender, %(default)s")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="after which a run is stopped")
    parser.add_argument(
        "--budget",
        type=float,
        default=math.inf,
        metavar="SECONDS",
        help="of all runs of a peer in a case, after which no further one begins",
    )
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results there too")
    parser.add_argument("--keep", action="store_true", help="replace the results, and render the page")
    parser.add_argument("--render", action="store_true", help="write the page from the results as they are")
    options = parser.parse_args(arguments)
    if options.render and (options.cases or options.keep or options.json):
        given = [*options.cases, *(["--keep"] if options.keep else []), *(["--json"] if options.json else [])]
        parser.error(f"--render measures nothing: leave {', '.join(given)} out")
    if unknown := sorted(set(options.cases) - set(keys)):
        parser.error(f"no case {', '.join(unknown)}; there are {', '.join(keys)}")
    return options


if __name__ == "__main__":
    sys.exit(main())
