"""Requests to `/embeddings`: lists of texts, and the handling of servers that refuse them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeVar

from pydantic_core import PydanticSerializationError, to_json

from batchrt.batching.list_call import ListCall, RepackError, Split
from batchrt.config import cache_of
from batchrt.errors import (
    BadRequestError,
    BatchError,
    ContextLengthError,
    MalformedResponseError,
    ProviderError,
    ServerError,
)
from batchrt.limits.error_kinds import FailureKind, kind_of
from batchrt.providers.embeddings.request_limits import Capacity, Encoding
from batchrt.providers.embeddings.response_json import (
    FLOAT_BYTES,
    DisorderError,
    OneByOneError,
    Store,
    Vector,
    VectorReader,
    Vectors,
    floats,
    read_vectors,
)
from batchrt.providers.embeddings.tokenizer import MOST_PER_CHARACTER
from batchrt.providers.kept_answers import KeptAnswers
from batchrt.providers.limit_messages import named_limits
from batchrt.providers.request_body import bad_input, encode_members, half_surrogate
from batchrt.runtime.joint_spending import part_of

if TYPE_CHECKING:
    from batchrt.providers.http.client import Client
    from batchrt.providers.http.response import Reply
    from batchrt.runtime.clock import Clock
    from batchrt.runtime.strand import Strand

__all__ = ["EmbeddingLists"]

E = TypeVar("E", bound=ProviderError)

_BLAMES_A_TEXT: Final = (400, 413, 422)
_TOO_LARGE: Final = 413
_TOO_LONG: Final = re.compile(r"is too (?:large|long) to process|physical batch size", re.IGNORECASE)
_REMEMBERED: Final = 32 * 2**20
"""Bytes of vectors that a run keeps for equal texts that come later: five thousand of 1,536 numbers."""
_INPUT: Final = ("input", "texts", "prompt")


class EmbeddingLists:
    """Have lists of texts embedded.

    Args:
        client: sends the requests.
        fields: the rest of their bodies.
        capacity: the limits of the server; learns from every response.
        truncate: cut texts that are too long: to so many tokens, or to the server's limit.
        one_run: the lists belong together, and so all vectors have to be of one width.

    Attributes:
        start: the beginning of every body; requests that begin alike may share lists.
        width: how many numbers a vector has; `None` until the first answer.

    Raises:
        ValueError: for a field that JSON cannot carry.
    """

    def __init__(
        self,
        client: Client,
        fields: Mapping[str, Any],
        capacity: Capacity,
        *,
        truncate: bool | int,
        one_run: bool = True,
    ) -> None:
        self.start: bytes = encode_members(fields)
        asked = fields.get("dimensions")
        self._asked: int | None = asked if isinstance(asked, int) else None
        self.width: int | None = self._asked
        self._client = client
        self._endpoint = client.endpoint("/embeddings", str(fields.get("model")))
        self._capacity = capacity
        self._tokenizer = capacity.tokenizer
        self._truncate = truncate
        self._one_run = one_run
        url = f"{client.address.canonical}/embeddings cut to {truncate}"
        self._answers = KeptAnswers[Any]("float32", url, _encoded, bytes, model=str(fields.get("model")))

    def list_call(self, name: str) -> ListCall:
        """Return the list call; its results are vectors as bytes."""
        return ListCall(
            name=name,
            call=self.call,
            limits=self._capacity.limits,
            cost=self._tokenizer.cost,
            prepare=self.prepare,
            key=_itself,
            remembered=_REMEMBERED,
            finish=floats,
            split=_split,
        )

    def prepare(self, text: object) -> str:
        """Return `text` if it may have a vector.

        Raises:
            BadRequestError: if it is no text, or empty and the server has nothing for that.
            ContextLengthError: if it is too long for certain and is not to be cut.
        """
        if not isinstance(text, str):
            raise bad_input("input", f"an embedding takes a str, not {type(text).__name__}")
        if not text and not self._capacity.takes_empty:
            raise bad_input("input", "the text is empty, and an empty text has no embedding; leave it out")
        most = self._capacity.text_tokens
        if most is not None and self._truncate is False and len(text) * MOST_PER_CHARACTER > most:
            tokens = self._tokenizer.at_least(text)
            if tokens > most:
                raise ContextLengthError(
                    f"the text has {'' if self._tokenizer.exact else 'at least '}{tokens} tokens "
                    f"({len(text)} characters), and the model takes {most}; split it, or have it cut with "
                    "truncate=True",
                    param="input",
                )
        return text

    async def call(
        self, texts: Sequence[str], strand: Strand, store: Store | None = None
    ) -> Sequence[Vector | BadRequestError]:
        """Return the vectors of `texts` in their order, little-endian float32, or why one has none.

        Vectors that are broken in an otherwise good response are requested again, once.

        Args:
            texts: of one list.
            strand: holds a slot.
            store: keeps most vectors as they are decoded; those of a list that fails, or that are not
                returned, must not be used.

        Raises:
            RepackError: the list was refused as too long, or not taken for a list.
            ProviderError: see `Client.call`.
        """
        kept = cache_of(strand.config)
        if kept is None:
            return await self._embed(texts, strand, store)
        bodies = [self.start + text.encode("utf-8", "surrogatepass") for text in texts]

        async def ask(places: list[int]) -> Sequence[Any]:
            return await self._embed([texts[place] for place in places], strand)

        return self._of_one_width(await self._answers.many(kept, bodies, strand, ask))

    async def _embed(self, texts: Sequence[str], strand: Strand, store: Store | None = None) -> list[Any]:
        size = self._capacity.size
        if size is not None and len(texts) > size:  # it was packed before that was known
            raise RepackError
        vectors = await self._try(texts, strand, store)
        again = [place for place, vector in enumerate(vectors) if _is_passing(vector)]
        if again:
            payer, strand.spending = strand.spending, part_of(strand.spending, texts, again)
            try:
                others = await self._try([texts[place] for place in again], strand)
            except (BatchError, RepackError):
                return vectors  # they are paid, and the broken ones are errors
            finally:
                strand.spending = payer
            for place, vector in zip(again, others, strict=True):
                vectors[place] = vector
        return vectors

    async def _try(self, texts: Sequence[str], strand: Strand, store: Store | None = None) -> list[Any]:
        try:
            vectors = await self._send(self._fitting(texts), strand, store)
        except DisorderError as error:
            if self._capacity.learn_disorder(len(texts), proof=isinstance(error, OneByOneError)):
                raise RepackError from error
            raise
        if len(texts) > 1:
            self._capacity.ordered = True
        return self._of_one_width(vectors)

    async def _send(self, texts: Sequence[str], strand: Strand, store: Store | None = None) -> list[Any]:
        while True:
            try:
                # A text alone is taken by servers too that know no lists.
                written = to_json(texts if len(texts) > 1 else texts[0])
            except (PydanticSerializationError, UnicodeError):
                return await self._send_what_can_be(texts, strand)
            try:
                answer = await self._ask(written, len(texts), strand, store)
            except (BadRequestError, ServerError) as error:
                texts = self._after_refusal(texts, _as_too_long(error))
                continue
            if answer.usage is not None:
                self._capacity.learn_usage(answer.usage.input_tokens, texts)
            else:
                strand.run.counts.add(tokens=sum(map(self._tokenizer.cost, texts)))
            return answer.vectors

    async def _send_what_can_be(self, texts: Sequence[str], strand: Strand) -> list[Any]:
        errors = {place: error for place, text in enumerate(texts) if (error := _unspeakable(text))}
        sent = [text for place, text in enumerate(texts) if place not in errors]
        vectors = iter(await self._send(sent, strand) if sent else ())
        return [errors[place] if place in errors else next(vectors) for place in range(len(texts))]

    async def _ask(self, texts: bytes, count: int, strand: Strand, store: Store | None) -> Vectors:
        encoding = self._capacity.encoding
        request = partial(self._request, texts, count, strand, store)
        while True:
            try:
                answer = await request(encoding)
                break
            except BadRequestError as error:
                if encoding is None or not _blames_encoding(error):
                    raise
                # Some servers know no base64, and some not even the option.
                encoding = "float" if encoding == "base64" else None
                self._capacity.encoding = encoding
        usable = not all(isinstance(vector, Exception) for vector in answer.vectors)
        if encoding == "base64" and usable and not answer.in_base64:
            self._capacity.encoding = "float"
        return answer

    async def _request(
        self, texts: bytes, count: int, strand: Strand, store: Store | None, encoding: Encoding | None
    ) -> Vectors:
        secrets = self._client.secrets

        reader = VectorReader(store)

        def sink() -> VectorReader:
            nonlocal reader
            reader = VectorReader(store)  # for each attempt anew
            return reader

        def read(bare: Reply, clock: Clock) -> Vectors:
            return read_vectors(bare, reader, count, secrets, clock.wall)

        # Without `encoding_format` proxies send null, which is an error to some servers.
        asked = b"" if encoding is None else b'"encoding_format":"%b",' % encoding.encode()
        body = b'%b%b"input":%b}' % (self.start, asked, texts)
        return await self._endpoint.call(body, read, strand, sink, answers=0)

    def _of_one_width(self, vectors: list[Any]) -> list[Any]:
        width = self.width
        if width is None:
            sizes = Counter(len(vector) for vector in vectors if not isinstance(vector, Exception))
            if not sizes:
                return vectors
            width = sizes.most_common(1)[0][0] // FLOAT_BYTES
            if self._one_run:
                self.width = width
        for place, vector in enumerate(vectors):
            if not isinstance(vector, Exception) and len(vector) != width * FLOAT_BYTES:
                vectors[place] = self._wrong_width(len(vector) // FLOAT_BYTES, width)
        return vectors

    def _wrong_width(self, width: int, wanted: int) -> MalformedResponseError:
        if self._asked is None:
            return MalformedResponseError(f"the vector has {width} numbers, and others have {wanted}")
        error = MalformedResponseError(
            f"the vector has {width} numbers, and dimensions={wanted} was asked for: the server ignores "
            "dimensions. Leave it out; if the model allows that, cut the vectors and scale them to length 1"
        )
        error.retry_advised = False
        return error

    # Refusals

    def _after_refusal(self, texts: Sequence[str], error: ProviderError) -> Sequence[str]:
        """Return the texts to send in place of those that were refused.

        Raises:
            RepackError: there are too many of them.
            ProviderError: nothing can be done about it here.
        """
        if not isinstance(error, BadRequestError):
            raise error
        if self._asked is not None and _blames_dimensions(error):
            raise _as(
                BadRequestError, error, "; leave dimensions out for this model", param="dimensions"
            ) from error
        if _blames_input(error) and self._capacity.learn_refusal(error, texts):
            raise RepackError from error
        if self._truncate is not False and _is_too_long(error, len(texts)):
            shorter = self._shorter(texts, error)
            if shorter != texts:
                return shorter
        if len(texts) == 1 and _is_too_long(error, 1):
            size = f"{len(texts[0])} characters, about {self._capacity.expected(texts[0])} tokens"
            hint = "" if self._truncate is not False else ", or have it cut with truncate=True"
            raise _as(ContextLengthError, error, f"; the text has {size}: split it{hint}") from error
        raise error

    def _fitting(self, texts: Sequence[str]) -> Sequence[str]:
        """Return the texts, those that are too long cut if that was asked for."""
        most = self._capacity.text_tokens
        if self._truncate is not True and self._truncate is not False:
            most = self._truncate if most is None else min(most, self._truncate)
        if most is None or self._truncate is False:
            return texts
        cut, factor = self._tokenizer.cut, self._capacity.factor
        return [cut(text, most, factor) for text in texts]

    def _shorter(self, texts: Sequence[str], error: BadRequestError) -> Sequence[str]:
        """Return the texts cut to the limit learned from a refusal; a single one in any case."""
        if len(texts) > 1:
            return self._fitting(texts)
        (text,) = texts
        given = next((named.given for named in named_limits(error.message)), None)
        self._capacity.learn_text(given, text)
        (shorter,) = self._fitting(texts)
        return [shorter if len(shorter) < len(text) else text[: max(1, len(text) // 2)]]


def _itself(text: str) -> str:
    return text


def _encoded(vector: object) -> bytes | None:
    return bytes(vector) if isinstance(vector, bytes | bytearray | memoryview) else None


def _split(error: Exception) -> Split:
    """Return whether one of a list's texts, or its length, may have been the cause of `error`."""
    match kind_of(error):
        case FailureKind.TOO_LONG:
            return Split.FULLY
        case FailureKind.MALFORMED | FailureKind.SERVER_FAILED:
            return Split.CAUTIOUSLY
        case FailureKind.CONFLICT if isinstance(error, ServerError):
            # A 408 or a 409 is no fault of a text's; an error within a success may be.
            within_success = error.status is None or error.status < 300  # noqa: PLR2004
            return Split.CAUTIOUSLY if within_success else Split.NEVER
        case FailureKind.REJECTED if isinstance(error, BadRequestError) and _blames_input(error):
            return Split.CAUTIOUSLY if error.param is None else Split.FULLY
        case _:
            return Split.NEVER


