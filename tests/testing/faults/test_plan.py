from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchrt.testing import Fault, FaultLike, FaultPlan, TunedFault
from batchrt.testing.faults.list_defects import DEFECTS


def outcomes(plan: FaultPlan, digest: int, attempts: int) -> list[TunedFault | None]:
    """Draw the faults of repeated attempts of one body."""
    met: list[TunedFault | None] = []
    in_a_row = 0
    for attempt in range(1, attempts + 1):
        fault = plan.drawn(digest, attempt, in_a_row)
        in_a_row = in_a_row + 1 if fault else 0
        met.append(fault)
    return met


def test_fault_plan_keeps_its_rates() -> None:
    """Each fault meets about its share of the requests."""
    plan = FaultPlan({Fault.SERVER_ERROR: 0.05, Fault.STALL: 0.02}, seed=3)
    met = Counter(plan.drawn(digest, 1, 0) for digest in range(20_000))
    assert met[Fault.SERVER_ERROR()] == pytest.approx(1000, rel=0.15)
    assert met[Fault.STALL()] == pytest.approx(400, rel=0.2)


def test_fault_plan_is_deterministic_for_a_seed() -> None:
    """Two equal plans choose alike; another seed chooses otherwise."""
    plan, twin, other = (FaultPlan.everything(0.5, seed=seed) for seed in (1, 1, 2))
    chosen = [plan.drawn(digest, 1, 0) for digest in range(200)]
    assert chosen == [twin.drawn(digest, 1, 0) for digest in range(200)]
    assert chosen != [other.drawn(digest, 1, 0) for digest in range(200)]


def test_fault_plan_draws_anew_for_a_retry() -> None:
    """The same body does not meet the same fault for ever."""
    plan = FaultPlan({Fault.SERVER_ERROR: 0.5}, max_consecutive=None)
    fates = {tuple(bool(fault) for fault in outcomes(plan, digest, 3)) for digest in range(200)}
    assert len(fates) == 8


@given(bound=st.integers(1, 5), digest=st.integers(0, 2**64 - 1))
def test_fault_plan_bounds_faults_in_a_row(bound: int, digest: int) -> None:
    """With `max_consecutive=k` at the latest the attempt after k faults is answered."""
    plan = FaultPlan({Fault.CONFLICT: 1.0}, max_consecutive=bound)
    met = [fault is not None for fault in outcomes(plan, digest, 3 * (bound + 1))]
    assert met == ([True] * bound + [False]) * 3


def test_fault_plan_may_be_unbounded() -> None:
    """With `max_consecutive=None` a rate of one never ends."""
    plan = FaultPlan({Fault.CONFLICT: 1.0}, max_consecutive=None)
    assert None not in outcomes(plan, 1, 50)


def test_fault_plan_everything_has_all_faults_without_a_size() -> None:
    """`everything` spreads its rate evenly over all faults that need no measure."""
    plan = FaultPlan.everything(0.1, stall_seconds=3)
    kinds = {fault.fault if isinstance(fault, TunedFault) else fault for fault in plan.rates}
    general = {fault for fault in Fault if not (fault.of_lists or fault.of_streams)}
    assert general - kinds == {Fault.OVERSIZED, Fault.GZIP_BOMB}
    assert kinds < general
    assert sum(plan.rates.values()) == pytest.approx(0.1)
    assert len(set(plan.rates.values())) == 1
    assert Fault.STALL(seconds=3) in plan.rates


def test_fault_plan_everything_has_list_faults_on_request() -> None:
    """With `lists=True` all of them, else none."""
    assert not any(fault.of_lists for fault in map(kind_of, FaultPlan.everything(0.1).rates))
    kinds = {kind_of(fault) for fault in FaultPlan.everything(0.1, lists=True, streams=True).rates}
    assert set(Fault) - kinds == {Fault.OVERSIZED, Fault.GZIP_BOMB}


def test_fault_plan_everything_has_stream_faults_on_request() -> None:
    """With `streams=True` all of them, else none."""
    assert not any(fault.of_streams for fault in map(kind_of, FaultPlan.everything(0.1).rates))
    plan = FaultPlan.everything(0.1, streams=True, stall_seconds=3)
    assert {kind_of(fault) for fault in plan.rates if kind_of(fault).of_streams} == {
        Fault.SILENCE,
        Fault.ERROR_EVENT,
    }
    assert Fault.SILENCE(seconds=3) in plan.rates


def kind_of(fault: FaultLike) -> Fault:
    return fault.fault if isinstance(fault, TunedFault) else fault


def test_fault_of_lists_matches_the_list_defects() -> None:
    """Both sets are the same."""
    assert {fault for fault in Fault if fault.of_lists} == set(DEFECTS)


def test_fault_plan_everything_may_be_retryable() -> None:
    """`permanent=False` leaves only faults that a retry may fix."""
    plan = FaultPlan.everything(0.1, permanent=False)
    assert all(fault.is_retryable for fault in plan.rates)
    assert Fault.INSUFFICIENT_QUOTA not in plan.rates


def test_fault_tells_whether_it_is_retryable() -> None:
    """So that a test knows whether an error is the right outcome."""
    assert {fault for fault in Fault if not fault.is_retryable} == {
        Fault.INSUFFICIENT_QUOTA,
        Fault.CONTEXT_LENGTH,
        Fault.BAD_PARAMETER,
        Fault.UNAUTHORIZED,
        Fault.REJECTED_LIST,
        Fault.REJECTED_BASE64,
    }
    assert Fault.STALL(seconds=1).is_retryable
    assert not Fault.UNAUTHORIZED().is_retryable


def test_fault_plan_script_takes_bare_and_tuned_faults() -> None:
    """The request at a position gets the script's fault."""
    plan = FaultPlan(script=[Fault.CONFLICT, None, Fault.STALL(seconds=2)])
    assert [plan.scripted(place) for place in range(3)] == [
        Fault.CONFLICT(),
        None,
        TunedFault(Fault.STALL, seconds=2),
    ]


def test_fault_is_found_by_its_value() -> None:
    """For command lines and logs."""
    assert Fault("slow_drip") is Fault.SLOW_DRIP
    assert all(fault.value == fault.name.lower() for fault in Fault)


def test_fault_rejects_a_measure_that_does_not_apply() -> None:
    """And so is a missing size."""
    with pytest.raises(ValueError, match="takes no seconds"):
        Fault.SERVER_ERROR(seconds=1)
    with pytest.raises(ValueError, match="takes no size"):
        Fault.STALL(size=1)
    with pytest.raises(ValueError, match="negative"):
        Fault.STALL(seconds=-1)
    with pytest.raises(ValueError, match="say how large"):
        FaultPlan({Fault.GZIP_BOMB: 0.1})


def test_fault_plan_rejects_invalid_rates() -> None:
    """Shares are between 0 and 1, together as well."""
    with pytest.raises(ValueError, match="from 0 to 1"):
        FaultPlan({Fault.CONFLICT: -0.1})
    with pytest.raises(ValueError, match=r"add up to 1\.2"):
        FaultPlan({Fault.CONFLICT: 0.6, Fault.STALL: 0.6})
    with pytest.raises(ValueError, match="max_consecutive"):
        FaultPlan(max_consecutive=0)


def test_fault_plan_is_independent_of_its_arguments() -> None:
    """The caller's dict and list stay the caller's."""
    rates, script = {Fault.CONFLICT: 0.1}, [Fault.STALL]
    plan = FaultPlan(rates, script)
    rates.clear()
    script.clear()
    assert plan.rates == {Fault.CONFLICT: 0.1}
    assert len(plan.script) == 1
