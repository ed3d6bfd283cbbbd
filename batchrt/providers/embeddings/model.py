"""Embedding models behind an OpenAI-compatible API."""

from __future__ import annotations

from collections.abc import AsyncIterable, Iterable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias, cast, overload

from pydantic_core import to_json

from batchrt.batching.list_call import ListCall, lingering
from batchrt.batching.microbatch import list_step
from batchrt.batching.shared import shared
from batchrt.providers.base import Model
from batchrt.providers.embeddings.options import OF_THE_MODEL, check_list_options, request_fields
from batchrt.providers.options import ModelOptions, OptionsSignature, complete_options, model_name
from batchrt.runnables.base import Runnable
from batchrt.runnables.description import Description, part
from batchrt.runnables.keywords import check_keywords
from batchrt.runtime.caller import Caller
from batchrt.runtime.portal import call_blocking
from batchrt.runtime.step import Step
from batchrt.runtime.strand import current_strand
from batchrt.runtime.stream import Stream

if TYPE_CHECKING:
    from typing import Unpack

    from batchrt.config import RunConfig
    from batchrt.providers.embeddings.arrays import EmbeddingBlock, Matrix, VectorCall
    from batchrt.providers.embeddings.request_limits import Capacity, Encoding
    from batchrt.providers.embeddings.requests import EmbeddingLists
    from batchrt.providers.embeddings.server_families import ServerFamily
    from batchrt.providers.embeddings.tokenizer import TokenizerName
    from batchrt.runtime.batch import Job

__all__ = ["OpenAIEmbeddings"]

Texts: TypeAlias = "Iterable[str] | AsyncIterable[str]"

_CONCURRENCY: Final = 4
"""Lists in flight unless the configuration says otherwise. The answer to 2,048 texts is 17 MB and more,
and all of them may come at once."""
_LARGEST_ANSWER: Final = 256 * 2**20
"""2,048 vectors of 3,072 numbers are 34 MB in base64, and 130 MB from a server that writes them out."""


