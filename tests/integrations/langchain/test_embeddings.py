"""BatchOpenAIEmbeddings: for vector stores and retrievers, in LangChain's runs and ours."""

from __future__ import annotations

from typing import Any

import pytest
from langchain_core.documents import Document
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import RunnablePassthrough
from langchain_core.vectorstores import InMemoryVectorStore
from langchain_openai import OpenAIEmbeddings
from pydantic import SecretStr

import batchrt
from batchrt.integrations.langchain import BatchChatOpenAI, BatchOpenAIEmbeddings, from_langchain
from batchrt.testing import MockServer

pytestmark = pytest.mark.anyio

MODEL = "text-embedding-3-small"
FACTS = [f"Fact {n} about topic {n % 5}." for n in range(30)]


def ours(server: MockServer, **options: Any) -> BatchOpenAIEmbeddings:
    return BatchOpenAIEmbeddings(MODEL, base_url=server.base_url, api_key="k", **options)


async def test_embeddings_are_langchains(server: MockServer, their_http: Any) -> None:
    """The same vectors, from async and sync code, in fewer bytes."""
    theirs: Any = OpenAIEmbeddings(
        model=MODEL,
        base_url=server.base_url,
        api_key=SecretStr("k"),
        check_embedding_ctx_length=False,
        http_async_client=their_http,
    )
    expected = await theirs.aembed_documents(FACTS)
    model = ours(server)
    assert await model.aembed_documents(FACTS) == expected
    assert await model.aembed_query(FACTS[0]) == expected[0]
    assert await BatchOpenAIEmbeddings(model.model).aembed_documents([]) == []
    with pytest.raises(TypeError, match="give the options to the model"):
        BatchOpenAIEmbeddings(model.model, dimensions=3)


def test_embeddings_answer_sync_code(server: MockServer) -> None:
    """As vector stores call them while they are filled."""
    model = ours(server)
    assert model.embed_documents(FACTS[:2]) == [model.embed_query(text) for text in FACTS[:2]]


async def test_embeddings_of_concurrent_queries_share_requests(server: MockServer) -> None:
    """A retriever asks for one query at a time; `share_lists` puts those of a run together."""
    store = await InMemoryVectorStore.afrom_texts(FACTS, ours(server, share_lists=True))
    sent = server.provider.log.snapshot().requests
    outputs = await from_langchain(store.as_retriever(search_kwargs={"k": 1})).abatch(
        FACTS, {"max_concurrency": 30}
    )
    assert [documents[0].page_content for documents in outputs] == FACTS
    assert server.provider.log.snapshot().requests - sent <= 10


async def test_embeddings_serve_a_retrieval_chain(server: MockServer) -> None:
    """Retrieval, prompt, model and parser: the same answers by LangChain's runtime and ours."""
    store = await InMemoryVectorStore.afrom_documents(
        [Document(page_content=fact, metadata={"n": n}) for n, fact in enumerate(FACTS)], ours(server)
    )
    prompt = ChatPromptTemplate.from_template("By {context}: {question}")
    model = BatchChatOpenAI(model="gpt-5-mini", base_url=server.base_url, api_key=SecretStr("k"))

    def joined(documents: list[Document]) -> str:
        return "\n".join(document.page_content for document in documents)

    chain: Any = (
        {"context": store.as_retriever(search_kwargs={"k": 2}) | joined, "question": RunnablePassthrough()}
        | prompt
        | model
        | StrOutputParser()
    )
    questions = [f"What of topic {n}?" for n in range(6)]
    expected = await chain.abatch(questions)
    for native in (False, True):
        result = await from_langchain(chain, native=native).arun(questions, {"max_concurrency": 3})
        assert result.outputs == expected
        assert result.usage is not None


@pytest.mark.filterwarnings("ignore")
async def test_embeddings_serve_faiss(server: MockServer) -> None:
    """A vector store that is sync inside: its searches run in the run's threads."""
    pytest.importorskip("faiss", reason="needs faiss-cpu")
    stores = pytest.importorskip("langchain_community.vectorstores", reason="needs langchain-community")
    store = await stores.FAISS.afrom_texts(FACTS, ours(server, share_lists=True))
    retriever = store.as_retriever(search_kwargs={"k": 1})
    outputs = await from_langchain(retriever).abatch(FACTS, {"max_concurrency": 10})
    assert [documents[0].page_content for documents in outputs] == FACTS
    assert isinstance(from_langchain(retriever), batchrt.Runnable)
