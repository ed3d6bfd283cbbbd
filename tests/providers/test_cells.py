"""Runs against providers that limit are the same every time: a figure of one holds on every machine."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tests.providers.cells import BACKENDS, CELLS, digests

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def alone() -> list[str]:
    return digests()


@pytest.mark.parametrize("hash_seed", [0, 4242])
def test_cells_traces_are_the_same_in_every_process(alone: list[str], hash_seed: int) -> None:
    """Request by request, whatever the seed of the hashes."""
    found = subprocess.run(
        [sys.executable, "-m", "tests.providers.cells"],
        cwd=ROOT,
        env={**os.environ, "PYTHONHASHSEED": str(hash_seed), "PYTHONPATH": str(ROOT)},
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert found.stdout.splitlines() == alone


def test_cells_traces_are_the_same_beside_a_busy_thread(alone: list[str]) -> None:
    """Real time passes between any two steps of a run, and changes nothing."""
    is_over = threading.Event()

    def spin() -> None:
        while not is_over.is_set():
            pass

    interval = sys.getswitchinterval()
    thread = threading.Thread(target=spin)
    thread.start()
    try:
        sys.setswitchinterval(1e-4)
        assert digests() == alone
    finally:
        sys.setswitchinterval(interval)
        is_over.set()
        thread.join()


def test_cells_are_different_runs(alone: list[str]) -> None:
    """Each limit is met, and another seed is another run: so equal traces say something."""
    for backend in BACKENDS:
        own = {line.rpartition(" ")[2] for line in alone if f" {backend} " in line}
        assert len(own) == len(CELLS)
    assert not set(alone) & set(digests(seed=1))
