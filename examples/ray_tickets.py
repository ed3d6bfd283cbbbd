"""Map a dataset of Ray Data with a chain; needs batchrt[ray] and the workers' own OPENAI_API_KEY."""

import ray

from batchrt import ChatOpenAI, ChatPromptTemplate, StrOutputParser
from batchrt.integrations.ray import map_dataset

chain = (
    ChatPromptTemplate.from_template("Which product is this ticket about?\n\n{body}")
    | ChatOpenAI("gpt-5-mini", requests_per_minute=5000)
    | StrOutputParser()
)

tickets = ray.data.read_csv("examples/support_tickets.csv")
answers = map_dataset(
    tickets, chain, output_columns="product", concurrency=4, config={"max_concurrency": 200}
)
answers.write_parquet("answers/")
