"""OpenAI behind servers that do not take lists, or not as they should."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import anyio
import httpx
import pytest

from batchrt.errors import BadRequestError, BatchError, MalformedResponseError, ServerError
from batchrt.providers.completions.model import OpenAI
from batchrt.testing import Fault, FaultPlan
from tests.providers.completions.completing import PATIENT, completion, echo, model_of, on_mock_clock

pytestmark = pytest.mark.anyio

PROMPTS = [f"p{i}" for i in range(30)]
TEXTS = [f"<{prompt}>" for prompt in PROMPTS]


class Server:
    """Answers single prompts, and lists as `answer` says; counts what it was asked."""

    def __init__(self, answer: Callable[[list[str]], httpx.Response]) -> None:
        self.lists: list[list[str]] = []
        self.singles: list[str] = []
        self.peak = 0
        self._answer = answer
        self._busy = 0

    async def handle(self, request: httpx.Request) -> httpx.Response:
        prompt = json.loads(request.content)["prompt"]
        self._busy += 1
        self.peak = max(self.peak, self._busy)
        await anyio.sleep(0.1)
        self._busy -= 1
        if isinstance(prompt, list):
            self.lists.append(prompt)
            return self._answer(prompt)
        self.singles.append(prompt)
        return self.single(prompt)

    def single(self, prompt: str) -> httpx.Response:
        return completion([f"<{prompt}>"])

    def model(self, **options: Any) -> OpenAI[str]:
        transport = httpx.MockTransport(self.handle)
        options = {**PATIENT, **options}
        return OpenAI("m", base_url="http://mock/v1", api_key="", transport=transport, **options)


def error(status: int, message: str = "no", **fields: Any) -> httpx.Response:
    return httpx.Response(status, json={"error": {"message": message, **fields}})


REFUSALS: dict[str, Callable[[list[str]], httpx.Response]] = {
    "llama-cpp-python": lambda _: error(500, "prompt: expected a string", type="internal_server_error"),
    "transformers": lambda _: error(400, "list"),
    "FastAPI": lambda _: httpx.Response(422, json={"detail": [{"loc": ["body", "prompt"], "msg": "str"}]}),
    "not implemented": lambda _: error(501),
    "an error in a 200": lambda _: error(200, "Unexpected endpoint or method."),
    "merged": lambda prompts: completion([" ".join(prompts)]),
    "the first alone": lambda prompts: completion(prompts[:1]),
    "indexes of something else": lambda prompts: httpx.Response(
        200, json={"choices": [{"text": p, "index": i + 7} for i, p in enumerate(prompts)]}
    ),
    "the same index": lambda prompts: httpx.Response(
        200, json={"choices": [{"text": p, "index": 0} for p in prompts]}
    ),
    "too many": lambda prompts: completion([*prompts, "x"]),
    "html": lambda _: httpx.Response(200, text="<html>"),
}


def test_list_support_a_list_without_indexes_is_in_order() -> None:
    """As many texts as prompts, and nothing that says otherwise: they were paid for."""

    def answer(prompts: list[str]) -> httpx.Response:
        return httpx.Response(200, json={"choices": [{"text": f"<{prompt}>"} for prompt in prompts]})

    server = Server(answer)

    async def main() -> None:
        assert await server.model().abatch(PROMPTS) == TEXTS
        assert not server.singles

    on_mock_clock(main)


@pytest.mark.parametrize("answer", REFUSALS.values(), ids=REFUSALS.keys())
def test_list_support_a_server_without_lists_gets_single_prompts(
    answer: Callable[[list[str]], httpx.Response],
) -> None:
    """The right texts, from the first run on; and no list is tried again."""
    server = Server(answer)

    async def main() -> None:
        model = server.model()
        assert await model.abatch(PROMPTS, {"max_concurrency": 5}) == TEXTS
        assert sorted(server.singles) == sorted(PROMPTS)
        tried = len(server.lists)
        assert 1 <= tried <= 2 * 3  # two lists, at most three attempts
        assert await model.abatch(PROMPTS) == TEXTS
        assert await model.bind().ainvoke("x") == "<x>"
        assert len(server.lists) == tried

    on_mock_clock(main)


def test_list_support_single_prompts_run_at_the_same_time() -> None:
    """With the fall-back in place all is as with lists of one: a slot for each, as many as there are."""
    server = Server(REFUSALS["transformers"])

    async def main() -> float:
        model = server.model()
        _, first = await timed(lambda: model.abatch(PROMPTS, {"max_concurrency": 10}))
        _, second = await timed(lambda: model.abatch(PROMPTS, {"max_concurrency": 10}))
        _, plain = await timed(
            lambda: server.model(max_batch_size=1).abatch(PROMPTS, {"max_concurrency": 10})
        )
        assert first == pytest.approx(0.1 + 0.3)  # a refusal, then three rounds
        assert second == pytest.approx(plain) == pytest.approx(0.3)
        return first

    on_mock_clock(main)
    assert server.peak == 10


async def timed(function: Callable[[], Any]) -> tuple[Any, float]:
    start = anyio.current_time()
    return await function(), anyio.current_time() - start


def test_list_support_a_guilty_prompt_does_not_end_lists() -> None:
    """A permanent error for the sake of one prompt, in the very first list: the next goes as a list."""
    for status in (400, 500):

        class Touchy(Server):
            def single(self, prompt: str, status: int = status) -> httpx.Response:
                return error(status) if prompt == "p3" else super().single(prompt)

        def answer(prompts: list[str], status: int = status) -> httpx.Response:
            return error(status) if "p3" in prompts else completion([f"<{p}>" for p in prompts])

        server = Touchy(answer)

        async def main(server: Server = server) -> None:
            model = server.model()
            outputs: list[Any] = await model.abatch(PROMPTS[:20], return_exceptions=True)
            assert [i for i, output in enumerate(outputs) if isinstance(output, Exception)] == [3]
            assert isinstance(outputs[3], BadRequestError | ServerError)
            server.lists.clear()
            assert await model.abatch(PROMPTS[20:]) == TEXTS[20:]
            assert server.lists == [PROMPTS[20:]]

        on_mock_clock(main)


def test_list_support_a_prompt_that_was_cancelled_proves_nothing() -> None:
    """The one that is missing may have been the guilty one."""

    class Slow(Server):
        async def handle(self, request: httpx.Request) -> httpx.Response:
            if json.loads(request.content)["prompt"] == "p1":
                await anyio.sleep(1000)
            return await super().handle(request)

    server = Slow(REFUSALS["transformers"])

    async def main() -> None:
        model = server.model()
        outputs = await model.abatch(PROMPTS[:4], {"timeout": 10}, return_exceptions=True)
        assert [isinstance(output, BatchError) for output in outputs] == [False, True, False, False]
        assert len(server.lists) == 1
        await model.abatch(["a", "b"])
        assert len(server.lists) == 2
        await model.abatch(["a", "b"])
        assert len(server.lists) == 2  # now it is proved

    on_mock_clock(main)


def test_list_support_while_in_doubt_no_item_waits_for_a_list() -> None:
    """What comes while the first list's prompts are sent alone goes alone too."""

    class Slow(Server):
        async def handle(self, request: httpx.Request) -> httpx.Response:
            if json.loads(request.content)["prompt"] == "p0":
                await anyio.sleep(100)
            return await super().handle(request)

    server = Slow(REFUSALS["transformers"])

    async def main() -> None:
        model = server.model()
        async with anyio.create_task_group() as group:
            group.start_soon(model.abatch, PROMPTS[:4])
            await anyio.sleep(50)
            assert await model.abatch(["a", "b"]) == ["<a>", "<b>"]
        assert server.lists == [PROMPTS[:4]]

    on_mock_clock(main)


