"""Native list methods: a `ListCall` built from the attributes and methods of a runnable's class."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Hashable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, cast
from weakref import WeakValueDictionary

from batchrt.batching.list_call import LINGER, MAX_LINGER, SHARED_LINGER, SHARED_MAX_LINGER, Limits, ListCall
from batchrt.batching.microbatch import list_step
from batchrt.batching.shared import shared
from batchrt.config import RunConfig, complete_config
from batchrt.runtime.step import Step
from batchrt.runtime.strand import Strand
from batchrt.runtime.threads import call_in_thread

if TYPE_CHECKING:
    from batchrt.runnables.base import Runnable

__all__ = ["ListMethod", "native_step"]

ListMethod = Literal["abatch_native", "abatch", "batch"]


def native_step(runnable: Runnable[Any, Any], method: ListMethod, kwargs: Mapping[str, Any]) -> Step:
    """Return the step that sends items to the list method of `runnable`.

    Raises:
        ValueError: a bound is invalid.
    """
    identity = identity_of(runnable, method, kwargs)
    if runnable.share_lists:
        # Kept with the runnable, which is all that the runs have in common, and only while a step uses it: a
        # service may bind other arguments with each request.
        lists = runnable.__dict__.setdefault("_shared_lists", WeakValueDictionary())
        call = lists.get(identity)
        if call is None:
            lists[identity] = call = shared(_list_call(runnable, method, kwargs))
        return list_step(call, identity)
    return list_step(_list_call(runnable, method, kwargs), identity)


def _list_call(runnable: Runnable[Any, Any], method: ListMethod, kwargs: Mapping[str, Any]) -> ListCall:
    function = getattr(runnable, method)
    call = _native_call if method == "abatch_native" else _override_call
    cost = getattr(runnable, "cost", None)
    sharing = runnable.share_lists
    bounds = _Bounds(runnable)
    return ListCall(
        name=f"{runnable.get_name()}.{method}",
        call=bounds.checked(call(function, kwargs)),
        limits=bounds,
        cost=None if cost is None else _checked_cost(cost, runnable.get_name()),
        configured=True,
        linger=_seconds(runnable, "linger", SHARED_LINGER if sharing else LINGER),
        max_linger=_seconds(runnable, "max_linger", SHARED_MAX_LINGER if sharing else MAX_LINGER),
    )


def identity_of(runnable: Runnable[Any, Any], method: str, kwargs: Mapping[str, Any]) -> Hashable:
    """Return the identity of steps that may share lists: one runnable with the same arguments bound to it."""
    bound = frozenset((name, _key_of(value)) for name, value in kwargs.items())
    return (id(runnable), method, bound)


class _Same:
    """Compare one object by identity, whatever its `__eq__`."""

    __slots__ = ("_value",)

    def __init__(self, value: object) -> None:
        self._value = value  # kept, or its id would be given to another

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and other._value is self._value

    def __hash__(self) -> int:
        return id(self._value)


def _key_of(value: object) -> Hashable:
    """Return keys that are equal for indistinguishable values alone.

    The values' own equality is not enough: two moments in different time zones are equal, and so are records
    that differ in a field which is not compared.
    """
    kind = type(value)
    if kind in (str, int, bool, bytes, type(None)):
        return (kind, value)
    if kind is float:
        return (kind, cast("float", value).hex())  # 0.0 and -0.0 are equal
    if kind is tuple:
        return (kind, tuple(map(_key_of, cast("tuple[object, ...]", value))))
    return _Same(value)


def _native_call(function: Callable[..., Any], kwargs: Mapping[str, Any]) -> Any:
    takes_config = _takes(function, "config")

    def bound(pairs: Sequence[tuple[Any, RunConfig]]) -> Callable[[list[Any]], Any]:
        config = {"config": _configs(pairs)} if takes_config else {}
        return partial(function, **config, **kwargs)

    return _on_values(bound, is_async=inspect.iscoroutinefunction(function))


def _override_call(function: Callable[..., Any], kwargs: Mapping[str, Any]) -> Any:
    # With it, LCEL's list methods say which items of a list failed.
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
        return await _without_awaitables(await call_in_thread(function, values, strand))

    return call


async def _without_awaitables(results: Any) -> Any:
    """Return a list's results, awaitables among them awaited one after the other."""
    if not isinstance(results, list | tuple) or not any(
        hasattr(kind, "__await__") for kind in set(map(type, results))
    ):
        return results
    outputs: list[Any] = []
    for result in results:
        try:
            outputs.append(await result if hasattr(type(result), "__await__") else result)
        except Exception as error:  # noqa: BLE001  this item's error
            outputs.append(error)
    return outputs


def _configs(pairs: Sequence[tuple[Any, RunConfig]]) -> RunConfig | list[RunConfig]:
    """Return the items' configuration, or, if they differ, one for each."""
    first = pairs[0][1]
    if all(config is first for _, config in pairs):
        return complete_config(first)
    return [complete_config(config) for _, config in pairs]


def _takes(function: Callable[..., Any], name: str) -> bool:
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return False
    return any(parameter.name == name or parameter.kind is parameter.VAR_KEYWORD for parameter in parameters)


class _Bounds:
    """Return the limits of a runnable's lists; read every time, for it may learn them from its server.

    They are read where an error would be that of the whole run. So the last valid limits stay in force, and
    the error is raised by the list call, for the items of the list.

    Raises:
        Exception: the bounds are invalid from the start.
    """

    __slots__ = ("_error", "_last", "_runnable")

    def __init__(self, runnable: Runnable[Any, Any]) -> None:
        self._runnable = runnable
        self._error: Exception | None = None
        self._last = self._read()

    def __call__(self) -> Limits:
        try:
            self._last = self._read()
        except Exception as error:  # noqa: BLE001  raised by the list call
            self._error = error
        else:
            self._error = None
        return self._last

    def checked(self, call: Any) -> Any:
        """Return `call` such that it raises the error of its list's bounds."""

        async def checked(values: list[Any], strand: Strand) -> Any:
            if self._error is not None:
                raise self._error
            return await call(values, strand)

        return checked

    def _read(self) -> Limits:
        runnable = self._runnable
        size: Any = runnable.max_batch_size
        cost: Any = runnable.max_batch_cost
        if size is not None and (isinstance(size, bool) or not isinstance(size, int) or size < 1):
            raise ValueError(
                f"max_batch_size of {runnable.get_name()} must be at least 1, or None, not {size!r}"
            )
        if cost is not None and not (hasattr(type(cost), "__float__") and cost > 0):
            raise ValueError(
                f"max_batch_cost of {runnable.get_name()} must be more than 0, or None, not {cost!r}"
            )
        return Limits(size, cost)


def _checked_cost(cost: Callable[[Any], Any], name: str) -> Callable[[Any], float]:
    def checked(pair: tuple[Any, RunConfig]) -> float:
        given = cost(pair[0])
        if type(given) is not float and not hasattr(type(given), "__float__"):
            raise TypeError(f"cost() of {name} must give a number, not {given!r}")
        value = float(given)
        if not value >= 0:
            raise ValueError(f"cost() of {name} must be 0 or more, not {given!r}")
        return value

    return checked


def _seconds(runnable: Runnable[Any, Any], name: str, default: float) -> float:
    seconds = getattr(runnable, name, None)
    if seconds is None:
        return default
    if not seconds >= 0:
        raise ValueError(f"{name} of {runnable.get_name()} must be 0 seconds or more, not {seconds!r}")
    return float(seconds)
