"""The page `docs/refusals.md`, rendered from the kept results of the refusals suite."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.pages.figures import Row, number
from benchmarks.pages.tables import FIRST_HEADING, table
from benchmarks.studies import refusals_kept
from benchmarks.studies.refusals_cases import cases

__all__ = ["contents", "render"]

_ROOT = Path(__file__).parent.parent.parent
_PAGE = "docs/refusals.md"
_OWN = "batchrt"
_MOST_TIME, _MOST_REFUSED, _MOST_BLIND, _LEAST_BLIND = 1.3, 10.0, 2.0, 95.0

_HEAD = """# Refusals, measured

This page is rendered from `benchmarks/results/refusals.json`. Each command below measures some cases,
replaces their results there, and renders the page. Edits of the page are lost. `benchmarks/README.md`
tells how to install the servers from other packages.

A 429 comes from a limit of requests in a time, from a limit of requests in flight, or from other users of
the key, and names a wait or not. Each server here refuses for one of these reasons; no client is told
which, and none of them but LangChain's limiter is told the limit. batchrt has its default policy. Each
cell is the median, followed in brackets by the worst run where it differs."""

_SOCKETS = """Each run has a server of its own, in another process, and runs take turns. Other work on
the machine adds to the times of all contenders, most to those that need the most CPU.

- "lost": items without an answer.
- "x ideal": time relative to the ideal of a client that knows the server. With a rate, the last request
  is admitted as soon as the rate allows; with a limit in flight, that many requests always are; at
  random, a refused request waits as asked, and no other does. It is left out for runs that lost items,
  which end sooner.
- "x ideal, waits kept": relative to the ideal of a client that sends no request of that key during a wait
  that a refusal named. batchrt keeps waits in this way, and the other clients do not: of a wait that one
  request was given, their other requests know nothing. Where a gateway refuses at random, that makes them
  faster.
- "sent in waits": requests that arrived during such a wait, as counted by the server.
- The openai SDK and aiohttp have a semaphore; LangChain has `InMemoryRateLimiter` at the rate the server
  can answer, and its two retries; aiohttp has tenacity's random exponential wait and six attempts.
- A peer is run once, and again until its runs have taken the seconds of `--budget`. A run is stopped
  after the seconds of `--seconds`: its time is a lower bound, and items without an answer until then
  count as lost."""

_REAL = """nginx and LiteLLM's proxy are in front of a small provider without limits; Infinity computes
embeddings of a small model. Contenders have the concurrency that the title names, where their
row has no cap. For LiteLLM and Infinity, whose speed is that of the machine, the ideal is the
time of aiohttp with as many requests at once as fit. A server without results has no table."""

_VIRTUAL = """In one process, on a virtual clock, against the mock provider, whose verdict the figures are.

- "x ideal": time relative to the least that the server's limits and latencies allow, named waits of
  random refusals included.
- "refused": leaves random refusals out.
- A seed determines random refusals, the jitter of retries, and the order of arrival.
- With one request at a time, a fifth of the requests is sent, and at least 60."""


def contents() -> dict[str, str]:
    """Return the page by its path below the root of the repository."""
    document = refusals_kept.read()
    order = [case.name for case in cases()]
    entries = sorted(document["sockets"], key=lambda entry: order.index(entry["case"]))
    real = {case.name for case in cases() if case.real}
    small = [entry for entry in entries if entry["case"] not in real]
    lines = [_HEAD, ""]
    lines += _sockets("Beside other clients", small, _SOCKETS)
    lines += _sockets("Servers of other packages", [one for one in entries if one["case"] in real], _REAL)
    lines += _virtual(document["virtual"])
    text = "\n".join(lines).rstrip()
    return {_PAGE: f"{text}\n"}


def render(root: Path = _ROOT) -> Path:
    """Write the page, and return its path below the root."""
    (root / _PAGE).write_text(contents()[_PAGE], encoding="utf-8")
    return Path(_PAGE)


def _sockets(title: str, entries: Sequence[Mapping[str, Any]], about: str) -> Iterator[str]:
    if not entries:
        return
    yield from (f"## {title}", "")
    yield from (about, "")
    yield from _runs(entries)
    for entry in entries:
        yield from (f"### {entry['case']}", "")
        yield from _socket_table(entry["rows"])
        if "load" in entry:
            yield from (f"Load average of the last five minutes of the case: {entry['load']:g}.", "")
        yield from _judged(entry["case"], entry["rows"])


def _runs(entries: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Yield each run's command, machine and versions, once for all tables of it."""
    runs = [
        run for entry in entries for run in (entry["run"], *(row.get("run") for row in entry["rows"])) if run
    ]
    for run in {str(run): run for run in runs}.values():
        machine = run["machine"]
        load = ", ".join(f"{value:g}" for value in machine["load"])
        named = {**machine["stack"], **run["peers"]}
        stack = ", ".join(f"{name} {version}" for name, version in named.items() if version)
        yield f"- {machine['date']}, `{run['command']}`, commit `{machine['commit']}`"
        cores = f"{machine['usable_cores']} cores, load before the run {load}"
        yield f"- {machine['cpu']}, {cores}; {machine['system']}"
        yield f"- {machine['python']}; {stack}"
    yield ""


