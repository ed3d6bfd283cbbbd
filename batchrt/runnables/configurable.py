"""Configurable runnables: fields and alternatives that a run's `configurable` chooses."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple, cast

from batchrt.runnables.base import In, Out, Runnable, RunnableLike, coerce
from batchrt.runnables.description import Description, together
from batchrt.runnables.keywords import keywords_of
from batchrt.runnables.streams import produced, transformed
from batchrt.runtime.step import Step
from batchrt.runtime.strand import Strand

__all__ = ["ConfigurableField", "RunnableConfigurableAlternatives", "RunnableConfigurableFields"]


_MOST_VARIANTS: Final = 100
"""Steps that are kept for values that come again."""


class ConfigurableField(NamedTuple):
    """Name a choice that `config={"configurable": {id: value}}` makes.

    Attributes:
        id: the key in `configurable`.
        name: for people.
        description: for people.
        annotation: the type of the value, for people.
    """

    id: str
    name: str | None = None
    description: str | None = None
    annotation: Any = None


class RunnableConfigurableFields(Runnable[In, Out]):
    """Run `default`, with fields replaced that the run's `configurable` names.

    See `Runnable.configurable_fields`.
    """

    def __init__(self, default: Runnable[In, Out], fields: Mapping[str, ConfigurableField]) -> None:
        for name, field in fields.items():
            if not isinstance(field, ConfigurableField):
                raise TypeError(f"{name} must be a ConfigurableField, not {type(field).__name__}")
            default._check_field(name)
        self.default: Runnable[In, Out] = default
        self.fields: dict[str, ConfigurableField] = dict(fields)

    def __repr__(self) -> str:
        return repr(self.default)

    def _takes(self, keyword: str) -> bool:
        return self.default._takes(keyword)

    def _keyword_hint(self, keyword: str) -> str:
        return self.default._keyword_hint(keyword)

    def describe(self, kwargs: Mapping[str, Any] | None = None) -> Description:
        """Return what the outputs depend on, without the choices of a run's `configurable`."""
        return together([self.default.describe(kwargs)])

    def _build(self, kwargs: Mapping[str, Any]) -> Step:
        default = self.default._step(kwargs)
        variants: dict[Any, Step] = {}

        def step_for(strand: Strand) -> Step:
            chosen = strand.config.get("configurable") or {}
            values = {name: chosen[field.id] for name, field in self.fields.items() if field.id in chosen}
            if not values:
                return default
            key = tuple((name, type(value), value) for name, value in values.items())
            try:
                step = variants.get(key)
            except TypeError:  # a value that has no hash
                return self.default._with_fields(values)._step(kwargs)
            if step is None:
                if len(variants) >= _MOST_VARIANTS:
                    variants.clear()
                step = variants[key] = self.default._with_fields(values)._step(kwargs)
            return step

        async def call(value: Any, strand: Strand) -> Any:
            return await step_for(strand).run(value, strand)

        return Step.of(
            call,
            [default],
            direct=default.inline or default.direct,
            produce=lambda value, strand: produced(step_for(strand), value, strand),
            transform=lambda chunks, strand: transformed(step_for(strand), chunks, strand),
        )


class RunnableConfigurableAlternatives(Runnable[In, Out]):
    """Run the alternative that the run's `configurable` names, or else `default`.

    See `Runnable.configurable_alternatives`.
    """

    def __init__(
        self,
        default: Runnable[In, Out],
        which: ConfigurableField,
        alternatives: Mapping[str, RunnableLike[In, Out] | Callable[[], Runnable[In, Out]]],
        *,
        default_key: str = "default",
    ) -> None:
        if not isinstance(which, ConfigurableField):
            raise TypeError(f"which must be a ConfigurableField, not {type(which).__name__}")
        if default_key in alternatives:
            raise ValueError(f"{default_key!r} names the default; give it or the alternative another key")
        self.default: Runnable[In, Out] = default
        self.which: ConfigurableField = which
        self.default_key: str = default_key
        self.alternatives: dict[str, Runnable[In, Out]] = {
            key: _runnable(alternative) for key, alternative in alternatives.items()
        }

    def _all(self) -> dict[str, Runnable[In, Out]]:
        return {self.default_key: self.default, **self.alternatives}

    def _takes(self, keyword: str) -> bool:
        return any(runnable._takes(keyword) for runnable in self._all().values())

    def describe(self, kwargs: Mapping[str, Any] | None = None) -> Description:
        """Return what the outputs depend on, without the choice of a run's `configurable`."""
        runnables = self._all().values()
        return together(runnable.describe(keywords_of(runnable, kwargs or {})) for runnable in runnables)

    def _build(self, kwargs: Mapping[str, Any]) -> Step:
        steps = {key: runnable._step(keywords_of(runnable, kwargs)) for key, runnable in self._all().items()}
        field, default_key = self.which, self.default_key

        def chosen(strand: Strand) -> Step:
            key = (strand.config.get("configurable") or {}).get(field.id, default_key)
            step = steps.get(key)
            if step is None:
                keys = ", ".join(map(repr, steps))
                raise ValueError(f"configurable[{field.id!r}] is {key!r}; the alternatives are {keys}")
            return step

        async def call(value: Any, strand: Strand) -> Any:
            return await chosen(strand).run(value, strand)

        every = steps.values()
        return Step.of(
            call,
            every,
            direct=all(step.inline or step.direct for step in every),
            produce=lambda value, strand: produced(chosen(strand), value, strand),
            transform=lambda chunks, strand: transformed(chosen(strand), chunks, strand),
        )


def _runnable(alternative: Any) -> Runnable[Any, Any]:
    """Return an alternative, which LCEL also takes as a function without parameters that makes it."""
    if not isinstance(alternative, Runnable | Mapping) and callable(alternative):
        made = cast("Callable[[], Any]", alternative)
        try:
            return coerce(made())
        except TypeError as error:
            problem = "an alternative is a runnable, or a function without parameters that makes one"
            raise TypeError(f"{problem}: {error}") from error
    return coerce(alternative)
