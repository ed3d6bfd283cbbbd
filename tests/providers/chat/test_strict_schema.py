"""Schemas are rewritten for strict mode, or refused by name."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import pytest
from pydantic import BaseModel, Field

from batchrt.providers.chat.strict_schema import strict_schema


class Leaf(BaseModel):
    """A leaf."""

    name: str = "x"
    kind: Literal["a", "b"] | None = None


class Tree(BaseModel):
    """Optional, nested, recursive, described."""

    leaf: Leaf = Field(description="the leaf")
    leaves: list[Leaf] = []
    parent: Tree | None = None
    size: Annotated[int, Field(ge=0)] = 0


def objects(schema: Any) -> list[dict[str, Any]]:
    """Return every object schema in `schema`."""
    if isinstance(schema, list):
        return [found for each in schema for found in objects(each)]
    if not isinstance(schema, dict):
        return []
    own = [schema] if schema.get("type") == "object" else []
    return own + [found for each in schema.values() for found in objects(each)]


def test_strict_schema_closes_objects_and_requires_all_properties() -> None:
    """And drops defaults, which strict mode refuses."""
    schema = strict_schema(Tree.model_json_schema())
    assert len(objects(schema)) >= 3
    for each in objects(schema):
        assert each["additionalProperties"] is False
        assert each["required"] == list(each["properties"])
    assert '"default"' not in repr(schema).replace("'", '"')


def test_strict_schema_expands_a_described_reference() -> None:
    """Strict mode allows nothing beside a $ref."""
    leaf = strict_schema(Tree.model_json_schema())["$defs"]["Tree"]["properties"]["leaf"]
    assert leaf["description"] == "the leaf"
    assert "$ref" not in leaf


def test_strict_schema_top_is_an_object_for_a_recursive_model() -> None:
    """Pydantic makes it a reference."""
    plain = Tree.model_json_schema()
    assert plain.get("type") != "object"
    schema = strict_schema(plain)
    assert schema["type"] == "object"
    assert schema["properties"]["parent"] == {"anyOf": [{"$ref": "#/$defs/Tree"}, {"type": "null"}]}


def test_strict_schema_does_not_modify_its_argument() -> None:
    """It is the user's."""
    schema = Tree.model_json_schema()
    strict_schema(schema)
    assert schema == Tree.model_json_schema()


def test_strict_schema_rewrites_a_single_all_of_and_one_of() -> None:
    """To keywords of strict mode."""
    schema = {
        "type": "object",
        "properties": {
            "a": {"allOf": [{"type": "string"}], "description": "d"},
            "b": {"oneOf": [{"type": "string"}, {"type": "null"}], "discriminator": {}},
        },
    }
    assert strict_schema(schema)["properties"] == {
        "a": {"type": "string", "description": "d"},
        "b": {"anyOf": [{"type": "string"}, {"type": "null"}]},
    }


def test_strict_schema_described_recursion_ends() -> None:
    """A reference to a schema that is being expanded stays a reference."""
    schema = {
        "type": "object",
        "properties": {"next": {"$ref": "#/$defs/N", "description": "d"}},
        "$defs": {"N": {"type": "object", "properties": {"n": {"$ref": "#/$defs/N", "description": "d"}}}},
    }
    inner = strict_schema(schema)["properties"]["next"]["properties"]["n"]
    assert inner == {"$ref": "#/$defs/N"}


def wrap(value: Any) -> dict[str, Any]:
    return {"type": "object", "properties": {"a": value}}


@pytest.mark.parametrize(
    ("schema", "says"),
    [
        ({"type": "array", "items": {"type": "string"}}, "an object at the top"),
        ({"type": "object"}, "the schema has keys of any name"),
        (
            wrap({"type": "object", "additionalProperties": {"type": "string"}}),
            r"schema\.a has keys of any name",
        ),
        (
            wrap({"type": "object", "patternProperties": {"x": {}}, "properties": {}}),
            "keys of any name",
        ),
        (wrap({}), r"schema\.a allows anything"),
        (wrap(True), r"schema\.a allows anything"),
        (wrap({"type": "array"}), "list of anything"),
        (wrap({"type": "array", "items": {}}), r"schema\.a\[\] allows anything"),
        (wrap({"type": "array", "prefixItems": [], "items": {"type": "string"}}), "tuple"),
        (wrap({"allOf": [{"type": "string"}, {"type": "string"}]}), "allOf"),
        (wrap({"$ref": "#/$defs/Gone", "description": "d"}), "Gone, which is not in the schema"),
    ],
)
def test_strict_schema_error_names_what_cannot_be_expressed(schema: dict[str, Any], says: str) -> None:
    """With its place."""
    with pytest.raises(ValueError, match=says):
        strict_schema(schema)


