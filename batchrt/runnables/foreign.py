"""Runnables and messages of other libraries, recognized by the module of a base class.

An integration adapts them; its name is a string, so that no file of the library is imported here.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from sys import modules
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from batchrt.messages import Message
    from batchrt.runnables.base import Runnable

__all__ = ["adopted", "adopted_message", "exported"]

_ADAPTERS: Final[Mapping[str, str]] = {"langchain_core.runnables.base": "batchrt.integrations.langchain"}
"""The integration for runnables with a base class of a module. It defines `adopt`, which returns one of them
as a runnable of ours, and `export`, which does the reverse."""
_MESSAGES: Final[Mapping[str, str]] = {"langchain_core.messages.base": "batchrt.integrations.langchain"}
"""The same for messages; the integration defines `adopt_message`."""


def adopted(thing: object) -> Runnable[Any, Any] | None:
    """Return a runnable of another library as one of ours; `None` if `thing` is not one."""
    adapter = _adapter_of(thing, _ADAPTERS)
    if adapter is None:
        return None
    runnable: Runnable[Any, Any] = import_module(adapter).adopt(thing)
    return runnable


def adopted_message(thing: object) -> Message | None:
    """Return a message of another library as one of ours; `None` if `thing` is not one."""
    adapter = _adapter_of(thing, _MESSAGES)
    if adapter is None:
        return None
    message: Message = import_module(adapter).adopt_message(thing)
    return message


def exported(runnable: Runnable[Any, Any]) -> Any:
    """Return `runnable` as one of the other library that is loaded.

    Raises:
        TypeError: none is loaded.
    """
    for home, adapter in _ADAPTERS.items():
        if home in modules:
            return import_module(adapter).export(runnable)
    raise TypeError(f"{runnable.get_name()} is not a function: run it by invoke or ainvoke")


def _adapter_of(thing: object, adapters: Mapping[str, str]) -> str | None:
    found = (adapters.get(base.__module__) for base in type(thing).__mro__)
    return next((adapter for adapter in found if adapter is not None), None)
