"""Chunks through each kind of runnable: which steps begin with the first, and what comes out."""

from __future__ import annotations

import operator
from collections.abc import AsyncIterator, Iterator, Mapping
from typing import Any

import anyio
import pytest

from batchrt import (
    AIMessage,
    ChatPromptTemplate,
    ConfigurableField,
    ListenedRun,
    PromptTemplate,
    RecursionLimitError,
    RouterRunnable,
    RunConfig,
    Runnable,
    RunnableBranch,
    RunnableGenerator,
    RunnableLambda,
    RunnableParallel,
    RunnablePassthrough,
    RunnablePick,
    StrOutputParser,
    chain,
)
from tests.runnables.helpers import everyway, total
from tests.runtime.harness import config

pytestmark = pytest.mark.anyio


class Source:
    """Give chunks when they are asked for, and count them."""

    def __init__(self, *chunks: Any) -> None:
        self.given = 0
        self._chunks = chunks

    async def __aiter__(self) -> AsyncIterator[Any]:
        for chunk in self._chunks:
            self.given += 1
            yield chunk


@chain
async def letters(text: str) -> AsyncIterator[str]:
    for letter in text:
        yield letter


async def upper(chunks: AsyncIterator[str]) -> AsyncIterator[str]:
    async for chunk in chunks:
        yield chunk.upper()


def lower(chunks: Iterator[str]) -> Iterator[str]:
    for chunk in chunks:
        yield chunk.lower()


async def streamed(runnable: Runnable[Any, Any], value: Any, *keys: Any) -> list[Any]:
    return [chunk async for chunk in runnable.astream(value, *keys)]


async def transformed(runnable: Runnable[Any, Any], chunks: Any, *keys: Any) -> list[Any]:
    return [chunk async for chunk in runnable.atransform(chunks, *keys)]


async def begins_early(runnable: Runnable[Any, Any], *chunks: Any) -> bool:
    """Whether the first chunk comes out before the last one was asked for."""
    last = anyio.Event()

    async def source() -> AsyncIterator[Any]:
        *others, end = chunks
        for chunk in others:
            yield chunk
        await last.wait()
        yield end

    found = False
    async with runnable.atransform(source()) as outputs:
        with anyio.move_on_after(0.2):
            await anext(outputs)
            found = True
    last.set()
    return found


# Steps that stream, and steps that do not


async def test_streams_of_a_step_that_cannot_have_one_chunk() -> None:
    """The output; chunks of its input are added up first."""

    async def length(text: str) -> int:
        return len(text)

    for function in (length, len):
        assert await streamed(RunnableLambda(function), "abc") == [3]
        assert await transformed(RunnableLambda(function), ["ab", "c"]) == [3]
        assert not await begins_early(RunnableLambda(function), "ab", "c")
    assert await transformed(RunnableLambda(lambda given: given), [{"a": "x"}, {"a": "y", "b": [1]}]) == [
        {"a": "xy", "b": [1]}
    ]


async def test_streams_without_a_chunk_of_input_give_a_step_none() -> None:
    """A stream of nothing is `None`, as its sum is."""
    assert await transformed(RunnableLambda(lambda given: [given]), []) == [[None]]
    assert await transformed(RunnablePassthrough(), []) == []
    with pytest.raises(TypeError, match="not NoneType"):
        await transformed(StrOutputParser(), [])


async def test_streams_refuse_an_input_that_is_no_iterator_of_chunks() -> None:
    """Text and dicts are inputs as a whole."""
    for given in ("text", {"a": 1}, 3):
        with pytest.raises(TypeError, match="must be an iterator of chunks"):
            RunnablePassthrough[Any]().atransform(given)  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="must be an iterator of chunks"):
            RunnablePassthrough[Any]().transform(given)  # type: ignore[arg-type]


async def test_streams_check_their_configuration_before_they_begin() -> None:
    """As every method does."""
    with pytest.raises(ValueError, match="no key 'nonsense'"):
        letters.astream("a", config(nonsense=1))
    with pytest.raises(ValueError, match="no key 'nonsense'"):
        letters.stream("a", config(nonsense=1))
    with pytest.raises(TypeError, match="takes no keyword argument 'nonsense'"):
        letters.astream("a", nonsense=1)


# Sequences


