"""Configurations: checked before a run starts, merged as in LCEL."""

from __future__ import annotations

import re
from types import MappingProxyType
from typing import Any

import pytest

from batchrt.config import RunConfig, cap_of, check_config, merge_configs
from batchrt.prices import Price


def test_config_of_none_is_empty() -> None:
    assert check_config(None) == {}
    assert check_config({}) == {}


def test_config_is_copied() -> None:
    given: RunConfig = {"max_concurrency": 5, "timeout": 1.5, "deadline": 60, "window": 10, "tags": ["a"]}
    checked = check_config(given)
    assert checked == given
    assert checked is not given


def test_config_may_be_any_mapping() -> None:
    assert check_config(MappingProxyType({"max_concurrency": 3})) == {"max_concurrency": 3}


@pytest.mark.parametrize("key", ["max_concurrency", "timeout", "deadline"])
def test_config_none_is_no_limit(key: str) -> None:
    assert check_config({key: None}) == {key: None}


def test_config_concurrency_may_be_auto() -> None:
    """No other string is accepted, and no other key takes it."""
    assert check_config({"max_concurrency": "auto"}) == {"max_concurrency": "auto"}
    for word in ("AUTO", "automatic", ""):
        with pytest.raises(TypeError, match='must be a positive integer, "auto" or None'):
            check_config({"max_concurrency": word})
    for key in ("window", "timeout", "deadline", "recursion_limit"):
        with pytest.raises(TypeError, match=key):
            check_config({key: "auto"})


def test_config_cap_is_a_number() -> None:
    """`"auto"` limits requests and is no cap on functions."""
    assert cap_of({"max_concurrency": "auto"}) is None
    assert cap_of({"max_concurrency": None}) is None
    assert cap_of({}) is None
    assert cap_of({"max_concurrency": 7}) == 7


@pytest.mark.parametrize("value", [0, -1, -100])
@pytest.mark.parametrize("key", ["max_concurrency", "window"])
def test_config_count_is_at_least_one(key: str, value: int) -> None:
    with pytest.raises(ValueError, match=f"{key} must be at least 1, not {value}"):
        check_config({key: value})


@pytest.mark.parametrize("value", ["5", 2.0, True, [5]])
@pytest.mark.parametrize("key", ["max_concurrency", "window", "recursion_limit"])
def test_config_count_is_an_integer(key: str, value: Any) -> None:
    with pytest.raises(TypeError, match=key):
        check_config({key: value})


def test_config_window_cannot_be_none() -> None:
    with pytest.raises(TypeError, match="window"):
        check_config({"window": None})


@pytest.mark.parametrize("value", [0, 0.0, -1, float("inf"), float("nan")])
@pytest.mark.parametrize("key", ["timeout", "deadline"])
def test_config_seconds_are_positive_and_finite(key: str, value: float) -> None:
    with pytest.raises(ValueError, match=key):
        check_config({key: value})


@pytest.mark.parametrize("value", ["5", True, [1]])
@pytest.mark.parametrize("key", ["timeout", "deadline"])
def test_config_seconds_are_a_number(key: str, value: Any) -> None:
    with pytest.raises(TypeError, match=key):
        check_config({key: value})


def test_config_names_an_unknown_key() -> None:
    with pytest.raises(ValueError, match=r"'max_concurency'.*max_concurrency"):
        check_config({"max_concurency": 5})


@pytest.mark.parametrize(
    ("key", "hint"),
    [
        ("max_concurency", "'max_concurency', did you mean 'max_concurrency'? the keys are cache, "),
        (
            "callbacks",
            "'callbacks'; batchrt has no callbacks, and its runs have no ids; the keys are cache, ",
        ),
        ("zzz", "'zzz'; the keys are cache, "),
    ],
)
def test_config_suggests_the_key_that_is_meant(key: str, hint: str) -> None:
    """By its spelling; a key of LangChain's gets the reason why it is missing."""
    with pytest.raises(ValueError, match=re.escape(f"config has no key {hint}")):
        check_config({key: 5})


@pytest.mark.parametrize("value", [5, "max_concurrency", [("max_concurrency", 5)]])
def test_config_must_be_a_mapping(value: Any) -> None:
    with pytest.raises(TypeError, match="must be a mapping"):
        check_config(value)


def test_config_merge_prefers_the_inner() -> None:
    assert merge_configs({"timeout": 1, "window": 5}, {"timeout": 2}) == {"timeout": 2, "window": 5}


def test_config_merge_adds_tags_and_merges_dicts() -> None:
    outer: RunConfig = {"tags": ["a", "b"], "metadata": {"x": 1, "y": 1}, "configurable": {"m": 1}}
    inner: RunConfig = {"tags": ["b", "c"], "metadata": {"y": 2}, "configurable": {"n": 2}}
    assert merge_configs(outer, inner) == {
        "tags": ["a", "b", "c"],
        "metadata": {"x": 1, "y": 2},
        "configurable": {"m": 1, "n": 2},
    }


def test_config_merge_changes_neither_of_the_two() -> None:
    outer: RunConfig = {"tags": ["a"], "metadata": {"x": 1}}
    inner: RunConfig = {"tags": ["b"], "metadata": {"x": 2}}
    merge_configs(outer, inner)
    assert (outer, inner) == ({"tags": ["a"], "metadata": {"x": 1}}, {"tags": ["b"], "metadata": {"x": 2}})


def test_config_checks_and_merges_spending_limits() -> None:
    """Prices are replaced as a whole."""
    outer = check_config({"max_tokens_total": 100, "max_cost": 5, "prices": {"a": Price(1)}})
    inner = check_config({"max_tokens_total": None, "prices": {"b": Price(2)}})
    assert merge_configs(outer, inner) == {"max_tokens_total": None, "max_cost": 5, "prices": {"b": Price(2)}}
    with pytest.raises(ValueError, match="max_tokens_total"):
        check_config({"max_tokens_total": 0})
    assert check_config({"max_cost": 5}) == {"max_cost": 5}  # the prices may be bound
    with pytest.raises(TypeError, match="prices"):
        check_config({"prices": 5})


@pytest.mark.parametrize(
    ("key", "bound"),
    [("max_concurrency", 3), ("max_concurrency", "auto"), ("timeout", 1.5), ("deadline", 2.0)],
)
def test_config_merge_keeps_a_bound_cap_over_none(key: str, bound: Any) -> None:
    """As in LCEL; a number changes it, and without a bound value `None` stays `None`."""
    outer, none = check_config({key: bound}), check_config({key: None})
    assert merge_configs(outer, none) == {key: bound}
    assert merge_configs(outer, check_config({key: 7, "tags": []})) == {key: 7, "tags": []}
    assert merge_configs(check_config({}), none) == {key: None}
    assert merge_configs(none, none) == {key: None}
    assert merge_configs(none, outer) == {key: bound}
