"""The work that runtimes are compared on: next to nothing, so that it is they who are measured."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

__all__ = ["AsyncLeaf", "Body", "Shape", "Work", "expected", "leaf_for", "sync_leaf"]

AsyncLeaf: TypeAlias = Callable[[int], Awaitable[int]]
Body: TypeAlias = Literal["sleep(0)", "return x"]
Shape: TypeAlias = Literal["one step", "sequence of 3", "parallel of 3", "sync function"]


@dataclass(frozen=True, slots=True)
class Work:
    """Say what each item goes through, and how many at once; `None` for no bound."""

    shape: Shape
    body: Body
    in_flight: int | None


async def _return(x: int) -> int:
    return x


async def _sleep_asyncio(x: int) -> int:
    await asyncio.sleep(0)
    return x


async def _sleep_trio(x: int) -> int:
    import trio.lowlevel

    await trio.lowlevel.checkpoint()
    return x


def leaf_for(body: Body, loop: str) -> AsyncLeaf:
    """Return the step's function, written for its event loop."""
    if body == "return x":
        return _return
    return _sleep_trio if loop == "trio" else _sleep_asyncio


def sync_leaf(x: int) -> int:
    """Do what a sync step does."""
    return x


def expected(shape: Shape, x: int) -> Any:
    """Return the output that item `x` must have."""
    return {"a": x, "b": x, "c": x} if shape == "parallel of 3" else x
