"""Output parsers: from a model's output to text, JSON or a pydantic model."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeAlias, TypeVar, cast

from batchrt.errors import OutputParserError
from batchrt.messages import AIMessage, Message
from batchrt.runnables.base import Out, Runnable
from batchrt.runnables.chunk_sums import snapshot_of
from batchrt.runnables.description import Description, described_class, inline, part
from batchrt.runnables.embedded_json import NotJSONError, first_fitting
from batchrt.runnables.foreign import adopted_message
from batchrt.runtime.side_stream import Closing
from batchrt.runtime.step import Step
from batchrt.runtime.strand import Strand

if TYPE_CHECKING:
    from pydantic import BaseModel

__all__ = [
    "BaseOutputParser",
    "JsonOutputParser",
    "ModelOutput",
    "PydanticOutputParser",
    "StrOutputParser",
    "json_value",
    "text_of",
]

ModelOutput: TypeAlias = "str | Message"
"""The output of a model step: its message, or its text."""

ModelT = TypeVar("ModelT", bound="BaseModel")

_EXCERPT: Final = 200


def text_of(output: ModelOutput) -> str:
    """Return the text of a model's output.

    Raises:
        TypeError: if it is neither a string nor a message.
        OutputParserError: if the model refused.
    """
    if isinstance(output, str):
        return output
    if isinstance(output, AIMessage):
        content = output.content
        if content and type(content) is str:
            return content
        if output.refusal and not content:
            raise _refused(output.refusal)
        return output.text
    if isinstance(output, Message):
        return output.content if isinstance(output.content, str) else ""
    if (foreign := adopted_message(output)) is not None:  # type: ignore[unreachable]
        return text_of(foreign)
    raise TypeError(f"a parser takes a model's output (a message or a string), not {type(output).__name__}")


class BaseOutputParser(Runnable[ModelOutput, Out]):
    """Parse a model's text inline, since parsing never waits; subclasses have `parse`.

    An error that `parse` raises is the item's.
    """

    InputType: Any = str | AIMessage

    def _takes(self, keyword: str) -> bool:  # noqa: ARG002  it takes none
        return False

    def describe(self, kwargs: Mapping[str, Any] | None = None) -> Description:
        """Return what the outputs depend on; see `Runnable.describe`."""
        if not type(self).__module__.startswith("batchrt."):
            return described_class(self, kwargs or {})
        kind = getattr(self, "pydantic_object", None) if isinstance(self, PydanticOutputParser) else None
        parts = [part("parser", (type(self), kind))]
        return inline(parts, self._build(kwargs or {}), output_type=kind)

    def _build(self, kwargs: Mapping[str, Any]) -> Step:  # noqa: ARG002  there are none
        parse: Callable[[Any], Any] = self.parse_output
        transform = partial(_transformed, self._chunks) if self._streams() else None
        return Step(lambda value, _strand: parse(value), inline=True, transform=transform)

    def _streams(self) -> bool:
        """Whether `_chunks` parses chunks as this parser does."""
        return False

    def _parses_as(self, kind: type[Any]) -> bool:
        """Whether a subclass of `kind` has left its methods as they are."""
        own = type(self)
        return own is kind or (own.parse is kind.parse and own.parse_output is kind.parse_output)

    def _chunks(self, chunks: AsyncIterator[Any]) -> AsyncGenerator[Any, None]:
        """Parse chunks of an output as they come; of a parser that `_streams`."""
        raise NotImplementedError

    def parse_output(self, output: ModelOutput) -> Out:
        """Return the value in a model's message or text."""
        return self.parse(text_of(output))

    def parse(self, text: str) -> Out:
        """Return the value in `text`."""
        raise NotImplementedError

    def get_format_instructions(self) -> str:
        """Return instructions for a prompt that make the model answer in this form.

        Raises:
            NotImplementedError: this parser has none.
        """
        raise NotImplementedError(f"{type(self).__name__} has no format instructions")


async def _transformed(
    parse: Callable[[AsyncIterator[Any]], AsyncGenerator[Any, None]],
    chunks: AsyncIterator[Any],
    _strand: Strand,
) -> AsyncIterator[Any]:
    outputs = parse(chunks)
    async with Closing(chunks), Closing(outputs):
        async for chunk in outputs:
            yield chunk


async def _texts(chunks: AsyncIterator[Any]) -> AsyncGenerator[str, None]:
    """Yield the text of each chunk, and at least one.

    Raises:
        OutputParserError: behind the last one, if the model refused.
    """
    refusal, count, has_content, has_text = "", 0, False, False
    async for chunk in chunks:
        count += 1
        if isinstance(chunk, AIMessage):
            text, refusal = chunk.text, refusal + (chunk.refusal or "")
            has_content = has_content or bool(chunk.content)
        else:
            text = text_of(chunk)
            has_content = has_content or bool(text)
        if text:
            has_text = True
            yield text
    if not count:
        text_of(cast("ModelOutput", None))  # it raises, as without streaming
    if refusal and not has_content:
        raise _refused(refusal)
    if not has_text:
        yield ""


