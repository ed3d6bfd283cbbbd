"""The regression check: ratios of two sides, and the exit code."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from benchmarks import against
from benchmarks.against import Comparison, Measurement, report
from benchmarks.harness.running import play

STEPS = Measurement("steps", "scenarios.steps", {"contender": "gather", "items": 50})


@pytest.mark.parametrize(
    ("ratios", "is_slower"),
    [
        ([1.2, 1.3, 1.2, 1.1], True),
        ([1.05, 1.06, 1.04, 1.05], False),
        ([0.8, 0.9, 1.3, 1.4, 0.7, 1.5, 1.2], False),
        ([0.5, 0.6], False),
    ],
    ids=["beyond the margin", "within it", "mostly noise", "faster"],
)
def test_against_calls_slower_beyond_the_margin(ratios: Sequence[float], is_slower: bool) -> None:
    """The median is beyond the margin, and three quarters of the rounds point the same way."""
    assert Comparison("steps", ratios).is_slower is is_slower


def test_against_reports_ratios_with_their_spread() -> None:
    """Each measurement has a line; the last one sums up."""
    lines = list(report("HEAD", [Comparison("a", [1.5, 1.4, 1.6]), Comparison("b", [1.0, 0.9, 1.1])]))
    assert "1.500 (1.400-1.600)  SLOWER" in lines[1]
    assert lines[2].endswith("1.000 (0.900-1.100)")
    assert lines[3] == "1 of 2 slower by more than 10%"


@pytest.mark.parametrize("factor", [1.0, 3.0], ids=["equal", "slower"])
def test_against_measures_both_sides_in_turns(
    factor: float, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The commit and the checkout alternate, and a slower checkout is exit code 1."""
    played: list[str] = []

    def play_one(*_: object, python: str, **__: object) -> dict[str, float]:
        played.append(python)
        return {"cpu": factor if python.endswith("newer") else 1.0}

    monkeypatch.setattr(against, "play", play_one)
    monkeypatch.setattr(against, "_environment", lambda _, folder: folder)
    monkeypatch.setattr(against, "_checkout", lambda _, folder: folder)
    code = against.compare("HEAD", tell=lambda _: None, measurements=[STEPS])
    assert code == (1 if factor > against.MARGIN else 0)
    assert f"{factor:.3f} ({factor:.3f}-{factor:.3f})" in capsys.readouterr().out
    names = [Path(python).name for python in played]
    assert names[:4] == ["newer", "older", "older", "newer"]


def test_against_side_is_measured_by_its_own_interpreter() -> None:
    """A side's `work` runs with the package that its interpreter has."""
    assert play(STEPS.module, STEPS.settings, None, seconds=60, python=sys.executable)["cpu"] > 0
