"""`POST /v1/completions`: validation and answers, for one prompt or a list."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic_core import to_json

from batchrt.testing.endpoints.answers import (
    Answer,
    compose_answer,
    count_text,
    custom_answer,
    text_of,
    truncate,
)
from batchrt.testing.endpoints.replies import MockReply, RejectedError, TokenCharge, bytes_reply
from batchrt.testing.endpoints.request_body import (
    CREATED,
    FINGERPRINT,
    Reject,
    as_inputs,
    check_choices,
    check_inputs,
    check_model,
    parse_body,
    token_limit,
)
from batchrt.testing.endpoints.server_families import MockFamily
from batchrt.testing.endpoints.streams import Streaming, asks_for_stream
from batchrt.testing.endpoints.vectors import Embeddable
from batchrt.testing.faults.seeded import digests_of

__all__ = ["CompletionsEndpoint"]

_STREAMING = Streaming()


class CompletionsEndpoint:
    """Answer completion requests as `family` does; the other arguments are those of MockProvider."""

    def __init__(
        self,
        seed: int,
        family: MockFamily,
        models: tuple[str, ...] | None,
        *,
        answer: Answer | None,
        reject: Reject | None,
        streaming: Streaming = _STREAMING,
    ) -> None:
        self._seed = seed
        self._streaming = streaming
        self._family = family
        self._models = models
        self._answer = answer
        self._reject = reject

    def reply(self, raw: bytes, name: str) -> MockReply:
        """Answer the request `raw` as the completion `name`; RejectedError if it is invalid.

        Choice `i * n + j` is the j-th of prompt i.
        """
        body = parse_body(raw)
        prompts = as_inputs(body, "prompt")
        # as_inputs has checked that it is a list or a text.
        listed = not isinstance(body["prompt"], str)
        try:
            stream = asks_for_stream(body)
            self._check(body, prompts, listed=listed)
        except RejectedError as error:
            error.set_items(len(prompts))
            raise
        n = body.get("n") or 1
        limit = token_limit(body, "max_tokens")
        choices: list[dict[str, Any]] = []
        spent: list[int] = []
        for prompt in prompts:
            for index in range(n):
                text, tokens, reason = truncate(self.text(body, prompt, index), limit)
                choices.append(_choice(len(choices), text, reason))
                spent.append(tokens)
        billed = 1 if self._family.bills_first_prompt else len(prompts)
        document = {
            "id": f"cmpl-{name}",
            "object": "text_completion",
            "created": CREATED,
            "model": body["model"],
            "choices": choices,
            "usage": _usage(prompts[:billed], spent[: billed * n]),
            "system_fingerprint": FINGERPRINT,
        }
        charge = _charge(body["model"], _usage(prompts, spent), (limit or 0) * len(choices))
        charge = charge._replace(rows=digests_of(prompts))
        streamed = self._streaming.reply(document, body, charge, items=len(prompts)) if stream else None
        return streamed or bytes_reply(
            200, to_json(document), items=len(prompts), listed=listed, entries="choices", charge=charge
        )

    def text(self, body: Mapping[str, Any], prompt: Embeddable, index: int) -> str:
        """Return the whole text of one choice, before `max_tokens` truncates it."""
        if self._answer is not None:
            return text_of(custom_answer(self._answer, {**body, "prompt": prompt}))
        content = prompt if isinstance(prompt, str) else ",".join(map(str, prompt))
        role = "prompt" if isinstance(prompt, str) else "tokens"
        return compose_answer(self._seed, [{"role": role, "content": content}], None, index)

    def _check(self, body: Mapping[str, Any], prompts: Sequence[Embeddable], *, listed: bool) -> None:
        check_model(body.get("model"), self._models)
        check_choices(body)
        token_limit(body, "max_tokens")
        if listed:
            self._family.check_prompts()
        check_inputs(prompts, self._reject, "prompt")


def _choice(index: int, text: str, reason: str) -> dict[str, Any]:
    return {"text": text, "index": index, "logprobs": None, "finish_reason": reason}


def _charge(model: str, usage: Mapping[str, int], most: int) -> TokenCharge:
    # Also where usage counts the first prompt only: all of them were processed.
    asked, answered = usage["prompt_tokens"], usage["completion_tokens"]
    return TokenCharge(model, asked + most, asked + answered, answered)


def _usage(prompts: Sequence[Embeddable], spent: Sequence[int]) -> dict[str, int]:
    asked = sum(count_text(prompt) if isinstance(prompt, str) else len(prompt) for prompt in prompts)
    answered = sum(spent)
    return {"prompt_tokens": asked, "completion_tokens": answered, "total_tokens": asked + answered}
