"""Fault plan: the faults, and a seeded choice of the requests that meet them."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from itertools import accumulate
from types import MappingProxyType
from typing import Literal, TypeAlias

from batchrt.testing.faults.seeded import draw

__all__ = ["Fault", "FaultLike", "FaultPlan", "TunedFault"]


class Fault(Enum):
    """A way in which a provider fails.

    Call a member to tune it: `Fault.STALL(seconds=3)`, `Fault.OVERSIZED(size=10_000_000)`.

    The seconds of a rate limit are its Retry-After; forms of whole seconds round up. Those of a stall or a
    silence are its length if the client stays; those of a drip, the wait before each byte. A size is that of
    the decompressed body in bytes.

    Some are `of_lists`: they spoil one result among several, or vectors, or refuse a list. A request that
    cannot meet such a fault, as a chat or a list of one that is to be shuffled, is answered correctly, and
    the log does not count the fault. The same holds for those `of_streams`. A streamed answer meets a broken
    connection, broken JSON or an error within a success in its middle.

    `BAD_PARAMETER` blames an option, which all inputs of a list have in common: it is the error of each. For
    a 400 that blames one input, give the provider `reject`.
    """

    # 429, one for each form of Retry-After in PROVIDERS.md.
    RATE_LIMIT_SECONDS = "rate_limit_seconds"
    RATE_LIMIT_FLOAT = "rate_limit_float"
    RATE_LIMIT_MS = "rate_limit_ms"
    RATE_LIMIT_DATE = "rate_limit_date"
    RATE_LIMIT_LITELLM = "rate_limit_litellm"
    RATE_LIMIT_AZURE = "rate_limit_azure"
    RATE_LIMIT_BARE = "rate_limit_bare"
    SLOW_DOWN = "slow_down"
    # Other statuses that a retry may fix.
    REQUEST_TIMEOUT = "request_timeout"
    CONFLICT = "conflict"
    SERVER_ERROR = "server_error"
    BAD_GATEWAY = "bad_gateway"
    OVERLOADED = "overloaded"
    GATEWAY_TIMEOUT = "gateway_timeout"
    # 200 without an answer.
    MALFORMED_JSON = "malformed_json"
    TRUNCATED_JSON = "truncated_json"
    WRONG_CONTENT_TYPE = "wrong_content_type"
    ERROR_IN_200 = "error_in_200"
    EMPTY_CHOICES = "empty_choices"
    # The connection.
    SHORT_BODY = "short_body"
    DROP_BEFORE_RESPONSE = "drop_before_response"
    DROP_MID_BODY = "drop_mid_body"
    STALL = "stall"
    SLOW_DRIP = "slow_drip"
    # In the middle of a stream.
    SILENCE = "silence"
    ERROR_EVENT = "error_event"
    # Answers that do not fit the list: of embeddings, completions or a batch of chats.
    SHUFFLED_INDEX = "shuffled_index"
    MISSING_INDEX = "missing_index"
    TEXT_INDEX = "text_index"
    REPEATED_INDEX = "repeated_index"
    MERGED_LIST = "merged_list"
    SHORT_LIST = "short_list"
    LONG_LIST = "long_list"
    FAILED_LIST = "failed_list"
    PARTIAL_USAGE = "partial_usage"
    MISSING_USAGE = "missing_usage"
    # Invalid vectors.
    WRONG_WIDTH = "wrong_width"
    NESTED_VECTORS = "nested_vectors"
    NULL_VECTOR = "null_vector"
    NULL_IN_VECTOR = "null_in_vector"
    NAN_IN_VECTOR = "nan_in_vector"
    IGNORED_BASE64 = "ignored_base64"
    TORN_BASE64 = "torn_base64"
    # Permanent faults of lists.
    REJECTED_LIST = "rejected_list"
    REJECTED_BASE64 = "rejected_base64"
    # Permanent faults.
    INSUFFICIENT_QUOTA = "insufficient_quota"
    CONTEXT_LENGTH = "context_length"
    BAD_PARAMETER = "bad_parameter"
    UNAUTHORIZED = "unauthorized"
    # Attacks on the client's memory: only where a plan names them, with a size.
    OVERSIZED = "oversized"
    GZIP_BOMB = "gzip_bomb"

    @property
    def is_retryable(self) -> bool:
        """Whether a retry of the same request may succeed."""
        return self not in _PERMANENT

    @property
    def of_lists(self) -> bool:
        """Whether only embeddings, completions and batches of chats can meet it."""
        return self in _OF_LISTS

    @property
    def of_streams(self) -> bool:
        """Whether only streamed answers can meet it."""
        return self in _OF_STREAMS

    @property
    def takes(self) -> Literal["seconds", "size"] | None:
        """The measure by which the fault can be tuned."""
        if self in _SIZED:
            return "size"
        return "seconds" if self in _USUAL_SECONDS else None

    def __call__(self, *, seconds: float | None = None, size: int | None = None) -> TunedFault:
        """Tune this fault; a measure that is not given keeps its default."""
        return TunedFault(self, seconds=seconds, size=size)


_PERMANENT = frozenset(
    {
        *(Fault.INSUFFICIENT_QUOTA, Fault.CONTEXT_LENGTH, Fault.BAD_PARAMETER, Fault.UNAUTHORIZED),
        *(Fault.REJECTED_LIST, Fault.REJECTED_BASE64),
    }
)
_OF_LISTS = frozenset(
    {
        *(Fault.SHUFFLED_INDEX, Fault.MISSING_INDEX, Fault.TEXT_INDEX, Fault.REPEATED_INDEX),
        *(Fault.MERGED_LIST, Fault.SHORT_LIST, Fault.LONG_LIST, Fault.FAILED_LIST, Fault.REJECTED_LIST),
        *(Fault.PARTIAL_USAGE, Fault.MISSING_USAGE, Fault.WRONG_WIDTH, Fault.NESTED_VECTORS),
        *(Fault.NULL_VECTOR, Fault.NULL_IN_VECTOR, Fault.NAN_IN_VECTOR),
        *(Fault.IGNORED_BASE64, Fault.TORN_BASE64, Fault.REJECTED_BASE64),
    }
)
_OF_STREAMS = frozenset({Fault.SILENCE, Fault.ERROR_EVENT})
_SIZED = frozenset({Fault.OVERSIZED, Fault.GZIP_BOMB})
_STALLS = frozenset({Fault.STALL, Fault.SILENCE})
_USUAL_SECONDS = MappingProxyType(
    {
        Fault.RATE_LIMIT_SECONDS: 1.0,
        Fault.RATE_LIMIT_FLOAT: 0.25,
        Fault.RATE_LIMIT_MS: 0.25,
        Fault.RATE_LIMIT_DATE: 1.0,
        Fault.RATE_LIMIT_LITELLM: 1.0,
        Fault.RATE_LIMIT_AZURE: 1.0,
        Fault.STALL: 10.0,
        Fault.SLOW_DRIP: 0.01,
        Fault.SILENCE: 10.0,
    }
)


@dataclass(frozen=True, slots=True)
class TunedFault:
    """A fault and its measure: `seconds` or `size`, as `fault.takes` says, or neither.

    Raises ValueError for a measure that does not apply to the fault, one below zero, and a missing size.
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
            object.__setattr__(self, "seconds", _USUAL_SECONDS[self.fault])
        if self.fault.takes == "size" and self.size is None:
            raise ValueError(f"say how large: {self.fault}(size=...)")

    @property
    def is_retryable(self) -> bool:
        """Whether a retry of the same request may succeed."""
        return self.fault.is_retryable


