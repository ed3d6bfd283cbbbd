"""Runnables of other libraries: recognized by the module of a base class, adapted by an integration."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from sys import modules
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from batchrt.runnables.base import Runnable

__all__ = ["adopted", "exported"]

_ADAPTERS: Final[Mapping[str, str]] = {"langchain_core.runnables.base": "batchrt.integrations.langchain"}
"""The integration for objects with a base class of a module. It defines `adopt`, which returns one of them as
a runnable of ours, and `export`, which does the reverse. Its name is a string, so that nothing here imports it."""


def adopted(thing: object) -> Runnable[Any, Any] | None:
    """Return a runnable of another library as one of ours; `None` if `thing` is not one."""
    for base in type(thing).__mro__:
        adapter = _ADAPTERS.get(base.__module__)
        if adapter is not None:
            runnable: Runnable[Any, Any] = import_module(adapter).adopt(thing)
            return runnable
    return None


def exported(runnable: Runnable[Any, Any]) -> Any:
    """Return `runnable` as one of the other library that is loaded.

    Raises:
        TypeError: none is loaded.
    """
    for home, adapter in _ADAPTERS.items():
        if home in modules:
            return import_module(adapter).export(runnable)
    raise TypeError(f"{runnable.get_name()} is not a function: run it by invoke or ainvoke")
