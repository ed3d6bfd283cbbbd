"""Random refusals, unrelated to the client's behaviour."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass

from batchrt.testing.admission.rate_limits import LimitStyle, WaitForm, check_style, check_waits
from batchrt.testing.admission.schedules import Schedule, Scripted, check_scripted
from batchrt.testing.faults.seeded import draw

__all__ = ["Noise"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Noise:
    """Refuse a random share of the requests with a 429, as a gateway does whose pool has other users.

    Such a refusal does not count against a quota, wait in the queue, or meet a fault of the plan. The choice
    depends on the provider's seed, the request's body and how often that body has come before, so that it is
    independent of the order in which concurrent requests arrive, and a retry draws anew.

    Args:
        share: from 0 to 1, or steps `(second, share)`.
        wait: the seconds that a refusal asks to wait; None for none.
        style: the vendor whose wording is used; None for the provider's own.
        waits: where the wait is given, as in `RateLimits`. None: where the style gives it, or in
            `retry-after` if the style gives it nowhere.
    """

    share: Scripted
    wait: float | None = None
    style: LimitStyle | None = None
    waits: Collection[WaitForm] | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "share", check_scripted("share", self.share, zero=True, most=1))
        if self.wait is not None and not 0 < self.wait < math.inf:
            raise ValueError(f"wait must be seconds > 0, not {self.wait!r}")
        check_style(self.style)
        object.__setattr__(self, "waits", check_waits(self.waits))

    def strikes(self, seed: int, digest: int, attempt: int, second: float) -> bool:
        """Return whether the `attempt`-th arrival of a body, at `second`, is refused."""
        return draw(seed, "noise", digest, attempt) < Schedule(self.share).at(second)
