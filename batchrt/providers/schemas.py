"""JSON schemas the way OpenAI's strict mode wants them.

The rules are those of https://platform.openai.com/docs/guides/structured-outputs: every object
lists its properties, requires all of them and allows no others; no defaults; no `oneOf` or `allOf`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["strict_schema"]


def strict_schema(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Return `schema` rewritten for strict mode.

    Optional properties become required: the model writes them all, and a default is never used.

    Raises:
        ValueError: for what strict mode cannot say (an object of free keys, a value of any type);
            it names the place.
    """
    if schema.get("type") != "object" and "$ref" not in schema:
        raise ValueError("strict mode wants an object at the top of the schema")
    return _Rewriter(schema).node(schema, "the schema")


class _Rewriter:
    """Walk one schema; `root` is where its references point."""

    def __init__(self, root: Mapping[str, Any]) -> None:
        self._root = root
        self._inlining: list[str] = []

    def node(self, schema: Any, place: str) -> dict[str, Any]:
        if not isinstance(schema, Mapping):
            raise ValueError(f"{place} allows anything, which strict mode cannot")  # noqa: TRY004
        found = {name: value for name, value in schema.items() if name != "default"}
        if "$ref" in found:
            return self._reference(found, place)
        if "allOf" in found:
            return self._all_of(found, place)
        if "oneOf" in found:
            found["anyOf"] = found.pop("oneOf")
            found.pop("discriminator", None)
        if not found.keys() & {"type", "anyOf", "enum", "const"}:
            raise ValueError(f"{place} allows anything, which strict mode cannot")
        if found.get("type") == "object" or "properties" in found:
            self._object(found, place)
        return self._with_children(found, place)

    def _reference(self, found: dict[str, Any], place: str) -> dict[str, Any]:
        reference = found.pop("$ref")
        found.pop("title", None)
        if not found or reference in self._inlining:
            return {"$ref": reference}
        # What stands beside a reference is refused, so the target is put in its place.
        self._inlining.append(reference)
        try:
            return self.node({**self._target(reference, place), **found}, place)
        finally:
            self._inlining.pop()

    def _target(self, reference: str, place: str) -> Mapping[str, Any]:
        target: Any = self._root
        for step in reference.removeprefix("#/").split("/"):
            target = target.get(step) if isinstance(target, Mapping) else None
        if isinstance(target, Mapping):
            return target
        raise ValueError(f"{place} refers to {reference}, which is not in the schema")

    def _all_of(self, found: dict[str, Any], place: str) -> dict[str, Any]:
        parts = found.pop("allOf")
        if len(parts) != 1:
            raise ValueError(f"{place} is an allOf, which strict mode does not know")
        return self.node({**parts[0], **found}, place)

    def _object(self, found: dict[str, Any], place: str) -> None:
        # Unless it says otherwise an object allows other keys too; where it lists some, those are
        # taken to be all.
        others = found.get("additionalProperties", "properties" not in found)
        if others is not False or "patternProperties" in found:
            raise ValueError(f"{place} has keys of any name, which strict mode cannot")
        properties = found.get("properties", {})
        found["properties"] = properties
        found["required"] = list(properties)
        found["additionalProperties"] = False

    def _with_children(self, found: dict[str, Any], place: str) -> dict[str, Any]:
        for group in ("properties", "$defs", "definitions"):
            if group in found:
                found[group] = {
                    name: self.node(child, f"{place}.{name}") for name, child in found[group].items()
                }
        if "anyOf" in found:
            found["anyOf"] = [self.node(child, place) for child in found["anyOf"]]
        if "items" in found:
            found["items"] = self.node(found["items"], f"{place}[]")
        elif found.get("type") == "array":
            raise ValueError(f"{place} is a list of anything, which strict mode cannot")
        if "prefixItems" in found:
            raise ValueError(f"{place} is a tuple, which strict mode does not know")
        return found