def _socket_table(rows: Sequence[Row]) -> Iterator[str]:
    """Yield a table; columns in which every figure is 0 or missing are left out."""
    columns = [("lost", "lost", 0), ("ideal", "x ideal", 2), ("waited", "x ideal, waits kept", 2)]
    columns += [("refused", "refused %", 1), ("in_waits", "sent in waits", 0)]
    shown = [each for each in columns if each[0] != "waited" or _has_two_ideals(rows)]
    shown = [each for each in shown if each[0] in {"lost", "ideal", "refused"} or _any(rows, each[0])]
    lines = []
    for row in rows:
        label = f"{row['contender']} ({row['note']})" if row["note"] else row["contender"]
        runs = str(len(row["figures"].get("lost", ())))
        lines.append([label, runs, *(_cell(row, key, digits) for key, _, digits in shown)])
    yield from table([FIRST_HEADING, "runs", *(heading for _, heading, _ in shown)], lines)


def _any(rows: Sequence[Row], key: str) -> bool:
    return any(any(row["figures"].get(key, ())) for row in rows)


def _has_two_ideals(rows: Sequence[Row]) -> bool:
    """Whether refusals were random and named waits."""
    return _any(rows, "waited") and _any(rows, "in_waits")


def _cell(row: Row, key: str, digits: int) -> str:
    values = row["figures"].get(key)
    if not values:
        return "-"
    middle, worst = number(median(values), digits), number(max(values), digits)
    return middle if middle == worst else f"{middle} ({worst})"


def _judged(case: str, rows: Sequence[Row]) -> Iterator[str]:
    """Yield which of batchrt's rows miss a target in their worst run, and by what."""
    most_refused = math.inf if "random" in case else _MOST_BLIND if "in ms" in case else _MOST_REFUSED
    found = []
    for row in rows:
        missed = _missed(row, most_refused, "ideal") if row["contender"].partition(",")[0] == _OWN else []
        if missed:
            kept = ""
            if _has_two_ideals(rows) and row["figures"].get("waited"):
                kept = f" ({number(max(row['figures']['waited']), 2)} with waits kept)"
            found.append(f"{row['contender']}: {', '.join(missed)}{kept}")
    if found:
        yield from (f"Targets missed in the worst run: {'; '.join(found)}.", "")


def _missed(row: Row, most_refused: float, time: str) -> list[str]:
    figures = row["figures"]
    if not figures:
        return ["not measured"]
    missed = [f"{number(max(figures['lost']), 0)} lost"] if any(figures["lost"]) else []
    slowest = max(figures.get(time, (0.0,)))
    if slowest > _MOST_TIME:
        missed.append(f"{number(slowest, 2)} x ideal")
    if max(figures["refused"]) > most_refused:
        missed.append(f"{number(max(figures['refused']), 1)} % refused")
    return missed


def _virtual(entries: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Yield a table for each figure, its columns the caps, and what is missed."""
    if not entries:
        return
    yield from ("## In virtual time", "", _VIRTUAL, "")
    yield from _runs(entries)
    for kind in dict.fromkeys(entry["case"].partition(": ")[0] for entry in entries):
        of_kind = [entry for entry in entries if entry["case"].partition(": ")[0] == kind]
        caps = list(dict.fromkeys(row["contender"] for entry in of_kind for row in entry["rows"]))
        runs = {len(values) for one in of_kind for row in one["rows"] for values in row["figures"].values()}
        seeds = " to ".join(map(str, sorted({min(runs), max(runs)})))
        yield from (f"### {kind.capitalize()}, {seeds} runs a cell", "")
        lost = sum(sum(row["figures"].get("lost", ())) for one in of_kind for row in one["rows"])
        yield from (f"Items lost, of all runs together: {number(lost, 0)}.", "")
        for key, heading, digits in (("slowness", "x ideal", 2), ("refused", "refused %", 1)):
            yield from table([heading, *caps], [_line(one, caps, key, digits) for one in of_kind])
        yield from _missed_cells(of_kind)


def _line(entry: Mapping[str, Any], caps: Sequence[str], key: str, digits: int) -> list[str]:
    rows = {row["contender"]: row for row in entry["rows"]}
    return [
        entry["case"].partition(": ")[2],
        *(_cell(rows[cap], key, digits) if cap in rows else "" for cap in caps),
    ]


def _missed_cells(entries: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    found = []
    for entry in entries:
        name = entry["case"].partition(": ")[2]
        blind = name.startswith("blind")
        for row in entry["rows"]:
            missed = _missed(row, _MOST_BLIND if blind else _MOST_REFUSED, "slowness")
            used = row["figures"].get("used")
            if blind and used and row["contender"] != "cap 1" and min(used) < _LEAST_BLIND:
                missed.append(f"{number(min(used), 1)} % of the quota used")
            if missed:
                found.append(f"{name}, {row['contender']}: {', '.join(missed)}")
    targets = "nothing lost, 1.3 x ideal, 10 % refused; blind: 2 % refused, 95 % of the quota used"
    yield from (
        f"Targets, for the worst run of each cell: {targets}. {'Missed:' if found else 'All are met.'}",
        "",
    )
    yield from (f"- {each}" for each in found)
    yield ""
