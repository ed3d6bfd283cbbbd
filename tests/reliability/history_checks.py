"""Checks of a simulation: what was delivered, in which order, by when, and what is left."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from batchrt import (
    DeadlineExceededError,
    ItemTimeoutError,
    ListLengthError,
    ProviderError,
    RunStoppedError,
    SpendingLimitError,
)
from tests.reliability.random_chains import CLEANUP, Boom, Expected, number_of

if TYPE_CHECKING:
    from tests.reliability.simulation import Client, Simulation

__all__ = ["check"]

_ROUNDING: Final = 1e-6


def check(simulation: Simulation) -> None:
    """Assert that a simulation, which has run, kept the promises."""
    assert not simulation.left, simulation.left
    assert not simulation.later, simulation.later[:5]
    for client in simulation.clients:
        expected = [simulation.node.expect(*number_of(value)) for value in client.values]
        _check_places(client)
        _check_outputs(client, expected)
        _check_end(client, expected)
        _check_times(simulation, client, expected)
        _check_cap(simulation, client)
        _check_spending(simulation, client)


def _check_places(client: Client) -> None:
    """Each input has one outcome, and in input order where that is promised."""
    places = [place for place, _ in client.delivered]
    assert len(set(places)) == len(places), f"{client.name}: delivered twice: {places}"
    assert set(places) <= set(range(len(client.numbers))), places
    if client.way in ("abatch", "abatch fail fast", "arun", "iter", "iter fail fast", "outcomes"):
        assert places == sorted(places), f"{client.name}: out of order: {places}"
    if client.end == "closed":
        assert len(places) == client.most or client.way == "chunks"
    if client.way in ("iter", "iter fail fast", "outcomes") and client.end != "returned":
        assert places == list(range(len(places))), f"{client.name}: a gap in {places}"
    if client.end == "returned" and client.stopped_at is None and client.limit is None:
        assert len(places) == len(client.numbers), f"{client.name}: {len(places)} delivered"


def _check_outputs(client: Client, expected: list[Expected]) -> None:
    """Each outcome is the one that the sequential oracle says, or a documented error."""
    if client.way == "chunks" and client.end != "returned":
        return  # the last one may be a part
    for place, output in client.delivered:
        if isinstance(output, Exception):
            problem = _problem_of(client, output, expected[place].errors)
            assert not problem, f"{client.name}{place}: {problem}"
        else:
            key, number = number_of(output)
            assert key == f"{client.name}{place}", f"{client.name}{place} got {output!r}"
            assert number in expected[place].outputs, f"{output!r}, not {sorted(expected[place].outputs)}"


def _problem_of(client: Client, error: Exception, allowed: frozenset[str]) -> str:
    """Return what is wrong about an item's error; nothing if it may come."""
    if isinstance(error, Boom):
        return "" if error.args[0] in allowed else f"{error!r} is not among {sorted(allowed)}"
    config = client.config
    reasons = {
        ItemTimeoutError: "timeout" in config or "ItemTimeoutError" in allowed,
        DeadlineExceededError: "deadline" in config,
        SpendingLimitError: "max_tokens_total" in config,
        RunStoppedError: client.stopped_at is not None,
        ProviderError: "ProviderError" in allowed,
        ListLengthError: False,
    }
    for kind, is_right in reasons.items():
        if isinstance(error, kind):
            return "" if is_right else f"{error!r} must not come"
    return f"{error!r} is no error of the chain"


def _check_end(client: Client, expected: list[Expected]) -> None:
    """A call returns, or raises the error that its documentation names."""
    if client.end in ("returned", "closed"):
        if client.end == "returned" and client.way != "calls":
            is_lost = client.broken_at is not None and len(client.delivered) == len(client.numbers)
            assert not is_lost, "the inputs' error is lost"
        return
    if client.end == "cancelled":
        assert client.cancelled_at is not None
        return
    error = client.error
    assert error is not None, client
    if type(error).__name__ == "InputsEnded":
        assert client.broken_at is not None
        return
    config = client.config
    if isinstance(error, DeadlineExceededError) and "deadline" in config:
        return
    if isinstance(error, SpendingLimitError) and "max_tokens_total" in config:
        return
    assert client.way.endswith("fail fast"), f"{client.name}: {error!r} was raised by {client.way}"
    allowed = frozenset[str]().union(*(item.errors for item in expected))
    problem = _problem_of(client, error, allowed)
    assert not problem, f"{client.name}: {problem}"


def _check_times(simulation: Simulation, client: Client, expected: list[Expected]) -> None:
    """Limits of time are kept, cancellation takes effect at once, and slots do not lie idle."""
    seconds = client.ended - client.began
    # A leaf that is cancelled in its clean-up ends without a checkpoint; the next one runs to its first.
    cleanup = 2 * CLEANUP if "careful" in simulation.node.text else 0.0
    if client.end == "cancelled":
        assert client.cancelled_at is not None
        assert seconds <= client.cancelled_at + cleanup + _ROUNDING, f"{client.name}: cancelled late"
    deadline = client.config.get("deadline")
    if deadline is not None and client.way in ("abatch", "abatch fail fast", "arun"):
        assert seconds <= deadline + cleanup + _ROUNDING, f"{client.name}: {seconds} s past its deadline"
    timeout = client.config.get("timeout")
    if timeout is not None:
        for outcome in client.outcomes:
            assert outcome.seconds <= timeout + cleanup + _ROUNDING, f"{outcome} took longer than {timeout}"
    if _is_plain(client) and client.way in ("abatch", "abatch fail fast", "arun"):
        works = [item.work for item in expected if not item.errors]
        if len(works) == len(expected) and None not in works:
            _check_greedy(client, expected, seconds, simulation.history.worked[client.name])


def _is_plain(client: Client) -> bool:
    given = client.config.keys() - {"max_concurrency"}
    return not given and client.end == "returned" and client.source == "list"


def _check_greedy(client: Client, expected: list[Expected], seconds: float, worked: float) -> None:
    """No schedule without idle slots takes longer than the work by the cap, and the longest line (Brent)."""
    total = sum(item.work or 0.0 for item in expected)
    assert abs(worked - total) < _ROUNDING * (len(expected) + 1), f"{worked} s of work, not {total}"
    cap = client.config["max_concurrency"]
    longest = max((item.span for item in expected), default=0.0)
    bound = longest if cap in (None, "auto") else total / cap + longest
    assert seconds <= bound + _ROUNDING, f"{client.name}: {seconds} s, and {bound} s would do"


def _check_cap(simulation: Simulation, client: Client) -> None:
    cap: Any = client.config["max_concurrency"]
    if isinstance(cap, int) and client.way != "calls":
        peak = simulation.history.peaks[client.name]
        assert peak <= cap, f"{client.name}: {peak} leaves at once, and the cap is {cap}"


def _check_spending(simulation: Simulation, client: Client) -> None:
    limit = client.config.get("max_tokens_total")
    if limit is not None and client.way != "calls":
        billed = simulation.history.billed[client.name]
        assert billed <= limit, f"{client.name}: {billed} tokens, and the limit is {limit}"
