"""Request limits: how much a server takes in one request, known beforehand or learned from its responses."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final, Literal, TypeAlias

from batchrt.batching.list_call import Limits
from batchrt.errors import ContextLengthError, ProviderError
from batchrt.providers.embeddings.server_families import Family
from batchrt.providers.embeddings.tokenizer import Tokenizer
from batchrt.providers.limit_messages import Named, named_limits

__all__ = ["Capacity", "Encoding"]

Encoding: TypeAlias = Literal["base64", "float"]

_FIRST_FACTOR: Final = 1.25
"""Tokens to one that was estimated, until the server has said: most text has fewer."""
_MARGIN: Final = 0.9
"""How full lists are packed by an estimate. One list's texts have more tokens than another's; being a
tenth below the limit costs nothing, and being above costs a refusal."""
_FALL: Final = 0.25
"""Weight of an observation below the factor. Above it the weight is 1: an underestimate costs a refusal."""
_TELLING: Final = 2_000
"""Estimated tokens from which on a list has its full weight."""
_CREDIBLE: Final = (0.2, 4.5)
"""Tokens to one that was estimated: with a token for each byte, nothing has more than four."""
_DISORDERS: Final = 2
"""Lists: one may be an accident."""
_UNEXPLAINED: Final = 0.75
"""The share to try next of a list that was refused though it should have fit."""


class Capacity:
    """Track what one server takes for one model. Limits are only ever lowered.

    Args:
        family: the limits known beforehand.
        tokenizer: counts tokens.
        size: the most texts in a request, if the user says so.
        tokens: the most tokens in a request, if the user says so.
        encoding: how vectors are asked for.

    Attributes:
        size: the most texts in a request; `None` for no limit.
        tokens: the most tokens in a request; `None` for no limit.
        text_tokens: the most tokens in a text; `None` for no known limit.
        takes_empty: there is a vector for the empty text.
        encoding: how vectors are asked for from now on; `None` to leave it to the server.
        factor: how many tokens there are to one that was counted.
        ordered: there was an answer to a list from which the vector of each text could be told.
    """

    def __init__(
        self,
        family: Family,
        tokenizer: Tokenizer,
        *,
        size: int | None = None,
        tokens: int | None = None,
        encoding: Encoding = "base64",
    ) -> None:
        self.size: int | None = family.size if size is None else size
        self.tokens: int | None = family.tokens if tokens is None else tokens
        self.text_tokens: int | None = family.text_tokens
        self.takes_empty: bool = family.takes_empty
        self.encoding: Encoding | None = encoding
        self.factor: float = 1.0 if tokenizer.exact else _FIRST_FACTOR
        self.tokenizer: Tokenizer = tokenizer
        self.ordered: bool = False
        self._disorders = 0
        self._exact = tokenizer.exact
        self._cost = tokenizer.cost

    def limits(self) -> Limits:
        """Return the bounds of a list, its cost in tokens as the tokenizer counts them."""
        return Limits(self.size, None if self.tokens is None else self._counted(self.tokens))

    def _counted(self, tokens: int) -> float:
        return tokens / self.factor * (1.0 if self._exact else _MARGIN)

    def cost(self, texts: Sequence[str]) -> float:
        """Return the tokens of `texts`, as the tokenizer counts them."""
        return math.fsum(map(self._cost, texts))

    def expected(self, text: str) -> int:
        """Return about how many tokens the server counts in `text`."""
        return math.ceil(self._cost(text) * self.factor)

    def learn_usage(self, billed: int, texts: Sequence[str]) -> None:
        """Calibrate the estimate by a list's bill, if that counts tokens.

        Infinity counts characters, and some servers count one text of many.
        """
        if self._exact or not texts or billed == sum(map(len, texts)):
            return
        counted = self.cost(texts)
        seen = billed / counted
        if billed < len(texts) or not _CREDIBLE[0] <= seen <= _CREDIBLE[1]:
            return
        speed = 1.0 if seen > self.factor else _FALL
        self.factor += (seen - self.factor) * speed * min(1.0, counted / _TELLING)

    def learn_disorder(self, count: int, *, proof: bool) -> bool:
        """Record that the vectors of `count` texts could not be matched to the texts.

        Return whether texts go one by one from now on: with `proof` that the server takes no lists, or
        when that happened to two lists and to none that it did not happen to. Otherwise every list would
        be halved down to single texts, and all of them be paid for at each length.
        """
        if count < 2:  # noqa: PLR2004  no list
            return False
        self._disorders += 1
        if proof or (self._disorders >= _DISORDERS and not self.ordered):
            self.size = 1
        return self.size == 1

    def learn_refusal(self, error: ProviderError, texts: Sequence[str]) -> bool:
        """Lower the limits as a refusal of `texts` says; return whether they are too many by now."""
        counted = self.cost(texts)
        for named in named_limits(error.message):
            if self._lower(named, error, len(texts), counted):
                break
        size, cost = self.limits()
        too_long = size is not None and len(texts) > size
        return len(texts) > 1 and (too_long or (cost is not None and counted > cost))

    def _lower(self, named: Named, error: ProviderError, count: int, counted: float) -> bool:
        """Take a limit over if it explains the refusal."""
        match named.unit:
            case "texts":
                if named.most < count:
                    self.size = named.most if self.size is None else min(self.size, named.most)
                return named.most < count
            case "tokens of a text":
                if isinstance(error, ContextLengthError):
                    self.text_tokens = min(self.text_tokens or named.most, named.most)
                return isinstance(error, ContextLengthError)
            case "tokens of a request":
                # A list of few texts cannot have more tokens than this, whatever the estimate.
                if named.most > counted * _CREDIBLE[1]:
                    return False
                self.tokens = named.most if self.tokens is None else min(self.tokens, named.most)
                self._recount(named, counted)
                return True

    def _recount(self, named: Named, counted: float) -> None:
        """Correct the factor: the list had more tokens than were counted."""
        if named.given is not None:
            self.factor = max(self.factor, min(named.given / counted, _CREDIBLE[1]))
        bound = self._counted(named.most)
        if counted <= bound:
            self.factor *= bound / (counted * _UNEXPLAINED)

    def learn_text(self, given: int | None, text: str) -> None:
        """Record that a text which was counted has `given` tokens."""
        if given is not None and not self._exact:
            self.factor = max(self.factor, min(given / self._cost(text), _CREDIBLE[1]))
