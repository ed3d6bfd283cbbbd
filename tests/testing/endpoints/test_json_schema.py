from __future__ import annotations

from datetime import date, datetime
from enum import Enum
from typing import Annotated, Any, Literal
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, Field, TypeAdapter

from batchrt.testing import UnsupportedSchemaError
from batchrt.testing.endpoints.json_schema import instance_of
from batchrt.testing.faults.seeded import SeededDice


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


class Cat(BaseModel):
    kind: Literal["cat"]
    lives: int = Field(ge=1, le=9)


class Dog(BaseModel):
    kind: Literal["dog"]
    tricks: list[str] = Field(min_length=1, max_length=3)


class Node(BaseModel):
    name: str = Field(min_length=2, max_length=5)
    children: list[Node]
    parent: Node | None = None


class Everything(BaseModel, extra="forbid"):
    text: str
    maybe: str | None
    colour: Colour
    pet: Cat | Dog = Field(discriminator="kind")
    share: float = Field(gt=0, lt=1)
    narrow: float = Field(gt=0.1, lt=0.2)
    even: int = Field(multiple_of=2, gt=10)
    below: int = Field(lt=-5)
    colours: set[Colour] = Field(min_length=2)
    pair: tuple[int, str]
    counts: dict[str, int]
    tree: Node
    day: date
    moment: datetime
    name: UUID
    flag: bool
    nothing: None
    long: str = Field(min_length=100)
    optional: int = 3
    either: Annotated[int, Field(ge=5)] | Literal["none"]


@given(seed=st.integers(0, 2**64 - 1))
def test_json_schema_instance_is_accepted_by_pydantic(seed: int) -> None:
    """For a model with nearly all of pydantic's types."""
    made = instance_of(Everything.model_json_schema(), SeededDice(seed))
    Everything.model_validate(made)


def test_json_schema_instance_is_deterministic() -> None:
    """And differs from seed to seed."""
    schema = Everything.model_json_schema()
    made = [instance_of(schema, SeededDice(seed)) for seed in range(20)]
    assert made == [instance_of(schema, SeededDice(seed)) for seed in range(20)]
    assert len({str(document) for document in made}) == 20


@pytest.mark.parametrize(
    ("schema", "python_type"),
    [
        ({"allOf": [{"properties": {"a": {"type": "integer"}}}, {"required": ["a"]}]}, dict),
        ({"type": ["string", "null"]}, str | None),
        ({"const": 5}, Literal[5]),
        ({"oneOf": [{"type": "null"}, {"type": "boolean"}]}, bool | None),
        ({}, str),
        ({"type": "array", "items": False}, list),
        ({"type": "object", "required": ["x"], "additionalProperties": {"type": "integer"}}, dict),
        ({"$ref": "#/$defs/a~1b", "$defs": {"a/b": {"type": "integer"}}}, int),
        ({"type": "object", "minProperties": 3}, dict),
    ],
)
def test_json_schema_keywords_give_their_types(schema: dict[str, Any], python_type: Any) -> None:
    """Each keyword gives a value of its type."""
    for seed in range(10):
        TypeAdapter(python_type).validate_python(instance_of(schema, SeededDice(seed)), strict=True)


def test_json_schema_instance_has_all_required_names() -> None:
    """Also names without a property of their own, and those that allOf adds."""
    schema = {"type": "object", "allOf": [{"required": ["a"]}, {"required": ["b"]}]}
    assert instance_of(schema, SeededDice(0)).keys() == {"a", "b"}
    assert len(instance_of({"type": "object", "minProperties": 3}, SeededDice(0))) == 3


def test_json_schema_recursion_ends_where_it_may() -> None:
    """A recursive schema ends at its first optional part, for any seed."""
    for seed in range(50):
        Node.model_validate(instance_of(Node.model_json_schema(), SeededDice(seed)))


@pytest.mark.parametrize(
    ("schema", "reason"),
    [
        ({"type": "string", "pattern": "^a+$"}, "pattern"),
        ({"$ref": "#"}, "circle"),
        ({"type": "object", "required": ["a"], "properties": {"a": {"$ref": "#"}}}, "without an"),
        ({"$ref": "https://example.com/schema"}, "outside"),
        ({"$ref": "#/$defs/none"}, "nowhere"),
        ({"type": "integer", "minimum": 5, "maximum": 4}, "bounds"),
        ({"type": "unknown"}, "not one of"),
        ({"type": "array", "uniqueItems": True, "minItems": 2, "items": {"const": 1}}, "different"),
        ({"type": "object", "properties": 5}, "no JSON Schema"),
        ({"enum": []}, "no JSON Schema"),
        ({"anyOf": []}, "empty"),
        (False, "false"),
    ],
)
def test_json_schema_unsupported_parts_are_refused_with_the_reason(schema: Any, reason: str) -> None:
    """Rather than a document that does not fit."""
    with pytest.raises(UnsupportedSchemaError, match=reason):
        instance_of(schema, SeededDice(0))


def test_json_schema_unsupported_alternatives_are_skipped() -> None:
    """AnyOf needs one that is supported: a Decimal is a number or a string with a pattern."""
    schema = {"anyOf": [{"type": "string", "pattern": "x"}, {"type": "integer"}]}
    assert all(isinstance(instance_of(schema, SeededDice(seed)), int) for seed in range(10))
