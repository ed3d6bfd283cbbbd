"""Servers at random, of every kind that refuses: the same for the same seed on every Python."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from typing import Any, NamedTuple

from batchrt.testing import LogNormal, MockProvider, Noise, Queueing, RateLimits, Stranger
from batchrt.testing.faults.seeded import SeededDice
from batchrt.testing.verdict import Verdict

__all__ = ["CAPS", "Case", "random_case"]

CAPS: tuple[Any, ...] = (1, 8, 50, None, "auto")

_LATENCIES = (0.05, 0.2, 1.0, LogNormal(0.2, 0.5))
_SECONDS = 30


class Case(NamedTuple):
    """Hold a server and a client that is to get along with it.

    Attributes:
        provider: the server.
        cap: the client's `max_concurrency`.
        items: how many requests keep it busy for half a minute or so.
        words: the kind of server.
    """

    provider: MockProvider
    cap: Any
    items: int
    words: str

    def verdict(self) -> Verdict:
        """Judge the requests that came, with the client's own cap in mind; refusals take 5 ms."""
        most = self.cap if isinstance(self.cap, int) else None
        return self.provider.verdict(grace=0.006, max_concurrency=most)


def random_case(seed: int) -> Case:
    """Draw a server: its limits, how it tells them, a stranger on the same key, and a change halfway."""
    dice = SeededDice(seed)
    kind = _one_of(dice, ("rate", "rate", "parallel", "queue", "both", "noise"))
    latency = _one_of(dice, _LATENCIES)
    rate, parallel = _one_of(dice, (2, 10, 50, 200)), _one_of(dice, (1, 4, 16, 64))
    told = _telling(dice)
    given: dict[str, Any] = {}
    median = latency.median if isinstance(latency, LogNormal) else latency
    pace = 50 / median
    if kind in ("rate", "both"):
        pace = min(pace, rate)
        told["requests_per_minute"] = _scripted(dice, 60 * rate)
        told["burst_seconds"] = max(_one_of(dice, (0.2, 1.0, 10.0)), 1 / rate)
        told["stranger"] = _one_of(dice, (None, None, Stranger(requests_per_minute=[(0, 0), (5, 20 * rate)])))
    if kind in ("parallel", "both"):
        pace = min(pace, parallel / median)
        told["max_parallel_requests"] = _scripted(dice, parallel)
    if kind in ("rate", "parallel", "both"):
        given["rate_limits"] = RateLimits(**told)
    if kind == "queue":
        pace = min(pace, parallel / median)
        given["server"] = _one_of(dice, ("infinity", "ollama", "tei", "openai"))
        given["queueing"] = Queueing(
            capacity=_scripted(dice, parallel), max_waiting=_one_of(dice, (0, 8, 64)), full_status=429
        )
    if kind == "noise":
        # Nothing else would say how fast it can be.
        given["queueing"] = Queueing(capacity=50)
    if kind == "noise" or dice.below(4) == 0:
        share, wait = _one_of(dice, (0.001, 0.02, 0.2)), _one_of(dice, (None, 0.5, 2.0))
        given["noise"] = Noise(share=share, wait=wait)
    cap = _one_of(dice, CAPS)
    if isinstance(cap, int):
        pace = min(pace, cap / median)
    items = min(1500, max(40, round(pace * _SECONDS)))
    words = f"{kind}, latency {latency}, cap {cap}, {items} requests: {_words(given)}"
    provider = MockProvider(seed=seed, latency=latency, refusal_latency=0.005, **given)
    return Case(provider, cap, items, words)


def _words(given: dict[str, Any]) -> str:
    """Name the options that differ from their defaults."""
    named = []
    for name, value in given.items():
        if not is_dataclass(value):
            named.append(f"{name}={value}")
            continue
        parts = [
            f"{each.name}={getattr(value, each.name)}"
            for each in fields(value)
            if getattr(value, each.name) != each.default
        ]
        named.append(f"{type(value).__name__}({', '.join(parts)})")
    return ", ".join(named)


def _one_of(dice: SeededDice, choices: tuple[Any, ...]) -> Any:
    return choices[dice.below(len(choices))]


def _scripted(dice: SeededDice, number: int) -> Any:
    """Let it be as it is, or halve or double it halfway."""
    second = dice.between(5, 20)
    return _one_of(
        dice,
        (
            number,
            number,
            number,
            [(0, number), (second, max(1, number // 2))],
            [(0, number), (second, 2 * number)],
        ),
    )


def _telling(dice: SeededDice) -> dict[str, Any]:
    """Draw how limits are told: with headers or without, and with waits that are right, wrong or missing."""
    return {
        "style": _one_of(dice, ("openai", "azure", "litellm", "tei", "infinity", "nginx")),
        "headers": _one_of(dice, ("all", "success", "none")),
        **_one_of(dice, ({}, {}, {"waits": ()}, {"waits": ("retry-after",), "named_wait": 2.0})),
        **_one_of(dice, ({}, {}, {"named_wait": 0.05})),
    }
