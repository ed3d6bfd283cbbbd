"""Row workers: actors that are handed rows of a file, and hand back each outcome as soon as there is one."""

from __future__ import annotations

import pickle
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final, TypeAlias, cast

from batchrt.config import RunConfig
from batchrt.integrations.ray.row_run import RowRun
from batchrt.integrations.ray.run_share import RunCarrier, RunShare
from batchrt.limits.registry import share_quotas
from batchrt.runtime.outcome import Outcome

if TYPE_CHECKING:
    from batchrt.runnables.base import Runnable

__all__ = ["Numbered", "RowWorker", "Settled"]

Numbered: TypeAlias = "Sequence[tuple[int, Any]]"
"""Rows, each with a number that its outcome comes back with."""
Settled: TypeAlias = "list[tuple[int, Outcome[Any]]]"
"""Outcomes with the numbers of their rows."""

_LINGER: Final = 0.02
"""Seconds for which outcomes wait for others to be handed back with: a message costs some milliseconds."""


class RowWorker:
    """Run a chain on rows that are handed in at any time; its methods are called by several threads.

    Args:
        chain: the chain's pickle.
        config: of the run; `max_concurrency` is that of all workers together.
        carrier: of the messages by which workers share quotas and slots; `None` for a worker that shares
            none.
        run: tells runs apart that use the same carrier.
    """

    def __init__(self, chain: bytes, config: RunConfig, carrier: RunCarrier | None, run: str) -> None:
        if carrier is not None:
            share_quotas(carrier)
        loaded = cast("Runnable[Any, Any]", pickle.loads(chain))  # noqa: S301  made by `start_workers`
        share = None if carrier is None else RunShare(carrier, run, config)
        self._run = RowRun(loaded, config, share)
        self._ready: Settled = []
        self._changed = threading.Condition()
        self._is_closed = False

    def ready(self) -> bool:
        """Return once the worker can take rows."""
        return True

    def put(self, rows: Numbered) -> None:
        """Take rows; their outcomes come from `take`."""
        numbers = [number for number, _ in rows]

        def ended(place: int, outcome: Outcome[Any]) -> None:
            with self._changed:
                self._ready.append((numbers[place], outcome))
                self._changed.notify()

        self._run.begin([value for _, value in rows], ended)

    def take(self) -> Settled:
        """Wait for outcomes and return all that there are; none once the worker is closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._ready or self._is_closed)
            self._changed.wait_for(lambda: self._is_closed, _LINGER)
            ready, self._ready = self._ready, []
        return ready

    def stop(self) -> None:
        """End gracefully: rows in flight are finished; those that wait, and later ones, are not started."""
        self._run.stop()

    def close(self) -> None:
        """End the run when its rows have ended, and the calls of `take`."""
        self._run.close()
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
