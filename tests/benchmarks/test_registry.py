"""Contenders and scenarios: pinned, described, and none left out."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from benchmarks.contenders.registry import CONTENDERS, find
from benchmarks.scenarios.protocol import Scenario, Tier
from benchmarks.scenarios.registry import SCENARIOS

ROOT = Path(__file__).parent.parent.parent


def test_registry_contenders_are_pinned() -> None:
    """Every distribution that is compared has one version in pyproject.toml."""
    groups = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["dependency-groups"]
    pins = {
        name.partition("==")[0].partition("[")[0]: "==" in name
        for name in [*groups["contenders"], *groups["contenders-full"]]
    }
    needed = {name for each in CONTENDERS for name in each.distributions} - {"batchrt"}
    assert needed == set(pins)
    assert all(pins.values())


def test_registry_contenders_say_how_they_are_used() -> None:
    """Keys are unique, and each contender has a sentence on its use and something to do."""
    assert len({each.key for each in CONTENDERS}) == len(CONTENDERS)
    for each in CONTENDERS:
        assert find(each.key) is each
        assert each.use.endswith(".")
        assert each.chat or each.embedding or each.steps


@pytest.mark.parametrize("tier", ["quick", "full"])
@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.key)
def test_registry_scenarios_leave_no_contender_out_silently(scenario: Scenario, tier: Tier) -> None:
    """A contender that is not installed, or has no such interface, has a row with a reason."""
    cases = scenario.cases(tier, CONTENDERS)
    assert cases
    for case in cases:
        shown = {turn.contender.key for turn in case.turns}
        assert "batchrt" in shown
        if scenario.key in {"chat", "embeddings", "rate-limits", "faults"}:
            assert {each.key for each in CONTENDERS if each.chat} <= shown
        assert all(bool(turn.contender.missing()) <= bool(turn.reason) for turn in case.turns)
        assert all(turn.rounds > 0 for turn in case.turns)


def test_registry_full_runs_reach_ten_million_items_and_ten_thousand_in_flight() -> None:
    """The scaling scenarios span the range that the page promises."""
    spans = {
        (each.key, tier): {int(case.key) for case in each.cases(tier, CONTENDERS)}
        for each in SCENARIOS
        for tier in ("quick", "full")
        if each.key in {"items", "in-flight"}
    }
    assert {100, 100_000} <= spans["items", "quick"]
    assert {100, 10_000_000} <= spans["items", "full"]
    assert {1, 10_000} <= spans["in-flight", "quick"]
