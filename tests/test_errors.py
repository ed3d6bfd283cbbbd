"""Errors: one tree, with data besides the message, and picklable."""

from __future__ import annotations

import copy
import pickle

import pytest

from batchrt import errors
from batchrt.errors import (
    BadRequestError,
    BatchError,
    ContextLengthError,
    DeadlineExceededError,
    InputError,
    ItemTimeoutError,
    MissingFieldError,
    OutputParserError,
    ProviderError,
    RateLimitError,
    RecursionLimitError,
    RequestTimeoutError,
    StrayCancelledError,
)

ONE_OF_EACH: list[BatchError] = [
    MissingFieldError("no x", field="x", available=("a",)),
    OutputParserError("no JSON", text="text"),
    RecursionLimitError("too deep"),
    StrayCancelledError("stray"),
    ItemTimeoutError("late", seconds=1.5),
    DeadlineExceededError("late", seconds=2.5),
    InputError("bad row", path="f.csv", row=3, column="c"),
    RateLimitError("slow", status=429, code="c", request_id="r", attempts=3, retry_after=2.0),
    RequestTimeoutError("late", attempts=2),
]


def kinds() -> list[type[BaseException]]:
    return [getattr(errors, name) for name in errors.__all__]


def test_errors_have_one_root() -> None:
    assert all(issubclass(kind, BatchError) for kind in kinds())


def test_errors_are_drawn_as_they_derive() -> None:
    """Each error is drawn below its parent, and none is missing."""
    drawn: list[tuple[int, str]] = []
    assert errors.__doc__ is not None
    for line in errors.__doc__.splitlines():
        stripped = line.lstrip(" │├└─")
        name = stripped.split(" ")[0]
        if name.endswith("Error") and len(line) > len(stripped):
            drawn.append((len(line) - len(stripped), name))
    assert sorted(name for _, name in drawn) == sorted(errors.__all__)
    parents: list[tuple[int, str]] = []
    for depth, name in drawn:
        while parents and parents[-1][0] >= depth:
            parents.pop()
        if parents:
            assert getattr(errors, parents[-1][1]) in getattr(errors, name).__bases__
        parents.append((depth, name))


@pytest.mark.parametrize(
    ("kind", "builtin"),
    [
        (MissingFieldError, KeyError),
        (OutputParserError, ValueError),
        (RecursionLimitError, RecursionError),
        (ItemTimeoutError, TimeoutError),
        (DeadlineExceededError, TimeoutError),
        (InputError, ValueError),
        (RequestTimeoutError, TimeoutError),
        (ContextLengthError, BadRequestError),
    ],
)
def test_errors_derive_from_the_builtin_ones(kind: type, builtin: type) -> None:
    assert issubclass(kind, builtin)


def test_missing_field_error_shows_its_message() -> None:
    assert str(MissingFieldError("no 'x' here", field="x")) == "no 'x' here"


def test_provider_error_shows_its_facts() -> None:
    error = ProviderError(
        "no", status=400, code="bad", param="model", request_id="req_1", attempts=2, type="t"
    )
    assert str(error) == "no (status 400, code bad, param model, request id req_1, 2 attempts)"
    assert str(ProviderError("no")) == "no"


@pytest.mark.parametrize("error", ONE_OF_EACH, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("how", ["pickle", "copy"])
def test_errors_survive_copies_and_pickling(error: BatchError, how: str) -> None:
    """Results are sent between processes: by a worker pool, a queue, a cache."""
    arrived = copy.copy(error) if how == "copy" else pickle.loads(pickle.dumps(error))
    assert type(arrived) is type(error)
    assert str(arrived) == str(error)
    assert vars(arrived) == vars(error)


def test_stray_cancelled_error_has_its_cause() -> None:
    cause = BaseException("cancelled")
    error = StrayCancelledError.of(cause)
    assert error.__cause__ is cause
