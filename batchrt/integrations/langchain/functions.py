"""Functions of LangChain's runnables as steps: `RunnableLambda`, `RunnablePassthrough` with a function."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from functools import partial
from typing import Any, Final, TypeAlias

from langchain_core.callbacks import AsyncCallbackManagerForChainRun
from langchain_core.runnables import Runnable as LangChainRunnable
from langchain_core.runnables import RunnableLambda, RunnablePassthrough
from langchain_core.runnables.config import (
    RunnableConfig,
    acall_func_with_variable_args,
    call_func_with_variable_args,
    ensure_config,
    patch_config,
    set_config_context,
)

from batchrt.config import DEFAULT_RECURSION_LIMIT, RunConfig
from batchrt.integrations.langchain.tracing import (
    OpenRun,
    check_loop,
    langchain_config,
    with_config,
)
from batchrt.runnables.base import Runnable
from batchrt.runnables.keywords import function_takes
from batchrt.runnables.streams import Once, configured, produced
from batchrt.runtime.context import drive
from batchrt.runtime.side_stream import Closing
from batchrt.runtime.step import Step
from batchrt.runtime.strand import Strand
from batchrt.runtime.threads import call_in_thread

__all__ = ["Convert", "LangChainFunction", "LangChainObserver", "Returned"]

Convert: TypeAlias = "Callable[[Any], Runnable[Any, Any]]"
"""Returns a runnable of LangChain's as one of ours."""

_KEPT: Final = 64
"""Steps of runnables that functions returned: a function that routes returns one of a few."""


class Returned:
    """The steps of runnables that are known only when an item comes, converted once each.

    The runnables are kept too, or the id of one could be given to another.
    """

    def __init__(self, convert: Convert) -> None:
        self._convert = convert
        self._steps: dict[object, tuple[object, Step]] = {}

    def step(self, runnable: Any, key: object = None) -> Step:
        """Return the step of `runnable`, which `key` identifies if it is made anew for each item."""
        key = id(runnable) if key is None else key
        known = self._steps.get(key)
        if known is None:
            if len(self._steps) >= _KEPT:
                self._steps.clear()
            converted = runnable if isinstance(runnable, Runnable) else self._convert(runnable)
            known = self._steps[key] = (runnable, converted._step())
        return known[1]


class LangChainFunction(Runnable[Any, Any]):
    """Run the function of a LangChain `RunnableLambda`, on the event loop or in a thread.

    It gets `config` and `run_manager` if it has such parameters, and a runnable that it returns is run.
    """

    def __init__(self, source: RunnableLambda[Any, Any], convert: Convert) -> None:
        self.name: str | None = source.get_name()
        self.func: Callable[..., Any] | None = getattr(source, "func", None)
        self.afunc: Callable[..., Any] | None = getattr(source, "afunc", None)
        self._returned = Returned(convert)

    def _takes(self, keyword: str) -> bool:
        return function_takes((f for f in (self.func, self.afunc) if f is not None), keyword)

    def _build(self, kwargs: Mapping[str, Any]) -> Step:
        function = _function_call(self.func, self.afunc, kwargs)

        async def call(value: Any, strand: Strand) -> Any:
            run = _run_of(strand)
            config = ensure_config(langchain_config(strand.config))
            output = await function(value, strand, config, run)
            if isinstance(output, LangChainRunnable | Runnable):
                return await self._run_returned(output, value, strand, config)
            return output

        async def produce(value: Any, strand: Strand) -> AsyncIterator[Any]:
            run = _run_of(strand)
            config = ensure_config(langchain_config(strand.config))
            output = await function(value, strand, config, run)
            if not isinstance(output, LangChainRunnable | Runnable):
                yield output
                return
            inside, step = self._deeper(strand, config), self._returned.step(output)
            opened = configured(lambda _outer: inside, lambda _chunks, strand: produced(step, value, strand))
            outputs = opened(Once(None), strand)
            async with Closing(outputs):
                async for chunk in outputs:
                    yield chunk

        return Step(call, produce=produce)

    async def _run_returned(self, output: Any, value: Any, strand: Strand, config: RunnableConfig) -> Any:
        outer = strand.config
        strand.config = self._deeper(strand, config)
        try:
            return await self._returned.step(output).run(value, strand)
        finally:
            strand.config = outer

    def _deeper(self, strand: Strand, config: RunnableConfig) -> RunConfig:
        limit = config.get("recursion_limit", DEFAULT_RECURSION_LIMIT)
        if limit <= 0:
            raise RecursionError(  # LangChain's class for it
                f"{self.get_name()} and the runnables it led to kept returning runnables, past the "
                "recursion_limit; raise it in the config if that is meant"
            )
        return with_config(strand.config, {**config, "recursion_limit": limit - 1})


class LangChainObserver(Runnable[Any, Any]):
    """Call the function of a LangChain `RunnablePassthrough`, then return the input from `identity`."""

    def __init__(self, source: RunnablePassthrough[Any], identity: Runnable[Any, Any]) -> None:
        self.func: Callable[..., Any] | None = source.func
        self.afunc: Callable[..., Any] | None = source.afunc
        self.identity: Runnable[Any, Any] = identity

    def _takes(self, keyword: str) -> bool:
        return function_takes((f for f in (self.func, self.afunc) if f is not None), keyword)

    def _build(self, kwargs: Mapping[str, Any]) -> Step:
        observe = _function_call(self.func, self.afunc, kwargs)
        identity = self.identity._step()

        async def call(value: Any, strand: Strand) -> Any:
            await observe(value, strand, ensure_config(langchain_config(strand.config)), None)
            return await identity.run(value, strand)

        return Step(call)


def _run_of(strand: Strand) -> AsyncCallbackManagerForChainRun:
    """Return the manager of the run that the strand is in; one that tells no handler, if none listens."""
    run: Any = strand.config.get("callbacks")
    return run.manager if isinstance(run, OpenRun) else AsyncCallbackManagerForChainRun.get_noop_manager()


def _function_call(
    func: Callable[..., Any] | None, afunc: Callable[..., Any] | None, kwargs: Mapping[str, Any]
) -> Callable[..., Any]:
    """Return a coroutine function that calls `afunc`, else `func` in a thread, in LangChain's context.

    In that context, calls of runnables that the function makes inherit the configuration.
    """

    async def on_loop(value: Any, strand: Strand, config: RunnableConfig, run: Any) -> Any:
        await strand.take()
        check_loop()

        async def awaited() -> Any:
            return await acall_func_with_variable_args(afunc, value, config, run, **kwargs)  # type: ignore[arg-type]

        with set_config_context(_inside(config, run)) as context:
            return await drive(context, awaited())

    async def in_thread(value: Any, strand: Strand, config: RunnableConfig, run: Any) -> Any:
        await strand.take()
        manager = None if run is None else run.get_sync()
        call = partial(call_func_with_variable_args, func, config=config, run_manager=manager, **kwargs)  # type: ignore[arg-type]
        with set_config_context(_inside(config, run)) as context:
            return await call_in_thread(lambda given: context.run(call, given), value, strand)

    return in_thread if afunc is None else on_loop


def _inside(config: RunnableConfig, run: AsyncCallbackManagerForChainRun | None) -> RunnableConfig:
    return config if run is None else patch_config(config, callbacks=run.get_child())
