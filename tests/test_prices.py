"""Prices of tokens, and checks of spending limits."""

from __future__ import annotations

import math
from types import MappingProxyType
from typing import Any

import pytest

from batchrt import Price, Usage
from batchrt.prices import check_prices, check_spending


def test_price_is_per_million_tokens() -> None:
    """Prompts and answers have separate prices; embedded texts have no answer."""
    assert Price(input=0.25, output=2.0).of(1_000_000, 500_000) == 1.25
    assert Price(2).of(500_000, 0) == 1.0
    assert Price(2).of(0, 500_000) == 0.0


def test_price_of_cached_input_is_lower() -> None:
    """A tenth by default; cached tokens are part of the input."""
    assert Price(1.0).of(1_000_000, 0, 900_000) == pytest.approx(0.1 + 0.09)
    assert Price(1.0, cached_input=0.5).of(1_000_000, 0, 900_000) == pytest.approx(0.1 + 0.45)
    assert Price(1.0, cached_input=0).of(1_000_000, 0, 1_000_000) == 0.0
    assert Price(2.0, 8.0).of(1_000_000, 1_000_000, 0) == 10.0


@pytest.mark.parametrize(
    ("tier", "cost"),
    [
        (None, 4.0),
        ("default", 4.0),
        ("flex", 2.0),
        ("batch", 2.0),
        ("priority", 7.0),
        ("scale", 3.5),
        ("x", 4.0),
    ],
)
def test_price_of_a_tier_is_separate(tier: str | None, cost: float) -> None:
    """Flex and batch cost half by default."""
    price = Price(2.0, 2.0, tiers={"priority": 1.75, "scale": Price(1.5, 2.0)})
    assert price.of(1_000_000, 1_000_000, 0, tier) == cost
    assert Price(2.0, tiers={"flex": 1.0}).of(1_000_000, 0, 0, "flex") == 2.0


def test_price_tiers_are_checked() -> None:
    """They are prices or factors."""
    with pytest.raises(TypeError, match="tiers must be a dict"):
        Price(1, tiers=0.5)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"tiers\['flex'\] must be 0 or more"):
        Price(1, tiers={"flex": -1})
    with pytest.raises(TypeError, match="cached_input must be a number"):
        Price(1, cached_input="1")  # type: ignore[arg-type]


def test_price_of_long_requests_is_for_all_of_their_tokens() -> None:
    """The prices of the greatest length that is exceeded hold, for each tier."""
    long, longer = Price(2.0, 3.0), Price(4.0)
    flex = Price(0.5, long_context={200_000: Price(1.0)})
    price = Price(1.0, 2.0, tiers={"flex": flex}, long_context={200_000: long, 500_000: longer})
    assert price.of(200_000, 100_000) == pytest.approx(0.4)
    assert price.of(200_001, 100_000) == pytest.approx(0.7, rel=1e-4)
    assert price.of(1_000_000, 0) == 4.0
    assert price.of(1_000_000, 0, 0, "flex") == 1.0
    assert price.of(1_000_000, 0, 0, "batch") == 2.0
    assert price.of_usage(Usage(1_000_000, 0, 1_000_000)) == 4.0


def test_price_of_usage_has_cache_writes_and_audio() -> None:
    """Each is a part of the input or output and has its own price, if one is known."""
    usage = Usage(
        1_000_000,
        1_000_000,
        2_000_000,
        cached_input_tokens=200_000,
        cache_write_tokens=400_000,
        input_audio_tokens=100_000,
        output_audio_tokens=500_000,
    )
    assert Price(1.0, 2.0).of_usage(usage) == pytest.approx(0.8 + 0.02 + 2.0)
    price = Price(1.0, 2.0, cache_write=1.25, input_audio=5.0, output_audio=10.0)
    assert price.of_usage(usage) == pytest.approx(0.3 + 0.02 + 0.5 + 0.5 + 1.0 + 5.0)
    assert price.of_usage(usage + usage) == pytest.approx(2 * price.of_usage(usage))


@pytest.mark.parametrize("given", [5, {1.5: Price(1)}, {True: Price(1)}, {-1: Price(1)}, {1: 2.0}])
def test_price_long_context_is_checked(given: Any) -> None:
    """Keys are numbers of tokens, values prices."""
    with pytest.raises(TypeError, match="long_context"):
        Price(1, long_context=given)


