"""`POST /v1/embeddings`: validation and answers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pydantic_core import to_json

from batchrt.testing.endpoints.answers import count_text
from batchrt.testing.endpoints.replies import MockReply, RejectedError, TokenCharge, bytes_reply
from batchrt.testing.endpoints.request_body import (
    Reject,
    as_inputs,
    check_inputs,
    check_model,
    is_count,
    parse_body,
    wrong_type,
)
from batchrt.testing.endpoints.server_families import MockFamily
from batchrt.testing.endpoints.vectors import Embeddable, SeededVectors, VectorSpace
from batchrt.testing.faults.seeded import digests_of

__all__ = ["EmbeddingsEndpoint"]

_FORMATS = (None, "float", "base64")


class EmbeddingsEndpoint:
    """Answer embedding requests as `family` does.

    `models`, `dimensions` and `reject` are those of MockProvider.
    """

    def __init__(
        self,
        seed: int,
        family: MockFamily,
        models: tuple[str, ...] | None,
        *,
        dimensions: int,
        reject: Reject | None,
    ) -> None:
        if dimensions < 1:
            raise ValueError(f"dimensions must be at least 1, not {dimensions}")
        self._vectors = SeededVectors(seed)
        self._family = family
        self._models = models
        self._width = dimensions
        self._reject = reject

    def reply(self, raw: bytes, name: str) -> MockReply:  # noqa: ARG002  these answers have no id
        """Answer the request `raw`; RejectedError if it is invalid or above a limit."""
        self._family.check_body(raw)
        body = parse_body(raw)
        inputs = as_inputs(body, "input")
        try:
            self._check(body, inputs)
        except RejectedError as error:
            error.set_items(len(inputs))
            raise
        model = body.get("model") or "mock"
        space = self._space(model, body.get("dimensions"))
        wants_base64 = self._family.supports_base64 and body.get("encoding_format") == "base64"
        billed = self._billed(inputs)
        written = b"".join(_document(space, inputs, wants_base64=wants_base64, model=model, billed=billed))
        listed = not isinstance(body["input"], str)
        charge = TokenCharge(model, billed, billed, rows=digests_of(inputs))
        return bytes_reply(200, written, items=len(inputs), listed=listed, entries="data", charge=charge)

    def vector(self, value: Embeddable, model: str, dimensions: int | None) -> list[float]:
        """Return the vector of one input."""
        return self._space(model, dimensions).floats(value)

    def _space(self, model: str, dimensions: int | None) -> VectorSpace:
        wanted = dimensions if self._family.supports_dimensions else None
        return self._vectors.space(model if self._family.uses_model else "", wanted or self._width)

    def _billed(self, inputs: Sequence[Embeddable]) -> int:
        return sum(map(len if self._family.billing_unit == "characters" else _tokens_of, inputs))

    def _check(self, body: Mapping[str, Any], inputs: Sequence[Embeddable]) -> None:
        if self._family.uses_model:
            check_model(body.get("model"), self._models)
        self._check_options(body)
        self._check_count(inputs)
        self._check_each(inputs)
        check_inputs(inputs, self._reject, "input")

    def _check_options(self, body: Mapping[str, Any]) -> None:
        family = self._family
        wanted = body.get("encoding_format", "float")
        if wanted not in _FORMATS:
            raise wrong_type("encoding_format", "'float' or 'base64'")
        family.check_format(wanted)
        dimensions = body.get("dimensions")
        if dimensions is None or not family.supports_dimensions:
            return
        family.check_dimensions(body["model"])
        if not is_count(dimensions) or dimensions > self._width:
            raise wrong_type("dimensions", f"an integer from 1 to {self._width}")

    def _check_count(self, inputs: Sequence[Embeddable]) -> None:
        family = self._family
        if family.max_inputs is not None and len(inputs) > family.max_inputs:
            raise family.too_many(inputs, family.max_inputs)

    def _check_each(self, inputs: Sequence[Embeddable]) -> None:
        family = self._family
        if not family.accepts_empty and not all(inputs):
            raise family.empty()
        family.check_kinds(inputs)
        if family.max_input_tokens is None and family.max_request_tokens is None:
            return
        counts = [_tokens_of(value) for value in inputs]
        if family.max_input_tokens is not None and max(counts) > family.max_input_tokens:
            raise family.too_long(max(counts), family.max_input_tokens)
        if family.max_request_tokens is not None and sum(counts) > family.max_request_tokens:
            raise family.too_much(sum(counts), family.max_request_tokens)


def _tokens_of(value: Embeddable) -> int:
    return count_text(value) if isinstance(value, str) else len(value)


def _document(
    space: VectorSpace, inputs: Sequence[Embeddable], *, wants_base64: bool, model: str, billed: int
) -> Iterator[bytes]:
    """Yield the pieces of an answer: a list of vectors is megabytes, and they are JSON already."""
    write, opening, closing = (space.base64, b'"', b'"}') if wants_base64 else (space.text, b"[", b"]}")
    comma = b'{"object":"list","data":['
    for index, value in enumerate(inputs):
        yield b'%b{"object":"embedding","index":%d,"embedding":%b' % (comma, index, opening)
        yield write(value)
        yield closing
        comma = b","
    usage = to_json({"prompt_tokens": billed, "total_tokens": billed})
    yield b'],"model":%b,"usage":%b}' % (to_json(model), usage)
