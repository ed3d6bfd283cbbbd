"""Simulations in virtual time: random chains, clients and disturbances, each from one seed."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from batchrt import OutcomeIterator, RunnableRetry
from batchrt.runtime.run import Run
from batchrt.runtime.slots import Slots
from batchrt.runtime.spending import Spending
from tests.reliability.conftest import Figure
from tests.reliability.simulation import BACKENDS, Simulation, simulate
from tests.reliability.tiers import tiers

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("seeds", tiers(100, 10_000))
def test_simulation_keeps_the_promises(backend: str, seeds: int, figure: Figure) -> None:
    """Outcomes, order, cap, spending, time and what is left are right for every seed."""
    events = sum(len(simulate(seed, backend).history.events) for seed in range(seeds))
    figure(seeds=seeds, events=events)


@pytest.mark.parametrize("hash_seed", [0, 4242])
def test_simulation_trace_is_the_same_in_every_process(hash_seed: int) -> None:
    """The same seed is the same history, whatever the seed of the hashes."""
    here = [
        f"{seed} {backend} {simulate(seed, backend).history.digest()}"
        for seed in range(12)
        for backend in BACKENDS
    ]
    found = subprocess.run(
        [sys.executable, "-m", "tests.reliability.simulation", "12", "--digests"],
        cwd=ROOT,
        env={**os.environ, "PYTHONHASHSEED": str(hash_seed), "PYTHONPATH": str(ROOT)},
        check=True,
        capture_output=True,
        text=True,
    )
    assert found.stdout.splitlines()[:-1] == here


def test_simulation_seeds_are_different_runs() -> None:
    """So that many seeds are many runs."""
    histories = [tuple(simulate(seed, "trio").history.events) for seed in range(30)]
    assert len(set(histories)) > 25  # some have no inputs


@pytest.mark.parametrize("backend", BACKENDS)
def test_simulation_leaves_no_run_in_memory(backend: str) -> None:
    """Neither a quota of the process nor an event loop that was closed holds one."""
    before = _runs()
    for seed in range(50):
        simulate(seed, backend)
    assert _runs() <= before


def _runs() -> int:
    gc.collect()
    return sum(type(thing) is Run for thing in gc.get_objects())


def _one_slot_more(patch: pytest.MonkeyPatch) -> None:
    def init(self: Slots, total: int | None, *args: Any, **options: Any) -> None:
        original(self, None if total is None else total + 1, *args, **options)

    original = Slots.__init__
    patch.setattr(Slots, "__init__", init)


def _no_limit_of_spending(patch: pytest.MonkeyPatch) -> None:
    def init(self: Spending, _: Any, *args: Any) -> None:
        original(self, None, *args)

    original = Spending.__init__
    patch.setattr(Spending, "__init__", init)


def _no_order(patch: pytest.MonkeyPatch) -> None:
    def init(self: Any, job: Any, *, ordered: bool, **options: Any) -> None:
        original(self, job, ordered=False, **options)

    original = OutcomeIterator.__init__
    patch.setattr(OutcomeIterator, "__init__", init)


def _another_attempt(patch: pytest.MonkeyPatch) -> None:
    def init(self: Any, bound: Any, *, stop_after_attempt: int = 3, **options: Any) -> None:
        original(self, bound, stop_after_attempt=stop_after_attempt - 1 or 1, **options)

    original = RunnableRetry.__init__
    patch.setattr(RunnableRetry, "__init__", init)


@pytest.mark.parametrize("mutant", [_one_slot_more, _no_limit_of_spending, _no_order, _another_attempt])
def test_simulation_finds_a_fault_of_the_runtime(
    mutant: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that is put in on purpose breaks a promise within a few seeds."""
    mutant(monkeypatch)
    with pytest.raises(AssertionError):
        for seed in range(100):
            simulate(seed, "trio")


def test_simulation_draws_every_way_and_trouble() -> None:
    """A hundred seeds have all methods, kinds of inputs and disturbances."""
    drawn = [Simulation(seed) for seed in range(100)]
    clients = [client for simulation in drawn for client in simulation.clients]
    assert len({client.way for client in clients}) == 10
    assert {client.source for client in clients} == {"list", "generator", "async", "slow async"}
    assert any(client.broken_at is not None for client in clients)
    assert any(client.cancelled_at is not None for client in clients)
    assert any(client.stopped_at is not None for client in clients)
    assert any("max_tokens_total" in client.config for client in clients)