async def test_streams_of_a_sequence_flow_chunk_by_chunk() -> None:
    """Through generators, sync and async, the parser of text and what passes chunks on."""
    line = letters | upper | StrOutputParser() | lower | RunnablePassthrough()
    assert await streamed(line, "aBc") == ["a", "b", "c"]
    assert await everyway(line, "aBc") == "abc"
    assert await begins_early(RunnableGenerator(upper) | StrOutputParser() | lower, "a", "b")


async def test_streams_of_a_sequence_run_what_is_before_a_whole_input_as_it_is() -> None:
    """Where nothing can begin with the first chunk, a step is not streamed: `ainvoke` runs."""
    ways: list[str] = []

    class Model(Runnable[str, str]):
        async def ainvoke(self, input: str, config: Any = None, **_: Any) -> str:  # noqa: A002
            ways.append("ainvoke")
            return input

        async def astream(self, input: str, config: Any = None, **_: Any) -> Any:  # noqa: A002
            ways.append("astream")
            for letter in input:
                yield letter

    assert await streamed(Model() | StrOutputParser() | RunnableLambda(len), "ab") == [2]
    assert ways == ["ainvoke"]
    assert await streamed(Model() | StrOutputParser(), "ab") == ["a", "b"]
    assert await streamed(Model() | upper | RunnableLambda(len), "ab") == [2]
    assert ways == ["ainvoke", "astream", "astream"]


async def test_streams_of_a_sequence_go_on_behind_a_whole_input() -> None:
    """A step in the middle adds up; the ones behind it stream again."""
    line = letters | upper | RunnableLambda(lambda text: text + "!") | letters | lower
    assert await streamed(line, "Ab") == ["a", "b", "!"]


async def test_streams_of_prompts_are_one_chunk() -> None:
    """A prompt takes its whole input, also one that comes in chunks."""
    prompt = PromptTemplate.from_template("{a}-{b}")
    assert (await transformed(prompt, [{"a": "x"}, {"b": "y"}]))[0].to_string() == "x-y"
    chat = ChatPromptTemplate.from_template("{a}") | (lambda value: value.to_string())
    assert await transformed(chat, [{"a": "x"}, {"a": "y"}]) == ["Human: xy"]


# Parallels, assign, pick


async def test_streams_of_a_parallel_are_keyed_and_add_up_by_hand() -> None:
    """As LCEL's, chunks know `+`."""
    both = RunnableParallel[Any](a=letters, b=RunnableLambda(len))
    found = await streamed(both, "xy")
    assert sorted(map(str, found)) == ["{'a': 'x'}", "{'a': 'y'}", "{'b': 2}"]
    by_hand = found[0]
    for chunk in found[1:]:
        by_hand = by_hand + chunk
    assert by_hand == {"a": "xy", "b": 2} == total(found)
    assert {} + found[0] == found[0]


async def test_streams_of_a_parallel_have_none_for_a_branch_without_a_chunk() -> None:
    """As `ainvoke` has; in LCEL the key is missing."""
    both = RunnableParallel[Any](a=letters, b=RunnableLambda(len))
    assert await everyway(both, "") == {"a": None, "b": 0}
    assert {"a": None} in await streamed(both, "")
    assert await transformed(RunnableParallel[Any](a=upper, b=RunnablePassthrough()), []) == [
        {"a": None},
        {"b": None},
    ]


async def test_streams_of_a_parallel_give_each_branch_all_chunks() -> None:
    """Those that can begin with the first do."""
    both = RunnableParallel[Any](up=upper, low=lower, same=RunnablePassthrough(), size=RunnableLambda(len))
    found = await transformed(both, ["aB", "c"])
    for key, chunks in {"up": ["AB", "C"], "low": ["ab", "c"], "same": ["aB", "c"], "size": [3]}.items():
        assert [chunk[key] for chunk in found if key in chunk] == chunks
    assert await begins_early(both, "a", "b")


async def test_streams_of_assign_pass_the_input_on_at_once() -> None:
    """Its own fields come as they are computed, and win over the input's."""
    assign = RunnablePassthrough.assign(b=operator.itemgetter("a") | letters, c=lambda row: row["a"] + "!")
    found = await transformed(assign, [{"a": "x", "c": "old"}, {"a": "y"}])
    assert found[:2] == [{"a": "x"}, {"a": "y"}]
    assert total(found) == {"a": "xy", "b": "xy", "c": "xy!"}
    assert await everyway(assign, {"a": "xy", "c": "old"}) == {"a": "xy", "b": "xy", "c": "xy!"}
    assert await begins_early(assign, {"a": "x"}, {"a": "y"})
    inline = RunnablePassthrough.assign(b=operator.itemgetter("a"))
    assert await transformed(inline, [{"a": "x"}, {"a": "y"}]) == [{"a": "x"}, {"a": "y"}, {"b": "xy"}]


