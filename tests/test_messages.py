"""Messages to and from a model, with the provider's metadata."""

from __future__ import annotations

import dataclasses
import pickle
from typing import Any

import pytest

from batchrt import AIMessage, HumanMessage, Message, SystemMessage, Usage


def test_usage_adds_up() -> None:
    assert Usage(1, 2, 3) + Usage(10, 20, 30) == Usage(11, 22, 33)
    assert sum([Usage(1, 1, 2)] * 3, Usage()) == Usage(3, 3, 6)


@pytest.mark.parametrize(
    ("message", "role"),
    [(SystemMessage("x"), "system"), (HumanMessage("x"), "user"), (AIMessage("x"), "assistant")],
)
def test_message_classes_have_their_roles(message: Message, role: str) -> None:
    assert (message.role, message.content, message.name) == (role, "x", None)


def test_message_takes_a_role() -> None:
    assert Message("developer", "x").role == "developer"


def test_message_compares_by_value() -> None:
    assert HumanMessage("x") == HumanMessage("x")
    answer: Message = AIMessage("x")
    assert answer != HumanMessage("x")
    with pytest.raises(dataclasses.FrozenInstanceError):
        HumanMessage("x").content = "y"  # type: ignore[misc]


def test_message_text_is_its_text_parts() -> None:
    parts: list[dict[str, Any]] = [{"type": "text", "text": "a"}, {"type": "image_url"}, {"text": "b"}]
    assert AIMessage(parts).text == "ab"
    assert AIMessage("ab").text == "ab"
    assert AIMessage(None, refusal="no").text == ""


def test_message_survives_pickling() -> None:
    answer = AIMessage("x", usage=Usage(1, 2, 3), finish_reason="stop", model="m", request_id="r")
    assert pickle.loads(pickle.dumps(answer)) == answer
