"""Schemas of inputs and outputs, as pydantic models made of prompts' fields and functions' types."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final, cast

from batchrt.runnables.base import Runnable
from batchrt.runnables.binding import RunnableBinding
from batchrt.runnables.chat_prompts import ChatPromptTemplate
from batchrt.runnables.configurable import RunnableConfigurableAlternatives, RunnableConfigurableFields
from batchrt.runnables.each import RunnableEach
from batchrt.runnables.fallbacks import RunnableWithFallbacks
from batchrt.runnables.listeners import RunnableWithListeners
from batchrt.runnables.message_prompts import MessagesPlaceholder, optional_field
from batchrt.runnables.parallel import RunnableParallel
from batchrt.runnables.passthrough import RunnableAssign, RunnablePassthrough, RunnablePick
from batchrt.runnables.prompts import Prompt
from batchrt.runnables.retry import RunnableRetry
from batchrt.runnables.sequence import RunnableSequence

if TYPE_CHECKING:
    from pydantic import BaseModel

__all__ = ["Fields", "input_of", "model_of", "output_of"]


class Fields(dict[str, tuple[Any, bool]]):
    """The keys of a dict: the type of each, and whether it is required."""


_WRAPPERS: Final = (RunnableBinding, RunnableWithListeners, RunnableRetry)


def input_of(runnable: Runnable[Any, Any]) -> Any:
    """Return the type of the inputs, or the `Fields` of a dict; `Any` if it is not known."""
    match runnable:
        case RunnableBinding() if runnable.input_type is not None:
            kind: Any = runnable.input_type
        case RunnableSequence():
            kind = _input_of_sequence(runnable.steps)
        case RunnableParallel():
            kind = _common(runnable.steps__)
        case RunnableAssign():
            kind = _common(runnable.mapper.steps__)
        case RunnableEach():
            kind = list[_plain(input_of(runnable.bound))]  # type: ignore[misc]
        case Prompt():
            kind = _fields_of(runnable)
        case _:
            inner = _inner(runnable)
            kind = runnable.InputType if inner is None else input_of(inner)
    return kind


def output_of(runnable: Runnable[Any, Any], given: Any = Any) -> Any:
    """Return the type of the outputs, or the `Fields` of a dict; `Any` if it is not known.

    Args:
        runnable: makes the outputs.
        given: the type of its inputs, or their `Fields`.
    """
    match runnable:
        case RunnableBinding() if runnable.output_type is not None:
            kind: Any = runnable.output_type
        case RunnableSequence():
            kind = given
            for step in runnable.steps:
                kind = output_of(step, kind)
        case RunnableParallel():
            kind = _outputs(runnable.steps__, given)
        case RunnableAssign():
            before = given if isinstance(given, Fields) else {}
            kind = Fields({**before, **_outputs(runnable.mapper.steps__, given)})
        case RunnablePick():
            kind = _picked(runnable, given)
        case RunnablePassthrough():
            kind = given
        case RunnableEach():
            kind = list[_plain(output_of(runnable.bound))]  # type: ignore[misc]
        case _:
            inner = _inner(runnable)
            kind = runnable.OutputType if inner is None else output_of(inner, given)
    return kind


def model_of(name: str, kind: Any) -> type[BaseModel]:
    """Return a pydantic model for a type: of its fields, or of a value as `root`."""
    from pydantic import BaseModel, ConfigDict, RootModel, create_model

    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return kind
    config = ConfigDict(arbitrary_types_allowed=True)
    if not isinstance(kind, Fields):
        root = cast("type[BaseModel]", RootModel[kind])
        return create_model(name, __base__=root)
    fields: dict[str, Any] = {
        field: (_plain(each), ... if required else None) for field, (each, required) in kind.items()
    }
    return create_model(name, __config__=config, **fields)


def _inner(runnable: Any) -> Runnable[Any, Any] | None:
    """Return the runnable whose types a wrapper has."""
    inner: Runnable[Any, Any] | None = None
    if isinstance(runnable, _WRAPPERS):
        inner = runnable.bound
    elif isinstance(runnable, RunnableWithFallbacks):
        inner = runnable.runnable
    elif isinstance(runnable, RunnableConfigurableFields | RunnableConfigurableAlternatives):
        inner = runnable.default
    return inner


def _plain(kind: Any) -> Any:
    return model_of("Fields", kind) if isinstance(kind, Fields) else kind


def _input_of_sequence(steps: tuple[Runnable[Any, Any], ...]) -> Any:
    """Return the input of a sequence: of its first step, and of later ones what it passes through."""
    first = input_of(steps[0])
    if not isinstance(steps[0], RunnableAssign) or len(steps) == 1:
        return first
    rest = _input_of_sequence(steps[1:])
    if not isinstance(rest, Fields):
        return first
    added = steps[0].mapper.steps__
    passed = {name: field for name, field in rest.items() if name not in added}
    return Fields({**passed, **(first if isinstance(first, Fields) else {})})


def _common(steps: Mapping[str, Runnable[Any, Any]]) -> Any:
    """Return the input that all of `steps` take: the fields of all, or their one type."""
    known = [kind for kind in map(input_of, steps.values()) if kind is not Any]
    if known and all(isinstance(kind, Fields) for kind in known):
        merged = Fields()
        for fields in known:
            for name, (kind, required) in fields.items():
                merged[name] = kind, required or merged.get(name, (kind, False))[1]
        return merged
    return known[0] if known and all(kind == known[0] for kind in known) else Any


def _outputs(steps: Mapping[str, Runnable[Any, Any]], given: Any) -> Fields:
    return Fields({name: (output_of(step, given), True) for name, step in steps.items()})


def _picked(runnable: RunnablePick, given: Any) -> Any:
    known = given if isinstance(given, Fields) else {}
    keys = runnable.keys
    if isinstance(keys, str):
        return known.get(keys, (Any, True))[0]
    return Fields({key: known.get(key, (Any, True)) for key in keys})


def _fields_of(prompt: Prompt[Any]) -> Fields:
    lists = set()
    fields = Fields()
    if isinstance(prompt, ChatPromptTemplate):
        lists = {m.variable_name for m in prompt.messages if isinstance(m, MessagesPlaceholder)}
        for name in filter(None, map(optional_field, prompt.messages)):
            fields[name] = list[Any], False
    for name in prompt.input_variables:
        fields[name] = list[Any] if name in lists else Any, True
    return fields