def test_list_support_without_retries_one_moment_proves_nothing() -> None:
    """A list that failed once may have met the moment; two that did did not."""
    bad = iter([error(500)])
    server = Server(lambda prompts: next(bad, None) or completion([f"<{p}>" for p in prompts]))

    async def main() -> None:
        model = server.model(max_retries=0)
        for _ in range(3):
            assert await model.abatch(PROMPTS[:4]) == TEXTS[:4]
        assert server.lists == [PROMPTS[:4]] * 3
        stubborn = Server(REFUSALS["llama-cpp-python"])
        model = stubborn.model(max_retries=0)
        for _ in range(4):
            assert await model.abatch(PROMPTS[:4]) == TEXTS[:4]
        assert stubborn.lists == [PROMPTS[:4]] * 2

    on_mock_clock(main)


def test_list_support_a_refusal_counts_for_its_options() -> None:
    """A server may take lists of one kind of request only."""

    def answer(prompts: list[str]) -> httpx.Response:
        return completion([f"<{p}>" for p in prompts])

    class Picky(Server):
        async def handle(self, request: httpx.Request) -> httpx.Response:
            body = json.loads(request.content)
            if "logprobs" in body and isinstance(body["prompt"], list):
                self.lists.append(body["prompt"])
                return error(400)
            return await super().handle(request)

    server = Picky(answer)

    async def main() -> None:
        model = server.model()
        for logprobs in (1, 2):
            assert await model.bind(logprobs=logprobs).abatch(["a", "b"]) == ["<a>", "<b>"]
        assert server.lists == [["a", "b"]]
        assert await model.abatch(["c", "d"]) == ["<c>", "<d>"]
        assert server.lists == [["a", "b"], ["c", "d"]]

    on_mock_clock(main)


