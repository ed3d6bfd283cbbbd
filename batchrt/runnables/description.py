"""Descriptions of runnables: the parts on which outputs depend, and the request that an input leads to."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Final, NamedTuple, cast

from batchrt.messages import Message, SystemMessage
from batchrt.runnables.digests import IndescribableError, digest_of

if TYPE_CHECKING:
    from batchrt.runtime.step import Step
    from batchrt.runtime.strand import Strand

__all__ = [
    "Description",
    "Part",
    "code_part",
    "described_class",
    "described_prompt",
    "inline",
    "part",
    "sequence_of",
    "together",
]


class Part(NamedTuple):
    """One thing on which the outputs of a chain depend.

    Attributes:
        name: for messages: `temperature`, `system prompt`, `function shorten`.
        digest: equal in every process as long as the thing is unchanged; no secret can be read from it.
        is_code: whether it is a function, for which a version may be given instead.
        problem: why it has no digest, or `None`.
    """

    name: str
    digest: str
    is_code: bool = False
    problem: str | None = None


class Description(NamedTuple):
    """Describe a runnable without running it.

    Attributes:
        parts: in the chain's order.
        render: with `asks`, maps an input to the body of the first request; else to the output, if that
            needs no request and no function of the user's. `None` if neither is possible.
        asks: whether `render` returns a request's body.
        rendered: how many of the first parts `render` accounts for, so that equal bodies say that nothing of
            theirs matters.
        is_fixed: whether `render` returns equal results for equal inputs, at any time.
        output_type: the class of the outputs, if they are of one that JSON does not have.
        fields: the names in the input that matter, if it is a dict; `None` for all of it.
        needs: those of them that each input must have.
        model: the name of the model that the first request is for, if the chain asks one.
    """

    parts: tuple[Part, ...] = ()
    render: Callable[[Any], Any] | None = None
    asks: bool = False
    rendered: int = 0
    is_fixed: bool = True
    output_type: type[Any] | None = None
    fields: tuple[str, ...] | None = None
    needs: tuple[str, ...] = ()
    model: str | None = None


_STRAND: Final = cast("Strand", SimpleNamespace(item=SimpleNamespace(index=0)))
"""Stands for the strand where an inline step is called by itself: it reads its item's place, for errors."""


def part(name: str, value: object) -> Part:
    """Return the part of that name for a value."""
    try:
        return Part(name, digest_of(value))
    except IndescribableError as error:
        return Part(name, "", problem=str(error))


def code_part(name: str, value: object) -> Part:
    """Return the part of that name for a function, or an object with methods."""
    return part(name, value)._replace(is_code=True)


def described_prompt(
    prompt: Any, step: Step, given: Mapping[str, Any], optional: Iterable[str]
) -> Description:
    """Return the description of a prompt; its parts are its templates, those of system messages apart.

    Args:
        prompt: the prompt.
        step: its step.
        given: fields that it fills in itself.
        optional: fields that a row may lack.
    """
    fixed = not any(map(callable, given.values()))
    described = inline(_prompt_parts(prompt, given), step, is_fixed=fixed)
    return described._replace(
        fields=(*prompt.input_variables, *sorted(optional), *given),
        needs=tuple(name for name in prompt.input_variables if name not in given),
    )


def _prompt_parts(prompt: Any, given: Mapping[str, Any]) -> list[Part]:
    messages = getattr(prompt, "messages", None)
    if messages is None:
        return [part("prompt", (prompt.template, given))]
    system = [message for message in messages if _is_system(message)]
    others = [message for message in messages if not _is_system(message)]
    parts = [part("system prompt", (system, given))] if system else []
    return [*parts, part("prompt", (others, given))]


def _is_system(message: Any) -> bool:
    match message:
        case Message(role=role) | {"role": role} | [role, _]:
            return role in _SYSTEM
    return False


_SYSTEM: Final = ("system", "developer", SystemMessage)


def inline(
    parts: Iterable[Part], step: Step, *, is_fixed: bool = True, output_type: type[Any] | None = None
) -> Description:
    """Return the description of a step that is rendered if it is inline."""
    parts = tuple(parts)
    if not step.inline:
        return Description(parts, output_type=output_type)
    call = step.call
    return Description(
        parts,
        lambda value: call(value, _STRAND),
        rendered=len(parts),
        is_fixed=is_fixed,
        output_type=output_type,
    )


def sequence_of(steps: Iterable[Description]) -> Description:
    """Return the description of steps, each of which takes the output of the one before."""
    whole = next(iterator := iter(steps))
    for step in iterator:
        parts = whole.parts + step.parts
        render = whole.render
        if whole.asks or render is None:
            whole = whole._replace(parts=parts, output_type=step.output_type)
        elif step.render is None:
            whole = Description(parts, output_type=step.output_type, fields=whole.fields, needs=whole.needs)
        else:
            whole = Description(
                parts,
                _composed(render, step.render),
                step.asks,
                whole.rendered + step.rendered,
                whole.is_fixed and step.is_fixed,
                step.output_type,
                whole.fields,
                whole.needs,
                step.model,
            )
    return whole._replace(parts=_numbered(whole.parts))


def _composed(first: Callable[[Any], Any], then: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda value: then(first(value))


def together(
    steps: Iterable[Description], own: Iterable[Part] = (), *, first: Description | None = None
) -> Description:
    """Return the description of a runnable with several steps, and parts of its own.

    Args:
        steps: the steps.
        own: the runnable's own parts.
        first: the step that takes each input first, if it is always the same; its parts come first then.
    """
    steps = list(steps)
    parts = _numbered(p for group in (*(step.parts for step in steps), own) for p in group)
    if first is None:
        return Description(parts)
    same = all(step.output_type is first.output_type for step in steps)
    return first._replace(parts=parts, output_type=first.output_type if same else None)


def described_class(runnable: Any, kwargs: Mapping[str, Any]) -> Description:
    """Return the description of a runnable of the user's own class: its methods and its attributes."""
    kind = type(runnable)
    methods = {
        name: value
        for base in reversed(kind.__mro__)
        if not base.__module__.startswith(("batchrt.", "builtins", "typing"))
        for name, value in vars(base).items()
        if callable(value)
    }
    state = {name: value for name, value in vars(runnable).items() if name != "_shared_lists"}
    return Description((code_part(f"class {kind.__name__}", (methods, state, dict(kwargs))),))


def _numbered(parts: Iterable[Part]) -> tuple[Part, ...]:
    """Return `parts` with a number behind a name that came before."""
    seen: Counter[str] = Counter()
    numbered: list[Part] = []
    for each in parts:
        name = each.name.rsplit(" #", 1)[0]
        seen[name] += 1
        numbered.append(each._replace(name=name if seen[name] == 1 else f"{name} #{seen[name]}"))
    return tuple(numbered)
