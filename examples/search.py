"""A corpus to vectors, and a search in them, with numpy alone. Run it from the checkout.

The mock provider's vectors are the same for equal texts and unrelated for others, so this program searches
for the text of one ticket. With a real model (leave out `transport` and `base_url`, set OPENAI_API_KEY) any
question will do.
"""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import anyio
import numpy as np

from batchrt import OpenAIEmbeddings
from batchrt.testing import MockProvider

TICKETS = Path(__file__).with_name("support_tickets.csv")


async def main(index: Path) -> None:
    """Embed all tickets, keep the matrix in `index`, and print the three nearest to a query."""
    provider = MockProvider(seed=1, latency=0.05)
    embeddings = OpenAIEmbeddings(
        "text-embedding-3-small", base_url="http://mock/v1", transport=provider.transport()
    )
    with TICKETS.open(newline="", encoding="utf-8") as file:
        subjects = [row["subject"] for row in csv.DictReader(file)]

    # A file that grows block by block: a corpus may be larger than the memory.
    width = len(await embeddings.aembed_query(subjects[0]))
    matrix = np.lib.format.open_memmap(index, mode="w+", dtype=np.float32, shape=(len(subjects), width))
    async with embeddings.aembed_blocks(subjects, config={"max_concurrency": 4}) as blocks:
        async for block in blocks:
            matrix[block.start : block.start + len(block.matrix)] = block.matrix
            for place, error in block.errors.items():
                print(f"{subjects[place]!r}: {error}")

    # The vectors have length 1, so that the product is the cosine. A row of NaN is a text without a vector.
    query = np.asarray(await embeddings.aembed_query(subjects[41]), dtype=np.float32)
    scores = np.nan_to_num(matrix @ query, nan=-1.0)
    for place in np.argsort(-scores)[:3]:
        print(f"{scores[place]:.3f}  {subjects[place]}")
    print(f"{len(subjects)} texts in {provider.log.snapshot().requests} requests")


if __name__ == "__main__":
    anyio.run(main, Path(sys.argv[1]) if len(sys.argv) > 1 else Path("tickets.npy"))
