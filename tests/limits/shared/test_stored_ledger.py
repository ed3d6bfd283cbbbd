"""The stored ledger: states of other versions."""

from __future__ import annotations

import json

import pytest

from batchrt.limits.shared.coordinator import new_ledger
from batchrt.limits.shared.ledger import LEASE_SECONDS
from batchrt.limits.shared.stored_ledger import load_ledger, text_of


def test_stored_ledger_reads_what_it_wrote() -> None:
    """The limits, the epoch and the time are those that were stored."""
    ledger = new_ledger(5.0, learns=False)
    ledger.given["requests_per_minute"] = 60.0
    ledger.set_timeline("requests_per_minute", 5.0)
    loaded = load_ledger(text_of(ledger), 6.0, learns=False)
    assert not loaded.is_new
    assert (loaded.ledger.epoch, loaded.ledger.given, loaded.ledger.at) == (ledger.epoch, ledger.given, 6.0)
    assert loaded.ledger.timelines["requests_per_minute"].rate == 1.0


def test_stored_ledger_reads_a_state_without_a_version() -> None:
    """A state that was written before states had versions goes on, with its leases."""
    ledger = new_ledger(5.0, learns=False)
    state = json.loads(text_of(ledger))
    del state["version"]
    loaded = load_ledger(json.dumps(state), 6.0, learns=False)
    assert not loaded.is_new
    assert loaded.ledger.epoch == ledger.epoch


@pytest.mark.parametrize("change", [{"version": 2}, {"version": None}, {"epoch": ...}])
def test_stored_ledger_is_rebuilt_where_it_cannot_be_read(change: dict[str, object]) -> None:
    """A state of a later version, or an incomplete one, is lost: it grants nothing for a lease."""
    state = json.loads(text_of(new_ledger(5.0, learns=False)))
    state |= change
    state = {name: value for name, value in state.items() if value is not ...}
    loaded = load_ledger(json.dumps(state), 6.0, learns=False)
    assert loaded.is_new
    assert loaded.ledger.learns_until == 6.0 + LEASE_SECONDS


@pytest.mark.parametrize("text", ["", "{", "[1]", b"\xff"])
def test_stored_ledger_is_rebuilt_from_a_text_that_is_none_of_its_own(text: str | bytes) -> None:
    """A damaged text does not end the quota: its workers tell what they hold."""
    loaded = load_ledger(text, 6.0, learns=False)
    assert loaded.is_new
    assert loaded.ledger.learns_until == 6.0 + LEASE_SECONDS
