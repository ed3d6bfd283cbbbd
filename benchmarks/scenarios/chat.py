"""Chat over loopback HTTP: the cost of a row through prompt, model and parser."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.contenders.protocol import ChatTarget, Contender, question, rows
from benchmarks.contenders.registry import find
from benchmarks.harness.measuring import peak_megabytes, settle, stopwatch
from benchmarks.harness.mock_server import SEED, ServerProcess
from benchmarks.scenarios.protocol import Case, Column, Scenario, Tier, Turn

__all__ = ["CHAT", "count_wrong", "run_on", "work"]

IN_FLIGHT = 100
_LATENCY = 0.025
_ITEMS, _ROUNDS = 10_000, {"quick": 3, "full": 5}


def _cases(tier: Tier, contenders: Sequence[Contender]) -> Sequence[Case]:
    turns = [
        _turn(tier, contender, loop) for contender in contenders if contender.chat for loop in contender.loops
    ]
    title = f"{_ITEMS:,} rows, {IN_FLIGHT} in flight, {_LATENCY * 1e3:g} ms latency"
    return [Case("chat", title, turns, server={"latency": _LATENCY}, seconds=120 if tier == "quick" else 900)]


def _turn(tier: Tier, contender: Contender, loop: str) -> Turn:
    items = contender.items_of("chat", _ITEMS) if tier == "quick" else _ITEMS
    label = contender.name if loop == "asyncio" else f"{contender.name}, {loop}"
    settings = {"contender": contender.key, "loop": loop, "items": items, "in_flight": IN_FLIGHT}
    note = "" if items == _ITEMS else f"{items:,} rows"
    reason = contender.missing()
    if tier == "quick" and contender.full_only:
        reason = "only in full runs"
    return Turn(contender, label, settings, _ROUNDS[tier], note, reason)


CHAT = Scenario(
    "chat",
    "Chat",
    "scenarios.chat",
    "A prompt is filled, sent, and the answer's text returned. The mock provider has core 0 and the "
    "contender core 1; connections are open when the clock starts. The mock's latency holds the rate at "
    "4,000 requests a second at most, so a fast client waits for it: CPU time is the cost, and rows a "
    "second are what one core achieves. Each answer is compared with the mock's own after the clock has "
    "stopped. A slow contender gets fewer rows in a quick run, as noted in its row. Memory is the peak "
    "of the whole process, imports included.",
    (
        Column("cpu", "CPU µs/row", 0, "least"),
        Column("rate", "rows/s", 0, "most"),
        Column("memory", "peak memory, MB", 0, "least"),
        Column("peak", "requests in flight", 0),
        Column("wrong", "wrong answers", 0),
    ),
    _cases,
    charts=("chat",),
)


def work(settings: Mapping[str, Any]) -> dict[str, float]:
    """Measure one contender once; see `isolation.run_worker`."""
    figures: dict[str, float] = run_on(settings["loop"], _measure(settings))
    return figures


def run_on(loop: str, main: Any) -> Any:
    """Run a coroutine on asyncio's own loop or on uvloop."""
    if loop == "asyncio":
        return asyncio.run(main)
    import uvloop

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(main)


async def _measure(settings: Mapping[str, Any]) -> dict[str, float]:
    contender, in_flight = find(settings["contender"]), settings["in_flight"]
    assert contender.chat is not None
    inputs = rows(settings["items"])
    async with contender.chat(ChatTarget(settings["base_url"], in_flight)) as ask:
        # As many requests as there are slots load modules and open all connections.
        await ask(rows(in_flight))
        ServerProcess(settings["base_url"]).reset()
        settle()
        with stopwatch() as sample:
            answers = await ask(inputs)
        memory = peak_megabytes()
    return {
        "cpu": sample.cpu / len(inputs) * 1e6,
        "rate": len(inputs) / sample.wall,
        "memory": memory,
        "wrong": count_wrong(answers, [question(row) for row in inputs]),
    }


def count_wrong(answers: Sequence[Any], questions: Sequence[str]) -> int:
    """Return how many answers are missing, are errors, or are not the mock's own."""
    from batchrt.testing import MockProvider

    provider = MockProvider(seed=SEED)
    pairs = zip(answers, questions, strict=False)
    right = sum(bool(answer == provider.answer_to(asked)) for answer, asked in pairs)
    return max(len(answers), len(questions)) - right
