"""Messages that are made fast are those that their constructors make."""

from __future__ import annotations

import dataclasses
import pickle
from typing import Any

import pytest

from batchrt import AIMessage, Usage
from batchrt.providers.quick_messages import answer_message, plain_usage


def test_quick_usage_is_that_of_the_constructor() -> None:
    """Each field is set, whichever are added, and none can be set again."""
    usage = plain_usage(1, 2, 3)
    assert type(usage) is Usage
    assert dataclasses.asdict(usage) == dataclasses.asdict(Usage(1, 2, 3))
    assert hash(usage) == hash(Usage(1, 2, 3))
    with pytest.raises(dataclasses.FrozenInstanceError):
        usage.input_tokens = 4  # type: ignore[misc]


def test_quick_message_is_that_of_the_constructor() -> None:
    """Each field is set, whichever are added, and none can be set again."""
    usage = Usage(1, 2, 3)
    fields: dict[str, Any] = {
        "refusal": "no",
        "finish_reason": "stop",
        "usage": usage,
        "model": "m",
        "request_id": "req_1",
        "raw_tool_calls": ({"id": "1"},),
        "reasoning": "hm",
        "logprobs": {"content": []},
    }
    message = answer_message("text", *fields.values())
    assert type(message) is AIMessage
    assert dataclasses.asdict(message) == dataclasses.asdict(AIMessage("text", **fields))
    assert pickle.loads(pickle.dumps(message)) == message
    with pytest.raises(dataclasses.FrozenInstanceError):
        message.content = ""  # type: ignore[misc]
