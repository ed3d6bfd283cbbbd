"""Virtual time on both kinds of event loop: waits take no time, and their order is as it would be."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from tests import virtual

__all__ = ["run_in_virtual_time"]


def run_in_virtual_time(backend: str, main: Callable[[], Awaitable[None]]) -> None:
    """Run `main` on asyncio or Trio; it must use no threads. Fails where it would hang."""
    virtual.run(main, backend=backend, longest=10_000)
