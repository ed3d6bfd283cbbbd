"""The cases of the refusals suite: their sizes and ideals."""

from __future__ import annotations

import pytest

from benchmarks.studies import criteria, refusals_cases
from benchmarks.studies.refusals_cases import Case, cases

BY_KEY = {case.key: case for case in cases()}
RANDOM = [case for case in cases() if case.at_random]


def test_case_names_and_keys_are_unique() -> None:
    """The results are kept by name, and the command line chooses by key."""
    assert len({case.name for case in cases()}) == len(BY_KEY) == len(cases())


def test_cases_have_random_refusals_with_and_without_a_wait() -> None:
    """Three shares of each kind."""
    expected = {f"random-{share}{end}" for share in ("0.1", "2", "20") for end in ("", "-bare")}
    assert {case.key for case in RANDOM} == expected


@pytest.mark.parametrize("case", RANDOM, ids=lambda case: case.key)
def test_case_items_fall_with_a_small_cap_where_only_the_cap_limits(case: Case) -> None:
    """So that a run takes as long at each cap; the ideals do not differ by more than a tenth."""
    assert case.items_at(50) == case.items_at(500) == case.items
    assert case.items_at(8) < case.items
    ideals = [case.waited([str(n) for n in range(case.items_at(cap))], cap, 0) for cap in (8, 50, 500)]
    assert ideals[1] == ideals[2]
    assert ideals[0] == pytest.approx(ideals[1], rel=0.6)
    assert BY_KEY["rate"].items_at(8) == BY_KEY["rate"].items


def test_case_ideals_of_random_refusals(monkeypatch: pytest.MonkeyPatch) -> None:
    """A refused request waits alone; where waits are kept, so do all others."""
    monkeypatch.setattr(
        refusals_cases, "chance", lambda _, text, tries: 0.0 if (text, tries) == ("0", 1) else 1.0
    )
    case, texts = BY_KEY["random-2"], [str(number) for number in range(8)]
    assert case.ideal(texts, 2) == pytest.approx(1.25), "three rounds of two beside it, and its own after 1 s"
    assert case.ideal(texts[:1], 2) == pytest.approx(1.25)
    assert BY_KEY["random-2-bare"].ideal(texts, 2) == pytest.approx(1.0)
    assert case.waited(texts, 2, 1.0) == pytest.approx(2.0)


def test_criteria_demand_each_case_of_the_suite() -> None:
    """No case is measured without a target."""
    demanded = {each.case for each in criteria.criteria() if each.suite == "refusals"}
    assert demanded == {case.name for case in cases()}
