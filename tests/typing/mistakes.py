"""What a type checker must refuse: each ignore is an error if there is nothing to ignore."""

# pyright: reportUnnecessaryTypeIgnoreComment=true
from __future__ import annotations

from batchrt import ChatOpenAI, RunConfig, RunnableLambda, StrOutputParser


def length(text: str) -> int:
    return len(text)


def upper(text: str) -> str:
    return text.upper()


def steps_that_do_not_fit() -> None:
    """The output of one step must be what the next one takes."""
    first, second = RunnableLambda(length), RunnableLambda(upper)
    _ = first | second  # type: ignore[operator]
    _ = first | upper  # type: ignore[operator]
    _ = first | 3  # type: ignore[operator]


def inputs_that_do_not_fit(model: ChatOpenAI) -> None:
    """The input must be what the first step takes."""
    RunnableLambda(length).invoke(3)  # type: ignore[arg-type]
    RunnableLambda(length).batch([3])  # type: ignore[list-item]
    (model | StrOutputParser()).invoke(3)  # type: ignore[arg-type]


def configs_that_do_not_fit() -> None:
    """A key that does not exist, a value of another type."""
    RunConfig(max_concurency=3)  # type: ignore[typeddict-unknown-key]
    RunConfig(timeout="3")  # type: ignore[typeddict-item]