@pytest.mark.parametrize(
    ("schema", "says"),
    [
        ({"type": "string", "format": "uri"}, "the format 'uri'"),
        ({"type": "string", "format": "binary"}, "the format 'binary'"),
        ({"type": "string", "minLength": 1}, "minLength"),
        ({"type": "string", "pattern": r"^(?!0)\d+$"}, "looks around"),
        ({"type": "string", "pattern": r"(?<=a)b"}, "looks around"),
        ({"type": "array", "items": {"type": "string"}, "uniqueItems": True}, "uniqueItems"),
        ({"type": "array", "items": {"type": "string"}, "contains": {"const": "a"}}, "contains"),
        ({"not": {"type": "string"}}, "not"),
        ({"type": "string", "if": {"const": "a"}, "then": {}}, "if"),
        ({"type": "object", "properties": {}, "minProperties": 1}, "minProperties"),
        ({"type": "object", "properties": {}, "dependentRequired": {}}, "dependentRequired"),
        ({"type": "object", "properties": {}, "propertyNames": {}}, "propertyNames"),
        ({"type": "string", "x-mine": 1}, "x-mine"),
        ({"enum": [f"{i:0100}" for i in range(251)]}, "251 values"),
    ],
    ids=repr,
)
def test_strict_schema_error_names_an_unknown_keyword(schema: dict[str, Any], says: str) -> None:
    """At the top of a property, in a list and behind a reference."""
    for place in (schema, {"type": "array", "items": schema}, {"anyOf": [schema, {"type": "null"}]}):
        with pytest.raises(ValueError, match=f"(?s)schema.a.*{says}"):
            strict_schema(wrap(place))
    with pytest.raises(ValueError, match=says):
        strict_schema({**wrap({"$ref": "#/$defs/D"}), "$defs": {"D": schema}})


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "string", "format": "date-time", "pattern": "^[0-9]", "description": "d", "title": "t"},
        {"type": "integer", "minimum": 1, "maximum": 9, "multipleOf": 2},
        {"type": "number", "exclusiveMinimum": 1, "exclusiveMaximum": 9},
        {"type": "array", "items": {"type": "string"}, "minItems": 1, "maxItems": 3},
        {"enum": ["a", "b"]},
        {"const": "a"},
        {"type": ["string", "null"]},
    ],
    ids=repr,
)
def test_strict_schema_keeps_known_keywords(schema: dict[str, Any]) -> None:
    """Keywords that constrain nothing are left out."""
    beside = {"default": None, "examples": ["a"], "deprecated": True, "$comment": "c", "readOnly": True}
    assert strict_schema(wrap({**schema, **beside}))["properties"]["a"] == schema
    number = {"type": "number", "format": "double"}
    assert strict_schema(wrap(number))["properties"]["a"] == {"type": "number"}


def nested(depth: int) -> dict[str, Any]:
    return wrap(nested(depth - 1) if depth > 1 else {"type": "string"})


@pytest.mark.parametrize(
    ("schema", "says"),
    [
        (nested(11), "11th object in one another"),
        (
            {"type": "object", "properties": {f"p{i}": {"type": "string"} for i in range(5001)}},
            "5,001 properties, and strict mode takes 5,000",
        ),
        (wrap({"enum": list(range(1001))}), "1,001 values of enumerations"),
        (wrap({"const": "x" * 120_001}), "characters of names and values"),
    ],
)
def test_strict_schema_error_names_the_limit_exceeded(schema: dict[str, Any], says: str) -> None:
    """For a schema that is too large."""
    with pytest.raises(ValueError, match=says):
        strict_schema(schema)
    assert strict_schema(nested(10))


@pytest.mark.parametrize("odd", [{"properties": 5}, {"anyOf": 5}, {"allOf": []}, {"allOf": [1]}, {"$ref": 5}])
def test_strict_schema_refuses_a_malformed_schema(odd: dict[str, Any]) -> None:
    """With a ValueError."""
    with pytest.raises(ValueError, match="schema"):
        strict_schema(wrap({"description": "d", **odd}))


def doubling(beside: dict[str, Any]) -> dict[str, Any]:
    """Return thirty definitions, each of the next one twice: put in place, a thousand million."""
    definitions: dict[str, Any] = {"d30": {"type": "string"}}
    for i in range(30):
        reference = {"$ref": f"#/$defs/d{i + 1}", **beside}
        definitions[f"d{i}"] = {"anyOf": [reference, reference]}
    return {**wrap({"$ref": "#/$defs/d0", **beside}), "$defs": definitions}


def test_strict_schema_refuses_references_that_multiply() -> None:
    """Before they are expanded, if more than a description stands beside them."""
    with pytest.raises(ValueError, match="too large"):
        strict_schema(doubling({"pattern": "a"}))


def test_strict_schema_writes_references_that_multiply_once() -> None:
    """As definitions, without the descriptions."""
    schema = strict_schema(doubling({"description": "d", "title": "t", "default": None}))
    reference = {"$ref": "#/$defs/d1"}
    assert schema["properties"]["a"] == {"$ref": "#/$defs/d0"}
    assert schema["$defs"]["d0"] == {"anyOf": [reference, reference]}
    assert len(schema["$defs"]) == 31


def test_strict_schema_of_entities_that_refer_to_each_other_is_fast() -> None:
    """Each of ten refers to all others: expanded, there would be millions."""
    names = [f"E{i}" for i in range(10)]
    definitions = {
        name: {
            "type": "object",
            "properties": {
                other: {"$ref": f"#/$defs/{other}", "description": f"of {name}"}
                for other in names
                if other != name
            },
        }
        for name in names
    }
    schema = strict_schema({**wrap({"$ref": "#/$defs/E0"}), "$defs": definitions})
    assert schema["$defs"]["E0"]["properties"]["E9"] == {"$ref": "#/$defs/E9"}