def _refused(refusal: str) -> OutputParserError:
    return OutputParserError(f"the model refused: {_excerpt(refusal)}", text=refusal)


class StrOutputParser(BaseOutputParser[str]):
    """Return the text of a model's answer, chunk by chunk. A refusal is an `OutputParserError`."""

    OutputType: Any = str

    def _streams(self) -> bool:
        return self._parses_as(StrOutputParser)

    def _chunks(self, chunks: AsyncIterator[Any]) -> AsyncGenerator[Any, None]:
        return _texts(chunks)

    def parse(self, text: str) -> str:
        """Return the text itself."""
        return text


def json_value(text: str) -> Any:
    """Return the value that the JSON `text` stands for.

    Raises:
        NotJSONError: `text` is not JSON.
    """
    try:
        # Not strict: models leave raw line breaks and tabs in strings.
        return json.loads(text, strict=False)
    except (ValueError, RecursionError) as error:
        raise NotJSONError(str(error)) from None


class JsonOutputParser(BaseOutputParser[Any]):
    """Return the JSON value in a model's answer: all of it, in a Markdown fence, or between words.

    Thoughts before the answer (`<think>…</think>` and the like) are skipped. Streamed, it yields the object
    or list so far, whole each time, whenever it has grown: each replaces the one before. Text appears as it
    comes, numbers and other values once they are complete.

    Args:
        pydantic_object: the class whose schema `get_format_instructions` shows to the model; nothing is
            validated.

    Raises:
        OutputParserError: if the answer has no JSON or was cut off; carries the text.
    """

    def __init__(self, pydantic_object: type[BaseModel] | None = None) -> None:
        self.pydantic_object: type[BaseModel] | None = pydantic_object

    def get_format_instructions(self) -> str:
        """Return instructions for a prompt that make the model answer in this form."""
        if self.pydantic_object is None:
            return "Answer with one JSON value, and nothing else."
        return _instructions(self.pydantic_object)

    def parse(self, text: str) -> Any:
        """Return the value in `text`."""
        try:
            return first_fitting(text, json_value)
        except NotJSONError as error:
            raise OutputParserError(
                f"the output is not JSON ({error}): {_excerpt(text)}", text=text
            ) from None

    def _streams(self) -> bool:
        return self._parses_as(JsonOutputParser)

    async def _chunks(self, chunks: AsyncIterator[Any]) -> AsyncGenerator[Any, None]:
        from batchrt.runnables.partial_json import NOTHING, PartialJSON

        partial_json = PartialJSON()
        texts = _texts(chunks)
        try:
            async for text in texts:
                value = partial_json.add(text)
                if value is not NOTHING:
                    yield snapshot_of(value)
        finally:
            await texts.aclose()
        value = self.parse(partial_json.whole())
        if partial_json.differs(value):
            yield snapshot_of(value)


class PydanticOutputParser(BaseOutputParser[ModelT]):
    """Return an instance of a pydantic model, made from the JSON in a model's answer.

    Args:
        pydantic_object: the pydantic class.

    Raises:
        OutputParserError: if there is no JSON or it does not fit the class; carries the text, with
            pydantic's `ValidationError` as its cause.
    """

    def __init__(self, pydantic_object: type[ModelT]) -> None:
        self.pydantic_object: type[ModelT] = pydantic_object
        self.OutputType: Any = pydantic_object

    def parse(self, text: str) -> ModelT:
        """Return the instance for the JSON in `text`."""
        from pydantic import ValidationError

        def read(candidate: str) -> ModelT:
            return self.pydantic_object.model_validate(json_value(candidate))

        try:
            return first_fitting(text, read)
        except NotJSONError as error:
            raise OutputParserError(
                f"the output is not JSON ({error}): {_excerpt(text)}", text=text
            ) from None
        except ValidationError as error:
            name = self.pydantic_object.__name__
            raise OutputParserError(f"the output is no {name}: {_reasons(error)}", text=text) from error

    def get_format_instructions(self) -> str:
        """Return instructions for a prompt that make the model answer in this form."""
        return _instructions(self.pydantic_object)


def _instructions(model: type[BaseModel]) -> str:
    schema = json.dumps(model.model_json_schema(), ensure_ascii=False)
    return f"Answer with one JSON object that fits this JSON schema, and nothing else:\n{schema}"


def _reasons(error: Any) -> str:
    reasons = [
        f"{'.'.join(map(str, reason['loc'])) or 'the whole'}: {reason['msg']}"
        for reason in error.errors(include_url=False, include_input=False)
    ]
    shown = "; ".join(reasons[:3])
    return shown if len(reasons) <= 3 else f"{shown}; and {len(reasons) - 3} more"  # noqa: PLR2004


def _excerpt(text: str) -> str:
    return text if len(text) <= _EXCERPT else text[:_EXCERPT] + "…"
