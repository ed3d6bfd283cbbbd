"""A counted limit: a token bucket, and the way in which a provider counts the tokens of requests."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

from batchrt.limits.permit import RequestAccount
from batchrt.limits.token_bucket import TokenBucket

__all__ = ["AFTERWARDS", "BEFOREHAND", "REQUESTS", "CountedLimit", "likeliest"]

REQUESTS: Final = 0
AFTERWARDS: Final = 1
BEFOREHAND: Final = 2
"""Ways of counting: requests; tokens, with those of an answer when it is made; tokens, with the most that an
answer may have when the request arrives, corrected when it is answered, as OpenAI does."""


class CountedLimit:
    """A token bucket, and the way in which its charges are counted.

    Attributes:
        bucket: the token bucket.
        way: the way of counting.
        error: the mean difference between the level that answers tell and the one predicted by that way.
        newest: when the request was sent whose answer corrected the bucket last.
        silent: answers since then that tell of another period.
    """

    __slots__ = ("bucket", "error", "newest", "silent", "way")

    def __init__(self, bucket: TokenBucket, way: int) -> None:
        self.bucket: TokenBucket = bucket
        self.way: int = way
        self.error: float = 0.0
        self.newest: float = -math.inf
        self.silent: int = 0

    def amount(self, account: RequestAccount) -> float:
        """Return the amount to charge for a request."""
        if self.way == REQUESTS:
            return 1.0
        if self.way == BEFOREHAND and account.most is not None:
            return account.input + account.most
        return account.input + account.output


def likeliest(ways: Sequence[CountedLimit]) -> CountedLimit:
    """Return the way of counting that predicts answers best."""
    return min(ways, key=lambda limit: limit.error)
