"""What can go wrong, and when: pure data and a choice that is the same every time."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from itertools import accumulate
from types import MappingProxyType
from typing import Literal, Self, TypeAlias

from .draws import draw

__all__ = ["Fault", "FaultLike", "FaultPlan", "TunedFault"]


class Fault(Enum):
    """Name a way in which a provider fails.

    Call a member to tune it: `Fault.STALL(seconds=3)`, `Fault.OVERSIZED(size=10_000_000)`.

    The seconds of a rate limit are what Retry-After says; the forms that can only say whole
    seconds round up. Of a stall they are how long it lasts if the client stays; of a drip, the
    wait before each byte. A size is that of the decompressed body in bytes.
    """

    # 429, one for each way of saying how long to wait that PROVIDERS.md knows.
    RATE_LIMIT_SECONDS = ("rate_limit_seconds", True, "seconds", 1.0)
    RATE_LIMIT_FLOAT = ("rate_limit_float", True, "seconds", 0.25)
    RATE_LIMIT_MS = ("rate_limit_ms", True, "seconds", 0.25)
    RATE_LIMIT_DATE = ("rate_limit_date", True, "seconds", 1.0)
    RATE_LIMIT_LITELLM = ("rate_limit_litellm", True, "seconds", 1.0)
    RATE_LIMIT_AZURE = ("rate_limit_azure", True, "seconds", 1.0)
    RATE_LIMIT_BARE = ("rate_limit_bare", True)
    SLOW_DOWN = ("slow_down", True)
    # Other statuses that another attempt may mend.
    REQUEST_TIMEOUT = ("request_timeout", True)
    CONFLICT = ("conflict", True)
    SERVER_ERROR = ("server_error", True)
    BAD_GATEWAY = ("bad_gateway", True)
    OVERLOADED = ("overloaded", True)
    GATEWAY_TIMEOUT = ("gateway_timeout", True)
    # 200, and yet no answer.
    MALFORMED_JSON = ("malformed_json", True)
    TRUNCATED_JSON = ("truncated_json", True)
    WRONG_CONTENT_TYPE = ("wrong_content_type", True)
    ERROR_IN_200 = ("error_in_200", True)
    EMPTY_CHOICES = ("empty_choices", True)
    # The connection.
    SHORT_BODY = ("short_body", True)
    DROP_BEFORE_RESPONSE = ("drop_before_response", True)
    DROP_MID_BODY = ("drop_mid_body", True)
    STALL = ("stall", True, "seconds", 10.0)
    SLOW_DRIP = ("slow_drip", True, "seconds", 0.01)
    # What no attempt mends.
    INSUFFICIENT_QUOTA = ("insufficient_quota", False)
    CONTEXT_LENGTH = ("context_length", False)
    BAD_PARAMETER = ("bad_parameter", False)
    UNAUTHORIZED = ("unauthorized", False)
    # Attacks on the client's memory: only where a plan asks for them, with a size.
    OVERSIZED = ("oversized", True, "size")
    GZIP_BOMB = ("gzip_bomb", True, "size")

    label: str
    is_retryable: bool
    takes: Literal["seconds", "size"] | None
    usual: float | None

    def __new__(
        cls,
        label: str,
        is_retryable: bool,  # noqa: FBT001  an Enum's members are made from tuples
        takes: Literal["seconds", "size"] | None = None,
        usual: float | None = None,
    ) -> Self:
        fault = object.__new__(cls)
        fault._value_ = label
        fault.label = label
        fault.is_retryable = is_retryable
        fault.takes = takes
        fault.usual = usual
        return fault

    def __call__(self, *, seconds: float | None = None, size: int | None = None) -> TunedFault:
        """Tune this fault; what is not said stays as usual."""
        return TunedFault(self, seconds=seconds, size=size)


@dataclass(frozen=True, slots=True)
class TunedFault:
    """Hold a fault and its measure: `seconds` or `size`, as `fault.takes` says, or neither.

    Raises ValueError for a measure the fault has no use for, one below zero, and a missing size.
    """

    fault: Fault
    seconds: float | None = field(default=None, kw_only=True)
    size: int | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        for name, given in (("seconds", self.seconds), ("size", self.size)):
            if given is not None and self.fault.takes != name:
                raise ValueError(f"{self.fault} takes no {name}")
            if given is not None and given < 0:
                raise ValueError(f"{name} of {self.fault} must not be negative, got {given}")
        if self.fault.takes == "seconds" and self.seconds is None:
            object.__setattr__(self, "seconds", self.fault.usual)
        if self.fault.takes == "size" and self.size is None:
            raise ValueError(f"say how large: {self.fault}(size=...)")

    @property
    def is_retryable(self) -> bool:
        """Whether another attempt of the same request may be answered."""
        return self.fault.is_retryable


FaultLike: TypeAlias = Fault | TunedFault

_UNMEASURED = (Fault.OVERSIZED, Fault.GZIP_BOMB)


def _tuned(fault: FaultLike) -> TunedFault:
    return fault if isinstance(fault, TunedFault) else fault()


@dataclass(frozen=True, slots=True)
class FaultPlan:
    """Decide which request meets which fault, the same way every time.

    Args:
        rates: a share of requests, from 0 to 1, for each fault; together at most 1. The choice
            depends on `seed`, the request's body and how often that body has come before, so it
            does not depend on the order in which concurrent requests arrive, and a retry draws
            anew.
        script: what the first valid requests meet, in the order of their arrival; None is a
            proper answer. Rates begin where the script ends.
        seed: another number, another choice.
        max_consecutive: after this many faults in a row the same body is answered properly, so
            that with the default of 2 the third attempt at the latest succeeds. None: no bound.
            The script is not bounded by it.
    """

    rates: Mapping[FaultLike, float] = field(default_factory=dict)
    script: Sequence[FaultLike | None] = ()
    seed: int = 0
    max_consecutive: int | None = 2
    _edges: tuple[float, ...] = field(init=False, repr=False, compare=False)
    _kinds: tuple[TunedFault, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if any(not 0 <= rate <= 1 for rate in self.rates.values()):
            raise ValueError("each rate must be from 0 to 1")
        edges = tuple(accumulate(self.rates.values()))
        if edges and edges[-1] > 1 + 1e-9:
            raise ValueError(f"the rates add up to {edges[-1]:g}, more than 1")
        if self.max_consecutive is not None and self.max_consecutive < 1:
            raise ValueError("max_consecutive must be at least 1, or None")
        script = tuple(None if fault is None else _tuned(fault) for fault in self.script)
        object.__setattr__(self, "_edges", edges)
        object.__setattr__(self, "_kinds", tuple(_tuned(fault) for fault in self.rates))
        object.__setattr__(self, "rates", MappingProxyType(dict(self.rates)))
        object.__setattr__(self, "script", script)

    @classmethod
    def everything(
        cls,
        rate: float = 0.10,
        *,
        seed: int = 0,
        permanent: bool = True,
        stall_seconds: float = 10.0,
        max_consecutive: int | None = 2,
    ) -> FaultPlan:
        """Spread `rate` evenly over every kind but `OVERSIZED` and `GZIP_BOMB`.

        With `permanent=False` only over those that another attempt may mend.
        """
        kinds: list[FaultLike] = [
            fault(seconds=stall_seconds) if fault is Fault.STALL else fault
            for fault in Fault
            if fault not in _UNMEASURED and (permanent or fault.is_retryable)
        ]
        share = rate / len(kinds)
        return cls(dict.fromkeys(kinds, share), seed=seed, max_consecutive=max_consecutive)

    def scripted(self, position: int) -> TunedFault | None:
        """Give what the script holds for the request that arrived `position`-th, from 0."""
        fault = self.script[position]
        return None if fault is None else _tuned(fault)

    def drawn(self, digest: int, attempt: int, in_a_row: int) -> TunedFault | None:
        """Choose for the `attempt`-th arrival of a body, which met `in_a_row` faults just before.

        Pure: the same arguments choose the same.
        """
        if not self._edges:
            return None
        if self.max_consecutive is not None and in_a_row >= self.max_consecutive:
            return None
        index = bisect_right(self._edges, draw(self.seed, "fault", digest, attempt))
        return self._kinds[index] if index < len(self._kinds) else None
