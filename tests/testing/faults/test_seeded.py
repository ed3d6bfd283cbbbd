from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from batchrt.testing.faults.seeded import SeededDice, digest_of, draw


def test_seeded_draw_depends_on_its_purpose_alone() -> None:
    """The same purpose draws the same number, another one another, all from [0, 1)."""
    drawn = [draw(seed, "fault", digest) for seed in range(10) for digest in range(100)]
    assert drawn == [draw(seed, "fault", digest) for seed in range(10) for digest in range(100)]
    assert len(set(drawn)) == 1000
    assert all(0 <= number < 1 for number in drawn)


def test_seeded_draws_are_uniform() -> None:
    """Each tenth of the range gets about a tenth of the draws."""
    counts = [0] * 10
    for number in range(10_000):
        counts[int(draw("even", number) * 10)] += 1
    assert min(counts) > 850
    assert max(counts) < 1150


@given(seed=st.integers(min_value=0), low=st.integers(-50, 50), width=st.integers(0, 100))
def test_seeded_dice_stay_within_their_bounds(seed: int, low: int, width: int) -> None:
    """`between` includes both ends and nothing beyond them; equal seeds roll equal numbers."""
    dice, twin = SeededDice(seed), SeededDice(seed)
    rolls = [dice.between(low, low + width) for _ in range(20)]
    assert all(low <= roll <= low + width for roll in rolls)
    assert rolls == [twin.between(low, low + width) for _ in range(20)]


def test_seeded_digest_never_changes() -> None:
    """Answers and faults stay the same from one release and one platform to the next."""
    assert digest_of(b"batchrt") == 0xD7FDDA01F02F53CB
