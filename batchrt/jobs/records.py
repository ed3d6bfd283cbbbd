"""Records: outcomes of rows in the form of the journal."""

from __future__ import annotations

import json
from collections.abc import Mapping
from decimal import Decimal
from typing import Any, Final, NamedTuple, cast

from pydantic import TypeAdapter
from pydantic_core import PydanticSerializationError, from_json, to_json, to_jsonable_python

from batchrt.errors import ProviderError, RecordedError
from batchrt.messages import Usage
from batchrt.runtime.outcome import Outcome

__all__ = ["Codec", "Record", "decode_json", "decode_output", "encode_input", "error_text"]

_FEW_DIGITS: Final = 640
"""Digits that `int` takes from a text whatever its limit is (`sys.int_info.str_digits_check_threshold`)."""
_USAGE: Final = TypeAdapter(Mapping[str, Usage])


class Record(NamedTuple):
    """The columns of a row's outcome.

    Attributes:
        status: `done` or `failed`.
        output: JSON, or bytes if the output is that, such as a vector; or `None`.
        error: JSON, or `None`.
        attempts, seconds, request_seconds, cost: as in `Outcome`.
        usage: JSON of the tokens by model, or `None`.
        input_tokens, output_tokens: their sums.
        request_id: the provider's id of the last exchange, if it is known.
        finished: when it was recorded, in seconds since 1970.
    """

    status: str
    output: str | bytes | None
    error: str | None
    attempts: int
    seconds: float
    request_seconds: float | None
    usage: str | None
    input_tokens: int | None
    output_tokens: int | None
    cost: float | None
    request_id: str | None
    finished: float


def encode_input(value: object) -> bytes:
    """Return an input as JSON, by which inputs are compared.

    Raises:
        TypeError: JSON cannot carry it.
    """
    try:
        return _encode_json(value)
    except (TypeError, ValueError, RecursionError) as error:
        raise TypeError(
            f"an input of a job must be a value that JSON can carry: {error}; give what identifies it, "
            "and look the rest up in the chain"
        ) from None


def _encode_json(value: object) -> bytes:
    try:
        text = to_json(value, inf_nan_mode="constants")
        if b"null" not in text:
            return text
        # NaN and infinity of a model, also of one inside of a dict or list, have become null.
        return to_json(to_jsonable_python(value, inf_nan_mode="constants"), inf_nan_mode="constants")
    except (PydanticSerializationError, UnicodeError) as error:
        try:
            # A text cut within an emoji holds half a surrogate pair, which UTF-8 cannot carry, and JSON can.
            return json.dumps(value, separators=(",", ":"), default=_jsonable).encode()
        except (TypeError, PydanticSerializationError):
            raise TypeError(str(error)) from None


def _jsonable(value: object) -> Any:
    """Return a value without a JSON form; a byte of one that is not UTF-8 is a lone surrogate."""
    if isinstance(value, bytes):
        return value.decode("utf-8", "surrogateescape")
    return to_jsonable_python(value, inf_nan_mode="constants")


def decode_json(text: str) -> Any:
    """Return the value of JSON from a journal."""
    try:
        return from_json(text)
    except ValueError:  # half a surrogate pair, or an integer of more digits than `int` takes
        return json.loads(text, parse_int=_integer)


def _integer(text: str) -> int:
    return int(text) if len(text) <= _FEW_DIGITS else int(Decimal(text))


def decode_output(output: str | bytes) -> Any:
    """Return an output from a journal: bytes, or the value of JSON."""
    return output if isinstance(output, bytes) else decode_json(output)


class Codec:
    """Turn outcomes into records and back.

    Args:
        output_type: the class of the outputs; `None` for JSON values.
    """

    def __init__(self, output_type: type[Any] | None) -> None:
        self._output_type = output_type
        self._adapter: TypeAdapter[Any] | None = None if output_type is None else TypeAdapter(output_type)

    def record(self, outcome: Outcome[Any], finished: float) -> Record:
        """Return the record of `outcome`, which ended at `finished`, in seconds since 1970.

        Raises:
            TypeError: JSON cannot carry the output.
        """
        output = error = None
        request_id = outcome.request_id
        if outcome.error is None or outcome.output is not None:
            output = self._encode(outcome.output)
        if outcome.error is not None:
            error = _encode_error(outcome.error)
            request_id = getattr(outcome.error, "request_id", None) or request_id
        bills, usage = outcome.usage_by_model, outcome.usage
        return Record(
            "done" if outcome.error is None else "failed",
            output,
            error,
            outcome.attempts,
            outcome.seconds,
            outcome.request_seconds,
            # Most of the counts are 0, which would be a fourth of a short row.
            _USAGE.dump_json(bills, exclude_defaults=True).decode() if bills else None,
            None if usage is None else usage.input_tokens,
            None if usage is None else usage.output_tokens,
            outcome.cost,
            request_id,
            finished,
        )

    def _encode(self, output: Any) -> str | bytes:
        if type(output) is bytes:
            return output
        try:
            if self._adapter is not None and isinstance(output, cast("type", self._output_type)):
                output = self._adapter.dump_python(output, mode="json")
            return _encode_json(output).decode()
        except (TypeError, ValueError, RecursionError) as error:
            raise TypeError(
                f"the output, of type {type(output).__name__}, cannot be kept in a journal: {error}; end the "
                "chain with a function that returns what JSON can carry"
            ) from None

    def outcome(self, index: int, record: Record) -> Outcome[Any]:
        """Return the outcome of a record; its error is a `RecordedError`."""
        error = None if record.error is None else _decode_error(record.error)
        bills = None if record.usage is None else _USAGE.validate_json(record.usage)
        return Outcome(
            index,
            None if record.output is None else self._decode(record.output),
            error,
            record.attempts,
            record.seconds,
            sum(bills.values(), Usage()) if bills else None,
            record.request_seconds,
            bills,
            None,
            record.cost,
            record.request_id,
        )

    def _decode(self, output: str | bytes) -> Any:
        value = decode_output(output)
        return value if self._adapter is None else self._adapter.validate_python(value)


def _encode_error(error: Exception) -> str:
    facts: dict[str, Any] = {"kind": type(error).__name__, "message": str(error)}
    if isinstance(error, ProviderError):
        facts |= {"status": error.status, "request_id": error.request_id}
    return _encode_json(facts).decode()


def error_text(error: str) -> str:
    """Return a recorded error (JSON) as its class and message."""
    facts = decode_json(error)
    return f"{facts['kind']}: {facts['message']}" if facts["message"] else str(facts["kind"])


def _decode_error(text: str) -> RecordedError:
    facts = decode_json(text)
    message = facts.pop("message")
    return RecordedError(message, **facts)
