"""A durable job over a CSV file: estimate it, run it, look at what failed. Run it from the checkout, twice.

The second run sends nothing: all answers are in the journal. A run that was killed resumes in the same way.
For a real model, leave out `transport` and `base_url` and set OPENAI_API_KEY.
"""

from __future__ import annotations

import sys
from pathlib import Path

from batchrt import ChatOpenAI, ChatPromptTemplate, Job, Price, StrOutputParser
from batchrt.testing import MockProvider

TICKETS = Path(__file__).with_name("support_tickets.csv")


def main(folder: Path) -> None:
    """Write `answers.csv` and its journal in `folder`."""
    provider = MockProvider(seed=1, latency=0.05)
    model = ChatOpenAI("mock", base_url="http://mock/v1", transport=provider.transport(), max_tokens=50)
    chain = (
        ChatPromptTemplate.from_messages(
            [("system", "Answer in one sentence."), ("human", "{subject}: {body}")]
        )
        | model
        | StrOutputParser()
    )
    job = Job(
        chain,
        TICKETS,
        folder / "answers.csv",
        journal=folder / "answers.csv.journal",
        config={
            "max_concurrency": "auto",
            "prices": {"mock": Price(input=0.25, output=2.0)},  # a real model: published_prices(model)
            "max_cost": 1.0,
        },
    )
    estimate = job.estimate()
    print(f"{estimate.to_send} rows to send, at most {estimate.max_cost or 0:.4f} US dollars")
    report = job.run()
    print(report)
    for outcome in job.outcomes():
        if outcome.error is not None:
            print(f"row {outcome.index}: {outcome.error}")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path())
