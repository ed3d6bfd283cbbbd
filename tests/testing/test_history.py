from __future__ import annotations

from batchrt.testing.history import History


def test_history_counts_attempts_per_body() -> None:
    """Each body has its own count, from 1."""
    history = History()
    assert [history.arrived(digest)[0] for digest in (5, 6, 5, 5, 6)] == [1, 1, 2, 3, 2]


def test_history_counts_faults_in_a_row() -> None:
    """The count rises with faults and is reset by an answer."""
    history = History()
    rows = []
    for faulty in (True, True, False, True):
        rows.append(history.arrived(5)[1])
        history.record_outcome(5, faulty=faulty)
    assert [*rows, history.arrived(5)[1]] == [0, 1, 2, 0, 1]


def test_history_is_bounded_and_keeps_the_newest() -> None:
    """For any number of bodies twice `keep` at most are held, and the last `keep` for sure."""
    history = History(keep=100)
    for digest in range(10_000):
        history.arrived(digest)
        assert len(history) <= 200
    assert all(history.arrived(digest)[0] == 2 for digest in range(9_900, 10_000))
    assert history.arrived(0)[0] == 1


def test_history_keeps_a_body_in_use() -> None:
    """It moves on to the newer generation."""
    history = History(keep=10)
    for digest in range(1, 500):
        history.arrived(digest)
        assert history.arrived(0)[0] == digest


def test_history_clear_forgets() -> None:
    """After a clear every body is new."""
    history = History()
    history.arrived(1)
    history.clear()
    assert history.arrived(1) == (1, 0)
