"""Random but plausible answers: fields dropped, nulled, retyped, reordered, doubled, and errors among them.

Whatever a provider makes of an answer: no good text is lost, no error or thought is taken for one, nothing is
paid for twice for the same defect, and reading takes steps that grow as the answer does.
"""

from __future__ import annotations

import copy
import json
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import httpx
import tenacity
from hypothesis import example, given
from hypothesis import strategies as st

from batchrt import ChatOpenAI, OpenAIEmbeddings, RetryPolicy
from batchrt.errors import MalformedResponseError, ProviderError
from batchrt.providers.chat.messages_json import read_chat, read_chats
from batchrt.providers.choices import FAILED
from batchrt.providers.completions.request_json import read_texts
from batchrt.providers.http.secrets import Secrets
from tests.limits.quotas import virtually
from tests.providers.http.replies import reply, wall

WORDS = "The refund is due."
THOUGHT = "THOUGHT"
Path = tuple[Any, ...]

ODD: list[Any] = [
    None,
    "",
    "x",
    "0",
    0,
    1,
    -1,
    2.5,
    True,
    False,
    [],
    {},
    ["x"],
    [None],
    {"x": None},
    [[]],
    [{}],
]
CONTENTS: list[Any] = [
    WORDS,
    [{"type": "text", "text": WORDS}],
    [{"type": "thinking", "thinking": THOUGHT}, {"type": "text", "text": WORDS}],
    [{"type": "text", "text": None}, {"type": "reasoning", "text": THOUGHT}, {"text": WORDS}],
]
ERRORS: list[Any] = [
    {"code": 502, "message": "went idle"},
    {"code": "429", "message": "slow down"},
    {"code": None, "message": "went idle"},
    {"message": "no credit left", "type": "insufficient_quota"},
    "went idle",
]


def whole(content: Any) -> dict[str, Any]:
    """Return an answer as OpenAI and its likes send it, with all that may be in one."""
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1_700_000_000,
        "model": "m-2026",
        "service_tier": "default",
        "error": None,
        "choices": [
            {
                "index": 0,
                "finish_reason": "stop",
                "logprobs": {"content": [{"token": "T", "logprob": -0.1, "top_logprobs": []}]},
                "message": {
                    "role": "assistant",
                    "content": content,
                    "refusal": None,
                    "tool_calls": [],
                    "annotations": [],
                    "audio": None,
                    "function_call": None,
                    "reasoning_content": THOUGHT,
                },
            }
        ],
        "usage": {
            "prompt_tokens": 9,
            "completion_tokens": 7,
            "total_tokens": 16,
            "prompt_tokens_details": {"cached_tokens": 4, "audio_tokens": 0},
            "completion_tokens_details": {"reasoning_tokens": 3},
        },
    }


def places(value: Any, path: Path = ()) -> list[Path]:
    """Return the ways to all members and elements in `value`."""
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [found for key, inner in inside for found in ((*path, key), *places(inner, (*path, key)))]


def holder_of(value: Any, path: Path) -> Any:
    for key in path[:-1]:
        value = value[key]
    return value


@st.composite
def answers(draw: st.DrawFn) -> Any:
    """Draw an answer and change it in up to six places."""
    body = copy.deepcopy(whole(draw(st.sampled_from(CONTENTS))))
    for _ in range(draw(st.integers(0, 6))):
        ways = places(body)
        if not ways:
            break
        path = draw(st.sampled_from(ways))
        holder, key = holder_of(body, path), path[-1]
        match draw(st.sampled_from(["drop", "null", "retype", "reorder", "double", "error", "reason"])):
            case "drop":
                del holder[key]
            case "null":
                holder[key] = None
            case "retype":
                holder[key] = copy.deepcopy(draw(st.sampled_from(ODD)))
            case "reorder":
                _reorder(draw, holder)
            case "double" if isinstance(holder, list):
                holder.insert(draw(st.integers(0, len(holder))), copy.deepcopy(holder[key]))
            case "error":
                error = copy.deepcopy(draw(st.sampled_from(ERRORS)))
                target = draw(st.sampled_from([body, *dicts(body.get("choices"))]))
                target["error"] = error
            case "reason":
                for choice in dicts(body.get("choices"))[:1]:
                    choice["finish_reason"] = draw(st.sampled_from([*FAILED, "length", "content_filter"]))
    return body


