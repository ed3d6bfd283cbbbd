"""Text forms of a mock provider's options, as on a command line or in an environment variable.

Each function raises ValueError with a message that begins with the option's name and says how it is written.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from batchrt.testing.admission.outages import Outage
from batchrt.testing.admission.schedules import Scripted
from batchrt.testing.faults.latency import Latency, LogNormal, check_latency
from batchrt.testing.faults.plan import Fault, FaultLike, FaultPlan, TunedFault

__all__ = ["read_faults", "read_latency", "read_outage", "read_scripted"]


def read_latency(text: str) -> Latency:
    """Read seconds, as `0.2`, or a distribution, as `lognormal:0.2,0.5` for its median and sigma."""
    kind, _, numbers = text.partition(":")
    try:
        if kind == "lognormal":
            median, sigma = map(float, numbers.split(","))
            return LogNormal(median, sigma)
        return check_latency(float(text))
    except ValueError:
        raise ValueError(
            f"latency must be seconds, as 0.2, or lognormal:MEDIAN,SIGMA, as lognormal:0.2,0.5; not {text!r}"
        ) from None


def read_scripted(name: str, text: str) -> Scripted:
    """Read a number, as `600`, or one that changes, as `600,300@60` for 300 from second 60 on."""
    first, *later = text.split(",")
    try:
        if not later:
            return float(first)
        steps = [(0.0, float(first))]
        for step in later:
            number, _, second = step.partition("@")
            steps.append((float(second), float(number)))
    except ValueError:
        raise ValueError(
            f"{name} must be a number, as 600, or numbers and the seconds from which they hold, as "
            f"600,300@60; not {text!r}"
        ) from None
    return steps


def read_outage(text: str) -> Outage:
    """Read seconds and the kind of an outage, as `60-120=429`; without a kind it is 503."""
    span, _, kind = text.partition("=")
    start, _, end = span.partition("-")
    try:
        named: Any = int(kind) if kind.isdecimal() else kind or 503
        return Outage(float(start), float(end), named)
    except ValueError:
        raise ValueError(
            f"outage {text}: write it as START-END or START-END=KIND, with seconds and one of 503, 500, "
            "429, refused and hanging"
        ) from None


def read_faults(everything: float, single: Iterable[str], *, seed: int = 0) -> FaultPlan:
    """Read faults and the shares of requests that meet them.

    Args:
        everything: the share that meets a fault of any kind.
        single: kinds with shares of their own, as `stall=0.01`, `stall:3=0.01` for 3 s, or
            `gzip_bomb:1000=0.01` for 1,000 bytes.
        seed: of the plan.
    """
    rates: dict[FaultLike, float] = {}
    if everything:
        rates.update(FaultPlan.everything(everything, seed=seed).rates.items())
    for fault, rate in map(_read_fault, single):
        rates = {
            other: share
            for other, share in rates.items()
            if (other.fault if isinstance(other, TunedFault) else other) is not fault.fault
        }
        rates[fault] = rate
    try:
        return FaultPlan(rates, seed=seed)
    except ValueError as error:
        raise ValueError(f"faults make no sense: {error}") from None


def _read_fault(text: str) -> tuple[TunedFault, float]:
    name, _, share = text.partition("=")
    name, _, measure = name.partition(":")
    kinds = {fault.value: fault for fault in Fault}
    if name not in kinds:
        raise ValueError(f"fault {text}: there is no kind {name!r}; there are {', '.join(kinds)}")
    fault = kinds[name]
    try:
        if fault.takes == "size":
            return fault(size=int(measure)), float(share)
        return fault(seconds=float(measure) if measure else None), float(share)
    except ValueError:
        wanted = {"size": f"{name}:BYTES=RATE", "seconds": f"{name}=RATE or {name}:SECONDS=RATE"}
        form = wanted.get(fault.takes or "", f"{name}=RATE")
        raise ValueError(f"fault {text}: write it as {form}, with a rate from 0 to 1") from None
