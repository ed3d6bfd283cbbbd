"""Completion models behind an OpenAI-compatible API: a prompt's text goes on."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypedDict, overload

from batchrt.batching.list_call import ListCall, lingering
from batchrt.providers.base import Model
from batchrt.providers.completions.request_json import (
    TextInput,
    TextRequest,
    Texts,
    encode_prompt,
    read_texts,
)
from batchrt.providers.list_requests import BATCH_SIZE, ListOptions, Send, listed
from batchrt.providers.list_support import ListMemory
from batchrt.providers.options import check_count, check_extra_body, check_lists, check_options
from batchrt.runnables.base import Out
from batchrt.runtime.run import Step, Strand

if TYPE_CHECKING:
    from typing import Unpack

    from batchrt.limits.quota import Quota, Unchanged
    from batchrt.providers.http.client import Secret
    from batchrt.providers.http.response import Reply
    from batchrt.providers.http.transport import HTTPClient, HTTPTransport
    from batchrt.runtime.clock import Clock
    from batchrt.runtime.retry import RetryPolicy

__all__ = ["CompletionOptions", "OpenAI"]


class CompletionOptions(TypedDict, total=False):
    """What `OpenAI` takes beside the model and `n`, which decide on its type."""

    base_url: str | None
    api_key: str | Secret | None
    temperature: float | None
    top_p: float | None
    max_tokens: int | None
    stop: str | Sequence[str] | None
    seed: int | None
    frequency_penalty: float | None
    presence_penalty: float | None
    best_of: int | None
    suffix: str | None
    max_batch_size: int
    linger: float | None
    max_linger: float | None
    share_lists: bool
    timeout: float | None
    max_retries: int
    http_client: HTTPClient | None
    transport: HTTPTransport | None
    organization: str | None
    project: str | None
    extra_headers: Mapping[str, str] | None
    extra_body: Mapping[str, Any] | None
    max_response_bytes: int
    requests_per_minute: float | Unchanged | None
    tokens_per_minute: float | Unchanged | None
    requests_per_day: float | Unchanged | None
    tokens_per_day: float | Unchanged | None
    max_in_flight: int | Unchanged | None
    quota: Quota | None
    retry_policy: RetryPolicy | None


class OpenAI(Model[TextInput, Out]):
    """Have a completion model (`/completions`) go on with a prompt; gives the text that it adds.

    Takes a string, a prompt's value, or messages, which become lines such as `Human: hello`. Prompts
    that are there at the same time are sent as a list, in one request.

    Not every server takes lists: llama-cpp-python and transformers' refuse them, others make one prompt
    of them. Then the prompts are sent one by one, and so are all that follow, for as long as this object
    lives. That is concluded only when a list failed whose prompts are all answered by themselves (with
    `max_retries=0` and an error that may have been the moment: two such lists), and no more once a list
    was answered; so one prompt that the server chokes on does not end it. A list that fails later is
    halved until the prompt stands alone.

    The tokens of a list are billed together, and each item is given its share. Counts that cannot be a
    whole list's are left out: llama-server gives those of the first prompt alone.

    Args:
        model: the model's name.
        n: give so many texts for each prompt, as a list; else one, as a string.
        base_url, api_key: as for `ChatOpenAI`.
        temperature, top_p, max_tokens, stop, seed, frequency_penalty, presence_penalty, best_of, suffix:
            the API's options, sent where given. Servers stop after as few as 16 tokens without
            `max_tokens`.
        max_batch_size: the most prompts in a request; 1 sends each by itself. A list is answered when
            its longest text is.
        linger: seconds after the last arrival for which a list waits to be filled, while prompts may
            still come; `None` for 0.05, or 0.005 with `share_lists`.
        max_linger: seconds after the first one; `None` for 1, or 0.05 with `share_lists`.
        share_lists: put prompts of concurrent runs together too, as a service wants it whose requests call
            `ainvoke` each for itself. A call then waits `linger` seconds for others.
        timeout, max_retries, http_client, transport, organization, project, extra_headers, extra_body,
        max_response_bytes: as for `ChatOpenAI`. All but the second, the third and the fourth hold for a
            list as a whole.
        requests_per_minute, tokens_per_minute, requests_per_day, tokens_per_day, max_in_flight, quota,
        retry_policy: as for `ChatOpenAI`.

    Raises:
        AuthenticationError: no key was given, and OpenAI wants one.
        ValueError: for options that make no sense.

    `bind` overrides options for its part of a chain: `model.bind(stop=["END"], temperature=0)`.
    """

    @overload
    def __init__(
        self: OpenAI[str], model: str, *, n: None = None, **options: Unpack[CompletionOptions]
    ) -> None: ...
    @overload
    def __init__(
        self: OpenAI[list[str]], model: str, *, n: int, **options: Unpack[CompletionOptions]
    ) -> None: ...
    def __init__(
        self,
        model: str,
        *,
        n: int | None = None,
        base_url: str | None = None,
        api_key: str | Secret | None = None,
        temperature: float | None = None,
        top_p: float | None = None,
        max_tokens: int | None = None,
        stop: str | Sequence[str] | None = None,
        seed: int | None = None,
        frequency_penalty: float | None = None,
        presence_penalty: float | None = None,
        best_of: int | None = None,
        suffix: str | None = None,
        max_batch_size: int = BATCH_SIZE,
        linger: float | None = None,
        max_linger: float | None = None,
        share_lists: bool = False,
        timeout: float | None = 600.0,
        max_retries: int = 2,
        http_client: HTTPClient | None = None,
        transport: HTTPTransport | None = None,
        organization: str | None = None,
        project: str | None = None,
        extra_headers: Mapping[str, str] | None = None,
        extra_body: Mapping[str, Any] | None = None,
        max_response_bytes: int = 64 * 2**20,
        requests_per_minute: float | Unchanged | None = "unchanged",
        tokens_per_minute: float | Unchanged | None = "unchanged",
        requests_per_day: float | Unchanged | None = "unchanged",
        tokens_per_day: float | Unchanged | None = "unchanged",
        max_in_flight: int | Unchanged | None = "unchanged",
        quota: Quota | None = None,
        retry_policy: RetryPolicy | None = None,
    ) -> None:
        # The HTTP libraries are for those who ask a model, not for everybody who imports batchrt.
        from batchrt.providers.http.client import Client, Hidden

        api_key = Hidden(api_key)
        self._options = check_options(
            {
                "model": model,
                "temperature": temperature,
                "top_p": top_p,
                "max_tokens": max_tokens,
                "stop": stop,
                "seed": seed,
                "frequency_penalty": frequency_penalty,
                "presence_penalty": presence_penalty,
                "best_of": best_of,
                "suffix": suffix,
            },
            "OpenAI",
        )
        self._n = check_count(n)
        self._extra_body = check_extra_body(extra_body, "OpenAI")
        short, long = lingering(linger, max_linger, shared=share_lists)
        check_lists(max_batch_size, short, long)
        self._lists = ListOptions(max_batch_size=max_batch_size, linger=short, max_linger=long)
        self.share_lists = share_lists
        # Kept here: runs have nothing else in common.
        self._shared: dict[Hashable, ListCall] | None = {} if share_lists else None
        self._client = Client(
            base_url=base_url,
            api_key=api_key,
            organization=organization,
            project=project,
            timeout=timeout,
            max_retries=max_retries,
            http_client=http_client,
            transport=transport,
            extra_headers=extra_headers,
            max_response_bytes=max_response_bytes,
            quota=quota,
            limits={
                "requests_per_minute": requests_per_minute,
                "tokens_per_minute": tokens_per_minute,
                "requests_per_day": requests_per_day,
                "tokens_per_day": tokens_per_day,
                "max_in_flight": max_in_flight,
            },
            retry_policy=retry_policy,
            model=model,
        )
        self._memory = ListMemory()
        self._request_for({})

    def _request_for(self, kwargs: Mapping[str, Any]) -> TextRequest:
        given = check_options(kwargs, "OpenAI")
        extra = {**self._extra_body, **given.pop("extra_body", {})}
        options = {**self._options, "n": self._n, **given}
        return TextRequest({**{name: value for name, value in options.items() if value is not None}, **extra})

    def _build(self, kwargs: Mapping[str, Any]) -> Step:
        request = self._request_for(kwargs)
        send = self._sender(request)

        async def alone(value: Any, strand: Strand) -> Any:
            (output,) = await send([encode_prompt(value)], strand)
            return output

        return listed(
            Step(alone),
            send,
            self._memory.support(request.names),
            self._lists,
            name=self.get_name(),
            identity=(self, request.start),
            prepare=encode_prompt,
            shared_calls=self._shared,
        )

    def _sender(self, request: TextRequest) -> Send:
        client, n = self._client, self._n
        endpoint = client.endpoint("/completions", request.names[0], request.most)

        async def send(prompts: Sequence[bytes], strand: Strand) -> Sequence[Any]:
            def read(reply: Reply, clock: Clock) -> Texts:
                return read_texts(reply, len(prompts), n or 1, client.secrets, clock.wall)

            answers = len(prompts) * (n or 1)
            texts, _ = await endpoint.call(request.body(prompts), read, strand, answers=answers)
            if n is not None:
                return texts
            return [of_one if isinstance(of_one, Exception) else of_one[0] for of_one in texts]

        return send
