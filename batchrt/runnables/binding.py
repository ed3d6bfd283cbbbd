"""RunnableBinding: a runnable with bound arguments and configuration."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from functools import partial
from typing import Any, cast

import anyio

from batchrt.config import RunConfig, cap_of, check_config, merge_configs
from batchrt.errors import ItemTimeoutError
from batchrt.runnables.base import Configs, In, Method, Out, Runnable, RunnableLike, coerce
from batchrt.runnables.description import Description
from batchrt.runnables.streams import Once, configured, produced, transformed
from batchrt.runtime.chunk_stream import Open
from batchrt.runtime.side_stream import Closing, Put, SideStream, pour
from batchrt.runtime.step import Step, StepCall
from batchrt.runtime.strand import Strand

__all__ = ["RunnableBinding"]


class RunnableBinding(Runnable[In, Out]):
    """Run `bound` with keyword arguments and configuration added; the result of `bind` and `with_config`.

    In a run of its own, the bound configuration supplies the run's defaults. Inside a chain,
    `max_concurrency` holds for this part, over all items of the run; `timeout` and `deadline` for each
    item's time in it; the other keys are defaults in the configuration that functions inside receive.
    Binding a binding adds to it, and the last value of a key wins.
    """

    def __init__(
        self,
        bound: RunnableLike[In, Out],
        *,
        kwargs: Mapping[str, Any] | None = None,
        config: RunConfig | None = None,
        input_type: type[Any] | None = None,
        output_type: type[Any] | None = None,
    ) -> None:
        self.bound: Runnable[In, Out] = coerce(bound)
        self.kwargs: dict[str, Any] = dict(kwargs or {})
        self.config: RunConfig = check_config(config)
        self.input_type: type[Any] | None = input_type
        self.output_type: type[Any] | None = output_type

    def __repr__(self) -> str:
        return repr(self.bound)

    def get_name(self) -> str:
        """Return the `run_name` of the configuration, or else the name of `bound`."""
        return self.config.get("run_name") or self.bound.get_name()

    def bind(self, **kwargs: Any) -> RunnableBinding[In, Out]:
        """Return this with `kwargs` added to its own."""
        return self._with(kwargs={**self.kwargs, **kwargs})

    def with_config(self, config: RunConfig | None = None, **keys: Any) -> RunnableBinding[In, Out]:
        """Return this with `config` (or its keys) in place of its own, key by key."""
        return self._with(config=cast("RunConfig", {**self.config, **(config or {}), **keys}))

    def _with(self, **changes: Any) -> RunnableBinding[In, Out]:
        state = {"kwargs": self.kwargs, "config": self.config}
        types = {"input_type": self.input_type, "output_type": self.output_type}
        return type(self)(self.bound, **{**state, **types, **changes})

    def _prepare(
        self,
        kwargs: Mapping[str, Any],
        configs: Configs,
        method: Method | None = None,  # noqa: ARG002  `bound` decides for itself
    ) -> tuple[Step, Configs]:
        return self.bound._prepare({**self.kwargs, **kwargs}, self._with_defaults(configs))

    def _with_defaults(self, configs: Configs) -> Configs:
        if not self.config:
            return configs
        if configs is None or not isinstance(configs, list | tuple):
            return merge_configs(self.config, check_config(cast("RunConfig | None", configs)))
        return [merge_configs(self.config, check_config(config)) for config in configs]

    def _takes(self, keyword: str) -> bool:
        return self.bound._takes(keyword)

    def _keyword_hint(self, keyword: str) -> str:
        return self.bound._keyword_hint(keyword)

    def describe(self, kwargs: Mapping[str, Any] | None = None) -> Description:
        """Return what the outputs depend on; see `Runnable.describe`."""
        return self.bound.describe({**self.kwargs, **(kwargs or {})})

    def _build(self, kwargs: Mapping[str, Any]) -> Step:
        spending = [key for key in ("max_tokens_total", "max_cost") if self.config.get(key) is not None]
        if spending:
            raise ValueError(
                f"{spending[0]} is for a whole run and not for a part of a chain: give it to the call"
            )
        step = self.bound._step({**self.kwargs, **kwargs})
        if not self.config or step.inline:
            return step
        return Step.of(
            _configured(self, step.call),
            [step],
            direct=step.direct and not self._limits(),
            produce=partial(_produced, self, step),
            transform=None if step.transform is None else partial(_transformed, self, step),
        )

    def _limits(self) -> bool:
        return any(self.config.get(key) for key in ("max_concurrency", "timeout", "deadline"))

    def _bound_seconds(self) -> float | None:
        bounds = (self.config.get("timeout"), self.config.get("deadline"))
        return min((bound for bound in bounds if bound is not None), default=None)


def _produced(
    binding: RunnableBinding[Any, Any], step: Step, value: Any, strand: Strand
) -> AsyncIterator[Any]:
    return _bounded(binding, partial(produced, step, value), strand)


def _transformed(
    binding: RunnableBinding[Any, Any], step: Step, chunks: AsyncIterator[Any], strand: Strand
) -> AsyncIterator[Any]:
    if not binding._limits():
        return configured(partial(merge_configs, binding.config), partial(transformed, step))(chunks, strand)
    return _bounded_behind(binding, step, chunks, strand)


async def _bounded_behind(
    binding: RunnableBinding[Any, Any], step: Step, chunks: AsyncIterator[Any], strand: Strand
) -> AsyncIterator[Any]:
    # The limits are for this part, and not for the one before it.
    before = SideStream([lambda _strand, put: pour(chunks, put)])
    before.start()
    outputs = _bounded(binding, partial(transformed, step, before), strand)
    async with Closing(before), Closing(outputs):
        async for chunk in outputs:
            yield chunk


def _bounded(binding: RunnableBinding[Any, Any], opened: Open, strand: Strand) -> AsyncIterator[Any]:
    """Return the chunks of a part of a stream under the binding's configuration.

    Under limits the part is a branch of its own: their scope, and the slots of their own, are that branch's.
    """
    if not binding._limits():
        merge = partial(merge_configs, binding.config)
        return configured(merge, lambda _chunks, strand: opened(strand))(Once(None), strand)
    cap, seconds = cap_of(binding.config), binding._bound_seconds()
    adaptive = binding.config.get("max_concurrency") == "auto"

    async def part(strand: Strand, put: Put) -> None:
        strand.config = merge_configs(binding.config, strand.config)

        async def call(_: Any, strand: Strand) -> None:
            await pour(opened(strand), put)

        bounded: StepCall = call if seconds is None else _timed(call, seconds, binding.get_name())
        if cap is not None or adaptive:
            bounded = _capped(bounded, cap, binding, adaptive=adaptive)
        await bounded(None, strand)

    return SideStream([part])


def _configured(binding: RunnableBinding[Any, Any], call: StepCall) -> StepCall:
    cap, seconds = cap_of(binding.config), binding._bound_seconds()
    adaptive = binding.config.get("max_concurrency") == "auto"
    if seconds is not None:
        call = _timed(call, seconds, binding.get_name())
    if cap is not None or adaptive:
        call = _capped(call, cap, binding, adaptive=adaptive)

    async def configured(value: Any, strand: Strand) -> Any:
        outer = strand.config
        strand.config = merge_configs(binding.config, outer)
        try:
            return await call(value, strand)
        finally:
            strand.config = outer

    return configured


def _timed(call: StepCall, seconds: float, name: str) -> StepCall:
    async def timed(value: Any, strand: Strand) -> Any:
        outer = strand.scopes
        with anyio.move_on_after(seconds) as scope:
            strand.scopes = (*outer, scope)
            try:
                return await call(value, strand)
            finally:
                strand.scopes = outer
        raise ItemTimeoutError(f"{name} took longer than its timeout of {seconds:g} s", seconds=seconds)

    return timed


def _capped(call: StepCall, cap: int | None, key: object, *, adaptive: bool) -> StepCall:
    async def capped(value: Any, strand: Strand) -> Any:
        outer = strand.slots
        strand.give()
        strand.slots = strand.run.section(key, cap, outer, adaptive=adaptive)
        try:
            return await call(value, strand)
        finally:
            strand.give()
            strand.slots = outer

    return capped
