"""A stored ledger: the coordinator's state between two messages, as text in a file or on a server."""

from __future__ import annotations

import json
from typing import NamedTuple

from batchrt.limits.shared.coordinator import new_ledger
from batchrt.limits.shared.ledger import Ledger, WorkerRecord

__all__ = ["LoadedLedger", "load_ledger", "load_record", "text_of"]

_VERSION = 1
"""The version of the texts; those that were written before there was one are read as this one."""
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

    A text of another version, or one that cannot be read, is a lost state: the new one learns it again.

    Args:
        text: as `text_of` wrote it; `None` if there is none.
        now: the time on the store's clock.
        store: identifies one life of the store: with another one, the text may be older than the last
            message.
        ends: how many ends of leases the store has, if a part of the state may be lost.
        learns: whether leases may go on although there is no text.
    """
    found = None if text is None else _read(text)
    is_new = (
        found is None
        or found.store != store
        or now < found.at - _BACKWARDS
        or (ends is not None and ends != found.workers)
    )
    lost = text is not None
    ledger = new_ledger(now, learns=learns or lost) if found is None or is_new else found
    ledger.store = store
    now = max(now, ledger.at)
    ledger.advance(now)
    return LoadedLedger(ledger, now, is_new)


def _read(text: str | bytes) -> Ledger | None:
    try:
        state = json.loads(text)
        version = state.pop("version", _VERSION)
        return Ledger.of_state(state) if version == _VERSION else None
    except (ValueError, TypeError, KeyError, AttributeError):
        return None


def load_record(text: str | bytes | None) -> WorkerRecord | None:
    """Return the worker's record of a text."""
    return None if text is None else WorkerRecord.of_state(json.loads(text))


def text_of(state: Ledger | WorkerRecord) -> str:
    """Write a state as text."""
    written: object = (
        {**state.to_state(), "version": _VERSION} if isinstance(state, Ledger) else state.to_state()
    )
    return json.dumps(written, separators=(",", ":"))
