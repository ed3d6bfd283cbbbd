"""Runnables that take lists: what their classes say becomes a `ListCall`."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Hashable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from batchrt.config import RunConfig, handed_config
from batchrt.runtime.lists import LINGER, MAX_LINGER, SHARED_LINGER, SHARED_MAX_LINGER, Limits, ListCall
from batchrt.runtime.microbatch import list_step
from batchrt.runtime.run import Step, Strand
from batchrt.runtime.sharing import shared
from batchrt.runtime.threads import call_in_thread

if TYPE_CHECKING:
    from batchrt.runnables.base import Runnable

__all__ = ["ListMethod", "native_step"]

ListMethod = Literal["abatch_native", "abatch", "batch"]


def native_step(runnable: Runnable[Any, Any], method: ListMethod, kwargs: Mapping[str, Any]) -> Step:
    """Return the step that sends the items which come to `runnable` to its list method.

    Raises:
        ValueError: for a bound that makes no sense.
    """
    identity = identity_of(runnable, method, kwargs)
    if runnable.share_lists:
        # Kept with the runnable: runs have nothing else in common.
        lists = runnable.__dict__.setdefault("_shared_lists", {})
        if identity not in lists:
            lists[identity] = shared(_list_call(runnable, method, kwargs))
        return list_step(lists[identity], identity)
    return list_step(_list_call(runnable, method, kwargs), identity)


def _list_call(runnable: Runnable[Any, Any], method: ListMethod, kwargs: Mapping[str, Any]) -> ListCall:
    function = getattr(runnable, method)
    call = _native_call if method == "abatch_native" else _override_call
    cost = getattr(runnable, "cost", None)
    sharing = runnable.share_lists
    return ListCall(
        name=f"{runnable.get_name()}.{method}",
        call=call(function, kwargs),
        limits=_limits_of(runnable),
        cost=None if cost is None else lambda pair: cost(pair[0]),
        configured=True,
        linger=_seconds(runnable, "linger", SHARED_LINGER if sharing else LINGER),
        max_linger=_seconds(runnable, "max_linger", SHARED_MAX_LINGER if sharing else MAX_LINGER),
    )


def identity_of(runnable: Runnable[Any, Any], method: str, kwargs: Mapping[str, Any]) -> Hashable:
    """Say which steps may share their lists: those of one runnable with the same bound to it."""
    bound = frozenset((name, type(value), _key_of(value)) for name, value in kwargs.items())
    return (id(runnable), method, bound)


def _key_of(value: object) -> Hashable:
    try:
        hash(value)
    except TypeError:
        return id(value)  # which whoever makes the call keeps alive
    return value


def _native_call(function: Callable[..., Any], kwargs: Mapping[str, Any]) -> Any:
    takes_config = _takes(function, "config")

    def bound(pairs: Sequence[tuple[Any, RunConfig]]) -> Callable[[list[Any]], Any]:
        config = {"config": _configs(pairs)} if takes_config else {}
        return partial(function, **config, **kwargs)

    return _on_values(bound, is_async=inspect.iscoroutinefunction(function))


def _override_call(function: Callable[..., Any], kwargs: Mapping[str, Any]) -> Any:
    # LCEL's way to say which items of a list failed.
    options = {"return_exceptions": True} if _takes(function, "return_exceptions") else {}

    def bound(pairs: Sequence[tuple[Any, RunConfig]]) -> Callable[[list[Any]], Any]:
        return lambda values: function(values, _configs(pairs), **options, **kwargs)

    return _on_values(bound, is_async=inspect.iscoroutinefunction(function))


def _on_values(
    bound: Callable[[Sequence[tuple[Any, RunConfig]]], Callable[[list[Any]], Any]], *, is_async: bool
) -> Any:
    async def call(pairs: list[tuple[Any, RunConfig]], strand: Strand) -> Any:
        values = [value for value, _ in pairs]
        if is_async:
            return await _without_awaitables(await bound(pairs)(values))
        function = bound(pairs)
        # A wrapper that is not async itself may return what its async function does.
        results = await call_in_thread(function, values, strand)
        return await _without_awaitables(await results if inspect.isawaitable(results) else results)

    return call


async def _without_awaitables(results: Any) -> Any:
    """Return a list's results with what is to be awaited among them awaited, one after the other."""
    if not isinstance(results, list | tuple) or not any(
        hasattr(kind, "__await__") for kind in set(map(type, results))
    ):
        return results
    outputs: list[Any] = []
    for result in results:
        try:
            outputs.append(await result if hasattr(type(result), "__await__") else result)
        except Exception as error:  # noqa: BLE001  this item's own
            outputs.append(error)
    return outputs


def _configs(pairs: Sequence[tuple[Any, RunConfig]]) -> RunConfig | list[RunConfig]:
    """Return the items' configuration, or, if they differ, one for each."""
    first = pairs[0][1]
    if all(config is first for _, config in pairs):
        return handed_config(first)
    return [handed_config(config) for _, config in pairs]


def _takes(function: Callable[..., Any], name: str) -> bool:
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return False
    return any(parameter.name == name or parameter.kind is parameter.VAR_KEYWORD for parameter in parameters)


def _limits_of(runnable: Runnable[Any, Any]) -> Callable[[], Limits]:
    def limits() -> Limits:
        # Asked anew each time: a runnable may learn what its server takes.
        return Limits(runnable.max_batch_size, runnable.max_batch_cost)

    size, cost = limits()
    if size is not None and (isinstance(size, bool) or not isinstance(size, int) or size < 1):
        raise ValueError(f"max_batch_size of {runnable.get_name()} must be at least 1, or None, not {size!r}")
    if cost is not None and not cost > 0:
        raise ValueError(
            f"max_batch_cost of {runnable.get_name()} must be more than 0, or None, not {cost!r}"
        )
    return limits


def _seconds(runnable: Runnable[Any, Any], name: str, default: float) -> float:
    seconds = getattr(runnable, name, None)
    if seconds is None:
        return default
    if not seconds >= 0:
        raise ValueError(f"{name} of {runnable.get_name()} must be 0 seconds or more, not {seconds!r}")
    return float(seconds)
