"""What a job may spend, and what it has spent."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from batchrt.cli.numbers import money, short
from batchrt.cli.settings import JobSettings
from batchrt.cli.usage import UsageProblem
from batchrt.config import RunConfig
from batchrt.prices import Price
from batchrt.runtime.spending import Spending

if TYPE_CHECKING:
    from collections.abc import Sequence

    from batchrt.cli.tally import Tally
    from batchrt.runtime.strand import Strand

__all__ = ["Purse"]


class Purse:
    """Hold a job's limits, and look after what its run spends.

    Args:
        max_tokens: tokens that may be spent; `None` for no limit.
        max_cost: what may be spent, in the price's currency; `None` for no limit.
        price: the model's; needed for `max_cost`.
        lacking: the options that would say the rest of it.
    """

    def __init__(
        self,
        max_tokens: int | None = None,
        max_cost: float | None = None,
        price: Price | None = None,
        *,
        lacking: Sequence[str] = (),
    ) -> None:
        self._max_tokens = max_tokens
        self._max_cost = max_cost
        self._price = price
        self._lacking = lacking
        self._spending: Spending | None = None

    @classmethod
    def of(cls, settings: JobSettings, *, answers: bool) -> Purse:
        """Return what `settings` allow; `answers` says that there are tokens of answers to pay for.

        Raises:
            UsageProblem: a limit or a price makes no sense, or there is no price for a limit.
        """
        cost = settings.max_cost
        prices = {"--price-input": settings.price_input}
        if answers:
            prices["--price-output"] = settings.price_output
        if cost is not None and not 0 < cost < math.inf:
            raise UsageProblem(f"--max-cost must be a number above 0, not {cost:g}")
        for option, value in prices.items():
            if value is not None and not 0 <= value < math.inf:
                raise UsageProblem(f"{option} must be a number, 0 or more, not {value:g}")
        if cost is not None and None in prices.values():
            raise UsageProblem(f"--max-cost needs {' and '.join(prices)}, in money per million tokens")
        if not any(value is not None for value in prices.values()):
            return cls(settings.max_tokens_total, cost)
        price = Price(settings.price_input or 0.0, settings.price_output or 0.0)
        lacking = [option for option, value in prices.items() if value is None]
        return cls(settings.max_tokens_total, cost, price, lacking=lacking)

    def limit(self, config: RunConfig) -> RunConfig:
        """Return `config` with the limits."""
        if self._max_tokens is not None:
            config = {**config, "max_tokens_total": self._max_tokens}
        if self._max_cost is not None:
            config = {**config, "max_cost": self._max_cost, "prices": self._price}
        return config

    def watch(self, strand: Strand) -> None:
        """Look after the run that `strand` belongs to; there is one."""
        spending = strand.run.spending
        assert spending is None or isinstance(spending, Spending)
        self._spending = spending

    @property
    def is_empty(self) -> bool:
        """Whether the run came to its end of what it may spend."""
        return self._spending is not None and self._spending.ended is not None

    def words(self) -> list[str]:
        """Return how much was spent, of how much, for each limit there is."""
        spending = self._spending
        tokens, cost = (0.0, 0.0) if spending is None else (spending.tokens, spending.cost)
        words: list[str] = []
        if self._max_cost is not None:
            words.append(f"{money(cost)} of {money(self._max_cost)} spent")
        if self._max_tokens is not None:
            words.append(f"{short(round(tokens))} of {short(self._max_tokens)} tokens spent")
        return words

    def cost_of(self, tally: Tally) -> str:
        """Return what the tokens cost, in words; nothing if there is no price."""
        if self._price is None:
            return ""
        cost = sum(
            map(self._price.of_usage, tally.billed.values()), self._price.of(tally.estimated_tokens, 0)
        )
        about = "about " if tally.estimated_tokens else ""
        rest = f" (without what {' and '.join(self._lacking)} would tell)" if self._lacking else ""
        return f"cost: {about}{money(cost)}{rest}"

    def verdict(self) -> str:
        """Return which limit was reached, and what was spent; only for one that is empty."""
        spending = self._spending
        assert spending is not None
        assert spending.ended is not None
        if spending.ended.limit == "max_cost":
            return f"--max-cost {self._max_cost:g}: {money(spending.cost)} spent"
        return f"--max-tokens-total {self._max_tokens}: {round(spending.tokens):,} tokens spent"