def _reorder(draw: st.DrawFn, holder: Any) -> None:
    if isinstance(holder, list):
        holder[:] = draw(st.permutations(holder))
    else:
        members = draw(st.permutations(list(holder.items())))
        holder.clear()
        holder.update(members)


def dicts(value: Any) -> list[dict[str, Any]]:
    return [each for each in value if isinstance(each, dict)] if isinstance(value, list) else []


# What is expected, said in other words than the code's


def said(content: Any) -> str | None:
    """Return the words in a content that is as the API has it; `None` if it is not."""
    if isinstance(content, str):
        return content
    parts = [content] if isinstance(content, dict) and isinstance(content.get("text"), str) else content
    if not isinstance(parts, list) or not all(part is None or isinstance(part, str | dict) for part in parts):
        return None
    return "".join(part if isinstance(part, str) else _words(part or {}) for part in parts)


def _words(part: dict[str, Any]) -> str:
    text = part.get("text")
    is_thought = any(part.get("type") == kind for kind in ("thinking", "reasoning"))
    return text if isinstance(text, str) and not is_thought else ""


def reports(thing: dict[str, Any]) -> bool:
    """Whether an object reports an error: something is said in its `error`."""
    error = thing.get("error")
    return any(error.values()) if isinstance(error, dict) else bool(error)


def failed(body: dict[str, Any]) -> bool:
    """Whether an answer reports a failure, at the top, on a choice, on a message."""
    if reports(body):
        return True
    for choice in dicts(body.get("choices")):
        message = choice.get("message")
        reason = choice.get("finish_reason")
        if reports(choice) or (isinstance(message, dict) and reports(message)):
            return True
        if isinstance(reason, str) and reason in FAILED:
            return True
    return False


def good_texts(body: dict[str, Any]) -> list[str]:
    """Return the words of all choices that have some."""
    messages = [choice.get("message") for choice in dicts(body.get("choices"))]
    texts = [said(message.get("content")) for message in messages if isinstance(message, dict)]
    return [text for text in texts if text]


@given(answers())
@example(whole(WORDS))
def test_response_body_text_and_errors_are_told_apart(body: dict[str, Any]) -> None:
    """Text is returned, failures are errors, and reasoning is never text."""
    texts = good_texts(body)
    try:
        message = read_chat(reply(body), Secrets([]), wall)
    except MalformedResponseError:
        assert not failed(body)
        assert not texts
    except ProviderError:
        assert failed(body)
    else:
        assert not failed(body)
        assert message.text in (texts or ["", "x", "0"])
        # A part that lost its type, and with it all that says that it is a thought, is words to anybody.
        assert THOUGHT not in message.text or any(THOUGHT in text for text in texts)
        assert "None" not in message.text


@given(answers())
@example({"choices": [{"message": {"content": 5}}], "usage": {"completion_tokens": 7, "prompt_tokens": 9}})
def test_response_body_defects_are_not_paid_for_twice(body: dict[str, Any]) -> None:
    """A good answer takes one request, as does a broken one that was billed; failures follow their code."""
    sent: list[Any] = []

    def handle(request: httpx.Request) -> httpx.Response:
        sent.append(request)
        return httpx.Response(200, json=body)

    async def main() -> Any:
        model = ChatOpenAI(
            "m",
            base_url="http://h/v1",
            api_key="k",
            transport=httpx.MockTransport(handle),
            retry_policy=RetryPolicy(wait=tenacity.wait_none()),
        )
        (outcome,) = await model.abatch(["x"], return_exceptions=True)
        return outcome

    outcome = virtually("trio", main)
    usage = body.get("usage")
    billed = dicts(body.get("choices")) or (isinstance(usage, dict) and usage.get("completion_tokens") == 7)
    if not isinstance(outcome, Exception):
        assert len(sent) == 1
    elif isinstance(outcome, MalformedResponseError):
        assert len(sent) == (1 if billed and usage_is_whole(usage, body) else len(sent))
        assert len(sent) <= 3
    else:
        assert failed(body)
        assert 1 <= len(sent) <= 3


def usage_is_whole(usage: Any, body: dict[str, Any]) -> bool:
    """Whether it can be seen that an answer was billed: by its tokens, or by a choice."""
    if dicts(body.get("choices")):
        return True
    counts = [usage.get(name) for name in ("prompt_tokens", "completion_tokens", "total_tokens")]
    return all(type(count) is int and count > 0 for count in counts)


