"""Refusals as servers send them: is anything lost, and what do they cost?

`python -m benchmarks refusals` is the suite, `python -m benchmarks.studies.refusals [CASE …]` parts of it.
"""

from __future__ import annotations

import argparse
import asyncio
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
from benchmarks.studies.refusals_cases import Case, Server, cases
from benchmarks.studies.refusals_clients import CONTENDERS, Contender, Target, batchrt_at, knowing
from benchmarks.studies.results import Column, Row, Table

__all__ = ["COLUMNS", "main", "measure", "work"]

COLUMNS = (
    Column("lost", "lost", 0),
    Column("wall", "wall s"),
    Column("ideal", "x ideal", 2),
    Column("refused", "refused %", 1),
    Column("sent", "sent", 0),
)
RUNS = 5
SECONDS = 90.0
"""After which a run is stopped: it did not end."""
_MARGIN = 30
"""Seconds that a process may take for what is not measured."""


def measure(
    *,
    quick: bool,
    tell: Callable[[str], None],
    only: Sequence[str] = (),
    contenders: Sequence[Contender] = CONTENDERS,
    runs: int = RUNS,
    seconds: float = SECONDS,
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
        jobs: how many runs at a time. They wait more than they work; but so they are in each other's way.
        lists: ask for embeddings of so many texts in place of each chat.
    """
    if quick:
        runs, seconds = 1, min(seconds, 30)
    for case in cases():
        if not only or case.key in only:
            asked = case.in_lists(lists) if lists else case
            yield _measured(asked, contenders, tell, runs=runs, seconds=seconds, jobs=jobs)


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
    texts, in_flight = _texts(case.items, number), _in_flight(case, contender)
    if contender.cap in {"none", "auto"}:
        in_flight = case.items
    settings = {
        "contender": contender.name,
        "cap": contender.cap,
        "items": case.items,
        "run": number,
        "seconds": seconds,
        "target": {
            "base_url": server.base_url,
            "model": "mock",
            # A key of its own: a server that is shared knows nothing of the runs before.
            "api_key": f"sk-benchmark-{number}-{zlib.crc32(contender.name.encode())}",
            "per_list": case.per_list,
            "in_flight": int(contender.cap) if contender.cap.isdigit() else case.in_flight,
            "per_second": case.per_second,
        },
    }
    before = server.counts()
    result = run_worker("studies.refusals", settings, seconds=seconds + _MARGIN, core=None)
    after = server.counts()
    sent, refused = after.sent - before.sent, after.refused - before.refused
    if result["lost"] is None:
        answered = (after.answered - before.answered) * max(1, case.per_list)
        result["lost"] = max(0, case.items - answered)
    # Whoever gives some up is done the sooner.
    fair = not result["ended"] or not result["lost"]
    ideal = case.ideal(case.requests(texts), in_flight) if fair else 0
    return {
        **result,
        "run": number,
        "sent": sent,
        "refused": 100 * refused / max(1, sent),
        "ideal": result["wall"] / ideal if ideal else None,
    }


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
    contender = _contender(settings["contender"], settings["cap"])
    texts = _texts(settings["items"], settings["run"])
    return asyncio.run(_ask(contender, Target(**settings["target"]), texts, settings["seconds"]))


def _contender(name: str, cap: str) -> Contender:
    known = next((one for one in CONTENDERS if one.name == name), None)
    if known is not None:
        return known
    return batchrt_at(cap) if name.startswith("batchrt") else knowing(int(cap))


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
    """Measure parts of the suite, with other batchrt caps and as often as wanted."""
    from rich.console import Console

    from benchmarks.studies import report

    keys = [case.key for case in cases()]
    parser = argparse.ArgumentParser(prog="python -m benchmarks.studies.refusals")
    parser.add_argument("cases", nargs="*", metavar="CASE", help=", ".join(keys))
    parser.add_argument("--only", metavar="WORD", help="contenders whose name has this word")
    parser.add_argument(
        "--caps", nargs="*", default=[], metavar="CAP", help="for batchrt: a number, auto, none"
    )
    parser.add_argument("--lists", type=int, default=0, help="ask for embeddings, so many texts a request")
    parser.add_argument("--runs", type=int, default=RUNS)
    parser.add_argument("--seconds", type=float, default=SECONDS, help="after which a run is stopped")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time")
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args(arguments)
    if unknown := sorted(set(options.cases) - set(keys)):
        parser.error(f"no case {', '.join(unknown)}; there are {', '.join(keys)}")
    asking = [*CONTENDERS, *(batchrt_at(cap) for cap in options.caps if cap != "auto")]
    asking = [one for one in asking if not options.only or options.only.lower() in one.name.lower()]
    progress = Console(stderr=True, style="dim", highlight=False)
    console, machine, tables = Console(width=180), describe(), list[Table]()
    report.show_machine(console, machine)
    for table in measure(
        quick=False,
        tell=lambda what: progress.print(what, soft_wrap=True),
        only=options.cases,
        contenders=asking,
        runs=options.runs,
        seconds=options.seconds,
        jobs=options.jobs,
        lists=options.lists,
    ):
        report.show_table(console, "refusals", table)
        tables.append(table)
        if options.json is not None:
            report.write_json(options.json, machine, {"refusals": tables}, [])
    return 0


if __name__ == "__main__":
    sys.exit(main())
