"""What tokens cost, and how much may be spent."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

__all__ = ["Price", "check_prices", "check_spending"]

_MILLION: Final = 1_000_000


@dataclass(frozen=True, slots=True)
class Price:
    """Say what tokens cost, in any currency, a million of them.

    Args:
        input: for a million tokens of prompts, or of texts that are embedded.
        output: for a million tokens of answers.
    """

    input: float
    output: float = 0.0

    def __post_init__(self) -> None:
        for name in ("input", "output"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise TypeError(f"a price's {name} must be a number, not {value!r}")
            if not 0 <= value < math.inf:
                raise ValueError(f"a price's {name} must be 0 or more, and finite, not {value}")

    def of(self, input_tokens: float, output_tokens: float) -> float:
        """Return what so many tokens cost."""
        return (self.input * input_tokens + self.output * output_tokens) / _MILLION


def check_spending(config: Mapping[str, Any]) -> None:
    """Raise TypeError or ValueError for limits of spending that make no sense."""
    tokens, cost, prices = (config.get(key) for key in ("max_tokens_total", "max_cost", "prices"))
    if tokens is not None and (isinstance(tokens, bool) or not isinstance(tokens, int)):
        raise TypeError(f"max_tokens_total must be a whole number of tokens or None, not {tokens!r}")
    if tokens is not None and tokens < 1:
        raise ValueError(f"max_tokens_total must be at least 1, or None for no limit, not {tokens}")
    if cost is not None and (isinstance(cost, bool) or not isinstance(cost, int | float)):
        raise TypeError(f"max_cost must be a number or None, not {cost!r}")
    if cost is not None and not 0 < cost < math.inf:
        raise ValueError(f"max_cost must be more than 0, or None for no limit, not {cost}")
    if prices is not None and not _are_prices(prices):
        raise TypeError(f"prices must be a Price, or a dict from models' names to Prices, not {prices!r}")


def check_prices(cost: float | None, prices: Price | Mapping[str, Price] | None) -> None:
    """Raise ValueError for a limit in money without prices."""
    if cost is not None and not prices:
        raise ValueError(
            "max_cost needs prices, of a million tokens: prices={'gpt-5-mini': Price(input=0.25, output=2.0)}"
        )


def _are_prices(prices: object) -> bool:
    if isinstance(prices, Mapping):
        return all(isinstance(price, Price) for price in prices.values())
    return isinstance(prices, Price)
