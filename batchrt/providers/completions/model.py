"""Completion models behind an OpenAI-compatible API: a prompt's text goes on."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from functools import cache, partial
from typing import TYPE_CHECKING, Any, Final, overload

from pydantic_core import from_json, to_json

from batchrt.batching.list_call import ListCall
from batchrt.config import cache_of
from batchrt.providers.base import Model
from batchrt.providers.completions.request_json import (
    TextInput,
    TextRequest,
    Texts,
    encode_prompt,
    read_texts,
)
from batchrt.providers.kept_answers import KeptAnswers
from batchrt.providers.list_requests import Send, listed
from batchrt.providers.list_support import ListMemory
from batchrt.providers.options import (
    OptionsSignature,
    SamplingOptions,
    check_count,
    check_extra_body,
    check_options,
    complete_options,
    lists_of,
    merge_options,
    model_name,
    sampling_options,
)
from batchrt.providers.stream_request import StreamUsage, producer
from batchrt.runnables.base import Out
from batchrt.runnables.description import Description, part
from batchrt.runtime.step import Produce, Step
from batchrt.runtime.strand import Strand

if TYPE_CHECKING:
    from typing import Unpack

    from batchrt.providers.completions.text_chunks import TextChunks
    from batchrt.providers.http.response import Reply
    from batchrt.runtime.clock import Clock

__all__ = ["CompletionOptions", "OpenAI"]


_PATH: Final = "/completions"


class CompletionOptions(SamplingOptions, total=False):
    """Keyword arguments of `OpenAI` beside the model and `n`, which decide its type.

    Attributes:
        best_of: texts that the server makes for each prompt, of which it returns the best.
        suffix: the text after the one that is to be written.
        stream_usage: ask for the usage of streams (`stream_options`), which is the default. A server that
            refuses that is not asked again.
    """

    best_of: int | None
    suffix: str | None
    stream_usage: bool


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
        n: give so many texts for each prompt, as a list; else one, as a string, which alone can be streamed.
        options: `CompletionOptions`: `best_of`, `suffix`, and the `SamplingOptions` in
            `batchrt/providers/options.py`. A `max_batch_size` of 1 sends each prompt by itself.

    Raises:
        AuthenticationError: no key was given, and OpenAI wants one.
        ValueError: for options that make no sense.

    `bind` overrides options for its part of a chain: `model.bind(stop=["END"], temperature=0)`.
    """

    InputType: Any = str
    __signature__: OptionsSignature = OptionsSignature(CompletionOptions, stream_usage=True)

    @overload
    def __init__(
        self: OpenAI[str],
        model: str,
        *,
        n: None = None,
        **options: Unpack[CompletionOptions],
    ) -> None: ...
    @overload
    def __init__(
        self: OpenAI[list[str]],
        model: str,
        *,
        n: int,
        **options: Unpack[CompletionOptions],
    ) -> None: ...
    def __init__(
        self,
        model: str | None = None,
        *,
        n: int | None = None,
        **options: Unpack[CompletionOptions],
    ) -> None:
        settings = complete_options(OpenAI, CompletionOptions, options, stream_usage=True)
        model = model_name(OpenAI, model, settings)
        self._options = check_options(
            {
                "model": model,
                "best_of": settings["best_of"],
                "suffix": settings["suffix"],
                **sampling_options(settings),
            },
            "OpenAI",
        )
        self._n = check_count(n)
        self.OutputType: Any = str if self._n is None else list[str]
        self._extra_body = check_extra_body(settings["extra_body"], "OpenAI")
        self._lists = lists_of(settings)
        self.share_lists: bool = settings["share_lists"]
        # Shared by all runs of this model.
        self._shared: dict[Hashable, ListCall] | None = {} if self.share_lists else None
        self._stream_usage = StreamUsage(wanted=settings["stream_usage"])
        self._connect(model, settings, n=n)
        self._memory = ListMemory()
        self._request_for({})

    def _fields(self, kwargs: Mapping[str, Any]) -> dict[str, Any]:
        return merge_options({**self._options, "n": self._n}, self._extra_body, kwargs, "OpenAI")

    def _request_for(self, kwargs: Mapping[str, Any]) -> TextRequest:
        return TextRequest(self._fields(kwargs))

    def describe(self, kwargs: Mapping[str, Any] | None = None) -> Description:
        """Return what the outputs depend on; see `Runnable.describe`."""
        fields = self._fields(kwargs or {})
        request = TextRequest(fields)
        form = part("output", "text" if self._n is None else "list")
        return self._described(_PATH, fields, lambda value: request.body([encode_prompt(value)]), form)

    def _build(self, kwargs: Mapping[str, Any]) -> Step:
        request = self._request_for(kwargs)
        send = self._sender(request)
        url, form = self._client.address.canonical + _PATH, "text" if self._n is None else "list"
        answers = KeptAnswers[Any](form, url, to_json, from_json, model=request.names[0])

        def alone_body(value: Any) -> bytes:
            return request.body([encode_prompt(value)])

        async def ask(prompt: bytes, strand: Strand) -> Any:
            (output,) = await send([prompt], strand)
            return output

        async def alone(value: Any, strand: Strand) -> Any:
            prompt = encode_prompt(value)
            kept = cache_of(strand.config)
            if kept is None:
                return await ask(prompt, strand)
            return await answers.one(kept, request.body([prompt]), strand, partial(ask, prompt, strand))

        step = listed(
            Step(alone),
            send,
            (answers, request.body),
            self._memory.support(request.names),
            self._lists,
            name=self.get_name(),
            identity=(self, request.start),
            prepare=encode_prompt,
            shared_calls=self._shared,
        )
        if self._n is not None:
            return step
        produce = answers.streamed(self._producer(request, kwargs), alone_body, str, str)
        return step._replace(produce=produce)

    def _producer(self, request: TextRequest, kwargs: Mapping[str, Any]) -> Produce:
        from batchrt.providers.completions.text_chunks import TextChunks

        client, fields, usage = self._client, self._fields(kwargs), self._stream_usage

        @cache  # made with the first stream
        def stream(asks_usage: bool) -> TextRequest:  # noqa: FBT001
            return TextRequest(usage.fields(fields, usage=asks_usage))

        def read(head: Reply, clock: Clock) -> TextChunks:
            return TextChunks(head, client.secrets, clock.wall)

        endpoint = client.endpoint(_PATH, request.names[0], request.most)
        return producer(endpoint, usage, lambda value, asks: stream(asks).body([encode_prompt(value)]), read)

    def _sender(self, request: TextRequest) -> Send:
        client, n = self._client, self._n
        endpoint = client.endpoint(_PATH, request.names[0], request.most)

        async def send(prompts: Sequence[bytes], strand: Strand) -> Sequence[Any]:
            def read(reply: Reply, clock: Clock) -> Texts:
                return read_texts(reply, len(prompts), n or 1, client.secrets, clock.wall)

            answers = len(prompts) * (n or 1)
            texts, _ = await endpoint.call(request.body(prompts), read, strand, answers=answers)
            if n is not None:
                return texts
            return [of_one if isinstance(of_one, Exception) else of_one[0] for of_one in texts]

        return send
