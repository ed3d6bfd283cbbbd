"""Public names: the contents of `from batchrt import …` and the cost of the import."""

from __future__ import annotations

import subprocess
import sys
import types
from pathlib import Path

import pytest

import batchrt

PUBLIC = {
    "runnables": """
        AIMessagePromptTemplate FewShotChatMessagePromptTemplate FewShotPromptTemplate
        HumanMessagePromptTemplate SystemMessagePromptTemplate BaseOutputParser CommaSeparatedListOutputParser
        ConfigurableField ExampleSelector Graph ListenedRun MarkdownListOutputParser NumberedListOutputParser
        RouterRunnable RunnableConfigurableAlternatives RunnableConfigurableFields RunnableWithListeners
        ChatPromptTemplate ChatPromptValue JsonOutputParser MessagesPlaceholder PromptTemplate PromptValue
        PydanticOutputParser Runnable RunnableAssign RunnableBinding RunnableBranch RunnableConfig
        RunnableEach RunnableGenerator RunnableLambda RunnableLike RunnableMap RunnableParallel
        RunnablePassthrough RunnablePick RunnableRetry RunnableSequence RunnableWithFallbacks StrOutputParser
        StringPromptValue add_chunks chain
    """,
    "running": """
        BatchResult CacheStatistics ChunkStream ItemChunkStream Job JobEstimate JobReport Outcome
        OutcomeIterator OutputLayout ResponseCache RunConfig RunStatistics Stream estimate_job
    """,
    "quotas": """
        AbortPolicy Admitted BudgetEmpty CooledDown FailureKind LimitChanged LimitStatus ProviderDown
        ProviderUp Quota QuotaEvent QuotaStatistics Price Retried RetryBudget RetryPolicy Sent
        SharedQuotaAway SharedQuotaBack SharedQuotaStatus
    """,
    "messages": """
        AIMessage AIMessageChunk HumanMessage InvalidToolCall Message SystemMessage ToolCall ToolCallChunk
        ToolMessage Usage
    """,
    "providers": "BatchrtTransport ChatOpenAI EmbeddingBlock OpenAI OpenAIEmbeddings published_prices",
    "errors": """
        AuthenticationError BadRequestError BatchError BlockedEventLoopError ConnectionFailedError
        ContextLengthError DeadlineExceededError InputError ItemTimeoutError JournalError ListLengthError
        MalformedResponseError MissingFieldError OutageError OutputClosedError OutputError
        OutputParserError ProviderError QuotaExhaustedError RateLimitError RecordedError RecursionLimitError
        RequestTimeoutError RunStoppedError ServerError SpendingLimitError StrayCancelledError TokenizerError
    """,
}
HEAVY = [
    "httpx",
    "httptools",
    "typer",
    "rich",
    "pydantic",
    "trio",
    "openai",
    "tenacity",
    "uvicorn",
    "numpy",
    "tiktoken",
    "genai_prices",
    "sqlite3",
    "matplotlib",
    "jinja2",
]


def in_a_new_interpreter(program: str) -> str:
    root = str(Path(batchrt.__file__).parents[1])
    run = subprocess.run(
        [sys.executable, "-c", program],
        env={"PYTHONPATH": root, "PATH": ""},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return run.stdout.strip()


def test_public_names_are_exact() -> None:
    """`__all__` has these names and no others, in order."""
    names = {name for group in PUBLIC.values() for name in group.split()}
    assert set(batchrt.__all__) == names
    assert sorted(batchrt.__all__) == sorted(names)  # each once
    assert dir(batchrt) == sorted(names)


def test_public_names_exist_and_are_documented() -> None:
    """Classes and functions have docstrings."""
    for name in batchrt.__all__:
        value = getattr(batchrt, name)
        if isinstance(value, type | types.FunctionType):
            assert value.__doc__, name
            assert value.__module__.startswith("batchrt."), name


def test_public_names_have_all_errors() -> None:
    """Every error can be imported from the top."""
    assert set(batchrt.errors.__all__) <= set(batchrt.__all__)


def test_public_names_raise_attribute_error_for_others() -> None:
    """As in any module."""
    with pytest.raises(AttributeError, match="module 'batchrt' has no attribute 'Nonsense'"):
        _ = batchrt.Nonsense


def test_import_loads_no_heavy_library() -> None:
    """No HTTP client, CLI library or pydantic is loaded before its first use."""
    program = f"import sys, batchrt; print([name for name in {HEAVY} if name in sys.modules])"
    assert in_a_new_interpreter(program) == "[]"


def test_import_of_a_chain_without_a_client_loads_no_heavy_library() -> None:
    """Functions, prompts and parsers are composed and run."""
    program = (
        "import sys, batchrt as b; "
        "c = b.PromptTemplate.from_template('{x}') | (lambda v: v.to_string()) | b.JsonOutputParser(); "
        "assert c.with_retry().batch([1, 2], {'max_concurrency': 2}) == [1, 2]; "
        f"print([name for name in {HEAVY} if name in sys.modules])"
    )
    assert in_a_new_interpreter(program) == "[]"


@pytest.mark.parametrize("name", PUBLIC["providers"].split())
def test_import_of_a_client_is_lazy(name: str) -> None:
    """`from batchrt import ChatOpenAI` works, and so does the star."""
    assert in_a_new_interpreter(f"from batchrt import {name}; print({name}.__name__)") == name
    assert in_a_new_interpreter(f"from batchrt import *; print({name}.__name__)") == name
