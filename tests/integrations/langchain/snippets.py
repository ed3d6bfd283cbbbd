"""Snippets as people write them with LangChain: source text, to be run against either library.

Each sets `result`. The names are those that LangChain exports; `model`, `embeddings` and `answer` are given.
"""

from __future__ import annotations

__all__ = ["BRIDGED", "UNCHANGED"]

UNCHANGED = {
    "prompt, model, parser": """
chain = ChatPromptTemplate.from_template("tell me of {topic}") | model | StrOutputParser()
result = chain.invoke({"topic": "x"})
""",
    "messages of roles": """
prompt = ChatPromptTemplate.from_messages([("system", "You are {who}."), ("human", "{q}")])
result = (prompt | model | StrOutputParser()).invoke({"who": "a poet", "q": "x"})
""",
    "text prompt": """
result = PromptTemplate.from_template("say {x}").invoke({"x": 1}).to_string()
""",
    "prompt with input_variables": """
result = PromptTemplate(template="say {x}", input_variables=["x"]).format(x=1)
""",
    "history in a placeholder": """
prompt = ChatPromptTemplate.from_messages([MessagesPlaceholder("history"), ("human", "{q}")])
filled = prompt.invoke({"history": [HumanMessage("a"), AIMessage("b")], "q": "c"})
result = [(message.type, message.content) for message in filled.to_messages()]
""",
    "placeholder pair": """
prompt = ChatPromptTemplate.from_messages([("placeholder", "{history}"), ("human", "{q}")])
result = len(prompt.invoke({"q": "c"}).to_messages())
""",
    "partial": """
result = ChatPromptTemplate.from_template("{a} {b}").partial(a="1").invoke({"b": "2"}).to_string()
""",
    "message prompt templates": """
prompt = ChatPromptTemplate.from_messages(
    [SystemMessagePromptTemplate.from_template("{s}"), HumanMessagePromptTemplate.from_template("{h}")]
)
result = prompt.invoke({"s": "1", "h": "2"}).to_string()
""",
    "few-shot text": """
example = PromptTemplate.from_template("{q}: {a}")
shots = FewShotPromptTemplate(
    examples=[{"q": "1", "a": "2"}], example_prompt=example, suffix="{q}:", input_variables=["q"]
)
result = shots.invoke({"q": "3"}).to_string()
""",
    "few-shot chat": """
example = ChatPromptTemplate.from_messages([("human", "{q}"), ("ai", "{a}")])
shots = FewShotChatMessagePromptTemplate(example_prompt=example, examples=[{"q": "1", "a": "2"}])
prompt = ChatPromptTemplate.from_messages([("system", "s"), shots, ("human", "{q}")])
result = prompt.invoke({"q": "3"}).to_string()
""",
    "messages as the input": """
result = model.invoke([SystemMessage("s"), HumanMessage("h")]).content
""",
    "dict in front of a prompt": """
prompt = PromptTemplate.from_template("{context} {q}")
chain = {"context": lambda q: q.upper(), "q": RunnablePassthrough()} | prompt
result = chain.invoke("x").to_string()
""",
    "parallel": """
result = RunnableParallel(a=lambda x: x + 1, b=lambda x: x * 2).invoke(3)
""",
    "assign": """
result = RunnablePassthrough.assign(n=lambda row: len(row["q"])).invoke({"q": "abc"})
""",
    "itemgetter": """
result = ({"q": itemgetter("q")} | PromptTemplate.from_template("{q}")).invoke({"q": "x"}).to_string()
""",
    "RunnableLambda": """
result = RunnableLambda(lambda x: x + 1).invoke(1)
""",
    "function behind a pipe": """
def length(message):
    return len(message.content)

result = (model | length).invoke("x")
""",
    "async function": """
async def shout(text):
    return text.upper()

result = asyncio.run((RunnableLambda(shout) | (lambda t: t + "!")).ainvoke("a"))
""",
    "@chain": """
@chain
def ask(topic):
    return (PromptTemplate.from_template("{t}") | model | StrOutputParser()).invoke({"t": topic})

result = ask.invoke("x")
""",
    "RunnableBranch": """
branch = RunnableBranch((lambda x: x > 1, lambda x: "big"), (lambda x: x == 1, lambda x: "1"), lambda x: "0")
result = branch.batch([0, 1, 2])
""",
    "function that routes": """
route = RunnableLambda(lambda row: RunnableLambda(str.upper) if row == "a" else RunnableLambda(str.title))
result = route.batch(["a", "bc"])
""",
    "with_retry": """
seen = []

def flaky(x):
    seen.append(x)
    if len(seen) < 3:
        raise ValueError
    return x

result = RunnableLambda(flaky).with_retry(stop_after_attempt=3, wait_exponential_jitter=False).invoke(1)
""",
    "with_fallbacks": """
def fail(x):
    raise ValueError

result = RunnableLambda(fail).with_fallbacks([RunnableLambda(lambda x: x + 1)]).invoke(1)
""",
    "fallback that sees the error": """
def fail(row):
    raise ValueError("no")

second = RunnableLambda(lambda row: type(row["error"]).__name__)
result = RunnableLambda(fail).with_fallbacks([second], exception_key="error").invoke({"x": 1})
""",
    "bind": """
result = model.bind(stop=["END"]).invoke("x").content
""",
    "bind_tools": """
def weather(city: str) -> str:
    "Return the weather."
    return city

result = model.bind_tools([weather]).invoke("x").tool_calls
""",
    "structured output of a model class": """
class Point(BaseModel):
    x: int
    y: int

result = type(model.with_structured_output(Point).invoke("x")).__name__
""",
    "structured output of a schema": """
schema = {
    "title": "Point",
    "description": "A point.",
    "type": "object",
    "properties": {"x": {"type": "integer"}},
    "required": ["x"],
}
result = sorted(model.with_structured_output(schema).invoke("x"))
""",
    "pydantic parser": """
class Point(BaseModel):
    x: int

result = PydanticOutputParser(pydantic_object=Point).parse('{"x": 1}').x
""",
    "json parser": """
result = (RunnableLambda(lambda x: x) | JsonOutputParser()).invoke('{"a": [1]}')
""",
    "list parser": """
result = CommaSeparatedListOutputParser().invoke("a, b")
""",
    "batch": """
result = (model | StrOutputParser()).batch(["a", "b"])
""",
    "batch with a cap": """
result = (model | StrOutputParser()).batch(["a", "b"], config={"max_concurrency": 1})
""",
    "batch with exceptions": """
def check(x):
    if x == 2:
        raise ValueError
    return x

outputs = RunnableLambda(check).batch([1, 2], return_exceptions=True)
result = [outputs[0], type(outputs[1]).__name__]
""",
    "batch_as_completed": """
result = sorted(RunnableLambda(lambda x: x + 1).batch_as_completed([1, 2]))
""",
    "stream": """
result = "".join((model | StrOutputParser()).stream("x"))
""",
    "astream": """
async def read():
    return [chunk async for chunk in (model | StrOutputParser()).astream("x")]

result = "".join(asyncio.run(read()))
""",
    "generator in a chain": """
def shout(texts):
    for text in texts:
        yield text.upper()

result = "".join((model | StrOutputParser() | shout).stream("x"))
""",
    "map": """
result = RunnableLambda(lambda x: x + 1).map().invoke([1, 2])
""",
    "pick": """
result = RunnableParallel(a=lambda x: x, b=lambda x: x + 1).pick("b").invoke(1)
""",
    "config in a function": """
def tagged(text, config):
    return text + config["configurable"]["user"] + config["tags"][0]

result = RunnableLambda(tagged).with_config(tags=["t"]).invoke("a", config={"configurable": {"user": "u"}})
""",
    "configurable_alternatives": """
one = RunnableLambda(lambda x: x + 1)
how = ConfigurableField(id="how")
both = RunnablePassthrough().configurable_alternatives(how, default_key="same", more=one)
result = [both.invoke(1), both.with_config(configurable={"how": "more"}).invoke(1)]
""",
    "embeddings": """
vectors = embeddings.embed_documents(["a", "b"])
result = [len(vectors), len(vectors[0]), embeddings.embed_query("a") == vectors[0]]
""",
}

BRIDGED = {
    "callbacks": """
class Handler(BaseCallbackHandler):
    names = []

    def on_chain_start(self, serialized, inputs, **kwargs):
        self.names.append(kwargs["name"])

handler = Handler()
chain = bridge(PromptTemplate.from_template("{q}") | model | StrOutputParser())
chain.invoke({"q": "x"}, config={"callbacks": [handler]})
result = handler.names
""",
    "retriever over a vector store": """
store = InMemoryVectorStore.from_texts(["cats purr", "dogs bark"], embeddings)
chain = {"context": store.as_retriever(search_kwargs={"k": 1}), "q": RunnablePassthrough()}
chain = bridge(chain | RunnableLambda(lambda row: row["context"][0].page_content))
result = chain.invoke("cats purr")
""",
    "tool as a step": """
@tool
def double(n: int) -> int:
    "Double a number."
    return 2 * n

result = bridge(RunnableLambda(lambda n: {"n": n}) | double).invoke(4)
""",
    "rate limiter": """
limited = type(model)(
    model="gpt-5-mini", base_url=model.openai_api_base, api_key="k", rate_limiter=InMemoryRateLimiter()
)
result = bridge(limited | StrOutputParser()).invoke("x")
""",
}