async def test_streams_of_assign_run_beside_the_input() -> None:
    """A field whose step works on chunks does not wait for the last one."""

    async def first(chunks: AsyncIterator[Mapping[str, str]]) -> AsyncIterator[str]:
        async for chunk in chunks:
            yield chunk["a"].upper()

    source = Source({"a": "x"}, {"a": "y"})
    assign = RunnablePassthrough.assign(b=first)
    assert total(await transformed(assign, source)) == {"a": "xy", "b": "XY"}
    last = anyio.Event()

    async def slow() -> AsyncIterator[Any]:
        yield {"a": "x"}
        await last.wait()

    async with assign.atransform(slow()) as chunks:
        assert total([await anext(chunks), await anext(chunks)]) == {"a": "x", "b": "X"}
        last.set()


async def test_streams_of_assign_and_pick_refuse_chunks_that_are_no_dicts() -> None:
    """As they refuse such an input."""
    for runnable in (RunnablePassthrough.assign(b=len), RunnablePick("a"), RunnablePick(["a"])):
        for chunks in (["text"], []):
            with pytest.raises(TypeError, match="take a dict"):
                await transformed(runnable, chunks)


async def test_streams_of_pick_select_from_each_chunk() -> None:
    """A key that a chunk lacks is left out of it."""
    chunks = [{"a": "x"}, {"b": 1}, {"a": "y", "c": 2}]
    assert await transformed(RunnablePick("a"), chunks) == ["x", "y"]
    assert total(await transformed(RunnablePick(["a", "c", "d"]), chunks)) == {"a": "xy", "c": 2}
    assert await transformed(RunnablePick("d"), chunks) == []
    assert await everyway(RunnablePick(["d"]), {"a": 1}) == {}


async def test_streams_of_passthrough_call_its_function_with_the_sum() -> None:
    """Behind the last chunk, and once."""
    seen: list[Any] = []
    assert await transformed(RunnablePassthrough(seen.append), ["a", "b"]) == ["a", "b"]
    assert seen == ["ab"]


async def test_streams_of_map_come_element_by_element_in_order() -> None:
    """Also where later elements are done first; an element's own chunks are added up."""
    turns = {name: anyio.Event() for name in "abc"}

    @chain
    async def leaf(name: str) -> AsyncIterator[str]:
        await turns[name].wait()
        yield name
        yield "!"

    turns["b"].set()
    turns["c"].set()
    found: list[Any] = []
    async with leaf.map().astream(list("abc")) as chunks:
        with anyio.move_on_after(0.05):
            await anext(chunks)
            pytest.fail("an element came before the first one")
    async with leaf.map().astream(list("abc")) as chunks:
        turns["a"].set()
        found = [chunk async for chunk in chunks]
    assert found == [["a!"], ["b!"], ["c!"]]
    assert await everyway(letters.map(), ["ab", "c"]) == ["ab", "c"]
    assert await everyway(letters.map(), []) == []


# Choices


async def test_streams_of_a_branch_are_those_of_the_one_that_is_chosen() -> None:
    """The conditions see the whole input."""
    branch = RunnableBranch[str, str](
        (lambda text: len(text) > 2, letters), (lambda text: text == "x", upper), lower
    )
    assert await streamed(branch, "abc") == ["a", "b", "c"]
    assert await transformed(branch, ["a", "bc"]) == ["a", "b", "c"]
    assert await streamed(branch, "x") == ["X"]
    assert await streamed(branch, "Y") == ["y"]


async def test_streams_of_a_router_and_of_alternatives_are_those_of_the_chosen_one() -> None:
    """And of runnables with replaced fields and listeners."""
    router = RouterRunnable[str]({"letters": letters, "upper": RunnableGenerator(upper)})
    assert await streamed(router, {"key": "letters", "input": "ab"}) == ["a", "b"]
    with pytest.raises(LookupError, match="no runnable"):
        await streamed(router, {"key": "none", "input": "ab"})
    which = letters.configurable_alternatives(ConfigurableField("how"), upper=RunnableGenerator(upper))
    assert await streamed(which, "ab") == ["a", "b"]
    assert await streamed(which, "ab", config(configurable={"how": "upper"})) == ["AB"]
    with pytest.raises(ValueError, match="the alternatives are"):
        await streamed(which, "ab", config(configurable={"how": "other"}))


