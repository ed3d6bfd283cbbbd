"""Chunks of completions: pieces of the text, as the server sends them."""

from __future__ import annotations

from typing import Any

import anyio
import httpx
import pytest

from batchrt import MalformedResponseError, OpenAI, ServerError, Usage
from batchrt.testing import MockProvider, Streaming
from tests.limits.quotas import is_idle
from tests.providers.completions.completing import answered_by, completion, model_of
from tests.providers.streaming import Streamed, event, sse, streamed

USAGE = {"prompt_tokens": 10, "completion_tokens": 3, "total_tokens": 13}


def piece(text: Any, finish: str | None = None, **members: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "text": text, "finish_reason": finish}], **members}


def streaming(body: bytes, **options: Any) -> OpenAI[Any]:
    """Return a model whose requests are all answered with `body`."""
    return answered_by(lambda _: httpx.Response(200, content=body), max_retries=0, **options)


BODIES = {
    "as OpenAI": sse(piece("Hel"), piece("lo"), piece("", "stop"), {"choices": [], "usage": USAGE}),
    "empty pieces": sse(piece(""), piece("Hel"), piece(None), piece("lo", "stop", usage=USAGE), done=False),
    "cumulative usage": sse(
        piece("Hel", usage={**USAGE, "completion_tokens": 1}), piece("lo", "stop", usage=USAGE)
    ),
    "a chat's deltas": sse(
        {"choices": [{"delta": {"content": "Hel"}}]},
        {"choices": [{"delta": {"content": "lo"}}], "usage": USAGE},
    ),
}


@pytest.mark.parametrize("form", BODIES)
def test_text_chunks_are_the_text(form: str) -> None:
    """No piece is empty, and the item's books have the usage."""

    async def main() -> None:
        result = await Streamed(streaming(BODIES[form])).arun(["hi"])
        assert result.outputs == [["Hel", "lo"]]
        assert result[0].usage == Usage(10, 3, 13)

    anyio.run(main)


def test_text_chunks_of_a_whole_answer_are_one() -> None:
    """A server that does not stream gives its text at once; one with an empty text gives an empty one."""

    async def main() -> None:
        whole = answered_by(lambda _: completion(["Hello"], usage=USAGE))
        assert await streamed(whole) == ["Hello"]
        assert await streamed(streaming(sse(piece("", "stop")))) == [""]

    anyio.run(main)


def test_text_chunks_that_break_off_say_what_had_come() -> None:
    """The error has the text so far."""
    start = sse(piece("Hel"), piece("lo"), done=False)

    async def main() -> None:
        for rest, kind in (
            (b"", MalformedResponseError),
            (event({"error": {"message": "oops", "code": 500}}), ServerError),
        ):
            model = streaming(start + rest)
            with pytest.raises(kind) as info:
                await streamed(model)
            assert info.value.partial == "Hello"
            assert is_idle(model.quota)

    anyio.run(main)


def test_text_chunks_are_asked_for_one_prompt_at_a_time() -> None:
    """Streams are no lists; their options are those of the model, and of a binding."""
    sent: list[dict[str, Any]] = []

    def answer(body: dict[str, Any]) -> httpx.Response:
        sent.append(body)
        return httpx.Response(200, content=sse(piece(body["prompt"], "stop")))

    async def main() -> None:
        model = answered_by(answer, temperature=0.5)
        assert await Streamed(model).abatch(["a", "b"]) == [["a"], ["b"]]
        assert await streamed(model.bind(stop=["x"]), "c") == ["c"]

    anyio.run(main)
    assert [body["prompt"] for body in sent[:2]] == ["a", "b"]
    options = {"stream": True, "stream_options": {"include_usage": True}}
    assert sent[2] == {"model": "m", "prompt": "c", "temperature": 0.5, "stop": ["x"], **options}


def test_text_chunks_need_a_single_text() -> None:
    """With `n` the output is a list of texts, which comes as a whole."""
    assert model_of(MockProvider(), n=2)._step({}).produce is None


@pytest.mark.anyio
async def test_text_chunks_of_the_mock_are_the_completion() -> None:
    """Streamed and unstreamed are the same text, for the mock's own forms too."""
    provider = MockProvider(streaming=Streaming(chunk_size=3, forms=("crlf", "cumulative_usage")))
    model = model_of(provider)
    pieces = await streamed(model, "hi")
    assert "".join(pieces) == provider.completion_to("hi") == await model.ainvoke("hi")
    assert max(map(len, pieces)) == 3
