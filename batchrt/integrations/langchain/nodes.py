"""Structural runnables of LangChain's whose meaning no runnable of ours has in every detail."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from langchain_core.runnables.base import RunnableBindingBase
from langchain_core.runnables.config import ensure_config, merge_configs
from langchain_core.runnables.configurable import DynamicRunnable

from batchrt.config import RunConfig
from batchrt.integrations.langchain.functions import Convert, Returned
from batchrt.integrations.langchain.messages import langchain_value
from batchrt.integrations.langchain.traced_streams import mapped_produce, mapped_transform
from batchrt.integrations.langchain.tracing import configured_step, langchain_config, outside, with_config
from batchrt.runnables.base import Runnable
from batchrt.runtime.step import Step
from batchrt.runtime.strand import Strand

__all__ = ["ConfiguredRunnable", "DynamicStep", "FieldsAdded", "Identity", "OursInside"]


class Identity(Runnable[Any, Any]):
    """Return the input."""

    def _takes(self, keyword: str) -> bool:  # noqa: ARG002  it ignores them, as LangChain's does
        return True

    def _build(self, kwargs: Mapping[str, Any]) -> Step:  # noqa: ARG002
        return Step(lambda value, _strand: value, inline=True)


class OursInside(Runnable[Any, Any]):
    """Run `inner`, one of ours, among LangChain's: messages and prompt values leave it as theirs."""

    def __init__(self, inner: Runnable[Any, Any]) -> None:
        self.inner: Runnable[Any, Any] = inner
        self.name: str | None = inner.get_name()

    def __repr__(self) -> str:
        return repr(self.inner)

    def _takes(self, keyword: str) -> bool:
        return self.inner._takes(keyword)

    def _build(self, kwargs: Mapping[str, Any]) -> Step:
        step = self.inner._step(kwargs)
        if step.inline:
            return Step(lambda value, strand: langchain_value(step.call(value, strand)), inline=True)

        async def call(value: Any, strand: Strand) -> Any:
            return langchain_value(await step.call(value, strand))

        return Step.of(
            call,
            [step],
            produce=mapped_produce(step, langchain_value),
            transform=mapped_transform(step, langchain_value),
        )


class FieldsAdded(Runnable[Any, Any]):
    """Return the input, a dict, with the fields that `mapper` computes from it: LangChain's `assign`."""

    def __init__(self, mapper: Runnable[Any, Any]) -> None:
        self.mapper: Runnable[Any, Any] = mapper

    def _takes(self, keyword: str) -> bool:
        return self.mapper._takes(keyword)

    def _build(self, kwargs: Mapping[str, Any]) -> Step:
        step = self.mapper._step(kwargs)

        async def call(value: Any, strand: Strand) -> Any:
            if not isinstance(value, dict):
                raise ValueError(  # noqa: TRY004  LangChain's class for it
                    f"The input to RunnablePassthrough.assign() must be a dict, not {type(value).__name__}"
                )
            return {**value, **(await step.run(value, strand))}

        return Step.of(call, [step])


class ConfiguredRunnable(Runnable[Any, Any]):
    """Run `inner` under the configuration of a LangChain binding: callbacks, tags, listeners."""

    def __init__(self, source: RunnableBindingBase[Any, Any], inner: Runnable[Any, Any]) -> None:
        self.config: Any = source.config
        self.factories: list[Any] = list(source.config_factories)
        self.inner: Runnable[Any, Any] = inner

    def _takes(self, keyword: str) -> bool:
        return self.inner._takes(keyword)

    def _build(self, kwargs: Mapping[str, Any]) -> Step:
        step = self.inner._step(kwargs)

        def inside(outer: RunConfig) -> RunConfig:
            config = outside(merge_configs, self.config, langchain_config(outer))
            config = outside(merge_configs, config, *(factory(config) for factory in self.factories))
            return with_config(outer, config)

        async def call(value: Any, strand: Strand) -> Any:
            outer = strand.config
            strand.config = inside(outer)
            try:
                return await step.run(value, strand)
            finally:
                strand.config = outer

        return configured_step(step, call, inside)


class DynamicStep(Runnable[Any, Any]):
    """Run the runnable that a LangChain configurable stands for under an item's `configurable`."""

    def __init__(self, source: DynamicRunnable[Any, Any], convert: Convert) -> None:
        self.name: str | None = source.get_name()
        self.source: DynamicRunnable[Any, Any] = source
        self._prepared = Returned(convert)

    def _takes(self, keyword: str) -> bool:  # noqa: ARG002  known only once the item is
        return True

    def _build(self, kwargs: Mapping[str, Any]) -> Step:
        async def call(value: Any, strand: Strand) -> Any:
            outer = strand.config
            runnable, config = outside(self.source.prepare, ensure_config(langchain_config(strand.config)))
            chosen = runnable.bind(**kwargs) if kwargs else runnable
            strand.config = with_config(strand.config, config)
            try:
                key = repr((sorted(config.get("configurable", {}).items()), sorted(kwargs.items())))
                return await self._prepared.step(chosen, key).run(value, strand)
            finally:
                strand.config = outer

        return Step(call)