async def test_streams_tell_listeners_of_the_sum() -> None:
    """The start before the first chunk, the end when the last one was made, and an error."""
    runs: list[ListenedRun] = []
    told: list[str] = []

    def end(run: ListenedRun) -> None:
        told.append("end")
        runs.append(run)

    listened = letters.with_listeners(
        on_start=lambda _: told.append("start"), on_end=end, on_error=lambda _: told.append("error")
    )
    async for chunk in listened.astream("ab"):
        told.append(chunk)
    assert [note for note in told if note != "end"] == ["start", "a", "b"]
    assert [run.outputs for run in runs] == ["ab"]

    @chain
    async def failing(_: Any) -> AsyncIterator[str]:
        yield "x"
        raise ValueError("late")

    told.clear()
    with pytest.raises(ValueError, match="late"):
        await streamed(failing.with_listeners(on_error=lambda run: told.append(str(run.error))), "")
    assert told == ["late"]


class FailingOnce:
    """Fail before the first chunk, `times` times, or behind it."""

    def __init__(self, times: int, *, late: bool = False) -> None:
        self.calls = 0
        self._times = times
        self._late = late

    async def __call__(self, text: str) -> AsyncIterator[str]:
        self.calls += 1
        fails = self.calls <= self._times
        if fails and not self._late:
            raise ValueError(f"call {self.calls}")
        yield text
        if fails:
            raise ValueError(f"call {self.calls}, late")


async def test_streams_fall_back_before_the_first_chunk_only() -> None:
    """An error behind it is raised behind it."""
    early = RunnableLambda(FailingOnce(1)).with_fallbacks([letters])
    assert await streamed(early, "ab") == ["a", "b"]
    assert await streamed(early, "ab") == ["ab"]
    late = RunnableLambda(FailingOnce(1, late=True)).with_fallbacks([letters])
    chunks = late.astream("ab")
    assert await anext(chunks) == "ab"
    with pytest.raises(ValueError, match="call 1, late"):
        await anext(chunks)


async def test_streams_fall_back_with_the_error_under_its_key() -> None:
    """If all fail, the first error is raised; a stream without a chunk is no failure."""

    @chain
    async def second(row: Mapping[str, Any]) -> AsyncIterator[str]:
        yield str(row["error"])

    row = {"text": "a"}
    first = RunnableLambda(FailingOnce(9))
    assert await transformed(first.with_fallbacks([second], exception_key="error"), [row]) == ["call 1"]
    with pytest.raises(ValueError, match="call 2"):
        await streamed(first.with_fallbacks([RunnableLambda(FailingOnce(9))]), "x")
    assert await streamed(letters.with_fallbacks([second]), "") == []


async def test_streams_are_retried_before_the_first_chunk_only() -> None:
    """In LCEL they never are."""
    flaky = FailingOnce(2)
    retried = RunnableLambda(flaky).with_retry(wait_exponential_jitter=False)
    assert await streamed(retried, "a") == ["a"]
    assert flaky.calls == 3
    with pytest.raises(ValueError, match="call 3"):
        await streamed(RunnableLambda(FailingOnce(9)).with_retry(wait_exponential_jitter=False), "a")
    late = FailingOnce(1, late=True)
    with pytest.raises(ValueError, match="call 1, late"):
        await streamed(RunnableLambda(late).with_retry(wait_exponential_jitter=False), "a")
    assert late.calls == 1


# Functions


async def test_streams_of_a_function_that_returns_a_runnable_are_that_ones() -> None:
    """With the depth counted, as without streaming."""

    async def choose(text: str) -> Any:
        return letters if len(text) > 1 else RunnableLambda(lambda inner: inner * 3)

    assert await streamed(RunnableLambda(choose), "ab") == ["a", "b"]
    assert await streamed(RunnableLambda(lambda _: RunnableGenerator(upper)), "ab") == ["AB"]
    assert await streamed(RunnableLambda(choose), "a") == ["aaa"]

    async def again(_: str) -> Any:
        return RunnableLambda(again)

    with pytest.raises(RecursionLimitError):
        await streamed(RunnableLambda(again), "a", config(recursion_limit=3))


