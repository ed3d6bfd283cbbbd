from __future__ import annotations

import pytest

from batchrt.cli.console import count, duration, rate, short


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (count(1, "row"), "1 row"),
        (count(0, "row"), "0 rows"),
        (count(10_000, "row"), "10,000 rows"),
        (short(0), "0"),
        (short(999), "999"),
        (short(1000), "1k"),
        (short(12_345), "12.3k"),
        (short(999_999), "1M"),
        (short(4_560_000), "4.56M"),
        (short(7_000_000_000_000), "7e+03G"),
        (rate(0.4167), "0.42/s"),
        (rate(0), "0/s"),
        (rate(37.2), "37/s"),
        (rate(2480.4), "2,480/s"),
        (duration(0.2), "0 s"),
        (duration(59.4), "59 s"),
        (duration(59.6), "1:00"),
        (duration(125), "2:05"),
        (duration(3725), "1:02:05"),
    ],
)
def test_numbers_are_short_and_clear(shown: str, expected: str) -> None:
    """Short enough to be read at a glance."""
    assert shown == expected
