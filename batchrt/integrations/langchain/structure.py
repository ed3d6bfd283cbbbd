"""LangChain's chains as runnables of ours, by their structure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from inspect import isasyncgenfunction, isgeneratorfunction
from typing import TYPE_CHECKING, Any, Final, cast

from langchain_core.embeddings import Embeddings
from langchain_core.runnables import Runnable as LangChainRunnable
from langchain_core.runnables import (
    RunnableAssign,
    RunnableBinding,
    RunnableBranch,
    RunnableLambda,
    RunnableParallel,
    RunnablePassthrough,
    RunnableSequence,
    RunnableWithFallbacks,
)
from langchain_core.runnables.base import RunnableBindingBase, RunnableEach
from langchain_core.runnables.configurable import DynamicRunnable
from langchain_core.runnables.retry import RunnableRetry

from batchrt.config import RunConfig
from batchrt.integrations.langchain.entry import LangChainEntry
from batchrt.integrations.langchain.functions import LangChainFunction, LangChainObserver
from batchrt.integrations.langchain.leaf import LangChainLeaf
from batchrt.integrations.langchain.nodes import (
    ConfiguredRunnable,
    DynamicStep,
    FieldsAdded,
    Identity,
    OursInside,
)
from batchrt.integrations.langchain.runnable import BatchRunnable
from batchrt.integrations.langchain.tracing import ChildRunnable, OpenRun, TracedRunnable
from batchrt.runnables import branch, each, fallbacks, parallel, retry, sequence
from batchrt.runnables.base import In, Out, Runnable
from batchrt.runnables.binding import RunnableBinding as OurBinding

if TYPE_CHECKING:
    from batchrt.integrations.langchain.errors import ErrorMapping

__all__ = ["LangChainChain", "from_langchain"]


class LangChainChain(LangChainEntry[In, Out]):
    """Run a LangChain chain on this runtime; see `from_langchain`.

    The configuration of a call may have LangChain's `callbacks` and `run_id` too.

    Attributes:
        source: the chain as it was given.
    """

    def __init__(self, source: LangChainRunnable[Any, Any], inner: Runnable[Any, Any]) -> None:
        super().__init__(inner, source.get_name())
        self.source: LangChainRunnable[Any, Any] = source

    def __repr__(self) -> str:
        return f"from_langchain({self.get_name()})"


def from_langchain(
    runnable: Any, *, native: bool = False, raise_openai_errors: bool | ErrorMapping = True
) -> Runnable[Any, Any]:
    """Return a LangChain chain as a runnable of ours: the same results, run by this runtime.

    Sequences, parallels, functions, branches, `assign`, `map`, fallbacks, retries, bindings and configurables
    become ours by structure. Everything else (prompts, parsers, retrievers, tools, models, graphs, your
    own subclasses) is a leaf under `max_concurrency`: its own `ainvoke` with LangChain's config, or its
    `invoke` in a thread if it is sync. Callbacks, tags, metadata, names and the run tree are LangChain's;
    each item has a root run of its own.

    Args:
        runnable: any LangChain runnable; with `native`, also an embedding model.
        native: send the requests of langchain-openai's chat models (`ChatOpenAI`, `AzureChatOpenAI` and
            others of that base class) and of `OpenAIEmbeddings` by our client: its quota, cool-downs, retries
            and connections. Requests and answers stay LangChain's own.
        raise_openai_errors: with `native`, raise openai's errors, which `with_fallbacks` and `with_retry` of
            a LangChain chain name; `False` raises ours, a mapping chooses (see `errors.py`).

    Raises:
        TypeError: `runnable` is none of LangChain's.
        ValueError: with `native`, a model has an option that our client cannot carry; the message names it.
    """
    if isinstance(runnable, Runnable):
        return runnable
    if isinstance(runnable, BatchRunnable):
        return runnable.inner
    if not isinstance(runnable, LangChainRunnable | Embeddings):
        raise TypeError(f"from_langchain takes a runnable of LangChain's, not {type(runnable).__name__}")
    if isinstance(runnable, Embeddings) and not native:
        raise TypeError(
            "an embedding model is no runnable of LangChain's; native=True makes one of ours of it"
        )
    inner = _Converter(native=native, errors=raise_openai_errors).convert(runnable)
    return inner if isinstance(runnable, Embeddings) else LangChainChain(runnable, inner)


class _Converter:
    """Converts one chain; a model that stands in it twice becomes one client."""

    def __init__(self, *, native: bool, errors: bool | ErrorMapping) -> None:
        self._native = native
        self._errors = errors
        self._models: dict[int, tuple[object, Runnable[Any, Any] | None]] = {}

    def convert(self, source: Any) -> Runnable[Any, Any]:
        """Return `source` as a runnable of ours."""
        if isinstance(source, Runnable):
            return source
        if isinstance(source, BatchRunnable):
            return TracedRunnable(OursInside(source.inner), source.get_name())
        for kind, build in _STRUCTURES.items():
            if isinstance(source, kind) and _runs_as(source, kind):
                built = build(self, source)
                if built is not None:
                    return built
        return self._as_native(source) or LangChainLeaf(source)

    def _as_native(self, source: Any) -> Runnable[Any, Any] | None:
        if not self._native:
            return None
        # Imported late: langchain-core alone is enough for the rest.
        from batchrt.integrations.langchain.errors import translator
        from batchrt.integrations.langchain.native import native_runnable

        if id(source) not in self._models:
            self._models[id(source)] = (source, native_runnable(source, translator(self._errors)))
        return self._models[id(source)][1]

    def child(
        self, source: Any, tag: str | Callable[[OpenRun], str | None] | None = None
    ) -> Runnable[Any, Any]:
        """Return `source` as a part of the run around it."""
        return ChildRunnable(self.convert(source), tag)

    def sequence(self, source: RunnableSequence[Any, Any]) -> Runnable[Any, Any]:
        parts = [self.child(step, f"seq:step:{place}") for place, step in enumerate(source.steps, 1)]
        return TracedRunnable(sequence.RunnableSequence(*parts), source.get_name())

    def parallel(self, source: RunnableParallel[Any]) -> Runnable[Any, Any]:
        parts = {key: self.child(step, f"map:key:{key}") for key, step in source.steps__.items()}
        return TracedRunnable(parallel.RunnableParallel(parts), source.get_name())

    def branch(self, source: RunnableBranch[Any, Any]) -> Runnable[Any, Any]:
        pairs = [
            (self.child(when, f"condition:{place}"), self.child(then, f"branch:{place}"))
            for place, (when, then) in enumerate(source.branches, 1)
        ]
        default = self.child(source.default, "branch:default")
        return TracedRunnable(branch.RunnableBranch(*pairs, default), source.get_name())

    def function(self, source: RunnableLambda[Any, Any]) -> Runnable[Any, Any] | None:
        func, afunc = getattr(source, "func", None), getattr(source, "afunc", None)
        if isinstance(func, Runnable):
            return TracedRunnable(
                OursInside(func), source.get_name()
            )  # ours, in a chain that LangChain's `|` made
        if any(_is_generator(function) for function in (func, afunc)):
            return None
        embeddings = self._as_native(source)
        return TracedRunnable(embeddings or LangChainFunction(source, self.convert), source.get_name())

    def passthrough(self, source: RunnablePassthrough[Any]) -> Runnable[Any, Any]:
        identity = TracedRunnable(Identity(), source.get_name())
        observed = source.func is not None or source.afunc is not None
        return LangChainObserver(source, identity) if observed else identity

    def assign(self, source: RunnableAssign) -> Runnable[Any, Any]:
        return TracedRunnable(FieldsAdded(self.child(source.mapper)), source.get_name())

    def each(self, source: RunnableEach[Any, Any]) -> Runnable[Any, Any]:
        return TracedRunnable(each.RunnableEach(self.child(source.bound)), source.get_name())

    def fallbacks(self, source: RunnableWithFallbacks[Any, Any]) -> Runnable[Any, Any]:
        converted = fallbacks.RunnableWithFallbacks(
            self.child(source.runnable),
            [self.child(fallback) for fallback in source.fallbacks],
            exceptions_to_handle=tuple(source.exceptions_to_handle),
            exception_key=source.exception_key,
        )
        return TracedRunnable(converted, source.get_name())

    def retry(self, source: RunnableRetry[Any, Any]) -> Runnable[Any, Any] | None:
        if source.max_attempt_number < 1:
            return None  # without end, which a retry of ours is not
        converted = retry.RunnableRetry(
            self.child(source.bound, _attempt),
            retry_if_exception_type=source.retry_exception_types or (Exception,),
            wait_exponential_jitter=source.wait_exponential_jitter,
            exponential_jitter_params=cast("Mapping[str, float] | None", source.exponential_jitter_params),
            stop_after_attempt=source.max_attempt_number,
        )
        inner = TracedRunnable(converted, source.get_name())
        return self._configured(source, inner)

    def binding(self, source: RunnableBinding[Any, Any]) -> Runnable[Any, Any]:
        return self._configured(source, self.convert(source.bound))

    def _configured(
        self, source: RunnableBindingBase[Any, Any], inner: Runnable[Any, Any]
    ) -> Runnable[Any, Any]:
        """Return `inner` under the keyword arguments and the configuration of a binding."""
        config: Mapping[str, Any] = source.config or {}
        if source.config_factories or any(key != "max_concurrency" for key in config):
            inner = ConfiguredRunnable(source, inner)
        cap = config.get("max_concurrency")
        if source.kwargs or cap is not None:
            bound: RunConfig = {} if cap is None else {"max_concurrency": cap}
            inner = OurBinding(inner, kwargs=source.kwargs, config=bound)
        return inner

    def dynamic(self, source: DynamicRunnable[Any, Any]) -> Runnable[Any, Any]:
        return DynamicStep(source, self.convert)


_STRUCTURES: Final[Mapping[Any, Callable[[_Converter, Any], Runnable[Any, Any] | None]]] = {
    RunnableSequence: _Converter.sequence,
    RunnableParallel: _Converter.parallel,
    RunnableLambda: _Converter.function,
    RunnableBranch: _Converter.branch,
    RunnablePassthrough: _Converter.passthrough,
    RunnableAssign: _Converter.assign,
    RunnableEach: _Converter.each,
    RunnableWithFallbacks: _Converter.fallbacks,
    RunnableRetry: _Converter.retry,
    RunnableBinding: _Converter.binding,
    DynamicRunnable: _Converter.dynamic,
}


def _runs_as(source: Any, kind: type) -> bool:
    """Whether `source` runs as its base class does: no subclass or mock has replaced a method."""
    own = vars(source)
    return all(
        name not in own and getattr(type(source), name, None) is getattr(kind, name, None)
        for name in ("ainvoke", "_ainvoke", "invoke", "_invoke")
    )


def _is_generator(function: object) -> bool:
    call = getattr(function, "__call__", None)  # noqa: B004  the method itself, to look at
    return any(isgeneratorfunction(each) or isasyncgenfunction(each) for each in (function, call))


def _attempt(run: OpenRun) -> str | None:
    """Return the tag of the next attempt in a retry's run, which LangChain gives from the second on."""
    run.attempts += 1
    return f"retry:attempt:{run.attempts}" if run.attempts > 1 else None
