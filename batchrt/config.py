"""RunConfig: the options of a run, their checks and how they merge."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias, TypedDict, cast

from batchrt.prices import Price, check_spending

if TYPE_CHECKING:
    from batchrt.response_cache import ResponseCache

__all__ = [
    "DEFAULT_RECURSION_LIMIT",
    "RunConfig",
    "RunnableConfig",
    "cache_of",
    "cap_of",
    "check_config",
    "complete_config",
    "merge_configs",
]

DEFAULT_RECURSION_LIMIT: Final = 25
"""Runnables in a row that a function may return; LCEL's number."""


class RunConfig(TypedDict, total=False):
    """Configure a run; every key is optional.

    Attributes:
        max_concurrency: the cap on concurrent leaf calls (an async function's body, a sync function in its
            thread, one request) in the whole run, however runnables nest. A positive integer, or `None`
            (the default) for no cap on leaves; the window still bounds items, and sync functions get 64
            threads. `"auto"` caps requests alone, at the number that each provider is found to answer
            best. In a nested call the cap holds in addition to the outer one.
        timeout: seconds for one item, its retries and waits included. A function that is running in a
            thread cannot be interrupted: the item ends when the function does.
        deadline: seconds for the whole run. Items unfinished by then are cancelled.
        max_tokens_total: the tokens that the run may spend, of prompts and answers, nested calls included.
            The expected tokens of requests in flight are reserved. When the next request does not fit, the
            run ends: requests in flight finish, and no more are sent (`SpendingLimitError`).
        max_cost: the same bound on money, in the currency of `prices`.
        prices: a `Price` for all models, or a dict of prices by model name.
        cache: the path of a file with answers of identical requests, or a `ResponseCache`: what is there is
            not sent, and new answers are kept. Nested calls use it too.
        window: the number of items that may be admitted and not yet delivered; bounds memory. Default: ten
            times `max_concurrency`, at least 1,000.
        progress: show a bar of the items that have ended, on stderr or in a notebook. Needs
            `batchrt[progress]`. For the run alone, and not for nested calls.
        recursion_limit: runnables in a row that a function may return. Default 25.
        tags, metadata, run_name, configurable: for your own use. They are passed to functions that take a
            `config`, inherited by nested calls, and merged by `with_config`.
    """

    max_concurrency: int | Literal["auto"] | None
    timeout: float | None
    deadline: float | None
    max_tokens_total: int | None
    max_cost: float | None
    prices: Price | Mapping[str, Price] | None
    cache: ResponseCache | str | os.PathLike[str] | None
    window: int
    progress: bool
    recursion_limit: int
    tags: list[str]
    metadata: dict[str, Any]
    run_name: str
    configurable: dict[str, Any]


RunnableConfig: TypeAlias = RunConfig
"""LCEL's name for `RunConfig`."""

_KEYS: Final = frozenset(RunConfig.__annotations__)
_KEPT: Final[tuple[Literal["max_concurrency", "timeout", "deadline"], ...]] = (
    "max_concurrency",
    "timeout",
    "deadline",
)
_SPENDING: Final = frozenset({"max_tokens_total", "max_cost", "prices"})
_LANGCHAIN: Final = frozenset({"callbacks", "run_id"})


def check_config(config: Mapping[str, Any] | None) -> RunConfig:
    """Return a checked copy of `config`, with its cache opened; called before the run starts.

    Raises:
        InputError: the cache cannot be used; see `ResponseCache`.
        ValueError: for a number out of range, or an unknown key.
        TypeError: for a value of the wrong type.
    """
    if config is None:
        return RunConfig()
    if not isinstance(config, Mapping):
        raise TypeError(f"config must be a mapping, not {type(config).__name__}: {config!r}")
    unknown = sorted(str(key) for key in config if key not in _KEYS)
    if unknown:
        raise ValueError(_unknown(unknown))
    if config.get("max_concurrency") != "auto":
        _check_count(config, "max_concurrency", optional=True)
    _check_count(config, "window")
    _check_count(config, "recursion_limit", least=0)
    _check_seconds(config, "timeout")
    _check_seconds(config, "deadline")
    if not isinstance(config.get("progress", False), bool):
        raise TypeError(f"progress must be True or False, not {config['progress']!r}")
    if not _SPENDING.isdisjoint(config):
        check_spending(config)
    checked = cast("RunConfig", dict(config))
    if "cache" in config:
        # Most runs have none, and need not pay for its import.
        from batchrt.response_cache import opened_cache

        checked["cache"] = opened_cache(config["cache"])
    return checked


