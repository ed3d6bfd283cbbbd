"""The options of an embedding model, checked before anything is sent."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from batchrt.providers.options import ModelOptions, check_lists

__all__ = ["OF_THE_MODEL", "check_list_options", "request_fields"]

_NOT_OFFERED: Final = {
    "input": "the texts are the input",
    "encoding_format": "it is for the model as a whole: give it to OpenAIEmbeddings",
}
_ENCODINGS: Final = ("base64", "float")
OF_THE_MODEL: Final = ModelOptions.__optional_keys__ - {"extra_body"} | {
    *("max_batch_tokens", "server", "tokenizer", "truncate")
}


def request_fields(*layers: Mapping[str, Any]) -> dict[str, Any]:
    """Return the members of a request beside the texts, later layers over earlier ones.

    A layer's `extra_body` overrides all options; `None` is not sent.

    Raises:
        ValueError: for an option that makes no sense, or that cannot be set like this.
        TypeError: for a value of the wrong type.
    """
    options: dict[str, Any] = {}
    extra: dict[str, Any] = {}
    for layer in layers:
        for name, value in layer.items():
            if name == "extra_body":
                extra |= {inner: _offered(inner, given) for inner, given in (value or {}).items()}
            else:
                options[name] = _checked(name, value)
    if not isinstance(options.get("model"), str) or not options["model"]:
        raise ValueError(f"model must be the name of a model, not {options.get('model')!r}")
    return {name: value for name, value in options.items() if value is not None} | extra


def _offered(name: str, value: Any) -> Any:
    if name in _NOT_OFFERED:
        raise ValueError(f"{name} cannot be set: {_NOT_OFFERED[name]}")
    return value


def _checked(name: str, value: Any) -> Any:
    if name in OF_THE_MODEL:
        raise ValueError(f"{name} belongs to the model as a whole: give it to OpenAIEmbeddings")
    return _count(name, value) if name == "dimensions" else _offered(name, value)


def _count(name: str, value: Any) -> Any:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be a whole number, not {type(value).__name__}")
    if value < 1:
        raise ValueError(f"{name} must be 1 or more, not {value}")
    return value


def check_list_options(
    *,
    max_batch_size: int | None,
    max_batch_tokens: int | None,
    truncate: bool | int,
    encoding_format: str,
    linger: float | None,
    max_linger: float | None,
) -> None:
    """Raise ValueError or TypeError for an invalid option."""
    check_lists(1 if max_batch_size is None else max_batch_size, linger or 0.0, max_linger or 0.0)
    _count("max_batch_tokens", max_batch_tokens)
    if not isinstance(truncate, bool):
        _count("truncate", truncate)
    if encoding_format not in _ENCODINGS:
        raise ValueError(f'encoding_format must be "base64" or "float", not {encoding_format!r}')
