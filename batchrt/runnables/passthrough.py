"""Passthrough, assign and pick: the input itself, with fields added or selected."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping
from functools import partial
from typing import Any, TypeVar, cast

from batchrt.runnables.base import Configs, Method, Runnable, RunnableLike, coerce
from batchrt.runnables.chunk_sums import AddableDict, ChunkSum, Snapshot, snapshot_of
from batchrt.runnables.chunk_tee import ChunkTee
from batchrt.runnables.description import Description, inline, part
from batchrt.runnables.keywords import is_config_key
from batchrt.runnables.lambdas import RunnableLambda
from batchrt.runnables.parallel import RunnableParallel
from batchrt.runnables.streams import chunkwise, produced, transformed
from batchrt.runtime.side_stream import Closing, Put, SideStream, pour
from batchrt.runtime.step import Step
from batchrt.runtime.strand import Strand

__all__ = ["RunnableAssign", "RunnablePassthrough", "RunnablePick"]

T = TypeVar("T")


class RunnablePassthrough(Runnable[T, T]):
    """Return the input as the output; a function, if given, is called on it first and its result dropped.

    Args:
        func: sync, async, or a runnable.
        afunc: the async form of a sync `func`; then `func` serves `invoke` alone.
    """

    def __init__(
        self,
        func: RunnableLike[T, Any] | None = None,
        afunc: Callable[[T], Awaitable[Any]] | None = None,
    ) -> None:
        self.func: Runnable[T, Any] | None = _observer(func, afunc)

    @classmethod
    def assign(cls, **fields: RunnableLike[Any, Any]) -> RunnableAssign:  # type: ignore[override]
        """Return a runnable that adds `fields`, computed from it, to an input dict."""
        return RunnableAssign(fields)

    def _takes(self, keyword: str) -> bool:
        return self.func is not None and self.func._takes(keyword)

    def _prepare(
        self, kwargs: Mapping[str, Any], configs: Configs, method: Method | None = None
    ) -> tuple[Step, Configs]:
        if self.func is None:  # it ignores keyword arguments, as LCEL's does
            kwargs = {name: value for name, value in kwargs.items() if is_config_key(name)}
        return super()._prepare(kwargs, configs, method)

    def describe(self, kwargs: Mapping[str, Any] | None = None) -> Description:
        """Return what the outputs depend on; see `Runnable.describe`."""
        parts = () if self.func is None else self.func.describe(kwargs).parts
        return inline(parts, self._build(kwargs or {}))

    def _build(self, kwargs: Mapping[str, Any]) -> Step:
        if self.func is None:
            return Step(lambda value, _strand: value, inline=True, transform=lambda chunks, _strand: chunks)
        step = self.func._step(kwargs)

        async def call(value: Any, strand: Strand) -> Any:
            if step.inline:
                step.call(value, strand)
            else:
                await step.call(value, strand)
            return value

        async def transform(chunks: AsyncIterator[Any], strand: Strand) -> AsyncIterator[Any]:
            total = ChunkSum()
            async with Closing(chunks):
                async for chunk in chunks:
                    total.add(chunk)
                    yield chunk
            await call(total.value, strand)

        return Step.of(call, [step], direct=step.direct or step.inline, transform=transform)


class RunnableAssign(Runnable[Mapping[str, Any], dict[str, Any]]):
    """Take a dict and return it with added fields, computed from it concurrently."""

    def __init__(self, mapper: RunnableParallel[Any] | Mapping[str, RunnableLike[Any, Any]]) -> None:
        self.mapper: RunnableParallel[Any] = (
            mapper if isinstance(mapper, RunnableParallel) else RunnableParallel(mapper)
        )

    def __repr__(self) -> str:
        return f"RunnableAssign({self.mapper!r})"

    def _takes(self, keyword: str) -> bool:
        return self.mapper._takes(keyword)

    def describe(self, kwargs: Mapping[str, Any] | None = None) -> Description:
        """Return what the outputs depend on; see `Runnable.describe`."""
        whole = self.mapper.describe(kwargs)
        return inline(whole.parts, self._build(kwargs or {}), is_fixed=whole.is_fixed)

    def _build(self, kwargs: Mapping[str, Any]) -> Step:
        step, added = self.mapper._step(kwargs), frozenset(self.mapper.steps__)
        produce, transform = partial(_assign_produced, step, added), partial(_assign_transformed, step, added)
        if step.inline:
            return Step(
                lambda value, strand: {**_fields(value), **step.call(value, strand)},
                inline=True,
                produce=produce,
                transform=transform,
            )

        async def call(value: Any, strand: Strand) -> Any:
            return {**_fields(value), **(await step.call(value, strand))}

        return Step.of(call, [step], direct=step.direct, produce=produce, transform=transform)


class RunnablePick(Runnable[Mapping[str, Any], Any]):
    """Take a dict and return one key's value or, for a list of keys, the dict of those present."""

    def __init__(self, keys: str | list[str]) -> None:
        self.keys: str | list[str] = keys

    def __repr__(self) -> str:
        return f"RunnablePick({self.keys!r})"

    def _takes(self, keyword: str) -> bool:  # noqa: ARG002  it takes none
        return False

    def describe(self, kwargs: Mapping[str, Any] | None = None) -> Description:
        """Return what the outputs depend on; see `Runnable.describe`."""
        return inline([part("keys", self.keys)], self._build(kwargs or {}))

    def _build(self, kwargs: Mapping[str, Any]) -> Step:  # noqa: ARG002  there are none
        keys = self.keys
        if isinstance(keys, str):
            return Step(
                lambda value, _strand: _fields(value).get(keys),
                inline=True,
                transform=chunkwise(lambda chunk: _like(chunk, _fields(chunk).get(keys))),
            )

        def picked(value: Any) -> Any:
            return {key: value[key] for key in keys if key in _fields(value)}

        return Step(
            lambda value, _strand: picked(value),
            inline=True,
            transform=chunkwise(lambda chunk: _like(chunk, picked(chunk))),
        )


