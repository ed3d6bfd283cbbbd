"""Runnable: the base class of the algebra, its step table and its operators.

The method that a class overrides says how it runs. It is looked up once, when the class is created:

    _build          a step composed of other steps (every class in this package)
    abatch_native   a list call: items that meet are sent together
    abatch, batch   the same, in LCEL's form
    ainvoke         a leaf on the event loop
    invoke only     a leaf in a worker thread

A class that overrides `atransform`, `transform`, `astream` or `stream` streams by that method as well.
All other methods are inherited from here and from `EntryPoints`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from copy import copy
from types import FunctionType
from typing import TYPE_CHECKING, Any, Final, TypeAlias, TypeVar, overload

from batchrt.config import RunConfig, check_config
from batchrt.runnables.awaitables import awaiting_method
from batchrt.runnables.entry_points import Configs, In, Method, Out
from batchrt.runnables.foreign import adopted
from batchrt.runnables.introspection import Introspection
from batchrt.runnables.keywords import check_keywords, function_takes
from batchrt.runnables.method_steps import (
    STREAM_METHODS,
    method_step,
    replaced_method,
    replaced_stream,
    streaming_step,
)
from batchrt.runtime.step import Step

if TYPE_CHECKING:
    from batchrt.runnables.binding import RunnableBinding
    from batchrt.runnables.configurable import (
        ConfigurableField,
        RunnableConfigurableAlternatives,
        RunnableConfigurableFields,
    )
    from batchrt.runnables.description import Description
    from batchrt.runnables.each import RunnableEach
    from batchrt.runnables.fallbacks import RunnableWithFallbacks
    from batchrt.runnables.listeners import Listener, RunnableWithListeners
    from batchrt.runnables.retry import RunnableRetry
    from batchrt.runnables.sequence import RunnableSequence

__all__ = ["Configs", "In", "Method", "Out", "RetryIf", "Runnable", "RunnableLike", "coerce"]

T = TypeVar("T")
U = TypeVar("U")

RetryIf: TypeAlias = "tuple[type[BaseException], ...] | type[BaseException] | Callable[[BaseException], bool]"
"""The errors that are worth another attempt: types, or a predicate that is given the error."""

_LIST_METHODS: Final[tuple[Method, ...]] = ("abatch", "batch")
_METHODS: Final[tuple[Method, ...]] = ("_build", "abatch_native", *_LIST_METHODS, "ainvoke", "invoke")


class Runnable(Introspection[In, Out]):
    """Map an input to an output; compose with `|`; run one input or many.

    Override `ainvoke` (runs on the event loop) or `invoke` (runs in a worker thread); the other methods
    follow. All batch methods take any iterable or async iterable, pull it lazily, and run under the limits
    of `config` (see `RunConfig`).

    A runnable that takes lists overrides `abatch_native(inputs)` instead, async or not. It is passed a list
    and returns a list with one output for each input, in the same order; an exception in an output's place
    is that item's error. Wherever such a runnable stands in a chain, the items of the run that reach it are
    collected and sent together, within `max_batch_size` and `max_batch_cost` (with a method `cost(input)`):
    when a list is full, when no other item can still arrive, when no item arrived for `linger` seconds, or
    `max_linger` seconds after the first. A list that fails is halved until the failing item stands alone.
    An `abatch` or `batch` that a subclass overrides, as in LCEL, is used the same way.

    Attributes:
        name: its name in messages; the class's name if `None`.
        max_batch_size: the most inputs a list; `None` for no bound. May change during a run.
        max_batch_cost: the largest sum of costs a list; `None` for no bound.
        linger: seconds; `None` for 0.05, or 0.005 with `share_lists`.
        max_linger: seconds; `None` for 1, or 0.05 with `share_lists`.
        share_lists: also combine the lists of concurrent runs, for a service in which each request calls
            `ainvoke` by itself. A call then waits `linger` seconds for others.
    """

    name: str | None = None
    max_batch_size: int | None = None
    max_batch_cost: float | None = None
    linger: float | None = None
    max_linger: float | None = None
    share_lists: bool = False
    _method: Method | None = None
    _stream_method: Method | None = None
    _own_ainvoke: Callable[..., Any]
    _own_invoke: Callable[..., Any]
    _own_astream: Callable[..., Any]
    _own_stream: Callable[..., Any]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        for method in _METHODS:
            if method in cls.__dict__:
                cls._method = method
                break
        cls._stream_method = next((m for m in STREAM_METHODS if m in cls.__dict__), cls._stream_method)
        if cls._method == "invoke" and isinstance(own := cls.__dict__.get("invoke"), FunctionType):
            # Not by assignment, which type checkers read as an override without types.
            type.__setattr__(cls, "invoke", awaiting_method(own))
        cls._own_ainvoke, cls._own_invoke = cls.ainvoke, cls.invoke
        cls._own_astream, cls._own_stream = cls.astream, cls.stream

    # The step table

    def _build(self, kwargs: Mapping[str, Any]) -> Step:
        """Return this runnable as a step of a run; `kwargs` are passed to the call, as with `bind`."""
        raise NotImplementedError

    def _step(self, kwargs: Mapping[str, Any] | None = None) -> Step:
        """Return the step that stands for this runnable in a chain."""
        replaced = replaced_method(self)
        step = self._step_of(replaced or self._method, kwargs or {})
        stream = replaced_stream(self) or (None if replaced else self._stream_method)
        return streaming_step(self, stream, kwargs or {}, step) if stream else step

    def _takes(self, keyword: str) -> bool:
        """Return whether calls of this runnable take a keyword argument of this name."""
        methods = [name for name in (*_METHODS[1:], *STREAM_METHODS) if self._overrides(name)]
        return function_takes((getattr(self, name) for name in methods), keyword)

    def _keyword_hint(self, keyword: str) -> str:  # noqa: ARG002  subclasses know more
        """Return a hint for the error about a keyword argument that this runnable does not take."""
        return "no step takes it"

    def _step_of(self, overridden: Method | None, kwargs: Mapping[str, Any]) -> Step:
        if kwargs:
            check_keywords(self, kwargs)
        match overridden:
            case "_build":
                return self._build(kwargs)
            case "abatch_native" | "abatch" | "batch":
                from batchrt.runnables.native import native_step

                return native_step(self, overridden, kwargs)
        return method_step(self, overridden, kwargs)

    def _inherited_step(self, method: Method, kwargs: Mapping[str, Any]) -> Step:
        """Return the step of the default `method`, which must not come back to an override of it.

        The default runs only if the class does not override `method`, or if the override calls `super()`.
        Defaults for a single input prefer methods that take a single input: an `abatch` in terms of
        `self.ainvoke` must not come back to itself either.
        """
        methods: tuple[Method, ...] = ("_build", "abatch_native", "ainvoke", "invoke")
        if method in (*_LIST_METHODS, *STREAM_METHODS) and not self._overrides(method):
            if method in STREAM_METHODS and replaced_stream(self):  # a spy calls the default
                return self._step_of(replaced_method(self) or self._method, kwargs)
            return self._step(kwargs)
        if method not in _LIST_METHODS:
            methods += _LIST_METHODS
        usable = (other for other in methods if other != method and self._overrides(other))
        return self._step_of(next(usable, None), kwargs)

    def _overrides(self, method: Method) -> bool:
        return getattr(type(self), method, None) is not getattr(Runnable, method, None)

    def _prepare(
        self, kwargs: Mapping[str, Any], configs: Configs, method: Method | None = None
    ) -> tuple[Step, Configs]:
        step = self._inherited_step(method, kwargs) if method else self._step(kwargs)
        return step, configs

    def describe(self, kwargs: Mapping[str, Any] | None = None) -> Description:
        """Return what the outputs depend on, without running anything.

        A subclass is described by the code of its methods and by its attributes, unless it overrides this.

        Args:
            kwargs: arguments of the call, as with `bind`.
        """
        from batchrt.runnables.description import described_class

        return described_class(self, kwargs or {})

    def _check_field(self, name: str) -> None:
        """Raise ValueError if this has no field of this name that `configurable_fields` may replace."""
        if not hasattr(self, name):
            fields = ", ".join(field for field in vars(self) if not field.startswith("_")) or "none"
            raise ValueError(f"{self.get_name()} has no field {name!r}; it has {fields}")

    def _with_fields(self, values: Mapping[str, Any]) -> Runnable[In, Out]:
        """Return a copy with other values of some fields."""
        other = copy(self)
        for name, value in values.items():
            setattr(other, name, value)
        return other

    def get_name(self) -> str:
        """Return the name for messages."""
        return self.name or type(self).__name__

    def __repr__(self) -> str:
        return f"{self.get_name()}()"

    # Composition

    @overload
    def __or__(self, other: Runnable[Out, T]) -> RunnableSequence[In, T]: ...
    @overload
    def __or__(self, other: Callable[[Out], Runnable[Any, T]]) -> RunnableSequence[In, T]: ...
    @overload
    def __or__(self, other: Callable[[Out], Awaitable[T]]) -> RunnableSequence[In, T]: ...
    @overload
    def __or__(self, other: Callable[[Out], T]) -> RunnableSequence[In, T]: ...
    @overload
    def __or__(self, other: Callable[[Out, RunConfig], Awaitable[T]]) -> RunnableSequence[In, T]: ...
    @overload
    def __or__(self, other: Callable[[Out, RunConfig], T]) -> RunnableSequence[In, T]: ...
    @overload
    def __or__(self, other: Callable[[AsyncIterator[Out]], AsyncIterator[T]]) -> RunnableSequence[In, T]: ...
    @overload
    def __or__(self, other: Callable[[Iterator[Out]], Iterator[T]]) -> RunnableSequence[In, T]: ...
    @overload
    def __or__(self, other: Mapping[str, Any]) -> RunnableSequence[In, dict[str, Any]]: ...
    def __or__(self, other: Any) -> RunnableSequence[In, Any]:
        """Return the sequence of this and `other`."""
        return _sequence(self, coerce(other))

    @overload
    def __ror__(self, other: Callable[[T], Runnable[Any, In]]) -> RunnableSequence[T, Out]: ...
    @overload
    def __ror__(self, other: Callable[[T], Awaitable[In]]) -> RunnableSequence[T, Out]: ...
    @overload
    def __ror__(self, other: Callable[[T], In]) -> RunnableSequence[T, Out]: ...
    @overload
    def __ror__(self, other: Callable[[T, RunConfig], Awaitable[In]]) -> RunnableSequence[T, Out]: ...
    @overload
    def __ror__(self, other: Callable[[T, RunConfig], In]) -> RunnableSequence[T, Out]: ...
    @overload
    def __ror__(self, other: Callable[[AsyncIterator[T]], AsyncIterator[In]]) -> RunnableSequence[T, Out]: ...
    @overload
    def __ror__(self, other: Callable[[Iterator[T]], Iterator[In]]) -> RunnableSequence[T, Out]: ...
    @overload
    def __ror__(self, other: Mapping[str, Any]) -> RunnableSequence[Any, Out]: ...
    def __ror__(self, other: Any) -> RunnableSequence[Any, Out]:
        """Return the sequence of `other` and this."""
        return _sequence(coerce(other), self)

    def pipe(self, *others: RunnableLike[Any, Any], name: str | None = None) -> RunnableSequence[In, Any]:
        """Return the sequence of this and `others`."""
        return _sequence(self, *others, name=name)

    def bind(self, **kwargs: Any) -> RunnableBinding[In, Out]:
        """Return this with `kwargs` given to every call."""
        from batchrt.runnables.binding import RunnableBinding

        return RunnableBinding(self, kwargs=kwargs)

    def with_config(self, config: RunConfig | None = None, **keys: Any) -> RunnableBinding[In, Out]:
        """Return this with `config` (or its keys) as defaults under a call's own config.

        Inside a chain, `max_concurrency` and `timeout` hold for this part of it. A call's explicit `None`
        does not lift them, as in LCEL (it does lift spending limits); `with_config` of the result does, key
        by key.
        """
        from batchrt.runnables.binding import RunnableBinding

        return RunnableBinding(self, config=check_config({**(config or {}), **keys}))

    @overload
    def with_types(self, *, input_type: type[T], output_type: type[U]) -> RunnableBinding[T, U]: ...
    @overload
    def with_types(self, *, input_type: type[T]) -> RunnableBinding[T, Out]: ...
    @overload
    def with_types(self, *, output_type: type[U]) -> RunnableBinding[In, U]: ...
    def with_types(
        self, *, input_type: type[Any] | None = None, output_type: type[Any] | None = None
    ) -> RunnableBinding[Any, Any]:
        """Return this with other types for the type checker; nothing is checked at run time."""
        from batchrt.runnables.binding import RunnableBinding

        return RunnableBinding(self, input_type=input_type, output_type=output_type)

    def with_retry(
        self,
        *,
        retry_if_exception_type: RetryIf = (Exception,),
        wait_exponential_jitter: bool = True,
        exponential_jitter_params: Mapping[str, float] | None = None,
        stop_after_attempt: int = 3,
    ) -> RunnableRetry[In, Out]:
        """Return this with up to `stop_after_attempt` attempts for each item.

        Args:
            retry_if_exception_type: the errors worth another attempt: types, or a predicate that is given
                the error.
            wait_exponential_jitter: wait between attempts, with exponential backoff and jitter; if false,
                try again at once.
            exponential_jitter_params: tenacity's `initial` (1 s), `max`, `exp_base` (2), `jitter` (1 s).
            stop_after_attempt: attempts in all, the first included.
        """
        from batchrt.runnables.retry import RunnableRetry

        return RunnableRetry(
            self,
            retry_if_exception_type=retry_if_exception_type,
            wait_exponential_jitter=wait_exponential_jitter,
            exponential_jitter_params=exponential_jitter_params,
            stop_after_attempt=stop_after_attempt,
        )

    def with_fallbacks(
        self,
        fallbacks: Sequence[Runnable[In, Out]],
        *,
        exceptions_to_handle: tuple[type[BaseException], ...] = (Exception,),
        exception_key: str | None = None,
    ) -> RunnableWithFallbacks[In, Out]:
        """Return this with fallbacks, tried in order when it fails; if all fail, the first error is raised.

        Args:
            fallbacks: the runnables to try.
            exceptions_to_handle: the errors after which the next one is tried.
            exception_key: put the last error under this key of the (dict) input of the next one.
        """
        from batchrt.runnables.fallbacks import RunnableWithFallbacks

        return RunnableWithFallbacks(
            self, fallbacks, exceptions_to_handle=exceptions_to_handle, exception_key=exception_key
        )

    def with_listeners(
        self,
        *,
        on_start: Listener | None = None,
        on_end: Listener | None = None,
        on_error: Listener | None = None,
    ) -> RunnableWithListeners[In, Out]:
        """Return this with functions that are told of each item.

        They are called on the event loop with a `ListenedRun`, and with the configuration if they have a
        parameter named `config`; async ones are awaited. An error that a listener raises is the item's.

        Args:
            on_start: is called before the item runs.
            on_end: is called with its output.
            on_error: is called with its error.
        """
        from batchrt.runnables.listeners import RunnableWithListeners

        return RunnableWithListeners(self, on_start=on_start, on_end=on_end, on_error=on_error)

    def configurable_fields(self, **fields: ConfigurableField) -> RunnableConfigurableFields[In, Out]:
        """Return this with fields that a run may replace: `config={"configurable": {id: value}}`.

        Args:
            fields: by name: an option of a model, a prompt's `template`, an attribute of a class of your own.

        Raises:
            ValueError: this has no field of that name.
        """
        from batchrt.runnables.configurable import RunnableConfigurableFields

        return RunnableConfigurableFields(self, fields)

    def configurable_alternatives(
        self,
        which: ConfigurableField,
        *,
        default_key: str = "default",
        **alternatives: RunnableLike[In, Out] | Callable[[], Runnable[In, Out]],
    ) -> RunnableConfigurableAlternatives[In, Out]:
        """Return a runnable that runs the alternative that a run names: `config={"configurable": {id: key}}`.

        Args:
            which: its `id` is the key in `configurable`.
            default_key: names this one, which is run if nothing is named.
            alternatives: runnables by key, or functions without parameters that make them.
        """
        from batchrt.runnables.configurable import RunnableConfigurableAlternatives

        return RunnableConfigurableAlternatives(self, which, alternatives, default_key=default_key)

    def map(self) -> RunnableEach[In, Out]:
        """Return a runnable that takes a list and runs this over its elements."""
        from batchrt.runnables.each import RunnableEach

        return RunnableEach(self)

    def assign(self, **fields: RunnableLike[Any, Any]) -> RunnableSequence[In, dict[str, Any]]:
        """Return this with `fields` added to its output dict, each computed from it."""
        from batchrt.runnables.passthrough import RunnableAssign

        return _sequence(self, RunnableAssign(fields))

    def pick(self, keys: str | list[str]) -> RunnableSequence[In, Any]:
        """Return this with one key's value of its output dict, or a dict of several keys."""
        from batchrt.runnables.passthrough import RunnablePick

        return _sequence(self, RunnablePick(keys))


