"""What a runnable tells of itself: the names that it has not."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Mapping

import pytest

from batchrt import ChatOpenAI, ChatPromptTemplate, Runnable, RunnableLambda

CHAIN: Runnable[Mapping[str, str], str] = ChatPromptTemplate.from_template("{x}") | RunnableLambda(repr)
LEFT_OUT = [
    ("astream_events", "with_listeners is told of each step"),
    ("stream_events", "a generator function in the chain sees each chunk"),
    ("astream_log", "beside RunnablePassthrough"),
    ("as_tool", "bind_tools takes functions"),
    ("with_alisteners", "with_listeners takes async functions too"),
    ("config_schema", "configurable_fields"),
    ("config_specs", "configurable_fields"),
    ("get_config_jsonschema", "configurable_fields"),
    ("get_prompts", "get_graph"),
]


@pytest.mark.parametrize(("name", "way"), LEFT_OUT)
def test_introspection_says_what_to_use_in_place_of_names_that_are_left_out(name: str, way: str) -> None:
    """They are absent to code that tries, as LangChain's and people's duck typing does."""
    for runnable in (
        CHAIN,
        RunnableLambda(str),
        ChatOpenAI("m", api_key="k"),
        CHAIN.bind(),
        CHAIN.with_retry(),
    ):
        assert not hasattr(runnable, name)
        with pytest.raises(AttributeError, match=f"has no '{name}': .*{way}") as caught:
            getattr(runnable, name)
        assert (caught.value.name, caught.value.obj) == (name, runnable)


def test_introspection_leaves_other_missing_names_as_they_are() -> None:
    """The error is Python's own, and a property's keeps its reason."""

    class Broken(Runnable[str, str]):
        @property
        def value(self) -> str:
            raise AttributeError("the true reason")

    with pytest.raises(AttributeError, match="'Broken' object has no attribute 'nothing'"):
        _ = Broken().nothing  # type: ignore[attr-defined]
    with pytest.raises(AttributeError, match="the true reason"):
        _ = Broken().value


def test_introspection_does_not_disturb_copies_and_pickles() -> None:
    """Both look for methods that objects may lack, on objects without their attributes yet."""
    for same in (copy.copy(CHAIN), copy.deepcopy(CHAIN), pickle.loads(pickle.dumps(CHAIN))):
        assert same.invoke({"x": "hi"}) == CHAIN.invoke({"x": "hi"})
