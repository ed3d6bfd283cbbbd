"""Servers with OpenAI's embeddings API and their differences: limits, leniency, errors.

The facts come from the servers' documentation and sources, or were observed. A limit that depends on the
served model is unset until it is given.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import ClassVar, Literal, TypeAlias, get_args

from batchrt.testing.endpoints.replies import RejectedError, bytes_reply, json_reply
from batchrt.testing.endpoints.vectors import Embeddable

__all__ = ["MockFamily", "ServerFamily", "family_of"]

ServerFamily: TypeAlias = Literal[
    "openai", "azure", "tei", "infinity", "llama-server", "llama-cpp-python", "vllm", "ollama"
]

# The default of its --payload-limit.
_TEI_BODY_BYTES = 2_000_000


def _error_with(status: int, document: Mapping[str, object]) -> RejectedError:
    return RejectedError.from_reply(json_reply(status, document))


class MockFamily:
    """OpenAI's behaviour; each subclass overrides its differences.

    Attributes:
        max_inputs: the most inputs in a request, or None.
        max_input_tokens: the most tokens in an input, or None.
        max_request_tokens: the most tokens in a request, or None.
        max_in_flight: the most requests or inputs in flight, or None; more are refused.
        counts_inputs: whether `max_in_flight` counts inputs instead of requests.
        billing_unit: the unit in which usage counts a text.
        accepts_empty: whether an empty text is embedded.
        supports_base64: whether vectors are sent as base64 on request.
        uses_model: whether the model's name matters.
        supports_dimensions: whether `dimensions` matters.
        bills_first_prompt: whether usage of completions counts the first prompt only.
        has_chat_batch: whether there is `/v1/chat/completions/batch`.
        error_kind: the default `type` of an error.
        error_fields: the fields of an error, in their order.
        has_status_codes: whether an error's `code` is the status.
        has_flat_errors: whether an error is not wrapped in `error`.
    """

    max_inputs: int | None = 2_048
    max_input_tokens: int | None = 8_192
    max_request_tokens: int | None = 300_000
    max_in_flight: int | None = None
    counts_inputs: ClassVar[bool] = False
    billing_unit: ClassVar[Literal["tokens", "characters"]] = "tokens"
    accepts_empty: ClassVar[bool] = False
    supports_base64: ClassVar[bool] = True
    uses_model: ClassVar[bool] = True
    supports_dimensions: ClassVar[bool] = True
    bills_first_prompt: ClassVar[bool] = False
    has_chat_batch: ClassVar[bool] = False
    error_kind: ClassVar[str] = "invalid_request_error"
    error_fields: ClassVar[tuple[str, ...]] = ("message", "type", "param", "code")
    has_status_codes: ClassVar[bool] = False
    has_flat_errors: ClassVar[bool] = False

    def make_error(
        self,
        status: int,
        message: str,
        *,
        kind: str | None = None,
        param: str | None = None,
        code: str | None = None,
    ) -> RejectedError:
        """Make an error of this family's shape."""
        fields = {
            "message": message,
            "type": kind or self.error_kind,
            "param": param,
            "code": status if self.has_status_codes else code,
        }
        error = {name: fields[name] for name in self.error_fields}
        return _error_with(status, error if self.has_flat_errors else {"error": error})

    def too_many(self, inputs: Sequence[Embeddable], most: int) -> RejectedError:
        """Refuse a request of more inputs than `most`."""
        message = (
            f"Invalid 'input': array too long. Expected an array with maximum length {most}, "
            f"but got an array with length {len(inputs)} instead."
        )
        return self.make_error(400, message, param="input", code="array_above_max_length")

    def too_long(self, tokens: int, most: int) -> RejectedError:
        """Refuse a request with an input of more tokens than `most`."""
        message = (
            f"This model's maximum context length is {most} tokens, however you requested {tokens} "
            f"tokens ({tokens} in your prompt; 0 for the completion). Please reduce your prompt; or "
            "completion length."
        )
        return self.make_error(400, message)

    def too_much(self, tokens: int, most: int) -> RejectedError:
        """Refuse a request whose inputs have more tokens than `most` together."""
        message = f"Requested {tokens} tokens, max {most} tokens per request"
        return self.make_error(400, message, kind="max_tokens_per_request", code="max_tokens_per_request")

    def check_body(self, raw: bytes) -> None:
        """Raise RejectedError for a body above the server's limit."""

    def too_busy(self) -> RejectedError:
        """Refuse a request because too many are in flight."""
        return self.make_error(
            503, "The server is overloaded.", kind="server_error", code="server_is_overloaded"
        )

    def empty(self) -> RejectedError:
        """Refuse an empty text."""
        return self.make_error(400, "Invalid 'input': input cannot be an empty string.", param="input")

    def check_kinds(self, inputs: Sequence[Embeddable]) -> None:
        """Raise RejectedError for tokens where only text is accepted."""

    def check_dimensions(self, model: str) -> None:
        """Raise RejectedError if `model` does not support `dimensions`: only the third generation does."""
        if "ada-002" in model:
            message = f"The model {model!r} does not support specifying dimensions."
            raise self.make_error(400, message, param="dimensions")

    def check_format(self, encoding_format: object) -> None:
        """Raise RejectedError for an `encoding_format` that is null, where that matters."""

    def check_prompts(self) -> None:
        """Raise RejectedError for a list of prompts where only one is accepted."""


class _Azure(MockFamily):
    max_request_tokens = None


class _SelfHosted(MockFamily):
    """A server whose limits depend on the model that it serves."""

    max_inputs: int | None = None
    max_input_tokens: int | None = None
    max_request_tokens: int | None = None


