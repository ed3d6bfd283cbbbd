"""Introspection: a chain's graph, and the schemas of its inputs and outputs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from batchrt.runnables.entry_points import EntryPoints, In, Out

if TYPE_CHECKING:
    from pydantic import BaseModel

    from batchrt.runnables.base import Runnable
    from batchrt.runnables.graph import Graph

__all__ = ["Introspection"]


class Introspection(EntryPoints[In, Out]):
    """Describe a runnable to people and to other programs.

    Attributes:
        InputType: the type of the inputs, for `input_schema`; subclasses may set it.
        OutputType: the type of the outputs, for `output_schema`.
    """

    InputType: Any = Any
    OutputType: Any = Any

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
