from __future__ import annotations

from typing import Any

import pytest

from batchrt import RunnableBranch, RunnableLambda, RunnablePassthrough
from tests.runnables.helpers import add_one, add_two, everyway, fail, raises_everyway

pytestmark = pytest.mark.anyio


async def positive(value: int) -> bool:
    return value > 0


@pytest.mark.parametrize(("value", "output"), [(3, "big"), (2, "middle"), (1, "small")])
async def test_branch_runs_the_first_true_condition(value: int, output: str) -> None:
    """If none is true, the default runs; conditions and runnables may be sync, async or inline."""

    async def middle(_value: int) -> str:
        return "middle"

    async def over_one(value: int) -> bool:
        return value > 1

    branch = RunnableBranch(
        (lambda value: value > 2, lambda _value: "big"), (over_one, middle), lambda _value: "small"
    )
    assert await everyway(branch, value) == output


async def test_branch_accepts_truthy_conditions() -> None:
    """Any true value selects the runnable; inline branches choose in the same way."""
    inline: RunnablePassthrough[Any] = RunnablePassthrough()
    branch: RunnableBranch[Any, Any] = RunnableBranch((inline, inline), {"default": inline})
    assert await everyway(branch, "full") == "full"
    assert await everyway(branch, "") == {"default": ""}


async def test_branch_does_not_run_conditions_after_the_first_true_one() -> None:
    """Runnables that were not chosen do not run either."""
    branch = RunnableBranch((positive, add_one), (fail, fail), fail)
    assert await everyway(branch, 1) == 2


async def test_branch_raises_the_error_of_a_condition() -> None:
    """An error does not count as false."""
    await raises_everyway(RunnableBranch((fail, add_one), add_two), 1, ValueError, r"fail\(1\)")


async def test_branch_passes_keyword_arguments_to_the_chosen_runnable() -> None:
    """Conditions do not receive them."""
    branch = RunnableBranch((positive, add_one), add_two)
    assert await everyway(branch, 1, extra=5) == 7
    assert await everyway(branch, -1, extra=5) == 6


@pytest.mark.parametrize(
    ("arguments", "error", "match"),
    [
        ((), ValueError, "at least one"),
        ((add_one,), ValueError, "and a default"),
        (((positive, add_one), (positive, add_two)), TypeError, "is its default"),
        ((add_one, add_two), TypeError, "a branch is a"),
        (((positive, add_one, add_two), add_two), ValueError, "not 3 things"),
        (((True, add_one), add_two), TypeError, "not bool"),
        (((positive, add_one), 3), TypeError, "not int"),
    ],
)
def test_branch_names_bad_arguments(arguments: tuple[Any, ...], error: type[Exception], match: str) -> None:
    """The error is raised by the constructor, with LCEL's types."""
    with pytest.raises(error, match=match):
        RunnableBranch(*arguments)


def test_branch_accepts_lists_as_pairs() -> None:
    """As in LCEL; their parts become runnables."""
    branch: RunnableBranch[int, int] = RunnableBranch([positive, add_one], add_two)  # type: ignore[arg-type]
    ((when, then),) = branch.branches
    assert all(isinstance(part, RunnableLambda) for part in (when, then, branch.default))
