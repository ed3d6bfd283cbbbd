"""The price of a job's model: by hand, of a profile, or published."""

from __future__ import annotations

from dataclasses import dataclass

from batchrt import Price, published_prices
from batchrt.cli.errors import UsageError, option_of
from batchrt.cli.models import is_built_in
from batchrt.cli.options import JobSettings, check_number
from batchrt.providers.published_prices import price_source

__all__ = ["KnownPrice", "known_price"]


@dataclass(frozen=True, slots=True)
class KnownPrice:
    """Hold a price and its origin.

    Attributes:
        price: the price.
        lacking: the options that would say the rest of it.
        source: the package that it was found in; `None` if it was given by hand.
    """

    price: Price
    lacking: tuple[str, ...] = ()
    source: str | None = None

    def words(self) -> str:
        """Return words to follow an amount: its currency and origin, and the prices that are missing."""
        if self.source is not None:
            return f" US dollars, by {self.source}"
        return f" (without what {' and '.join(self.lacking)} would tell)" if self.lacking else ""


def known_price(settings: JobSettings, *, answers: bool) -> KnownPrice | None:
    """Return the price of the job's model; `None` if it is not known. Prices by hand go first.

    Args:
        settings: as they were given.
        answers: whether output tokens have a price too.

    Raises:
        UsageError: a price or a limit makes no sense, or a limit in money lacks a price.
    """
    check_number(settings, "max_cost", above_0=True)
    check_number(settings, "confirm_above")
    check_number(settings, "price_input")
    check_number(settings, "price_output")
    by_hand = {"--price-input": settings.price_input}
    if answers:
        by_hand["--price-output"] = settings.price_output
    lacking = tuple(option for option, value in by_hand.items() if value is None)
    known: KnownPrice | None
    if len(lacking) < len(by_hand):
        known = KnownPrice(Price(settings.price_input or 0.0, settings.price_output or 0.0), lacking)
    else:
        known = _looked_up(settings)
    for name in ("max_cost", "confirm_above"):
        if getattr(settings, name) is not None and (known is None or known.lacking):
            needed = f"{option_of(name)} needs {' and '.join(by_hand)}, in money per million tokens"
            raise UsageError(f"{needed}{_why_unknown(settings) if known is None else ''}")
    return known


def _looked_up(settings: JobSettings) -> KnownPrice | None:
    """Return the price of the settings' prices or, if that is wanted, of the published ones."""
    given = settings.prices.get(settings.model)
    if given is not None:
        return KnownPrice(given)
    source = price_source()
    if source is None or not settings.published_prices or is_built_in(settings):
        return None
    try:
        price = published_prices(settings.model, base_url=settings.base_url).get(settings.model)
    except ValueError:  # the model raises the same, in terms of the option
        return None
    return None if price is None else KnownPrice(price, source=source)


def _why_unknown(settings: JobSettings) -> str:
    if is_built_in(settings) or not settings.published_prices:
        return ""
    source = price_source()
    if source is None:
        return "; or install batchrt[prices], which has the prices of many models"
    where = "" if settings.base_url is None else " at that --base-url"
    return f": {source} has no price of {settings.model}{where}"
