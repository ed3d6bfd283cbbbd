"""The holder of a slot, as limits see it: it gives its slot back before it waits for anything else."""

from __future__ import annotations

from typing import Protocol

__all__ = ["SlotHolder"]


class SlotHolder(Protocol):
    """Hold a slot, and be able to wait without it; a strand does."""

    def give(self) -> None:
        """Give the slot back."""

    def wait_throttled(self) -> None:
        """Give the slot back, to wait for something that more items could only delay, until `release`."""

    def release(self) -> None:
        """Record that the wait is over."""
