"""Runnables of ours as LangChain's."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from typing import Any, cast

from langchain_core.runnables import Runnable as LangChainRunnable
from langchain_core.runnables import RunnableConfig as LangChainConfig
from langchain_core.runnables.config import ensure_config

from batchrt.config import RunConfig
from batchrt.integrations.langchain.entry import LangChainEntry
from batchrt.integrations.langchain.nodes import OursInside
from batchrt.integrations.langchain.tracing import TracedRunnable
from batchrt.runnables.base import Runnable

__all__ = ["BatchRunnable", "to_langchain"]

_KEYS = (
    "tags",
    "metadata",
    "callbacks",
    "run_name",
    "run_id",
    "max_concurrency",
    "recursion_limit",
    "configurable",
)


def to_langchain(runnable: Runnable[Any, Any]) -> BatchRunnable:
    """Return a runnable of ours as one of LangChain's, for its chains, graphs and agents.

    Its methods run on this runtime, under `max_concurrency` of LangChain's config; callbacks see a run for
    each item, with the runs of LangChain's steps inside it. Messages and prompt values of ours are outputs as
    LangChain's. What only `RunConfig` has (`timeout`, `window` …) is
    bound before: `to_langchain(chain.with_config(timeout=30))`.
    """
    return BatchRunnable(runnable)


class BatchRunnable(LangChainRunnable[Any, Any]):
    """Run `inner` on this runtime; see `to_langchain`."""

    def __init__(self, inner: Runnable[Any, Any]) -> None:
        self.inner: Runnable[Any, Any] = inner
        self.name: str | None = inner.get_name()
        self._entry: LangChainEntry[Any, Any] = LangChainEntry(
            TracedRunnable(OursInside(inner), inner.get_name())
        )

    @property
    def InputType(self) -> Any:  # noqa: N802  LangChain's name
        """The type of inputs, which is not known."""
        return Any

    @property
    def OutputType(self) -> Any:  # noqa: N802  LangChain's name
        """The type of outputs, which is not known."""
        return Any

    def __repr__(self) -> str:
        return repr(self.inner)

    def invoke(self, input: Any, config: LangChainConfig | None = None, **kwargs: Any) -> Any:  # noqa: A002
        """Return the output for one input, from sync code."""
        return self._entry.invoke(input, _config(config), **kwargs)

    async def ainvoke(self, input: Any, config: LangChainConfig | None = None, **kwargs: Any) -> Any:  # noqa: A002
        """Return the output for one input."""
        return await self._entry.ainvoke(input, _config(config), **kwargs)

    def batch(
        self,
        inputs: list[Any],
        config: LangChainConfig | list[LangChainConfig] | None = None,
        *,
        return_exceptions: bool = False,
        **kwargs: Any,
    ) -> list[Any]:
        """Return the outputs, in input order, from sync code."""
        return self._entry.batch(inputs, _configs(config), return_exceptions=return_exceptions, **kwargs)

    async def abatch(
        self,
        inputs: list[Any],
        config: LangChainConfig | list[LangChainConfig] | None = None,
        *,
        return_exceptions: bool = False,
        **kwargs: Any,
    ) -> list[Any]:
        """Return the outputs, in input order."""
        return await self._entry.abatch(
            inputs, _configs(config), return_exceptions=return_exceptions, **kwargs
        )

    def batch_as_completed(
        self,
        inputs: Sequence[Any],
        config: LangChainConfig | Sequence[LangChainConfig] | None = None,
        *,
        return_exceptions: bool = False,
        **kwargs: Any,
    ) -> Iterator[tuple[int, Any]]:
        """Iterate over `(index, output)` as items finish, from sync code."""
        return self._entry.batch_as_completed(
            inputs, _configs(config), return_exceptions=return_exceptions, **kwargs
        )

    async def abatch_as_completed(
        self,
        inputs: Sequence[Any],
        config: LangChainConfig | Sequence[LangChainConfig] | None = None,
        *,
        return_exceptions: bool = False,
        **kwargs: Any,
    ) -> AsyncIterator[tuple[int, Any]]:
        """Iterate over `(index, output)` as items finish."""
        stream = self._entry.abatch_as_completed(
            inputs, _configs(config), return_exceptions=return_exceptions, **kwargs
        )
        async with stream:
            async for pair in stream:
                yield pair

    def stream(self, input: Any, config: LangChainConfig | None = None, **kwargs: Any) -> Iterator[Any]:  # noqa: A002
        """Iterate over the chunks of the output, from sync code."""
        return self._entry.stream(input, _config(config), **kwargs)

    async def astream(
        self,
        input: Any,  # noqa: A002
        config: LangChainConfig | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[Any]:
        """Iterate over the chunks of the output."""
        async with self._entry.astream(input, _config(config), **kwargs) as chunks:
            async for chunk in chunks:
                yield chunk

    def transform(
        self,
        input: Iterator[Any],  # noqa: A002
        config: LangChainConfig | None = None,
        **kwargs: Any,
    ) -> Iterator[Any]:
        """Iterate over the chunks of the output for chunks of the input, from sync code."""
        return self._entry.transform(input, _config(config), **kwargs)

    async def atransform(
        self,
        input: AsyncIterator[Any],  # noqa: A002
        config: LangChainConfig | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[Any]:
        """Iterate over the chunks of the output for chunks of the input."""
        async with self._entry.atransform(input, _config(config), **kwargs) as chunks:
            async for chunk in chunks:
                yield chunk


def _config(config: Mapping[str, Any] | None) -> RunConfig:
    """Return LangChain's configuration, what the surrounding run adds included, as ours."""
    whole = cast("Mapping[str, Any]", ensure_config(cast("LangChainConfig | None", config)))
    return cast("RunConfig", {key: whole[key] for key in _KEYS if whole.get(key) is not None})


def _configs(
    config: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None,
) -> RunConfig | list[RunConfig]:
    return [_config(each) for each in config] if isinstance(config, list | tuple) else _config(config)  # type: ignore[arg-type]
