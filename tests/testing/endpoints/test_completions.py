from __future__ import annotations

import json
from typing import Any

import pytest

from batchrt.testing import MockProvider
from tests.testing.direct import Answer, ask

pytestmark = pytest.mark.anyio


def complete(provider: MockProvider, prompt: Any, **options: Any) -> Answer:
    return ask(provider, "/v1/completions", {"model": "m", "prompt": prompt, **options})


async def test_completions_answer_has_all_fields_of_the_api() -> None:
    """Shape, echo of the model, usage and finish reason."""
    provider = MockProvider()
    status, document, _ = complete(provider, "Once upon")
    text = provider.completion_to("Once upon")
    spent = -(-len(text) // 4)
    assert status == 200
    assert document.pop("id").startswith("cmpl-")
    assert isinstance(document.pop("created"), int)
    assert document == {
        "object": "text_completion",
        "model": "m",
        "system_fingerprint": "fp_batchrt_mock",
        "choices": [{"text": text, "index": 0, "logprobs": None, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 3, "completion_tokens": spent, "total_tokens": 3 + spent},
    }


async def test_completions_choice_i_times_n_plus_j_is_the_jth_of_prompt_i() -> None:
    """For lists of prompts and several choices each; usage covers them all."""
    provider = MockProvider()
    _, document, _ = complete(provider, ["one", "two", "three"], n=2)
    texts = [choice["text"] for choice in document["choices"]]
    assert texts == [
        provider.completion_to(prompt, index=index) for prompt in ("one", "two", "three") for index in (0, 1)
    ]
    assert len(set(texts)) == 6
    assert [choice["index"] for choice in document["choices"]] == list(range(6))
    assert document["usage"]["prompt_tokens"] == 4
    assert document["usage"]["completion_tokens"] == sum(-(-len(text) // 4) for text in texts)
    assert provider.log.records()[0].items == 3


async def test_completions_differ_from_chats() -> None:
    """Tokens are not answered as the text that they encode, either."""
    provider = MockProvider()
    answers = {provider.completion_to("1,2"), provider.completion_to([1, 2]), provider.answer_to("1,2")}
    assert len(answers) == 3
    _, document, _ = complete(provider, [[1, 2], [3]])
    assert [choice["text"] for choice in document["choices"]] == [
        provider.completion_to([1, 2]),
        provider.completion_to([3]),
    ]


async def test_completions_token_limit_truncates_each_choice() -> None:
    """The finish reason is `length`."""
    provider = MockProvider()
    _, document, _ = complete(provider, ["a", "b"], max_tokens=2)
    assert [choice["text"] for choice in document["choices"]] == [
        provider.completion_to(prompt)[:8] for prompt in "ab"
    ]
    assert {choice["finish_reason"] for choice in document["choices"]} == {"length"}
    assert document["usage"]["completion_tokens"] == 4


async def test_completions_custom_answer_gets_one_prompt_at_a_time() -> None:
    """In a list as alone."""
    provider = MockProvider(answer=lambda body: f"{body['prompt']}!")
    _, document, _ = complete(provider, ["a", "b"])
    assert [choice["text"] for choice in document["choices"]] == ["a!", "b!"]
    assert provider.completion_to("c") == "c!"


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"prompt": "a"}, "model"),
        ({"model": "m"}, "prompt"),
        ({"model": "m", "prompt": []}, "prompt"),
        ({"model": "m", "prompt": {"text": "a"}}, "prompt"),
        ({"model": "m", "prompt": "a", "n": 0}, "n"),
        ({"model": "m", "prompt": "a", "max_tokens": "many"}, "max_tokens"),
        ({"model": "m", "prompt": "a", "stream": "yes"}, "stream"),
        ({"model": "m", "prompt": "a", "stream_options": {}}, "stream_options"),
    ],
)
async def test_completions_reject_invalid_requests(body: Any, param: str) -> None:
    """400 in OpenAI's shape, with the parameter."""
    status, document, _ = ask(MockProvider(), "/v1/completions", body)
    assert (status, document["error"]["param"]) == (400, param)


async def test_completions_rejected_prompt_fails_the_whole_request() -> None:
    """The error does not tell which prompt."""
    provider = MockProvider(reject=lambda text: text == "bad apple")
    assert complete(provider, ["a", "b"]).status == 200
    status, document, _ = complete(provider, ["a", "bad apple"])
    assert status == 400
    assert "apple" not in json.dumps(document)


async def test_completions_of_llama_server_bill_the_first_prompt_alone() -> None:
    """All prompts are answered."""
    texts = ["one and more", "two"]
    _, document, _ = complete(MockProvider(server="llama-server"), texts, n=2)
    _, first, _ = complete(MockProvider(server="llama-server"), texts[0], n=2)
    assert len(document["choices"]) == 4
    assert document["usage"] == first["usage"]


async def test_completions_of_llama_cpp_python_fail_at_lists() -> None:
    """500, although no retry helps; a single prompt is answered."""
    provider = MockProvider(server="llama-cpp-python")
    assert complete(provider, "a").status == 200
    assert complete(provider, ["a"]).status == 500