class OpenAIEmbeddings(Model[str, list[float]]):
    """Turn texts into vectors; texts that are ready at the same time share a request.

    As a runnable it maps a text to a list of numbers, and the texts that arrive at it anywhere in a chain are
    sent in lists. `aembed_documents` and `aembed_query` are LangChain's names; `aembed_array` returns a numpy
    matrix, `aembed_blocks` a stream of them for vectors that do not fit in memory; each has its sync twin.
    May be used from several event loops.

    Lists are packed by their number of texts and of tokens. The server's limits are learned from its
    refusals, and the tokens of a text from its bills; both are remembered for as long as this object lives.
    Equal texts of a run are sent once. A text that is empty or too long has its own error, and so has a
    vector that is broken; where it helps, lists are split or sent again, as floats if a server does not
    support base64, one by one if it does not support lists.

    Args:
        model: the model's name.
        dimensions: ask for shorter vectors; not every model and server can give them.
        server: the kind of server, for its limits. By default `base_url` says whether it is OpenAI
            or Azure; any other is tried with 2,048 texts and 300,000 tokens.
        max_batch_tokens: the most tokens in a request.
        tokenizer: how tokens are counted: `estimate` needs no download and stays on the safe side,
            `tiktoken` is exact for OpenAI's models and needs the extra `batchrt[tiktoken]`.
        truncate: cut a text that is too long instead of failing it: to so many tokens, or, if `True`, to
            the limit of the model, if it is known or a refusal names it.
        encoding_format: how vectors are sent: `base64` is a fourth of the bytes and a tenth of the work.
        options: `ModelOptions`, in `batchrt/providers/options.py`: address, key, timeout, retries, limits,
            lists. `timeout` and an item's timeout apply to a list as a whole.

    Raises:
        AuthenticationError: no key was given, and OpenAI wants one.
        ImportError: tiktoken is asked for and not installed.
        ValueError: an option is invalid.

    `bind` overrides `model`, `dimensions` and further members of the body for its part of a chain.
    """

    InputType = str
    OutputType = list[float]
    __signature__: OptionsSignature = OptionsSignature(ModelOptions, max_response_bytes=_LARGEST_ANSWER)

    def __init__(
        self,
        model: str | None = None,
        *,
        dimensions: int | None = None,
        server: ServerFamily | None = None,
        max_batch_tokens: int | None = None,
        tokenizer: TokenizerName = "estimate",
        truncate: bool | int = False,
        encoding_format: Encoding = "base64",
        **options: Unpack[ModelOptions],
    ) -> None:
        settings = complete_options(
            OpenAIEmbeddings, ModelOptions, options, max_response_bytes=_LARGEST_ANSWER
        )
        model = model_name(OpenAIEmbeddings, model, settings)
        # Imported late: `import batchrt` must not load an HTTP library.
        from batchrt.providers.embeddings.request_limits import Capacity
        from batchrt.providers.embeddings.requests import EmbeddingLists
        from batchrt.providers.embeddings.server_families import family_of
        from batchrt.providers.embeddings.tokenizer import tokenizer_of

        self._options = {"model": model, "dimensions": dimensions, "extra_body": settings["extra_body"]}
        self.max_batch_size: int | None = settings["max_batch_size"]
        self.linger: float | None = settings["linger"]
        self.max_linger: float | None = settings["max_linger"]
        self.share_lists: bool = settings["share_lists"]
        check_list_options(
            max_batch_size=self.max_batch_size,
            max_batch_tokens=max_batch_tokens,
            truncate=truncate,
            encoding_format=encoding_format,
            linger=self.linger,
            max_linger=self.max_linger,
        )
        self._truncate = truncate
        self._connect(
            model,
            settings,
            dimensions=dimensions,
            server=server,
            max_batch_tokens=max_batch_tokens,
            tokenizer=tokenizer,
            truncate=truncate,
            encoding_format=encoding_format,
        )
        family = family_of(server, self._client.address.host)

        def new_capacity(model: str) -> Capacity:
            return Capacity(
                family,
                tokenizer_of(tokenizer, model),
                size=self.max_batch_size,
                tokens=max_batch_tokens,
                encoding=encoding_format,
            )

        self._new_capacity = new_capacity
        self._new_lists = EmbeddingLists
        self._capacities: dict[str, Capacity] = {}
        self._shared: dict[bytes, ListCall] = {}
        self._lists({})  # whatever is wrong with the options is said here

    def _takes(self, keyword: str) -> bool:
        return keyword in OF_THE_MODEL or super()._takes(keyword)

    def _lists(self, kwargs: Mapping[str, Any], *, one_run: bool = True) -> EmbeddingLists:
        check_keywords(self, kwargs)
        fields = request_fields(self._options, kwargs)
        capacity = self._capacity_of(str(fields["model"]))
        return self._new_lists(self._client, fields, capacity, truncate=self._truncate, one_run=one_run)

    def _capacity_of(self, model: str) -> Capacity:
        """Return the capacity of a model, which is kept."""
        if model not in self._capacities:
            self._capacities[model] = self._new_capacity(model)
        return self._capacities[model]

    def as_bytes(self) -> Runnable[str, bytes]:
        """Return this model with vectors as bytes: float32, little-endian, as `numpy.frombuffer` reads them.

        For files and databases, and where many vectors wait: they take a tenth of the memory of a list of
        numbers. Lists are not shared with this model itself.
        """
        return _ByteEmbeddings(self)

    def describe(self, kwargs: Mapping[str, Any] | None = None) -> Description:
        """Return what the outputs depend on; see `Runnable.describe`."""
        fields = request_fields(self._options, kwargs or {})
        truncate = part("truncate", self._truncate)
        return self._described("/embeddings", fields, to_json, truncate)

    def _build(self, kwargs: Mapping[str, Any]) -> Step:
        return self._as_step(kwargs)

    def _as_step(self, kwargs: Mapping[str, Any], *, as_bytes: bool = False) -> Step:
        sharing = self.share_lists and not as_bytes
        lists = self._lists(kwargs, one_run=not sharing)
        linger, max_linger = lingering(self.linger, self.max_linger, shared=sharing)
        call = replace(lists.list_call(self.get_name()), linger=linger, max_linger=max_linger)
        if as_bytes:
            return list_step(replace(call, finish=None), (self, lists.start, "bytes"))
        if sharing:
            # Shared by all runs of this model.
            call = self._shared.setdefault(lists.start, shared(call))
        return list_step(call, (self, lists.start))

    def _vector_call(self, kwargs: Mapping[str, Any]) -> tuple[VectorCall, EmbeddingLists]:
        from batchrt.providers.embeddings.arrays import VectorCall

        lists = self._lists(kwargs)
        return VectorCall(lists.list_call(self.get_name()), lists.call), lists

    # LangChain's names

    async def aembed_documents(self, texts: Texts, config: RunConfig | None = None) -> list[list[float]]:
        """Return the vectors of `texts`, in their order; see `abatch`.

        Without a `max_concurrency` in `config` four lists are under way at once.
        """
        return await self.abatch(texts, _in_lists(config))

    def embed_documents(self, texts: Texts, config: RunConfig | None = None) -> list[list[float]]:
        """Do `aembed_documents` from sync code."""
        return self.batch(texts, _in_lists(config))

    async def aembed_query(self, text: str, config: RunConfig | None = None) -> list[float]:
        """Return the vector of one text; see `ainvoke`."""
        return await self.ainvoke(text, config)

    def embed_query(self, text: str, config: RunConfig | None = None) -> list[float]:
        """Do `aembed_query` from sync code."""
        return self.invoke(text, config)

    # Matrices

    @overload
    async def aembed_array(
        self,
        texts: Texts,
        config: RunConfig | None = None,
        *,
        return_exceptions: Literal[False] = False,
        **kwargs: Any,
    ) -> Matrix: ...
    @overload
    async def aembed_array(
        self,
        texts: Texts,
        config: RunConfig | None = None,
        *,
        return_exceptions: Literal[True],
        **kwargs: Any,
    ) -> tuple[Matrix, dict[int, Exception]]: ...
    async def aembed_array(
        self,
        texts: Texts,
        config: RunConfig | None = None,
        *,
        return_exceptions: bool = False,
        **kwargs: Any,
    ) -> Matrix | tuple[Matrix, dict[int, Exception]]:
        """Return the vectors of `texts` as a float32 matrix, a row for each.

        The rows are filled as responses arrive. The items of the run are lists: `max_concurrency` bounds the
        lists in flight (4 if it is not given), `timeout` is for each of them. All texts are pulled
        before the first list is sent; equal ones are sent once.

        Args:
            texts: any iterable or async iterable.
            config: for the run.
            return_exceptions: return `(matrix, errors)` instead of stopping at an error: why a text has no
                vector, by its place, where the matrix has a row of NaN.
            kwargs: go to each call, as with `bind`.

        Raises:
            ImportError: numpy is not installed.
            DeadlineExceededError: `deadline` passed; with `return_exceptions` it is the error of the texts
                without a vector.
            Exception: without `return_exceptions`, the first error, as itself.
        """
        from batchrt.providers.embeddings.arrays import matrix_of

        _check_texts(texts)
        vectors, lists = self._vector_call(kwargs)
        matrix, errors = await matrix_of(
            vectors, texts, _in_lists(config), width=lists.width, return_exceptions=return_exceptions
        )
        return (matrix, errors) if return_exceptions else matrix

    @overload
    def embed_array(
        self,
        texts: Texts,
        config: RunConfig | None = None,
        *,
        return_exceptions: Literal[False] = False,
        **kwargs: Any,
    ) -> Matrix: ...
    @overload
    def embed_array(
        self,
        texts: Texts,
        config: RunConfig | None = None,
        *,
        return_exceptions: Literal[True],
        **kwargs: Any,
    ) -> tuple[Matrix, dict[int, Exception]]: ...
    def embed_array(
        self,
        texts: Texts,
        config: RunConfig | None = None,
        *,
        return_exceptions: bool = False,
        **kwargs: Any,
    ) -> Matrix | tuple[Matrix, dict[int, Exception]]:
        """Do `aembed_array` from sync code; an iterator runs in this thread."""
        _check_texts(texts)
        if not isinstance(texts, AsyncIterable):
            texts = list(texts)
        call: Any = partial(
            self.aembed_array, texts, config, return_exceptions=cast("Any", return_exceptions), **kwargs
        )
        return cast("Matrix", call_blocking(call))

    def aembed_blocks(
        self,
        texts: Texts,
        config: RunConfig | None = None,
        *,
        return_exceptions: bool = False,
        **kwargs: Any,
    ) -> Stream[EmbeddingBlock]:
        """Iterate over the vectors of `texts` in matrices as long as lists, in order, with bounded memory.

        Texts are pulled as lists are sent. At most `max_concurrency` lists (4 if it is not given) and two
        more are in flight or wait for the consumer, or the `window` of `config`, in texts; a slow consumer
        slows the run down. Equal texts of a list are sent once. For closing it see `Stream`.

        Args:
            texts: any iterable or async iterable; it may be endless, and each list waits until it is full.
            config: for the run, whose items are lists.
            return_exceptions: put errors into the blocks instead of stopping at one.
            kwargs: go to each call, as with `bind`.
        """
        job = self._block_job(texts, config, kwargs, return_exceptions=return_exceptions)
        return Stream(job, ordered=True, return_exceptions=False)

    def embed_blocks(
        self,
        texts: Texts,
        config: RunConfig | None = None,
        *,
        return_exceptions: bool = False,
        **kwargs: Any,
    ) -> Iterator[EmbeddingBlock]:
        """Do `aembed_blocks` from sync code; an iterator runs in this thread, closing ends the run."""
        from batchrt.providers.embeddings.arrays import iterate_blocks

        caller = Caller()
        job = self._block_job(texts, config, kwargs, return_exceptions=return_exceptions, caller=caller)
        return iterate_blocks(job, caller)

    def _block_job(
        self,
        texts: Texts,
        config: RunConfig | None,
        kwargs: Mapping[str, Any],
        *,
        return_exceptions: bool,
        caller: Caller | None = None,
    ) -> Job:
        from batchrt.providers.embeddings.arrays import block_job

        _check_texts(texts)
        vectors, lists = self._vector_call(kwargs)
        return block_job(
            vectors,
            texts,
            _in_lists(config),
            width=lambda: lists.width,
            return_exceptions=return_exceptions,
            caller=caller,
        )


