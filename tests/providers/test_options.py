"""Options are wrong early or not at all."""

from __future__ import annotations

from typing import Any

import pytest

from batchrt.providers.options import check_extra_body, check_options


def test_good_options_pass_unchanged() -> None:
    """None stands for "not sent"; what is not known goes through."""
    options = {
        "model": "m", "temperature": 0, "top_p": 1.0, "max_tokens": 1, "seed": -5, "stop": "x",
        "frequency_penalty": -2, "presence_penalty": None, "reasoning_effort": "low", "user": "u",
    }  # fmt: skip
    assert check_options(options) == options
    assert check_options({"stop": ("a", "b")}) == {"stop": ["a", "b"]}


@pytest.mark.parametrize(
    ("name", "value", "kind", "says"),
    [
        ("temperature", 2.1, ValueError, "temperature must be from 0 to 2, not 2.1"),
        ("temperature", float("nan"), ValueError, "temperature"),
        ("temperature", "0.5", TypeError, "temperature must be a number, not str"),
        ("temperature", True, TypeError, "not bool"),
        ("top_p", -0.1, ValueError, "top_p must be from 0 to 1"),
        ("frequency_penalty", 3, ValueError, "from -2 to 2"),
        ("max_tokens", 0, ValueError, "max_tokens must be 1 or more, not 0"),
        ("max_completion_tokens", 1.5, TypeError, "whole number, not float"),
        ("seed", "1", TypeError, "seed must be a whole number"),
        ("stop", [1], TypeError, "stop must be a string or a list of strings"),
        ("model", "", ValueError, "model must be the name"),
        ("model", 5, TypeError, "model must be a string"),
        ("n", 2, ValueError, "an input has one output"),
        ("stream", True, ValueError, "answers come whole"),
        ("messages", [], ValueError, "the messages are the input"),
        ("timeout", 5, ValueError, "timeout belongs to the model as a whole"),
        ("extra_body", {"n": 2}, ValueError, "n cannot be set"),
    ],
)
def test_bad_options_are_named(name: str, value: Any, kind: type[Exception], says: str) -> None:
    """With what they may be."""
    with pytest.raises(kind, match=says):
        check_options({name: value})


@pytest.mark.parametrize("owner", ["ChatOpenAI", "OpenAI"])
def test_stream_can_be_switched_off(owner: str) -> None:
    """There are servers that stream unless they are told not to; nothing else can be said about it."""
    assert check_options({"stream": False}, owner) == {"stream": False}
    assert check_extra_body({"stream": False}, owner) == {"stream": False}
    for value in (True, None, 0, "false", 1):
        with pytest.raises(ValueError, match="stream cannot be set"):
            check_options({"stream": value}, owner)


def test_extra_body_may_not_change_what_a_request_is_about() -> None:
    """An answer that streams could not be read."""
    assert check_extra_body(None) == {}
    assert check_extra_body({"top_k": 5}) == {"top_k": 5}
    with pytest.raises(ValueError, match="stream cannot be set"):
        check_extra_body({"stream": True})