FaultLike: TypeAlias = Fault | TunedFault
Rates: TypeAlias = Mapping[Fault, float] | Mapping[TunedFault, float] | Mapping[FaultLike, float]
"""Spelled out, because to a type checker a mapping of one of the two is neither of the others."""


def _tuned(fault: FaultLike) -> TunedFault:
    return fault if isinstance(fault, TunedFault) else fault()


@dataclass(frozen=True, slots=True)
class FaultPlan:
    """Decide which request meets which fault, the same in every run.

    Args:
        rates: a share of requests, from 0 to 1, for each fault; together at most 1. The choice depends on
            `seed`, the request's body and how often that body has come before, so it is independent of the
            order in which concurrent requests arrive, and a retry draws anew.
        script: the faults of the first valid requests, in the order of their arrival; None is a correct
            answer. Rates begin where the script ends.
        seed: another number gives another choice.
        max_consecutive: after this many faults in a row the same body is answered correctly, so that with the
            default of 2 the third attempt at the latest succeeds. None: no bound. The script is not bounded
            by it.
    """

    rates: Rates = field(default_factory=dict)
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
        rates: dict[FaultLike, float] = dict(self.rates.items())
        object.__setattr__(self, "rates", MappingProxyType(rates))
        object.__setattr__(self, "script", script)

    @classmethod
    def everything(
        cls,
        rate: float = 0.10,
        *,
        seed: int = 0,
        permanent: bool = True,
        lists: bool = False,
        streams: bool = False,
        stall_seconds: float = 10.0,
        max_consecutive: int | None = 2,
    ) -> FaultPlan:
        """Spread `rate` evenly over every fault but `OVERSIZED` and `GZIP_BOMB`.

        With `permanent=False` only over those that a retry may fix; those `of_lists` only with `lists=True`,
        those `of_streams` only with `streams=True`.
        """
        kinds: list[FaultLike] = [
            fault(seconds=stall_seconds) if fault in _STALLS else fault
            for fault in Fault
            if fault not in _SIZED
            and (permanent or fault.is_retryable)
            and (lists or not fault.of_lists)
            and (streams or not fault.of_streams)
        ]
        share = rate / len(kinds)
        return cls(dict.fromkeys(kinds, share), seed=seed, max_consecutive=max_consecutive)

    def scripted(self, position: int) -> TunedFault | None:
        """Return the script's fault for the request that arrived `position`-th, from 0."""
        fault = self.script[position]
        return None if fault is None else _tuned(fault)

    def drawn(self, digest: int, attempt: int, in_a_row: int) -> TunedFault | None:
        """Draw the fault for the `attempt`-th arrival of a body, which met `in_a_row` faults just before.

        Pure: the same arguments give the same fault.
        """
        if not self._edges:
            return None
        if self.max_consecutive is not None and in_a_row >= self.max_consecutive:
            return None
        index = bisect_right(self._edges, draw(self.seed, "fault", digest, attempt))
        return self._kinds[index] if index < len(self._kinds) else None
