"""Configurations: checked before anything runs, merged as LCEL merges them."""

from __future__ import annotations

from types import MappingProxyType
from typing import Any

import pytest

from batchrt.config import RunConfig, cap_of, check_config, merge_configs
from batchrt.prices import Price


def test_nothing_is_an_empty_config() -> None:
    assert check_config(None) == {}
    assert check_config({}) == {}


def test_what_makes_sense_is_copied() -> None:
    given: RunConfig = {"max_concurrency": 5, "timeout": 1.5, "deadline": 60, "window": 10, "tags": ["a"]}
    checked = check_config(given)
    assert checked == given
    assert checked is not given


def test_any_mapping_will_do() -> None:
    assert check_config(MappingProxyType({"max_concurrency": 3})) == {"max_concurrency": 3}


@pytest.mark.parametrize("key", ["max_concurrency", "timeout", "deadline"])
def test_none_is_no_limit(key: str) -> None:
    assert check_config({key: None}) == {key: None}


def test_a_concurrency_may_find_itself() -> None:
    """And nothing else may; no other word is one."""
    assert check_config({"max_concurrency": "auto"}) == {"max_concurrency": "auto"}
    for word in ("AUTO", "automatic", ""):
        with pytest.raises(TypeError, match='must be a positive integer, "auto" or None'):
            check_config({"max_concurrency": word})
    for key in ("window", "timeout", "deadline", "recursion_limit"):
        with pytest.raises(TypeError, match=key):
            check_config({key: "auto"})


def test_only_a_number_caps_leaves() -> None:
    """What finds itself is for requests, and no cap on functions."""
    assert cap_of({"max_concurrency": "auto"}) is None
    assert cap_of({"max_concurrency": None}) is None
    assert cap_of({}) is None
    assert cap_of({"max_concurrency": 7}) == 7


@pytest.mark.parametrize("value", [0, -1, -100])
@pytest.mark.parametrize("key", ["max_concurrency", "window"])
def test_a_count_is_at_least_one(key: str, value: int) -> None:
    with pytest.raises(ValueError, match=f"{key} must be at least 1, not {value}"):
        check_config({key: value})


@pytest.mark.parametrize("value", ["5", 2.0, True, [5]])
@pytest.mark.parametrize("key", ["max_concurrency", "window", "recursion_limit"])
def test_a_count_is_an_integer(key: str, value: Any) -> None:
    with pytest.raises(TypeError, match=key):
        check_config({key: value})


def test_a_window_cannot_be_none() -> None:
    with pytest.raises(TypeError, match="window"):
        check_config({"window": None})


@pytest.mark.parametrize("value", [0, 0.0, -1, float("inf"), float("nan")])
@pytest.mark.parametrize("key", ["timeout", "deadline"])
def test_seconds_are_positive_and_finite(key: str, value: float) -> None:
    with pytest.raises(ValueError, match=key):
        check_config({key: value})


@pytest.mark.parametrize("value", ["5", True, [1]])
@pytest.mark.parametrize("key", ["timeout", "deadline"])
def test_seconds_are_a_number(key: str, value: Any) -> None:
    with pytest.raises(TypeError, match=key):
        check_config({key: value})


def test_a_key_that_means_nothing_is_named() -> None:
    with pytest.raises(ValueError, match=r"'max_concurency'.*max_concurrency"):
        check_config({"max_concurency": 5})


@pytest.mark.parametrize("value", [5, "max_concurrency", [("max_concurrency", 5)]])
def test_a_config_is_a_mapping(value: Any) -> None:
    with pytest.raises(TypeError, match="must be a mapping"):
        check_config(value)


def test_the_inner_config_is_laid_over_the_outer() -> None:
    assert merge_configs({"timeout": 1, "window": 5}, {"timeout": 2}) == {"timeout": 2, "window": 5}


def test_tags_add_up_and_dicts_merge() -> None:
    outer: RunConfig = {"tags": ["a", "b"], "metadata": {"x": 1, "y": 1}, "configurable": {"m": 1}}
    inner: RunConfig = {"tags": ["b", "c"], "metadata": {"y": 2}, "configurable": {"n": 2}}
    assert merge_configs(outer, inner) == {
        "tags": ["a", "b", "c"],
        "metadata": {"x": 1, "y": 2},
        "configurable": {"m": 1, "n": 2},
    }


def test_merging_changes_neither_of_the_two() -> None:
    outer: RunConfig = {"tags": ["a"], "metadata": {"x": 1}}
    inner: RunConfig = {"tags": ["b"], "metadata": {"x": 2}}
    merge_configs(outer, inner)
    assert (outer, inner) == ({"tags": ["a"], "metadata": {"x": 1}}, {"tags": ["b"], "metadata": {"x": 2}})


def test_limits_of_spending_are_checked_with_the_rest() -> None:
    """And are laid over each other like everything else: prices as a whole."""
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
def test_none_does_not_lift_what_is_bound(key: str, bound: Any) -> None:
    """As in LCEL; a number does change it, and where nothing is bound None is what it is."""
    outer, none = check_config({key: bound}), check_config({key: None})
    assert merge_configs(outer, none) == {key: bound}
    assert merge_configs(outer, check_config({key: 7, "tags": []})) == {key: 7, "tags": []}
    assert merge_configs(check_config({}), none) == {key: None}
    assert merge_configs(none, none) == {key: None}
    assert merge_configs(none, outer) == {key: bound}
