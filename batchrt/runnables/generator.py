"""RunnableGenerator: a generator function that turns chunks of the input into chunks of the output."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from functools import partial
from typing import Any, TypeAlias, overload

from batchrt.config import complete_config
from batchrt.runnables.base import In, Out, Runnable
from batchrt.runnables.description import Description, code_part
from batchrt.runnables.generator_steps import (
    Bound,
    async_produce,
    async_transform,
    async_whole,
    sync_produce,
    sync_transform,
    sync_whole,
)
from batchrt.runnables.keywords import function_takes
from batchrt.runnables.streams import total_call
from batchrt.runtime.step import Produce, Step

__all__ = ["GeneratorFunction", "RunnableGenerator", "generator_produce", "is_generator_function"]

GeneratorFunction: TypeAlias = "Callable[..., Iterator[Any]] | Callable[..., AsyncIterator[Any]]"


class RunnableGenerator(Runnable[In, Out]):
    """Run a generator function over the chunks of the input; it yields chunks of the output.

    The function takes an iterator, `async` or not as itself, and may begin before the input is complete:
    `def shout(chunks: Iterator[str]) -> Iterator[str]`. In a chain the function may stand as it is. `ainvoke`
    and the batch methods give it the input as one chunk, and return the sum of the chunks that it yields
    (see `add_chunks`), `None` if there are none.

    An async generator runs on the event loop, a sync one in worker threads, one step at a time. It has a slot
    while it is asked for its next chunk. When the stream is closed or cancelled, so is the generator, and
    then the chunks that it reads.

    Args:
        transform: the generator function.
        atransform: the async form of a sync `transform`; then `transform` serves none of the methods.
        name: for messages.

    Raises:
        TypeError: for anything but generator functions.
    """

    @overload
    def __init__(
        self,
        transform: Callable[[Iterator[In]], Iterator[Out]],
        atransform: Callable[[AsyncIterator[In]], AsyncIterator[Out]] | None = ...,
        *,
        name: str | None = ...,
    ) -> None: ...
    @overload
    def __init__(
        self,
        transform: Callable[[AsyncIterator[In]], AsyncIterator[Out]],
        atransform: None = ...,
        *,
        name: str | None = ...,
    ) -> None: ...
    @overload
    def __init__(
        self: RunnableGenerator[Any, Any],
        transform: GeneratorFunction,
        atransform: Callable[..., AsyncIterator[Any]] | None = ...,
        *,
        name: str | None = ...,
    ) -> None: ...
    def __init__(
        self,
        transform: GeneratorFunction,
        atransform: Callable[..., AsyncIterator[Any]] | None = None,
        *,
        name: str | None = None,
    ) -> None:
        for function in (transform, atransform or transform):
            if not is_generator_function(function):
                raise TypeError(
                    f"a generator function is needed (with yield), not {type(function).__name__}: "
                    f"{function!r}; RunnableLambda takes others"
                )
        if atransform is not None and not _is_async(atransform):
            raise TypeError("atransform must be an async generator function; give a sync one as transform")
        self._function: GeneratorFunction = transform if atransform is None else atransform
        self.name: str | None = name or _name_of(transform)

    def __repr__(self) -> str:
        return f"RunnableGenerator({self.get_name()})"

    def _takes(self, keyword: str) -> bool:
        return function_takes((self._function,), keyword)

    def describe(self, kwargs: Mapping[str, Any] | None = None) -> Description:
        """Return what the outputs depend on; see `Runnable.describe`."""
        return Description((code_part(f"function {self.get_name()}", (self._function, dict(kwargs or {}))),))

    def _build(self, kwargs: Mapping[str, Any]) -> Step:
        function = _with_arguments(self._function, kwargs)
        if _is_async(self._function):
            whole, transform = partial(async_whole, function), partial(async_transform, function)
        else:
            whole, transform = partial(sync_whole, function), partial(sync_transform, function)
        return Step(total_call(whole), produce=whole, transform=transform)


def generator_produce(function: GeneratorFunction, kwargs: Mapping[str, Any]) -> Produce:
    """Return how a generator function of one complete input streams."""
    bound = _with_arguments(function, kwargs)
    return partial(async_produce if _is_async(function) else sync_produce, bound)


def _with_arguments(function: Callable[..., Any], kwargs: Mapping[str, Any]) -> Bound:
    if not takes_config(function):
        return lambda value, _strand: function(value, **kwargs)
    return lambda value, strand: function(value, config=complete_config(strand.config), **kwargs)


def takes_config(function: Callable[..., Any]) -> bool:
    """Whether a function is to be given the run's configuration: it has a second parameter `config`."""
    try:
        parameters = inspect.signature(function).parameters
    except (TypeError, ValueError):  # builtins have none
        return False
    parameter = parameters.get("config")
    if parameter is None or parameter.kind is parameter.POSITIONAL_ONLY:
        return False
    given = isinstance(function, partial) and "config" in function.keywords
    return next(iter(parameters)) != "config" and not given


def is_generator_function(function: object) -> bool:
    """Whether calls of `function`, or of its `__call__`, give a generator, sync or async."""
    function = _unwrapped(function)
    call = getattr(type(function), "__call__", None)  # noqa: B004  the method itself is inspected
    return any(
        inspect.isgeneratorfunction(each) or inspect.isasyncgenfunction(each) for each in (function, call)
    )


def _is_async(function: object) -> bool:
    function = _unwrapped(function)
    call = getattr(type(function), "__call__", None)  # noqa: B004  the method itself is inspected
    return inspect.isasyncgenfunction(function) or inspect.isasyncgenfunction(call)


def _unwrapped(function: object) -> object:
    while isinstance(function, partial):
        function = function.func
    return function


def _name_of(function: object) -> str:
    function = _unwrapped(function)
    return getattr(function, "__name__", type(function).__name__)
