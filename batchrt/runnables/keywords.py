"""Keyword arguments of a call: which runnable takes one, and a hint for one that none takes."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final

from batchrt.config import RunConfig

if TYPE_CHECKING:
    from batchrt.runnables.base import Runnable

__all__ = ["check_keywords", "function_takes", "is_config_key", "keywords_of"]

_CONFIG: Final = frozenset(RunConfig.__annotations__)
_CONFIG_ALONE: Final = frozenset(
    (
        "configurable",
        "deadline",
        "max_concurrency",
        "max_cost",
        "max_tokens_total",
        "recursion_limit",
        "run_name",
    )
)
"""Names that belong to a config alone: not even `**kwargs` take them."""
_ELSEWHERE: Final = {
    "return_exceptions": "the batch methods take it; run and arun give every item's outcome as it is",
    "callbacks": "batchrt has none",
}


def check_keywords(runnable: Runnable[Any, Any], kwargs: Mapping[str, Any]) -> None:
    """Raise TypeError for a keyword argument that `runnable` does not take, with the place it belongs to."""
    for name in kwargs:
        if not runnable._takes(name):
            raise TypeError(
                f"{runnable.get_name()} takes no keyword argument {name!r}: {_hint_for(runnable, name)}"
            )


def keywords_of(runnable: Runnable[Any, Any], kwargs: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the part of `kwargs` that `runnable` takes."""
    return {name: value for name, value in kwargs.items() if runnable._takes(name)} if kwargs else kwargs


def is_config_key(name: str) -> bool:
    """Return whether a config has a key of this name."""
    return name in _CONFIG


def function_takes(functions: Iterable[Callable[..., Any]], name: str) -> bool:
    """Return whether one of `functions` takes a keyword argument `name`; true for unknown signatures."""
    return any(_takes(function, name) for function in functions)


def _takes(function: Callable[..., Any], name: str) -> bool:
    try:
        parameters = inspect.signature(function).parameters
    except (TypeError, ValueError):  # builtins have none
        return name not in _CONFIG_ALONE
    parameter = parameters.get(name)
    if parameter is not None and parameter.kind in {parameter.KEYWORD_ONLY, parameter.POSITIONAL_OR_KEYWORD}:
        return True
    return name not in _CONFIG_ALONE and any(
        parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()
    )


def _hint_for(runnable: Runnable[Any, Any], name: str) -> str:
    if name in _CONFIG:
        return f"put it into config=, as config={{{name!r}: …}}"
    if name in _ELSEWHERE:
        return _ELSEWHERE[name]
    for step in getattr(runnable, "steps", ())[1:]:
        if step._takes(name):
            own = f"bind it to its own, as step.bind({name}=…)"
            return f"keyword arguments of a call go to the first step; {own}"
    return runnable._keyword_hint(name)
