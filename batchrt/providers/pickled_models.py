"""Pickled models: the arguments that they are made of again, without keys."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any, Final
from urllib.parse import parse_qsl, urlsplit

from batchrt.providers.http.secrets import is_credential

__all__ = ["PickledArguments", "attributes_of", "restored"]

_OF_THE_PROCESS: Final = ("http_client", "transport", "ssl_context", "quota")
"""Options that belong to one process."""


class PickledArguments:
    """The arguments of a model, to make it again in another process.

    A key is never among them: the other process has its own, in `OPENAI_API_KEY`.

    Args:
        settings: the model's options, complete.
        named: its other arguments.
    """

    def __init__(self, settings: Mapping[str, Any], named: Mapping[str, Any]) -> None:
        headers = settings["extra_headers"] or {}
        self._problem = _problem_of(settings)
        kept = {name: value for name, value in settings.items() if name != "api_key" and value is not None}
        if headers:
            kept["extra_headers"] = {
                name: value for name, value in headers.items() if not is_credential(name.lower())
            }
        self._arguments: dict[str, Any] = {**named, **kept}

    def get(self) -> dict[str, Any]:
        """Return the arguments.

        Raises:
            TypeError: the model has an option that must not, or cannot, leave its process.
        """
        if self._problem is not None:
            raise TypeError(f"a model with {self._problem} cannot be pickled: make it in each process")
        return self._arguments


def _problem_of(settings: Mapping[str, Any]) -> str | None:
    for name in _OF_THE_PROCESS:
        if settings[name] is not None:
            return f"its own {name}"
    if any(is_credential(name.lower()) for name in settings["extra_headers"] or {}):
        return "credentials in extra_headers"
    url = urlsplit(settings["base_url"] or "")
    if url.username or url.password or any(is_credential(name.lower()) for name, _ in parse_qsl(url.query)):
        return "credentials in base_url"
    return None


@cache
def attributes_of(kind: type) -> frozenset[str]:
    """Return the names of the attributes that the constructor of a model's class sets."""
    return frozenset(vars(kind("model", base_url="http://localhost", api_key="")))


def restored(kind: type, owner: type[Any], arguments: Mapping[str, Any], others: Mapping[str, Any]) -> Any:
    """Return the model of a pickle.

    Args:
        kind: its class.
        owner: the class among its bases whose constructor takes `arguments`.
        arguments: of the constructor.
        others: attributes that subclasses have added.
    """
    model: Any = object.__new__(kind)
    owner.__init__(model, **arguments)
    model.__dict__.update(others)
    return model
