"""Published prices: prices of models by the data of the package genai-prices."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Final

from batchrt.prices import Price
from batchrt.providers.base import Model
from batchrt.providers.http.address import Address

if TYPE_CHECKING:
    from genai_prices.types import ModelInfo, ModelPrice

__all__ = ["price_source", "published_prices"]

_PARTS: Final = {
    "input": "input_mtok",
    "output": "output_mtok",
    "cached_input": "cache_read_mtok",
    "cache_write": "cache_write_mtok",
    "input_audio": "input_audio_mtok",
    "output_audio": "output_audio_mtok",
}
"""The parts of a `Price` by genai-prices' names."""
_NOT_OF_TEXT: Final = frozenset(
    ("cache_write_1h_mtok", "cache_audio_read_mtok", "web_searches_kcount", "storage_searches_kcount")
)
"""Further prices that may be ignored: those of tools that only a request with them uses, and of tokens that
are counted among others at nearly the same price. A model with any other, such as a price of each request
or of images, has a cost that `Usage` does not tell."""
_TIER_KEYS: Final = ("service_tier", "processing")
"""Names of the fields in which genai-prices has tiers: `flex`, `priority`; `batch`."""


def published_prices(*models: Model[Any, Any] | str, base_url: str | None = None) -> dict[str, Price]:
    """Return the prices of models in US dollars by their names, for a run's `prices`.

        config = {"prices": published_prices(model), "max_cost": 5.0}

    The prices are those in the installed version of genai-prices: an update of that package updates them.
    No request is sent; prices that your program has fetched with `genai_prices.UpdatePrices` are used.
    A model is looked up at the provider that its address belongs to. One that is not there, such as a model
    of your own server or of a proxy, is left out, and so is one whose price does not depend on tokens
    alone: its cost is unknown. Where a price changes in the course of a day, the highest of the day is
    returned, so that a spending limit holds.

    Args:
        models: models, or their names.
        base_url: of the models that are names; by default `OPENAI_BASE_URL`, or OpenAI's. With the address
            of a provider it can also name the one that a proxy forwards to.

    Raises:
        ImportError: genai-prices is not installed.
        ValueError: `base_url` is no URL.
    """
    found: dict[str, Price] = {}
    for model in models:
        if isinstance(model, str):
            name = model
            url = Address.given(base_url).url("")
        else:
            name, url = model.model, model.base_url
        price = _look_up(name, url)
        if price is not None:
            found[name] = price
    return found


def price_source() -> str | None:
    """Return the name and version of the package with the prices; `None` if it is not installed."""
    try:
        return f"genai-prices {version('genai-prices')}"
    except ImportError:
        return None


def _look_up(name: str, url: str) -> Price | None:
    try:
        from genai_prices import Usage, calc_price
    except ImportError as error:
        raise ImportError(
            "published prices need genai-prices: install batchrt[prices], or give prices by hand: "
            "prices={'gpt-5-mini': Price(input=0.25, output=2.0)}"
        ) from error
    # The package resolves aliases, dates and tiers itself; it has no other function that does so.
    nothing = Usage()

    def at(moment: datetime, context: Mapping[str, str] | None = None) -> ModelPrice:
        return calc_price(
            nothing, name, provider_api_url=url, genai_request_timestamp=moment, price_context=context
        ).model_price

    try:
        model = calc_price(nothing, name, provider_api_url=url).model
    except LookupError:
        return None
    midnight = datetime.now(UTC).replace(hour=0, minute=30, second=0, microsecond=0)
    hours = [midnight + timedelta(hours=hour) for hour in range(24)]
    moment = max(hours, key=lambda hour: _base(at(hour).input_mtok) or 0.0)
    usual = _price(at(moment))
    if usual is None:
        return None
    tiers = {tier: _price(at(moment, {key: tier})) for key, tier in _tiers(model)}
    own = {tier: price for tier, price in tiers.items() if price is not None and price != usual}
    return replace(usual, tiers=own)


def _tiers(model: ModelInfo) -> Iterator[tuple[str, str]]:
    """Yield the field and name of each service tier that has prices of its own."""
    for variant in model.price_variants or ():
        for key in _TIER_KEYS:
            if list(variant.when) == [key]:
                yield key, variant.when[key]


def _price(published: ModelPrice) -> Price | None:
    """Return the price in our form; `None` if tokens alone do not say the cost."""
    parts = {name: value for name, value in vars(published).items() if value is not None}
    # A model without any price is not free: it is known by name only.
    if "input_mtok" not in parts or parts.keys() - _NOT_OF_TEXT - set(_PARTS.values()):
        return None
    starts = {tier.start for value in parts.values() for tier in getattr(value, "tiers", ())}
    long_context = {start: _of_length(parts, start + 1) for start in sorted(starts)}
    return replace(_of_length(parts, 0), long_context=long_context)


def _of_length(parts: Mapping[str, Any], tokens: int) -> Price:
    """Return the price of a request of so many input tokens."""
    amounts: dict[str, Any] = {name: _at(parts[key], tokens) for name, key in _PARTS.items() if key in parts}
    # Cached tokens without a price of their own cost as much as others.
    return Price(**{"cached_input": amounts["input"], **amounts})


def _at(price: Any, tokens: int) -> float:
    reached = [tier.price for tier in getattr(price, "tiers", ()) if tokens > tier.start]
    return float(reached[-1]) if reached else _base(price) or 0.0


def _base(price: Any) -> float | None:
    """Return the price of short requests."""
    return None if price is None else float(getattr(price, "base", price))
