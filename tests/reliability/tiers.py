"""Tiers of the reliability suite: a few runs with the other tests, many by `nox -s reliability`."""

from __future__ import annotations

from typing import Any

import pytest

__all__ = ["tiers"]


def tiers(quick: Any, long: Any) -> list[Any]:
    """Return the parameters of a test's two tiers, a tuple for several; `-m long` selects the second."""
    several = isinstance(quick, tuple)
    one, other = (quick, long) if several else ((quick,), (long,))
    return [pytest.param(*one, id="quick"), pytest.param(*other, id="long", marks=pytest.mark.long)]
