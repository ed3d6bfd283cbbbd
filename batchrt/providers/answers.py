"""The body of an answer: opened, its choices in their places, its tokens; no I/O."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any, Final, TypeVar

from batchrt.errors import MalformedResponseError
from batchrt.messages import Usage
from batchrt.providers.failures import error_from, excerpt
from batchrt.providers.json_text import load_json
from batchrt.providers.reply import Reply
from batchrt.providers.retry_after import advise
from batchrt.providers.secrets import Secrets

__all__ = [
    "ShapeError",
    "choices_of",
    "malformed",
    "member",
    "placed_choices",
    "read_answer",
    "read_usage",
]

T = TypeVar("T")

_EVENT: Final = re.compile(rb"\s{0,64}(?:data|event|id|retry|) ?:")
"""The beginning of a stream of events, in the server-sent events of the HTML standard (9.2.6)."""


class ShapeError(Exception):
    """Say which part of an answer is missing or of the wrong type.

    `lasting` says that the same request would be answered like this again.
    """

    def __init__(self, what: str, *, lasting: bool = False) -> None:
        super().__init__(what)
        self.lasting = lasting


def read_answer(
    reply: Reply, secrets: Secrets, wall: Callable[[], float], read: Callable[[dict[str, Any]], T]
) -> T:
    """Return what `read` makes of the object in a successful `reply`; for the rest see `error_from`.

    Raises:
        MalformedResponseError: if it is not JSON or `read` raises a ShapeError; says what is missing.
        ProviderError: if the body holds an error instead, as some proxies have it.
    """
    try:
        data = load_json(reply.body)
    except ValueError as error:
        if _EVENT.match(reply.body):
            streamed = malformed("is a stream of events, which was not asked for", reply, secrets)
            streamed.message += '; say extra_body={"stream": False}, and the server may answer whole'
            advise(streamed, retry=False)
            raise streamed from None
        raise malformed(f"is not JSON: {error}", reply, secrets) from None
    if not isinstance(data, dict):
        raise malformed("is no JSON object", reply, secrets)
    if data.get("error"):
        raise error_from(reply, secrets, wall)
    try:
        return read(data)
    except ShapeError as shape:
        failure = malformed(str(shape), reply, secrets)
        if shape.lasting:
            advise(failure, retry=False)
        raise failure from None


def malformed(what: str, reply: Reply, secrets: Secrets) -> MalformedResponseError:
    """Return the error that says `what` is wrong with an answer, and how it begins."""
    shown = excerpt(reply.body, secrets)
    return MalformedResponseError(
        f"the answer {what}; it begins: {shown}" if shown else f"the answer {what}: it is empty",
        status=reply.status,
        request_id=reply.request_id,
    )


def choices_of(data: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield an answer's choices, at least one.

    Raises:
        ShapeError: if there is none, or when it comes to one that is no object.
    """
    choices = data.get("choices")
    if not isinstance(choices, list) or not choices:
        raise ShapeError("has no choices" if not choices else "has choices that are no list")
    for choice in choices:
        if not isinstance(choice, dict):
            raise ShapeError("has a choice that is no object")
        yield choice


def placed_choices(data: dict[str, Any], prompts: int, each: int) -> list[dict[str, Any]]:
    """Return an answer's choices in the order of their `index`: i · each + j is the j-th of prompt i.

    The choices for one prompt alone are alike: their indexes are not looked at.

    Raises:
        ShapeError: if there are more or fewer than `prompts · each`, as from a server that makes one
            prompt of a list, or not each index once. Then none of them can be trusted.
    """
    choices = list(choices_of(data))
    wanted = prompts * each
    if len(choices) != wanted:
        raise ShapeError(f"has {_number(len(choices))} where {wanted} were asked for", lasting=True)
    if prompts == 1:
        return choices
    places: dict[int, dict[str, Any]] = {}
    for choice in choices:
        index = choice.get("index")
        if isinstance(index, str) and index.isdecimal():  # there are servers
            index = int(index)
        if type(index) is int:
            places[index] = choice
    if places.keys() != set(range(wanted)):
        raise ShapeError(f"has choices whose indexes are not 0 to {wanted - 1}, each once", lasting=True)
    return [places[index] for index in range(wanted)]


def _number(choices: int) -> str:
    return "1 choice" if choices == 1 else f"{choices} choices"


def member(holder: dict[str, Any], path: str, kind: type[T]) -> T | None:
    """Return the member of `holder` that the last part of `path` names, if there is one.

    Raises:
        ShapeError: if it is not of `kind`; names the whole path.
    """
    value = holder.get(path.rpartition(".")[2])
    if value is None or isinstance(value, kind):
        return value
    raise ShapeError(f"has a {path} that is no {kind.__name__}")


def read_usage(usage: object) -> Usage | None:
    """Return an answer's `usage`; `None` for what makes no sense.

    Counts are a courtesy: an answer that was paid for is not thrown away for a wrong one.
    """
    if not isinstance(usage, dict):
        return None
    get = usage.get
    counts = (get("prompt_tokens"), get("completion_tokens", 0), get("total_tokens"))
    entered, made, total = (n if type(n) is int and n >= 0 else None for n in counts)
    if entered is None or made is None:
        return None
    return Usage(entered, made, entered + made if total is None else total)