def test_price_may_be_zero() -> None:
    """A self-hosted model is free."""
    assert Price(0, 0).of(10**9, 10**9) == 0.0


def test_price_is_immutable() -> None:
    """It may be shared and compared."""
    price = Price(1, 2)
    with pytest.raises(AttributeError):
        price.input = 3  # type: ignore[misc]
    assert price == Price(1.0, 2.0)
    assert len({price, Price(1, 2)}) == 1


@pytest.mark.parametrize("value", ["1", None, True, [1]])
@pytest.mark.parametrize("name", ["input", "output"])
def test_price_is_a_number(name: str, value: Any) -> None:
    """The message names the part."""
    with pytest.raises(TypeError, match=f"a price's {name} must be a number, not "):
        Price(**{"input": 1, name: value})


@pytest.mark.parametrize("value", [-1, -0.01, math.inf, math.nan])
@pytest.mark.parametrize(
    "name", ["input", "output", "cached_input", "cache_write", "input_audio", "output_audio"]
)
def test_price_is_finite_and_not_negative(name: str, value: float) -> None:
    """Negative and infinite prices are refused."""
    with pytest.raises(ValueError, match=f"a price's {name} must be 0 or more, and finite"):
        Price(**{"input": 1, name: value})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"max_tokens_total": None, "max_cost": None, "prices": None},
        {"max_tokens_total": 1},
        {"prices": Price(1)},
        {"prices": {}},
        {"max_cost": 0.01, "prices": Price(1)},
        {"max_cost": 5, "prices": {"m": Price(1, 2)}},
        {"max_cost": 5, "prices": MappingProxyType({"m": Price(1, 2)})},
        {"max_tokens_total": 10, "max_cost": 5, "prices": Price(1)},
    ],
)
def test_spending_limits_may_be_combined(config: dict[str, Any]) -> None:
    """One of them, both, or none; prices may be set for later."""
    check_spending(config)


@pytest.mark.parametrize(
    ("config", "problem"),
    [
        ({"max_tokens_total": "9"}, "max_tokens_total must be a whole number of tokens or None, not '9'"),
        ({"max_tokens_total": 1.5}, "max_tokens_total must be a whole number"),
        ({"max_tokens_total": True}, "max_tokens_total must be a whole number"),
        ({"max_cost": "5", "prices": Price(1)}, "max_cost must be a number or None, not '5'"),
        ({"max_cost": True, "prices": Price(1)}, "max_cost must be a number"),
        ({"prices": 1.0}, "prices must be a Price, or a dict"),
        ({"prices": {"m": 1.0}}, "prices must be a Price, or a dict"),
        ({"prices": [Price(1)]}, "prices must be a Price, or a dict"),
    ],
)
def test_spending_limits_of_a_wrong_type_are_refused(config: dict[str, Any], problem: str) -> None:
    """The message names the key and the value."""
    with pytest.raises(TypeError, match=problem):
        check_spending(config)


@pytest.mark.parametrize(
    ("config", "problem"),
    [
        ({"max_tokens_total": 0}, "max_tokens_total must be at least 1, or None for no limit, not 0"),
        ({"max_tokens_total": -1}, "max_tokens_total must be at least 1"),
        ({"max_cost": 0, "prices": Price(1)}, "max_cost must be more than 0, or None for no limit, not 0"),
        ({"max_cost": -1, "prices": Price(1)}, "max_cost must be more than 0"),
        ({"max_cost": math.inf, "prices": Price(1)}, "max_cost must be more than 0"),
        ({"max_cost": math.nan, "prices": Price(1)}, "max_cost must be more than 0"),
    ],
)
def test_spending_limits_out_of_range_are_refused(config: dict[str, Any], problem: str) -> None:
    """The error is raised before a request is sent."""
    with pytest.raises(ValueError, match=problem):
        check_spending(config)


@pytest.mark.parametrize("prices", [None, {}])
def test_spending_limit_in_money_requires_prices(prices: dict[str, Price] | None) -> None:
    """It is checked once the configuration is complete, since a binding may hold the prices."""
    with pytest.raises(ValueError, match="max_cost needs prices, of a million tokens: prices="):
        check_prices(5, prices)
    check_prices(None, prices)
    check_prices(5, Price(1))
