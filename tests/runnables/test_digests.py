"""Digests: equal for equal values and functions, in every process."""

from __future__ import annotations

import io
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from batchrt import PromptTemplate
from batchrt.runnables.digests import IndescribableError, digest_of

FACTOR = 2
LABELS = {"a": "A"}


def helper(value: int) -> int:
    return value + 1


def other(value: int) -> int:
    return value + 2


def uses_helper(value: int) -> int:
    return helper(value)


def adder(amount: Any) -> Callable[[int], int]:
    return lambda value: value + amount


def recursive(value: int) -> int:
    return recursive(value - 1) if value else 0


@dataclass
class Options:
    size: int


class Adder:
    def __init__(self, size: int) -> None:
        self.size = size

    def __call__(self, value: int) -> int:
        return value + self.size


DIFFERENT: list[tuple[Any, Any]] = [
    (1, 2),
    (1, 1.0),
    (1, True),
    ("1", 1),
    ([1, 2], [2, 1]),
    ([1], (1,)),
    ([[1], 2], [1, [2]]),
    ({"a": 1}, {"a": 2}),
    ({1, 2}, {1, 3}),
    (helper, other),
    (lambda x: x, lambda x: -x),
    (lambda x: x.lower(), lambda x: x.upper()),
    (lambda x: x in {"a", "b"}, lambda x: x in {"a", "c"}),
    (lambda x, y=1: x, lambda x, y=2: x),
    (adder(1), adder(2)),
    (partial(helper, 1), partial(helper, 2)),
    (Options(1), Options(2)),
    (Adder(1), Adder(2)),
    (re.compile("a"), re.compile("b")),
    (adder(PromptTemplate.from_template("a")), adder(PromptTemplate.from_template("b"))),
    (Options, Adder),
    (len, sorted),
]


@pytest.mark.parametrize(("one", "two"), DIFFERENT, ids=range(len(DIFFERENT)))
def test_digest_differs_between_values(one: Any, two: Any) -> None:
    """Each has its own, and the same one every time."""
    assert digest_of(one) != digest_of(two)
    assert digest_of(one) == digest_of(one)


def test_digest_of_a_function_covers_the_functions_that_it_names(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of its own module, and plain values; and a function that calls itself has a digest."""
    before = digest_of(uses_helper)
    monkeypatch.setitem(globals(), "helper", other)
    assert digest_of(uses_helper) != before
    before = digest_of(lambda value: value * FACTOR)
    monkeypatch.setitem(globals(), "FACTOR", 3)
    assert digest_of(lambda value: value * FACTOR) != before
    before = digest_of(lambda value: LABELS[value])
    monkeypatch.setitem(LABELS, "a", "changed")
    assert digest_of(lambda value: LABELS[value]) != before
    assert digest_of(recursive) == digest_of(recursive)


def test_digest_is_the_same_in_another_process() -> None:
    """Whatever its hash seed and its addresses are."""
    program = (
        "from tests.runnables.test_digests import *\n"
        "for one, two in DIFFERENT: print(digest_of(one), digest_of(two))\n"
    )
    printed = [
        subprocess.run(
            [sys.executable, "-c", program],
            cwd=Path(__file__).parents[2],
            env={"PYTHONHASHSEED": seed, "PATH": ""},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    ]
    assert printed[0] == printed[1]
    assert len(printed[0].split()) == 2 * len(DIFFERENT)


@pytest.mark.parametrize("value", [io.BytesIO(b"x"), iter([1]), object(), adder(io.BytesIO())])
def test_digest_of_a_value_that_cannot_be_seen_is_refused(value: Any) -> None:
    """Rather than taken for unchanged."""
    with pytest.raises(IndescribableError):
        digest_of(value)


def test_digest_of_a_value_in_itself_is_refused() -> None:
    """No recursion error."""
    value: list[Any] = []
    value.append(value)
    with pytest.raises(IndescribableError, match="holds itself"):
        digest_of(value)
