"""A provider that refuses and fails: rows lost, time, and requests sent."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.contenders.protocol import ChatTarget, Contender, question, rows
from benchmarks.contenders.registry import find
from benchmarks.harness.measuring import settle, stopwatch
from benchmarks.harness.mock_server import ServerProcess
from benchmarks.scenarios.chat import count_wrong
from benchmarks.scenarios.protocol import Case, Column, Scenario, Tier, Turn

__all__ = ["FAULTS", "RATE_LIMITS", "work"]

_IN_FLIGHT, _LATENCY = 50, 0.05
_PER_SECOND = 50
_ROUNDS = {"quick": 3, "full": 5}
_LIMITED, _FAULTY = {"quick": 300, "full": 2_000}, {"quick": 1_000, "full": 5_000}
_SIDE_BY_SIDE = 6
_GIVEN_UP = {"quick": 45, "full": 300}
"""Seconds."""
_FAULTS = {
    "server_error": 0.03,
    "bad_gateway": 0.02,
    "overloaded": 0.02,
    "drop_before_response": 0.02,
    "truncated_json": 0.01,
}
_COLUMNS = (
    Column("lost", "rows lost", 0, "least"),
    Column("wall", "wall s", 1, "least"),
    Column("ideal", "x ideal", 2, "least"),
    Column("sent", "requests/row", 2, "least"),
    Column("refused", "429s", 0),
    Column("cpu", "CPU µs/row", 0),
)


def _turns(tier: Tier, contenders: Sequence[Contender], settings: Mapping[str, Any]) -> list[Turn]:
    turns = []
    for contender in contenders:
        if contender.chat:
            reason = contender.missing()
            if tier == "quick" and contender.full_only:
                reason = "only in full runs"
            own = {**settings, "contender": contender.key}
            turns.append(Turn(contender, contender.name, own, _ROUNDS[tier], reason=reason))
    return turns


def _limited(tier: Tier, contenders: Sequence[Contender]) -> Sequence[Case]:
    items = _LIMITED[tier]
    ideal = (items - _PER_SECOND) / _PER_SECOND + _LATENCY
    limits = {"requests_per_minute": 60 * _PER_SECOND, "burst_seconds": 1, "headers": "none"}
    cases = []
    for key, per_second, told in (
        ("unknown", None, "not known to the client"),
        ("known", _PER_SECOND, "known to the client"),
    ):
        settings = {"items": items, "per_second": per_second, "ideal": ideal}
        cases.append(
            Case(
                key,
                f"{items:,} rows, {_PER_SECOND} requests a second admitted, {told}; {_IN_FLIGHT} in flight",
                _turns(tier, contenders, settings),
                server={"latency": _LATENCY, "rate_limits": limits},
                side_by_side=_SIDE_BY_SIDE,
                seconds=_GIVEN_UP[tier],
            )
        )
    return cases


def _faulty(tier: Tier, contenders: Sequence[Contender]) -> Sequence[Case]:
    items = _FAULTY[tier]
    settings = {"items": items, "per_second": None, "ideal": items / _IN_FLIGHT * _LATENCY}
    share = sum(_FAULTS.values())
    return [
        Case(
            "faults",
            f"{items:,} rows, {share:.0%} of all requests fail, {_IN_FLIGHT} in flight",
            _turns(tier, contenders, settings),
            server={"latency": _LATENCY, "faults": _FAULTS},
            side_by_side=_SIDE_BY_SIDE,
            seconds=_GIVEN_UP[tier],
        )
    ]


RATE_LIMITS = Scenario(
    "rate-limits",
    "Rate limits and 429s",
    "scenarios.trouble",
    "The server admits a steady rate from a bucket of one second, and answers further requests with 429 "
    "and `retry-after`. In the first case the client learns of the limit from these alone, in the "
    'second each contender that has an option for a rate is given it. "Ideal" is the time that the '
    "limit alone costs. Where rows were lost, time is no achievement, and it is not compared. These "
    "runs mostly wait, so several go side by side, each with a server of its own.",
    _COLUMNS,
    _limited,
    relative="",
    charts=("rate-limits",),
)
FAULTS = Scenario(
    "faults",
    "Faults",
    "scenarios.trouble",
    "One request in ten fails, repeated ones too: 500, 502, 503, a connection closed before the "
    'response, JSON that is cut off. Each contender has its default retries. "Ideal" is the time '
    "without faults; a first retry comes after half a second or more with most of them.",
    _COLUMNS,
    _faulty,
    relative="",
)


def work(settings: Mapping[str, Any]) -> dict[str, float]:
    """Measure one contender once; see `isolation.run_worker`."""
    return asyncio.run(_measure(settings))


async def _measure(settings: Mapping[str, Any]) -> dict[str, float]:
    contender = find(settings["contender"])
    assert contender.chat is not None
    inputs = rows(settings["items"])
    target = ChatTarget(settings["base_url"], _IN_FLIGHT, settings["per_second"])
    async with contender.chat(target) as ask:
        await ask([{"lemma": "warm", "gloss": "up"}])  # loads modules
        await asyncio.sleep(1.1)  # the bucket is full again
        ServerProcess(settings["base_url"]).reset()
        settle()
        with stopwatch() as sample:
            answers = await ask(inputs)
    return {
        "lost": count_wrong(answers, [question(row) for row in inputs]),
        "wall": sample.wall,
        "ideal": sample.wall / settings["ideal"],
        "cpu": sample.cpu / len(inputs) * 1e6,
    }