def steps_of(function: Callable[[], Any]) -> int:
    """Count the calls, of Python's and of C's, that `function` makes."""
    count = 0

    def note(_frame: Any, event: str, _argument: Any) -> None:
        nonlocal count
        count += event in {"call", "c_call"}

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        function()
    except ProviderError:
        pass
    finally:
        sys.setprofile(before)
    return count


@given(answers())
def test_response_body_is_read_in_linear_time(body: dict[str, Any]) -> None:
    """Twice the choices, parts and calls, at most twice the steps."""

    def longer(value: Any, times: int) -> Any:
        if isinstance(value, dict):
            return {key: longer(inner, times) for key, inner in value.items()}
        return [longer(each, 1) for each in value] * times if isinstance(value, list) else value

    counts = []
    for times in (1, 20, 40):  # the first call may fill caches
        sent = reply(longer(body, times))
        counts.append(steps_of(partial(read_chat, sent, Secrets([]), wall)))
    assert counts[2] <= 2 * counts[1] + 100


# Lists: each value its own, or an error, and never another's

INDEXES: dict[str, Callable[[int, int], Any]] = {
    "as it should be": lambda i, _: i,
    "from 1": lambda i, _: i + 1,
    "as texts": lambda i, _: str(i),
    "as floats": lambda i, _: float(i),
    "0 left out": lambda i, _: i or ...,
    "0 as null": lambda i, _: i or None,
    "left out": lambda *_: ...,
    "null": lambda *_: None,
    "the last left out": lambda i, n: ... if i == n - 1 else i,
}
IN_ORDER = {"left out", "null"}


def indexed(items: list[dict[str, Any]], way: str) -> list[dict[str, Any]]:
    index = INDEXES[way]
    numbered = [{"index": index(i, len(items)), **item} for i, item in enumerate(items)]
    return [{name: value for name, value in item.items() if value is not ...} for item in numbered]


@given(st.integers(1, 40), st.sampled_from(sorted(INDEXES)), st.randoms(use_true_random=False))
def test_response_body_lists_are_placed_by_any_numbering(count: int, way: str, random: Any) -> None:
    """In any order, if there are numbers; and paid for once."""
    paid: list[int] = []

    def handle(request: httpx.Request) -> httpx.Response:
        texts = json.loads(request.content)["input"]
        texts = texts if isinstance(texts, list) else [texts]
        paid.append(len(texts))
        data = indexed([{"embedding": [1.0, float(text)]} for text in texts], way)
        if way not in IN_ORDER:
            random.shuffle(data)
        return httpx.Response(200, json={"data": data})

    async def main() -> Any:
        transport = httpx.MockTransport(handle)
        model = OpenAIEmbeddings("m", base_url="http://h/v1", api_key="k", transport=transport)
        return await model.aembed_documents([str(i) for i in range(count)])

    assert virtually("trio", main) == [[1.0, float(i)] for i in range(count)]
    assert paid == [count]


@given(
    st.integers(1, 6),
    st.lists(st.tuples(st.integers(0, 5), st.sampled_from([..., *ODD])), max_size=3),
    st.permutations(range(6)),
)
def test_response_body_lists_give_each_value_its_own_or_an_error(
    count: int, changes: list[tuple[int, Any]], order: list[int]
) -> None:
    """Whatever becomes of some indexes, of chats and of completions, no value is given to another."""
    choices: list[dict[str, Any]] = [
        {"index": i, "finish_reason": "stop", "message": {"content": f"<{i}>"}, "text": f"<{i}>"}
        for i in order
        if i < count
    ]
    lost = 0
    for place, value in changes:
        if place < count:
            lost += 1
            choices[place]["index"] = value
            if value is ...:
                del choices[place]["index"]
    body = {"choices": choices}

    def chats() -> list[Any]:
        messages: list[Any] = read_chats(reply(body), count, Secrets([]), wall).messages
        return [message.text for message in messages]

    def completions() -> list[Any]:
        texts: list[Any] = read_texts(reply(body), count, 1, Secrets([]), wall).texts
        return [text for (text,) in texts]

    for read in (chats, completions):
        try:
            texts = read()
        except MalformedResponseError:
            continue
        given_ = [choice.get("index") for choice in choices]
        if not lost or (lost == 1 and given_.count(None) == 1 and count > 1):
            assert texts == [f"<{i}>" for i in range(count)]
        assert sorted(texts) == [f"<{i}>" for i in range(count)]