def _unknown(names: Sequence[str]) -> str:
    close = get_close_matches(names[0], _KEYS, n=1)
    hint = f", did you mean {close[0]!r}?" if close else ""
    if not _LANGCHAIN.isdisjoint(names):
        hint = "; batchrt has no callbacks, and its runs have no ids"
    listed, keys = ", ".join(map(repr, names)), ", ".join(sorted(_KEYS))
    return f"config has no key {listed}{hint}{'' if hint.endswith('?') else ';'} the keys are {keys}"


def _check_count(config: Mapping[str, Any], key: str, *, optional: bool = False, least: int = 1) -> None:
    if key not in config or (optional and config[key] is None):
        return
    value = config[key]
    if isinstance(value, bool) or not isinstance(value, int):
        allowed = 'a positive integer, "auto" or None' if optional else "a positive integer"
        raise TypeError(f"{key} must be {allowed}, not {value!r}")
    if value < least:
        hint = "; None means no cap" if optional else ""
        raise ValueError(f"{key} must be at least {least}, not {value}{hint}")


def _check_seconds(config: Mapping[str, Any], key: str) -> None:
    value = config.get(key)
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{key} must be a number of seconds or None, not {value!r}")
    if not (value > 0 and math.isfinite(value)):
        raise ValueError(f"{key} must be a positive, finite number of seconds or None, not {value}")


def merge_configs(outer: RunConfig, inner: RunConfig) -> RunConfig:
    """Return `outer` updated with `inner`: tags add up, metadata and configurable merge.

    As in LCEL, an explicit `None` does not lift a bound cap, timeout or deadline. It does lift a spending
    limit, which LCEL does not have.
    """
    if not inner:
        return outer
    if not outer:
        return inner
    merged = cast("RunConfig", {**outer, **inner})
    for key in _KEPT:
        if key in inner and inner[key] is None and key in outer:
            merged[key] = outer[key]
    if "tags" in outer and "tags" in inner:
        merged["tags"] = _union(outer["tags"], inner["tags"])
    if "metadata" in outer and "metadata" in inner:
        merged["metadata"] = {**outer["metadata"], **inner["metadata"]}
    if "configurable" in outer and "configurable" in inner:
        merged["configurable"] = {**outer["configurable"], **inner["configurable"]}
    return merged


def cap_of(config: RunConfig) -> int | None:
    """Return the cap on leaf calls in `config`; `None` if there is none."""
    cap = config.get("max_concurrency")
    return None if cap == "auto" else cap


def cache_of(config: RunConfig) -> ResponseCache | None:
    """Return the response cache in a checked `config`; `None` if there is none."""
    return cast("ResponseCache | None", config.get("cache"))


def complete_config(config: RunConfig) -> RunConfig:
    """Return a complete copy of `config` to pass to a function.

    As in LCEL, it always has `tags`, `metadata`, `configurable` and `recursion_limit`, and the function's
    changes to it stay its own.
    """
    return {
        "recursion_limit": DEFAULT_RECURSION_LIMIT,
        **config,
        "tags": [*config.get("tags", ())],
        "metadata": {**config.get("metadata", {})},
        "configurable": {**config.get("configurable", {})},
    }


def _union(first: Sequence[str], second: Sequence[str]) -> list[str]:
    return list(dict.fromkeys([*first, *second]))
