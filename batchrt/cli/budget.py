"""The budget of a job: its limits of tokens and money, and how much of them is spent."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from batchrt import DeadlineExceededError, Price, RunConfig, RunStatistics, SpendingLimitError
from batchrt.cli.console import money, short
from batchrt.cli.options import JobSettings
from batchrt.cli.prices import KnownPrice, known_price

if TYPE_CHECKING:
    from batchrt.cli.counts import Counts

__all__ = ["Budget", "LimitedRun"]


class LimitedRun(Protocol):
    """A run that may end at a limit."""

    @property
    def ended(self) -> SpendingLimitError | DeadlineExceededError | None:
        """The error of the limit at which it ended; `None` if it did not."""

    def statistics(self) -> RunStatistics:
        """Return the counts so far."""

    def stop(self) -> None:
        """Let requests in flight finish, and begin no more."""


class Budget:
    """Hold a job's limits of spending, and report how much its run has spent.

    Args:
        max_tokens: tokens that may be spent; `None` for no limit.
        max_cost: money that may be spent, in the price's currency; `None` for no limit.
        known: the model's price; needed for `max_cost`.

    Attributes:
        known: as it was given.
        run: the run whose spending is limited, once it is known.
    """

    def __init__(
        self,
        max_tokens: int | None = None,
        max_cost: float | None = None,
        known: KnownPrice | None = None,
    ) -> None:
        self._max_tokens = max_tokens
        self._max_cost = max_cost
        self.known: KnownPrice | None = known
        self.run: LimitedRun | None = None

    @classmethod
    def of(cls, settings: JobSettings, *, answers: bool) -> Budget:
        """Return the budget of `settings`; with `answers`, output tokens have a price too.

        Raises:
            UsageError: a limit or a price makes no sense, or there is no price for a limit.
        """
        known = known_price(settings, answers=answers)
        return cls(settings.max_tokens_total, settings.max_cost, known)

    @property
    def price(self) -> Price | None:
        """The model's price; `None` if it is not known."""
        return None if self.known is None else self.known.price

    def limit(self, config: RunConfig) -> RunConfig:
        """Return `config` with the limits."""
        if self._max_tokens is not None:
            config = {**config, "max_tokens_total": self._max_tokens}
        if self._max_cost is not None:
            config = {**config, "max_cost": self._max_cost, "prices": self.price}
        return config

    def priced(self, config: RunConfig) -> RunConfig:
        """Return `config` with the prices, by which outcomes have a cost."""
        if self.known is None or self.known.lacking:
            return config
        return {**config, "prices": self.known.price}

    @property
    def ended(self) -> SpendingLimitError | None:
        """The error of the limit at which the run ended; `None` if it did not."""
        ended = None if self.run is None else self.run.ended
        return ended if isinstance(ended, SpendingLimitError) else None

    def words(self, counts: Counts) -> list[str]:
        """Return how much was spent, of how much for each limit there is."""
        told = RunStatistics() if self.run is None else self.run.statistics()
        words: list[str] = []
        if self._max_cost is not None:
            words.append(f"{money(told.cost or 0.0)} of {money(self._max_cost)} spent")
        elif self.known is not None and counts.cost:
            words.append(f"cost {money(counts.cost)}")
        if self._max_tokens is not None:
            words.append(f"{short(round(told.tokens or 0.0))} of {short(self._max_tokens)} tokens spent")
        return words

    def cost_of(self, counts: Counts) -> str:
        """Return the cost of the tokens, in words; an empty string if there is no price."""
        if self.known is None:
            return ""
        cost = counts.cost + self.known.price.of(counts.estimated_tokens, 0)
        about = "about " if counts.estimated_tokens else ""
        return f"cost: {about}{money(cost)}{self.known.words()}"

    def verdict(self) -> str:
        """Return the limit that was reached and the amount spent; only if the run ended at one."""
        error, told = self.ended, self.run and self.run.statistics()
        assert error is not None
        assert told
        if error.limit == "max_cost":
            limit, spent = f"--max-cost {self._max_cost:g}", money(told.cost or 0.0)
            first = f"may cost {money(error.expected)}"
        else:
            limit, spent = f"--max-tokens-total {self._max_tokens}", f"{round(told.tokens or 0.0):,} tokens"
            first = f"may take {round(error.expected):,} tokens"
        return (
            f"{limit}: {spent} spent"
            if told.tokens
            else f"{limit}: nothing was sent, as the first request {first}"
        )
