"""Prices of tokens, and checks of spending limits."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from batchrt.messages import Usage

__all__ = ["Price", "check_prices", "check_spending"]

_MILLION: Final = 1_000_000
_CACHED: Final = 0.1
"""Cached input's price, as a fraction of the price of other input."""
_TIERS: Final = {"flex": 0.5, "batch": 0.5}
"""Factors on the usual price."""


@dataclass(frozen=True, slots=True)
class Price:
    """Price of a million tokens, in any currency.

    Args:
        input: per million tokens of prompts or embedded texts.
        output: per million tokens of answers.
        cached_input: per million prompt tokens from the provider's cache; a tenth of `input` by default, as
            for OpenAI's GPT-5 family, Anthropic and Google's Gemini 2.5 and later. Older models charge more
            (GPT-4.1 a quarter, GPT-4o half): set it for them, or `max_cost` is exceeded.
        tiers: prices of service tiers, or factors on these prices, by the name of the tier in answers
            (`service_tier`) and by `batch`. The default for `flex` and `batch` is half, as at OpenAI, and
            for other tiers the usual price.
        cache_write: per million prompt tokens that the provider writes to its cache; `input` by default.
            OpenAI's GPT-5.6 and later and Anthropic charge 1.25 times as much.
        input_audio: per million audio tokens of prompts; `input` by default.
        output_audio: per million audio tokens of answers; `output` by default.
        long_context: prices of requests that have more input tokens than the key says, for all of the
            request's tokens: `{272_000: Price(5.0, 22.5)}`. Tokens of several requests of one item count
            together, which makes `Outcome.cost` too high where only their sum is so long.

    Sources of the tenth, the half and the 1.25: https://openai.com/api/pricing, https://claude.com/pricing
    and https://ai.google.dev/gemini-api/docs/pricing, November 2026.
    """

    input: float
    output: float = 0.0
    cached_input: float | None = None
    tiers: Mapping[str, Price | float] = field(default_factory=dict)
    cache_write: float | None = field(default=None, kw_only=True)
    input_audio: float | None = field(default=None, kw_only=True)
    output_audio: float | None = field(default=None, kw_only=True)
    long_context: Mapping[int, Price] = field(default_factory=dict, kw_only=True)

    def __post_init__(self) -> None:
        _check_amount("input", self.input)
        _check_amount("output", self.output)
        for name in ("cached_input", "cache_write", "input_audio", "output_audio"):
            value = getattr(self, name)
            if value is not None:
                _check_amount(name, value)
        if not isinstance(self.tiers, Mapping):
            raise TypeError(f"a price's tiers must be a dict of Prices or factors, not {self.tiers!r}")
        for name, price in self.tiers.items():
            if not isinstance(price, Price):
                _check_amount(f"tiers[{name!r}]", price)
        _check_long_context(self.long_context)

    def __hash__(self) -> int:
        return hash((self.input, self.output, self.cached_input))

    def of(
        self,
        input_tokens: float,
        output_tokens: float,
        cached_input_tokens: float = 0.0,
        service_tier: str | None = None,
    ) -> float:
        """Return the cost of the tokens of one request; cached tokens are part of the input."""
        if service_tier is None and not self.long_context:
            return self._of(input_tokens, output_tokens, cached_input_tokens)
        price, factor = self._in_force(input_tokens, service_tier)
        return factor * price._of(input_tokens, output_tokens, cached_input_tokens)

    def of_usage(self, usage: Usage) -> float:
        """Return the cost of `usage`, with its cached input, its audio and its tier."""
        price, factor = self, 1.0
        given, taken = usage.input_tokens, usage.output_tokens
        if usage.service_tier is not None or self.long_context:
            price, factor = self._in_force(given, usage.service_tier)
        cost = price._of(given, taken, usage.cached_input_tokens)
        if usage.cache_write_tokens and price.cache_write is not None:
            cost += (price.cache_write - price.input) * usage.cache_write_tokens / _MILLION
        if usage.input_audio_tokens and price.input_audio is not None:
            cost += (price.input_audio - price.input) * usage.input_audio_tokens / _MILLION
        if usage.output_audio_tokens and price.output_audio is not None:
            cost += (price.output_audio - price.output) * usage.output_audio_tokens / _MILLION
        return factor * cost

    def _in_force(self, input_tokens: float, service_tier: str | None) -> tuple[Price, float]:
        """Return the price of a request of this length and tier, and a factor on it."""
        price, factor = self, 1.0
        if service_tier is not None:
            tier = self.tiers.get(service_tier, _TIERS.get(service_tier, 1.0))
            if isinstance(tier, Price):
                price = tier
            else:
                factor = tier
        reached = [least for least in price.long_context if input_tokens > least]
        return (price.long_context[max(reached)] if reached else price), factor

    def _of(self, input_tokens: float, output_tokens: float, cached_input_tokens: float) -> float:
        """Return the cost at this very price."""
        if cached_input_tokens:
            cached = _CACHED * self.input if self.cached_input is None else self.cached_input
            dear = self.input * (input_tokens - cached_input_tokens) + self.output * output_tokens
            return (dear + cached * cached_input_tokens) / _MILLION
        return (self.input * input_tokens + self.output * output_tokens) / _MILLION


def _check_long_context(prices: object) -> None:
    if not isinstance(prices, Mapping):
        raise TypeError(f"a price's long_context must be a dict from tokens to Prices, not {prices!r}")
    for least, price in prices.items():
        if isinstance(least, bool) or not isinstance(least, int) or least < 0:
            raise TypeError(f"long_context must have whole numbers of tokens as keys, not {least!r}")
        if not isinstance(price, Price):
            raise TypeError(f"long_context[{least}] must be a Price, not {price!r}")


def _check_amount(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"a price's {name} must be a number, not {value!r}")
    if not 0 <= value < math.inf:
        raise ValueError(f"a price's {name} must be 0 or more, and finite, not {value}")


def check_spending(config: Mapping[str, Any]) -> None:
    """Raise TypeError or ValueError for invalid spending limits."""
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
