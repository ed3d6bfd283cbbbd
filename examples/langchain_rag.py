"""LangChain's retrieval chain, run by this runtime: `pip install '.[langchain]'`. Run it from the checkout.

The chain is LangChain's, unchanged: vector store, retriever, prompt, model, parser. `from_langchain` takes
it apart, so that the cap holds over all its calls, no question waits for another, and a 429 pauses all of
them. The embeddings are ours in LangChain's interface, so that the queries of concurrent questions share
requests.

The mock provider answers; for a real model, leave out `base_url` and `api_key` and set OPENAI_API_KEY.
"""

from __future__ import annotations

import csv
from pathlib import Path

import anyio
from langchain_core.documents import Document
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import RunnablePassthrough
from langchain_core.vectorstores import InMemoryVectorStore
from langchain_openai import ChatOpenAI

from batchrt.integrations.langchain import BatchOpenAIEmbeddings, from_langchain
from batchrt.testing import MockProvider

TICKETS = Path(__file__).with_name("support_tickets.csv")


def text_of(documents: list[Document]) -> str:
    """Join the documents that were found."""
    return "\n".join(document.page_content for document in documents)


async def main() -> None:
    """Put the tickets into a vector store and answer 40 questions about them."""
    with MockProvider(seed=1, latency=0.05, dimensions=64).serve() as server:
        embeddings = BatchOpenAIEmbeddings(
            "text-embedding-3-small", base_url=server.base_url, api_key="any", share_lists=True
        )
        store = InMemoryVectorStore(embeddings)
        with TICKETS.open(newline="", encoding="utf-8") as file:
            subjects = [row["subject"] for row in csv.DictReader(file)]
        await store.aadd_texts(subjects)

        prompt = ChatPromptTemplate.from_template("Answer from this:\n{context}\n\nQuestion: {question}")
        model = ChatOpenAI(model="mock", base_url=server.base_url, api_key="any")
        rag = (
            {"context": store.as_retriever() | text_of, "question": RunnablePassthrough()}
            | prompt
            | model
            | StrOutputParser()
        )

        questions = [f"What do customers say about {subject!r}?" for subject in subjects[:40]]
        result = await from_langchain(rag, native=True).arun(questions, config={"max_concurrency": 10})
        print(result.summary())
        log = server.provider.log.snapshot()
        print(f"{log.requests} requests, at most {log.peak_in_flight} in flight")


if __name__ == "__main__":
    anyio.run(main)