def test_list_support_a_server_that_says_how_many_it_takes_gets_so_many() -> None:
    """From then on; not one by one."""

    def answer(prompts: list[str]) -> httpx.Response:
        if len(prompts) > 8:
            return error(400, f"expected an array with maximum length 8, but got length {len(prompts)}")
        return completion([f"<{p}>" for p in prompts])

    server = Server(answer)

    async def main() -> None:
        model = server.model()
        assert await model.abatch(PROMPTS[:20]) == TEXTS[:20]
        assert (server.lists[0:1], sorted(map(len, server.lists[1:]))) == ([PROMPTS[:20]], [4, 8, 8])
        server.lists.clear()
        assert await model.abatch(PROMPTS[:20]) == TEXTS[:20]
        assert sorted(len(prompts) for prompts in server.lists) == [4, 8, 8]
        assert not server.singles

    on_mock_clock(main)


def test_list_support_a_number_in_an_error_is_no_limit_of_lists() -> None:
    """Only one beside the number of prompts there were."""
    server = Server(lambda _: error(400, "temperature must be at most 2"))

    async def main() -> None:
        model = server.model()
        assert await model.abatch(PROMPTS[:4]) == TEXTS[:4]
        assert [len(prompts) for prompts in server.lists] == [4]

    on_mock_clock(main)


def test_list_support_an_answer_over_the_limit_is_halved() -> None:
    """That is our own limit, and says nothing about the server."""
    server = Server(lambda prompts: completion([p * 200 for p in prompts]))
    server.single = lambda prompt: completion([prompt * 200])  # type: ignore[method-assign]

    async def main() -> None:
        model = server.model(max_response_bytes=4_000)
        wanted = [prompt * 200 for prompt in PROMPTS[10:20]]
        assert await model.abatch(PROMPTS[10:20]) == wanted
        assert [len(prompts) for prompts in server.lists] == [10, 5, 5]

    on_mock_clock(main)


# The mock's own


@pytest.mark.parametrize("server", ["llama-cpp-python", "openai", "vllm", "llama-server"])
def test_list_support_known_servers(server: Any) -> None:
    """As the mock plays them."""
    provider = echo(server=server)

    async def main() -> None:
        model = model_of(provider)
        assert await model.abatch(PROMPTS) == TEXTS
        provider.log.reset()
        assert await model.abatch(PROMPTS) == TEXTS

    on_mock_clock(main)
    assert provider.log.snapshot().requests == (30 if server == "llama-cpp-python" else 2)
    assert provider.log.snapshot().by_status == {200: provider.log.snapshot().requests}


OF_LISTS = [fault for fault in Fault if fault.of_lists]


@pytest.mark.parametrize("fault", OF_LISTS, ids=lambda fault: fault.value)
@pytest.mark.parametrize("always", [True, False])
def test_list_support_defects_of_lists(fault: Fault, always: bool) -> None:
    """Whether a server has them always or now and then: the right texts, or a clear error."""
    plan = FaultPlan({fault: 1.0 if always else 0.3}, max_consecutive=None if always else 2)
    provider = echo(faults=plan)

    async def main() -> list[Any]:
        model = model_of(provider)
        outputs: list[Any] = await model.abatch(PROMPTS, {"max_concurrency": 2}, return_exceptions=True)
        return outputs

    outputs, _ = on_mock_clock(main)
    # A server that gives a single prompt no text, or two, gives nothing that could be trusted.
    hopeless = always and fault in (Fault.SHORT_LIST, Fault.LONG_LIST)
    for output, text in zip(outputs, TEXTS, strict=True):
        if hopeless:
            assert isinstance(output, MalformedResponseError)
        elif isinstance(output, Exception):
            assert not always
            assert isinstance(output, BatchError)
        else:
            assert output == text