async def test_streams_of_a_bound_runnable_have_its_arguments_and_configuration() -> None:
    """By `bind`, `with_config` and `with_types`."""

    @chain
    async def leaf(text: str, config: RunConfig, end: str = "") -> AsyncIterator[str]:
        yield text
        yield end + ",".join(config["tags"])

    assert await streamed(leaf.bind(end="!"), "a") == ["a", "!"]
    bound = leaf.with_config(tags=["t"]).with_types(output_type=str)
    assert await streamed(bound, "a") == ["a", "t"]
    assert await streamed(RunnablePassthrough[Any]() | bound.bind(end="!"), "a", config(tags=["s"])) == [
        "a",
        "!t,s",
    ]
    assert await transformed(RunnableGenerator(upper).with_config(tags=["t"]), ["a", "b"]) == ["A", "B"]


async def test_streams_of_list_steps_send_one_item() -> None:
    """As `ainvoke` does; items of `astream_batch` meet."""
    sizes: list[int] = []

    class Lists(Runnable[int, int]):
        async def abatch_native(self, inputs: list[int]) -> list[int]:
            sizes.append(len(inputs))
            return [value + 1 for value in inputs]

    line = Lists() | RunnablePassthrough()
    assert await streamed(line, 1) == [2]
    assert sizes == [1]
    assert sorted([pair async for pair in line.astream_batch([1, 2, 3])]) == [(0, 2), (1, 3), (2, 4)]
    assert sizes == [1, 3]


# Classes of the user's own


async def test_streams_of_a_class_by_the_method_that_it_overrides() -> None:
    """Each of the four is used in a chain, by batch methods and by each other."""

    class ATransform(Runnable[str, str]):
        async def atransform(self, input: Any, config: Any = None, **_: Any) -> Any:  # noqa: A002
            async for chunk in input:
                yield chunk.upper()

    class Transform(Runnable[str, str]):
        def transform(self, input: Any, config: Any = None, **_: Any) -> Any:  # noqa: A002
            for chunk in input:
                yield chunk.upper()

    class AStream(Runnable[str, str]):
        async def astream(self, input: str, config: Any = None, **_: Any) -> Any:  # noqa: A002
            for letter in input:
                yield letter.upper()

    class Stream(Runnable[str, str]):
        def stream(self, input: str, config: Any = None, **_: Any) -> Any:  # noqa: A002
            for letter in input:
                yield letter.upper()

    for kind in (ATransform, Transform, AStream, Stream):
        line = letters | kind() | lower
        assert await streamed(line, "aB") == ["a", "b"], kind
        assert await everyway(kind() | RunnablePassthrough(), "aB") == "AB"
        assert await kind().ainvoke("ab") == "AB"
        assert await kind().abatch(["ab"]) == ["AB"]
    for kind in (ATransform, Transform):
        assert await transformed(RunnablePassthrough[Any]() | kind(), ["a", "b"]) == ["A", "B"]


async def test_streams_of_a_class_may_build_on_the_inherited_method() -> None:
    """`super().astream` is the stream of the other methods."""

    class Marked(Runnable[str, str]):
        async def ainvoke(self, input: str, config: Any = None, **_: Any) -> str:  # noqa: A002
            return input.upper()

        async def astream(self, input: str, config: Any = None, **kwargs: Any) -> Any:  # noqa: A002
            async for chunk in super().astream(input, config, **kwargs):
                yield chunk
            yield "!"

    assert await streamed(Marked(), "a") == ["A", "!"]
    assert await streamed(Marked() | RunnablePassthrough(), "a") == ["A", "!"]
    assert await Marked().ainvoke("a") == "A"


async def test_streams_of_a_class_that_overrides_ainvoke_alone_have_one_chunk() -> None:
    """The override's, for a subclass of a runnable that streams too."""

    class Loud(RunnableGenerator[str, str]):
        async def ainvoke(self, input: str, config: Any = None, **_: Any) -> str:  # noqa: A002
            return input + "!"

    assert await streamed(Loud(upper), "ab") == ["ab!"]


# Messages


async def test_streams_of_the_text_parser_take_messages_and_text() -> None:
    """Chunks without text are left out, but for an output without any."""
    messages = [AIMessage(content="a"), AIMessage(content=""), AIMessage(content="b")]
    assert await transformed(StrOutputParser(), messages) == ["a", "b"]
    assert await transformed(StrOutputParser(), ["a", "", "b"]) == ["a", "b"]
    assert await transformed(StrOutputParser(), [AIMessage(content="")]) == [""]
    with pytest.raises(TypeError, match="not int"):
        await transformed(StrOutputParser(), [3])
