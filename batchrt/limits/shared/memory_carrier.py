"""A carrier within one process: for several quotas of one process, and for tests in virtual time."""

from __future__ import annotations

import threading

import anyio.lowlevel

from batchrt.limits.shared.coordinator import Coordinator
from batchrt.limits.shared.lease_messages import LeaseReply, LeaseRequest
from batchrt.runtime.clock import common_offset

__all__ = ["MemoryCarrier"]


class MemoryCarrier:
    """Exchange lease messages with a coordinator in the same process.

    Args:
        coordinator: the coordinator; a new one by default.
    """

    def __init__(self, coordinator: Coordinator | None = None) -> None:
        self.name: str = "the memory of this process"
        self._coordinator = Coordinator() if coordinator is None else coordinator
        self._lock = threading.Lock()

    async def exchange(self, key: str, request: LeaseRequest) -> LeaseReply:
        """Let the coordinator handle `request`; see `Carrier`."""
        await anyio.lowlevel.checkpoint()
        now = anyio.current_time() + common_offset()
        with self._lock:
            return self._coordinator.exchange(key, request, now)
