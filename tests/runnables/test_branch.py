from __future__ import annotations

from typing import Any

import pytest

from batchrt import RunnableBranch, RunnableLambda, RunnablePassthrough
from tests.runnables.helpers import add_one, add_two, everyway, fail, raises_everyway

pytestmark = pytest.mark.anyio


async def positive(value: int) -> bool:
    return value > 0


@pytest.mark.parametrize(("value", "output"), [(3, "big"), (2, "middle"), (1, "small")])
async def test_the_first_true_condition_decides(value: int, output: str) -> None:
    """Else the default; conditions and runnables sync, async or inline."""

    async def middle(_value: int) -> str:
        return "middle"

    async def over_one(value: int) -> bool:
        return value > 1

    branch = RunnableBranch(
        (lambda value: value > 2, lambda _value: "big"), (over_one, middle), lambda _value: "small"
    )
    assert await everyway(branch, value) == output


async def test_a_condition_may_be_truthy() -> None:
    """A value that counts as true is true; inline branches choose in the same way."""
    inline: RunnablePassthrough[Any] = RunnablePassthrough()
    branch: RunnableBranch[Any, Any] = RunnableBranch((inline, inline), {"default": inline})
    assert await everyway(branch, "full") == "full"
    assert await everyway(branch, "") == {"default": ""}


async def test_conditions_after_the_first_true_one_do_not_run() -> None:
    """Nor do the runnables that were not chosen."""
    branch = RunnableBranch((positive, add_one), (fail, fail), fail)
    assert await everyway(branch, 1) == 2


async def test_a_condition_s_error_is_the_branch_s() -> None:
    """It does not count as false."""
    await raises_everyway(RunnableBranch((fail, add_one), add_two), 1, ValueError, r"fail\(1\)")


async def test_keyword_arguments_go_to_what_was_chosen() -> None:
    """And not to the conditions."""
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
def test_bad_arguments_are_named(arguments: tuple[Any, ...], error: type[Exception], match: str) -> None:
    """When it is made, with LCEL's kinds of errors."""
    with pytest.raises(error, match=match):
        RunnableBranch(*arguments)


def test_pairs_may_be_lists() -> None:
    """As in LCEL; the parts are runnables afterwards."""
    branch: RunnableBranch[int, int] = RunnableBranch([positive, add_one], add_two)  # type: ignore[arg-type]
    ((when, then),) = branch.branches
    assert all(isinstance(part, RunnableLambda) for part in (when, then, branch.default))
