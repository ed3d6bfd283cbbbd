"""The entry of a run from LangChain's side: a call's configuration with LangChain's own keys."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

from batchrt.config import RunConfig
from batchrt.integrations.langchain.tracing import configured_step, split_config
from batchrt.runnables.base import Configs, In, Method, Out, Runnable
from batchrt.runtime.step import Step
from batchrt.runtime.strand import Strand, current_strand

__all__ = ["LangChainEntry"]


class LangChainEntry(Runnable[In, Out]):
    """Run `inner`; the configuration of a call may have LangChain's `callbacks` and `run_id` too."""

    def __init__(self, inner: Runnable[Any, Any], name: str | None = None) -> None:
        self._inner = inner
        self.name: str | None = name

    def _takes(self, keyword: str) -> bool:
        return self._inner._takes(keyword)

    def _build(self, kwargs: Mapping[str, Any]) -> Step:
        return self._inner._step(kwargs)

    def _prepare(
        self, kwargs: Mapping[str, Any], configs: Configs, method: Method | None = None
    ) -> tuple[Step, Configs]:
        if configs is None or not isinstance(configs, Sequence):
            plain, keys = split_config(configs)
            step, prepared = self._inner._prepare(kwargs, plain, method)
            return (_with_keys(step, keys) if keys else step), prepared
        pairs = [split_config(config) for config in configs]
        each = [keys for _, keys in pairs]
        step, prepared = self._inner._prepare(kwargs, [plain for plain, _ in pairs], method)
        return (_with_keys_of_each(step, each) if any(each) else step), prepared


def _with_keys(step: Step, keys: Mapping[str, Any]) -> Step:
    """Return `step` with LangChain's keys in every item's configuration; an id is for the first alone."""
    later = {key: value for key, value in keys.items() if key != "run_id"}
    return _under(step, lambda strand: later if strand.item.index else keys)


def _with_keys_of_each(step: Step, each: Sequence[Mapping[str, Any]]) -> Step:
    return _under(step, lambda strand: each[strand.item.index])


def _under(step: Step, keys_of: Callable[[Strand], Mapping[str, Any]]) -> Step:
    async def call(value: Any, strand: Strand) -> Any:
        outer = strand.config
        strand.config = cast("RunConfig", {**outer, **keys_of(strand)})
        try:
            return await step.run(value, strand)
        finally:
            strand.config = outer

    def inside(outer: RunConfig) -> RunConfig:
        strand = current_strand()
        assert strand is not None  # a stream's chunks are pulled inside of its run
        return cast("RunConfig", {**outer, **keys_of(strand)})

    return configured_step(step, call, inside)
