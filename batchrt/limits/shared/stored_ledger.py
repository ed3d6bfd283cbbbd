"""A stored ledger: the coordinator's state between two messages, as text in a file or on a server."""

from __future__ import annotations

import json
from typing import NamedTuple

from batchrt.limits.shared.coordinator import new_ledger
from batchrt.limits.shared.ledger import Ledger, WorkerRecord

__all__ = ["LoadedLedger", "load_ledger", "load_record", "text_of"]

_BACKWARDS = 1.0
"""Seconds by which a clock may go back; more is a restart, or the clock was set."""


class LoadedLedger(NamedTuple):
    """A ledger that was advanced to the present.

    Attributes:
        ledger: the ledger.
        now: the time.
        is_new: whether it replaces a lost one, with whose workers' records it has nothing to do.
    """

    ledger: Ledger
    now: float
    is_new: bool


def load_ledger(
    text: str | bytes | None, now: float, *, store: str = "", ends: int | None = None, learns: bool
) -> LoadedLedger:
    """Return the ledger of a text, or a new one.

    Args:
        text: as `text_of` wrote it; `None` if there is none.
        now: the time on the store's clock.
        store: identifies one life of the store: with another one, the text may be older than the last
            message.
        ends: how many ends of leases the store has, if a part of the state may be lost.
        learns: whether leases may go on although there is no text.
    """
    if text is None:
        ledger, is_new = new_ledger(now, learns=learns), True
    else:
        ledger, is_new = Ledger.of_state(json.loads(text)), False
        is_whole = ends is None or ends == ledger.workers
        if ledger.store != store or now < ledger.at - _BACKWARDS or not is_whole:
            ledger, is_new = new_ledger(now, learns=True), True
    ledger.store = store
    now = max(now, ledger.at)
    ledger.advance(now)
    return LoadedLedger(ledger, now, is_new)


def load_record(text: str | bytes | None) -> WorkerRecord | None:
    """Return the worker's record of a text."""
    return None if text is None else WorkerRecord.of_state(json.loads(text))


def text_of(state: Ledger | WorkerRecord) -> str:
    """Write a state as text."""
    return json.dumps(state.to_state(), separators=(",", ":"))