def test_list_support_everything_at_once() -> None:
    """Each prompt gets its own text or an error, whatever goes wrong."""
    plan = FaultPlan.everything(0.3, stall_seconds=1)
    provider = echo(faults=plan, reject=lambda text: text == "p7")

    async def main() -> list[Any]:
        model = model_of(provider, max_batch_size=4)
        outputs: list[Any] = await model.abatch(PROMPTS * 10, {"max_concurrency": 3}, return_exceptions=True)
        return outputs

    outputs, _ = on_mock_clock(main)
    assert len(outputs) == 300
    for output, prompt in zip(outputs, PROMPTS * 10, strict=True):
        assert output == f"<{prompt}>" or isinstance(output, BatchError)
    assert sum(isinstance(output, str) for output in outputs) > 200


@pytest.mark.parametrize("guilty", [(), ("p0",), ("p0", "p29")])
async def test_list_support_a_mixture_on_every_loop(guilty: tuple[str, ...]) -> None:
    """A list server with guilty prompts, and one without lists."""
    for server in ("openai", "llama-cpp-python"):
        provider = echo(server=server, reject=lambda text: text in guilty)
        model = model_of(provider, max_retries=0)
        for _ in range(3):
            outputs = await model.abatch(PROMPTS, return_exceptions=True)
            for prompt, output in zip(PROMPTS, outputs, strict=True):
                assert isinstance(output, BadRequestError) if prompt in guilty else output == f"<{prompt}>"


def together(ask: Callable[[str], Any], prompts: list[str]) -> dict[str, Any]:
    """Ask for each prompt in a run of its own, at the same time, as a service's requests do."""
    got: dict[str, Any] = {}

    async def main() -> None:
        async def one(prompt: str) -> None:
            try:
                got[prompt] = await ask(prompt)
            except BatchError as failure:
                got[prompt] = failure

        async with anyio.create_task_group() as group:
            for prompt in prompts:
                group.start_soon(one, prompt)

    on_mock_clock(main)
    return got


LINGERS = {"linger": 0.005, "max_linger": 0.05}


def test_list_support_lists_are_shared_by_runs_if_asked() -> None:
    """Without the option each goes alone."""
    server = Server(lambda prompts: completion([f"<{prompt}>" for prompt in prompts]))
    model = server.model(share_lists=True, **LINGERS)
    assert together(model.ainvoke, PROMPTS) == dict(zip(PROMPTS, TEXTS, strict=True))
    assert [len(prompts) for prompts in server.lists] == [20, 10]
    assert together(server.model(**LINGERS).ainvoke, PROMPTS) == dict(zip(PROMPTS, TEXTS, strict=True))
    assert len(server.singles) == 30


@pytest.mark.parametrize("answer", REFUSALS.values(), ids=REFUSALS.keys())
def test_list_support_lists_that_runs_share_are_given_up_where_they_are_not_taken(
    answer: Callable[[list[str]], httpx.Response],
) -> None:
    """Each run has its text all the same."""
    server = Server(answer)
    model = server.model(share_lists=True, max_retries=0, **LINGERS)
    assert together(model.ainvoke, PROMPTS) == dict(zip(PROMPTS, TEXTS, strict=True))
    assert together(model.ainvoke, PROMPTS) == dict(zip(PROMPTS, TEXTS, strict=True))


def test_list_support_lists_that_runs_share_leave_others_alone() -> None:
    """A prompt that is refused fails its own run; options of another kind have lists of their own."""

    def refuse(prompts: list[str]) -> httpx.Response:
        if "p7" in prompts:
            return error(400, "p7 is not allowed")
        return completion([f"<{prompt}>" for prompt in prompts])

    server = Server(refuse)
    server.single = lambda prompt: refuse([prompt])  # type: ignore[method-assign]
    got = together(server.model(share_lists=True, **LINGERS).ainvoke, PROMPTS)
    assert isinstance(got.pop("p7"), BadRequestError)
    assert got == {prompt: f"<{prompt}>" for prompt in PROMPTS if prompt != "p7"}
    model = server.model(share_lists=True, **LINGERS)
    server.lists.clear()
    hot, cold = model.bind(temperature=1), model.bind(temperature=0)
    assert together(lambda p: (hot if p < "p2" else cold).ainvoke(p), ["p0", "p1", "p2", "p3"]) == {
        f"p{i}": f"<p{i}>" for i in range(4)
    }
    assert sorted(map(sorted, server.lists)) == [["p0", "p1"], ["p2", "p3"]]