def _blames_input(error: BadRequestError) -> bool:
    if isinstance(error, ContextLengthError):
        return True
    if error.status not in _BLAMES_A_TEXT:
        return False
    return error.param is None or any(word in error.param for word in _INPUT)


def _is_passing(vector: object) -> bool:
    return isinstance(vector, MalformedResponseError) and vector.retry_advised is not False


def _is_too_long(error: BadRequestError, texts: int) -> bool:
    return isinstance(error, ContextLengthError) or (texts == 1 and error.status == _TOO_LARGE)


def _blames_encoding(error: BadRequestError) -> bool:
    return "encoding_format" in f"{error.param} {error.message}" or "base64" in error.message


def _blames_dimensions(error: BadRequestError) -> bool:
    said = f"{error.param} {error.message}".lower()
    return "dimensions" in said or "matryoshka" in said


def _as_too_long(error: BadRequestError | ServerError) -> BadRequestError | ServerError:
    """Return llama-server's 500 for a text that is too long as the refusal that it is."""
    if isinstance(error, ServerError) and _TOO_LONG.search(error.message):
        return _as(ContextLengthError, error)
    return error


def _as(kind: type[E], error: ProviderError, more: str = "", *, param: str | None = None) -> E:
    """Return `error` as one of `kind` that says more."""
    changed = kind(
        error.message + more,
        status=error.status,
        code=error.code,
        type=error.type,
        param=param or error.param,
        request_id=error.request_id,
        attempts=error.attempts,
        retry_after=error.retry_after,
    )
    changed.retry_advised = error.retry_advised
    return changed


def _unspeakable(text: str) -> BadRequestError | None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        return half_surrogate(error, text, "input")
    return None
