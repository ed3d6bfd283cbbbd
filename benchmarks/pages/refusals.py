"""The page `docs/refusals.md`, rendered from the kept results of the refusals suite."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.pages.figures import Row, number
from benchmarks.pages.tables import table
from benchmarks.studies import refusals_kept
from benchmarks.studies.refusals_cases import cases

__all__ = ["contents", "render"]

_ROOT = Path(__file__).parent.parent.parent
_PAGE = "docs/refusals.md"
_OWN, _OWN_CELLS = "batchrt", "cap "
_MOST_TIME, _MOST_REFUSED, _MOST_BLIND, _LEAST_BLIND = 1.3, 10.0, 2.0, 95.0

_HEAD = """# Refusals, measured

This page is rendered from `benchmarks/results/refusals.json` by the commands below, each of which replaces its own
cases in it. Edits of the page are lost. `benchmarks/README.md` says what the servers from other packages need.

A 429 may come from a rate, from a number of requests in flight, or from another user of the key; it may name a wait
or none. Each server here refuses for one of these reasons, and tells no client which. A cell is the median, with the
worst run in brackets where it differs. batchrt has its default policy, and no limit is given."""

_SOCKETS = """Each run is a process of its own with a server of its own, one at a time, and "refused" and "sent in waits" are the
server's counts. "Lost" are the items without an answer. "x ideal" is the time as a multiple of that of a client that
knows the server: with a rate, the last request is admitted when the rate has caught up with it; with a number in
flight, that many are always in flight; at random, a refused request waits as asked and no other does. A run that gave
items up ended sooner, so it has no "x ideal". In "waits kept", no request of the key is sent while a named wait
lasts, which is what batchrt promises; "sent in waits" counts those that were. Where refusals are random and name a
wait, a client that ignores it for its other requests is faster, and more polite servers punish it.

The openai SDK and aiohttp run under a semaphore, LangChain with `InMemoryRateLimiter` at the server's own rate and its
two retries, aiohttp with tenacity's random exponential waits and six attempts. batchrt is run five times; a peer once,
and again while its runs of a case took less than the command's budget. A run is stopped after the seconds in the
command: its time then is a lower bound."""

_VIRTUAL = """On a virtual clock in one process, against the mock provider, whose verdict is the judge. "x ideal" is the time as a
multiple of the least that the server's limits and latencies allow, with the waits that random refusals asked for.
"Refused" leaves random refusals out. The range of seeds covers refusals, jitter of retries and order of arrival. With
one request at a time a fifth of the requests is sent."""


def contents() -> dict[str, str]:
    """Return the page by its path below the root of the repository."""
    document = refusals_kept.read()
    order = [case.name for case in cases()]
    entries = sorted(document["sockets"], key=lambda entry: order.index(entry["case"]))
    real = {case.name for case in cases() if case.real}
    small = [entry for entry in entries if entry["case"] not in real]
    lines = [_HEAD, ""]
    lines += _sockets("Beside other clients", small, _SOCKETS)
    lines += _sockets("Servers of other packages", [one for one in entries if one["case"] in real], "")
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
    if about:
        yield from (about, "")
    yield from _runs(entries)
    for entry in entries:
        yield from (f"### {entry['case']}", "")
        yield from _socket_table(entry["rows"])
        yield from _judged(entry["rows"], at_random="random" in entry["case"])


def _runs(entries: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Yield each run's command, machine and versions, once for all tables of it."""
    for run in {str(entry["run"]): entry["run"] for entry in entries}.values():
        machine = run["machine"]
        load = ", ".join(f"{value:g}" for value in machine["load"])
        named = {**machine["stack"], **run["peers"]}
        stack = ", ".join(f"{name} {version}" for name, version in named.items() if version)
        yield f"- {machine['date']}, `{run['command']}`, commit `{machine['commit']}`"
        yield f"- {machine['cpu']}, {machine['usable_cores']} cores, load before the run {load}; {machine['system']}"
        yield f"- {machine['python']}; {stack}"
    yield ""


def _socket_table(rows: Sequence[Row]) -> Iterator[str]:
    """Yield a table; columns in which every figure is 0 or missing are left out."""
    columns = [("lost", "lost", 0), ("ideal", "x ideal", 2), ("waited", "x ideal, waits kept", 2)]
    columns += [("refused", "refused %", 1), ("in_waits", "sent in waits", 0)]
    shown = [each for each in columns if each[0] != "waited" or _is_told(rows)]
    shown = [each for each in shown if each[0] in {"lost", "ideal", "refused"} or _any(rows, each[0])]
    lines = []
    for row in rows:
        label = f"{row['contender']} ({row['note']})" if row["note"] else row["contender"]
        runs = str(len(row["figures"].get("lost", ())))
        lines.append([label, runs, *(_cell(row, key, digits) for key, _, digits in shown)])
    yield from table(["", "runs", *(heading for _, heading, _ in shown)], lines)


def _any(rows: Sequence[Row], key: str) -> bool:
    return any(any(row["figures"].get(key, ())) for row in rows)


def _is_told(rows: Sequence[Row]) -> bool:
    """Whether the two ideals differ: only named waits make them."""
    return any(row["figures"].get("in_waits") and any(row["figures"]["in_waits"]) for row in rows)


def _cell(row: Row, key: str, digits: int, *, least: bool = False) -> str:
    values = row["figures"].get(key)
    if not values:
        return "-"
    middle, worst = (
        number(value, digits) for value in (median(values), min(values) if least else max(values))
    )
    return middle if middle == worst else f"{middle} ({worst})"


def _judged(rows: Sequence[Row], *, at_random: bool) -> Iterator[str]:
    """Yield which of batchrt's rows miss a target in their worst run, and by what."""
    found = []
    for row in rows:
        if row["contender"].partition(",")[0] != _OWN:
            continue
        missed = _missed(row, _MOST_REFUSED if not at_random else 100.0, "ideal")
        if missed:
            waited = row["figures"].get("waited")
            kept = f" ({number(max(waited), 2)} with waits kept)" if waited and _is_told(rows) else ""
            found.append(f"{row['contender']}: {', '.join(missed)}{kept}")
    if found:
        yield from (f"Missed in the worst run: {'; '.join(found)}.", "")


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
            if blind and used and row["contender"] != f"{_OWN_CELLS}1" and min(used) < _LEAST_BLIND:
                missed.append(f"{number(min(used), 1)} % of the quota used")
            if missed:
                found.append(f"{name}, {row['contender']}: {', '.join(missed)}")
    targets = "1.3 x ideal, 10 % refused (blind: 2 %, and 95 % of the quota used), nothing lost"
    yield from (
        f"Targets, in every run: {targets}. Missed in the worst run:"
        if found
        else f"Targets met in every run: {targets}.",
        "",
    )
    yield from (f"- {each}" for each in found)
    if found:
        yield ""
