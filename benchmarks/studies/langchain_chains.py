"""LangChain's chains on both runtimes, its own and this one.

A retrieval chain over a FAISS index, an agent with two tools and a chain with branches, each by its own
`abatch`, by `from_langchain`, and by `from_langchain(native=True)`, against a mock on a core of its own whose
chat answers take 0.2 s. Needs `langchain`, `langchain-community` and `faiss-cpu` besides the extra
`langchain`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
import warnings
from collections.abc import Callable
from importlib.metadata import version
from operator import itemgetter
from typing import Any

from benchmarks.harness.isolation import SERVER_CORE, announced

LATENCY = 0.2
CAP = 50


def rag(model: Any, base_url: str) -> Any:
    """Return a retrieval chain over a vector store."""
    from langchain_community.vectorstores import FAISS
    from langchain_core.output_parsers import StrOutputParser
    from langchain_core.prompts import ChatPromptTemplate
    from langchain_core.runnables import RunnablePassthrough

    from batchrt.integrations.langchain import BatchOpenAIEmbeddings

    embeddings = BatchOpenAIEmbeddings("text-embedding-3-small", base_url=base_url, api_key="k")
    store = FAISS.from_texts([f"Fact {n} about topic {n % 7}." for n in range(200)], embeddings)
    prompt = ChatPromptTemplate.from_template("Answer from {context}: {question}")

    def joined(documents: Any) -> str:
        return "\n".join(document.page_content for document in documents)

    retriever = store.as_retriever(search_kwargs={"k": 3})
    return (
        {"context": itemgetter("q") | retriever | joined, "question": itemgetter("q") | RunnablePassthrough()}
        | prompt
        | model
        | StrOutputParser()
    )


def branches(model: Any, base_url: str) -> Any:  # noqa: ARG001
    """Return a chain that routes, asks twice at the same time, and joins."""
    from langchain_core.output_parsers import StrOutputParser
    from langchain_core.prompts import ChatPromptTemplate
    from langchain_core.runnables import RunnableBranch, RunnableLambda, RunnableParallel, RunnablePassthrough

    def ask(text: str) -> Any:
        return ChatPromptTemplate.from_template(text + " {q}") | model | StrOutputParser()

    route = RunnableBranch(
        (lambda row: row["n"] % 2 == 0, RunnableParallel(pro=ask("For:"), con=ask("Against:"))),
        RunnableParallel(pro=ask("Praise:"), con=ask("Criticize:")),
    )
    return RunnablePassthrough.assign(views=route) | RunnableLambda(
        lambda row: row["views"]["pro"] + row["views"]["con"]
    )


def agent(model: Any, base_url: str) -> Any:  # noqa: ARG001
    """Return an agent that calls two tools and then answers."""
    from langchain.agents import create_agent
    from langchain_core.runnables import RunnableLambda
    from langchain_core.tools import tool

    @tool
    def weather(city: str) -> str:
        """Return the weather in a city."""
        return f"sunny in {city}"

    @tool
    async def population(city: str) -> int:
        """Return the number of people in a city."""
        return len(city) * 1000

    def last(state: Any) -> str:
        return str(state["messages"][-1].content)

    ask = RunnableLambda(lambda row: {"messages": [("human", row["q"])]})
    return ask | create_agent(model, [weather, population]) | last


CHAINS: dict[str, tuple[Callable[[Any, str], Any], int]] = {
    "rag": (rag, 1),
    "branches": (branches, 2),
    "agent": (agent, 2),
}
"""With the model's answers that an item waits for."""