class _ByteEmbeddings(Runnable[str, bytes]):
    """Turn texts into vectors as bytes; see `OpenAIEmbeddings.as_bytes`."""

    def __init__(self, model: OpenAIEmbeddings) -> None:
        self._model = model
        self.name: str | None = model.get_name()

    def _takes(self, keyword: str) -> bool:
        return self._model._takes(keyword)

    def _keyword_hint(self, keyword: str) -> str:
        return self._model._keyword_hint(keyword)

    def describe(self, kwargs: Mapping[str, Any] | None = None) -> Description:
        """Return what the outputs depend on; see `Runnable.describe`."""
        described = self._model.describe(kwargs)
        return described._replace(parts=(*described.parts, part("vectors", "bytes")))

    def _build(self, kwargs: Mapping[str, Any]) -> Step:
        return self._model._as_step(kwargs, as_bytes=True)


def _in_lists(config: RunConfig | None) -> RunConfig:
    """Return `config` with a bound on the lists under way, if nothing says one.

    Inside a run the outer bound holds, and texts without a bound of their own share the outer run's lists.
    """
    if current_strand() is not None:
        return config or {}
    return {"max_concurrency": _CONCURRENCY, **(config or {})}


def _check_texts(texts: object) -> None:
    """Raise TypeError for a single text in place of an iterable."""
    if isinstance(texts, str | bytes) or not isinstance(texts, Iterable | AsyncIterable):
        kind = type(texts).__name__
        raise TypeError(f"the texts must be an iterable of texts, not {kind}; for one text use embed_query")
