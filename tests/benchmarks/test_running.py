"""Rounds of a scenario: contenders take turns, and a failure has a row."""

from __future__ import annotations

from dataclasses import replace

from benchmarks.contenders.protocol import Contender
from benchmarks.contenders.registry import find
from benchmarks.harness.running import run_scenario
from benchmarks.scenarios.protocol import Case, Turn
from benchmarks.scenarios.steps import STEPS
from benchmarks.scenarios.trouble import RATE_LIMITS

ABSENT = Contender("absent", "absent", ("no-such-distribution",), "Never.")


def steps_turn(contender: Contender, *, items: int = 50, rounds: int = 2, reason: str = "") -> Turn:
    return Turn(contender, contender.name, {"contender": contender.key, "items": items}, rounds, "", reason)


def test_running_takes_turns_in_another_order_each_round() -> None:
    """Each round begins with another contender, and each sample has all figures of the columns."""
    told: list[str] = []
    turns = [steps_turn(find("batchrt")), steps_turn(find("gather"))]
    result = run_scenario(STEPS, [Case("steps", "few items", turns)], told.append)
    assert [message.split(": ")[1].partition(",")[0] for message in told] == [
        "batchrt",
        "semaphore and gather",
        "semaphore and gather",
        "batchrt",
    ]
    for row in result["cases"][0]["rows"]:
        assert row["reason"] == ""
        assert {each.key for each in STEPS.columns} <= set(row["figures"])
        assert all(len(values) == 2 for values in row["figures"].values())


def test_running_reports_a_contender_that_fails() -> None:
    """A failed one is not measured again and keeps its row, and the others go on."""
    wrong = replace(find("gather"), key="unknown")
    turns = [steps_turn(wrong), steps_turn(find("gather")), steps_turn(ABSENT, reason=ABSENT.missing())]
    told: list[str] = []
    rows = run_scenario(STEPS, [Case("steps", "few items", turns)], told.append)["cases"][0]["rows"]
    assert rows[0]["reason"] == "KeyError: 'unknown'"
    assert rows[0]["figures"] == {}
    assert sum("round" in message for message in told) == 3
    assert len(rows[1]["figures"]["cpu"]) == 2
    assert rows[2]["reason"] == "not installed: no-such-distribution"


def test_running_gives_a_contender_up_that_is_too_slow() -> None:
    """The row says after how long."""
    case = Case("steps", "many items", [steps_turn(find("gather"), items=10**7)], seconds=0.5)
    (row,) = run_scenario(STEPS, [case], lambda _: None)["cases"][0]["rows"]
    assert row["reason"] == "not finished after 0.5 s"


def test_running_counts_the_requests_that_a_server_refused() -> None:
    """The server's own counts are in the row, beside the answers that were lost."""
    limits = {"requests_per_minute": 1_200, "burst_seconds": 0.5, "headers": "none"}
    settings = {"contender": "batchrt", "items": 30, "per_second": None, "ideal": 1.0}
    turn = Turn(find("batchrt"), "batchrt", settings, 1)
    server = {"latency": 0.01, "rate_limits": limits}
    case = Case("unknown", "a few rows", [turn], server=server, side_by_side=2)
    (row,) = run_scenario(RATE_LIMITS, [case], lambda _: None)["cases"][0]["rows"]
    assert row["reason"] == ""
    figures = row["figures"]
    assert figures["lost"] == [0]
    assert figures["refused"][0] > 0
    assert figures["requests"][0] == 30 + figures["refused"][0]
