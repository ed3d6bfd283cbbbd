"""Two models side by side: agreement, time, tokens and cost. Run it from the checkout.

Both branches of a row run at the same time, under one cap; each model has a quota of its own. The mock
provider answers for both; for real models, leave out `transport` and `base_url`, set OPENAI_API_KEY, and
take the prices from `published_prices(small, large)`.
"""

from __future__ import annotations

import csv
from collections import Counter
from pathlib import Path
from typing import Literal

import anyio
from pydantic import BaseModel

from batchrt import ChatOpenAI, ChatPromptTemplate, Price, RunnableParallel
from batchrt.testing import MockProvider

TICKETS = Path(__file__).with_name("support_tickets.csv")
PRICES = {"small": Price(input=0.25, output=2.0), "large": Price(input=1.25, output=10.0)}


class Triage(BaseModel):
    """The answer that both models are asked for."""

    category: Literal["billing", "defect", "question"]
    urgent: bool


async def main() -> None:
    """Ask both models about each ticket and print what they cost and where they differ."""
    provider = MockProvider(seed=1, latency=0.05)
    options = {"base_url": "http://mock/v1", "transport": provider.transport()}
    small, large = ChatOpenAI("small", **options), ChatOpenAI("large", **options)
    prompt = ChatPromptTemplate.from_template("Triage this ticket: {subject}: {body}")
    chain = prompt | RunnableParallel(
        small=small.with_structured_output(Triage),
        large=large.with_structured_output(Triage),
    )
    with TICKETS.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    result = await chain.arun(rows, config={"max_concurrency": 50, "prices": PRICES})

    answers = [outcome.output for outcome in result if outcome.output is not None]
    for name, usage in result.usage_by_model.items():
        categories = Counter(answer[name].category for answer in answers)
        cost = PRICES[name].of_usage(usage)
        print(f"{name}: {usage.input_tokens:,} tokens in, {usage.output_tokens:,} out, {cost:.4f} US dollars")
        print(f"  {dict(categories)}")
    agreed = sum(answer["small"] == answer["large"] for answer in answers)
    print(f"the models agree on {agreed} of {len(answers)} tickets; {len(result.errors)} rows failed")
    print(result.summary())


if __name__ == "__main__":
    anyio.run(main)
