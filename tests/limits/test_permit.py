"""The permit: what it begins with, and how it is rejected."""

from __future__ import annotations

import math

import pytest

from batchrt.errors import OutageError
from batchrt.limits.permit import Permit, RequestAccount
from batchrt.runtime.event_loop import Signal
from tests.limits.quotas import BACKENDS, virtually


def attributes(account: RequestAccount) -> dict[str, object]:
    slots = (*RequestAccount.__slots__, *(Permit.__slots__ if isinstance(account, Permit) else ()))
    return {name: getattr(account, name) for name in slots}


def test_account_begins_with_nothing_charged() -> None:
    """And adds up what its request is expected to have."""
    account = RequestAccount()
    empty = {"input": 0.0, "output": 0.0, "most": None, "sent_at": 0.0, "counted": (0.0, 0.0, 0.0)}
    assert attributes(account) == empty
    account.input, account.output = 3.0, 4.0
    assert account.tokens == 7.0
    assert RequestAccount(5.0).most == 5.0


def test_permit_begins_as_a_first_attempt_without_patience() -> None:
    """Neither granted nor withdrawn, and of no run and no loop until it is asked for."""
    found = attributes(Permit(12))
    flags = {"again", "auto", "granted", "parallel", "probes", "withdrawn"}
    assert [name for name in flags if found.pop(name) is not False] == []
    nothing = {"error", "loop", "most", "reservation", "run", "signal"}
    assert [name for name in nothing if found.pop(name) is not None] == []
    assert found == {
        "answers": 1,
        "asked_at": 0.0,
        "beside": 0,
        "counted": (0.0, 0.0, 0.0),
        "held": 0.0,
        "input": 0.0,
        "longest_quiet": math.inf,
        "output": 0.0,
        "patience": 0.0,
        "sent_at": 0.0,
        "size": 12,
        "told": (),
        "verdict": 0,
    }


def test_permit_may_cost_the_most_of_each_of_its_answers() -> None:
    """None of it, if nothing says."""
    permit = Permit(1, answers=3, most=100.0, auto=True, longest_quiet=5.0, patience=2.0)
    assert permit.most == 300.0
    assert (permit.answers, permit.auto, permit.longest_quiet, permit.patience) == (3, True, 5.0, 2.0)
    assert Permit(1, answers=3).most is None


@pytest.mark.parametrize("backend", BACKENDS)
def test_permit_that_is_rejected_ends_its_wait(backend: str) -> None:
    """Whether or not anything waits for it yet."""
    error = OutageError("down", seconds=1.0)
    early = Permit(1)
    early.reject(error)
    assert early.withdrawn
    assert early.error is error

    async def main() -> None:
        permit = Permit(1)
        permit.signal = Signal()
        permit.reject(error)
        await permit.signal.wait()
        assert permit.error is error

    virtually(backend, main)
