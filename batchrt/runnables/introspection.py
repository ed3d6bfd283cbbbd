"""Introspection: a chain's graph, and the schemas of its inputs and outputs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final, cast

from batchrt.runnables.entry_points import EntryPoints, In, Out

if TYPE_CHECKING:
    from pydantic import BaseModel

    from batchrt.runnables.base import Runnable
    from batchrt.runnables.graph import Graph

__all__ = ["Introspection"]

_EVENTS: Final = (
    "a branch of a parallel beside RunnablePassthrough() streams an intermediate result, a generator function"
    " in the chain sees each chunk, with_listeners is told of each step, and to_langchain(runnable) has it"
)
_LISTENERS: Final = "with_listeners takes async functions too"
_CONFIG: Final = "configurable_fields and configurable_alternatives check what a config gives them"
_LEFT_OUT: Final[Mapping[str, str]] = {
    "astream_events": _EVENTS,
    "stream_events": _EVENTS,
    "astream_log": _EVENTS,
    "as_tool": "bind_tools takes functions, and to_langchain(runnable) has it",
    "with_alisteners": _LISTENERS,
    "config_schema": _CONFIG,
    "config_specs": _CONFIG,
    "get_config_jsonschema": _CONFIG,
    "get_prompts": "the steps of a chain are nodes of get_graph()",
}
"""Names of LCEL that runnables do not have, and the way to the same end."""


class Introspection(EntryPoints[In, Out]):
    """Describe a runnable to people and to other programs.

    Attributes:
        InputType: the type of the inputs, for `input_schema`; subclasses may set it.
        OutputType: the type of the outputs, for `output_schema`.
    """

    InputType: Any = Any
    OutputType: Any = Any

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            if name in _LEFT_OUT:
                kind = type(self).__name__
                raise AttributeError(
                    f"{kind!r} has no {name!r}: {_LEFT_OUT[name]} (docs/lcel.md)", name=name, obj=self
                )
            return object.__getattribute__(self, name)  # once more, for the error of a property

    def get_graph(self) -> Graph:
        """Return the graph of the steps, to be drawn: `chain.get_graph().print_ascii()`."""
        from batchrt.runnables.graph import graph_of

        return graph_of(self._self())

    @property
    def input_schema(self) -> type[BaseModel]:
        """A pydantic model of the inputs, made of prompts' fields and functions' types.

        Nothing is validated by it; a type that is not known is `Any`. An input that is no dict is its `root`.
        """
        from batchrt.runnables.schemas import input_of, model_of

        return model_of(f"{self._self().get_name()}Input", input_of(self._self()))

    @property
    def output_schema(self) -> type[BaseModel]:
        """A pydantic model of the outputs; as `input_schema`."""
        from batchrt.runnables.schemas import input_of, model_of, output_of

        kind = output_of(self._self(), input_of(self._self()))
        return model_of(f"{self._self().get_name()}Output", kind)

    def get_input_schema(self) -> type[BaseModel]:
        """Return `input_schema`."""
        return self.input_schema

    def get_output_schema(self) -> type[BaseModel]:
        """Return `output_schema`."""
        return self.output_schema

    def get_input_jsonschema(self) -> dict[str, Any]:
        """Return the JSON schema of the inputs."""
        return self.input_schema.model_json_schema()

    def get_output_jsonschema(self) -> dict[str, Any]:
        """Return the JSON schema of the outputs."""
        return self.output_schema.model_json_schema()

    def _self(self) -> Runnable[In, Out]:
        return cast("Runnable[In, Out]", self)
