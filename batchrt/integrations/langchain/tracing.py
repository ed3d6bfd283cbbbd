"""Run trees: LangChain's callback managers and configuration on the way of an item through its steps.

A strand's configuration holds the manager under `callbacks`, LangChain's own key, which `RunConfig` does not
list: it is never a user's value there. A structural step (a sequence, a branch) opens a run and keeps it in
that place as an `OpenRun`, of which each of its parts is a child. While no handler listens, a manager without
handlers stays there instead, and no run is opened: an item then pays for one manager.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextvars import copy_context
from dataclasses import dataclass
from typing import Any, Final, TypeVar, cast

import anyio
from langchain_core.callbacks import (
    AsyncCallbackManager,
    AsyncCallbackManagerForChainRun,
    BaseCallbackManager,
)
from langchain_core.runnables.config import (
    RunnableConfig,
    ensure_config,
    get_async_callback_manager_for_config,
    var_child_runnable_config,
)

from batchrt.config import RunConfig
from batchrt.integrations.langchain.traced_streams import LAST_WORD, Begin, traced_produce, traced_transform
from batchrt.runnables.base import Runnable
from batchrt.runnables.streams import Once, configured, produced, transformed
from batchrt.runtime.event_loop import runs_asyncio
from batchrt.runtime.step import Step, StepCall
from batchrt.runtime.strand import Strand

__all__ = [
    "ChildRunnable",
    "OpenRun",
    "TracedRunnable",
    "check_loop",
    "configured_step",
    "has_handlers",
    "langchain_config",
    "outside",
    "split_config",
    "with_config",
]

T = TypeVar("T")

_KEYS: Final = (
    *("tags", "metadata", "callbacks", "run_name", "run_id", "recursion_limit", "configurable"),
    "max_concurrency",
)
"""LangChain's keys of a configuration, in `langchain_core.runnables.config`."""
_LANGCHAIN_ALONE: Final = ("callbacks", "run_id")
"""Those of them that a `RunConfig` does not have."""


@dataclass(slots=True)
class OpenRun:
    """A run that was started, and the attempts of a retry that it stands for."""

    manager: AsyncCallbackManagerForChainRun
    attempts: int = 0

    def child(self, tag: str | None) -> AsyncCallbackManager:
        """Return the manager for a part of this run."""
        return self.manager.get_child(tag)


def langchain_config(given: RunConfig) -> RunnableConfig:
    """Return a strand's configuration in LangChain's form, for a runnable or a function of LangChain's."""
    config = cast("Mapping[str, Any]", given)
    plain = {key: config[key] for key in _KEYS if key in config}
    if plain.get("max_concurrency") == "auto":
        del plain["max_concurrency"]
    callbacks = plain.get("callbacks")
    if isinstance(callbacks, OpenRun):
        plain["callbacks"] = callbacks.child(None)
    return cast("RunnableConfig", plain)


def with_config(outer: RunConfig, config: Mapping[str, Any]) -> RunConfig:
    """Return a strand's configuration with LangChain's keys replaced by those of `config`."""
    rest = {key: value for key, value in outer.items() if key not in _KEYS}
    if outer.get("max_concurrency") is not None:
        rest["max_concurrency"] = outer["max_concurrency"]
    given = {key: value for key, value in config.items() if value is not None and key != "max_concurrency"}
    return cast("RunConfig", {**rest, **given})


def split_config(config: Mapping[str, Any] | None) -> tuple[RunConfig, dict[str, Any]]:
    """Return `config` without the keys that only LangChain has, and those keys."""
    if not isinstance(config, Mapping):
        return cast("RunConfig", config), {}
    plain = {key: value for key, value in config.items() if key not in _LANGCHAIN_ALONE}
    alone = {key: config[key] for key in _LANGCHAIN_ALONE if config.get(key) is not None}
    return cast("RunConfig", plain), alone


class TracedRunnable(Runnable[Any, Any]):
    """Open a run of LangChain's around `inner`, which callbacks see under `name`."""

    def __init__(self, inner: Runnable[Any, Any], name: str) -> None:
        self.inner: Runnable[Any, Any] = inner
        self.name: str | None = name

    def __repr__(self) -> str:
        return repr(self.inner)

    def _takes(self, keyword: str) -> bool:
        return self.inner._takes(keyword)

    def _build(self, kwargs: Mapping[str, Any]) -> Step:
        step, begin = self.inner._step(kwargs), _beginning(self.get_name())
        return Step.of(
            _traced(step, begin),
            [step],
            produce=traced_produce(step, begin),
            transform=traced_transform(step, begin),
        )


