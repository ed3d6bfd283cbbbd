"""RunnableLambda: a function as a step, and the decorator `chain`."""

from __future__ import annotations

import inspect
import operator
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextvars import copy_context
from functools import partial
from typing import Any, TypeAlias, TypeVar, cast, overload

from batchrt.config import DEFAULT_RECURSION_LIMIT, RunConfig, complete_config
from batchrt.errors import RecursionLimitError
from batchrt.runnables.awaitables import PLAIN_TYPES, resolve, resolve_without_loop
from batchrt.runnables.base import In, Out, Runnable
from batchrt.runnables.description import Description, code_part, inline
from batchrt.runnables.foreign import adopted
from batchrt.runnables.generator import (
    GeneratorFunction,
    generator_produce,
    is_generator_function,
    takes_config,
)
from batchrt.runnables.keywords import function_takes
from batchrt.runnables.streams import Once, configured, produced, total_call
from batchrt.runtime.side_stream import Closing
from batchrt.runtime.step import Produce, Step
from batchrt.runtime.strand import Strand
from batchrt.runtime.sync_callbacks import checked_sync
from batchrt.runtime.threads import call_in_thread

__all__ = ["RunnableLambda", "chain"]

T = TypeVar("T")
U = TypeVar("U")


class RunnableLambda(Runnable[In, Out]):
    """Run a function: an async one on the event loop, a sync one in a worker thread.

    A generator function takes the whole input as well; streamed, it gives its chunks, and else their sum (see
    `add_chunks`).

    The function takes the input, and the run's configuration if it has a parameter named `config`. A
    runnable that it returns is run on the same input, with `recursion_limit` one lower; an awaitable that
    it returns, as an async function behind a plain decorator does, is awaited.

    The function sees the caller's context variables, with the values that earlier async functions have set
    for this input. Values set by an async function are seen by later steps; values set by a sync one end
    with it, as in any thread, also where `invoke` runs it in the caller's thread.

    Args:
        func: sync or async.
        afunc: the async form of a sync `func`; then `func` serves `invoke` alone.
        name: for messages.
        inline: run the sync `func` on the event loop, without a slot, as prompts and parsers are: for
            functions that take microseconds, which a thread would cost tenfold.
    """

    @overload
    def __init__(
        self,
        func: Callable[[In], Iterator[Out]],
        afunc: Callable[[In], AsyncIterator[Out]] | None = ...,
        *,
        name: str | None = ...,
    ) -> None: ...
    @overload
    def __init__(
        self, func: Callable[[In], AsyncIterator[Out]], afunc: None = ..., *, name: str | None = ...
    ) -> None: ...
    @overload
    def __init__(
        self, func: Callable[[In], Runnable[Any, Out]], afunc: None = ..., *, name: str | None = ...
    ) -> None: ...
    @overload
    def __init__(
        self, func: Callable[[In], Awaitable[Out]], afunc: None = ..., *, name: str | None = ...
    ) -> None: ...
    @overload
    def __init__(
        self,
        func: Callable[[In], Out],
        afunc: Callable[[In], Awaitable[Out]] | None = ...,
        *,
        name: str | None = ...,
        inline: bool = ...,
    ) -> None: ...
    @overload
    def __init__(
        self, func: Callable[[In, RunConfig], Awaitable[Out]], afunc: None = ..., *, name: str | None = ...
    ) -> None: ...
    @overload
    def __init__(
        self, func: Callable[[In, RunConfig], Out], afunc: None = ..., *, name: str | None = ...
    ) -> None: ...
    @overload
    def __init__(
        self: RunnableLambda[Any, Any],
        func: Callable[..., Any],
        afunc: Callable[..., Any] | None = ...,
        *,
        name: str | None = ...,
        inline: bool = ...,
    ) -> None: ...
    def __init__(
        self,
        func: Callable[..., Any],
        afunc: Callable[..., Any] | None = None,
        *,
        name: str | None = None,
        inline: bool = False,
    ) -> None:
        for function in (func, afunc):
            _check_function(function)
        if inline and (afunc is not None or _is_async(func)):
            raise TypeError("inline is for a sync func: an async one runs on the event loop anyway")
        if afunc is not None and _is_async(func):
            raise TypeError("func is async itself: give it alone, or with a sync func the async one as afunc")
        self.func: Callable[..., Any] = func
        self.afunc: Callable[..., Awaitable[Any]] | None = func if _is_async(func) else afunc
        self.name: str | None = name or _name_of(func)
        self._inline = inline
        self._generates = is_generator_function(func if afunc is None else afunc)
        self._looks_up = self.afunc is None and isinstance(func, operator.itemgetter | operator.attrgetter)
        self._sync_takes_config = takes_config(func)
        self._async_takes_config = self.afunc is not None and takes_config(self.afunc)

    def _with_fields(self, values: Mapping[str, Any]) -> RunnableLambda[In, Out]:
        afunc = None if self.afunc is self.func else self.afunc
        own = {"func": self.func, "afunc": afunc, "name": self.name, "inline": self._inline}
        return RunnableLambda(**{**own, **values})

    @property
    def InputType(self) -> Any:  # noqa: N802  LCEL's name
        """The type of the function's parameter, by its annotation."""
        from batchrt.runnables.function_types import parameter_type

        return parameter_type(self.func)

    @property
    def OutputType(self) -> Any:  # noqa: N802  LCEL's name
        """The type of the function's result, by its annotation."""
        from batchrt.runnables.function_types import result_type

        return result_type(self.func)

    def __repr__(self) -> str:
        return self.get_name()

    def _takes(self, keyword: str) -> bool:
        return function_takes(
            (function for function in (self.func, self.afunc) if function is not None), keyword
        )

    def describe(self, kwargs: Mapping[str, Any] | None = None) -> Description:
        """Return what the outputs depend on; see `Runnable.describe`."""
        functions = (self.func, self.afunc, dict(kwargs or {}))
        return inline([code_part(f"function {self.get_name()}", functions)], self._build(kwargs or {}))

    def _build(self, kwargs: Mapping[str, Any]) -> Step:
        if self._looks_up:
            # A mere lookup, LCEL's idiom for a field: not worth a thread.
            lookup = self.func
            return Step(lambda value, _strand: lookup(value), inline=True)
        if self._inline:
            return self._inline_step(kwargs)
        if self._generates:
            generate = generator_produce(cast("GeneratorFunction", self.afunc or self.func), kwargs)
            return Step(total_call(generate), produce=generate)
        return self._call_step(kwargs, self._run_returned, partial(self._produced, kwargs))

    def _call_step(
        self, kwargs: Mapping[str, Any], run_returned: _RunReturned, produce: Produce | None = None
    ) -> Step:
        if self.afunc is not None:
            return self._async_step(self.afunc, kwargs, run_returned, produce)
        return self._sync_step(kwargs, run_returned, produce)

    async def _produced(self, kwargs: Mapping[str, Any], value: Any, strand: Strand) -> AsyncIterator[Any]:
        """Yield the output; or, if that is a runnable, the chunks of its output."""
        output = await self._call_step(kwargs, _unrun).call(value, strand)
        if type(output) is not _Returned:
            yield output
            return
        outer = strand.config
        inner = self._one_deeper(outer)
        run = partial(_produced_by, output.runnable._step(), value)
        del value  # a waiting stream does not keep its input
        chunks = configured(lambda _: inner, lambda _chunks, strand: run(strand))(Once(None), strand)
        async with Closing(chunks):
            async for chunk in chunks:
                yield chunk

    def invoke(self, input: In, config: RunConfig | None = None, **kwargs: Any) -> Out:  # noqa: A002
        """Return the function's output; if there are two forms, the sync one runs in this thread."""
        if self.afunc is not None and not _is_async(self.func):
            sync: RunnableLambda[In, Out] = RunnableLambda(self.func, name=self.name)
            return sync.invoke(input, config, **kwargs)
        return super().invoke(input, config, **kwargs)

    def _inline_step(self, kwargs: Mapping[str, Any]) -> Step:
        if self._sync_takes_config:
            raise TypeError(f"{self.get_name()} takes a config, and an inline function has none")
        function = partial(self.func, **kwargs) if kwargs else self.func

        def call(value: Any, _strand: Strand) -> Any:
            output = function(value)
            if type(output) in PLAIN_TYPES:
                return output
            if isinstance(output, Runnable):
                raise TypeError(
                    f"{self.get_name()} is inline and returned a runnable, which may have to wait"
                )
            return checked_sync(self.get_name(), output)

        return Step(call, inline=True)

    def _async_step(
        self,
        function: Callable[..., Any],
        kwargs: Mapping[str, Any],
        run_returned: _RunReturned,
        produce: Produce | None,
    ) -> Step:
        takes_config = self._async_takes_config
        plain = not takes_config and not kwargs

        async def call(value: Any, strand: Strand) -> Any:
            if not strand.has_slot:
                await strand.take()
            if plain:
                output = await function(value)
            elif takes_config:
                output = await function(value, config=complete_config(strand.config), **kwargs)
            else:
                output = await function(value, **kwargs)
            if type(output) in PLAIN_TYPES:
                return output
            if hasattr(type(output), "__await__"):
                output = await resolve(output)
            if (returned := _returned_runnable(output)) is not None:
                return await run_returned(returned, value, strand)
            return output

        return Step(call, produce=produce)

    def _sync_step(
        self, kwargs: Mapping[str, Any], run_returned: _RunReturned, produce: Produce | None
    ) -> Step:
        function = partial(self.func, **kwargs) if kwargs else self.func
        takes_config = self._sync_takes_config

        async def call(value: Any, strand: Strand) -> Any:
            bound = partial(function, config=complete_config(strand.config)) if takes_config else function
            direct = strand.run.direct
            if direct:
                output = copy_context().run(bound, value)  # as in a thread
            else:
                await strand.take()
                output = await call_in_thread(bound, value, strand)
            # An async function behind a decorator or lambda that is not async itself returns one.
            if hasattr(type(output), "__await__"):
                output = resolve_without_loop(output) if direct else await resolve(output)
            if (returned := _returned_runnable(output)) is not None:
                return await run_returned(returned, value, strand)
            return output

        return Step(call, direct=True, produce=produce)

    def _one_deeper(self, config: RunConfig) -> RunConfig:
        limit = config.get("recursion_limit", DEFAULT_RECURSION_LIMIT)
        if limit <= 0:
            raise RecursionLimitError(
                f"{self.get_name()} and the runnables it led to kept returning runnables, past the "
                "recursion_limit; raise it in the config if that is meant"
            )
        return cast("RunConfig", {**config, "recursion_limit": limit - 1})

    async def _run_returned(self, output: Runnable[Any, Any], value: Any, strand: Strand) -> Any:
        outer = strand.config
        strand.config = self._one_deeper(outer)
        try:
            step = output._step()
            if step.inline:
                return step.call(value, strand)
            if strand.run.direct and not step.direct:
                # This run has no event loop, and the step needs one.
                return output.invoke(value, {"recursion_limit": strand.config["recursion_limit"]})
            return await step.call(value, strand)
        finally:
            strand.config = outer