def _like(chunk: Any, part: Any) -> Any:
    """Return a part of a chunk as a chunk: it replaces those before it if the whole does."""
    return snapshot_of(part) if isinstance(chunk, Snapshot) else part


def _without(added: Collection[str], chunk: Any) -> Any:
    """Return the input's fields in a chunk that are not computed anew."""
    return AddableDict(
        {key: _like(chunk, value) for key, value in _fields(chunk).items() if key not in added}
    )


async def _assign_produced(
    step: Step, added: Collection[str], value: Any, strand: Strand
) -> AsyncIterator[Any]:
    yield _without(added, value)
    chunks = produced(step, value, strand)
    del value  # a waiting stream does not keep its input
    async with Closing(chunks):
        async for chunk in chunks:
            yield chunk


def _assign_transformed(
    step: Step, added: Collection[str], chunks: AsyncIterator[Any], strand: Strand
) -> AsyncIterator[Any]:
    """Yield the input's chunks at once, and those of the fields computed from it as they come."""
    if step.transform is None:
        return _assign_behind(step, added, chunks, strand)
    tee = ChunkTee(chunks, 2)
    own, others = tee.outlets

    async def fields(_strand: Strand, put: Put) -> None:
        await pour(chunkwise(partial(_without, added))(own, strand), put)

    async def computed(strand: Strand, put: Put) -> None:
        await pour(transformed(step, others, strand), put)

    return SideStream([tee.pump, fields, computed])


async def _assign_behind(
    step: Step, added: Collection[str], chunks: AsyncIterator[Any], strand: Strand
) -> AsyncIterator[Any]:
    """Do the same where the fields can only be computed from the whole input."""
    total = ChunkSum()
    async with Closing(chunks):
        async for chunk in chunks:
            total.add(chunk)
            yield _without(added, chunk)
        outputs = produced(step, _fields(total.value), strand)
        async with Closing(outputs):
            async for chunk in outputs:
                yield chunk


def _observer(func: Any, afunc: Any) -> Runnable[Any, Any] | None:
    if afunc is not None:
        return RunnableLambda(func or afunc, afunc if func else None)
    return None if func is None else coerce(func)


def _fields(value: Any) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise TypeError(f"assign and pick take a dict, not {type(value).__name__}")
    return cast("Mapping[str, Any]", value)
