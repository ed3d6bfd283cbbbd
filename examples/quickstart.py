"""Triage support tickets with the built-in mock provider: no key, no server. Run it from the checkout.

For a real model, leave out `transport` and `base_url` and set OPENAI_API_KEY.
"""

from __future__ import annotations

import csv
from pathlib import Path

import anyio

from batchrt import ChatOpenAI, ChatPromptTemplate, RunnableParallel, StrOutputParser
from batchrt.testing import MockProvider

TICKETS = Path(__file__).with_name("support_tickets.csv")


async def main() -> None:
    """Run a chain of two branches over all tickets and print a summary."""
    provider = MockProvider(seed=1, latency=0.05)
    model = ChatOpenAI("mock", base_url="http://mock/v1", transport=provider.transport())

    category = ChatPromptTemplate.from_template("Name the category of: {subject}: {body}")
    reply = ChatPromptTemplate.from_messages(
        [("system", "Answer in one friendly sentence."), ("human", "{subject}: {body}")]
    )
    chain = RunnableParallel(
        category=category | model | StrOutputParser(),
        reply=reply | model | StrOutputParser(),
    )

    with TICKETS.open(newline="", encoding="utf-8") as file:
        result = await chain.arun(csv.DictReader(file), config={"max_concurrency": 50})

    for outcome in result[:3]:
        print(outcome.index, outcome.output, f"{outcome.seconds:.2f} s")
    print(result.summary())
    print("most requests in flight:", provider.log.snapshot().peak_in_flight)


if __name__ == "__main__":
    anyio.run(main)