@overload
def chain(func: Callable[[T], Iterator[U]]) -> RunnableLambda[T, U]: ...
@overload
def chain(func: Callable[[T], AsyncIterator[U]]) -> RunnableLambda[T, U]: ...
@overload
def chain(func: Callable[[T], Runnable[Any, U]]) -> RunnableLambda[T, U]: ...
@overload
def chain(func: Callable[[T], Awaitable[U]]) -> RunnableLambda[T, U]: ...
@overload
def chain(func: Callable[[T], U]) -> RunnableLambda[T, U]: ...
@overload
def chain(func: Callable[[T, RunConfig], Awaitable[U]]) -> RunnableLambda[T, U]: ...
@overload
def chain(func: Callable[[T, RunConfig], U]) -> RunnableLambda[T, U]: ...
@overload
def chain(func: Callable[..., Any]) -> RunnableLambda[Any, Any]: ...
def chain(func: Callable[..., Any]) -> RunnableLambda[Any, Any]:
    """Turn a function, or a generator function of one input, into a runnable; LCEL's decorator."""
    return RunnableLambda(func)


def _check_function(function: object) -> None:
    if function is None:
        return
    if not callable(function) or isinstance(function, Runnable):
        raise TypeError(f"a function is needed, not {type(function).__name__}: {function!r}")


def _returned_runnable(output: object) -> Runnable[Any, Any] | None:
    """Return the runnable that a function returned, also one of another library; `None` if it is none."""
    if isinstance(output, Runnable):
        return output
    return adopted(output) if hasattr(type(output), "ainvoke") else None


def _is_async(function: object) -> bool:
    while isinstance(function, partial):
        function = function.func
    if inspect.isasyncgenfunction(function):
        return True
    call = getattr(function, "__call__", None)  # noqa: B004  the method itself is inspected
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(call)


class _Returned:
    """A runnable that a function returned, and that has not run."""

    __slots__ = ("runnable",)

    def __init__(self, runnable: Runnable[Any, Any]) -> None:
        self.runnable = runnable


_RunReturned: TypeAlias = "Callable[[Runnable[Any, Any], Any, Strand], Awaitable[Any]]"


async def _unrun(output: Runnable[Any, Any], _value: Any, _strand: Strand) -> _Returned:
    return _Returned(output)


def _produced_by(step: Step, value: Any, strand: Strand) -> AsyncIterator[Any]:
    return produced(step, value, strand)


def _name_of(function: object) -> str:
    while isinstance(function, partial):
        function = function.func
    return getattr(function, "__name__", type(function).__name__)
