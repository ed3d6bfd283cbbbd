"""The contenders of the refusals suite at other caps."""

from __future__ import annotations

import pytest

from benchmarks.studies.refusals_clients import CONTENDERS, at_cap, knowing, named


@pytest.mark.parametrize("contender", CONTENDERS, ids=lambda contender: contender.name)
def test_contender_is_found_by_its_base_name_and_cap(contender: object) -> None:
    """A process of its own makes the same contender from the two."""
    for one in (contender, at_cap(contender, "8")):  # type: ignore[arg-type]
        found = named(one.base, one.cap)  # type: ignore[attr-defined]
        assert (found.name, found.cap, found.needs) == (one.name, one.cap, one.needs)  # type: ignore[attr-defined]


def test_contender_that_knows_the_server_is_found_too() -> None:
    """Its cap is part of its name."""
    one = knowing(64)
    assert named(one.base, one.cap).name == "aiohttp, 64 at once"


def test_contender_names_differ_by_cap() -> None:
    """A cap replaces another one in the name."""
    batchrt = CONTENDERS[0]
    assert at_cap(at_cap(batchrt, "auto"), "8").name == "batchrt, cap 8"
    assert at_cap(batchrt, "none").cap == "none"