class _Tei(_SelfHosted):
    """Hugging Face's text-embeddings-inference: a flat error, and a permit for each input."""

    max_inputs = 32
    max_in_flight = 512
    counts_inputs = True
    error_kind = "Validation"
    error_fields = ("message", "code", "type")
    has_status_codes = True
    has_flat_errors = True

    def too_many(self, inputs: Sequence[Embeddable], most: int) -> RejectedError:
        return self.make_error(422, f"batch size {len(inputs)} > maximum allowed batch size {most}")

    def too_long(self, tokens: int, most: int) -> RejectedError:
        message = f"Input validation error: `inputs` must have less than {most} tokens. Given: {tokens}"
        return self.make_error(413, message)

    def too_much(self, tokens: int, most: int) -> RejectedError:
        return self.make_error(
            413, f"Input validation error: {tokens} tokens > maximum allowed tokens {most}"
        )

    def check_body(self, raw: bytes) -> None:
        if len(raw) > _TEI_BODY_BYTES:
            # Sent by the layer before the application, and without a number.
            words = b"Failed to buffer the request body: length limit exceeded"
            text = b"text/plain; charset=utf-8"
            raise RejectedError.from_reply(bytes_reply(413, words, content_type=text))

    def too_busy(self) -> RejectedError:
        return self.make_error(429, "Model is overloaded", kind="Overloaded")

    def empty(self) -> RejectedError:
        return self.make_error(422, "Input validation error: `inputs` cannot be empty")


class _Infinity(_SelfHosted):
    """Infinity: FastAPI's errors, which repeat the whole input."""

    max_inputs = MockFamily.max_inputs
    billing_unit = "characters"
    accepts_empty = True

    def too_busy(self) -> RejectedError:
        error = {"message": "model overloaded", "type": None, "param": None, "code": 429}
        return _error_with(429, {"error": error})

    def too_many(self, inputs: Sequence[Embeddable], most: int) -> RejectedError:
        return self._invalid(
            inputs,
            "too_long",
            f"List should have at most {most} items after validation, not {len(inputs)}",
        )

    def check_kinds(self, inputs: Sequence[Embeddable]) -> None:
        if not all(isinstance(value, str) for value in inputs):
            raise self._invalid(inputs, "string_type", "Input should be a valid string")

    @staticmethod
    def _invalid(inputs: Sequence[Embeddable], kind: str, message: str) -> RejectedError:
        problem = {"type": kind, "loc": ["body", "input"], "msg": message, "input": inputs}
        return _error_with(422, {"detail": [problem]})


class _LlamaServer(_SelfHosted):
    """llama.cpp's own server: no limit but the physical batch, in which one input must fit."""

    max_input_tokens = 512
    error_fields = ("code", "message", "type")
    has_status_codes = True
    uses_model = False
    supports_dimensions = False
    bills_first_prompt = True

    def too_long(self, tokens: int, most: int) -> RejectedError:
        message = (
            f"input ({tokens} tokens) is too large to process. increase the physical batch size "
            f"(current batch size: {most})"
        )
        return self.make_error(500, message, kind="server_error")

    def empty(self) -> RejectedError:
        return self.make_error(400, "Input content cannot be empty")

    def check_format(self, encoding_format: object) -> None:
        if encoding_format is None:
            raise self.make_error(400, "[json.exception.type_error.302] type must be string, but is null")


class _LlamaCppPython(_SelfHosted):
    """llama-cpp-python: validation fails as a server error, and base64 is not supported."""

    accepts_empty = True
    supports_base64 = False

    def too_long(self, tokens: int, most: int) -> RejectedError:
        message = f"Requested tokens ({tokens}) exceed context window of {most}"
        return self.make_error(500, message, kind="internal_server_error")

    def check_prompts(self) -> None:
        message = "prompt: expected a string, got a list"
        raise self.make_error(500, message, kind="internal_server_error")


class _Vllm(_SelfHosted):
    """vLLM: numbers as codes, and no `dimensions` unless the model is Matryoshka."""

    error_kind = "BadRequestError"
    has_status_codes = True
    accepts_empty = True
    has_chat_batch = True

    def too_long(self, tokens: int, most: int) -> RejectedError:
        message = (
            f"This model's maximum context length is {most} tokens. However, you requested {tokens} "
            "tokens in the input for embedding generation. Please reduce the length of the input."
        )
        return self.make_error(400, message)

    def check_dimensions(self, model: str) -> None:
        message = (
            f'Model "{model}" does not support matryoshka representation, '
            "changing output dimensions will lead to poor results."
        )
        raise self.make_error(400, message)


class _Ollama(_SelfHosted):
    """Ollama: a queue of requests that may be full."""

    max_in_flight = 512
    accepts_empty = True

    def too_busy(self) -> RejectedError:
        message = "server busy, please try again.  maximum pending requests exceeded"
        return self.make_error(503, message, kind="api_error")


_FAMILIES: Mapping[ServerFamily, Callable[[], MockFamily]] = MappingProxyType(
    {
        "openai": MockFamily,
        "azure": _Azure,
        "tei": _Tei,
        "infinity": _Infinity,
        "llama-server": _LlamaServer,
        "llama-cpp-python": _LlamaCppPython,
        "vllm": _Vllm,
        "ollama": _Ollama,
    }
)


def family_of(server: ServerFamily, **limits: int | None) -> MockFamily:
    """Return the family called `server`, with the given `limits` in place of its own.

    Raises ValueError for an unknown name and for a limit below one.
    """
    if server not in _FAMILIES:
        raise ValueError(f"server must be one of {', '.join(get_args(ServerFamily))}; not {server!r}")
    family = _FAMILIES[server]()
    for name, limit in limits.items():
        if limit is None:
            continue
        if limit < 1:
            raise ValueError(f"{name} must be at least 1, not {limit}")
        setattr(family, name, limit)
    return family