async def measure(name: str, items: int, base_url: str) -> None:
    from langchain_openai import ChatOpenAI

    from batchrt.integrations.langchain import BatchChatOpenAI, from_langchain

    build, calls = CHAINS[name]
    options: dict[str, Any] = {"model": "gpt-5-mini", "api_key": "k", "base_url": base_url}
    theirs = build(ChatOpenAI(**options), base_url)
    # An agent keeps its model to itself, so that it is given ours.
    native = build(BatchChatOpenAI(**options), base_url)
    rows = [{"q": f"question {n}", "n": n} for n in range(items)]
    config: Any = {"max_concurrency": CAP}
    ideal = items * calls * LATENCY / CAP
    outputs = []
    for contender, run in (
        ("from_langchain(native=True)", from_langchain(native, native=True)),
        ("from_langchain", from_langchain(theirs)),
        ("LangChain's abatch", theirs),
    ):
        await run.abatch(rows[:CAP], config)
        wall, cpu = time.perf_counter(), time.process_time()
        outputs.append(await run.abatch(rows, config))
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        print(
            f"{name:9} {contender:28} {wall:7.2f} s  {wall / ideal:5.2f} x ideal ({ideal:.1f} s)  "
            f"{cpu / items * 1e3:6.2f} ms CPU an item",
            flush=True,
        )
    print(f"{name:9} same results: {outputs[0] == outputs[1] == outputs[2]}", flush=True)


class Server:
    """Answer like the mock provider, chats after `LATENCY`, and by tool calls where there are tools."""

    def __init__(self) -> None:
        from batchrt.testing import MockProvider

        self._mock = MockProvider()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http" or not scope["path"].endswith("/chat/completions"):
            await self._mock(scope, receive, send)
            return
        body = b""
        more = True
        while more:
            message = await receive()
            body += message.get("body", b"")
            more = message.get("more_body", False)
        await asyncio.sleep(LATENCY)
        request = json.loads(body)
        if "tools" in request and request["messages"][-1]["role"] != "tool":
            await _send(send, _tool_calls(request))
            return

        async def again() -> Any:
            return {
                "type": "http.request",
                "body": json.dumps({**request, "messages": _texts(request)}).encode(),
            }

        await self._mock(scope, again, send)


def _texts(request: Any) -> Any:
    return [
        {"role": "user", "content": message["content"]}
        for message in request["messages"]
        if isinstance(message["content"], str)
    ]


def _tool_calls(request: Any) -> Any:
    city = request["messages"][-1]["content"]
    calls = [
        {
            "id": f"call_{n}",
            "type": "function",
            "function": {"name": name, "arguments": json.dumps({"city": city})},
        }
        for n, name in enumerate(tool["function"]["name"] for tool in request["tools"])
    ]
    message = {"role": "assistant", "content": None, "tool_calls": calls}
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": request["model"],
        "choices": [{"index": 0, "message": message, "finish_reason": "tool_calls"}],
        "usage": {"prompt_tokens": 10, "completion_tokens": 10, "total_tokens": 20},
    }


async def _send(send: Any, answer: Any) -> None:
    body = json.dumps(answer).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def serve() -> None:
    """Serve on a free port until terminated, and print the port."""
    import socket

    import uvicorn

    listener = socket.create_server(("127.0.0.1", 0), backlog=2048)
    print(listener.getsockname()[1], flush=True)
    uvicorn.Server(uvicorn.Config(Server(), log_level="critical", access_log=False)).run([listener])


def main(arguments: list[str]) -> None:
    if arguments == ["serve"]:
        serve()
        return
    options = _parse(arguments)
    packages = ("langchain-core", "langchain-openai", "langchain", "langgraph", "faiss-cpu", "openai")
    print(", ".join(f"{package} {version(package)}" for package in packages), flush=True)
    command = [sys.executable, "-m", "benchmarks.studies.langchain_chains", "serve"]
    with announced(command, "the server of the chains", core=SERVER_CORE) as port:
        warnings.simplefilter("ignore")
        base_url = f"http://127.0.0.1:{port}/v1"
        asyncio.run(_measure_all(options.chains or list(CHAINS), options.items, base_url))


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.studies.langchain_chains", description=__doc__
    )
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("items", nargs="?", type=int, default=2000, metavar="ITEMS", help="%(default)s")
    parser.add_argument("chains", nargs="*", metavar="CHAIN", help=", ".join(CHAINS))
    options = parser.parse_args(arguments)
    if unknown := sorted(set(options.chains) - set(CHAINS)):
        parser.error(f"no chain {', '.join(unknown)}; there are {', '.join(CHAINS)}")
    return options


async def _measure_all(names: list[str], items: int, base_url: str) -> None:
    # One event loop for all: LangChain's models keep connections, which belong to the loop that made them.
    for name in names:
        await measure(name, items, base_url)


if __name__ == "__main__":
    main(sys.argv[1:])