def _beginning(name: str) -> Begin:
    """Return the function that opens the run of a step: it returns the inner configuration, and the run."""

    async def begin(value: Any, strand: Strand) -> tuple[RunConfig, AsyncCallbackManagerForChainRun | None]:
        config = ensure_config(langchain_config(strand.config))
        manager = cast("Mapping[str, Any]", strand.config).get("callbacks")
        if not isinstance(manager, AsyncCallbackManager) or manager.handlers:
            check_loop()
            manager = get_async_callback_manager_for_config(config)
        run_id, run_name = config.pop("run_id", None), config.pop("run_name", None)
        if not manager.handlers:
            return with_config(strand.config, {**config, "callbacks": manager}), None
        run = await manager.on_chain_start(None, value, name=run_name or name, run_id=run_id)
        return with_config(strand.config, {**config, "callbacks": OpenRun(run)}), run

    return begin


def _traced(step: Step, begin: Begin) -> StepCall:
    async def call(value: Any, strand: Strand) -> Any:
        outer = strand.config
        inside, run = await begin(value, strand)
        strand.config = inside
        try:
            if run is None:
                return await step.run(value, strand)
            return await _told(run, step, value, strand)
        finally:
            strand.config = outer

    return call


async def _told(run: AsyncCallbackManagerForChainRun, step: Step, value: Any, strand: Strand) -> Any:
    """Return the step's output, and tell the run of it or of the error."""
    try:
        output = await step.run(value, strand)
    except anyio.get_cancelled_exc_class() as error:
        with anyio.move_on_after(LAST_WORD, shield=True):
            await run.on_chain_error(error)
        raise
    except Exception as error:
        await run.on_chain_error(error)
        raise
    await run.on_chain_end(output)
    return output


class ChildRunnable(Runnable[Any, Any]):
    """Make `inner` a child of the run around it, with `tag` as LangChain sets it: `seq:step:1`.

    `tag` may be a function of the run, for tags that count.
    """

    def __init__(self, inner: Runnable[Any, Any], tag: str | Callable[[OpenRun], str | None] | None) -> None:
        self.inner: Runnable[Any, Any] = inner
        self.tag: str | Callable[[OpenRun], str | None] | None = tag

    def __repr__(self) -> str:
        return repr(self.inner)

    def _takes(self, keyword: str) -> bool:
        return self.inner._takes(keyword)

    def _build(self, kwargs: Mapping[str, Any]) -> Step:
        step, tag = self.inner._step(kwargs), self.tag
        if step.inline:  # a step of ours, which opens no run
            return step

        def inside(outer: RunConfig) -> RunConfig:
            run = cast("Mapping[str, Any]", outer).get("callbacks")
            if type(run) is not OpenRun:
                return outer
            return cast("RunConfig", {**outer, "callbacks": run.child(tag(run) if callable(tag) else tag)})

        async def as_child(value: Any, strand: Strand) -> Any:
            outer = strand.config
            strand.config = inside(outer)
            try:
                return await step.call(value, strand)
            finally:
                strand.config = outer

        def call(value: Any, strand: Strand) -> Any:
            run = cast("Mapping[str, Any]", strand.config).get("callbacks")
            # While no handler listens, the step is awaited without a coroutine in between.
            return as_child(value, strand) if type(run) is OpenRun else step.call(value, strand)

        return configured_step(step, call, inside)


def configured_step(step: Step, call: StepCall, inside: Callable[[RunConfig], RunConfig]) -> Step:
    """Return a step with this `call`, whose streams are those of `step` under the configuration `inside`."""

    def produce(value: Any, strand: Strand) -> AsyncIterator[Any]:
        return configured(inside, lambda _chunks, strand: produced(step, value, strand))(Once(None), strand)

    def transform(chunks: AsyncIterator[Any], strand: Strand) -> AsyncIterator[Any]:
        return configured(inside, lambda chunks, strand: transformed(step, chunks, strand))(chunks, strand)

    return Step.of(call, [step], produce=produce, transform=None if step.transform is None else transform)


def check_loop() -> None:
    """Raise RuntimeError on an event loop that LangChain does not support."""
    if not runs_asyncio():
        raise RuntimeError("LangChain's runnables need asyncio (or uvloop), and this run is on Trio")


def outside(function: Callable[..., T], *args: Any) -> T:
    """Call `function` without the configuration that LangChain keeps in a context variable.

    Its merges begin with that configuration. Beside a strand's own it is that of the function around the run,
    whose callbacks would come in a second time.
    """
    context = copy_context()
    context.run(var_child_runnable_config.set, None)
    return context.run(function, *args)


def has_handlers(config: RunnableConfig) -> bool:
    """Whether a callback handler listens: one of `config`'s, or of the environment's."""
    callbacks: Any = config.get("callbacks")
    if not isinstance(callbacks, BaseCallbackManager):
        callbacks = get_async_callback_manager_for_config(ensure_config(config))
    return bool(callbacks.handlers)