RunnableLike: TypeAlias = (
    Runnable[In, Out]
    | Callable[[In], Runnable[Any, Out]]
    | Callable[[In], Awaitable[Out]]
    | Callable[[In], Out]
    | Callable[[In, RunConfig], Awaitable[Out]]
    | Callable[[In, RunConfig], Out]
    | Callable[[AsyncIterator[In]], AsyncIterator[Out]]
    | Callable[[Iterator[In]], Iterator[Out]]
    | Mapping[str, Any]
)
"""A part of a chain: a runnable, a function (sync, async, or a generator over chunks), or a dict of them."""


def coerce(thing: Any) -> Runnable[Any, Any]:
    """Return `thing` as a runnable; one of LangChain's is run by this runtime.

    Raises:
        TypeError: if it is neither a runnable, nor callable, nor a dict of such.
    """
    from batchrt.runnables.generator import RunnableGenerator, is_generator_function
    from batchrt.runnables.lambdas import RunnableLambda
    from batchrt.runnables.parallel import RunnableParallel

    if isinstance(thing, Runnable):
        return thing
    if isinstance(thing, Mapping):
        return RunnableParallel(thing)
    if not isinstance(thing, FunctionType) and (foreign := adopted(thing)) is not None:
        return foreign
    if callable(thing):
        return RunnableGenerator(thing) if is_generator_function(thing) else RunnableLambda(thing)
    raise TypeError(
        f"a step of a chain must be a Runnable, a function or a dict of them, not {type(thing).__name__}"
    )


def _sequence(*steps: RunnableLike[Any, Any], name: str | None = None) -> RunnableSequence[Any, Any]:
    from batchrt.runnables.sequence import RunnableSequence

    return RunnableSequence(*steps, name=name)
