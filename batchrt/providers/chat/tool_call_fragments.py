"""Fragments of tool calls: each is assigned to its call, however a server numbers them; no I/O."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from pydantic_core import to_json

from batchrt.providers.http.response import load_json
from batchrt.providers.response_body import whole_number

__all__ = ["ToolCallFragments"]

_OWN: Final = frozenset(("index", "id", "function"))
_OF_FUNCTIONS: Final = frozenset(("name", "arguments"))


class _Call:
    """A call as far as it has come.

    Attributes:
        index: the server's number of it; `None` if it sent none.
        id: its identifier; empty if none was sent.
        name: its function's.
        arguments: pieces of its JSON.
    """

    __slots__ = ("arguments", "id", "index", "name")

    def __init__(self, index: int | None) -> None:
        self.index = index
        self.id: str = ""
        self.name: str = ""
        self.arguments: list[str] = []

    def is_whole(self) -> bool:
        """Whether the arguments are complete JSON."""
        try:
            load_json("".join(self.arguments).encode("utf-8", "surrogatepass"))
        except ValueError:
            return False
        return True


class ToolCallFragments:
    """Give each fragment the place of its call.

    OpenAI numbers its calls from 0 and sends each one's identifier and name once. Servers that differ leave
    the number out, give all calls the number 0, send an identifier or the name with every fragment, or whole
    calls at once. So a fragment begins a call if its number is new; or if it has a name, and either another
    identifier than the call of its number or complete arguments before it.
    """

    __slots__ = ("_calls",)

    def __init__(self) -> None:
        self._calls: list[_Call] = []

    def placed(self, fragments: object) -> Sequence[Mapping[str, Any]]:
        """Return the fragments of one delta as JSON, each with its call's place as `index`."""
        if isinstance(fragments, dict):
            fragments = [fragments]
        if not isinstance(fragments, list):
            return ()
        return [self._placed(fragment) for fragment in fragments if isinstance(fragment, dict)]

    def _placed(self, fragment: Mapping[str, Any]) -> Mapping[str, Any]:
        index, identifier = whole_number(fragment.get("index")), fragment.get("id")
        identifier = identifier if isinstance(identifier, str) else ""
        function = fragment.get("function")
        function = function if isinstance(function, dict) else {}
        name, arguments = function.get("name"), function.get("arguments")
        name = name if isinstance(name, str) else ""
        place = self._place(index, identifier, name, has_arguments=bool(arguments))
        call = self._calls[place]
        placed: dict[str, Any] = {"index": place}
        placed |= {key: value for key, value in fragment.items() if key not in _OWN and value is not None}
        if identifier and not call.id:
            call.id = placed["id"] = identifier
        if function:
            placed["function"] = dict(self._function(call, function, name, arguments))
        return placed

    def _function(
        self, call: _Call, function: Mapping[str, Any], name: str, arguments: object
    ) -> Iterator[tuple[str, Any]]:
        """Yield the members of a fragment's function; the name only as far as it is new."""
        if name and name != call.name and not call.arguments:
            call.name += name
            yield "name", name
        if isinstance(arguments, dict):  # as an object, which some servers send
            arguments = to_json(arguments).decode()
        if not isinstance(arguments, str):
            arguments = ""
        if arguments:
            call.arguments.append(arguments)
        yield "arguments", arguments
        yield from (
            (key, value) for key, value in function.items() if key not in _OF_FUNCTIONS and value is not None
        )

    def _place(self, index: int | None, identifier: str, name: str, *, has_arguments: bool) -> int:
        """Return the place of the call that a fragment belongs to, which may be a new one."""
        place = self._known(index, identifier)
        if place is None or (
            name and self._begins(self._calls[place], identifier, name, has_arguments=has_arguments)
        ):
            self._calls.append(_Call(index))
            return len(self._calls) - 1
        return place

    def _known(self, index: int | None, identifier: str) -> int | None:
        """Return the place of the last call with that number or identifier."""
        calls = self._calls
        for place in reversed(range(len(calls))):
            if index is not None:
                if calls[place].index == index:
                    return place
            elif identifier and calls[place].id == identifier:
                return place
        return None if index is not None or not calls else len(calls) - 1

    def _begins(self, call: _Call, identifier: str, name: str, *, has_arguments: bool) -> bool:
        """Whether a fragment with a name begins another call than `call`, to which it would belong."""
        if identifier and call.id and identifier != call.id:
            return True
        other = name != call.name
        if not call.arguments:  # the name may come in pieces
            return other and bool(call.name) and call.index is None
        return (other or has_arguments) and call.is_whole()
